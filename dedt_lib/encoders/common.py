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

    def features(start):
        batch = torch.from_numpy(np.array(images[start : start + batch_size], order="C"))
        if batch.dtype != torch.uint8:
            raise DedtError(f"Images must be uint8 [n, C, H, W]; got {batch.dtype} {list(batch.shape)}.")
        values = network.features(to_float(batch.to(device))).float().cpu().numpy()
        if values.ndim != 2:
            raise DedtError(
                f"{type(network).__name__}.features must return [n, d]; got {list(values.shape)}. Pool or flatten "
                "them."
            )
        if not np.isfinite(values).all():
            row = start + int((~np.isfinite(values)).any(axis=1).argmax())
            raise DedtError(
                f"The features of image {row} are not finite: the weights of the {type(network).__name__} "
                "are damaged, or its training diverged. Fetch it again, or train it with a lower "
                "learning rate."
            )
        return values

    n, name = len(images), f"embed {type(network).__name__}"

    def rows(start, stop, bar):
        found = []
        for first in range(start, min(stop, n), batch_size):
            found.append(features(first))
            bar.update()
        return np.concatenate(found)

    bar = partial(tqdm, total=-(-n // batch_size), desc=name, unit="batch", leave=False)
    if path is None:
        with bar() as shown:
            return rows(0, n, shown)
    path, size = Path(path), -(-PART // batch_size) * batch_size
    pattern = f".{path.name}-*.npy"
    facts = {"weights": key_of(network), "images": list(images.shape), "content": _content(images)}
    claim(
        path.with_name(f".{path.name}.json"),
        facts,
        [pattern, path.name],
        "features of other images or other weights",
    )
    if not intact_or_removed(path):
        parts = [path.with_name(pattern.replace("*", f"{start:09d}-{size}")) for start in range(0, n, size)]
        with bar() as shown:
            for start, part in zip(range(0, n, size), parts):
                if keep_part(part, partial(rows, start, start + size, shown)):
                    shown.update(-(-(min(start + size, n) - start) // batch_size))
        join(parts, path, n)
    return np.load(path, mmap_mode="r")


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
