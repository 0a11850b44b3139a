"""Labelled images: one type, several sources, one module for each source."""

import numpy as np

from ..errors import DedtError
from . import cifar10, digits, folder, parquet
from .labelled import LabelledImages

__all__ = ["SOURCES", "LabelledImages", "check_source", "load"]

SOURCES = ("digits", "cifar10", "folder", "parquet")
SHAPES = {"digits": (8, 1), "cifar10": (32, 3)}


def load(source, *, split="train", path=None, image_size=None, channels=None, per_class=None, store=None):
    """Load images by the name of their source.

    source:
      "digits"   scikit-learn's scans, 8x8, one channel: 150 training images in each class, 297 test images.
      "cifar10"  the original archive, 32x32, three channels, 50,000 and 10,000 images.  ``path`` is a folder
                 that holds or gets it (default: ``$DEDT_DATA``, else ``data/``), or one of Parquet files.
      "folder"   ``path``/CLASS/IMAGE, or ``path``/train/CLASS/IMAGE and ``path``/test/CLASS/IMAGE (or val).
      "parquet"  files in the Hugging Face schema; ``path`` is one file, or a folder of ``train*.parquet`` and
                 perhaps ``test*.parquet``.
    split: "train" or "test".  image_size, channels: what the images of a folder and of Parquet files are
    brought to.  per_class: keep only the first so many of each class.  store: a Store that keeps the decoded
    images of a folder or of Parquet files, for next time.
    Returns LabelledImages, or None when a source has no test split.  Raises DedtError.
    """
    _check_names(source, split, image_size, channels)
    if source == "digits":
        data = digits.load_digits(split)
    elif source == "cifar10":
        data = cifar10.load_cifar10(path, split=split, store=store)
    else:
        load_source = {"folder": folder.load_folder, "parquet": parquet.load_parquet}[source]
        data = load_source(path, split=split, image_size=image_size, channels=channels, store=store)
    if data is not None and per_class:
        first = [np.flatnonzero(data.labels == k)[:per_class] for k in range(len(data.class_names))]
        data = data.subset(np.sort(np.concatenate(first)))
    return data


def check_source(source, path=None, *, image_size=None, channels=None):
    """Raise the DedtError that ``load`` would raise for a source, a path or labels that cannot be used.

    Quick, because it neither imports torch nor decodes an image; damaged images show in ``load`` only.
    """
    _check_names(source, "train", image_size, channels)
    find = {"cifar10": cifar10.find, "folder": folder.find, "parquet": parquet.find}.get(source)
    for split in ("train", "test") if find else ():
        find(path, split)


def _check_names(source, split, image_size, channels):
    if source not in SOURCES:
        raise DedtError(f"Unknown data '{source}'. Choose one of: {', '.join(SOURCES)}.")
    if split not in ("train", "test"):
        raise DedtError(f"Unknown split '{split}'. Choose train or test.")
    if channels not in (None, 1, 3):
        raise DedtError(f"Images have 1 channel (grey) or 3 (colour), not {channels}.")
    if source not in SHAPES:
        return
    size, depth = SHAPES[source]
    if (image_size or size, channels or depth) != (size, depth):
        raise DedtError(
            f"The images of '{source}' have {size} x {size} pixels and {depth} channel(s), not "
            f"{image_size or size} and {channels or depth}: set image_size = {size} and channels = {depth}."
        )
