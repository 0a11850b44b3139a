"""The encoders that a recipe may name.  A new one is a class and its entry in ``ENCODERS``."""

from typing import TYPE_CHECKING

from ...config.recipe import ENCODERS
from ...encoder_names import is_pretrained
from ...errors import DedtError
from .given import OwnEncoder, PretrainedEncoder, PublishedEncoder
from .trained import DDAE, Encoder, InceptionV3, ResNet18, SmallClip, TrainedEncoder

if TYPE_CHECKING:
    from ..lab import Lab

LABELS = {
    **{stage.network: stage.label for stage in (ResNet18, InceptionV3, SmallClip, DDAE)},
    "metric": "FID network",
    "vit": "CLIP ViT-L/14",
    "vae": "autoencoder",
    "distances": "distances",
}
"""Name of a network in the plan -> its printed name."""


# An entry is a stage that trains the encoder (its section of the profile may name published weights instead),
# or a network that needs no training.
ENCODERS.update({"resnet18": ResNet18, "inceptionv3": InceptionV3, "clip-rn50": SmallClip, "ddae": DDAE})


def encoder(lab: "Lab", name: str = "", seed: int = 0) -> Encoder:
    """The stage of the encoder ``name`` (default: the profile's), trained with ``seed`` or published."""
    name = name or lab.profile.encoders.default
    if is_pretrained(name):
        return PretrainedEncoder(lab, name)
    made = ENCODERS[name]
    if not (isinstance(made, type) and issubclass(made, TrainedEncoder | DDAE)):
        own = OwnEncoder(lab, name)
        own.check()
        return own
    weights = getattr(getattr(lab.profile.encoders, getattr(made, "network", ""), None), "weights", "")
    if weights:
        return PublishedEncoder(lab, weights, made)
    trained = made(lab, seed)
    try:
        _ = trained.network, trained.settings
    except AttributeError as error:
        raise DedtError(
            f"The encoder '{name}' cannot be trained ({error}): give {made.__name__} a `network`, and "
            "`settings` or a section of that name in the profile's section `encoders`."
        ) from error
    return trained
