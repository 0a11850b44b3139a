"""Selection of a coreset by features: uniform random, Gaussian and Moderate-DS (paper, Section III-B).

To add a selector, subclass :class:`Selector` and enter the class in ``REGISTRY``, here or in a file of your
own.  :func:`select` turns its scores into a :class:`Coreset`.
"""

from collections.abc import Iterable

import numpy as np

from ..arrays import Array, check_choice, check_labels, groups
from ..errors import DedtError
from .coreset import Coreset, class_to_sample_weights
from .gaussian import THRESHOLDS, Gaussian, gaussian_scores
from .moderate import BANDS, CENTRES, Moderate, moderate_distances, moderate_order
from .selector import SCOPES, Selector, as_originals, distinct, options_of
from .uniform import Uniform

REGISTRY: dict[str, type[Selector]] = {"random": Uniform, "gaussian": Gaussian, "moderate": Moderate}
"""Name of a method -> its selector class."""


def select(
    features: Array | None,
    labels: Array,
    *,
    method: str,
    ratio: float,
    scope: str | None = None,
    seed: int = 0,
    originals: Array | None = None,
    ids: Iterable[str] | None = None,
    class_names: Iterable[str] | None = None,
    **options: object,
) -> Coreset:
    """Choose a coreset that holds the share ``ratio`` of the samples.

    Ties are broken by position.  Groups in which most scores are tied are listed in ``tied`` of the result.

    Args:
        features: float [n, d]; None for method "random".
        labels: int [n], 0..K-1.
        method: "random", "gaussian", "moderate" or another name in ``REGISTRY``.
        ratio: Share to keep, in (0, 1].
        scope: "class" or "global".  By default as in the cited code: random and Gaussian select in each
            class, Moderate-DS in one ordering of all samples (a profile may say otherwise, as ``digits`` does).
        seed: Seed of a method that draws at random, such as "random".
        originals: int [n], for each sample the position of the first sample of its class that it is an exact
            copy of, or its own position (``LabelledImages.originals``).  Copies influence neither Gaussians
            nor medians, and rank after all distinct samples of their group: they are kept only if the ratio
            asks for more.  Method "random", the published baseline, makes no difference between copies and
            other samples.
        ids: Name of each sample; by default its position.
        class_names: Name of each class; by default its number.
        options: Options of the method: ``ridge`` and ``threshold`` ("count", "percentile") of
            :class:`Gaussian`; ``centre`` ("median", "mean") and ``band`` ("center", "nearest", "farthest") of
            :class:`Moderate`.

    Returns:
        The coreset; its ``empty`` lists the classes of which this ratio keeps no sample.

    Raises:
        DedtError: A name or option is unknown, the ratio is outside (0, 1], features are not finite,
            ``originals`` is invalid, or the selection is empty.
    """
    labels = check_labels(labels)
    selector = _selector(method, seed, options)
    scope = scope or selector.scope
    check_choice("scope", scope, SCOPES)
    if not 0 < ratio <= 1:
        raise DedtError(f"The data ratio must lie in (0, 1]; got {ratio}. Write 10 % as 0.1.")
    if features is None and selector.needs_features:
        raise DedtError(f"Method '{method}' needs features: embed the images first.")
    n, (ids, class_names) = len(labels), _named(labels, ids, class_names)
    originals = as_originals(originals, labels)
    scores = np.asarray(selector.scores(features, labels, scope, originals), np.float64)  # type: ignore[arg-type]
    _check_scores(scores, n, method)
    rank, kept, tied = np.empty(n, dtype=np.int64), np.zeros(n, dtype=bool), []
    for members in groups(labels, scope):
        own = distinct(members, originals) if selector.needs_features else members
        order, count = _order(selector, scores, members, own, ratio, scope)
        rank[order] = np.arange(len(members))
        kept[order[:count]] = True
        if _mostly_tied(scores[own]):
            tied.append("all" if scope == "global" else class_names[labels[own[0]]])
    if not kept.any():
        raise DedtError(f"Ratio {ratio} keeps none of the {n} samples. Raise it or use scope='global'.")
    indices = np.flatnonzero(kept)
    copies = originals != np.arange(n)
    return Coreset(
        indices,
        scores,
        rank,
        labels,
        method,
        float(ratio),
        scope,
        ids,
        class_names,
        options={name: getattr(selector, name) for name in options_of(type(selector))},
        copies=int(copies.sum()),
        copies_kept=int(copies[kept].sum()),
        tied=tuple(tied),
        originals=originals,
    )


def _selector(method: str, seed: int, options: dict[str, object]) -> Selector:
    """The selector of a method with its options; raises DedtError for names that are unknown."""
    check_choice("selection method", method, REGISTRY)
    known = options_of(REGISTRY[method])
    for option in options:
        check_choice(f"option of '{method}'", option, known)
    return REGISTRY[method](**({"seed": seed} if "seed" in known else {}), **options)


def _check_scores(scores: Array, n: int, method: str) -> None:
    """Raise DedtError unless the method returned one finite score for each of n samples."""
    if scores.shape != (n,):
        raise DedtError(
            f"Method '{method}' returned scores of shape {scores.shape} for {n} samples; expected one per "
            "sample."
        )
    if (bad := ~np.isfinite(scores)).any():
        raise DedtError(
            f"Method '{method}' returned {scores[bad][0]} as the score of {bad.sum()} sample(s), the first "
            f"{bad.argmax()}."
        )


def _named(
    labels: Array, ids: Iterable[str] | None, class_names: Iterable[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A name for each sample and each class; raises DedtError if their numbers do not fit the labels."""
    n, K = len(labels), int(labels.max()) + 1
    if K > n:
        raise DedtError(
            f"The largest label is {K - 1}, but there are only {n} samples. Number the classes 0..K-1, for "
            "example with np.unique(labels, return_inverse=True)."
        )
    ids = tuple(map(str, range(n) if ids is None else ids))
    class_names = tuple(map(str, range(K)) if class_names is None else class_names)
    if len(ids) != n:
        raise DedtError(f"Got {len(ids)} ids for {n} samples; expected one per sample.")
    if len(class_names) < K:
        raise DedtError(
            f"Got {len(class_names)} class names for labels from {labels.min()} to {K - 1}. Number the "
            "classes from 0, with a name for each."
        )
    return ids, class_names


def _order(
    selector: Selector, scores: Array, members: Array, own: Array, ratio: float, scope: str
) -> tuple[Array, int]:
    """Members in the order of keeping, the distinct ones (``own``) before copies, and how many are kept."""
    if len(own) == len(members):
        order, count = selector.order(scores[own], ratio, scope)
        return own[order], count
    wanted = selector.count(len(members), ratio, scope)
    # In the scope "global" the ends of a band are rounded separately, which may miss the wanted count.
    order, count = selector.order(scores[own], min(1.0, wanted / len(own)), "class")
    return np.concatenate([own[order], np.setdiff1d(members, own)]), count if wanted <= len(own) else wanted


def _mostly_tied(scores: Array) -> bool:
    """Whether float [n] have fewer than n / 2 different values, up to rounding, or are two zeros or more.

    The two samples of a class of two are always equally far from its centre: they are no tie.
    """
    ascending = np.sort(scores)
    values = 1 + np.count_nonzero(np.diff(ascending) > 1e-12 * np.abs(ascending).max())
    return bool(values < len(scores) / 2 or (len(scores) > 1 and not scores.any()))
