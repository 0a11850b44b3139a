"""Images to features: the surrogate encoders of Fig. 1, and the classifier that FID is measured with.

An encoder is a ``torch.nn.Module`` with

    features(images) -> float [n, d]    images float [n, C, H, W] in [-1, 1]; everything from there on (three
                                        channels, size, mean and standard deviation) is the encoder's own
                                        affair

One that can be trained as a classifier also has a ``forward`` that returns logits [n, K].  What a recipe may
name is entered in :data:`dedt_lib.stages.embed.ENCODERS`; one with published weights has an entry in
``PRETRAINED`` too.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from ..arrays import check_choice
from ..errors import DedtError
from ..weights import read_official
from .classifier import SmallClassifier
from .clip import CLIP, SMALL_CLIP, rn50, train_clip, zero_shot_accuracy
from .common import accuracy, embed
from .ddae import DDAE
from .hub import Pretrained, load_pretrained
from .inceptionv3 import FidInception, InceptionV3
from .resnet18 import CIFAR10_MEAN, CIFAR10_STD, ImageNetResNet18, ResNet18
from .training import random_shift, train_classifier
from .vit import ClipViT


def _inceptionv3(channels, num_classes, width, **settings):
    """Inception-v3 for data of one's own: the smallest images that it takes; its widths are fixed."""
    return InceptionV3(num_classes, **{"size": 75, **settings})


def _clip(channels, num_classes, width, **settings):
    """A small CLIP, whose classes are words and so not counted; ``width`` is that of its vision tower."""
    vision = {**SMALL_CLIP["vision_cfg"], "width": width}
    return CLIP({**SMALL_CLIP, "vision_cfg": vision}, **settings)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet18,
    "classifier": SmallClassifier,
    "inceptionv3": _inceptionv3,
    "clip": _clip,
}
PRETRAINED: dict[str, tuple[Callable[..., Any], str]] = {
    "resnet18": (ImageNetResNet18, "resnet18-imagenet"),
    "inceptionv3": (InceptionV3, "inceptionv3-imagenet"),
    "clip": (rn50, "clip-rn50-openai"),
}


def build(name: str, *, channels: int, num_classes: int, width: int, **settings: Any) -> nn.Module:
    """An untrained encoder, of a size to be trained on data of one's own.

    Args:
        name: Of NETWORKS.
        channels: Of the images, 1 or 3.
        num_classes: Of the data.
        width: Of the network's first layers.
        settings: Further arguments of the network (ResNet18: mean, std; inceptionv3: size, dropout; clip:
            normalise).

    Raises:
        DedtError: Unknown name.
    """
    check_choice("encoder", name, NETWORKS)
    return NETWORKS[name](channels, num_classes, width, **settings)


def pretrained(name: str, path: str = "", **settings: Any) -> nn.Module:
    """An encoder with its published weights, in eval mode.

    Args:
        name: Of PRETRAINED: resnet18, inceptionv3 (ImageNet) or clip (RN50).
        path: The official file or a safetensors file, else it is looked for and fetched (``weights.locate``).
        settings: Further arguments of the network (clip: normalise).

    Raises:
        DedtError: Unknown name, or weights that are missing, altered or of another network.
    """
    if name not in PRETRAINED:
        raise DedtError(
            f"There are no published weights for '{name}'. Choose one of: {', '.join(PRETRAINED)}."
        )
    make, weights = PRETRAINED[name]
    network = make(**settings)
    try:
        network.load_official(read_official(weights, path))
    except (RuntimeError, KeyError) as error:
        raise DedtError(f"{path or weights} belongs to another network: {error}") from error
    return network.eval()
