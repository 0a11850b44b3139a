"""What every encoder shares: features of many images, and the accuracy of a classifier."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..data import LabelledImages
from ..devices import keep_freed_memory
from ..errors import DedtError
from ..files import full_disk_told, say
from ..pixels import to_float


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
        network: Has ``features``.
        images: uint8 [n, C, H, W].
        batch_size: Images at a time.
        device: Where to compute.
        path: A ``.npy`` file to write batch by batch, for features that do not fit into memory; what comes
            back is then that file, memory-mapped and read-only.  A killed call is taken up where it was by
            one with the same network and images; batches that were damaged since are made again.

    Returns:
        float32 [n, d].

    Raises:
        DedtError: Images are not uint8, features are not finite, or the disk is full.
    """
    network.to(device).eval()
    keep_freed_memory()

    def features(start):
        batch = torch.from_numpy(np.array(images[start : start + batch_size], order="C"))
        if batch.dtype != torch.uint8:
            raise DedtError(f"Images must be uint8 [n, C, H, W]; got {batch.dtype} {list(batch.shape)}.")
        values = network.features(to_float(batch.to(device))).float().cpu().numpy()
        if not np.isfinite(values).all():
            row = start + int((~np.isfinite(values)).any(axis=1).argmax())
            raise DedtError(
                f"The features of image {row} are not finite: the weights of the {type(network).__name__} "
                "are damaged, or its training went astray. Train it again with a lower learning rate."
            )
        return values

    name = f"embed {type(network).__name__}"
    starts = tqdm(range(0, len(images), batch_size), desc=name, unit="batch", leave=False)
    if path is None:
        return np.concatenate([features(start) for start in starts])
    with full_disk_told(f"while writing {path}"):
        _write_rows(Path(path), len(images), starts, batch_size, features)
    return np.load(path, mmap_mode="r")


def _write_rows(path, n, starts, batch_size, features):
    """Write float32 [n, d] as ``.npy``; ``features(start)`` gives the rows of a batch.

    Rows are written to ``path.partial`` and not stored through a memory map: a full disk is then an error
    instead of the end of the process.  The digests of the batches beside it say which of them a killed run
    completed; one that was damaged since is made again.
    """
    first, header = features(0), io.BytesIO()
    shape = (n, *first.shape[1:])
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    header = header.getvalue()
    partial = path.with_name(path.name + ".partial")
    seal = path.with_name(f".{partial.name}.{n}x{first[0].size}x{batch_size}.seal")
    digests = _seals(seal)

    def stored(file, start):
        file.seek(len(header) + start * first[0].nbytes)
        return file.read(min(batch_size, n - start) * first[0].nbytes)

    if not (digests and partial.exists() and _is_of(first, digests.get(0), stored, partial)):
        digests = {}
        seal.unlink(missing_ok=True)
    with open(partial, "r+b" if digests else "w+b") as file, open(seal, "a") as seals:
        file.write(header)
        for start in starts:
            if start in digests and digests[start] == _digest(stored(file, start)):
                continue
            if start in digests:
                say(f"{partial} is damaged at row {start}; this batch is embedded again.")
            rows = features(start).astype("<f4").tobytes()
            file.seek(len(header) + start * first[0].nbytes)
            file.write(rows)
            file.flush()
            seals.write(f"{start} {_digest(rows)}\n")
            seals.flush()
        file.truncate(len(header) + n * first[0].nbytes)
        os.fsync(file.fileno())
    partial.replace(path)
    seal.unlink()


def _digest(rows):
    return hashlib.sha256(rows).hexdigest()


def _seals(path):
    """First row of a batch -> the digest of its rows; a line that was cut off is left out."""
    if not path.exists():
        return {}
    lines = (line.split() for line in path.read_text(errors="replace").splitlines())
    return {int(line[0]): line[1] for line in lines if len(line) == 2 and line[0].isdecimal()}


def _is_of(first, digest, stored, partial):
    """Whether a half-written file is of these features, and not of other weights or other images.

    Its first batch tells, or, if that was damaged, the digest it had.
    """
    with open(partial, "rb") as file:
        rows = np.frombuffer(stored(file, 0), "<f4")
    same = digest == _digest(first.astype("<f4").tobytes())
    return same or (rows.size == first.size and np.allclose(rows, first.ravel(), 1e-3, 1e-5))


@torch.no_grad()
def accuracy(network: nn.Module, data: LabelledImages, *, device: torch.device | str = "cpu") -> float:
    """Share of LabelledImages that the classifier ``network`` names rightly, 0..1."""
    network.to(device).eval()
    batches = torch.from_numpy(data.images).split(256)
    logits = torch.cat([network(to_float(batch.to(device))).cpu() for batch in batches])
    return float((logits.argmax(1).numpy() == data.labels).mean())
