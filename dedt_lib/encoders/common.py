"""Functions for every encoder: the features of many images, and the accuracy of a classifier."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..data import LabelledImages
from ..devices import keep_freed_memory
from ..errors import DedtError
from ..files import claim, intact_or_removed, join, keep_part
from ..pixels import to_float
from ..weights import key_of

PART = 256
"""Images per part file, rounded up to whole batches; an interrupted embedding resumes after the last part."""


@torch.no_grad()
def embed(
    network: nn.Module,
    images: np.ndarray,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    path: Path | str | None = None,
) -> np.ndarray:
    """Features of images, in eval mode, without augmentation.

    Args:
        network: A network with a method ``features``.
        images: uint8 [n, C, H, W].
        batch_size: Images per forward pass.
        device: Where to compute.
        path: A ``.npy`` file to write part by part, for features that do not fit into memory; the result is
            then this file, memory-mapped and read-only.  After an interruption, a call with the same weights
            and images resumes where the last one stopped, and recomputes damaged parts.

    Returns:
        float32 [n, d].

    Raises:
        DedtError: Images are not uint8, features are not finite, the disk is full, or ``path`` holds the
            features of other weights or other images.
    """
    images = getattr(images, "images", images)
    if not len(images):
        raise DedtError("There are no images to embed.")
    network.to(device).eval()
    keep_freed_memory()
    n = len(images)

    def features(start: int, stop: int, bar: tqdm) -> np.ndarray:
        found = []
        for first in range(start, min(stop, n), batch_size):
            found.append(_of_batch(network, images[first : first + batch_size], first, device))
            bar.update()
        return np.concatenate(found)

    name = f"embed {type(network).__name__}"
    shown = partial(tqdm, total=-(-n // batch_size), desc=name, unit="batch", leave=False)
    if path is None:
        with shown() as bar:
            return features(0, n, bar)
    path, size = Path(path), -(-PART // batch_size) * batch_size
    pattern = f".{path.name}-*.npy"
    facts = {"weights": key_of(network), "images": list(images.shape), "content": _content(images)}
    index, stale = path.with_name(f".{path.name}.json"), [pattern, path.name]
    claim(index, facts, stale, "features of other images or other weights")
    if not intact_or_removed(path):
        starts = range(0, n, size)
        parts = [path.with_name(pattern.replace("*", f"{start:09d}-{size}")) for start in starts]
        with shown() as bar:
            for start, part in zip(starts, parts):
                if keep_part(part, partial(features, start, start + size, bar)):
                    bar.update(-(-(min(start + size, n) - start) // batch_size))
        join(parts, path, n)
    return np.load(path, mmap_mode="r")


def _of_batch(network, images, first, device):
    """Features of a batch whose first image has the number ``first``; raises DedtError if they are unusable."""
    batch = torch.from_numpy(np.array(images, order="C"))
    if batch.dtype != torch.uint8:
        raise DedtError(f"Images must be uint8 [n, C, H, W]; got {batch.dtype} {list(batch.shape)}.")
    values = network.features(to_float(batch.to(device))).float().cpu().numpy()
    who = type(network).__name__
    if values.ndim != 2:
        raise DedtError(f"{who}.features must return [n, d]; got {list(values.shape)}. Pool or flatten them.")
    if not np.isfinite(values).all():
        row = first + int((~np.isfinite(values)).any(axis=1).argmax())
        raise DedtError(
            f"The features of image {row} are not finite: the weights of the {who} are damaged, or its "
            "training diverged. Fetch it again, or train it with a lower learning rate."
        )
    return values


def _content(images):
    """Hex digits of a hash of images: the SHA-256 of an array, or their own ``content``."""
    if not isinstance(images, np.ndarray):
        return getattr(images, "content", "")
    digest = hashlib.sha256()
    for start in range(0, len(images), PART):
        digest.update(np.ascontiguousarray(images[start : start + PART]).data)
    return digest.hexdigest()


@torch.no_grad()
def accuracy(network: nn.Module, data: LabelledImages, *, device: torch.device | str = "cpu") -> float:
    """Share of LabelledImages that the classifier ``network`` labels correctly, 0..1."""
    network.to(device).eval()
    batches = torch.from_numpy(data.images).split(256)
    logits = torch.cat([network(to_float(batch.to(device))).cpu() for batch in batches])
    return float((logits.argmax(1).numpy() == data.labels).mean())
