"""Encoders that turn images into features: the surrogate encoders of Fig. 1, and the classifier for FID.

An encoder is a ``torch.nn.Module`` with

    features(images) -> float [n, d]    images float [n, C, H, W] in [-1, 1]; the encoder itself does all
                                        further preprocessing (three channels, size, mean and standard
                                        deviation)

An encoder that can be trained as a classifier also has a ``forward`` that returns logits [n, K].  The
encoders that a recipe may name are listed in :data:`dedt_lib.stages.embed.ENCODERS`; those with published
weights also have an entry in ``PRETRAINED``.
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
    """Inception-v3 with fixed widths and, by default, the smallest image size that it accepts."""
    return InceptionV3(num_classes, **{"size": 75, **settings})


def _clip(channels, num_classes, width, **settings):
    """A small CLIP with a vision tower of the given width; classes are captions, so K is unused."""
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
    """An untrained encoder, sized to be trained on the user's own data.

    Args:
        name: A key of NETWORKS.
        channels: Channels of the images, 1 or 3.
        num_classes: Number of classes in the data.
        width: Width of the network's first layers.
        settings: Further arguments of the network (resnet18: mean, std; inceptionv3: size, dropout; clip:
            normalise).

    Raises:
        DedtError: Unknown name.
    """
    check_choice("encoder", name, NETWORKS)
    return NETWORKS[name](channels, num_classes, width, **settings)


def pretrained(name: str, path: str = "", **settings: Any) -> nn.Module:
    """An encoder with its published weights, in eval mode.

    Args:
        name: A key of PRETRAINED: resnet18, inceptionv3 (ImageNet) or clip (RN50).
        path: The official file or a safetensors file; if empty, the official file is found or downloaded
            (``weights.locate``).
        settings: Further arguments of the network (clip: normalise).

    Raises:
        DedtError: The name is unknown, or the weights are missing, altered or of another network.
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
