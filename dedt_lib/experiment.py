"""One run of the method: a recipe and its stages.

A stage is stored under a hash of everything that decides its result, so notebooks, the command line and the
tables share results.
"""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from . import cell
from .config import Profile, Recipe, checked
from .data import LabelledImages
from .errors import DedtError
from .latents import Latents
from .plans import EpochPlan
from .selection import Coreset
from .stages import Lab, evaluate, latents, train
from .stages.graph import Graph
from .stages.models import twin
from .stages.train import Snapshot, Train
from .store import Store


class Experiment(Graph):
    """One recipe, with a method for each verb: ``Experiment("digits", method="moderate", ratio=0.1)``.

    A method returns the stored result, and computes it first if it is missing.

    Args:
        profile: A name, a file, a Profile, or the :class:`~dedt_lib.stages.lab.Lab` of another experiment.
        store: A Store or its folder (default: ``$DEDT_STORE``, else ``runs/``).
        device: Device to compute on, such as "cuda"; by default the profile's, else the GPU if there is one.
        report: Folder for the list of images that cannot be read (default: the store's).
        recipe: Fields of :class:`~dedt_lib.config.Recipe`.

    Raises:
        DedtError: A profile or field is unknown, or values contradict each other.
    """

    def __init__(
        self,
        profile: str | Path | Profile | Lab = "digits",
        *,
        store: Store | Path | str | None = None,
        device: str | None = None,
        report: Path | None = None,
        **recipe: Any,
    ) -> None:
        if not isinstance(profile, Lab):
            profile = Lab(profile, store=store, device=device, report=report)
        super().__init__(profile, checked(Recipe, recipe))
        self.profile, self.store = self.lab.profile, self.lab.store
        self.device, self.processes = self.lab.device, self.lab.processes

    def change(self, **recipe: Any) -> "Experiment":
        """The same experiment with other recipe values; it shares everything that is already loaded."""
        return Experiment(self.lab, **{**self.recipe.model_dump(), **recipe})

    @property
    def data(self) -> LabelledImages:
        """The training images."""
        return self.lab.data

    @property
    def test(self) -> LabelledImages | None:
        """Held-out images, or None when the source has none."""
        return self.lab.test

    # ---- the verbs -----------------------------------------------------------------------------------

    @property
    def scope(self) -> str:
        """Scope of the selector: from the recipe, else from the profile, else as in the cited code."""
        return self.coreset.scope

    @property
    def encoder(self) -> tuple[nn.Module, dict[str, Any]]:
        """The recipe's surrogate encoder and the manifest of its training."""
        return self.embedding.encoder.result(), self.embedding.encoder.manifest()

    def _result(self, verb: str) -> Any:
        """Result of the (first) final stage of a verb, after a check that it can be computed."""
        self.check(verb)
        return self.stages(verb)[0].result()

    def embed(self) -> np.ndarray:
        """Features of all training images from the encoder: float32 [n, d], memory-mapped and read-only."""
        return self._result("embed")

    def select(self) -> Coreset:
        """The recipe's coreset, without class weights."""
        return self._result("select")

    def reweight(self) -> dict[str, Any]:
        """Results of group DRO on this coreset: see :class:`~dedt_lib.stages.reweight.Proxy`."""
        return self._result("reweight")

    @property
    def training_run(self) -> Train:
        """The training run whose weights are sampled: its final ones, or those of an earlier step."""
        return self.model.reference if isinstance(self.model, Snapshot) else self.model

    def weighted_coreset(self) -> Coreset:
        """The coreset, with its class weights if the recipe asks for reweighting or balancing."""
        return self.training_run.weighted()

    def plan(self) -> EpochPlan:
        """Which samples each epoch of the run visits, and with what weights: see :mod:`dedt_lib.plans`."""
        return self.training_run.plan()

    def build_model(self, seed: int | None = None) -> nn.Module:
        """The diffusion model, freshly initialised from the seed."""
        return self.reference_run.build(seed)

    def reference(self) -> nn.Module:
        """The reference model: EMA weights of the run on all the data with this seed."""
        return self.reference_run.load(self.reference_run.folder)

    def train(self) -> nn.Module:
        """The recipe's diffusion model (EMA weights), trained if it is missing."""
        self.check("train")
        return self.model.load(self.model.folder)

    def training(self) -> dict[str, Any]:
        """Manifest of the recipe's training run, with its "losses" (float32 [steps]) added."""
        self.check("train")
        return {**self.model.manifest(), "losses": self.model.losses}

    def steps_at(self, ratio: float, annealing: bool = False) -> int:
        """Optimiser steps of a run on a coreset with the share ``ratio`` of every class."""
        return train.steps_at(self.lab, self.spec, ratio, annealing)

    def sample(self) -> np.ndarray:
        """Generated images: uint8 [samples, C, H, W]; their classes are :meth:`sample_labels`."""
        return self._result("sample")

    def sample_labels(self) -> np.ndarray:
        """Classes of the samples, in the proportions of the training images: int64 [samples]."""
        return self.samples.labels()

    def save_pipeline(self, folder: Path) -> None:
        """Save the fine-tuned Stable Diffusion as a diffusers pipeline, which decodes as :meth:`sample` does.

        Raises:
            DedtError: The recipe uses another model.
        """
        if self.recipe.model != "stable-diffusion":
            raise DedtError(
                f"Only model='stable-diffusion' can be saved as a pipeline; got '{self.recipe.model}'."
            )
        from .models.stable_diffusion import save_pipeline

        start, vae = latents.pipeline(self.lab).result(), latents.decoder(self.lab).result()
        save_pipeline(self.train(), twin(start, vae=vae), folder)

    def evaluate(self) -> dict[str, Any]:
        """FID, class-wise FID and near-copies: see :class:`~dedt_lib.stages.evaluate.metrics.Evaluate`."""
        return self._result("evaluate")

    def compare(self) -> dict[str, Any]:
        """The metrics besides FID: see :class:`~dedt_lib.stages.evaluate.metrics.Compare`."""
        self.check()
        return self.comparison.result()

    def floor(self) -> dict[str, Any]:
        """FID between two halves of the real images: see :class:`~dedt_lib.stages.evaluate.real.Floor`."""
        return self._result("measure")

    # ---- what the stages share -----------------------------------------------------------------------

    @property
    def latents(self) -> Latents:
        """All training images as latents, encoded once."""
        return latents.encoded(self.lab).result()

    def real(self) -> dict[str, Any]:
        """The real side of every FID: see :class:`~dedt_lib.stages.evaluate.real.Real`."""
        self.check("measure")
        return evaluate.Real(self.lab).result()

    def held_out(self) -> dict[str, Any] | None:
        """Distances from held-out to training images: see :class:`~dedt_lib.stages.evaluate.real.HeldOut`."""
        return evaluate.HeldOut(self.lab).result()

    def metric_features(self, images: np.ndarray) -> np.ndarray:
        """Features of uint8 images for FID: float32 [n, d]."""
        return evaluate.features(self.lab, images)

    # ---- one cell ------------------------------------------------------------------------------------

    def costs(self) -> dict[str, dict[str, float]]:
        """Cost ledger: see :func:`dedt_lib.cell.costs`."""
        return cell.costs(self)

    def cell(self) -> dict[str, Any]:
        """Everything that a table shows about this recipe, ready for JSON: see :func:`dedt_lib.cell.cell`."""
        return cell.cell(self)
