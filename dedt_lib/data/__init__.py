"""Labelled images: one type, several sources, one module for each source."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DedtError
from . import cifar10, digits, folder, parquet
from .labelled import LabelledImages
from .listing import Listing
from .reading import Reading

if TYPE_CHECKING:
    from ..store import Store

__all__ = ["SOURCES", "LabelledImages", "Listing", "Reading", "check_source", "find", "load"]

SOURCES = ("digits", "cifar10", "folder", "parquet")
SHAPES = {"digits": (8, 1), "cifar10": (32, 3)}
FINDERS = {"cifar10": cifar10.find, "folder": folder.find, "parquet": parquet.find}


def load(
    source: str,
    *,
    split: str = "train",
    path: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    per_class: int | None = None,
    store: "Store | None" = None,
    skip_bad: bool = False,
    report: str | Path | None = None,
) -> LabelledImages | None:
    """Load images by the name of their source.

    Images of a folder and of Parquet files are centre-cropped to a square and resized; transparent pixels are
    put over white.

    Args:
        source: one of

            - "digits": scikit-learn's scans, 8x8, one channel: 150 training images in each class, 297 test
              images.
            - "cifar10": the original archive, 32x32, three channels, 50,000 and 10,000 images.  ``path`` is a
              folder that holds or gets it (default: ``$DEDT_DATA``, else ``data/``), or one of Parquet files.
            - "folder": ``path``/CLASS/IMAGE, or ``path``/train/CLASS/IMAGE and ``path``/test/CLASS/IMAGE, or
              other usual names of splits; see :func:`dedt_lib.data.folder.find`.
            - "parquet": files in the Hugging Face schema; ``path`` is one file, or a folder of the files of a
              split, and perhaps of a held-out one; see :func:`dedt_lib.data.parquet.find`.
        split: "train" or "test".
        path: where the images are.
        image_size: pixels along a side that images of a folder (default 32) and of Parquet files (default:
            their own) are brought to.
        channels: 1 or 3 (default 3).
        per_class: keep only the first so many of each class.
        store: keeps the decoded images of a folder or of Parquet files, for next time.
        skip_bad: leave out images that cannot be read.
        report: the folder for the list of these (default: the store's root).

    Returns:
        The images, whose ``reading`` counts what was left out; None when a source has no usable test split.

    Raises:
        DedtError: for a source, path, labels or images that cannot be used.
    """
    _check_names(source, split, image_size, channels)

    def read(split):
        found = FINDERS[source](path, split) if source in FINDERS else None
        if isinstance(found, Listing):
            return found.decode(image_size, channels or 3, store, skip_bad=skip_bad, report=report)
        if source == "digits":
            return digits.load_digits(split)
        return found and cifar10.load_cifar10(found, split)

    data = read(split)
    if data and skip_bad and split == "test":
        data = data.of_classes(read("train").class_names)
    if data and per_class:
        reading = data.reading or Reading.of(len(data), unit="images")
        first = [np.flatnonzero(data.labels == k)[:per_class] for k in range(len(data.class_names))]
        kept = np.sort(np.concatenate(first))
        data = data.subset(kept, reading=reading.first(per_class, data.class_counts))
    return data


def find(source: str, path: str | Path | None, split: str = "train") -> Listing | Path | None:
    """The images of a folder's or of Parquet files' split, not decoded: labels and what was left out.

    Returns:
        The Listing, or None without a usable held-out split; of CIFAR-10 in its authors' files their folder.

    Raises:
        DedtError: for a path or labels that cannot be used.
    """
    return FINDERS[source](path, split)


def check_source(
    source: str, path: str | Path | None = None, *, image_size: int | None = None, channels: int | None = None
) -> None:
    """Complain about a source, a path or labels that cannot be used, as ``load`` would.

    Quick, because it neither imports torch nor decodes an image; damaged images show in ``load`` only.

    Raises:
        DedtError: that ``load`` would raise too.
    """
    _check_names(source, "train", image_size, channels)
    if source in FINDERS:
        find(source, path)


def _check_names(source, split, image_size, channels):
    if source not in SOURCES:
        raise DedtError(f"Unknown data '{source}'. Choose one of: {', '.join(SOURCES)}.")
    if split not in ("train", "test"):
        raise DedtError(f"Unknown split '{split}'. Choose train or test.")
    if channels not in (None, 1, 3):
        raise DedtError(f"Images have 1 channel (grey) or 3 (colour), not {channels}.")
    size, depth = SHAPES.get(source, (image_size, channels))
    if (image_size or size, channels or depth) != (size, depth):
        raise DedtError(
            f"The images of '{source}' have {size} x {size} pixels and {depth} channel(s), not "
            f"{image_size or size} and {channels or depth}: set image_size = {size} and channels = {depth}."
        )
