"""Inception-v3 (Szegedy et al., 2016), the encoder of Gaussian instance selection (DeVries et al., 2020)."""

import torch
from torch import nn

from ..pixels import IMAGENET_MEAN, IMAGENET_STD, channels_first, set_moments, three_channels
from .resnet18 import TorchvisionClassifier


class InceptionV3(TorchvisionClassifier):
    """torchvision's Inception-v3 without its auxiliary classifier: 2048 pooled features.

    Images are prepared as in the code of Gaussian instance selection: ImageNet's mean and standard deviation,
    then bilinear to ``size`` pixels with aligned corners; the network maps them to its own range itself.

    Args:
        num_classes: K.
        size: 299 is the published one, 75 the smallest possible.
        dropout: Before the head, in training only.
    """

    def __init__(self, num_classes: int = 1000, size: int = 299, dropout: float = 0.5) -> None:
        from torchvision.models import Inception3

        super().__init__()
        self.size = size
        how = {"aux_logits": False, "transform_input": True, "init_weights": False}
        self.take(Inception3(num_classes, **how, dropout=dropout))
        set_moments(self, IMAGENET_MEAN, IMAGENET_STD)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """float [n, 1 or 3, H, W] in [-1, 1] to [n, 3, size, size], normalised."""
        images = ((three_channels(images) + 1) / 2 - self.mean) / self.std
        size = (self.size, self.size)
        return channels_first(nn.functional.interpolate(images, size, mode="bilinear", align_corners=True))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """float [n, 1 or 3, H, W] in [-1, 1] to [n, 2048]."""
        return self.net(self.preprocess(images))
