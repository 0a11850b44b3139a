"""Statistics over seeds, and which images stand for all."""

import numpy as np

from ..arrays import Array
from ..errors import DedtError


def paired_interval(ours: Array, theirs: Array, *, level: float = 0.95) -> tuple[float, float, float]:
    """Student's t interval of the mean difference of two methods that were run with the same seeds.

    mean(d) -+ t sd(d) / sqrt(n) with d = ours - theirs and t the quantile of n - 1 degrees of freedom.  It holds
    for differences that are roughly normal; one that includes zero tells the two methods not apart.

    Args:
        ours: float [n], one value for each seed.
        theirs: float [n], of the same seeds in the same order.
        level: share of such intervals that cover the true difference, in (0, 1).

    Returns:
        The mean difference, and the lower and the upper end of its interval; all three are equal where every
        seed has the same difference.

    Raises:
        DedtError: fewer than two seeds, lengths that differ, values that are not finite, or a level outside
            (0, 1).
    """
    from scipy.stats import t

    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape or not np.isfinite([ours, theirs]).all():
        raise DedtError(
            f"A paired interval takes one finite value of each side for each seed; got shapes {ours.shape} and "
            f"{theirs.shape}."
        )
    if len(ours) < 2:
        raise DedtError(
            f"A paired interval needs two seeds at least, and there are {len(ours)}: run more seeds."
        )
    if not 0 < level < 1:
        raise DedtError(f"The level of an interval lies in (0, 1), such as 0.95; got {level}.")
    difference, n = ours - theirs, len(ours)
    mean = float(difference.mean())
    half = float(t.ppf((1 + level) / 2, n - 1) * difference.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def spread(labels: Array, most: int) -> Array:
    """Positions of at most ``most`` images, each class in its share and evenly through it: sorted int64."""
    n, order = len(labels), np.argsort(labels, kind="stable")
    return np.sort(order[np.arange(most) * n // most]) if n > most else np.arange(n)
