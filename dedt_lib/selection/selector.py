"""What a selector is, and how it treats exact copies."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import Array
from ..errors import DedtError


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A way to choose a coreset: it scores all samples, and puts those of a group into an order.

    A subclass is one published method, and its fields are the method's options; one that draws has a
    ``seed``.  It says :meth:`scores`.  The highest are kept first, unless it has an :meth:`order` and a
    :meth:`count` of its own.

    Attributes:
        scope: what the cited code does, "class" (each class is a group) or "global" (all samples are one).
        fewest: samples that each group must have.
        needs_features: whether the method looks at the samples; one that does keeps exact copies last.
    """

    scope: ClassVar[str] = "class"
    fewest: ClassVar[int] = 1
    needs_features: ClassVar[bool] = True

    def scores(self, features: Array, labels: Array, scope: str, originals: Array) -> Array:
        """The score of each sample.

        Args:
            features: float [n, d]; None for a method that needs none.
            labels: int64 [n], 0..K-1.
            scope: "class" or "global".
            originals: int64 [n], of which sample each is an exact copy, its own number if of none.

        Returns:
            float64 [n].
        """
        raise NotImplementedError

    def count(self, n: int, ratio: float, scope: str) -> int:
        """How many samples of a group of n are kept at a ratio, known before they have scores."""
        return round(ratio * n)

    def order(self, scores: Array, ratio: float, scope: str) -> tuple[Array, int]:
        """The order in which the samples of a group are kept, and how many are.

        Args:
            scores: float64 [n] of the samples of the group.
            ratio: share to keep, in (0, 1].
            scope: "class" or "global".

        Returns:
            Positions int64 [n], the first to be kept first, and the count.
        """
        return np.argsort(-scores, kind="stable"), self.count(len(scores), ratio, scope)


def as_originals(originals: Array | None, count: int) -> Array:
    """``originals`` as int64 [count], everything its own for None; raises DedtError for another array."""
    if originals is None:
        return np.arange(count)
    originals = np.asarray(originals)
    numbers = originals.shape == (count,) and np.issubdtype(originals.dtype, np.integer)
    if (
        not numbers
        or not np.isin(originals, np.arange(count)).all()
        or (originals[originals] != originals).any()
    ):
        raise DedtError(
            f"originals must be int [{count}]: the number of each sample's original, its own if it is no "
            "copy."
        )
    return originals.astype(np.int64)


def distinct(members: Array, originals: Array) -> Array:
    """Those of the positions ``members`` that are no copies."""
    return members[originals[members] == members]
