"""A Profile says how large everything is, a Recipe which cell of a table is wanted."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .data import SOURCES
from .errors import DedtError
from .selection import BANDS, CENTRES, METHODS, THRESHOLDS

PROFILES = Path(__file__).parent / "profiles"
ENCODERS = ("resnet18", "inceptionv3", "clip-rn50", "ddae")
TABLES = ("table1", "table2", "table3", "figure2", "table4", "table5", "table5-unguided")
MODELS = ("unet", "mdt", "stable-diffusion")
CLIPS = ("sample", "class", "element")
ABSENT = ("previous", "zero")
SCORES = ("train", "eval")
Positive = Field(gt=0)
Share = Field(ge=0, le=1)
Ratio = Annotated[float, Field(gt=0, le=1)]


class Profile(BaseModel):
    """A budget: every size and rate of a run, read from a flat file.  Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    tables: tuple[Literal[TABLES], ...] = TABLES
    data: Literal[SOURCES]
    path: str = ""
    class_names: tuple[str, ...] = ()
    image_size: int = Positive
    channels: Literal[1, 3]
    threads: int = Field(0, ge=0)
    per_class: int = Field(ge=0)
    skip_bad: bool = False
    encoder: Literal[ENCODERS]
    resnet18_weights: str
    resnet18_width: int = Positive
    resnet18_epochs: int = Positive
    resnet18_batch_size: int = Positive
    resnet18_learning_rate: float = Positive
    resnet18_recipe: Literal["small", "published"]
    inceptionv3_weights: str
    inceptionv3_size: int = Field(ge=75)
    inceptionv3_epochs: int = Positive
    inceptionv3_batch_size: int = Positive
    inceptionv3_learning_rate: float = Positive
    clip_weights: str
    clip_epochs: int = Positive
    clip_batch_size: int = Positive
    clip_learning_rate: float = Positive
    clip_normalise: bool = False
    ddae_epochs: int = Positive
    ddae_block: int = Positive
    ddae_timestep: int = Field(ge=1, le=1000)
    ddae_draws: int = Positive
    ratios: tuple[Ratio, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    gaussian_ridge: float = Positive
    gaussian_threshold: Literal[THRESHOLDS] = "count"
    moderate_scope: Literal["class", "global"]
    moderate_centre: Literal[CENTRES]
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
    annealing_weights: Literal["uniform", "keep"]
    checkpoint_every: int = Positive
    precision: Literal["float32", "bfloat16"]
    channels_last: bool
    compile: bool
    dro_step_size: float = Positive
    dro_smoothing: float = Share
    dro_clip: Literal[CLIPS]
    dro_absent: Literal[ABSENT]
    dro_scores: Literal[SCORES] = "train"
    dro_burn_in: float = Field(ge=0, lt=1)
    dro_window: float = Field(gt=0, le=1)
    sampler_steps: int = Field(gt=0, le=1000)
    guidance: float = Field(ge=0)
    samples: int = Positive
    sample_batch_size: int = Positive
    sample_precision: Literal["float32", "bfloat16"] = "float32"
    # The latent models.  Profiles made for Tables I to III leave these at the published settings.
    latent_image_size: int = Field(256, gt=0)
    vae_weights: str = "stabilityai/sd-vae-ft-mse"
    vae_decoder_weights: str = "stabilityai/sd-vae-ft-ema"
    vae_channels: tuple[int, ...] = Field((128, 256, 512, 512), min_length=1)
    vae_epochs: int = Field(1, gt=0)
    vae_batch_size: int = Field(32, gt=0)
    vae_learning_rate: float = Field(1e-4, gt=0)
    mdt_patch_size: int = Field(2, gt=0)
    mdt_hidden_size: int = Field(384, gt=0)
    mdt_depth: int = Field(12, gt=0)
    mdt_heads: int = Field(6, gt=0)
    mdt_decode_layers: int = Field(6, gt=0)
    mdt_mask_ratio: float = Field(0.3, ge=0, lt=1)
    mdt_mask_range: float = Field(0.2, ge=0, lt=1)
    mdt_ratios: tuple[Ratio, ...] = Field((0.1, 0.2), min_length=1)
    mdt_epochs: int = Field(60, gt=0)
    mdt_proxy_epochs: int = Field(6, gt=0)
    mdt_batch_size: int = Field(256, gt=0)
    mdt_learning_rate: float = Field(5e-4, gt=0)
    mdt_optimizer: Literal["adan", "adamw"] = "adan"
    mdt_ema_decay: float = Field(0.9999, ge=0, le=1)
    mdt_sampler_steps: int = Field(250, gt=0, le=1000)
    mdt_guidance: float = Field(3.8, ge=1)
    sd_weights: str = "CompVis/stable-diffusion-v1-4"
    sd_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    sd_pretraining_epochs: int = Field(1, gt=0)
    sd_pretraining_learning_rate: float = Field(1e-4, gt=0)
    sd_ratios: tuple[Ratio, ...] = Field((0.2, 0.4, 0.6), min_length=1)
    sd_epochs: int = Field(50, gt=0)
    sd_batch_size: int = Field(16, gt=0)
    sd_learning_rate: float = Field(1e-5, gt=0)
    sd_ema_decay: float = Field(0.9999, ge=0, le=1)
    sd_sampler_steps: int = Field(50, gt=0, le=1000)
    sd_guidance: float = Field(5.0, ge=1)
    metric: Literal["classifier", "inceptionv3"]
    metric_weights: str
    metric_epochs: int = Positive
    metric_batch_size: int = Positive
    metric_learning_rate: float = Positive
    classwise: bool = True
    cmmd: Literal["", "clip", "vit-l-14-336"] = ""
    cmmd_weights: str = ""

    @model_validator(mode="after")
    def _network_fits(self):
        levels = len(self.unet_channels)
        if levels == 0 or len(self.unet_attention) != levels:
            raise ValueError("unet_attention and unet_channels must have one entry per resolution level")
        if self.image_size % 2 ** (levels - 1):
            raise ValueError(f"image_size must be divisible by {2 ** (levels - 1)} for {levels} levels")
        if any(width <= 0 or width % self.unet_groups for width in self.unet_channels):
            raise ValueError("every width in unet_channels must be divisible by unet_groups")
        if "pipeline" in (self.vae_weights, self.vae_decoder_weights) and not self.sd_weights:
            raise ValueError("the autoencoder 'pipeline' is that of sd_weights, which names no pipeline")
        downsampling = 2 ** (len(self.vae_channels) - 1)
        if not self.vae_weights and self.latent_image_size % downsampling:
            raise ValueError(
                f"latent_image_size must be divisible by {downsampling} for {len(self.vae_channels)} levels "
                f"in vae_channels; got {self.latent_image_size}"
            )
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
            f"{file} has the name of one of the library's profiles: rename it, so that results are kept "
            "apart."
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

    model: the kind of diffusion model that is trained (see :mod:`dedt_lib.families`).

    method: how the coreset is chosen.  ratio: its share of the data, in (0, 1].  encoder: whose features are
    scored ("" takes the profile's).  scope, centre: of the selector ("" takes the profile's or the
    cited code's).  band: which part of the sorted distances Moderate-DS keeps.

    reweighting: class weights by group DRO.  balancing: class weights that let every class count the same,
    without DRO (the control of what reweighting does to a coreset with unequal classes).  burn_in: share of
    the proxy's steps before the weights move (None takes the profile's).  weighting: whether the class
    weights weigh the "loss" or drive a class "sampler".  annealing: all the data at the end.

    infobatch: no coreset; InfoBatch prunes in each epoch, keeping well-learned samples with probability
    ``ratio`` ("ratio"), or as many samples as a coreset of that ratio has ("budget").  early_stopping: train
    on all the data, but stop after as many steps as the coreset run would take, annealed or not (the control
    at equal compute; it is the full run stopped early, so it carries that run's warm-up, which counted in
    epochs takes more steps than a coreset's).  unguided: sample without guidance (the control of what
    guidance does to the metrics).
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
                "balancing weighs a coreset without DRO, so it goes with neither reweighting, early_stopping "
                "nor infobatch"
            )
        if self.infobatch and (self.reweighting or self.early_stopping):
            raise ValueError(
                "infobatch has no coreset, so it goes with neither reweighting nor early_stopping"
            )
        return self
