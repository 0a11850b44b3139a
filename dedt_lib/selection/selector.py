"""Base class of the selectors, and their treatment of exact copies."""

import inspect
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ..arrays import Array
from ..errors import DedtError

SCOPES = ("class", "global")
"""Which samples are ranked together: those of a class, or all."""


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A method of choosing a coreset: it scores all samples and sorts the samples of each group.

    A subclass is one published method, and its fields are the method's options; a method that draws at random
    has a ``seed``.  It implements :meth:`scores`.  The highest scores are kept first, unless the subclass
    overrides :meth:`order` and :meth:`count`.

    Attributes:
        scope: Scope in the cited code: "class" (each class is a group) or "global" (all samples are one).
        fewest: Smallest number of samples in a group.
        meaning: A sentence on what its scores are and which are kept, for the report.
        needs_features: Whether the method uses features; if so, exact copies are kept last.
        version: Raised by one with each change of the code that changes the choice, so that stored coresets
            of the older code are no longer found.
    """

    scope: ClassVar[str] = "class"
    fewest: ClassVar[int] = 1
    meaning: ClassVar[str] = "The images with the highest scores of the method are kept."
    needs_features: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def scores(self, features: Array, labels: Array, scope: str, originals: Array) -> Array:
        """The score of each sample.

        Args:
            features: float [n, d]; None for a method that needs none.
            labels: int64 [n], 0..K-1.
            scope: "class" or "global".
            originals: int64 [n], position of the sample that each is an exact copy of, or its own.

        Returns:
            float64 [n].
        """
        raise NotImplementedError

    def count(self, n: int, ratio: float, scope: str) -> int:
        """Number of samples kept from a group of n, known before they have scores."""
        return round(ratio * n)

    def order(self, scores: Array, ratio: float, scope: str) -> tuple[Array, int]:
        """Order in which the samples of a group are kept, and how many are kept.

        Args:
            scores: float64 [n] of the samples of the group.
            ratio: Share to keep, in (0, 1].
            scope: "class" or "global".

        Returns:
            Positions int64 [n], the first to be kept first, and the count.
        """
        return np.argsort(-scores, kind="stable"), self.count(len(scores), ratio, scope)


TAKEN = {"method", "ratio", "scope", "features", "labels", "originals", "ids", "class_names"}
"""Arguments of :func:`~dedt_lib.selection.select`, whose names no option can have."""


def options_of(method: type[Selector]) -> dict[str, Any]:
    """The options of a method, name -> default.

    Raises:
        DedtError: it is no subclass of Selector, or has an option that is no field, has no default, or has a
            name in TAKEN.
    """
    if not (isinstance(method, type) and issubclass(method, Selector)):
        raise DedtError(
            f"The method {method!r} must be a subclass of Selector: enter the class itself in the registry, and "
            "for other options a subclass with other defaults."
        )
    found = {field.name: field.default for field in fields(method)}
    if clash := sorted(TAKEN & found.keys()):
        raise DedtError(
            f"Rename the option {clash[0]} of {method.__name__}: select() has an argument of this name."
        )
    hints = {name: str(kind) for name, kind in inspect.get_annotations(method).items()}
    bare = [name for name, kind in hints.items() if name not in found and "ClassVar" not in kind]
    if bare or MISSING in found.values():
        raise DedtError(
            f"{method.__name__} must be decorated with @dataclass(frozen=True, kw_only=True), and each of its "
            "options needs a default: the options decide which coresets are the same."
        )
    return found


def as_originals(originals: Array | None, labels: Array) -> Array:
    """``originals`` as int64 [n], or no copies for None; raises DedtError for an invalid array."""
    count = len(labels)
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
            f"originals must be int [{count}]: for each sample the position of its original, or its own if "
            "it is not a copy."
        )
    if (labels[originals] != labels).any():
        raise DedtError(
            "originals must lie in the class of their copies: give LabelledImages.originals, not .copies."
        )
    return originals.astype(np.int64)


def distinct(members: Array, originals: Array) -> Array:
    """The positions in ``members`` that are not copies."""
    return members[originals[members] == members]
