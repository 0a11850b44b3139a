"""Images to latents and back: the autoencoder of a latent diffusion model (Rombach et al., 2022).

Images are encoded once.  What is kept is the posterior, mean and deviation, so that training samples it anew
at every step; it lies in memory-mapped shards, of which training reads only the rows that it needs.
"""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from tqdm import tqdm

from .encoders.common import to_float, to_uint8
from .encoders.training import fit, make_optimizer
from .errors import DedtError
from .store import intact, intact_or_removed, read_json, say_damaged, sealed, write_json
from .weights import hub_files, key_of

__all__ = [
    "Latents",
    "autoencoder_key",
    "decode",
    "encode",
    "load_autoencoder",
    "resize",
    "small_autoencoder",
    "train_autoencoder",
]

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"

INDEX, SHARD = "latents.json", "latents-{:05d}.npy"
RESIDENT = 2**30  # bytes of latents that are kept on the device
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Of a pixel on the scale -1..1: four of 255 grey levels.  What is finer the decoder need not get right.
PIXEL_DEVIATION = 4 / 127.5


# ---- the autoencoder -------------------------------------------------------------------------------


def small_autoencoder(channels, widths=(16, 32, 32), latent_channels=4):
    """An untrained AutoencoderKL for small images: each width after the first halves the resolution.

    channels: of the images.  latent_channels: of the latents.
    """
    levels = len(widths)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(widths),
        latent_channels=latent_channels,
        norm_num_groups=math.gcd(8, *widths),
    )


def downsampling(network):
    """Pixels along a side for each latent along it: 8 in Stable Diffusion."""
    return 2 ** (len(network.config.block_out_channels) - 1)


def train_autoencoder(
    network, data, *, image_size, epochs, batch_size, learning_rate, seed, folder=None, device="cpu"
):
    """Train an AutoencoderKL on LabelledImages resized to ``image_size``; returns losses float64 [epochs].

    The loss is the negative evidence bound for Gaussian pixels of a fixed deviation, on the scale of a mean
    squared error.  The deviation is small, so the KL term only keeps the latents smooth and bounded, as the
    slight penalty of Rombach et al. (2022, Section 3.1) does.  AdamW, cosine schedule.
    Afterwards ``network.config.scaling_factor`` is one over the deviation of the sampled latents of all
    images, so that scaled latents have unit variance (their Section G).
    folder: keeps a checkpoint there after each epoch, and goes on from one.  Raises DedtError for a
    checkpoint of another run, losses that are not finite, and images that do not fit the network.
    """
    check_fit(network, data.images.shape[1], image_size)
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "schedule": "cosine",
        "image_size": image_size,
    }
    network.to(device).train()
    images = torch.from_numpy(resize(data.images, image_size)).to(device)

    def loss(batch, randomness):
        pixels = to_float(images[batch])
        posterior = network.encode(pixels).latent_dist
        decoded = network.decode(posterior.sample(randomness)).sample
        kl = posterior.kl().mean() / pixels[0].numel()
        return nn.functional.mse_loss(decoded, pixels) + 2 * PIXEL_DEVIATION**2 * kl

    optimizer = make_optimizer("adamw", network, learning_rate, nesterov=False)
    losses = fit(
        network, loss, optimizer, len(data), settings, stream="autoencoder", folder=folder, device=device
    )
    network.register_to_config(scaling_factor=1 / latent_deviation(network, images))
    return losses


@torch.no_grad()
def latent_deviation(network, images, batch_size=256):
    """Standard deviation of all elements of the sampled latents of uint8 images [n, C, H, W], as a float.

    Exact, without sampling: the variance of the posterior means plus the mean of the posterior variances.
    """
    posteriors = [network.encode(to_float(batch)).latent_dist for batch in images.split(batch_size)]
    means = torch.cat([posterior.mean for posterior in posteriors]).double()
    variances = torch.cat([posterior.var for posterior in posteriors]).double()
    return float((means.var(correction=0) + variances.mean()).sqrt())


def load_autoencoder(where):
    """An AutoencoderKL in eval mode, float32, from safetensors; a pickle is never opened.

    where: a folder in diffusers' layout (config.json, diffusion_pytorch_model.safetensors), or the name of
    one on the Hugging Face hub, as "stabilityai/sd-vae-ft-mse".  A name is looked for in ``weights_folder()``
    and in the hub's cache, and else downloaded (``weights.published``); its files are noted in the attribute
    ``published``.  Raises DedtError for files that are missing or damaged, and for a download that fails.
    """
    files = hub_files(where, "the autoencoder", (WEIGHTS,), CONFIG)
    folder = files.folder
    try:
        network, report = AutoencoderKL.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:
        raise DedtError(
            f"{folder} holds no AutoencoderKL that can be read ({error}). Fetch or save its {CONFIG} "
            f"and {WEIGHTS} again."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise DedtError(
            f"{folder / WEIGHTS} belongs to another network than {CONFIG} describes: it lacks {missing[0]} "
            f"and {len(missing) - 1} more. Fetch or save both files together."
        )
    network.published = files
    return network.eval()


def autoencoder_key(where):
    """Sixteen hex digits of an autoencoder's weights and settings: same latents, same key.

    where: an AutoencoderKL, or what :func:`load_autoencoder` takes.
    """
    return key_of(where if isinstance(where, nn.Module) else load_autoencoder(where))


# ---- pixels ----------------------------------------------------------------------------------------


def resize(images, size, *, antialias=True, batch_size=256):
    """uint8 [n, C, h, w] enlarged or shrunk to uint8 [n, C, size, size], bicubic as in Pillow.

    antialias: smooth before shrinking.  Without it shrinking all but undoes an enlargement.
    """
    if images.shape[2:] == (size, size):
        return images
    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for start in range(0, len(images), batch_size):
        pixels = torch.from_numpy(np.array(images[start : start + batch_size])).float()
        pixels = nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=antialias)
        resized[start : start + batch_size] = pixels.round().clamp(0, 255).to(torch.uint8).numpy()
    return resized


@torch.no_grad()
def decode(network, latents, *, size=None, batch_size=64):
    """Scaled latents float [n, c, h, w] to images uint8 [n, C, H, W] (numpy).

    network: an AutoencoderKL, on any device; it divides by its own scaling factor.  That need not be the one
    that encoded: MDT is trained with latents of sd-vae-ft-mse and decoded with sd-vae-ft-ema.
    size: of the images before they were enlarged for the autoencoder, to shrink them back to.
    """
    network.eval()
    place, factor = next(network.parameters()), network.config.scaling_factor
    parts = []
    for batch in latents.split(batch_size):
        images = network.decode((batch.float() / factor).to(place)).sample.float()
        parts.append(to_uint8(images).cpu().numpy())
    images = np.concatenate(parts)
    return images if size is None else resize(images, size, antialias=False)


# ---- latents on disk -------------------------------------------------------------------------------


@torch.no_grad()
def encode(
    network,
    images,
    folder,
    *,
    image_size,
    flip,
    batch_size=64,
    shard_size=10_000,
    device="cpu",
    precision="float32",
):
    """Write the posteriors of uint8 images [n, C, H, W], resized to ``image_size``, into ``folder``.

    Shards ``latents-00000.npy``: float16 [m, views, 2, c, h, w], mean and deviation, unscaled; beside them
    ``latents.json`` says whose they are.  flip: a second view, the mirrored image, because the latent of a
    mirrored image is not the mirrored latent.  images: may be memory-mapped; at most one shard is in memory.
    precision: "float32" or "bfloat16", of the network.  The latents do not depend on ``batch_size`` or
    ``shard_size`` (up to the rounding of another order of sums).
    Shards that a killed call completed are kept, those that were damaged since are encoded again.  Raises
    DedtError for images that do not fit the network, a folder with latents of something else, posteriors that
    are not finite, and a full disk.
    """
    folder = Path(folder)
    check_fit(network, images.shape[1], image_size)
    if precision not in PRECISIONS:
        raise DedtError(f"Unknown precision '{precision}'. Choose one of: {', '.join(PRECISIONS)}.")
    network.to(device).eval()
    side = image_size // downsampling(network)
    facts = {
        "autoencoder": key_of(network),
        "images": list(images.shape),
        "image_size": image_size,
        "precision": precision,
        "row": [2 if flip else 1, 2, network.config.latent_channels, side, side],
        "shard_size": shard_size,
    }
    _claim(folder, facts)
    autocast = torch.autocast(
        torch.device(device).type, PRECISIONS[precision], enabled=precision != "float32"
    )

    def posteriors(batch):
        pixels = to_float(torch.from_numpy(np.array(resize(batch, image_size))).to(device))
        views = (pixels, pixels.flip(3)) if flip else (pixels,)
        with autocast:
            return torch.stack([_moments(network, view) for view in views], dim=1).half().cpu().numpy()

    with tqdm(total=len(images), desc="encode", unit="image", leave=False) as bar:
        for number, start in enumerate(range(0, len(images), shard_size)):
            path, rows = folder / SHARD.format(number), images[start : start + shard_size]
            if intact_or_removed(path):
                bar.update(len(rows))
                continue
            shard = np.empty((len(rows), *facts["row"]), np.float16)
            for first in range(0, len(rows), batch_size):
                batch = rows[first : first + batch_size]
                shard[first : first + batch_size] = posteriors(batch)
                bar.update(len(batch))
            _check_finite(shard, start)
            with sealed(path) as partial, open(partial, "wb") as file:
                np.save(file, shard)


def _moments(network, pixels):
    """Mean and deviation of the posterior: float32 [b, 2, c, h, w]."""
    posterior = network.encode(pixels).latent_dist
    return torch.stack([posterior.mean.float(), (posterior.logvar.float() / 2).exp()], dim=1)


def check_fit(network, channels, image_size):
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


def _claim(folder, facts):
    """Note in the folder whose latents it holds; refuse one that holds others."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    if intact(index):
        if read_json(index) != facts:
            raise DedtError(
                f"{folder} holds latents of other images, another autoencoder or other settings. Delete it "
                "and run again."
            )
        return
    if index.exists():
        say_damaged(index, "all images are encoded again")
    for shard in folder.glob("latents-*.npy"):  # nothing says whose they are
        shard.unlink()
    with sealed(index) as partial:
        write_json(partial, facts)


def _check_finite(shard, start):
    finite = np.isfinite(shard).reshape(len(shard), -1).all(axis=1)
    if not finite.all():
        raise DedtError(
            f"The latents of image {start + int(finite.argmin())} are not finite: the autoencoder's weights "
            "are damaged, or its training went astray. Fetch or train it again, or use precision 'float32'."
        )


class Latents:
    """Posteriors that :func:`encode` wrote, as a source of training samples.

    folder: where they are.  labels: int64 [n].  scaling_factor: the encoding network's.
    Below 1 GiB they are kept on the device after :meth:`to`, else read row by row; the samples are the same.
    Raises DedtError for shards that are missing or damaged and for another number of labels.
    """

    def __init__(self, folder, labels, *, scaling_factor):
        folder = Path(folder)
        facts = read_json(folder / INDEX)
        self.labels, self.scaling_factor = np.asarray(labels, dtype=np.int64), scaling_factor
        n, self.shard_size, row = facts["images"][0], facts["shard_size"], tuple(facts["row"])
        if len(self.labels) != n:
            raise DedtError(
                f"{folder} holds the latents of {n} images, but there are {len(self.labels)} labels."
            )
        self.views, self.shape = row[0], row[2:]
        self.shards = [
            _open_shard(folder / SHARD.format(number), (min(self.shard_size, n - start), *row))
            for number, start in enumerate(range(0, n, self.shard_size))
        ]
        self.device, self.resident = torch.device("cpu"), None

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        """This source, drawing on ``device`` from now on."""
        self.device, self.resident = torch.device(device), None
        if sum(shard.nbytes for shard in self.shards) < RESIDENT:
            self.resident = torch.from_numpy(np.concatenate(self.shards)).to(self.device)
        return self

    def draw(self, indices, flip, generator):
        """Scaled samples of the posteriors at ``indices`` (int64 [b]): float32 [b, c, h, w].

        flip: bool [b], whose mirror images to take, or None.  generator: on the device of this source.
        Raises DedtError for a flip when the mirror images were not encoded.
        """
        mean, deviation = self._posteriors(indices, flip)
        noise = torch.randn(mean.shape, generator=generator, device=self.device)
        return ((mean + deviation * noise) * self.scaling_factor).contiguous()

    def mean(self, indices):
        """Scaled posterior means at ``indices`` (int64 [b]): float32 [b, c, h, w]."""
        return self._posteriors(torch.as_tensor(indices), None)[0] * self.scaling_factor

    def _posteriors(self, indices, flip):
        """Means and deviations: two float32 [b, c, h, w] on the device."""
        if flip is None:
            flip = torch.zeros_like(indices)
        elif self.views == 1:
            raise DedtError(
                "The mirror images were not encoded: encode with flip=True, or train without flips."
            )
        if self.resident is not None:
            rows = self.resident[indices.to(self.device), flip.to(self.device).long()]
        else:
            rows = torch.from_numpy(self._read(indices.cpu().numpy(), flip.long().cpu().numpy()))
        return rows.to(self.device).float().unbind(dim=1)

    def _read(self, indices, views):
        """float16 [b, 2, c, h, w] from the shards, and nothing else of them."""
        rows = np.empty((len(indices), 2, *self.shape), np.float16)
        shards, places = np.divmod(indices, self.shard_size)
        for number in np.unique(shards):
            mine = shards == number
            rows[mine] = self.shards[number][places[mine], views[mine]]
        return rows


def _open_shard(path, shape):
    try:
        shard = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise DedtError(f"{path} is missing: the encoding was not completed. Run it again.") from None
    except (ValueError, OSError, EOFError) as error:
        raise DedtError(f"{path} is damaged ({error}). Delete it and run the encoding again.") from error
    if shard.dtype != np.float16 or shard.shape != shape:
        raise DedtError(
            f"{path} holds {shard.dtype} {list(shard.shape)}, but float16 {list(shape)} belongs there. "
            "Delete it and run the encoding again."
        )
    return shard
