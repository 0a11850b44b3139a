"""One cell of a table: the metrics, costs, class weights and provenance of a run, ready for JSON."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import thin
from .files import commit
from .reweighting import effective_classes
from .stages.base import Given, Stage, closure, published
from .stages.data import Images
from .stages.embed import DDAE
from .stages.evaluate import check_names
from .stages.latents import PretrainPipeline
from .stages.reweight import Proxy
from .stages.sample import Sample
from .stages.train import Snapshot, Train

if TYPE_CHECKING:
    from .experiment import Experiment

STAGES = f"{__package__}.stages."
PROVENANCE = ("date", "machine", "device", "threads", "python", "versions")


def costs(experiment: "Experiment") -> dict[str, dict[str, float]]:
    """Cost ledger of a recipe: part -> {"seconds", "cpu_seconds", "images", "evaluations"}.

    Every stage that the recipe needs counts in full, even if another run has already computed it.  images:
    training images that a diffusion model has seen.  evaluations: forward passes of one image through the
    network in training; a backward pass counts as two.  Parts that the recipe does not need are absent.
    """
    e, ledger = experiment, dict[str, dict[str, float]]()
    before = closure([e.model])
    for stage in closure([e.model, *e.stages()]).values():
        if spent := _spent(e, stage):
            after = "sample" if isinstance(stage, Sample) else "evaluate"
            part = _part(e, stage) if stage.address in before else after
            sums = ledger.setdefault(part, dict.fromkeys(spent, 0.0))
            ledger[part] = {unit: sums[unit] + value for unit, value in spent.items()}
    return ledger


def _part(experiment: "Experiment", stage: Stage) -> str:
    """Ledger part of a stage that the model needs: "reference", or the name of its part of ``stages``."""
    if isinstance(stage, Train) and stage.is_reference and stage.address != experiment.training_run.address:
        return "reference"
    modules = (kind.__module__ for kind in type(stage).__mro__)
    return next(name for name in modules if name.startswith(STAGES)).removeprefix(STAGES).partition(".")[0]


def _spent(experiment: "Experiment", stage: Stage) -> dict[str, float]:
    """Cost of a stage, or its share up to the step where a reference stops early; {} if none is counted."""
    if isinstance(stage, Given | Images | Snapshot):
        return {}
    manifest, model, share, per_image = stage.manifest(), experiment.model, 1.0, 0
    if isinstance(model, Snapshot) and stage.address == model.reference.address:
        share = model.steps / manifest["steps"]
    images = manifest.get("images_seen", 0) * share
    if images and isinstance(stage, Train | DDAE | PretrainPipeline):
        per_image = stage.spec.proxy_evaluations if isinstance(stage, Proxy) else stage.spec.evaluations
    return {
        "seconds": manifest.get("training_seconds", manifest["seconds"]) * share,
        "cpu_seconds": manifest.get("training_cpu_seconds", manifest["cpu_seconds"]) * share,
        "images": images,
        "evaluations": per_image * images,
    }


def cell(experiment: "Experiment") -> dict[str, Any]:
    """Everything that a table shows about a recipe."""
    e = experiment
    e.check()
    metrics, training, ledger = e.metrics.result(), e.model.manifest(), costs(e)
    coreset = e.weighted_coreset()
    result = {
        "profile": e.profile.name,
        "recipe": e.recipe.model_dump(),
        "scope": e.scope,
        "class_names": list(coreset.class_names),
        "class_counts": coreset.counts.tolist(),
        "real_class_counts": e.lab.class_counts.tolist(),
        "class_weights": None if coreset.weights is None else coreset.weights.tolist(),
        "normaliser": None if coreset.weights is None else "coreset",
        "steps": e.model.steps,
        "realised": ledger["train"]["images"] / (e.settings.epochs * e.lab.n),
        "costs": ledger,
        "floor": e.floor(),
        "run": training["key"],
        "provenance": {name: training[name] for name in PROVENANCE}
        | {"commit": commit()}
        | published(e.stages()),
        **metrics,
    }
    check_names({*result, "dro", "row", "images", "cell", "ratio", "seed", "worst"})
    result |= e.comparison.result() if e.compared else {}
    return {**result, "dro": dro_facts(e.proxy.result())} if e.recipe.reweighting else result


def dro_facts(dro: dict[str, Any]) -> dict[str, Any]:
    """Results of group DRO, with its trajectories thinned to at most 100 steps."""
    moved = slice(dro["burn_in"], None)
    return {
        "burn_in": dro["burn_in"],
        "effective_classes": float(effective_classes(dro["weights"])),
        "clipped": float(dro["clipped"][moved].mean()),
        "mean_excess": float(dro["excess"][moved].mean()),
        "steps": len(dro["trajectory"]),
        "trajectory": np.round(thin(dro["trajectory"], 100), 5).tolist(),
        "clipped_path": np.round(thin(dro["clipped"], 100), 4).tolist(),
        "excess_path": np.round(thin(dro["excess"].mean(axis=1), 100), 6).tolist(),
    }
