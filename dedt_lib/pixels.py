"""Operations on pixels: 8 bits to floats and back, memory layout, channels, sizes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


SMALL = 8 * 8
"""Grey images of at most so many pixels keep their strides: another order of sums would change last bits."""


def channels_first(images: torch.Tensor, small: int = SMALL) -> torch.Tensor:
    """The same images [n, C, H, W] in channels-first memory layout, as the networks expect them.

    Convolutions adopt the strides of their input.  With channels-last strides oneDNN ends the process in the
    gradient of a 1x1 convolution with stride 2: for eight channels from 48 pixels on (CPUs with AVX-512), for
    two or four at any size (AVX2).  ``contiguous`` keeps the strides of a single channel, since they may fit
    both layouts, so grey images of more than ``small`` pixels get new strides here.
    """
    if images.dim() == 4 and images.shape[1] == 1 and images.shape[2:].numel() > small:
        return images.squeeze(1).contiguous().unsqueeze(1)
    return images.contiguous()


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, C, H, W] in 0..255 to float32 in [-1, 1]."""
    return channels_first(images.float() / 127.5 - 1)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """float in [-1, 1] to uint8 0..255, rounded to the nearest."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def three_channels(images: torch.Tensor) -> torch.Tensor:
    """Grey images [n, 1, H, W] repeated to [n, 3, H, W]; colour images as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def set_moments(network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Give a network the buffers ``mean`` and ``std``, [1, C, 1, 1] or None, outside its ``state_dict``."""
    for name, values in (("mean", mean), ("std", std)):
        tensor = None if values is None else torch.tensor(values, dtype=torch.float32)[None, :, None, None]
        network.register_buffer(name, tensor, persistent=False)


def mirrored(images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """The images [n, C, H, W], each mirrored where ``flip``, bool [n], is true."""
    return channels_first(torch.where(flip[:, None, None, None], images.flip(3), images))


def resize(images: np.ndarray, size: int, *, antialias: bool = True, batch_size: int = 256) -> np.ndarray:
    """uint8 [n, C, h, w] enlarged or shrunk to uint8 [n, C, size, size], bicubic as in Pillow.

    antialias: Smooth before shrinking.  Without it, shrinking nearly undoes an enlargement.
    """
    if images.shape[2:] == (size, size):
        return images
    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for start in range(0, len(images), batch_size):
        pixels = torch.from_numpy(np.array(images[start : start + batch_size])).float()
        pixels = nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=antialias)
        resized[start : start + batch_size] = pixels.round().clamp(0, 255).to(torch.uint8).numpy()
    return resized
