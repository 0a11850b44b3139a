"""Statistics over seeds, and a subset of images that represents all."""

import numpy as np

from ..arrays import Array
from ..errors import DedtError
from ..randomness import numpy_generator


def paired_interval(ours: Array, theirs: Array, *, level: float = 0.95) -> tuple[float, float, float]:
    """Student's t interval of the mean difference between two methods that were run with the same seeds.

    mean(d) -+ t sd(d) / sqrt(n) with d = ours - theirs and t the quantile for n - 1 degrees of freedom.  It
    assumes roughly normal differences.  If it includes zero, it does not tell the two methods apart.

    Args:
        ours: float [n], one value for each seed.
        theirs: float [n], for the same seeds in the same order.
        level: confidence level, in (0, 1): the share of such intervals that cover the true difference.

    Returns:
        The mean difference, and the lower and the upper end of its interval; all three are equal if every
        seed has the same difference.

    Raises:
        DedtError: fewer than two seeds, different lengths, non-finite values, or a level outside (0, 1).
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape or not np.isfinite([ours, theirs]).all():
        raise DedtError(
            f"A paired interval needs one finite value per seed on each side; got shapes {ours.shape} "
            f"and {theirs.shape}."
        )
    if len(ours) < 2:
        raise DedtError(f"A paired interval needs at least two seeds; got {len(ours)}. Run more seeds.")
    mean, low, high = mean_interval(ours - theirs, level=level)
    return float(mean), float(low), float(high)


def mean_interval(values: Array, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student's t interval of a mean over seeds: mean -+ t sd / sqrt(n).

    Args:
        values: float [n, ...], one entry for each seed.
        level: confidence level, in (0, 1): the share of such intervals that cover the true mean.

    Returns:
        The mean, and the lower and the upper end of its interval, each [...]; the ends are NaN for one seed.

    Raises:
        DedtError: a level outside (0, 1).
    """
    from scipy.stats import sem, t

    if not 0 < level < 1:
        raise DedtError(f"The level of an interval must lie in (0, 1), such as 0.95; got {level}.")
    values = np.asarray(values, dtype=np.float64)
    n, mean = len(values), values.mean(axis=0)
    half = t.ppf((1 + level) / 2, n - 1) * sem(values) if n > 1 else np.full_like(mean, np.nan)
    return mean, mean - half, mean + half


def paired_p(differences: Array) -> np.ndarray:
    """Two-sided p of the paired t test: how often chance alone would give a mean at least as far from zero.

    Args:
        differences: float [n, ...], ours - theirs for each seed.

    Returns:
        float [...], NaN for one seed.
    """
    from scipy.stats import sem, t

    values = np.asarray(differences, dtype=np.float64)
    n, mean = len(values), np.abs(values.mean(axis=0))
    if n < 2:
        return np.full_like(mean, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # the error is zero if all seeds agree
        return np.where(mean == 0, 1.0, 2 * t.sf(mean / sem(values), n - 1))


def holm(p: Array) -> np.ndarray:
    """Holm's adjusted p-values, which limit the chance of any false alarm among several tests (Holm, 1979).

    The i-th smallest of m p-values, counted from zero, becomes max over j <= i of (m - j) p_j, at most 1.

    Args:
        p: float [n]; NaN does not count as a test and stays NaN.
    """
    p = np.asarray(p, dtype=np.float64)
    order, m = np.argsort(p), np.isfinite(p).sum()  # argsort puts NaN last
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((m - np.arange(len(p))) * p[order]), 1)
    return adjusted


def detectable_difference(deviation: float, seeds: int, *, level: float = 0.05) -> float:
    """The smallest true difference that a paired t test detects with a power of 80 %.

    Args:
        deviation: standard deviation of the paired differences.
        seeds: number of seeds, at least two.
        level: significance level of the test; Holm's correction uses 0.05 / m for the strictest of m tests.

    Returns:
        The difference, in the unit of ``deviation``.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    needed = t.isf(level / 2, seeds - 1)
    shift = brentq(lambda shift: nct.sf(needed, seeds - 1, shift) - 0.8, 0, 10 * needed + 10)
    return float(shift * deviation / np.sqrt(seeds))


def rank_correlation(x: Array, y: Array) -> tuple[float, float]:
    """Spearman's rank correlation, and its two-sided p from all permutations or from 99 999 random ones.

    Args:
        x: float [n]; pairs with a non-finite value on either side are left out.
        y: float [n].

    Returns:
        The correlation and p; (NaN, 1) if all values of x or of y are equal.
    """
    from scipy.stats import permutation_test, rankdata

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    there = np.isfinite(x) & np.isfinite(y)
    ranks = np.array([rankdata(x[there]), rankdata(y[there])])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(ranks, axis=1)
    if not norm.all():
        return float("nan"), 1.0
    x_ranks, y_ranks = ranks / norm[:, None]
    how = {"permutation_type": "pairings", "vectorized": True, "n_resamples": 99_999, "batch": 10_000}
    rng = numpy_generator(0, "permutations")
    found = permutation_test((x_ranks,), lambda x, axis: x @ y_ranks, rng=rng, **how)
    return float(found.statistic), float(found.pvalue)


def concordance(values: Array) -> tuple[float, float]:
    """Kendall's W, the agreement of seeds on the order of the classes, and the p of Friedman's test for it.

    Args:
        values: float [n, K], one row for each seed.

    Returns:
        W, from 0 for no agreement to 1 for the same order in all seeds, and p; (NaN, 1) for one seed, for
        fewer than three classes, or if all classes have equal values in every seed.
    """
    from scipy.stats import friedmanchisquare

    values = np.asarray(values, dtype=np.float64)
    n, K = values.shape
    if n < 2 or K < 3 or (values == values[:, :1]).all():
        return float("nan"), 1.0
    test = friedmanchisquare(*values.T)
    return float(test.statistic / (n * (K - 1))), float(test.pvalue)


def spread(labels: Array, most: int) -> Array:
    """Positions (sorted, int64) of at most ``most`` images: each class in its share, at even intervals."""
    n, order = len(labels), np.argsort(labels, kind="stable")
    return np.sort(order[np.arange(most) * n // most]) if n > most else np.arange(n)
