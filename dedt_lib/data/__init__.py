"""Labelled images of one type, from several sources, with one module for each source.

A new source is a function and its entry in ``TABLES``, here or in a file of your own.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import check_choice, groups
from ..errors import DedtError
from ..files import HUB, at_home
from . import cifar10, digits, folder, hub, lists, metadata, parquet, tar
from .columns import NONE
from .labelled import LabelledImages
from .listing import Listing
from .names import SOURCE_OF, few
from .reading import Reading
from .table import classed

if TYPE_CHECKING:
    from ..store import Store

SHAPES = {"digits": (8, 1), "cifar10": (32, 3)}
TABLES = {
    "metadata": metadata.splits,
    "parquet": parquet.splits,
    "datasets": hub.splits,
    "webdataset": tar.splits,
    "list": lists.splits,
}
"""Sources whose images come with columns: name of the source -> function that returns its splits."""


def sources() -> tuple[str, ...]:
    """The names of all sources."""
    return (*SHAPES, "folder", *TABLES)


def reads_files(source: str) -> bool:
    """Whether a source reads the user's own images and therefore needs a path."""
    return source not in SHAPES


def detect(path: str | Path) -> str:
    """The kind of source at a path, one that reads files, detected from the path's name and contents."""
    path = at_home(path)
    if str(path).startswith(HUB):
        return "datasets"
    if not path.is_dir():
        return SOURCE_OF.get(path.suffix.lower(), "folder")
    if any(os.path.isfile(path / name) for name in ("dataset_info.json", "dataset_dict.json")):
        return "datasets"
    if metadata.find_tables(path):
        return "metadata"
    if not parquet.holds_shards(path) and folder.hold_images([path]):
        return "folder"
    if parquet.find_files(path, "train") or parquet.holds_splits(path):
        return "parquet"
    return "webdataset" if tar.find_shards(path) else "folder"


def load(
    source: str,
    *,
    split: str = "train",
    path: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    per_class: int | None = None,
    store: "Store | None" = None,
    label: str = "",
    caption: str = "",
) -> LabelledImages | None:
    """Load the images of a split from a source.

    Images in files are centre-cropped to a square and resized; transparent pixels are blended over white.

    Args:
        source: one of

            - "digits": scikit-learn's scans, 8x8, one channel: 150 training images in each class, 297 test
              images.
            - "cifar10": 32x32, three channels, 50,000 and 10,000 images.  ``path`` is the folder of the
              original archive (default: ``$DEDT_DATA``, else ``data/``), which is downloaded if missing, or
              that of Parquet files.
            - "folder": ``path``/CLASS/IMAGE, or ``path``/train/CLASS/IMAGE and ``path``/test/CLASS/IMAGE;
              splits may have other usual names, see :func:`dedt_lib.data.folder.find`.
            - "metadata", "parquet", "datasets", "webdataset", "list": see ``splits`` in the module of each
              source.
        split: "train" or "test".
        path: file or folder of the images.
        image_size: side in pixels to which images in files are resized (default 32, for training; for the
            features of a published encoder, which sees more, give its ``size``).
        channels: 1 or 3 (default 3).
        per_class: keep only the first ``per_class`` images of each class.
        store: keeps the decoded images of files for the next call.
        label: the column of the classes, or "none".
        caption: the column of the captions.

    Returns:
        The images, with counts of what was left out in ``reading``; None if there is no usable test split.

    Raises:
        DedtError: for a source, path, labels or images that cannot be used.
    """
    _check_names(source, split, image_size, channels)

    found = None if source == "digits" else find(source, path, split, label=label, caption=caption)
    data: LabelledImages | None = None
    if source == "digits":
        data = digits.load_digits(split)
    elif isinstance(found, Listing):
        data = found.decode(image_size, channels or 3, store)
    elif found:
        data = cifar10.load_cifar10(found, split)
    if data and per_class:
        reading = data.reading or Reading.of(len(data), unit="images")
        kept = np.sort(np.concatenate([members[:per_class] for members in groups(data.labels, "class")]))
        data = data.subset(kept, reading=reading.first(per_class, data.class_counts))
    return data


def find(
    source: str, path: str | Path | None, split: str = "train", *, label: str = "", caption: str = ""
) -> Listing | Path | None:
    """Find the images of a split without decoding them, with their labels, captions and ``reading``.

    Args:
        source: one of :func:`sources` except "digits".
        path: file or folder of the images.
        split: "train" or "test".
        label: the column of the classes, or "none".
        caption: the column of the captions.

    Returns:
        The Listing; None for "test" without a usable held-out split; the folder for CIFAR-10's own archive.

    Raises:
        DedtError: for a path, columns or labels that cannot be used.
    """
    if source == "cifar10":
        return cifar10.find(path, split)
    if source == "folder":
        if caption or label not in ("", NONE):
            tables = [
                file.name for file in sorted(Path(path or ".").glob("*.*")) if file.suffix in (".csv", ".tsv")
            ]
            beside = f" To use the columns of {few(tables)}, give the path of the file." * bool(tables)
            raise DedtError(
                f"{path} is read as a folder of images, without columns for --label and --caption: its "
                f"subfolders are the classes (--label {NONE} ignores them), and a text file beside an image is "
                f"its caption.{beside}"
            )
        return folder.find(path, split, label=label)
    if source == "list" and path and str(path).endswith(lists.CLEANED):
        return lists.cleaned(path, split, label, caption)
    return classed(split, *TABLES[source](path), label=label, caption=caption)


def check_source(
    source: str,
    path: str | Path | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    label: str = "",
    caption: str = "",
) -> None:
    """Check that a source, its path and its columns can be used.

    This is fast, because it neither imports torch nor decodes an image; only ``load`` finds damaged images.

    Raises:
        DedtError: the same error that ``load`` would raise.
    """
    _check_names(source, "train", image_size, channels)
    if source != "digits":
        find(source, path, label=label, caption=caption)


def _check_names(source, split, image_size, channels):
    check_choice("data", source, sources())
    check_choice("split", split, ("train", "test"))
    if channels not in (None, 1, 3):
        raise DedtError(f"Images have 1 channel (grey) or 3 (colour), not {channels}.")
    size, depth = SHAPES.get(source, (image_size, channels))
    if (image_size or size, channels or depth) != (size, depth):
        raise DedtError(
            f"The images of '{source}' have {size} x {size} pixels and {depth} channel(s): set image_size = "
            f"{size} and channels = {depth}, not {image_size or size} and {channels or depth}."
        )
