"""ResNet-18 (He et al., 2016): the CIFAR variant, trained from scratch, and torchvision's for ImageNet."""

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import DedtError
from ..pixels import channels_first, set_moments, three_channels
from .classifier import Classifier

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class ResNet18(Classifier):
    """ResNet-18 for small images: 3x3 stem with stride 1, no max-pool.

    The features are the pooled output of the last stage, d = 8 * width (512 for the paper's width 64).
    Stem and widths are those of the CIFAR variant used by Moderate-DS (Xia et al., 2023).

    Args:
        channels, num_classes: Channels of the images, and number of classes.
        width: Width of the first stage.
        mean, std: Mean and standard deviation of each channel, for pixels in 0..1, to normalise the images
            with; by default the images stay in [-1, 1].

    Raises:
        DedtError: Only one of mean and std is given.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        width: int = 64,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise DedtError(
                "ResNet18 needs both the mean and the standard deviation of the pixels, or neither."
            )
        self.narrow = width < 8
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(*(self._stage(a, b) for a, b in zip(widths, widths[1:])))
        self.head = nn.Linear(8 * width, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        set_moments(self, mean, std)

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        from torchvision.models.resnet import BasicBlock

        if inputs == outputs:
            return nn.Sequential(BasicBlock(inputs, outputs), BasicBlock(outputs, outputs))
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
        return nn.Sequential(BasicBlock(inputs, outputs, 2, shortcut), BasicBlock(outputs, outputs))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, C, H, W] in [-1, 1] to features [n, 8 * width]."""
        if self.narrow:
            images = channels_first(images, small=0)
        if self.mean is not None:
            images = ((images + 1) / 2 - self.mean) / self.std
        return self.stages(self.stem(images)).mean(dim=(2, 3))


class TorchvisionClassifier(Classifier):
    """A torchvision classifier split into ``net``, which computes the features, and ``head``."""

    def take(self, network: nn.Module) -> None:
        """Split ``network``: its last layer becomes the head, everything before it the net."""
        self.net, self.head, network.fc = network, network.fc, nn.Identity()

    def load_official(self, state: dict[str, torch.Tensor]) -> None:
        """Load a state dict with torchvision's parameter names; an auxiliary classifier in it is ignored."""
        head = {name.removeprefix("fc."): value for name, value in state.items() if name.startswith("fc.")}
        others = ("fc.", "AuxLogits.")
        self.net.load_state_dict(
            {name: value for name, value in state.items() if not name.startswith(others)}
        )
        self.head.load_state_dict(head)


class ImageNetResNet18(TorchvisionClassifier):
    """torchvision's ResNet-18 for images like those of ImageNet: 512 pooled features.

    Images are preprocessed as for the weights IMAGENET1K_V1: bilinear resize to 256 pixels, centre crop of
    224, ImageNet's mean and standard deviation.
    """

    def __init__(self) -> None:
        from torchvision.models import ResNet18_Weights, resnet18

        super().__init__()
        self.preprocess = ResNet18_Weights.IMAGENET1K_V1.transforms()
        self.take(resnet18())

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to features [n, 512]."""
        return self.net(channels_first(self.preprocess((three_channels(images) + 1) / 2)))
