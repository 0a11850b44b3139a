"""Checks of features and labels, and sums over them in parts that fit into memory."""

import numpy as np

from .errors import DedtError

# Features become float64 in parts of this size, so that a memory-mapped file never fills the memory.
BLOCK_ROWS = 4096


BLOCK_NUMBERS = 2**23


def mean_and_scatter(features, members):
    """Mean [d] and sum of (z - mean)(z - mean)^T [d, d] of some rows of ``features``, float64.

    features: float [n, d].  members: int [m], the rows.  Only the lower triangle of the sum is filled.
    """
    from scipy.linalg.blas import dsyrk

    mean, d = mean_of_rows(features, members), features.shape[1]
    scatter = np.zeros((d, d), order="F")
    for rows in blocks(members):
        centred = (features[rows] - mean).T
        scatter = dsyrk(1.0, centred, beta=1.0, c=scatter, lower=True, overwrite_c=True)
    return mean, scatter


def mean_of_rows(features, members):
    """Mean [d] of the rows ``members`` of features [n, d], float64."""
    return sum(features[rows].sum(axis=0, dtype=np.float64) for rows in blocks(members)) / len(members)


def median_of_rows(features, members):
    """Median [d] of the rows ``members`` of features [n, d], float64, a few columns at a time."""
    width = max(1, BLOCK_NUMBERS // len(members))
    columns = range(0, features.shape[1], width)
    return np.concatenate(
        [np.median(features[members, i : i + width].astype(np.float64), axis=0) for i in columns]
    )


def groups(labels, scope):
    """The index sets that are scored together: one per class, or one of everything."""
    if scope == "global":
        return [np.arange(len(labels))]
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def blocks(members):
    """An index array in pieces of at most ``BLOCK_ROWS``."""
    return [members[i : i + BLOCK_ROWS] for i in range(0, len(members), BLOCK_ROWS)]


def check_choice(what, value, choices):
    """Raise DedtError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise DedtError(f"Unknown {what} '{value}'. Choose one of: {', '.join(choices)}.")


def check_labels(labels):
    """Labels as int64 [n]; raises DedtError for anything but non-negative integers."""
    labels = np.asarray(labels)
    if (
        labels.ndim != 1
        or len(labels) == 0
        or not np.issubdtype(labels.dtype, np.integer)
        or labels.min() < 0
    ):
        raise DedtError("Labels must be a non-empty array of integers 0..K-1.")
    return labels.astype(np.int64)


def check_features(features, labels):
    """Features [n, d] and labels [n] that fit together and are finite; raises DedtError otherwise."""
    features, labels = np.asarray(features), check_labels(labels)
    if features.ndim == 2 and len(features) != len(labels):
        raise DedtError(
            f"{len(features)} feature rows but {len(labels)} labels: they must describe the same images."
        )
    return check_finite(features), labels


def check_finite(features):
    """Features as an array [n, d] of finite numbers; raises DedtError otherwise."""
    features = np.asarray(features)
    if features.ndim != 2:
        raise DedtError(f"Features must have the shape [n, d]; got {features.shape}.")
    starts = range(0, len(features), BLOCK_ROWS)
    finite = [np.isfinite(features[i : i + BLOCK_ROWS]).all(axis=1) for i in starts]
    bad = np.flatnonzero(~np.concatenate([*finite, np.ones(0, dtype=bool)]))
    if len(bad):
        raise DedtError(
            f"{len(bad)} of {len(features)} samples have NaN or infinite features (first: sample {bad[0]}). "
            "Look at those images, or embed again."
        )
    return features
