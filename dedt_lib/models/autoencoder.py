"""Images to latents and back: the autoencoder of a latent diffusion model (Rombach et al., 2022).

Images are encoded once.  The mean and standard deviation of each posterior are stored, so that training can
sample it anew at every step; :class:`dedt_lib.latents.Latents` reads them.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..data import LabelledImages
from ..devices import upload
from ..errors import DedtError
from ..files import claim, keep_part
from ..latents import INDEX, SHARD
from ..pixels import resize, to_float, to_uint8
from ..training.loop import OPTIMIZERS, Supervised
from ..weights import VAE_WEIGHTS, hub_files, key_of, read_network

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

# Assumed deviation of a decoded pixel in [-1, 1]: four of 255 grey levels.  Finer detail need not be right.
PIXEL_DEVIATION = 4 / 127.5


def small_autoencoder(
    channels: int, widths: Sequence[int] = (16, 32, 32), latent_channels: int = 4, patch: int = 1
) -> "AutoencoderKL":
    """An untrained AutoencoderKL for small images: each width after the first halves the resolution.

    Args:
        channels: Channels of the images.
        widths: Width of each level.
        latent_channels: Channels of the latents.
        patch: Side, in pixels, of the patches that the first level sees as one position: see :func:`patched`.
    """
    from diffusers import AutoencoderKL

    levels = len(widths)
    network = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(widths),
        latent_channels=latent_channels,
        norm_num_groups=math.gcd(8, *widths),
        use_quant_conv=patch == 1,
        use_post_quant_conv=patch == 1,
    )
    return network if patch == 1 else patched(network, patch)


def patched(network: "AutoencoderKL", patch: int) -> "AutoencoderKL":
    """Make an untrained AutoencoderKL work on patches and add its output to that of a linear autoencoder.

    An AutoencoderKL spends most of its time at full resolution, where it is narrowest.  Here the pixels of a
    patch become the channels of one position of its first level.  :func:`start_linear` sets the linear
    autoencoder; the network, whose last layers start at zero, learns the rest.

    Args:
        network: An AutoencoderKL without ``quant_conv``; changed in place, its config too.
        patch: Side of a patch in pixels.
    """
    encoder, decoder, area = network.encoder, network.decoder, patch**2
    channels, side = encoder.conv_in.in_channels, patch * downsampling(network)
    read = nn.Conv2d(channels * area, encoder.conv_in.out_channels, 3, padding=1)
    write = nn.Conv2d(decoder.conv_out.in_channels, channels * area, 3, padding=1)
    encoder.conv_in = nn.Sequential(nn.PixelUnshuffle(patch), read)
    decoder.conv_out = nn.Sequential(write, nn.PixelShuffle(patch))
    for value in (*encoder.conv_out.parameters(), *write.parameters()):
        nn.init.zeros_(value)
    latents = network.config.latent_channels
    network.encoder = Sum(encoder, nn.Conv2d(channels, 2 * latents, side, stride=side))
    network.decoder = Sum(decoder, nn.ConvTranspose2d(latents, channels, side, stride=side))
    network.register_to_config(patch=patch)
    return network


class Sum(nn.Module):
    """The sum of a network and a linear map of the same input."""

    def __init__(self, network: nn.Module, linear: nn.Module) -> None:
        super().__init__()
        self.network, self.linear = network, linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the network plus that of the linear map."""
        return self.network(x) + self.linear(x)


@torch.no_grad()
def start_linear(network: "AutoencoderKL", images: torch.Tensor) -> None:
    """Set the linear maps of a :func:`patched` network to the best linear autoencoder of single patches.

    This is probabilistic PCA (Tipping and Bishop, 1999): the closed form of what training a linear
    variational autoencoder with Gaussian pixels of fixed deviation converges to (Lucas et al., 2019).

    Args:
        network: A patched network; it is changed in place.
        images: uint8 [n, C, H, W].
    """
    encoder, decoder, side = network.encoder.linear, network.decoder.linear, downsampling(network)
    latents, channels = decoder.weight.shape[:2]
    mean, covariance = patch_moments(images, side)
    variances, axes = torch.linalg.eigh(covariance)
    variances = variances.flip(0)[:latents].clamp(min=PIXEL_DEVIATION**2)
    axes = axes.flip(1).T[:latents].reshape(latents, channels, side, side)
    signal = (variances - PIXEL_DEVIATION**2).sqrt()
    for value in (*encoder.parameters(), *decoder.parameters()):
        value.zero_()
    encoder.weight[:latents] = axes * (signal / variances)[:, None, None, None]
    encoder.bias[:latents] = -torch.einsum("kcij,c->k", encoder.weight[:latents].double(), mean)
    encoder.bias[latents:] = (PIXEL_DEVIATION**2 / variances).log()
    decoder.weight[:] = axes * signal[:, None, None, None]
    decoder.bias[:] = mean


def patch_moments(images: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each channel, float64 [C], and covariance of patches about it, float64 [C * side**2] squared.

    Args:
        images: uint8 [n, C, H, W].
        side: Side of a patch in pixels.
    """
    sums = [to_float(batch).double().sum(dim=(0, 2, 3)) for batch in images.split(1000)]
    mean = torch.stack(sums).sum(dim=0) / images[:, 0].numel()
    covariance, count = 0.0, images[:, 0].numel() // side**2
    for batch in images.split(1000):
        centred = to_float(batch).double() - mean[:, None, None]
        patches = nn.functional.pixel_unshuffle(centred, side).permute(0, 2, 3, 1).flatten(0, 2)
        covariance = covariance + patches.T @ patches / count
    return mean, covariance


def downsampling(network: "AutoencoderKL") -> int:
    """Downsampling factor, image side over latent side: 8 in Stable Diffusion."""
    return network.config.get("patch", 1) * 2 ** (len(network.config.block_out_channels) - 1)


def train_autoencoder(
    network: "AutoencoderKL",
    data: LabelledImages,
    *,
    image_size: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    folder: Path | str | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Train an AutoencoderKL on LabelledImages resized to ``image_size``.

    The loss is the negative evidence lower bound for Gaussian pixels with a fixed deviation, scaled like a
    mean squared error.  The deviation is small, so the KL term only keeps the latents smooth and bounded, as
    the slight penalty of Rombach et al. (2022, Section 3.1) does.  The optimiser is AdamW with a cosine
    schedule.  After training, ``network.config.scaling_factor`` is the inverse standard deviation of the
    sampled latents of all images, so that scaled latents have unit variance (their Section G).

    Args:
        network: The AutoencoderKL to train, in place.
        data: LabelledImages.
        image_size: Side of the resized images in pixels.
        epochs: Passes over the images.
        batch_size: Images per step.
        learning_rate: Initial learning rate.
        seed: Seed of the order of the images and of all random draws.
        folder: Where to save a checkpoint after each epoch and to resume from one.
        device: Where to train.

    Returns:
        The mean training loss of each epoch, float64 [epochs].

    Raises:
        DedtError: The checkpoint is of another run, losses are not finite, or images do not fit the network.
    """
    check_fit(network, data.images.shape[1], image_size)
    settings = {"schedule": "cosine", "image_size": image_size}
    settings |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    network.to(device)
    images = torch.from_numpy(resize(data.images, image_size)).to(device)
    if "patch" in network.config:
        start_linear(network, images)

    def loss(batch, randomness):
        pixels = to_float(images[batch])
        posterior = network.encode(pixels).latent_dist
        noise = upload(torch.randn(posterior.mean.shape, generator=randomness), device)
        decoded = network.decode(posterior.mean + posterior.std * noise).sample
        kl = posterior.kl().mean() / pixels[0].numel()
        return nn.functional.mse_loss(decoded, pixels) + 2 * PIXEL_DEVIATION**2 * kl

    optimizer = OPTIMIZERS["adamw"](network.parameters(), lr=learning_rate, fused=False)
    task = Supervised(network, loss, optimizer, data, settings, stream="autoencoder", device=device)
    losses = task.train(folder)
    network.register_to_config(scaling_factor=1 / latent_deviation(network, images))
    return losses


@torch.no_grad()
def latent_deviation(network: "AutoencoderKL", images: torch.Tensor, batch_size: int = 256) -> float:
    """Standard deviation of all elements of the sampled latents of uint8 images [n, C, H, W].

    It is computed without sampling: variance of the posterior means plus mean of the posterior variances.
    """
    posteriors = [network.encode(to_float(batch)).latent_dist for batch in images.split(batch_size)]
    means = torch.cat([posterior.mean for posterior in posteriors]).double()
    variances = torch.cat([posterior.var for posterior in posteriors]).double()
    return float((means.var(correction=0) + variances.mean()).sqrt())


def load_autoencoder(where: Path | str) -> "AutoencoderKL":
    """An AutoencoderKL in eval mode, float32, from safetensors; a pickle is never opened.

    Args:
        where: A folder in diffusers' layout (config.json, diffusion_pytorch_model.safetensors), or a name on
            the Hugging Face hub such as "stabilityai/sd-vae-ft-mse".  A name is searched in
            ``weights_folder()`` and in the hub's cache before it is downloaded (``weights.published``).

    Returns:
        The network; its attribute ``published`` records the files.

    Raises:
        DedtError: Files are missing or damaged, or a download fails.
    """
    from diffusers import AutoencoderKL

    files = hub_files(where, "the autoencoder", (VAE_WEIGHTS,))
    return read_network(AutoencoderKL.from_pretrained, files, "AutoencoderKL", use_safetensors=True)


@torch.no_grad()
def decode(
    network: "AutoencoderKL", latents: torch.Tensor, *, size: int | None = None, batch_size: int = 64
) -> np.ndarray:
    """Images decoded from scaled latents.

    Args:
        network: An AutoencoderKL on any device; its scaling factor undoes the scaling.  It may differ from
            the encoder: MDT is trained on latents of sd-vae-ft-mse and decoded with sd-vae-ft-ema.
        latents: Scaled latents, float [n, c, h, w].
        size: Side to which the decoded images are resized, if they were enlarged before encoding.
        batch_size: Latents per forward pass.

    Returns:
        uint8 [n, C, H, W].
    """
    network.eval()
    place, factor = next(network.parameters()), network.config.scaling_factor
    parts = []
    for batch in latents.split(batch_size):
        images = network.decode((batch.float() / factor).to(place)).sample.float()
        parts.append(to_uint8(images).cpu().numpy())
    images = np.concatenate(parts)
    return images if size is None else resize(images, size, antialias=False)


@torch.no_grad()
def encode(
    network: "AutoencoderKL",
    images: np.ndarray,
    folder: Path | str,
    *,
    image_size: int,
    flip: bool,
    batch_size: int = 64,
    shard_size: int = 10_000,
    device: torch.device | str = "cpu",
) -> None:
    """Write the posteriors of uint8 images [n, C, H, W], resized to ``image_size``, into ``folder``.

    The shards ``latents-00000.npy``, ... hold float16 [m, views, 2, c, h, w]: mean and standard deviation,
    unscaled.  ``latents.json`` records the autoencoder, the images and the settings.  Up to rounding (order
    of sums), the latents do not depend on ``batch_size`` or ``shard_size``.  After an interruption, complete
    shards are kept and damaged ones encoded again.

    Args:
        network: An AutoencoderKL.
        images: uint8 [n, C, H, W]; may be memory-mapped, at most one shard is in memory.
        folder: Where to write; created if missing.
        image_size: Side of the resized images in pixels.
        flip: Whether to encode the mirrored image too, as a second view, because the latent of a mirrored
            image is not the mirrored latent.
        batch_size: Images per forward pass.
        shard_size: Images per file.
        device: Where to encode; the network is moved back afterwards.

    Raises:
        DedtError: Images do not fit the network, the folder holds latents of other images, another
            autoencoder or other settings, posteriors are not finite, or the disk is full.
    """
    folder = Path(folder)
    check_fit(network, images.shape[1], image_size)
    home = next(network.parameters()).device
    network.to(device).eval()
    side = image_size // downsampling(network)
    row = [2 if flip else 1, 2, network.config.latent_channels, side, side]
    facts = {
        "autoencoder": key_of(network),
        "images": list(images.shape),
        "image_size": image_size,
        "row": row,
        "shard_size": shard_size,
    }
    what = "latents of other images, another autoencoder or other settings"
    claim(folder / INDEX, facts, ["latents-*.npy"], what)

    def posteriors(batch):
        pixels = to_float(torch.from_numpy(np.array(resize(batch, image_size))).to(device))
        views = (pixels, pixels.flip(3)) if flip else (pixels,)
        return torch.stack([_moments(network, view) for view in views], dim=1).half().cpu().numpy()

    def encode_shard(rows, start, bar):
        shard = np.empty((len(rows), *row), np.float16)
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            shard[first : first + batch_size] = posteriors(batch)
            bar.update(len(batch))
        _check_finite(shard, start)
        return shard

    with tqdm(total=len(images), desc="encode", unit="image", leave=False) as bar:
        for number, start in enumerate(range(0, len(images), shard_size)):
            path, rows = folder / SHARD.format(number), images[start : start + shard_size]
            if keep_part(path, partial(encode_shard, rows, start, bar)):
                bar.update(len(rows))
    network.to(home)


def _moments(network, pixels):
    """Mean and standard deviation of the posterior: float32 [b, 2, c, h, w]."""
    posterior = network.encode(pixels).latent_dist
    return torch.stack([posterior.mean.float(), (posterior.logvar.float() / 2).exp()], dim=1)


def check_fit(network: "AutoencoderKL", channels: int, image_size: int) -> None:
    """Raise DedtError unless an autoencoder accepts images with these channels and this side in pixels."""
    own, factor = network.config.in_channels, downsampling(network)
    if channels != own:
        raise DedtError(
            f"The images have {channels} channel(s), but the autoencoder expects {own}. Load the "
            f"images with {own}, or choose another autoencoder."
        )
    if image_size % factor:
        raise DedtError(
            f"An image size of {image_size} does not fit an autoencoder that downsamples by {factor}. "
            f"Choose a multiple of {factor}."
        )


def _check_finite(shard, start):
    finite = np.isfinite(shard).reshape(len(shard), -1).all(axis=1)
    if not finite.all():
        raise DedtError(
            f"The latents of image {start + int(finite.argmin())} are not finite: the autoencoder's weights "
            "are damaged, or its training diverged. Fetch or train it again."
        )
