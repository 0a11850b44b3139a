"""Training of classifiers from scratch, for features and for FID, as in the cited papers."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..arrays import check_choice
from ..data import LabelledImages
from ..devices import upload
from ..pixels import channels_first, mirrored, to_float
from ..training.loop import OPTIMIZERS, Supervised


def train_classifier(
    network: nn.Module,
    data: LabelledImages,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    shift: int = 1,
    padding: str = "replicate",
    flip: bool = False,
    schedule: str = "cosine",
    nesterov: bool = True,
    optimizer: str = "sgd",
    folder: Path | str | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Train ``network`` on LabelledImages with cross-entropy.

    The defaults are SGD with Nesterov momentum and a cosine schedule to zero (as in DeepCore) and random
    shifts of up to ``shift`` pixels.  Moderate-DS (Xia et al., 2023; utils.py) uses epochs=200,
    batch_size=128, learning_rate=0.1, schedule="steps", nesterov=False, shift=4, padding="zero", flip=True,
    and a network that normalises with the mean and standard deviation of the data.

    Args:
        network: Maps images float [n, C, H, W] to logits [n, K].
        data: LabelledImages.
        epochs: Passes over the images.
        batch_size: Images per step.
        learning_rate: Initial learning rate.
        seed: Seed of the order of the images and of all random draws.
        shift: Largest random shift, in pixels.
        padding: What fills the pixels that a shift uncovers: the border ("replicate") or black ("zero").
        flip: Whether to mirror each image with probability one half.
        schedule: "cosine", or "steps" (the rate is divided by five after 30, 60 and 80 % of the epochs).
        nesterov: Whether the momentum of SGD is Nesterov's.
        optimizer: "sgd", or "adamw", with which Inception-v3 learns in few steps.
        folder: Where to save a checkpoint after each epoch and to resume from one; on a CPU a resumed run has
            the same result bit for bit.
        device: Where to train.

    Returns:
        The mean training loss of each epoch, float64 [epochs].

    Raises:
        DedtError: The checkpoint belongs to another run, losses are not finite, or a choice is unknown.
    """
    settings = {"shift": shift, "padding": padding, "flip": flip}
    settings |= {"schedule": schedule, "nesterov": nesterov, "optimizer": optimizer}
    settings |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    check_choice("optimizer", optimizer, ("sgd", "adamw"))
    images, labels = (torch.from_numpy(values).to(device) for values in (data.images, data.labels))
    own = {"nesterov": nesterov} if optimizer == "sgd" else {"fused": False}
    optimizer = OPTIMIZERS[optimizer](network.to(device).parameters(), lr=learning_rate, **own)

    def loss(batch, randomness):
        pixels = random_shift(to_float(images[batch]), shift, randomness, padding)
        if flip:
            pixels = random_flip(pixels, randomness)
        return nn.functional.cross_entropy(network(pixels), labels[batch])

    task = Supervised(network, loss, optimizer, data, settings, stream="classifier", device=device)
    return task.train(folder)


def random_shift(
    images: torch.Tensor, pixels: int, generator: torch.Generator, padding: str = "replicate"
) -> torch.Tensor:
    """Shift each image by a random number of pixels along both axes.

    Args:
        images: float [n, C, H, W] in [-1, 1].
        pixels: Largest shift along each axis, in either direction.
        generator: A generator on the host.
        padding: What fills the uncovered pixels: the border ("replicate") or black ("zero", here -1).

    Raises:
        DedtError: The padding is unknown.
    """
    check_choice("padding", padding, ("replicate", "zero"))
    if pixels == 0:
        return images
    n, _, height, width = images.shape
    how = {"mode": "replicate"} if padding == "replicate" else {"value": -1.0}
    padded = nn.functional.pad(images, (pixels,) * 4, **how)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=generator)
    rows = upload(dy + torch.arange(height), images.device)
    columns = upload(dx + torch.arange(width), images.device)
    which = torch.arange(n, device=images.device)[:, None, None]
    shifted = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return channels_first(shifted)


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image [n, C, H, W] with probability one half; the generator is on the host."""
    return mirrored(images, upload(torch.rand(len(images), generator=generator) < 0.5, images.device))
