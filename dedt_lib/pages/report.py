"""The report on a coreset: which images are kept, which are not, and why."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..clusters import principal
from ..config.profile import flat, load_profile
from ..data.photos import Photos
from ..files import from_everywhere
from ..selection import REGISTRY, Coreset
from ..stages.needs import advice, seldom_seen
from .common import bars, pictures, write_page

if TYPE_CHECKING:
    from ..experiment import Experiment

SHOWN, CLASSES, POINTS, PROBED, BINS = 20, 20, 2000, 1500, 40
IN_WORDS = ("source", "path", "label", "caption", "skip_bad")
"""Fields of the data section that have command-line options of their own and need no --set."""
OF_WEIGHTS = ("balancing", "null", "reference")
"""Fields of a recipe that concern only class weights, not the selection of images."""
RATIOS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def write_report(experiment: "Experiment", coreset: Coreset, photos: Photos, folder: Path) -> None:
    """Write ``report.html``.

    Args:
        experiment: The experiment whose features were used.
        coreset: The selected coreset.
        photos: The photographs from which it was selected.
        folder: The folder of ``coreset.parquet``, into which the page is written.
    """
    stage = experiment.coreset.embedding
    features = principal(stage.result(), 32) if stage else None
    groups = _groups(coreset)
    totals = coreset.totals.tolist()
    write_page(
        folder / "report.html",
        "report.html.j2",
        title=f"{photos.name}: {len(coreset.indices):,} of {len(coreset.labels):,} images kept",
        coreset=coreset,
        reading=photos.reading.line,
        meaning=REGISTRY[coreset.method].meaning,
        why=coreset.why,
        pictures=pictures(photos, [place for group in groups for place in (*group["kept"], *group["out"])]),
        groups=groups,
        more_classes=len(coreset.class_names) - len(groups),
        classes=list(zip(coreset.class_names, totals, coreset.counts.tolist(), coreset.image_weights)),
        seldom=[] if coreset.weights is None else _seldom(experiment, coreset),
        largest=max(1, *totals),
        histogram=_histogram(coreset),
        map=_map(features, coreset),
        knee=[] if features is None else knee(features, coreset),
        encoder=stage.encoder.network if stage else "",
        commands=_commands(coreset, folder, options_of(experiment), options_of(experiment, *OF_WEIGHTS)),
        advice=advice(totals, coreset.scope, coreset.ratio, REGISTRY[coreset.method].fewest),
    )


def _seldom(experiment: "Experiment", coreset: Coreset) -> list[str]:
    """Classes whose weights say little, because few batches of the proxy have them."""
    return seldom_seen(coreset.counts, coreset.class_names, experiment.settings.batch_size)


def _commands(coreset: Coreset, folder: Path, how: str = "", choice: str = "") -> list[tuple[str, str]]:
    """Possible next steps: (description, command).

    Args:
        coreset: The coreset.
        folder: The folder of the coreset.
        how: The options of the recipe, without the ratio.
        choice: The same options without those of class weights.
    """
    data, ratio = shlex.quote(str((coreset.source or {}).get("path", "PATH"))), coreset.ratio
    # The training scripts of diffusers, which read an imagefolder, use no weights.
    to = "imagefolder --out for-diffusers" if coreset.weights is None else "torch --out for-torch"
    export = f"dedt export {shlex.quote(from_everywhere(folder))} --to {to}"
    weights = ("class weights", f"dedt reweight {data} --ratio {ratio:g}{choice} --out weighted")
    weighted = " --reweighting" if coreset.weights is not None else ""
    train = f"dedt run {data} --ratio {ratio:g}{how}{weighted} --out everything"
    trainable = len(coreset.counts) > 1 and coreset.counts.all()
    trains = [("train and evaluate a small model on it", train)] if trainable else []
    other = ("another ratio", f"dedt select {data} --ratio {min(1, 2 * ratio):g}{choice} --out other")
    return [
        ("files for a trainer", export),
        *([weights] if trains and not weighted else []),
        *trains,
        *([other] if ratio < 1 else []),
    ]


def options_of(experiment: "Experiment", *but: str) -> str:
    """The options of ``dedt`` that reproduce a recipe, without the ratio, --reweighting and ``but``."""
    profile, words = experiment.profile, list[str]()
    said = experiment.recipe.model_dump(exclude={"ratio", "reweighting", *but}, exclude_defaults=True)
    said |= {name: getattr(profile.data, name) for name in ("label", "caption", "skip_bad")}
    base = load_profile(profile.file or profile)
    said |= {"profile": profile.called if profile.name != "photos" else ""}
    for name, value in said.items():
        if value != "" and value is not False:  # a burn-in of 0 is kept
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    own, usual = (flat(one.model_dump(mode="json")) for one in (profile, base))
    for key, value in own.items():
        if value != usual[key] and key.partition(".")[2] not in IN_WORDS:
            words += ["--set", f"{key}={json.dumps(value)}"]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _groups(coreset: Coreset) -> list[dict[str, Any]]:
    """Indices to show for each of the largest classes: the first kept, and those left out, worst first."""
    found = []
    sizes = coreset.totals
    for k in np.argsort(-sizes, kind="stable")[:CLASSES]:
        members = np.flatnonzero(coreset.labels == k)
        order = members[np.argsort(coreset.rank[members], kind="stable")]
        kept, out = order[coreset.kept[order]], order[~coreset.kept[order]]
        counts = {"name": coreset.class_names[k], "total": len(members), "kept_count": len(kept)}
        found.append(counts | {"kept": kept[:SHOWN].tolist(), "out": out[::-1][:SHOWN].tolist()})
    return found


def _histogram(coreset: Coreset) -> dict[str, Any]:
    """Histogram of the scores of kept and other images; the outermost 1 % is in the first and last bin."""
    low, high = np.quantile(coreset.scores, (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    inside = coreset.scores.clip(edges[0], edges[-1])
    counts = [np.histogram(inside[mask], edges)[0] for mask in (coreset.kept, ~coreset.kept)]
    return {"series": bars(counts), "low": f"{edges[0]:.4g}", "high": f"{edges[-1]:.4g}"}


def _map(features: np.ndarray | None, coreset: Coreset) -> list[dict[str, Any]]:
    """Up to POINTS images in their first two principal components; those left out come first."""
    if features is None or features.shape[1] < 2:
        return []
    some = np.sort(np.random.default_rng(0).permutation(len(features))[:POINTS])
    some = some[np.argsort(coreset.kept[some], kind="stable")]
    points = features[some, :2].astype(float)
    low, high = points.min(0), points.max(0)
    unit = (points - low) / np.where(high > low, high - low, 1)
    x, y = np.round([8 + unit[:, 0] * 584, 8 + (1 - unit[:, 1]) * 344], 1)
    kept, ids = coreset.kept, coreset.ids
    return [{"x": x[k], "y": y[k], "kept": kept[i], "name": ids[i]} for k, i in enumerate(some)]


def knee(features: np.ndarray, coreset: Coreset) -> list[tuple[float, float]]:
    """Mean distance to the nearest kept image at several ratios, as a share of that to a single centre.

    The centre is the mean of the features.  Distances are averaged over up to PROBED random images.

    Args:
        features: float [n, d] of the images that the coreset ranks, such as those of
            :func:`~dedt_lib.clusters.principal`.
        coreset: The coreset, whose order decides which images are kept at other ratios.

    Returns:
        (ratio, share) for each of RATIOS.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    probed = features[np.sort(np.random.default_rng(1).permutation(len(features))[:PROBED])]
    whole = np.linalg.norm(probed - probed.mean(0), axis=1).mean() or 1.0
    order = np.argsort((coreset.rank + 0.5) / coreset.group_sizes, kind="stable")
    nearest, done, found = np.full(len(probed), np.inf), 0, []
    for ratio in RATIOS:
        count = max(1, round(ratio * len(features)))
        if count > done:
            added = features[order[done:count]]
            nearest = np.minimum(nearest, pairwise_distances_argmin_min(probed, added)[1])
        done = count
        found.append((ratio, float(nearest.mean() / whole)))
    return found
