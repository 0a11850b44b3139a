"""What a table shows of one run: its metrics, costs, weights and provenance, ready for JSON."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .reweighting import effective_classes
from .stages.base import Stage, published
from .stages.embed import DDAE
from .stages.train import Snapshot

if TYPE_CHECKING:
    from .experiment import Experiment

PROVENANCE = ("date", "machine", "device", "threads", "python", "versions")


def costs(experiment: "Experiment") -> dict[str, dict[str, float]]:
    """Cost ledger of a recipe: stage -> {"seconds", "cpu_seconds", "images", "evaluations"}.

    images: those that a diffusion model was trained on.  evaluations: of the network, in forward passes of one image;
    a backward pass counts two.  Stages that the recipe does not need are absent.
    """
    e, r, spec = experiment, experiment.recipe, experiment.spec

    def entry(stage: Stage, per_image: int = spec.evaluations, share: float = 1.0) -> dict[str, float]:
        manifest = stage.manifest()
        images = manifest.get("images_seen", 0) * share
        return {
            "seconds": manifest.get("training_seconds", manifest["seconds"]) * share,
            "cpu_seconds": manifest.get("training_cpu_seconds", manifest["cpu_seconds"]) * share,
            "images": images,
            "evaluations": per_image * images,
        }

    if isinstance(e.model, Snapshot):
        return {"train": entry(e.model, share=e.model.step / e.model.manifest()["steps"])}
    ledger = {}
    if e.coreset.embedding and not r.infobatch:
        trained = e.embedding.encoder
        ledger["embed"] = entry(trained, e.lab.spec("unet").evaluations if isinstance(trained, DDAE) else 0)
        ledger["select"] = entry(e.coreset)
    if r.reweighting:
        ledger["reference"] = entry(e.reference_run)
        ledger["proxy"] = entry(e.proxy, spec.proxy_evaluations)
    ledger["train"] = entry(e.model)
    return ledger


def cell(experiment: "Experiment") -> dict[str, Any]:
    """Everything a table shows of a recipe."""
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
        "provenance": {name: training[name] for name in PROVENANCE} | published(e.stages()),
        **metrics,
        **(e.comparison.result() if e.compared else {}),
    }
    return {**result, "dro": dro_facts(e.proxy.result())} if e.recipe.reweighting else result


def dro_facts(dro: dict[str, Any]) -> dict[str, Any]:
    """What group DRO learned, in at most 100 steps of its paths."""
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


def thin(rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` evenly spaced rows of an array, the last one included."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
