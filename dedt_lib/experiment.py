"""One run of the method: a recipe, and the stages that it is made of.

Every stage is stored by what decides it, so notebooks, the command line and the tables share their results.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from . import cell
from .config import Profile, Recipe, checked
from .data import LabelledImages
from .errors import DedtError
from .latents import Latents
from .plans import EpochPlan, InfoBatchPlan
from .selection import Coreset
from .stages import Lab, Stage, evaluate, latents, needs, train
from .stages.base import givens
from .stages.embed import Embed, encoder
from .stages.models import ModelSpec, twin
from .stages.reweight import Proxy
from .stages.sample import Sample, model_facts
from .stages.select import Select
from .stages.train import BALANCED, Snapshot, Train, TrainInfoBatch
from .store import Store
from .training import TrainingSettings


class Experiment:
    """The stages of one recipe.  ``Experiment("digits", method="moderate", ratio=0.1)``.

    Methods compute what is missing and return what is stored.

    Args:
        profile: A name, a file, a Profile, or the :class:`~dedt_lib.stages.lab.Lab` of another experiment.
        store: A Store (default: ``$DEDT_STORE``, else ``runs/``).
        device: Such as "cuda"; by default the GPU if there is one.
        report: A folder for the list of images that cannot be read (default: the store's).
        recipe: Fields of :class:`~dedt_lib.config.Recipe`.

    Raises:
        DedtError: For an unknown profile or field, and for values that do not go together.
    """

    def __init__(
        self,
        profile: str | Path | Profile | Lab = "digits",
        *,
        store: Store | None = None,
        device: str | None = None,
        report: Path | None = None,
        **recipe: Any,
    ):
        given = {"store": store, "device": device, "report": report}
        self.lab = profile if isinstance(profile, Lab) else Lab(profile, **given)
        self.profile, self.store = self.lab.profile, self.lab.store
        self.device, self.processes = self.lab.device, self.lab.processes
        self.recipe = r = checked(Recipe, recipe)
        ratios = (*self.spec.ratios, 1.0)
        if r.early_stopping and r.ratio not in ratios:
            raise DedtError(
                f"The run on all the data keeps its weights at the ratios {', '.join(map(str, ratios))} of the "
                f"profile only, so early_stopping cannot be had at {r.ratio}."
            )

    def change(self, **recipe: Any) -> "Experiment":
        """The same experiment with other recipe values; whatever was loaded is shared."""
        return Experiment(self.lab, **{**self.recipe.model_dump(), **recipe})

    @property
    def data(self) -> LabelledImages:
        """The training images."""
        return self.lab.data

    @property
    def test(self) -> LabelledImages | None:
        """Held-out images, or None when the source has none."""
        return self.lab.test

    # ---- the stages ------------------------------------------------------------------------------

    @property
    def spec(self) -> ModelSpec:
        """The recipe's kind of diffusion model under the profile."""
        return self.lab.spec(self.recipe.model)

    @property
    def settings(self) -> TrainingSettings:
        """How the recipe's model is trained."""
        return self.spec.settings

    @cached_property
    def embedding(self) -> Embed:
        """The features of the recipe's encoder."""
        return Embed(self.lab, encoder(self.lab, self.recipe.encoder))

    @cached_property
    def coreset(self) -> Select:
        """The recipe's coreset."""
        return Select.of(self.lab, self.recipe)

    @cached_property
    def reference_run(self) -> Train:
        """The run on all the data with this seed: reference, and control at equal compute."""
        return Train.on_everything(self.lab, self.recipe.model, self.recipe.seed)

    @cached_property
    def proxy(self) -> Proxy:
        """Group DRO on the recipe's coreset."""
        return Proxy(
            self.lab, self.recipe.model, self.coreset.trained_on(), self.recipe.seed, burn_in=self.burn_in
        )

    @cached_property
    def model(self) -> Train | Snapshot:
        """The run whose weights are sampled, or the run on all the data after so many steps."""
        r, common = self.recipe, (self.lab, self.recipe.model)
        if r.early_stopping and r.ratio < 1:
            return Snapshot(self.lab, self.reference_run, self.steps_at(r.ratio, r.annealing))
        if r.infobatch:
            pruned = {"prune": r.infobatch, "ratio": r.ratio}
            return TrainInfoBatch(*common, Select.everything(self.lab), r.seed, r.annealing, **pruned)
        weights = BALANCED if r.balancing else self.proxy if r.reweighting else None
        weighting = r.weighting if weights else "loss"
        return Train(*common, self.coreset.trained_on(), r.seed, r.annealing, weights, weighting)

    @cached_property
    def samples(self) -> Sample:
        """The samples of the recipe's model."""
        return Sample(self.lab, self.model, self.recipe.unguided)

    @cached_property
    def metrics(self) -> evaluate.Evaluate:
        """FID and near-copies of the samples."""
        return evaluate.Evaluate(self.lab, self.samples, evaluate.seen_by(self.model, self.coreset))

    @cached_property
    def comparison(self) -> evaluate.Compare:
        """The metrics beside FID."""
        return evaluate.Compare(self.lab, self.metrics)

    def stages(self, until: str = "evaluate") -> list[Stage]:
        """The last stages that a verb asks for: "embed", "select", "reweight", "train", "sample" or "evaluate"."""
        if until == "evaluate":
            return [self.metrics, evaluate.Floor(self.lab), *([self.comparison] if self.spec.latent else [])]
        names = {
            "embed": "embedding",
            "select": "coreset",
            "reweight": "proxy",
            "train": "model",
            "sample": "samples",
        }
        return [getattr(self, names[until])]

    # ---- before anything is computed -----------------------------------------------------------------

    def check_weights(self, until: str = "evaluate") -> None:
        """Load every published network behind the stages ``until`` one, and nothing else.

        Raises:
            DedtError: For weights that are missing, altered or damaged, and for autoencoders that fit neither the
                images nor each other.
        """
        found = {stage.role: stage.result() for stage in givens(self.stages(until))}
        latents.check_autoencoders(found, self.lab)

    def check(self, stage: str = "evaluate") -> None:
        """Raise DedtError for what the numbers of images do not allow, before it is computed.

        stage: "select", "train" or "evaluate", each with those before it; "measure": FID alone, without them.
        """
        counts, names, scope = self.lab.class_counts.tolist(), self.lab.class_names, self.coreset.scope
        if stage == "select":
            needs.selection(self.recipe, scope, counts, names)
        elif stage != "measure":
            needs.training(self.recipe, scope, counts, names)
        if stage in ("evaluate", "measure"):
            needs.evaluation(self.profile, self.recipe, counts)

    # ---- the verbs -----------------------------------------------------------------------------------

    @property
    def scope(self) -> str:
        """The selector's scope: the recipe's, else the profile's, else that of the cited code."""
        return self.coreset.scope

    @property
    def burn_in(self) -> float:
        """Share of the proxy's steps before the class weights move."""
        return self.profile.reweight.burn_in if self.recipe.burn_in is None else self.recipe.burn_in

    @property
    def encoder(self) -> tuple[nn.Module, dict[str, Any]]:
        """The recipe's surrogate encoder and the manifest of its training."""
        return self.embedding.reader(), self.embedding.encoder.manifest()

    def embed(self) -> np.ndarray:
        """Features of all training images by the encoder: float32 [n, d], memory-mapped and read-only."""
        return self.embedding.result()

    def select(self) -> Coreset:
        """The recipe's coreset, without class weights."""
        self.check("select")
        return self.coreset.result()

    def reweight(self) -> dict[str, Any]:
        """What group DRO learned on this coreset: see :class:`~dedt_lib.stages.reweight.Proxy`."""
        self.check_weights("reweight")
        self.check("train")
        return self.proxy.result()

    def weighted_coreset(self) -> Coreset:
        """The coreset, with its class weights if the recipe asks for reweighting or balancing."""
        return (
            self.reference_run.coreset.result() if isinstance(self.model, Snapshot) else self.model.weighted()
        )

    def plan(self) -> EpochPlan | InfoBatchPlan:
        """Which samples each epoch of the run visits, with what weights: see :mod:`dedt_lib.plans`."""
        return self.reference_run.plan() if isinstance(self.model, Snapshot) else self.model.plan()

    def build_model(self, seed: int | None = None) -> nn.Module:
        """The diffusion model, freshly initialised from the seed."""
        return self.reference_run.build(seed)

    def reference(self) -> nn.Module:
        """The reference model: EMA weights of the run on all the data with this seed."""
        return self.reference_run.load(self.reference_run.folder)

    def train(self) -> nn.Module:
        """The recipe's diffusion model (EMA weights), trained if need be."""
        self.check_weights("train")
        self.check("train")
        return self.model.load(self.model.folder)

    def training(self) -> dict[str, Any]:
        """Manifest of the recipe's training run, with "losses" float32 [steps] added."""
        self.check("train")
        return model_facts(self.model)

    def steps_at(self, ratio: float, annealing: bool = False) -> int:
        """Optimiser steps of a run on a coreset with the share ``ratio`` of every class."""
        return train.steps_at(self.lab, self.spec, ratio, annealing)

    def sample(self) -> np.ndarray:
        """Generated images: uint8 [samples, C, H, W]; their classes are :meth:`sample_labels`."""
        self.check_weights("sample")
        self.check("train")
        return self.samples.result()

    def sample_labels(self) -> np.ndarray:
        """Classes of the samples, in the shares of the training images: int64 [samples]."""
        return self.samples.labels()

    def save_pipeline(self, folder: Path) -> None:
        """Save the recipe's fine-tuned Stable Diffusion as a diffusers pipeline that decodes as :meth:`sample` does.

        Raises:
            DedtError: For other models.
        """
        if self.recipe.model != "stable-diffusion":
            raise DedtError(
                f"Only model='stable-diffusion' is a pipeline; this recipe has '{self.recipe.model}'."
            )
        from .models.stable_diffusion import save_pipeline

        start, vae = latents.pipeline(self.lab).result(), latents.decoder(self.lab).result()
        save_pipeline(self.train(), twin(start, vae=vae), folder)

    def evaluate(self) -> dict[str, Any]:
        """FID, class-wise FID and near-copies: see :class:`~dedt_lib.stages.evaluate.Evaluate`."""
        self.check_weights()
        self.check()
        return self.metrics.result()

    def compare(self) -> dict[str, Any]:
        """The metrics beside FID: see :class:`~dedt_lib.stages.evaluate.Compare`."""
        self.check_weights()
        self.check()
        return self.comparison.result()

    def floor(self) -> dict[str, Any]:
        """Real half against real half: see :class:`~dedt_lib.stages.evaluate.Floor`."""
        self.check("measure")
        return evaluate.Floor(self.lab).result()

    # ---- what the stages share -----------------------------------------------------------------------

    @property
    def latents(self) -> Latents:
        """All training images as latents, encoded once."""
        return latents.encoded(self.lab).result()

    def real(self) -> dict[str, Any]:
        """The real side of every FID: see :class:`~dedt_lib.stages.evaluate.Real`."""
        self.check("measure")
        return evaluate.Real(self.lab).result()

    def held_out(self) -> dict[str, Any] | None:
        """Distances of held-out images to the training images: see :class:`~dedt_lib.stages.evaluate.HeldOut`."""
        return evaluate.HeldOut(self.lab).result()

    def metric_features(self, images: np.ndarray) -> np.ndarray:
        """Features of uint8 images for FID: float32 [n, d]."""
        return evaluate.features(self.lab, images)

    # ---- one cell ------------------------------------------------------------------------------------

    def costs(self) -> dict[str, dict[str, float]]:
        """Cost ledger: see :func:`dedt_lib.cell.costs`."""
        return cell.costs(self)

    def cell(self) -> dict[str, Any]:
        """Everything a table shows of this recipe, ready for JSON: see :func:`dedt_lib.cell.cell`."""
        return cell.cell(self)
