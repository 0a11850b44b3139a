"""Inception-v3 (Szegedy et al., 2016) for Gaussian instance selection (DeVries et al., 2020), and for FID."""

import io
from pathlib import Path

import torch
from torch import nn

from ..errors import DedtError
from ..pixels import IMAGENET_MEAN, IMAGENET_STD, channels_first, set_moments, three_channels, to_uint8
from ..weights import read_official
from .resnet18 import TorchvisionClassifier


class InceptionV3(TorchvisionClassifier):
    """torchvision's Inception-v3 without its auxiliary classifier: 2048 pooled features.

    Images are preprocessed as in the code of Gaussian instance selection: ImageNet's mean and standard
    deviation, then a bilinear resize to ``size`` pixels with aligned corners.  The network itself maps them
    to the range that it expects.

    Args:
        num_classes: Number of classes K.
        size: Side of the network's input in pixels: 299 as published, 75 at the least.
        dropout: Dropout rate before the head, in training only.
    """

    def __init__(self, num_classes: int = 1000, size: int = 299, dropout: float = 0.5) -> None:
        from torchvision.models import Inception3

        super().__init__()
        self.size = size
        how = {"aux_logits": False, "transform_input": True, "init_weights": False}
        self.take(Inception3(num_classes, **how, dropout=dropout))
        set_moments(self, IMAGENET_MEAN, IMAGENET_STD)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to the network's input [n, 3, size, size], normalised."""
        images = ((three_channels(images) + 1) / 2 - self.mean) / self.std
        size = (self.size, self.size)
        return channels_first(nn.functional.interpolate(images, size, mode="bilinear", align_corners=True))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to features [n, 2048]."""
        return self.net(self.preprocess(images))


class FidInception(nn.Module):
    """The Inception-v3 that published FIDs use, from torch-fidelity: 2048 pooled features.

    Args:
        path: File with the weights; None leaves the network untrained, which is enough to time it.
    """

    def __init__(self, path: Path | None) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class Network(FeatureExtractorInceptionV3):
            def load_state_dict(self, state: dict) -> None:  # an empty dict leaves the initial weights
                super().load_state_dict(state, strict=bool(state))

        super().__init__()
        buffer = io.BytesIO()  # torch-fidelity would unpickle the file itself, which can run code
        torch.save(read_official("inception-fid", path) if path else {}, buffer)
        buffer.seek(0)
        try:
            self.net = Network("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)
        except RuntimeError as error:
            raise DedtError(f"{path} belongs to another network: {error}") from error

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to features [n, 2048]."""
        return self.net(to_uint8(three_channels(images)))[0]
