"""A Recipe says which run is wanted: a cell of a table, or a run of your own."""

# mypy: disable-error-code="valid-type"

from collections.abc import Collection
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .. import plans, selection
from ..encoder_names import NAMES, is_pretrained
from ..reweighting import RULES, USUAL
from ..selection import BANDS, CENTRES

# The stages fill in the values, so that checking a name does not import PyTorch.
ENCODERS: dict[str, Any] = dict.fromkeys(("resnet18", "inceptionv3", "clip-rn50", "ddae"))
"""Name of an encoder -> its stage or network: see :mod:`dedt_lib.stages.embed`."""
MODELS: dict[str, Any] = dict.fromkeys(("unet", "mdt", "stable-diffusion"))
"""Name of a diffusion model -> its ModelSpec: see :mod:`dedt_lib.stages.models`."""


def known(registry: Collection[str], name: str, *more: str) -> str:
    """Return ``name`` if it is in the registry, which may grow after import; else raise ValueError."""
    if name not in registry:
        choices = ", ".join(filter(None, (*registry, *more)))
        raise ValueError(f"choose one of: {choices}" if choices else "none is registered: leave it out")
    return name


def known_encoder(name: str) -> str:
    """Return ``name`` if it is empty, in ENCODERS or that of a published network; else raise ValueError."""
    if name and not is_pretrained(name):
        known(ENCODERS, name, *NAMES, "timm:NAME", "open_clip:NAME")
    return name


class Recipe(BaseModel):
    """One cell of a table.  Every field is an option of ``dedt``, and its description that option's help.

    An empty value stands for the profile's, or else for that of the cited code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: Annotated[str, AfterValidator(partial(known, MODELS))] = Field(
        "unet",
        description=f"diffusion model: {', '.join(MODELS)}; unet usually on pixels, the others on latents",
    )
    method: Annotated[str, AfterValidator(partial(known, selection.REGISTRY))] = Field(
        "moderate", description=f"selection method: {', '.join(selection.REGISTRY)}"
    )
    ratio: float = Field(0.1, gt=0, le=1)
    """share of the data to keep, in (0, 1]"""
    encoder: Annotated[str, AfterValidator(known_encoder)] = Field(
        "",
        description="encoder of the features, if not the profile's: "
        f"of the library ({', '.join(ENCODERS)}) or published ({', '.join(NAMES)}, timm:NAME, "
        "open_clip:NAME)",
    )
    scope: Literal["", "class", "global"] = ""
    """rank the images within each class or all together"""
    centre: Literal["", *CENTRES] = ""
    """for moderate, the centre that distances are measured from, if not the profile's"""
    band: Literal["", *BANDS] = ""
    """for moderate, the part of the sorted distances to keep"""
    reweighting: bool = False
    """learn class weights by group DRO"""
    balancing: bool = False
    """control: class weights that give every class the same influence, without DRO"""
    null: Literal["", "shuffled", "another-seed"] = ""
    """control: replace the learned class weights by the same ones shuffled over the classes, or by those of
    another seed"""
    rule: Annotated[str, AfterValidator(partial(known, RULES))] = USUAL
    """rule that learns class weights: group-dro or your own"""
    reference: Literal["full", "equal-steps"] = "full"
    """reference of DRO: the run on all the data at its end, or after as many steps as the proxy takes"""
    burn_in: float | None = Field(None, ge=0, lt=1)
    """share of the proxy's steps before the class weights change, if not the profile's"""
    weighting: Literal["loss", "draw"] = "loss"
    """class weights multiply the loss, or set how often a class is drawn"""
    annealing: bool = False
    """train on all the data in the last epochs"""
    plan: Annotated[str, AfterValidator(partial(known, plans.REGISTRY))] = ""
    """plan of your own, which chooses the images of each epoch (default: all of the coreset)"""
    infobatch: Literal["", "ratio", "budget"] = ""
    """use InfoBatch instead of a coreset: each epoch keeps --ratio of the well-learned samples, or of all"""
    early_stopping: bool = False
    """control at equal compute: train on all the data, but only for as many steps as on the coreset"""
    full_length: bool = False
    """control: train on the coreset for as many steps as the run on all the data takes"""
    unguided: bool = False
    """control: sample without guidance"""
    seed: int = Field(0, ge=0)
    """seed of everything but the metric"""

    @property
    def has_coreset(self) -> bool:
        """Whether the model is trained on a coreset, rather than on all the data or with InfoBatch."""
        return not (self.early_stopping or self.infobatch)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        selector = selection.REGISTRY[self.method]
        options = {*selection.options_of(selector), *["encoder"] * selector.needs_features}
        for name in ("encoder", "centre", "band"):
            if name not in options and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"the method '{self.method}' makes no use of {name}: leave it out")
        if self.early_stopping and self.reweighting:
            raise ValueError("early_stopping trains on all the data, so there is no coreset to reweight")
        if self.balancing and (self.reweighting or not self.has_coreset):
            raise ValueError(
                "balancing weights the classes of a coreset without DRO, so it cannot be combined with "
                "reweighting, early_stopping or infobatch"
            )
        if not self.reweighting and (self.null or self.reference != "full" or self.rule != USUAL):
            raise ValueError("null, reference and rule are about learned class weights: add reweighting")
        if self.full_length and (not self.has_coreset or self.annealing or self.plan):
            raise ValueError(
                "full_length trains longer on a coreset, so it cannot be combined with early_stopping, "
                "infobatch, annealing or a plan"
            )
        if self.plan and (not self.has_coreset or self.weighting == "draw"):
            raise ValueError(
                "a plan chooses from a coreset in every epoch, so it cannot be combined with early_stopping, "
                "infobatch or weighting 'draw'"
            )
        if self.infobatch and (self.reweighting or self.early_stopping):
            raise ValueError(
                "infobatch has no coreset, so it cannot be combined with reweighting or early_stopping"
            )
        return self
