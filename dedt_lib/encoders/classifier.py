"""Base class of the classifiers, and the small one that extracts features for FID, not for selection."""

import torch
from torch import nn


class Classifier(nn.Module):
    """A network with ``features`` and a ``head`` that maps them to logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, C, H, W] in [-1, 1] to logits [n, K]."""
        return self.head(self.features(images))


class SmallClassifier(Classifier):
    """Three plain convolutions and ``width`` pooled features; used for FID only."""

    def __init__(self, channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        sizes = [(channels, width // 2), (width // 2, width), (width, width)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in sizes)
        self.head = nn.Linear(width, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, C, H, W] in [-1, 1] to features [n, width]."""
        for k, convolution in enumerate(self.convolutions):
            images = nn.functional.silu(convolution(images))
            if k == 1:
                images = nn.functional.avg_pool2d(images, 2)
        return images.mean(dim=(2, 3))
