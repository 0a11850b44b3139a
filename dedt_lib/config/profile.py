"""A Profile holds the sizes and rates of a run, in sections read from a TOML file that may extend another."""

# Some Literals take their values from tuples of other modules, which mypy cannot read.
# mypy: disable-error-code="valid-type"

import tomllib
from difflib import SequenceMatcher
from functools import cached_property, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..data import sources
from ..errors import DedtError
from ..files import HUB, at_home
from ..reweighting import ABSENT, CLIPS, SCORES
from ..selection import CENTRES, REGISTRY, THRESHOLDS, options_of
from .recipe import Recipe, known, known_encoder

PROFILES = Path(__file__).parent / "profiles"
PAPER = ("table1", "table2", "table3", "figure2", "controls", "table4", "table5", "table5-unguided")
TABLES = (*PAPER, "table1-latent")  # photographs on a laptop, with encoders that need no download
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Ratios = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]
Steps = Annotated[int, Field(gt=0, le=1000)]
Guidance = Annotated[float, Field(ge=1)]
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """A group of values.  Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(Section):
    """The section of a network that is trained."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive

    @property
    def training(self) -> dict[str, int | float]:
        """Epochs, batch size and learning rate by name."""
        return {name: getattr(self, name) for name in Training.model_fields}


class Data(Section):
    """The images."""

    # "cifar10": the original archive, fetched and checked on first use
    source: Annotated[str, AfterValidator(lambda name: known(sources(), name))]
    path: str = ""  # where the images are; "" if the source needs no path, or --data gives it
    label: str = ""  # the column of the classes, "none" for no classes; "": found automatically
    caption: str = ""  # the column of the captions
    class_names: tuple[str, ...] = ()  # in the order of the folders' names; (): the folders' names
    image_size: Count
    channels: Literal[1, 3]
    per_class: int = Field(0, ge=0)  # how many images of each class to use, the first ones; 0: all
    skip_bad: bool = False


class ResNet18(Training):
    """ResNet-18; if ``weights`` are given, the other values do not apply."""

    weights: str = ""  # "": trained on the images; "imagenet": torchvision's; or a file
    width: Count  # an eighth of the number of features
    procedure: Literal["small", "published"]
    # "small": cosine schedule, shifts by a pixel. "published", as in Moderate-DS: the rate falls to a fifth
    # at 60, 120 and 160 of 200 epochs, with crops, and flips if train.flip.


class InceptionV3(Training):
    """Inception-v3 as an encoder, not for FID; if ``weights`` are given, the other values do not apply."""

    weights: str  # "": trained on the images; "imagenet": torchvision's; or a file
    size: int = Field(ge=75)  # pixels along a side to which it enlarges the images


class CLIP(Training):
    """CLIP's image encoder; if ``weights`` are given, only ``normalise`` applies besides."""

    weights: str  # "": a small CLIP trained on the images; "openai": RN50; or a file
    normalise: bool = False


class DDAE(Section):
    """A denoising diffusion autoencoder: the features of a diffusion model trained on the images."""

    epochs: Count
    block: Count  # of the decoder, counted from 1 at the coarsest level
    timestep: int = Field(11, ge=1, le=1000)  # counted from 1, as in the paper's code
    draws: Count = 1  # noise draws to average over


class Encoders(Section):
    """The feature extractors for choosing a coreset."""

    # Used unless a recipe, or the row of a table, names another.
    default: Annotated[str, AfterValidator(known_encoder)] = "resnet18"
    resnet18: ResNet18
    inceptionv3: InceptionV3
    clip: CLIP
    ddae: DDAE


class Select(Section):
    """The options of the selectors: METHOD_OPTION, those of one's own methods too."""

    model_config = ConfigDict(extra="allow")

    gaussian_ridge: Positive = 1e-5
    gaussian_threshold: Literal[THRESHOLDS] = "count"
    moderate_scope: Literal["class", "global"] = "global"  # as in the cited code
    moderate_centre: Literal[CENTRES] = "median"
    # Number of clusters that stand in for missing classes; 0: one per 20 images, at most 10.
    clusters: Annotated[int, Field(ge=0)] = 0
    cluster_encoder: Annotated[str, AfterValidator(known_encoder)] = "efficientnet-lite0"

    @model_validator(mode="after")
    def _own_options_fit(self) -> Self:
        known = own_options()
        for name, value in (self.model_extra or {}).items():
            if name not in known:
                raise ValueError(f"{name} is no option of a method")
            if type(value) is not type(known[name]) and not (type(known[name]), type(value)) == (float, int):
                raise ValueError(f"{name} must be like its default, {known[name]!r}; got {value!r}")
        return self


def own_options() -> dict[str, Any]:
    """The options of registered methods that are no fields of Select: METHOD_OPTION -> default."""
    found = {
        f"{method}_{option}": default
        for method, kind in REGISTRY.items()
        for option, default in options_of(kind).items()
        if option not in ("seed", *Recipe.model_fields)
    }
    return {name: default for name, default in found.items() if name not in Select.model_fields}


class Reweight(Section):
    """Group DRO."""

    step_size: Positive = 1.0  # eta
    smoothing: Share = 1e-3  # c
    clip: Literal[CLIPS] = "sample"  # level at which the excess is clipped; "element": each pixel or latent
    absent: Literal[ABSENT] = "previous"  # excess of a class that is not in the batch
    scores: Literal[SCORES] = "train"
    burn_in: Below1 = 0.0  # share of the proxy's steps before the class weights move; 0: literal algorithm
    # Share of the steps after the burn-in, counted from the end, over which the weights are averaged.
    window: float = Field(default=1.0, gt=0, le=1)


class Train(Section):
    """Training settings that the diffusion models share."""

    # Warm-up of the U-Net: as many steps for few and many images, or epochs of the run, as in published code.
    warmup_steps: int = Field(0, ge=0)
    warmup_epochs: float = Field(0.0, ge=0)
    gradient_clip: Positive = 1.0
    label_dropout: Below1 = 0.1  # none in the fine-tuning of Stable Diffusion
    flip: bool  # doubles the latents: that of a mirrored image is not the mirrored latent
    annealing_start: Share = 0.875
    annealing_weights: Literal["uniform", "keep"] = "uniform"  # in the annealed epochs; "keep": as before
    checkpoint_every: Count
    precision: Precision = "float32"
    channels_last: bool = False
    # torch.compile; try it on your device with: dedt plan --probe --set train.compile=true
    compile: bool = False


class Diffusion(Training):
    """The section of a diffusion model."""

    ratios: Ratios = (0.1, 0.2, 0.3, 0.4)  # columns of its tables, besides 1.0
    ema_decay: Below1 = 0.9999
    steps: Steps  # sampling steps
    guidance: float = Field(0.3, ge=0)  # the scale w, or that of its own sampler


class UNet(Diffusion):
    """The U-Net of Tables I to III."""

    latent: bool = False  # whether it works on the autoencoder's latents instead of pixels
    channels: tuple[int, ...]  # width of each resolution level
    layers: Count
    attention: tuple[bool, ...]
    groups: Count
    dropout: Below1
    ema_decay: Below1

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if not self.channels or len(self.attention) != len(self.channels):
            raise ValueError("attention and channels must have one entry per resolution level")
        if any(width <= 0 or width % self.groups for width in self.channels):
            raise ValueError("every width in channels must be divisible by groups")
        return self


class Autoencoder(Training):
    """The autoencoder of the latent models; like theirs, its defaults are the published settings."""

    image_size: Count = 256  # pixels along a side to which images are resized before encoding
    # Hub NAME or NAME@REVISION, a folder, or "pipeline" (Stable Diffusion's); "": trained on the images.
    weights: str = "stabilityai/sd-vae-ft-mse"
    decoder_weights: str = "stabilityai/sd-vae-ft-ema"  # "": the one that encodes
    channels: tuple[int, ...] = Field(default=(128, 256, 512, 512), min_length=1)
    latent_channels: Count = 4
    # Pixels along a side that its first level sees as one position; above 1, training starts from PCA.
    patch: Count = 1
    epochs: Count = 1  # this and the next two apply only if weights = ""
    batch_size: Count = 32
    learning_rate: Positive = 1e-4

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if not self.weights and self.image_size % self.downsampling:
            patches = f" and patches of {self.patch}" if self.patch > 1 else ""
            raise ValueError(
                f"image_size must be divisible by {self.downsampling} for {len(self.channels)} levels in "
                f"channels{patches}; got {self.image_size}"
            )
        return self

    @property
    def downsampling(self) -> int:
        """Downsampling factor: pixels per latent along a side."""
        return self.patch * 2 ** (len(self.channels) - 1)


class MDT(Diffusion):
    """MDTv2 on latents (Table IV)."""

    patch_size: Count = 2
    hidden_size: Count = 384
    depth: Count = 12
    heads: Count = 6
    decode_layers: Count = 6
    mask_ratio: Below1 = 0.3  # least share of the tokens that is masked
    mask_range: Below1 = 0.2  # most that is added to mask_ratio, drawn for each batch
    ratios: Ratios = (0.1, 0.2)
    epochs: Count = 60
    proxy_epochs: Count = 6
    batch_size: Count = 256
    learning_rate: Positive = 5e-4
    # The network and Adan are of MDT version 2.  Version 1 (its decoder and loss are not implemented) has
    # "adamw" without weight decay, a learning rate of 3e-4 and a mask range of 0.
    optimizer: Literal["adan", "adamw"] = "adan"
    steps: Steps = 250
    guidance: Guidance = 3.8  # final scale; the power-cosine schedule starts at 1


class StableDiffusion(Diffusion):
    """Stable Diffusion, fine-tuned on captions of the classes (Table V)."""

    # Name on the hub, or a folder; "": a tiny pipeline, pre-trained on the images.
    weights: str = "CompVis/stable-diffusion-v1-4"
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    pretraining_epochs: Count = 1  # this and the next one apply only if weights = ""
    pretraining_learning_rate: Positive = 1e-4
    ratios: Ratios = (0.2, 0.4, 0.6)
    epochs: Count = 50
    batch_size: Count = 16
    learning_rate: Positive = 1e-5  # constant, without a warm-up
    steps: Steps = 50
    guidance: Guidance = 5.0  # diffusers' scale: 1 means no guidance


class Sample(Section):
    """The samples drawn from a trained model."""

    count: Count
    batch_size: Count
    precision: Precision = "float32"


class Evaluate(Training):
    """The feature extractor of FID, and the metrics besides FID."""

    # The first two are trained on the images; the last is that of published FIDs.
    network: Literal["classifier", "resnet18", "inceptionv3"]
    weights: str = ""  # file for the last; "": its usual places
    # This and the next three are for networks trained here.  A ResNet-18 has 8 * width features.
    width: int = Field(64, ge=2)
    epochs: Count = 1
    batch_size: Count = 128
    learning_rate: Positive = 0.05
    networks: Count = 1  # number of networks trained here, with different seeds; each gives an FID
    classwise: bool = True
    # Also measure KID, precision and recall of models on pixels; for latent models they always are.
    kid: bool = False
    # Embeddings for CMMD: none, those of encoders.clip, or those of the published CMMD.
    cmmd: Literal["", "clip", "vit-l-14-336"] = ""
    cmmd_weights: str = ""

    @model_validator(mode="after")
    def _networks_differ(self) -> Self:
        if self.networks > 1 and self.network == "inceptionv3":
            raise ValueError("networks must be 1 for inceptionv3, because the published network has no seeds")
        return self


class Profile(Section):
    """All sizes and rates of a run."""

    name: str
    tables: tuple[Literal[TABLES], ...] = PAPER
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    device: Literal["", "cpu"] = ""  # "": the GPU if there is one
    threads: int = Field(
        0, ge=0, le=1024
    )  # of the CPU, 0: all; more change the order of sums, so the last bits
    data: Data
    encoders: Encoders
    select: Select = Select()
    reweight: Reweight = Reweight()
    train: Train
    unet: UNet
    autoencoder: Autoencoder = Autoencoder()
    mdt: MDT = MDT()
    stable_diffusion: StableDiffusion = StableDiffusion()
    sample: Sample
    evaluate: Evaluate

    @cached_property
    def file(self) -> Path | None:
        """The file that :func:`load_profile` read, before changes; ignored when profiles are compared."""
        return None

    @property
    def called(self) -> str:
        """Its name in a command: that of a profile of the library, or the path of its file."""
        return str(self.file) if self.file and self.name not in profile_names() else self.name

    def seed_after(self, seed: int) -> int:
        """The next larger one of its seeds, or else the smallest; without another seed, ``seed`` + 1."""
        others = (other for other in self.seeds if other != seed)
        return min(others, key=lambda other: (other < seed, other), default=seed + 1)

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        levels = len(self.unet.channels)
        if self.data.image_size % 2 ** (levels - 1) and not self.unet.latent:
            raise ValueError(f"data.image_size must be divisible by {2 ** (levels - 1)} for {levels} levels")
        side = self.autoencoder.image_size // self.autoencoder.downsampling
        if self.unet.latent and side % 2 ** (levels - 1):
            raise ValueError(
                f"the width of the latents, {side}, must be divisible by {2 ** (levels - 1)} for {levels} "
                "levels in unet.channels: use fewer levels"
            )
        own = "pipeline" in (self.autoencoder.weights, self.autoencoder.decoder_weights)
        if own and not self.stable_diffusion.weights:
            raise ValueError(
                "the autoencoder 'pipeline' needs a pipeline in stable_diffusion.weights, which is empty"
            )
        return self


# ---- reading -----------------------------------------------------------------------------------------


def profile_names() -> list[str]:
    """Names of the profiles that come with the library."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name: "str | Path | Profile", /, **changes: Any) -> Profile:
    """A profile by name, or by the path of a ``.toml`` file.

    Args:
        name: Name of a profile that comes with the library, a file, or a Profile.
        **changes: Values to replace, by dotted keys (``**{"unet.epochs": 8}``) or nested
            (``unet={"epochs": 8}``).

    Raises:
        DedtError: For an unknown profile, key or value; the message lists the valid or the nearest ones.
    """
    if isinstance(name, Profile):
        if not changes:
            return name
        file, values = name.file, flat(name.model_dump())
    else:
        file = find_profile(name)
        values = {key: value for key, (value, _) in read_profile(file).items()}
    changes = {key: str(value) if isinstance(value, Path) else value for key, value in flat(changes).items()}
    made = checked(Profile, {**values, **changes})
    vars(made)["file"] = file
    return made


def find_profile(name: str | Path, folder: Path = Path()) -> Path:
    """The file of a profile, given by name or as a ``.toml`` file relative to ``folder``."""
    own = str(name).endswith(".toml")
    file = folder / name if own else PROFILES / f"{name}.toml"
    if not file.exists():
        raise DedtError(
            f"The profile file {file} does not exist."
            if own
            else f"Unknown profile '{name}'. Choose one of: {', '.join(profile_names())}, or give a .toml file."
        )
    if file.stem in profile_names() and file.resolve().parent != PROFILES.resolve():
        raise DedtError(
            f"{file} has the name of one of the library's profiles: rename it, so that results are kept "
            "apart."
        )
    return file.resolve()


def read_profile(file: Path, extending: tuple[Path, ...] = ()) -> dict[str, tuple[Any, str]]:
    """Values of a profile's file and of those it extends: dotted key -> (value, name of the file)."""
    if file in extending:
        circle = " extends ".join(path.name for path in (*extending, file))
        raise DedtError(f"A profile cannot extend itself: {circle}.")
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DedtError(f"{file} cannot be read as TOML: {error}") from error
    base = values.pop("extends", "")
    inherited = read_profile(find_profile(base, file.parent), (*extending, file)) if base else {}
    own = flat({"name": file.stem, **values})
    path = str(own.get("data.path", ""))
    if path and not path.startswith(HUB):  # relative to the file, like ``extends``
        own["data.path"] = str(file.parent / at_home(path))
    return {**inherited, **{key: (value, file.name) for key, value in own.items()}}


# ---- keys and complaints -----------------------------------------------------------------------------

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], values: dict[str, Any]) -> Model:
    """An instance of ``model`` with ``values`` (dotted or nested); raises all complaints as one DedtError."""
    values, known = flat(values), keys(model)
    wrong = [(key, ", ".join(nearest(key, known))) for key in values if key not in known]
    lines = [f"unknown parameter '{key}'; the nearest are: {alike}" for key, alike in wrong]
    try:
        if not lines:
            return model(**nested(values))
    except ValidationError as error:
        lines = [_complaint(problem, model) for problem in error.errors()]
    raise DedtError("; ".join(lines)) from None


def _complaint(problem: Any, model: type[BaseModel]) -> str:
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"missing: {key}"
    given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    given += "; write [a, b]" * (problem["type"] == "tuple_type")
    return f"{key or model.__name__.lower()}: {problem['msg'].removeprefix('Value error, ')}{given}"


def keys(model: type[BaseModel]) -> list[str]:
    """The dotted keys of a model and its sections."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += [f"{name}.{key}" for key in keys(kind)]
        else:
            found.append(name)
    return found + list(own_options()) * (model is Select)


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The default of each dotted key of a model and its sections that has one."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= {f"{name}.{key}": value for key, value in defaults(kind).items()}
        elif not field.is_required():
            found[name] = field.get_default()
    return found | (own_options() if model is Select else {})


def nearest(key: str, known: list[str], most: int = 5) -> list[str]:
    """The ``most`` known keys that are most similar to ``key``, as a whole or in their last word."""

    def likeness(name: str) -> float:
        pairs = (key, name), (key.rpartition(".")[2], name.rpartition(".")[2])
        return max(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return sorted(known, key=lambda name: (-likeness(name), name.count(".")))[:most]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values, flattened to dotted keys; dotted keys stay as they are."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values under dotted keys, as nested dicts."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        reduce(lambda level, section: level.setdefault(section, {}), sections, found)[name] = value
    return found
