"""The training runs of a diffusion model: plain, weighted, annealed, with InfoBatch, or stopped early."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from torch import nn

from .. import plans
from ..errors import DedtError
from ..plans import ClassDrawPlan, EpochPlan, InfoBatchPlan
from ..selection import Coreset, class_to_sample_weights
from ..training import TrainingSettings, train
from ..weights import load_weights
from . import needs
from .base import Cost, Stage, defaults, uncounted
from .latents import pipeline, source, source_shape
from .models import ModelSpec
from .select import Select
from .training import model_bytes, training_cost

if TYPE_CHECKING:
    from .lab import Lab

BALANCED: Final = "balanced"
Weighed = Stage | Literal["balanced"] | None
"""Source of class weights: a stage, BALANCED for weights that let every class count the same, or None."""


class Train(Stage):
    """A diffusion model trained on a coreset; its result is the model with its EMA weights, in eval mode.

    Attributes:
        model: The kind of model, as in a recipe.
        coreset: The stage that chooses the images.
        seed: Seed of the network and of everything random in its training.
        annealing: Whether the last epochs visit all the data.
        weights: Source of the class weights.
        weighting: "loss" if the weights multiply the loss, "draw" if they set how often a class is drawn.
        visiting: Name of its plan in ``plans.REGISTRY``.
        full_length: Whether it takes about as many steps as the run on all the data.
    """

    model: str
    coreset: Select
    seed: int
    annealing: bool = False
    weights: Weighed = None
    weighting: str = "loss"
    visiting: str = ""
    full_length: bool = False

    name, resumable, together = "training", True, True

    @classmethod
    def on_everything(cls, lab: "Lab", model: str, seed: int) -> "Train":
        """The plain run on all the data: the reference of group DRO and of the controls at equal steps."""
        return cls(lab, model, Select.everything(lab), seed)

    @property
    def spec(self) -> ModelSpec:
        """The kind of model, with the profile's settings."""
        return self.lab.spec(self.model)

    @property
    def settings(self) -> TrainingSettings:
        """Training settings; ``full_length`` adds epochs to match the steps of the run on all the data."""
        settings = self.spec.settings
        if not self.full_length:
            return settings
        sizes = self.lab.n, sum(self.coreset.counts)
        all_steps, own = (-(-size // settings.batch_size) for size in sizes)
        return replace(settings, epochs=round(settings.epochs * all_steps / own))

    @property
    def is_reference(self) -> bool:
        """Whether it is the plain run on all the data."""
        plain = type(self) is Train and not (self.weights or self.annealing or self.visiting)
        return plain and self.visits_everything

    @property
    def visits_everything(self) -> bool:
        """Whether its coreset is all the data."""
        return sum(self.coreset.counts) == self.lab.n

    def inputs(self):
        read: dict[str, Stage] = {"images": self.lab.images, "coreset": self.coreset}
        if self.spec.latent:
            read["latents"] = source(self.lab, self.spec)
        if self.model == "stable-diffusion":
            read["pipeline"] = pipeline(self.lab)
        if isinstance(self.weights, Stage):
            read["weights"] = self.weights
        return read

    def decides(self):
        p = self.lab.profile.train
        choice: dict[str, Any] = {
            "model": {"name": self.model, **self.spec.decides()},
            "settings": self.settings.decisive,
            "annealing_start": self.start,
            "seed": self.seed,
        }
        if self.weights:
            keep = self.annealing and p.annealing_weights == "keep"
            choice |= {"weighting": self.weighting, "annealing_weights": "keep" if keep else "uniform"}
        if self.visiting:
            choice["plan"] = {"name": self.visiting, **defaults(plans.REGISTRY[self.visiting])}
        return {**choice, "balanced": True} if self.weights == BALANCED else choice

    def check(self):
        kept, lab, ratio = self.coreset.counts, self.lab, self.coreset.ratio
        if len(kept) == len(lab.class_names):
            needs.no_empty_class(kept, lab.class_names, ratio, self._advice)
        elif kept[0] < len(lab.class_names):
            raise DedtError(
                f"Ratio {ratio:g} keeps {kept[0]} of {lab.n} images, too few for {len(lab.class_names)} "
                f"classes: {self._advice}."
            )

    @property
    def _advice(self):
        """What to do about classes that keep no image."""
        one_each = len(self.coreset.counts) == len(self.lab.class_names)
        scope, fewest = "class" if one_each else self.coreset.scope, self.coreset.selector.fewest
        return needs.advice(self.lab.class_counts, scope, self.coreset.ratio, fewest)

    # ---- the samples it visits

    @property
    def start(self) -> float:
        """Share of the epochs on the coreset, before annealing."""
        return self.lab.profile.train.annealing_start if self.annealing else 1.0

    def weighted(self) -> Coreset:
        """The coreset, with class weights if the run has any."""
        coreset = self.coreset.result()
        if isinstance(self.weights, Stage):
            return coreset.with_weights(self.weights.result()["weights"])
        if self.weights:
            K = len(coreset.class_names)
            return coreset.with_weights(np.full(K, 1 / K))
        return coreset

    def plan(self) -> EpochPlan:
        """Which samples each epoch visits, with what weights: see :mod:`dedt_lib.plans`."""
        coreset, data = self.weighted(), self.lab.data
        needs.no_empty_class(coreset.counts.tolist(), coreset.class_names, coreset.ratio, self._advice)
        kept, course = coreset.indices, self.course
        if coreset.weights is not None and self.lab.profile.train.annealing_weights == "keep":
            everything = class_to_sample_weights(coreset.weights, data.class_counts)
            course["tail_weights"] = everything[data.labels]
        if self.weighting == "draw" and coreset.weights is not None:
            return ClassDrawPlan(kept, coreset.labels[kept], coreset.weights, **course)
        return plans.REGISTRY[self.visiting](kept, weights=coreset.sample_weights[kept], **course)

    @property
    def course(self) -> dict[str, Any]:
        """Arguments of its plan that do not depend on the coreset."""
        p = {"total": self.lab.n, "epochs": self.settings.epochs, "annealing_start": self.start}
        return {**p, "seed": self.seed}

    def outline(self) -> EpochPlan:
        """A plan of the same length, known before the coreset is chosen."""
        return plans.REGISTRY[self.visiting](np.arange(sum(self.coreset.counts)), **self.course)

    # ---- the run

    @property
    def kept_steps(self) -> set[int]:
        """Steps after which the EMA weights are saved as well, to see what more steps bring."""
        if not (self.is_reference or self.full_length):
            return set()
        ratios = self.spec.section.ratios
        return {
            steps_at(self.lab, self.spec, ratio, annealing) for ratio in ratios for annealing in (False, True)
        }

    def build(self, seed: int | None = None) -> nn.Module:
        """The model, freshly initialised."""
        start = pipeline(self.lab).result() if self.model == "stable-diffusion" else None
        shape = source_shape(self.lab, self.spec)
        return self.spec.build(shape, self.lab.class_names, self.seed if seed is None else seed, start)

    def weigh(self) -> Any:
        """What adapts the class weights during training (group DRO), or None."""
        return None

    def work(self, folder):
        lab, plan, weighting = self.lab, self.plan(), self.weigh()
        how = {"seed": self.seed, "weighting": weighting, "keep_steps": self.kept_steps}
        how |= {"folder": folder, "device": lab.device, "processes": lab.processes, "progress": self.name}
        result = train(self.build(), source(lab, self.spec).result(), plan, self.settings, **how)
        if weighting is not None and lab.processes.main:
            paths = {name: value.cpu().numpy() for name, value in weighting.state().items()}
            np.savez(folder / "dro.npz", **paths)
            np.save(folder / "weights.npy", weighting.average)
        return {
            "steps": result.steps,
            "images_seen": result.images_seen,
            "processes": lab.processes.count,
            "training_seconds": round(result.seconds, 3),
            "training_cpu_seconds": round(result.cpu_seconds, 3),
        }

    @property
    def steps(self) -> int:
        """Optimiser steps behind these weights."""
        return self.manifest()["steps"]

    @property
    def losses(self) -> np.ndarray:
        """Mean loss of each step: float32 [steps]."""
        return np.load(self.folder / "losses.npy")

    def load(self, folder):
        return load_weights(self.build(), folder / "model.safetensors").eval()

    def cost(self) -> Iterable[Cost]:
        tail = ", annealed" if self.annealing else ""
        if self.visits_everything and not self.weights:
            what = f"all the data{tail}"
        else:
            kind = ", balanced" if self.weights == BALANCED else ", weighted" if self.weights else ""
            what = f"coreset{kind}{tail}"
        what += f", {self.visiting}" if self.visiting else ""
        run = training_cost(self.lab, self.spec, self.outline().sizes(), self.settings, "training", what)
        kept = len(self.kept_steps) * model_bytes(self.lab, self.spec)
        kind = "reference" if self.is_reference else run.kind
        yield replace(run, kind=kind, bytes=run.bytes + kept)


class TrainInfoBatch(Train):
    """A run on all the data, which InfoBatch prunes in every epoch (Qin et al., 2024).

    Attributes:
        prune: "ratio" keeps the share ``ratio`` of the well-learned samples; "budget" keeps as many samples
            as a coreset of that ratio has.
        ratio: See ``prune``.
    """

    prune: str = "ratio"
    ratio: float = 1.0

    version = 2

    def decides(self):
        return {**super().decides(), "infobatch": {self.prune: self.ratio}}

    def plan(self):
        keep = {"prune_ratio": 1 - self.ratio} if self.prune == "ratio" else {"budget": self.ratio}
        course = {"delta": self.start, "epochs": self.settings.epochs, "seed": self.seed}
        return InfoBatchPlan(self.lab.n, **course, **keep)

    def cost(self, least: bool = False) -> Iterable[Cost]:
        """The highest cost, or with ``least`` the lowest: the losses decide how much is pruned."""
        tail = ", annealed" if self.annealing else ""
        what = f"InfoBatch {'to budget' if self.prune == 'budget' else 'by ratio'}{tail}"
        yield training_cost(self.lab, self.spec, self.plan().sizes(least), self.settings, "training", what)


class Snapshot(Stage):
    """The EMA weights of a run after as many steps as another run takes.

    Attributes:
        reference: A run that saves weights on its way: on all the data, or a full-length run on a coreset.
        steps: Number of steps after which its weights are taken.
    """

    reference: Train
    steps: int

    name = "snapshot"

    def inputs(self):
        return {"reference": self.reference}

    def decides(self):
        return {"step": self.steps}

    @property
    def folder(self):
        return self.reference.folder

    @property
    def weights_file(self) -> Path:
        """The file with the weights to sample from."""
        last = self.steps == self.reference.outline().steps(self.reference.settings.batch_size)
        file = self.folder / ("model.safetensors" if last else f"ema-{self.steps:06d}.safetensors")
        if not file.exists():
            raise DedtError(
                f"The run in {self.folder} is older than the ratios in the profile and saved no weights "
                f"after {self.steps} steps. Delete this folder and run the same command again."
            )
        return file

    @property
    def spec(self) -> ModelSpec:
        """The kind of model, with the profile's settings."""
        return self.reference.spec

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.reference.seed

    @property
    def losses(self) -> np.ndarray:
        """Mean loss of each step: float32 [steps]."""
        return self.reference.losses[: self.steps]

    def load(self, folder):
        return load_weights(self.reference.build(), self.weights_file).eval()

    cost = uncounted  # the reference run saves these weights


def steps_at(lab: "Lab", spec: ModelSpec, ratio: float, annealing: bool = False) -> int:
    """Optimiser steps of a run on a coreset with the share ``ratio`` of every class.

    The control at equal steps is the run on all the data, stopped there.  Both warm up over the same
    ``warmup_steps``.
    """
    count = sum(round(ratio * n) for n in lab.class_counts)
    start = lab.profile.train.annealing_start if annealing else 1.0
    plan = EpochPlan(np.arange(count), total=lab.n, epochs=spec.settings.epochs, annealing_start=start)
    return plan.steps(spec.settings.batch_size)
