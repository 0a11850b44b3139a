"""Moderate-DS (Xia et al., 2023): samples neither close to the centre of their class nor far from it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import Array, blocks, check_choice, check_features, groups, mean_of_rows, median_of_rows
from .selector import SCOPES, Selector, as_originals, distinct

CENTRES = ("median", "mean")
BANDS = ("center", "nearest", "farthest")


@dataclass(frozen=True, kw_only=True)
class Moderate(Selector):
    """Keeps the samples at a medium distance from the centre of their class (:func:`moderate_distances`).

    Attributes:
        centre: "median" (coordinate by coordinate, the reference code) or "mean" (the paper's wording).
        band: Which of the sorted distances are kept: "center", "nearest" or "farthest".
    """

    centre: str = "median"
    band: str = "center"
    scope: ClassVar[str] = "global"
    meaning: ClassVar[str] = (
        "The score is the distance of an image to the centre of its class, in the features. By default the "
        "images of middling distance are kept: neither the most typical ones nor the outliers."
    )

    def __post_init__(self) -> None:
        check_choice("centre", self.centre, CENTRES)
        check_choice("band", self.band, BANDS)

    def scores(self, features: Array, labels: Array, scope: str, originals: Array) -> Array:
        """Distance of each sample to the centre of its class, whatever the scope: float64 [n]."""
        return moderate_distances(features, labels, centre=self.centre, originals=originals)

    def count(self, n: int, ratio: float, scope: str) -> int:
        """Number of samples in the band."""
        low, high = band_ends(n, ratio, scope)
        return high - low

    def order(self, scores: Array, ratio: float, scope: str) -> tuple[Array, int]:
        """Positions in the order of keeping, and how many are kept: see :func:`moderate_order`."""
        return moderate_order(scores, ratio, scope, self.band)


def moderate_distances(
    features: Array, labels: Array, *, centre: str = "median", originals: Array | None = None
) -> Array:
    """Euclidean distance of each sample to the centre of its class.

    Args:
        features: float [n, d]; a memory-mapped array is read in parts.
        labels: int [n], 0..K-1.
        centre: "median" (coordinate by coordinate, the reference code) or "mean" (the paper's wording).
        originals: int [n], position of the sample that each is an exact copy of, or its own; None for no
            copies.  The centre is that of the distinct samples, and a copy has the distance of its original.

    Returns:
        float64 [n].

    Raises:
        DedtError: The centre is unknown, features are not finite, or lengths differ.
    """
    features, labels = check_features(features, labels)
    check_choice("centre", centre, CENTRES)
    distances, originals = np.empty(len(features)), as_originals(originals, labels)
    for members in groups(labels, "class"):
        members = distinct(members, originals)
        middle = (median_of_rows if centre == "median" else mean_of_rows)(features, members)
        for rows in blocks(members):
            distances[rows] = np.linalg.norm(features[rows] - middle, axis=1)
    return distances[originals]


def moderate_order(distances: Array, ratio: float, scope: str, band: str = "center") -> tuple[Array, int]:
    """Order in which Moderate-DS keeps the samples, and how many it keeps.

    The band is the central quantile range [1/2 - R/2, 1/2 + R/2] of the sorted distances: the samples
    whose distance is nearest to the median distance, not those nearest to the centre.

    Args:
        distances: float [n].
        ratio: R, the share to keep.
        scope: "class" or "global" (see :func:`band_ends`).
        band: "center"; or "nearest" or "farthest" for as many samples from that end.

    Returns:
        Positions int64 [n], the first to be kept first, and the count.
    """
    check_choice("band", band, BANDS)
    check_choice("scope", scope, SCOPES)
    low, high = band_ends(len(distances), ratio, scope)
    ascending, count = np.argsort(distances, kind="stable"), high - low
    if band == "nearest":
        return ascending, count
    if band == "farthest":
        return np.argsort(-np.asarray(distances), kind="stable"), count
    middle_first = np.argsort(np.abs(np.arange(count) - (count - 1) / 2), kind="stable")
    outside = np.concatenate([ascending[:low][::-1], ascending[high:]])
    steps_away = np.concatenate([np.arange(low), np.arange(len(distances) - high)])
    nearest_first = np.argsort(steps_away, kind="stable")
    return np.concatenate([ascending[low:high][middle_first], outside[nearest_first]]), count


def band_ends(n: int, ratio: float, scope: str) -> tuple[int, int]:
    """Start and end of the central band in n sorted distances.

    In the scope "global" the two ends are rounded separately, as in the cited code, so the band may hold one
    sample more or less than round(R n).  In the scope "class" it holds exactly round(R n).
    """
    if scope == "global":
        return round(n * (0.5 - ratio / 2)), round(n * (0.5 + ratio / 2))
    low = (n - round(ratio * n)) // 2
    return low, low + round(ratio * n)
