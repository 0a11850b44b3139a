"""Instance selection by a Gaussian (DeVries et al., 2020; paper, Section III-B)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import Array, blocks, check_choice, check_features, groups, mean_and_scatter, mean_of_rows
from ..errors import DedtError
from .selector import SCOPES, Selector, as_originals, distinct

THRESHOLDS = ("count", "percentile")


@dataclass(frozen=True, kw_only=True)
class Gaussian(Selector):
    """Keeps the samples of the highest density, by :func:`gaussian_scores`.

    Attributes:
        ridge: Value added to the diagonal of the covariance.
        threshold: "count" keeps round(ratio * n) samples, "percentile" those strictly above the percentile,
            as in the cited code.  Without ties the two differ only if ratio * n is not an integer.
    """

    ridge: float = 1e-5
    threshold: str = "count"
    fewest: ClassVar[int] = 2
    meaning: ClassVar[str] = (
        "The score is the log-density of an image under a Gaussian of its class, in the features. The images "
        "of the highest density are kept, which are the most typical ones."
    )

    def __post_init__(self) -> None:
        check_choice("threshold", self.threshold, THRESHOLDS)
        if not 0 <= self.ridge < np.inf:
            raise DedtError(f"The ridge is a number from 0 on; got {self.ridge}.")

    def scores(self, features: Array, labels: Array, scope: str, originals: Array) -> Array:
        """Log-densities: float64 [n]."""
        return gaussian_scores(features, labels, scope=scope, ridge=self.ridge, originals=originals)

    def count(self, n: int, ratio: float, scope: str) -> int:
        """Number of samples kept from a group of n; with "percentile" fewer where scores tie at the cutoff."""
        if self.threshold == "count" or ratio == 1:
            return super().count(n, ratio, scope)
        return _above_percentile(np.arange(n), ratio)

    def order(self, scores: Array, ratio: float, scope: str) -> tuple[Array, int]:
        """Positions by decreasing density, and how many are kept."""
        order, count = super().order(scores, ratio, scope)
        if self.threshold == "percentile" and ratio < 1:
            count = _above_percentile(scores, ratio)
        return order, count


def _above_percentile(scores, ratio):
    """Number of scores strictly above their percentile 100 (1 - R)."""
    return int((scores > np.percentile(scores, 100 * (1 - ratio))).sum()) if len(scores) else 0


def gaussian_scores(
    features: Array,
    labels: Array,
    *,
    scope: str = "class",
    ridge: float = 1e-5,
    originals: Array | None = None,
) -> Array:
    """Log-density of each sample under a Gaussian fitted to its class; the highest are kept first.

    ``S(z) = -1/2 [ (z - mu)^T Sigma^-1 (z - mu) + ln |Sigma| + d ln 2 pi ]`` (paper, Section III-B), with
    Sigma the maximum-likelihood covariance plus ``ridge`` times the identity, as in DeVries et al. (2020).

    Args:
        features: float [n, d]; a memory-mapped array is read a few thousand rows at a time.
        labels: int [n], 0..K-1.
        scope: "class", or "global" for one Gaussian of all samples.
        ridge: Value added to the diagonal of the covariance.
        originals: int [n], position of the sample that each is an exact copy of, or its own; None for no
            copies.  The fit uses each distinct sample once, and a copy has the score of its original.

    Returns:
        float64 [n], computed in float64 because with fewer samples than dimensions the ranking depends on
        the ridge alone.

    Raises:
        DedtError: Features are not finite, lengths differ, a class has a single image, or a covariance is
            singular because the ridge is zero or too small.
    """
    features, labels = check_features(features, labels)
    check_choice("scope", scope, SCOPES)
    scores, originals = np.empty(len(features)), as_originals(originals, labels)
    for members in groups(labels, scope):
        members = distinct(members, originals)
        if len(members) < 2:
            raise DedtError(
                f"Class {labels[members[0]]} has a single image, not counting exact copies, but a Gaussian "
                "needs at least two. Add images, drop the class, or use scope='global'."
            )
        scores[members] = _log_density(features, members, ridge)
    return scores[originals]


def _log_density(features: Array, members: Array, ridge: float) -> Array:
    """Log-density S(z) of the rows ``members``, from a d x d or an n x n matrix, whichever is smaller."""
    n, d = len(members), features.shape[1]
    solve = _mahalanobis_few_samples if n <= d else _mahalanobis
    squared, log_determinant = solve(features, members, ridge)
    return -0.5 * (squared + log_determinant + d * np.log(2 * np.pi))


def _mahalanobis(features: Array, members: Array, ridge: float) -> tuple[Array, float]:
    """(z - mu)^T Sigma^-1 (z - mu) [n] and ln |Sigma|, the former as |L^-1 (z - mu)|^2 with Sigma = L L^T."""
    from scipy.linalg import solve_triangular

    mean, covariance = mean_and_scatter(features, members)
    covariance /= len(members)
    factor, log_determinant = _cholesky(covariance, ridge)
    squared = []
    for rows in blocks(members):
        centred = (features[rows] - mean).T
        white = solve_triangular(factor, centred, lower=True, overwrite_b=True, check_finite=False)
        squared.append(np.einsum("ij,ij->j", white, white))
    return np.concatenate(squared), log_determinant


def _mahalanobis_few_samples(features: Array, members: Array, ridge: float) -> tuple[Array, float]:
    """The same from an n x n matrix, which is the smaller one when n <= d.

    With the centred rows Z and G = Z Z^T / n + 1 1^T / n + ridge I, the Woodbury identity gives
    diag(Z Sigma^-1 Z^T) = n - 1 - ridge (n diag(G^-1) - 1 / (1 + ridge)) and
    ln |Sigma| = ln |G| + (d - n + 1) ln ridge - ln (1 + ridge).
    """
    from scipy.linalg import solve_triangular

    n, d = len(members), features.shape[1]
    if ridge <= 0:
        raise _singular(f"{n} samples in {d} dimensions", ridge)
    centred = features[members] - mean_of_rows(features, members)
    # Centred rows sum to zero, so Z Z^T alone has an eigenvalue zero.  1 1^T raises that one and no other, so
    # only the small terms that decide the ranking remain, without the rounding error of a large one.
    factor, log_determinant = _cholesky(centred @ centred.T / n + 1 / n, ridge)
    inverse = solve_triangular(factor, np.eye(n), lower=True, overwrite_b=True, check_finite=False)
    squared = n - 1 - ridge * (n * np.square(inverse).sum(axis=0) - 1 / (1 + ridge))
    return squared, log_determinant + (d - n + 1) * np.log(ridge) - np.log1p(ridge)


def _cholesky(matrix: Array, ridge: float) -> tuple[Array, float]:
    """Lower factor and log-determinant of matrix + ridge I; only the lower triangle is read."""
    from scipy.linalg import LinAlgError, cholesky

    matrix[np.diag_indices(len(matrix))] += ridge
    try:
        factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError as error:
        raise _singular(error, ridge) from error
    return factor, 2 * np.log(np.diag(factor)).sum()


def _singular(reason: object, ridge: float) -> DedtError:
    return DedtError(f"The covariance is singular ({reason}). Raise the ridge, now {ridge}.")
