"""A Profile says how large everything is, a Recipe which cell of a table is wanted."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .data import SOURCES
from .errors import DedtError
from .selection import METHODS

PROFILES = Path(__file__).parent / "profiles"
Positive = Field(gt=0)
Share = Field(ge=0, le=1)


class Profile(BaseModel):
    """A budget: every size and rate of a run, read from a flat file.  Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    data: Literal[SOURCES]
    path: str = ""
    image_size: int = Positive
    channels: Literal[1, 3]
    threads: int = Field(0, ge=0)
    per_class: int = Field(ge=0)
    encoder: Literal["resnet18"]
    encoder_width: int = Positive
    encoder_epochs: int = Positive
    encoder_batch_size: int = Positive
    encoder_learning_rate: float = Positive
    ratios: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    gaussian_ridge: float = Positive
    moderate_scope: Literal["class", "global"]
    moderate_centre: Literal["median", "mean"]
    unet_channels: tuple[int, ...]
    unet_layers: int = Positive
    unet_attention: tuple[bool, ...]
    unet_groups: int = Positive
    unet_dropout: float = Share
    epochs: int = Positive
    batch_size: int = Positive
    learning_rate: float = Positive
    warmup_epochs: float = Field(ge=0)
    gradient_clip: float = Positive
    ema_decay: float = Share
    label_dropout: float = Share
    flip: bool
    annealing_start: float = Share
    checkpoint_every: int = Positive
    dro_step_size: float = Positive
    dro_smoothing: float = Share
    dro_clip: Literal["sample", "class"]
    dro_burn_in: float = Field(ge=0, lt=1)
    sampler_steps: int = Field(gt=0, le=1000)
    guidance: float = Field(ge=0)
    samples: int = Positive
    sample_batch_size: int = Positive
    metric_epochs: int = Positive
    metric_batch_size: int = Positive
    metric_learning_rate: float = Positive

    @model_validator(mode="after")
    def _network_fits(self):
        levels = len(self.unet_channels)
        if levels == 0 or len(self.unet_attention) != levels:
            raise ValueError("unet_attention and unet_channels must have one entry per resolution level")
        if self.image_size % 2 ** (levels - 1):
            raise ValueError(f"image_size must be divisible by {2 ** (levels - 1)} for {levels} levels")
        if any(width <= 0 or width % self.unet_groups for width in self.unet_channels):
            raise ValueError("every width in unet_channels must be divisible by unet_groups")
        return self

    def pick(self, *names):
        """The named values as a dict."""
        return {name: getattr(self, name) for name in names}


def profile_names():
    """Names of the profiles that come with the library."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name, **changes):
    """A profile by name, or by the path of a ``.toml`` file; ``changes`` replace single values.

    Raises DedtError for an unknown profile, key or value, with the valid ones.
    """
    if isinstance(name, Profile):
        return checked(Profile, {**name.model_dump(), **changes}) if changes else name
    file = Path(name) if str(name).endswith(".toml") else PROFILES / f"{name}.toml"
    if not file.exists() and file.parent != PROFILES:
        raise DedtError(f"There is no profile file {file}.")
    if not file.exists():
        raise DedtError(
            f"Unknown profile '{name}'. Choose one of: {', '.join(profile_names())}, or give a .toml file."
        )
    if file.stem in profile_names() and file.resolve().parent != PROFILES.resolve():
        raise DedtError(
            f"{file} has the name of one of the library's profiles: rename it, so that results are kept apart."
        )
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DedtError(f"{file} is not valid TOML: {error}") from error
    return checked(Profile, {"name": file.stem, **values, **changes})


def checked(model, values):
    """``model(**values)`` of a pydantic model, with its complaints as one DedtError."""
    try:
        return model(**values)
    except ValidationError as error:
        problems = error.errors()
        missing = [str(p["loc"][0]) for p in problems if p["type"] == "missing"]
        lines = [f"missing: {', '.join(missing)}"] if missing else []
        for problem in (p for p in problems if p["type"] != "missing"):
            key = ".".join(map(str, problem["loc"]))
            if problem["type"] == "extra_forbidden":
                lines.append(
                    f"unknown parameter '{key}'; the valid ones are: {', '.join(model.model_fields)}"
                )
            else:
                got = f" (got {problem.get('input')!r})" if key else ""
                message = problem["msg"].removeprefix("Value error, ")
                lines.append(f"{key or model.__name__.lower()}: {message}{got}")
        raise DedtError("; ".join(lines)) from None


class Recipe(BaseModel):
    """One cell of a table.

    method: how the coreset is chosen.  ratio: its share of the data, in (0, 1].  scope: of the selector
    ("" takes the profile's or the cited code's).  reweighting: class weights by group DRO.  burn_in:
    share of the proxy's steps before the weights move (None takes the profile's).  annealing: all the
    data at the end.  early_stopping: train on all the data, but stop after as many steps as the coreset of
    ``ratio`` would take (the control at equal compute).  seed: of everything but the encoder and the metric.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal[METHODS] = "moderate"
    ratio: float = Field(0.1, gt=0, le=1)
    scope: Literal["", "class", "global"] = ""
    reweighting: bool = False
    burn_in: float | None = Field(None, ge=0, lt=1)
    annealing: bool = False
    early_stopping: bool = False
    seed: int = Field(0, ge=0)
