"""Labelled images: one type, several sources, one module for each source."""

import dataclasses

import numpy as np

from ..errors import DedtError
from . import cifar10, digits, folder, parquet
from .labelled import LabelledImages
from .reading import Reading

__all__ = ["SOURCES", "LabelledImages", "Reading", "check_source", "find", "load"]

SOURCES = ("digits", "cifar10", "folder", "parquet")
SHAPES = {"digits": (8, 1), "cifar10": (32, 3)}


def load(
    source,
    *,
    split="train",
    path=None,
    image_size=None,
    channels=None,
    per_class=None,
    store=None,
    skip_bad=False,
    report=None,
):
    """Load images by the name of their source.

    source:
      "digits"   scikit-learn's scans, 8x8, one channel: 150 training images in each class, 297 test images.
      "cifar10"  the original archive, 32x32, three channels, 50,000 and 10,000 images.  ``path`` is a folder
                 that holds or gets it (default: ``$DEDT_DATA``, else ``data/``), or one of Parquet files.
      "folder"   ``path``/CLASS/IMAGE, or ``path``/train/CLASS/IMAGE and ``path``/test/CLASS/IMAGE, or other
                 usual names of splits; see ``load_folder``.
      "parquet"  files in the Hugging Face schema; ``path`` is one file, or a folder of the files of a split,
                 and perhaps of a held-out one; see ``load_parquet``.
    split: "train" or "test".  image_size, channels: what the images of a folder and of Parquet files are
    brought to.  per_class: keep only the first so many of each class.  store: a Store that keeps the decoded
    images of a folder or of Parquet files, for next time.  skip_bad: leave out images that cannot be read.
    report: the folder for the list of these (default: the store's root).
    Returns LabelledImages, whose ``reading`` counts what was left out, or None when a source has no usable
    test split.  Raises DedtError.
    """
    given = {"path": path, "image_size": image_size, "channels": channels, "store": store}
    _check_names(source, split, image_size, channels)
    bad = {"skip_bad": skip_bad, "report": report}
    if source == "digits":
        data = digits.load_digits(split)
    elif source == "cifar10":
        data = cifar10.load_cifar10(path, split=split, store=store, **bad)
    else:
        load_source = {"folder": folder.load_folder, "parquet": parquet.load_parquet}[source]
        data = load_source(split=split, **given, **bad)
        if data is not None and skip_bad and split == "test":
            data = data.of_classes(load_source(split="train", **given, **bad).class_names)
    if data is not None and per_class:
        reading = data.reading or Reading.of(len(data), unit="images")
        reading = reading.first(per_class, data.class_counts)
        first = [np.flatnonzero(data.labels == k)[:per_class] for k in range(len(data.class_names))]
        data = data.subset(np.sort(np.concatenate(first)))
        data = dataclasses.replace(data, reading=reading)
    return data


def find(source, path, split="train"):
    """The Listing of a folder's or of Parquet files' split: labels and what was left out, without pixels.

    None without a usable held-out split.  Raises DedtError.
    """
    return {"folder": folder.find, "parquet": parquet.find}[source](path, split)


def check_source(source, path=None, *, image_size=None, channels=None):
    """Raise the DedtError that ``load`` would raise for a source, a path or labels that cannot be used.

    Quick, because it neither imports torch nor decodes an image; damaged images show in ``load`` only.
    """
    _check_names(source, "train", image_size, channels)
    if source == "cifar10":
        cifar10.find(path)
    elif source != "digits":
        find(source, path)


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
