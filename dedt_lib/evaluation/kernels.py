"""Maximum mean discrepancies between sets of features: KID and CMMD."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..arrays import Array, check_features, check_finite, check_side, check_widths, products, slices
from ..errors import DedtError

MOST_PAIRED = 10_000
"""Up to so many images on each side KID is that of all pairs; beyond, the mean over random subsets."""

KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020
"""As Binkowski et al. (2018) estimate KID, with the seed of torch-fidelity."""

MOST_EMBEDDED = 50_000
"""How many training images CMMD takes."""

SIGMA = 10.0
"""The width of CMMD's kernel, as published."""

Kernel = Callable[[Array, Array], Array]


def kid(real: Array, generated: Array, *, within: Array | None = None, device: str | None = None) -> float:
    """Unbiased squared maximum mean discrepancy, ``k(x, y) = (x.y / d + 1)^3`` (KID; Binkowski et al., 2018).

    Its expectation does not depend on the number of images, unlike that of FID, so it suits classes with few.
    Up to MOST_PAIRED images on each side it takes all pairs at once; beyond, it is the published estimate:
    the mean over KID_SUBSETS random subsets of KID_SUBSET_SIZE images of both sides (fewer where a side has
    fewer), the subsets being those of torch-fidelity.

    Args:
        real: float [n, d].
        generated: float [m, d]; the same features as for FID.
        within: What :func:`kid_within` says of the real side, where it is compared often.
        device: where the scalar products are taken, such as "cuda"; None is NumPy.

    Returns:
        A number around zero, also below it, for equal distributions; tables often show 1000 times the value.

    Raises:
        DedtError: fewer than two images on a side, non-finite features, other widths, or a ``within`` of other
            subsets.
    """
    real, generated = check_side(real), check_side(generated)
    check_widths(real.shape[1], generated.shape[1])
    kernel = functools.partial(_cubic_kernel, device=device)
    if within is None:
        within = kid_within(real, len(generated), device=device)
    values, subsets = [], list(_kid_subsets(len(real), len(generated)))
    if len(within) != len(subsets):
        raise DedtError(
            f"`within` is of another number of samples than {len(generated)}: ask kid_within again."
        )
    for (rows, columns), own in zip(subsets, within):
        x, y = real[rows], generated[columns]
        between = _kernel_sums(kernel, x, y)[0] / (len(x) * len(y))
        values.append(own + _mean_kernels(kernel, y)[1] - 2 * between)
    return float(np.mean(values))


def kid_within(real: Array, samples: int, *, device: str | None = None) -> Array:
    """The part of KID that is of the real side alone, for :func:`kid` of so many ``samples``.

    Args:
        real: float [n, d].
        samples: How many generated images there will be, which decides the subsets.
        device: As of :func:`kid`.

    Returns:
        float64 [S]: the mean kernel over the pairs of different images in each subset.
    """
    kernel = functools.partial(_cubic_kernel, device=device)
    return np.array([_mean_kernels(kernel, real[rows])[1] for rows, _ in _kid_subsets(len(real), samples)])


def _kid_subsets(n: int, m: int) -> Iterator[tuple[Array | slice, Array | slice]]:
    """Which of n real and m generated images KID takes together."""
    if max(n, m) <= MOST_PAIRED:
        yield slice(None), slice(None)
        return
    random, size = np.random.RandomState(KID_SEED), min(KID_SUBSET_SIZE, n, m)
    for _ in range(KID_SUBSETS):
        rows, columns = (np.sort(random.choice(count, size, replace=False)) for count in (n, m))
        yield rows, columns


def classwise_kid(real: Array, real_labels: Array, generated: Array, generated_labels: Array) -> Array:
    """:func:`kid` of each class, which unlike its FID is as large for few images as for many.

    Args:
        real: float [n, d].
        real_labels: int [n], 0..K-1.
        generated: float [m, d].
        generated_labels: int [m], 0..K-1.

    Returns:
        float64 [K], NaN for a class with fewer than two images on a side.
    """
    real, real_labels = check_features(real, real_labels)
    generated, generated_labels = check_features(generated, generated_labels)
    values = np.full(1 + max(real_labels.max(), generated_labels.max()), np.nan)
    for k in range(len(values)):
        sides = real[real_labels == k], generated[generated_labels == k]
        if min(map(len, sides)) > 1:
            values[k] = kid(*sides)
    return values


def cmmd(
    real: Array, generated: Array, *, sigma: float = SIGMA, unbiased: bool = False, device: str | None = None
) -> float:
    """1000 times the squared maximum mean discrepancy with a Gaussian kernel (CMMD; Jayasumana et al., 2024).

    ``k(x, y) = exp(-|x - y|^2 / (2 sigma^2))``.  Scalar products are taken in the inputs' precision, single
    or double, all else in double.

    Args:
        real: float [n, d], L2-normalised embeddings.
        generated: float [m, d], as well.
        sigma: width of the kernel.
        unbiased: by default every image is paired with itself too: the biased value of the published code, to
            compare with published numbers.  Without those pairs the expectation does not depend on the number
            of images; it is around zero, also below it, for equal distributions.
        device: where the scalar products are taken, such as "cuda"; None is NumPy.

    Returns:
        The value.

    Raises:
        DedtError: non-finite embeddings, other widths, and fewer images than one on each side (two if
            unbiased).
    """
    least = 2 if unbiased else 1
    if min(len(real), len(generated)) < least:
        raise DedtError(
            f"CMMD needs at least {least} embeddings on each side; got {len(real)} and {len(generated)}."
        )
    return both_cmmds(real, generated, sigma=sigma, device=device)[int(unbiased)]


def both_cmmds(
    real: Array,
    generated: Array,
    *,
    within: Sequence[float] | None = None,
    sigma: float = SIGMA,
    device: str | None = None,
) -> tuple[float, float]:
    """:func:`cmmd`, biased and unbiased, from one pass over the pairs.

    Args:
        real: float [n, d].
        generated: float [m, d].
        within: what :func:`within_real` says of the real side, which saves most of the time where it is
            large.
        sigma: as of :func:`cmmd`.
        device: as of :func:`cmmd`.

    Returns:
        Both values; a side of one image has no unbiased one: NaN.
    """
    real, generated = check_finite(real), check_finite(generated)
    check_widths(real.shape[1], generated.shape[1])
    kernel = _gaussian_kernel(sigma, np.result_type(real, generated, np.float32), device)
    within = _mean_kernels(kernel, real) if within is None else within
    own = _mean_kernels(kernel, generated)
    between = _kernel_sums(kernel, real, generated)[0] / (len(real) * len(generated))
    biased, unbiased = (1000 * float(x + y - 2 * between) for x, y in zip(within, own))
    return biased, unbiased


def within_real(real: Array, *, device: str | None = None) -> tuple[float, float]:
    """The part of CMMD that is of the real side alone, for :func:`both_cmmds`.

    Args:
        real: float [n, d] embeddings, in single or double precision as those they will be compared with.
        device: as of :func:`cmmd`.

    Returns:
        The mean kernel over all pairs, and over those of different images.
    """
    return _mean_kernels(_gaussian_kernel(SIGMA, np.result_type(real, np.float32), device), real)


def _mean_kernels(kernel: Kernel, x: Array) -> tuple[float, float]:
    """Mean of ``kernel`` over all pairs of rows of x [n, d], and over those of different rows.

    An image paired with itself says nothing about a second draw from its distribution.
    """
    n = len(x)
    total, distinct = _kernel_sums(kernel, x, x)
    return float(total / (n * n)), float(distinct / (n * (n - 1))) if n > 1 else np.nan


def _kernel_sums(kernel: Kernel, x: Array, y: Array) -> tuple[float, float]:
    """Sum of ``kernel(rows, columns)`` over all pairs; and, if y is x, over those of different rows."""
    within, total, distinct = y is x, 0.0, 0.0
    for rows, columns in itertools.product(slices(len(x)), slices(len(y))):
        if within and columns.start < rows.start:
            continue  # The kernel is symmetric: the block on the other side of the diagonal counts twice.
        values = kernel(x[rows], y[columns])
        added = (2 if within and columns.start > rows.start else 1) * values.sum()
        total, distinct = total + added, distinct + added
        if within and rows == columns:
            distinct -= values.trace()
    return total, distinct


def _cubic_kernel(x: Array, y: Array, device: str | None) -> Array:
    base = products(x.astype(np.float64), y.astype(np.float64), device)
    base /= x.shape[1]
    base += 1
    return base * base * base


def _gaussian_kernel(sigma: float, dtype: np.dtype, device: str | None) -> Kernel:
    def kernel(x: Array, y: Array) -> Array:
        # k - 1: the ones cancel in the discrepancy, and expm1 keeps the digits that are left.
        x, y = x.astype(dtype) / float(sigma), y.astype(dtype) / float(sigma)
        exponent = products(x, y, device)
        exponent -= np.square(x).sum(axis=1, keepdims=True) / 2
        exponent -= np.square(y).sum(axis=1) / 2
        return np.expm1(exponent, dtype=np.float64)  # NumPy's in single precision is biased in digit seven

    return kernel
