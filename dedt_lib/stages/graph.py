"""The stages of one recipe: the graph that its verbs walk."""

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
"""A verb -> its last stage, by its name in :class:`Graph`."""


class Graph:
    """The stages of a recipe on a lab, each made when it is asked for.

    Raises:
        DedtError: For values of recipe and profile that do not go together.
    """

    def __init__(self, lab: Lab, recipe: Recipe) -> None:
        self.lab, self.recipe = lab, recipe
        ratios = (*self.spec.section.ratios, 1.0)
        if (recipe.early_stopping or recipe.reference == "equal-steps") and recipe.ratio not in ratios:
            raise DedtError(
                f"The run on all the data keeps its weights at the ratios {', '.join(map(str, ratios))} of "
                f"the profile only, so it cannot be had at equal steps for {recipe.ratio}."
            )
        if recipe.reference == "equal-steps" and self.spec.proxy_epochs != self.spec.settings.epochs:
            raise DedtError(
                f"The proxy of '{recipe.model}' takes fewer steps than a run on the coreset, and the run on "
                "all the data keeps no weights there, so reference equal-steps is of other models."
            )

    @property
    def spec(self) -> ModelSpec:
        """The recipe's kind of diffusion model under the profile."""
        return self.lab.spec(self.recipe.model)

    @property
    def compared(self) -> bool:
        """Whether the metrics beside FID are measured."""
        return self.spec.latent or self.lab.profile.evaluate.kid

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
        coreset = self.coreset.trained_on()
        return Proxy(self.lab, r.model, coreset, r.seed, burn_in=self.burn_in, equal_steps=stopped)

    @cached_property
    def weights(self) -> Weighed:
        """What gives the recipe's class weights."""
        r = self.recipe
        if r.null == "another-seed":
            others = (seed for seed in self.lab.profile.seeds if seed != r.seed)
            # The next one, and after the last the first.
            other = min(others, key=lambda seed: (seed < r.seed, seed), default=r.seed + 1)
            return Graph(self.lab, r.model_copy(update={"seed": other})).proxy
        if r.null == "shuffled":
            return Shuffled(self.lab, self.proxy, r.seed)
        return BALANCED if r.balancing else self.proxy if r.reweighting else None

    @cached_property
    def model(self) -> Train | Snapshot:
        """The run whose weights are sampled, or the run on all the data after so many steps."""
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
        """The metrics beside FID."""
        return evaluate.Compare(self.lab, self.metrics)

    def stages(self, until: str = "evaluate") -> list[Stage]:
        """The last stages of a verb: "embed", "select", "reweight", "train", "sample" or "evaluate".

        "measure" is what samples are measured against, without any.
        """
        if until == "measure":
            return [evaluate.Floor(self.lab)]
        if until == "evaluate":
            return [self.metrics, *self.stages("measure"), *([self.comparison] if self.compared else [])]
        return [getattr(self, LAST[until])]

    def check_weights(self, until: str = "evaluate") -> None:
        """Load every published network behind the stages ``until`` one, and nothing else: no image is read.

        Raises:
            DedtError: For weights that are missing, altered or damaged, and for autoencoders that fit neither
                the images nor each other.
        """
        outline = Graph(Lab(self.lab.profile, counts=[1000]), self.recipe)
        found = {given.role: given.on(self.lab).result() for given in givens(outline.stages(until))}
        latents.check_autoencoders(found, self.lab)

    def check_counts(self, until: str = "evaluate") -> None:
        """Raise DedtError for what profile and numbers of images do not allow, by what the lab has counted."""
        for stage in walk(self.stages(until)):
            stage.check()

    def check(self, until: str = "evaluate") -> None:
        """Raise DedtError for what cannot be had, before it is computed: published networks, then numbers of images.

        Several processes then make together what they have to, since later on one of them works alone while
        the others wait for it.

        until: As of :meth:`stages`.
        """
        self.check_weights(until)
        self.check_counts(until)
        if self.lab.processes.count > 1:
            for stage in closure(self.stages(until)).values():
                if stage.together:
                    self.lab.folder(stage)
