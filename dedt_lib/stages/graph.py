"""The stages of one recipe: the graph that the verbs walk."""

from functools import cached_property

from ..config import Recipe
from ..errors import DedtError
from ..training import TrainingSettings
from . import evaluate, latents
from .base import Stage, closure, givens, walk
from .embed import Embed, encoder
from .lab import Lab
from .models import ModelSpec
from .reweight import Proxy, Shuffled
from .sample import Sample
from .select import Select
from .train import BALANCED, Snapshot, Train, TrainInfoBatch, Weighed, steps_at

LAST = {"embed": "embedding", "select": "coreset", "reweight": "proxy", "train": "model", "sample": "samples"}
"""Verb -> name of its last stage in :class:`Graph`."""


class Graph:
    """The stages of a recipe on a lab, each built on first use.

    Raises:
        DedtError: If values of the recipe and the profile are incompatible.
    """

    def __init__(self, lab: Lab, recipe: Recipe) -> None:
        self.lab, self.recipe = lab, recipe
        ratios = (*self.spec.section.ratios, 1.0)
        if (recipe.early_stopping or recipe.reference == "equal-steps") and recipe.ratio not in ratios:
            raise DedtError(
                "early_stopping and reference equal-steps need a ratio of the profile "
                f"({', '.join(map(str, ratios))}), where the run on all the data saves its weights; "
                f"got {recipe.ratio}."
            )
        if recipe.reference == "equal-steps" and self.spec.proxy_epochs != self.spec.settings.epochs:
            raise DedtError(
                f"reference equal-steps is not available for '{recipe.model}': its proxy takes fewer steps "
                "than a run on the coreset, and the run on all the data saves no weights at that step."
            )

    @property
    def spec(self) -> ModelSpec:
        """The recipe's kind of diffusion model under the profile."""
        return self.lab.spec(self.recipe.model)

    @property
    def compared(self) -> bool:
        """Whether metrics besides FID are measured: KID, precision, recall and CMMD."""
        return evaluate.compares(self.lab, self.spec)

    @property
    def settings(self) -> TrainingSettings:
        """How the recipe's model is trained."""
        return self.spec.settings

    @property
    def burn_in(self) -> float:
        """Share of the proxy's steps before the class weights move."""
        return self.lab.profile.reweight.burn_in if self.recipe.burn_in is None else self.recipe.burn_in

    @cached_property
    def embedding(self) -> Embed:
        """The features of the recipe's encoder."""
        return Embed(self.lab, encoder(self.lab, self.recipe.encoder, self.recipe.seed))

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
        r, stopped = self.recipe, self.recipe.reference == "equal-steps"
        common = (self.lab, r.model, self.coreset.trained_on(), r.seed)
        return Proxy(*common, burn_in=self.burn_in, equal_steps=stopped, rule=r.rule)

    @cached_property
    def weights(self) -> Weighed:
        """Source of the recipe's class weights: a stage, BALANCED, or None for no weights."""
        r = self.recipe
        if r.null == "another-seed":
            other = self.lab.profile.seed_after(r.seed)
            return Graph(self.lab, r.model_copy(update={"seed": other})).proxy
        if r.null == "shuffled":
            return Shuffled(self.lab, self.proxy, r.seed)
        return BALANCED if r.balancing else self.proxy if r.reweighting else None

    @cached_property
    def model(self) -> Train | Snapshot:
        """The run whose weights are sampled; with early stopping a snapshot of the run on all the data."""
        r, common = self.recipe, (self.lab, self.recipe.model)
        if r.early_stopping and r.ratio < 1:
            return Snapshot(self.lab, self.reference_run, steps_at(self.lab, self.spec, r.ratio, r.annealing))
        if r.infobatch:
            everything = Select.everything(self.lab)
            return TrainInfoBatch(*common, everything, r.seed, r.annealing, prune=r.infobatch, ratio=r.ratio)
        weighting = r.weighting if self.weights else "loss"
        coreset = self.coreset.trained_on()
        return Train(*common, coreset, r.seed, r.annealing, self.weights, weighting, r.plan, r.full_length)

    @cached_property
    def samples(self) -> Sample:
        """The samples of the recipe's model."""
        return Sample(self.lab, self.model, self.recipe.unguided)

    @cached_property
    def metrics(self) -> evaluate.Evaluate:
        """FID and near-copies of the samples."""
        run = self.model
        everything = isinstance(run, Snapshot | TrainInfoBatch) or run.annealing or run.visits_everything
        return evaluate.Evaluate(self.lab, self.samples, None if everything else self.coreset)

    @cached_property
    def comparison(self) -> evaluate.Compare:
        """KID, precision, recall and CMMD of the samples."""
        return evaluate.Compare(self.lab, self.metrics)

    def stages(self, until: str = "evaluate") -> list[Stage]:
        """The last stages of a verb: "embed", "select", "reweight", "train", "sample" or "evaluate".

        "measure" is the real-against-real FID, which needs no samples.
        """
        if until == "measure":
            return [evaluate.Floor(self.lab)]
        if until == "evaluate":
            return [self.metrics, *self.stages("measure"), *([self.comparison] if self.compared else [])]
        return [getattr(self, LAST[until])]

    def check_weights(self, until: str = "evaluate") -> None:
        """Load every published network that a verb needs (see :meth:`stages`), without reading any image.

        Raises:
            DedtError: For weights that are missing, altered or damaged, and for autoencoders that do not fit
                the images, each other or the pipeline.
        """
        outline = Graph(self.lab.with_counts([1000]), self.recipe)
        found = {given.role: given.on(self.lab).result() for given in givens(outline.stages(until))}
        latents.check_autoencoders(found, self.lab)

    def check_counts(self, until: str = "evaluate") -> None:
        """Raise DedtError if the profile or the lab's class counts rule out a stage of the verb."""
        for stage in walk(self.stages(until)):
            stage.check()

    def check(self, until: str = "evaluate") -> None:
        """Check the published networks, then the class counts, before anything is computed.

        With several processes, it also computes the stages whose work they share, because later one process
        works alone while the others wait.

        Args:
            until: A verb, see :meth:`stages`.

        Raises:
            DedtError: If a stage of the verb cannot be computed.
        """
        self.check_weights(until)
        self.check_counts(until)
        if self.lab.processes.count > 1:
            for stage in closure(self.stages(until)).values():
                if stage.together:
                    self.lab.folder(stage)
