"""Checks of features and labels, and sums and products over them in blocks that fit into memory."""

from collections.abc import Collection
from typing import Any

import numpy as np

from .errors import DedtError

Array = np.ndarray

# Features become float64 in blocks of this size, so that a memory-mapped file never fills the memory.
BLOCK_ROWS, BLOCK_NUMBERS = 4096, 2**23

BLOCK = 1024
"""Rows per side in a block of pairs: beyond its inputs a metric needs memory of the order of BLOCK^2."""


def mean_and_scatter(features: Array, members: Array) -> tuple[Array, Array]:
    """Mean and scatter matrix of the rows ``members``.

    Args:
        features: float [n, d], memory-mapped or not.
        members: int [m], the rows to use.

    Returns:
        The mean, float64 [d], and the scatter matrix, float64 [d, d]: the sum of (z - mean)(z - mean)^T, of
        which only the lower triangle is filled.
    """
    from scipy.linalg.blas import dsyrk

    mean, d = mean_of_rows(features, members), features.shape[1]
    scatter = np.zeros((d, d), order="F")
    for rows in blocks(members):
        centred = (features[rows] - mean).T
        scatter = dsyrk(1.0, centred, beta=1.0, c=scatter, lower=True, overwrite_c=True)
    return mean, scatter


def mean_of_rows(features: Array, members: Array) -> Array:
    """Mean float64 [d] of the rows ``members`` of features [n, d]."""
    return sum(features[rows].sum(axis=0, dtype=np.float64) for rows in blocks(members)) / len(members)


def median_of_rows(features: Array, members: Array) -> Array:
    """Median float64 [d] of the rows ``members`` of features [n, d], a few columns at a time."""
    columns = slices(features.shape[1], max(1, BLOCK_NUMBERS // len(members)))
    return np.concatenate([np.median(features[members, part].astype(np.float64), axis=0) for part in columns])


def groups(labels: Array, scope: str) -> list[Array]:
    """Positions of the samples that are scored together: one array per class, or a single one if "global"."""
    if scope == "global":
        return [np.arange(len(labels))]
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def blocks(members: Array) -> list[Array]:
    """An index array, split into pieces of at most ``BLOCK_ROWS``."""
    return [members[part] for part in slices(len(members), BLOCK_ROWS)]


def slices(n: int, size: int | None = None) -> list[slice]:
    """The positions 0..n-1 in slices of at most ``size``, by default ``BLOCK``."""
    size = size or BLOCK
    return [slice(start, start + size) for start in range(0, n, size)]


def thin(rows: Array, most: int) -> Array:
    """At most ``most`` evenly spaced rows of an array, from the first to the last (of one, the first)."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]


def products(x: Array, y: Array, device: str | None) -> Array:
    """x @ y.T, nearly all the work of pairwise distances; by PyTorch if a ``device`` is given."""
    if device is None:
        return x @ y.T
    import torch

    return (torch.from_numpy(x).to(device) @ torch.from_numpy(y).to(device).T).cpu().numpy()


def check_choice(what: str, value: object, choices: Collection) -> None:
    """Raise DedtError unless ``value`` is one of ``choices``."""
    if value not in choices:
        there = (
            f"Choose one of: {', '.join(choices)}." if choices else "There is none to choose: leave it out."
        )
        raise DedtError(f"Unknown {what} '{value}'. {there}")


def check_positive(**numbers: float) -> None:
    """Raise DedtError unless all ``numbers``, given by name, are at least one."""
    for name, number in numbers.items():
        if not number >= 1:
            raise DedtError(f"{name} must be at least 1; got {number}.")


def check_labels(labels: Array) -> Array:
    """Labels as int64 [n]; raises DedtError for anything but non-negative integers."""
    labels = np.asarray(labels)
    one_each = labels.ndim == 1 and len(labels) > 0 and np.issubdtype(labels.dtype, np.integer)
    if not one_each or labels.min() < 0:
        raise DedtError(
            f"Labels must be a non-empty array of integers 0..K-1; got {labels.dtype} {list(labels.shape)}. "
            "Number the classes, for example with np.unique(labels, return_inverse=True)."
        )
    return labels.astype(np.int64)


def check_positions(positions: Array, total: int) -> Array:
    """Positions as int64 [m] in 0..total-1; raises DedtError for anything else, such as a boolean mask."""
    positions = np.asarray(positions)
    numbers = positions.ndim == 1 and np.issubdtype(positions.dtype, np.integer)
    if positions.size and not numbers:
        raise DedtError(
            f"Samples must be given as integer positions (np.flatnonzero of a mask); got {positions.dtype} "
            f"{list(positions.shape)}."
        )
    if positions.size and not (positions.min() >= 0 and positions.max() < total):
        raise DedtError(
            f"Positions of samples must lie in 0..{total - 1}; these run from {positions.min()} to "
            f"{positions.max()}."
        )
    return positions.astype(np.int64)


def check_features(features: Array, labels: Array) -> tuple[Array, Array]:
    """Features [n, d] and labels [n] that fit together and are finite; raises DedtError otherwise."""
    features, labels = check_finite(features), check_labels(labels)
    if len(features) != len(labels):
        raise DedtError(
            f"{len(features)} feature rows but {len(labels)} labels: they must describe the same images."
        )
    return features, labels


def as_reals(features: Any) -> Array:
    """Features, of PyTorch too, as an array of real numbers; raises DedtError for complex numbers or objects."""
    if hasattr(features, "detach"):
        features = features.detach().cpu()
        features = (features.float() if "bfloat16" in str(features.dtype) else features).numpy()
    features = np.asarray(features)
    if features.dtype.kind not in "fiub":
        raise DedtError(f"Features must be real numbers; got {features.dtype}.")
    return features


def check_finite(features: Array) -> Array:
    """Features as an array [n, d] of finite numbers; raises DedtError otherwise."""
    features = as_reals(features)
    if features.ndim != 2 or not features.shape[1]:
        raise DedtError(f"Features must have the shape [n, d]; got {features.shape}.")
    finite = [np.isfinite(features[part]).all(axis=1) for part in slices(len(features), BLOCK_ROWS)]
    bad = np.flatnonzero(~np.concatenate([*finite, np.ones(0, dtype=bool)]))
    if len(bad):
        raise DedtError(
            f"{len(bad)} of {len(features)} samples have NaN or infinite features (first: sample {bad[0]}). "
            "Check these images, or embed again."
        )
    return features


def check_side(features: Array) -> Array:
    """One side of a metric: finite features [n, d] of at least two images; raises DedtError otherwise."""
    features = check_finite(features)
    if len(features) < 2:
        raise DedtError(
            f"This metric needs features of at least two images on each side; got shape {features.shape}."
        )
    return features


def check_widths(width: int, other: int) -> None:
    """Raise DedtError if the features of two sides differ in width."""
    if width != other:
        raise DedtError(f"Features of different width ({width} and {other}) cannot be compared.")


def whole(number: float) -> int:
    """The number rounded down; 57 for 0.57 * 100, which binary fractions make a little less."""
    return int(round(number, 9))
