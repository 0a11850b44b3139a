"""A Recipe says which run is wanted: a cell of a table, or one of your own."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..selection import BANDS, CENTRES, METHODS
from .profile import ENCODERS, MODELS


class Recipe(BaseModel):
    """One cell of a table.

    model: the kind of diffusion model that is trained (see :mod:`dedt_lib.families`).

    method: how the coreset is chosen.  ratio: its share of the data, in (0, 1].  encoder: whose features are
    scored ("" takes the profile's).  scope, centre: of the selector ("" takes the profile's or the
    cited code's).  band: which part of the sorted distances Moderate-DS keeps.

    reweighting: class weights by group DRO.  balancing: class weights that let every class count the same,
    without DRO (the control of what reweighting does to a coreset with unequal classes).  burn_in: share of
    the proxy's steps before the weights move (None takes the profile's).  weighting: whether the class weights
    weigh the "loss" or drive a class "sampler".  annealing: all the data at the end.

    infobatch: no coreset; InfoBatch prunes in each epoch, keeping well-learned samples with probability
    ``ratio`` ("ratio"), or as many samples as a coreset of that ratio has ("budget").  early_stopping: train
    on all the data, but stop after as many steps as the coreset run would take, annealed or not (the control
    at equal compute; it is the full run stopped early, so it carries that run's warm-up, which counted in
    epochs takes more steps than a coreset's).  unguided: sample without guidance (the control of what guidance
    does to the metrics).
    seed: of everything but the encoder and the metric.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Literal[MODELS] = "unet"
    method: Literal[METHODS] = "moderate"
    ratio: float = Field(0.1, gt=0, le=1)
    encoder: Literal["", *ENCODERS] = ""
    scope: Literal["", "class", "global"] = ""
    centre: Literal["", *CENTRES] = ""
    band: Literal[BANDS] = "center"
    reweighting: bool = False
    balancing: bool = False
    burn_in: float | None = Field(None, ge=0, lt=1)
    weighting: Literal["loss", "sampler"] = "loss"
    annealing: bool = False
    infobatch: Literal["", "ratio", "budget"] = ""
    early_stopping: bool = False
    unguided: bool = False
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self):
        if self.early_stopping and self.reweighting:
            raise ValueError("early_stopping trains on all the data, so there is no coreset to reweight")
        if self.balancing and (self.reweighting or self.early_stopping or self.infobatch):
            raise ValueError(
                "balancing weighs a coreset without DRO, so it goes with neither reweighting, early_stopping nor "
                "infobatch"
            )
        if self.infobatch and (self.reweighting or self.early_stopping):
            raise ValueError(
                "infobatch has no coreset, so it goes with neither reweighting nor early_stopping"
            )
        return self
