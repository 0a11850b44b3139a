"""A Recipe says which run is wanted: a cell of a table, or a run of your own."""

# mypy: disable-error-code="valid-type"

from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .. import plans, selection
from ..encoder_names import NAMES, is_pretrained
from ..selection import BANDS, CENTRES

# The stages fill in the values, so that checking a name does not import PyTorch.
ENCODERS: dict[str, Any] = dict.fromkeys(("resnet18", "inceptionv3", "clip-rn50", "ddae"))
"""Name of an encoder -> its stage or network: see :mod:`dedt_lib.stages.embed`."""
MODELS: dict[str, Any] = dict.fromkeys(("unet", "mdt", "stable-diffusion"))
"""Name of a diffusion model -> its ModelSpec: see :mod:`dedt_lib.stages.models`."""


def known(registry: dict[str, Any], name: str, *more: str) -> str:
    """Return ``name`` if it is in the registry, which may grow after import; else raise ValueError."""
    if name not in registry:
        raise ValueError(f"choose one of: {', '.join(filter(None, (*registry, *more)))}")
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
        "unet", description=f"what is trained, on pixels or, the others, on latents: {', '.join(MODELS)}"
    )
    method: Annotated[str, AfterValidator(partial(known, selection.REGISTRY))] = Field(
        "moderate", description=f"how the coreset is chosen: {', '.join(selection.REGISTRY)}"
    )
    ratio: float = Field(0.1, gt=0, le=1)
    """share of the data to keep, in (0, 1]"""
    encoder: Annotated[str, AfterValidator(known_encoder)] = Field(
        "",
        description="whose features decide, if not the profile's: "
        f"{', '.join(ENCODERS)}, trained on your images; {', '.join(NAMES)}; timm:NAME or open_clip:NAME",
    )
    scope: Literal["", "class", "global"] = ""
    """order the images in each class or all together"""
    centre: Literal["", *CENTRES] = ""
    """moderate: distances to what, if not the profile's"""
    band: Literal[BANDS] = "center"
    """moderate: which part of the distances is kept"""
    reweighting: bool = False
    """class weights by group DRO"""
    balancing: bool = False
    """the control: class weights that let every class count the same, without DRO"""
    null: Literal["", "shuffled", "another-seed"] = ""
    """the control: instead of the weights that DRO learned the same ones shuffled over the classes, or those that
    another seed learned"""
    reference: Literal["full", "equal-steps"] = "full"
    """what DRO compares the proxy with: the run on all the data at its end, or after as many steps as the proxy takes"""
    burn_in: float | None = Field(None, ge=0, lt=1)
    """share of the proxy's steps before the class weights move, if not the profile's"""
    weighting: Literal["loss", "draw"] = "loss"
    """class weights weigh the loss, or say how often a class is drawn"""
    annealing: bool = False
    """all the data in the last epochs"""
    plan: Annotated[str, AfterValidator(partial(known, plans.REGISTRY))] = ""
    """which images of the coreset an epoch visits, by a plan of your own (default: all)"""
    infobatch: Literal["", "ratio", "budget"] = ""
    """no coreset but InfoBatch: each epoch keeps --ratio of the well-learned samples, or of all"""
    early_stopping: bool = False
    """the control at equal compute: all the data, but only as many steps as the coreset takes"""
    full_length: bool = False
    """the control: as many steps on the coreset as the run on all the data takes"""
    unguided: bool = False
    """the control: samples without guidance"""
    seed: int = Field(0, ge=0)
    """of everything but the metric"""

    @property
    def has_coreset(self) -> bool:
        """Whether the model is trained on a coreset, rather than on all the data or with InfoBatch."""
        return not (self.early_stopping or self.infobatch)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.early_stopping and self.reweighting:
            raise ValueError("early_stopping trains on all the data, so there is no coreset to reweight")
        if self.balancing and (self.reweighting or not self.has_coreset):
            raise ValueError(
                "balancing weighs a coreset without DRO, so it goes with neither reweighting, early_stopping "
                "nor infobatch"
            )
        if not self.reweighting and (self.null or self.reference != "full"):
            raise ValueError("null and reference are of reweighting, which is not asked for")
        if self.full_length and (not self.has_coreset or self.annealing or self.plan):
            raise ValueError(
                "full_length trains longer on a coreset, so it goes with neither early_stopping, infobatch, "
                "annealing nor a plan"
            )
        if self.plan and (not self.has_coreset or self.weighting == "draw"):
            raise ValueError(
                "a plan chooses from a coreset in every epoch, so it goes with neither early_stopping, "
                "infobatch nor drawn classes"
            )
        if self.infobatch and (self.reweighting or self.early_stopping):
            raise ValueError(
                "infobatch has no coreset, so it goes with neither reweighting nor early_stopping"
            )
        return self
