"""Images to latents and back: the autoencoder of a latent diffusion model (Rombach et al., 2022).

Images are encoded once.  What is kept is the posterior, mean and deviation, so that training samples it anew
at every step; :class:`dedt_lib.latents.Latents` reads it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..data import LabelledImages
from ..devices import upload
from ..errors import DedtError
from ..files import claim, intact_or_removed, sealed
from ..latents import INDEX, SHARD
from ..pixels import resize, to_float, to_uint8
from ..training import OPTIMIZERS, Supervised
from ..weights import VAE_WEIGHTS, hub_files, key_of, read_network

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

# Of a pixel on the scale -1..1: four of 255 grey levels.  What is finer the decoder need not get right.
PIXEL_DEVIATION = 4 / 127.5


def small_autoencoder(
    channels: int, widths: Sequence[int] = (16, 32, 32), latent_channels: int = 4, patch: int = 1
) -> "AutoencoderKL":
    """An untrained AutoencoderKL for small images: each width after the first halves the resolution.

    Args:
        channels: Of the images.
        widths: Of the levels.
        latent_channels: Of the latents.
        patch: Pixels along a side of what the first level sees as one position: see :func:`patched`.
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
    """Let an untrained AutoencoderKL read and write patches, and add to what a linear autoencoder does.

    Most of the work of an AutoencoderKL is at full resolution, where it is narrowest: here patches of pixels
    are the channels of one position of its first level.  :func:`start_linear` sets the linear autoencoder,
    and the network, whose last layers are zero, learns the rest.

    Args:
        network: Without ``quant_conv``; changed in place, and noted in its config.
        patch: Pixels along a side.
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
    """A network and a linear map of the same input, added."""

    def __init__(self, network: nn.Module, linear: nn.Module) -> None:
        super().__init__()
        self.network, self.linear = network, linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Their sum."""
        return self.network(x) + self.linear(x)


@torch.no_grad()
def start_linear(network: "AutoencoderKL", images: torch.Tensor) -> None:
    """Set the linear maps of a :func:`patched` network to the best linear autoencoder of single patches.

    It is probabilistic PCA (Tipping and Bishop, 1999), which is where a linear variational autoencoder with
    Gaussian pixels of a fixed deviation ends (Lucas et al., 2019), had at once.

    Args:
        network: Changed in place.
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
    """Mean of each channel, and covariance of patches about it: float64 [C] and [C * side**2] squared.

    Args:
        images: uint8 [n, C, H, W].
        side: Pixels along a side of a patch.
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
    """Pixels along a side for each latent along it: 8 in Stable Diffusion."""
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

    The loss is the negative evidence bound for Gaussian pixels of a fixed deviation, on the scale of a mean
    squared error.  The deviation is small, so the KL term only keeps the latents smooth and bounded, as the
    slight penalty of Rombach et al. (2022, Section 3.1) does.  AdamW, cosine schedule.
    Afterwards ``network.config.scaling_factor`` is one over the deviation of the sampled latents of all
    images, so that scaled latents have unit variance (their Section G).

    Args:
        network: Trained in place.
        data: LabelledImages.
        image_size: Pixels along a side.
        epochs: Passes over the images.
        batch_size: Images a step.
        learning_rate: Of the first steps.
        seed: Of the order of the images and of every draw.
        folder: Keeps a checkpoint there after each epoch, and goes on from one.
        device: Where to train.

    Returns:
        The training losses float64 [epochs].

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
    task = Supervised(network, loss, optimizer, len(data), settings, stream="autoencoder", device=device)
    losses = task.train(folder)
    network.register_to_config(scaling_factor=1 / latent_deviation(network, images))
    return losses


@torch.no_grad()
def latent_deviation(network: "AutoencoderKL", images: torch.Tensor, batch_size: int = 256) -> float:
    """Standard deviation of all elements of the sampled latents of uint8 images [n, C, H, W].

    Exact, without sampling: the variance of the posterior means plus the mean of the posterior variances.
    """
    posteriors = [network.encode(to_float(batch)).latent_dist for batch in images.split(batch_size)]
    means = torch.cat([posterior.mean for posterior in posteriors]).double()
    variances = torch.cat([posterior.var for posterior in posteriors]).double()
    return float((means.var(correction=0) + variances.mean()).sqrt())


def load_autoencoder(where: Path | str) -> "AutoencoderKL":
    """An AutoencoderKL in eval mode, float32, from safetensors; a pickle is never opened.

    Args:
        where: A folder in diffusers' layout (config.json, diffusion_pytorch_model.safetensors), or the name
            of one on the Hugging Face hub, as "stabilityai/sd-vae-ft-mse".  A name is looked for in
            ``weights_folder()`` and in the hub's cache, and else downloaded (``weights.published``).

    Returns:
        The network; its files are noted in the attribute ``published``.

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
    """Scaled latents to images.

    Args:
        network: On any device; it divides by its own scaling factor.  It need not be the one that encoded:
            MDT is trained with latents of sd-vae-ft-mse and decoded with sd-vae-ft-ema.
        latents: float [n, c, h, w].
        size: Of the images before they were enlarged for the autoencoder, to shrink them back to.
        batch_size: Latents decoded at a time.

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

    Shards ``latents-00000.npy``: float16 [m, views, 2, c, h, w], mean and deviation, unscaled; beside them
    ``latents.json`` says whose they are.  The latents do not depend on ``batch_size`` or ``shard_size`` (up
    to the rounding of another order of sums).  Shards that a killed call completed are kept, those that were
    damaged since are encoded again.

    Args:
        network: An AutoencoderKL.
        images: uint8 [n, C, H, W]; may be memory-mapped, at most one shard is in memory.
        folder: Made if it is not there.
        image_size: Pixels along a side.
        flip: Whether to add a second view, the mirrored image, because the latent of a mirrored image is not
            the mirrored latent.
        batch_size: Images at a time.
        shard_size: Images in a file.
        device: Where to encode; afterwards the network is where it was.

    Raises:
        DedtError: Images do not fit the network, the folder holds latents of something else, posteriors are
            not finite, or the disk is full.
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

    with tqdm(total=len(images), desc="encode", unit="image", leave=False) as bar:
        for number, start in enumerate(range(0, len(images), shard_size)):
            path, rows = folder / SHARD.format(number), images[start : start + shard_size]
            if intact_or_removed(path):
                bar.update(len(rows))
                continue
            shard = np.empty((len(rows), *row), np.float16)
            for first in range(0, len(rows), batch_size):
                batch = rows[first : first + batch_size]
                shard[first : first + batch_size] = posteriors(batch)
                bar.update(len(batch))
            _check_finite(shard, start)
            with sealed(path) as partial, open(partial, "wb") as file:
                np.save(file, shard)
    network.to(home)


def _moments(network, pixels):
    """Mean and deviation of the posterior: float32 [b, 2, c, h, w]."""
    posterior = network.encode(pixels).latent_dist
    return torch.stack([posterior.mean.float(), (posterior.logvar.float() / 2).exp()], dim=1)


def check_fit(network: "AutoencoderKL", channels: int, image_size: int) -> None:
    """Raise DedtError where an autoencoder does not take images of these channels and pixels along a side."""
    own, factor = network.config.in_channels, downsampling(network)
    if channels != own:
        raise DedtError(
            f"The images have {channels} channel(s), but the autoencoder takes {own}. Load the "
            f"images with {own}, or choose another autoencoder."
        )
    if image_size % factor:
        raise DedtError(
            f"An image size of {image_size} does not fit an autoencoder that makes one latent of {factor} "
            f"pixels. Choose a multiple of {factor}."
        )


def _check_finite(shard, start):
    finite = np.isfinite(shard).reshape(len(shard), -1).all(axis=1)
    if not finite.all():
        raise DedtError(
            f"The latents of image {start + int(finite.argmin())} are not finite: the autoencoder's weights "
            "are damaged, or its training went astray. Fetch or train it again."
        )
