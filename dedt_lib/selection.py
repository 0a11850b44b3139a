"""Features to a coreset: uniform random, Gaussian and Moderate-DS (paper, Section III-B).

The scoring functions are pure.  ``select`` turns scores into a :class:`Coreset`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import DedtError
from .randomness import numpy_generator
from .store import atomic, read_json, write_json

METHODS = ("random", "gaussian", "moderate")
CENTRES = ("median", "mean")
BANDS = ("center", "nearest", "farthest")
THRESHOLDS = ("count", "percentile")
DEFAULT_SCOPE = {"random": "class", "gaussian": "class", "moderate": "global"}
# Features become float64 in parts of this size, so that a memory-mapped file never fills the memory.
BLOCK_ROWS = 4096
BLOCK_NUMBERS = 2**23


def gaussian_scores(features, labels, *, scope="class", ridge=1e-5, originals=None):
    """Log-density of each sample under a Gaussian fitted to its class; the highest are kept first.

    S(z) = -1/2 [ (z - mu)^T Sigma^-1 (z - mu) + ln |Sigma| + d ln 2 pi ]  (paper, Section III-B), with
    Sigma the maximum-likelihood covariance plus ``ridge`` times the identity, as in DeVries et al.
    (2020).  scope "global" fits one Gaussian to all samples.

    features: float [n, d]; a memory-mapped array is read a few thousand rows at a time.  labels: int [n].
    originals: int [n], of which sample each is an exact copy (its own number if of none), or None for no
    copies; the fit takes each distinct sample once, and a copy has the score of its original.
    Returns float64 [n], computed in float64 because with fewer samples than dimensions the ranking hangs
    on the ridge alone.  Raises DedtError for non-finite features, lengths that differ, a class with a
    single image, or a covariance that is singular because the ridge is zero or too small.
    """
    features, labels = check_features(features, labels)
    check_choice("scope", scope, ("class", "global"))
    scores, originals = np.empty(len(features)), as_originals(originals, len(labels))
    for members in groups(labels, scope):
        members = distinct(members, originals)
        if len(members) < 2:
            raise DedtError(
                f"Class {labels[members[0]]} has a single image (copies of it aside); a Gaussian needs at "
                "least two. Add images, drop the class, or use scope='global'."
            )
        scores[members] = _log_density(features, members, ridge)
    return scores[originals]


def _log_density(features, members, ridge):
    n, d = len(members), features.shape[1]
    solve = _mahalanobis_few_samples if n <= d else _mahalanobis
    squared, log_determinant = solve(features, members, ridge)
    return -0.5 * (squared + log_determinant + d * np.log(2 * np.pi))


def _mahalanobis(features, members, ridge):
    """(z - mu)^T Sigma^-1 (z - mu) [n] and ln |Sigma|: the squared length of L^-1 (z - mu), Sigma = L L^T."""
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


def _mahalanobis_few_samples(features, members, ridge):
    """The same from an n x n matrix, which is the smaller one when n <= d.

    With the centred rows Z and G = Z Z^T / n + 1 1^T / n + ridge I, the Woodbury identity gives
    diag(Z Sigma^-1 Z^T) = n - 1 - ridge (n diag(G^-1) - 1 / (1 + ridge)) and
    ln |Sigma| = ln |G| + (d - n + 1) ln ridge - ln (1 + ridge).
    """
    from scipy.linalg import solve_triangular

    n, d = len(members), features.shape[1]
    if ridge <= 0:
        raise _singular(f"{n} samples in {d} dimensions", ridge)
    centred = features[members] - _mean(features, members)
    # Centred rows sum to zero, so Z Z^T alone has an eigenvalue zero.  1 1^T lifts it and nothing else: only
    # the small terms that the ranking hangs on are left, without the rounding of a large one.
    factor, log_determinant = _cholesky(centred @ centred.T / n + 1 / n, ridge)
    inverse = solve_triangular(factor, np.eye(n), lower=True, overwrite_b=True, check_finite=False)
    squared = n - 1 - ridge * (n * np.square(inverse).sum(axis=0) - 1 / (1 + ridge))
    return squared, log_determinant + (d - n + 1) * np.log(ridge) - np.log1p(ridge)


def _cholesky(matrix, ridge):
    """Lower factor and log-determinant of matrix + ridge I; only the lower triangle is read."""
    from scipy.linalg import LinAlgError, cholesky

    matrix[np.diag_indices(len(matrix))] += ridge
    try:
        factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError as error:
        raise _singular(error, ridge) from error
    return factor, 2 * np.log(np.diag(factor)).sum()


def _singular(reason, ridge):
    return DedtError(f"The covariance is singular ({reason}). Raise the ridge, now {ridge}.")


def mean_and_scatter(features, members):
    """Mean [d] and sum of (z - mean)(z - mean)^T [d, d] of some rows of ``features``, float64.

    features: float [n, d].  members: int [m], the rows.  Only the lower triangle of the sum is filled.
    """
    from scipy.linalg.blas import dsyrk

    mean, d = _mean(features, members), features.shape[1]
    scatter = np.zeros((d, d), order="F")
    for rows in blocks(members):
        centred = (features[rows] - mean).T
        scatter = dsyrk(1.0, centred, beta=1.0, c=scatter, lower=True, overwrite_c=True)
    return mean, scatter


def _mean(features, members):
    return sum(features[rows].sum(axis=0, dtype=np.float64) for rows in blocks(members)) / len(members)


def _median(features, members):
    width = max(1, BLOCK_NUMBERS // len(members))
    columns = range(0, features.shape[1], width)
    return np.concatenate(
        [np.median(features[members, i : i + width].astype(np.float64), axis=0) for i in columns]
    )


def moderate_distances(features, labels, *, centre="median", originals=None):
    """Euclidean distance of each sample to the centre of its class (Moderate-DS, Xia et al., 2023).

    centre: "median" (coordinate by coordinate, the reference code) or "mean" (the paper's wording).
    features: float [n, d]; a memory-mapped array is read in parts.  labels: int [n].  originals: as for
    :func:`gaussian_scores`.  Returns float64 [n].
    Raises DedtError for an unknown centre, non-finite features or lengths that differ.
    """
    features, labels = check_features(features, labels)
    if centre not in ("median", "mean"):
        raise DedtError(f"Unknown centre '{centre}'. Choose median or mean.")
    distances, originals = np.empty(len(features)), as_originals(originals, len(labels))
    for members in groups(labels, "class"):
        members = distinct(members, originals)
        middle = (_median if centre == "median" else _mean)(features, members)
        for rows in blocks(members):
            distances[rows] = np.linalg.norm(features[rows] - middle, axis=1)
    return distances[originals]


def as_originals(originals, count):
    """``originals`` as int64 [count], everything its own for None; raises DedtError for another array."""
    if originals is None:
        return np.arange(count)
    originals = np.asarray(originals)
    fits = originals.shape == (count,) and np.issubdtype(originals.dtype, np.integer)
    fits = fits and np.isin(originals, np.arange(count)).all()
    if not fits or (originals[originals] != originals).any():
        raise DedtError(
            f"originals must be int [{count}]: the number of each sample's original, its own if it is no "
            "copy."
        )
    return originals.astype(np.int64)


def distinct(members, originals):
    """Those of the index set that are no copies."""
    return members[originals[members] == members]


def select(
    features,
    labels,
    *,
    method,
    ratio,
    scope=None,
    seed=0,
    ridge=1e-5,
    centre="median",
    band="center",
    threshold="count",
    originals=None,
    ids=None,
    class_names=None,
):
    """Choose a coreset that holds the share ``ratio`` of the samples.

    features: float [n, d] (None for method "random").  labels: int [n], 0..K-1.
    method: "random" | "gaussian" | "moderate".  scope: "class" or "global"; by default what the
    cited code does: random and Gaussian in each class, Moderate-DS in one ordering of all samples.
    seed: for "random".  ridge: for "gaussian".  centre, band ("center" | "nearest" | "farthest"):
    for "moderate".  threshold: for "gaussian", "count" keeps round(ratio * n) samples, "percentile"
    keeps those strictly above the percentile as the cited code does; without ties they differ only
    where ratio * n is not whole.
    originals: int [n], for each sample the first of its class that it is an exact copy of, its own number if
    of none (:attr:`dedt_lib.data.LabelledImages.originals`).  Copies shape neither Gaussians nor medians, and
    come after all distinct samples of their group: they are kept only where the ratio asks for more.  Method
    "random", the published baseline, looks at no sample and takes copies as they come.

    Ties are broken by position; a group where most scores are tied is named in the result.  Returns a
    Coreset.  Raises DedtError for an unknown name, a ratio outside (0, 1], non-finite features, ``originals``
    that are none, or a selection that is empty.
    """
    labels = check_labels(labels)
    scope = scope or DEFAULT_SCOPE.get(method)
    check_choice("selection method", method, METHODS)
    check_choice("scope", scope, ("class", "global"))
    check_choice("band", band, BANDS)
    check_choice("threshold", threshold, THRESHOLDS)
    if not 0 < ratio <= 1:
        raise DedtError(f"The data ratio must lie in (0, 1]; got {ratio}. Write 10 % as 0.1.")
    if method == "random":
        scores = numpy_generator(seed, "selection").random(len(labels))
    elif features is None:
        raise DedtError(f"Method '{method}' needs features: embed the images first.")
    elif method == "gaussian":
        scores = gaussian_scores(features, labels, scope=scope, ridge=ridge, originals=originals)
    else:
        scores = moderate_distances(features, labels, centre=centre, originals=originals)
    originals = as_originals(originals, len(labels))

    K = int(labels.max()) + 1
    ids = tuple(map(str, range(len(labels)))) if ids is None else tuple(ids)
    class_names = tuple(map(str, range(K))) if class_names is None else tuple(class_names)
    if len(ids) != len(labels) or len(class_names) < K:
        raise DedtError(
            f"{len(ids)} ids for {len(labels)} samples and {len(class_names)} names for {K} classes: "
            "there must be one each."
        )
    rank, kept, tied = np.empty(len(labels), dtype=np.int64), np.zeros(len(labels), dtype=bool), []
    for members in groups(labels, scope):
        own = members if method == "random" else distinct(members, originals)
        wanted = wanted_count(len(members), ratio, method, scope)
        share = ratio if len(own) == len(members) else min(1.0, wanted / len(own))
        if method == "moderate":
            # The ends of the cited code's band are rounded apart, which need not give a wanted count.
            ends = scope if len(own) == len(members) else "class"
            order, wanted_of_own = moderate_order(scores[own], share, ends, band)
        else:
            order = np.argsort(-scores[own], kind="stable")
            wanted_of_own = round(share * len(own))
            if method == "gaussian" and threshold == "percentile" and share < 1:
                cutoff = np.percentile(scores[own], 100 * (1 - share))
                wanted_of_own = int((scores[own] > cutoff).sum())
        copies = np.setdiff1d(members, own)
        order = np.concatenate([own[order], copies])
        count = wanted_of_own if wanted <= len(own) else wanted
        rank[order] = np.arange(len(members))
        kept[order[:count]] = True
        if mostly_tied(scores[own]):
            tied.append("all" if scope == "global" else class_names[labels[own[0]]])
    if not kept.any():
        raise DedtError(
            f"Ratio {ratio} of {len(labels)} samples keeps none: raise the ratio or use scope='global'."
        )
    return Coreset(
        indices=np.flatnonzero(kept),
        scores=scores,
        rank=rank,
        labels=labels,
        method=method,
        ratio=float(ratio),
        scope=scope,
        ids=ids,
        class_names=class_names,
        copies=int((originals != np.arange(len(labels))).sum()),
        copies_kept=int((originals[kept] != np.flatnonzero(kept)).sum()),
        tied=tuple(tied),
    )


def wanted_count(n, ratio, method, scope):
    """How many of n samples a method takes at a ratio."""
    if method == "moderate":
        return moderate_order(np.zeros(n), ratio, scope)[1]
    return round(ratio * n)


def mostly_tied(scores):
    """Whether more than half of the scores, float [n], share theirs with another, up to rounding."""
    ascending = np.sort(scores)
    apart = np.diff(ascending) > 1e-12 * np.abs(ascending).max()
    alone = np.concatenate([[True], apart]) & np.concatenate([apart, [True]])
    return len(scores) > 1 and alone.mean() < 0.5


def moderate_order(distances, ratio, scope, band="center"):
    """Order in which Moderate-DS takes the samples, and how many it takes.

    The band is the central quantile range [1/2 - R/2, 1/2 + R/2] of the sorted distances: the samples
    whose distance is nearest to the median distance, not those nearest to the centre.
    In the global scope its ends are rounded separately, as the cited code does, so the count may
    differ from round(R n) by one; in each class the count is exactly round(R n).
    """
    n = len(distances)
    ascending = np.argsort(distances, kind="stable")
    if scope == "global":
        low, high = round(n * (0.5 - ratio / 2)), round(n * (0.5 + ratio / 2))
    else:
        low = (n - round(ratio * n)) // 2
        high = low + round(ratio * n)
    count = high - low
    if band == "nearest":
        return ascending, count
    if band == "farthest":
        return ascending[::-1], count
    outside = np.concatenate([ascending[:low][::-1], ascending[high:]])
    steps_away = np.concatenate([np.arange(low), np.arange(n - high)])
    middle_first = np.argsort(np.abs(np.arange(count) - (count - 1) / 2), kind="stable")
    return np.concatenate(
        [ascending[low:high][middle_first], outside[np.argsort(steps_away, kind="stable")]]
    ), count


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


@dataclass(frozen=True, eq=False)
class Coreset:
    """Which samples are kept, and why.

    indices: int64 [m], sorted positions of the kept samples.  scores: float64 [n], the selector's own
    score (log-density, distance or random number).  rank: int64 [n], 0 = first to be kept, within its
    class or over all samples as ``scope`` says.  labels: int64 [n].  weights: float64 [K] class weights
    alpha that sum to one, or None.  reading: what was left out of the images (``Reading.facts``), or None.
    conflicts: how many samples have the pixels of one of another class.
    copies: how many samples are exact copies of others, and so ranked last unless drawn at random.
    copies_kept: how many of these are kept all the same.  tied: names of the classes ("all" in the global
    scope) where the scores of most samples are equal, so that their position decides.
    """

    indices: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    labels: np.ndarray
    method: str
    ratio: float
    scope: str
    ids: tuple
    class_names: tuple
    weights: np.ndarray | None = None
    reading: dict | None = None
    copies: int = 0
    conflicts: int = 0
    copies_kept: int = 0
    tied: tuple = ()

    @property
    def counts(self):
        """Kept samples per class: int64 [K]."""
        return np.bincount(self.labels[self.indices], minlength=len(self.class_names))

    @property
    def kept(self):
        """bool [n]: whether each sample is in the coreset."""
        mask = np.zeros(len(self.labels), dtype=bool)
        mask[self.indices] = True
        return mask

    @property
    def sample_weights(self):
        """float64 [n]: the training weight of each sample, zero where it is removed.

        w_i = alpha_i / p_i with p_i the class's share of the coreset (DoReMi, Xie et al.,
        2023); one everywhere when there are no class weights.
        """
        if self.weights is None:
            return self.kept.astype(np.float64)
        return np.where(self.kept, class_to_sample_weights(self.weights, self.counts)[self.labels], 0.0)

    def with_weights(self, weights):
        """The same coreset with class weights alpha [K]."""
        return replace(self, weights=np.asarray(weights, dtype=np.float64))

    def save(self, folder):
        """Write ``coreset.parquet`` (a row per sample) and ``coreset.json`` (what it is) to ``folder``."""
        import pandas as pd

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(
            {
                "id": self.ids,
                "class": self.labels,
                "class_name": [self.class_names[k] for k in self.labels],
                "score": self.scores,
                "rank": self.rank,
                "kept": self.kept,
                "weight": self.sample_weights,
            }
        )
        with atomic(folder / "coreset.parquet") as partial:
            with open(partial, "wb") as file:  # of a path pyarrow takes no name that is not UTF-8
                table.to_parquet(file, index=False)
        facts = {
            "method": self.method,
            "ratio": self.ratio,
            "scope": self.scope,
            "samples": len(self.labels),
            "kept": len(self.indices),
            "class_names": list(self.class_names),
            "class_counts": self.counts.tolist(),
            "class_weights": None if self.weights is None else self.weights.tolist(),
            "exact_copies": self.copies,
            "label_conflicts": self.conflicts,
            "exact_copies_kept": self.copies_kept,
            "tied": list(self.tied),
        }
        if self.reading:
            facts["reading"] = self.reading
        write_json(folder / "coreset.json", facts)

    @classmethod
    def load(cls, folder):
        """Read a coreset written by :meth:`save`; raises DedtError when a file is missing or damaged."""
        import pandas as pd

        folder = Path(folder)
        facts = read_json(folder / "coreset.json")
        try:
            with open(folder / "coreset.parquet", "rb") as file:
                table = pd.read_parquet(file)
            weights = facts["class_weights"]
            return cls(
                indices=np.flatnonzero(table["kept"].to_numpy()),
                scores=table["score"].to_numpy(dtype=np.float64),
                rank=table["rank"].to_numpy(dtype=np.int64),
                labels=table["class"].to_numpy(dtype=np.int64),
                method=facts["method"],
                ratio=facts["ratio"],
                scope=facts["scope"],
                ids=tuple(table["id"]),
                class_names=tuple(facts["class_names"]),
                weights=None if weights is None else np.array(weights),
                reading=facts.get("reading"),
                copies=facts.get("exact_copies", 0),
                conflicts=facts.get("label_conflicts", 0),
                copies_kept=facts.get("exact_copies_kept", 0),
                tied=tuple(facts.get("tied", ())),
            )
        except FileNotFoundError:
            raise DedtError(f"{folder / 'coreset.parquet'} does not exist.") from None
        except Exception as error:
            raise DedtError(f"The coreset in {folder} cannot be read ({error!r}); select again.") from error


def class_to_sample_weights(weights, counts):
    """alpha_i / p_i: what one sample of class i counts in the loss, with p_i = counts_i / sum(counts).

    weights: float [K], sums to one.  counts: int [K].  Returns float64 [K]; all ones for uniform
    weights on a balanced coreset.  Raises DedtError for a class without images.
    """
    weights, counts = np.asarray(weights, dtype=np.float64), np.asarray(counts)
    if weights.shape != counts.shape:
        raise DedtError(f"{weights.size} class weights for {counts.size} classes: there must be one each.")
    if (counts == 0).any():
        raise DedtError(
            f"Class(es) {np.flatnonzero(counts == 0).tolist()} have no image in the coreset, so they cannot "
            "be weighted. Use scope='class' or a larger ratio."
        )
    return weights * counts.sum() / counts
