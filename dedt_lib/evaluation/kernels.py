"""Maximum mean discrepancies between sets of features: KID and CMMD."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..arrays import Array, check_features, check_finite, check_side, check_widths, products, slices
from ..errors import DedtError

MOST_PAIRED = 10_000
"""Images per side up to which KID uses all pairs; with more, it is the mean over random subsets."""

KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020
"""The subsets with which Binkowski et al. (2018) estimate KID, and the seed of torch-fidelity."""

MOST_EMBEDDED = 50_000
"""Largest number of training images that CMMD uses."""

SIGMA = 10.0
"""Published width of CMMD's kernel."""

Kernel = Callable[[Array, Array], Array]


def kid(real: Array, generated: Array, *, within: Array | None = None, device: str | None = None) -> float:
    """Unbiased squared maximum mean discrepancy, ``k(x, y) = (x.y / d + 1)^3`` (KID; Binkowski et al., 2018).

    Unlike that of FID, its expectation does not depend on the number of images, so it suits classes with few.
    Up to MOST_PAIRED images on each side, all pairs are used.  With more, it is the published estimate: the
    mean over KID_SUBSETS random subsets of KID_SUBSET_SIZE images of each side (fewer if a side has fewer).
    The subsets are those of torch-fidelity.

    Args:
        real: float [n, d].
        generated: float [m, d]; the same features as for FID.
        within: the result of :func:`kid_within` for ``real``, to save time if it is compared often.
        device: PyTorch device for the scalar products, such as "cuda"; None computes them with NumPy.

    Returns:
        The value.  For equal distributions it lies around zero and may be negative.  Tables often show 1000
        times the value.

    Raises:
        DedtError: fewer than two images on a side, non-finite features, different widths, or a ``within`` with
            other subsets.
    """
    real, generated = check_side(real), check_side(generated)
    check_widths(real.shape[1], generated.shape[1])
    kernel = functools.partial(_cubic_kernel, device=device)
    subsets = list(_kid_subsets(len(real), len(generated)))
    if within is None:
        within = kid_within(real, len(generated), device=device)
    elif len(within) != len(subsets) or (
        len(within) > 1 and not np.isclose(within[0], _mean_kernels(kernel, real[subsets[0][0]])[1])
    ):
        raise DedtError(
            "`within` was computed from other features, or for another number of samples than "
            f"{len(generated)}. Call kid_within again."
        )
    values = []
    for (rows, columns), own in zip(subsets, within):
        x, y = real[rows], generated[columns]
        between = _kernel_sums(kernel, x, y)[0] / (len(x) * len(y))
        values.append(own + _mean_kernels(kernel, y)[1] - 2 * between)
    return float(np.mean(values))


def kid_within(real: Array, samples: int, *, device: str | None = None) -> Array:
    """The part of :func:`kid` that depends on the real features only, for its argument ``within``.

    Args:
        real: float [n, d].
        samples: number of generated images to be compared with, which decides the subsets.
        device: see :func:`kid`.

    Returns:
        float64 [S]: the mean kernel over the pairs of different images in each subset.
    """
    kernel, real = functools.partial(_cubic_kernel, device=device), check_side(real)
    return np.array([_mean_kernels(kernel, real[rows])[1] for rows, _ in _kid_subsets(len(real), samples)])


def _kid_subsets(n: int, m: int) -> Iterator[tuple[Array | slice, Array | slice]]:
    """Yield, for each subset of KID, its rows of the n real and of the m generated images."""
    if max(n, m) <= MOST_PAIRED:
        yield slice(None), slice(None)
        return
    random, size = np.random.RandomState(KID_SEED), min(KID_SUBSET_SIZE, n, m)
    for _ in range(KID_SUBSETS):
        rows, columns = (np.sort(random.choice(count, size, replace=False)) for count in (n, m))
        yield rows, columns


def classwise_kid(
    real: Array,
    real_labels: Array,
    generated: Array,
    generated_labels: Array,
    *,
    device: str | None = None,
) -> Array:
    """:func:`kid` of each class; unlike the FID, its expectation is the same for few images as for many.

    Args:
        real: float [n, d].
        real_labels: int [n], 0..K-1.
        generated: float [m, d].
        generated_labels: int [m], 0..K-1.
        device: see :func:`kid`.

    Returns:
        float64 [K], NaN for a class with fewer than two images on a side.
    """
    real, real_labels = check_features(real, real_labels)
    generated, generated_labels = check_features(generated, generated_labels)
    values = np.full(1 + max(real_labels.max(), generated_labels.max()), np.nan)
    for k in range(len(values)):
        sides = real[real_labels == k], generated[generated_labels == k]
        if min(map(len, sides)) > 1:
            values[k] = kid(*sides, device=device)
    return values


def cmmd(
    real: Array, generated: Array, *, sigma: float = SIGMA, unbiased: bool = False, device: str | None = None
) -> float:
    """1000 times the squared maximum mean discrepancy with a Gaussian kernel (CMMD; Jayasumana et al., 2024).

    ``k(x, y) = exp(-|x - y|^2 / (2 sigma^2))``.  Scalar products are computed in the precision of the inputs,
    single or double, kernel values and their sums in double.

    Args:
        real: L2-normalised embeddings, float [n, d].
        generated: L2-normalised embeddings, float [m, d].
        sigma: width of the kernel.
        unbiased: whether to leave out the pairs of an image with itself.  The published code includes them,
            so published numbers are to be compared with the biased value, the default.  The expectation of
            the unbiased value does not depend on the number of images; for equal distributions the value lies
            around zero and may be negative.
        device: PyTorch device for the scalar products, such as "cuda"; None computes them with NumPy.

    Returns:
        The value.

    Raises:
        DedtError: no image on a side (fewer than two if unbiased), non-finite embeddings or different widths.
    """
    if unbiased and min(len(real), len(generated)) < 2:
        raise DedtError(
            f"CMMD needs at least 2 embeddings on each side; got {len(real)} and {len(generated)}."
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
    """The biased and the unbiased :func:`cmmd`, from one pass over the pairs.

    Args:
        real: float [n, d].
        generated: float [m, d].
        within: the result of :func:`within_real` for ``real`` and this ``sigma``, which saves most of the time
            if there are many real images.
        sigma: width of the kernel.
        device: see :func:`cmmd`.

    Returns:
        The biased and the unbiased value; the latter is NaN if a side has one image only.
    """
    real, generated = check_finite(real), check_finite(generated)
    check_widths(real.shape[1], generated.shape[1])
    if not (len(real) and len(generated)):
        raise DedtError(
            f"CMMD needs at least 1 embedding on each side; got {len(real)} and {len(generated)}."
        )
    kernel = _gaussian_kernel(sigma, np.result_type(real, generated, np.float32), device)
    within = _mean_kernels(kernel, real) if within is None else within
    own = _mean_kernels(kernel, generated)
    between = _kernel_sums(kernel, real, generated)[0] / (len(real) * len(generated))
    biased, unbiased = (1000 * float(x + y - 2 * between) for x, y in zip(within, own))
    return biased, unbiased


def within_real(real: Array, *, sigma: float = SIGMA, device: str | None = None) -> tuple[float, float]:
    """The part of CMMD that depends on the real embeddings only, for :func:`both_cmmds`.

    Args:
        real: float [n, d], in the precision of the embeddings to be compared with, single or double.
        sigma: width of the kernel.
        device: see :func:`cmmd`.

    Returns:
        The mean of k - 1 over all pairs, and over the pairs of different images.
    """
    real = check_side(real)
    return _mean_kernels(_gaussian_kernel(sigma, np.result_type(real, np.float32), device), real)


def _mean_kernels(kernel: Kernel, x: Array) -> tuple[float, float]:
    """Mean of ``kernel`` over all pairs of rows of x [n, d], and over the pairs of different rows.

    The second mean is unbiased, since only different rows are independent draws; it is NaN for n = 1.
    """
    n = len(x)
    total, distinct = _kernel_sums(kernel, x, x)
    return float(total / (n * n)), float(distinct / (n * (n - 1))) if n > 1 else np.nan


def _kernel_sums(kernel: Kernel, x: Array, y: Array) -> tuple[float, float]:
    """Sum of ``kernel`` over all pairs of rows of x and y, and over pairs of different rows if y is x."""
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
        # This is k - 1: the ones cancel in the discrepancy, and expm1 keeps the digits that matter.
        x, y = x.astype(dtype) / float(sigma), y.astype(dtype) / float(sigma)
        exponent = products(x, y, device)
        exponent -= np.square(x).sum(axis=1, keepdims=True) / 2
        exponent -= np.square(y).sum(axis=1) / 2
        return np.expm1(exponent, dtype=np.float64)  # NumPy's float32 expm1 is biased in digit seven

    return kernel
