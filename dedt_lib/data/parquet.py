"""Parquet files in the Hugging Face schema: a struct of image bytes, and a label.

pyarrow reads them a row group at a time.  The ``datasets`` package would do so too, but it is one more
dependency and first copies every file into a cache of its own.
"""

import io
import json
import re
from pathlib import Path

import numpy as np

from ..errors import DedtError
from .listing import SHOWN, Listing

SUBFOLDERS = (".", "data", "plain_text")
PREFIXES = {"train": ("train",), "test": ("test", "validation")}
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
BATCH = 16


def load_parquet(path, *, split="train", image_size=None, channels=None, store=None):
    """Images and labels in Parquet files, centre-cropped to a square and resized.

    path: a file; or a folder with ``train*.parquet`` and perhaps ``test*.parquet`` or
    ``validation*.parquet``, in shards or not, in it or in its subfolder ``data`` or ``plain_text``.
    Columns: a struct with ``bytes`` (``img``, ``image``, or the only one); integers or strings (``label``,
    ``labels``, ``fine_label``, or the only ones).  Class names come from the Hugging Face metadata; without
    it they are the labels of the training images in order.  An image's id is its split and row.
    image_size: pixels (default: the training images' own if they are squares of one size, else 32).
    channels: 1 or 3 (default 3).  store: a Store to keep the pixels in.
    Transparent pixels are put over white.
    Returns LabelledImages, or None for split "test" without test files.  Raises DedtError for a path,
    columns, labels or images that cannot be used.
    """
    found = find(path, split)
    if found is None:
        return None
    if not image_size:
        image_size = (found if split == "train" else find(path)).side()
    return found.decode(image_size, channels or 3, store)


def find(path, split="train"):
    """The Listing of a split, or None without test files; reads the labels.  Raises DedtError."""
    root, train = _root(path), find_files(path, "train")
    if not train:
        raise DedtError(f"{root} holds no train*.parquet. Give a Parquet file, or a folder with such files.")
    files = train if split == "train" else find_files(path, split)
    if not files:
        return None
    schema = _open(train[0]).schema_arrow
    image_column, label_column = _image_column(schema, train[0]), _label_column(schema, train[0])
    train_labels = _read_labels(train, image_column, label_column)
    values = train_labels if split == "train" else _read_labels(files, image_column, label_column)
    names = _names_in_metadata(schema, label_column)
    keys = range(len(names)) if names else sorted({v for v in train_labels if v is not None})
    return Listing(
        root=root,
        files=files,
        encoded=lambda: _encoded_images(files, image_column),
        labels=_class_numbers(values, keys, files[0].parent),
        class_names=names or tuple(map(str, keys)),
        ids=tuple(f"{split}-{i:05d}" for i in range(len(values))),
        name=root.resolve().stem if root.is_file() else root.resolve().name,
    )


def _root(path):
    if not path:
        raise DedtError(
            "data = 'parquet' needs a path to a Parquet file, or to a folder with train*.parquet."
        )
    root = Path(path).expanduser()
    if not root.exists():
        raise DedtError(
            f"{root} does not exist. Give the path of a Parquet file, or of a folder with train*.parquet."
        )
    return root


def find_files(path, split):
    """The Parquet files of a split, in order; a path that is a file is the training split."""
    root = _root(path)
    if root.is_file():
        return (root,) if split == "train" else ()
    for subfolder in SUBFOLDERS:
        for prefix in PREFIXES[split]:
            if files := tuple(sorted((root / subfolder).glob(f"{prefix}*.parquet"))):
                _check_shards(files)
                return files
    return ()


def _check_shards(files):
    """An interrupted copy must not pass for the whole."""
    for file in files:
        if shard := re.fullmatch(r"(.*)-\d+-of-(\d+)\.parquet", file.name):
            there = len(list(file.parent.glob(f"{shard[1]}-*-of-{shard[2]}.parquet")))
            if there != int(shard[2]):
                raise DedtError(
                    f"{file.parent} holds {there} of the {int(shard[2])} files "
                    f"{shard[1]}-*-of-{shard[2]}.parquet: add those that are missing."
                )


def _open(file):
    import pyarrow
    import pyarrow.parquet

    try:
        # By default pyarrow fetches row groups ahead, up to the whole file.
        return pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
    except (pyarrow.ArrowException, OSError) as error:
        raise DedtError(f"{file} is not a whole Parquet file ({error}): fetch or write it again.") from error


def _image_column(schema, file):
    from pyarrow import types

    structs = [field for field in schema if types.is_struct(field.type)]
    images = [field.name for field in structs if field.type.get_field_index("bytes") >= 0]
    return _choose(images, IMAGE_COLUMNS, "images (a struct with 'bytes')", schema, file)


def _label_column(schema, file):
    from pyarrow import types

    def is_label(kind):
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)

    labels = [field.name for field in schema if is_label(field.type)]
    return _choose(labels, LABEL_COLUMNS, "labels (integers or strings)", schema, file)


def _choose(candidates, known, what, schema, file):
    for name in known:
        if name in candidates:
            return name
    if len(candidates) == 1:
        return candidates[0]
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    raise DedtError(
        f"{file} has {len(candidates)} columns that could be the {what}; name one of them "
        f"{' or '.join(known)}. Its columns are: {columns}"
    )


def _names_in_metadata(schema, column):
    try:
        information = json.loads(schema.metadata[b"huggingface"])
        return tuple(information["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _batches(file, column, size):
    """The values of one column, in lists of up to ``size``."""
    import pyarrow

    try:
        for batch in _open(file).iter_batches(size, columns=[column]):
            yield batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        why = str(error).partition("\n")[0]
        raise DedtError(f"{file} is damaged ({why}): fetch or write it again.") from error


def _read_labels(files, image_column, label_column):
    for file in files:
        if missing := {image_column, label_column} - set(_open(file).schema_arrow.names):
            raise DedtError(
                f"{file} has no column {' and '.join(sorted(missing))}, unlike the first training file: "
                "give all files the same columns."
            )
    return [value for file in files for batch in _batches(file, label_column, 2**16) for value in batch]


def _class_numbers(values, keys, where):
    """int64 [n]: the place of each value among the classes."""
    number = {key: k for k, key in enumerate(keys)}
    foreign = [i for i, value in enumerate(values) if value not in number]
    if foreign:
        shown = ", ".join(f"row {i}: {values[i]!r}" for i in foreign[:SHOWN])
        raise DedtError(
            f"{len(foreign)} of {len(values)} images in {where} have no label, or one that is none of the "
            f"{len(number)} classes ({shown}): correct or remove them."
        )
    return np.array([number[value] for value in values], dtype=np.int64)


def _encoded_images(files, column):
    for file in files:
        rows = (row for batch in _batches(file, column, BATCH) for row in batch)
        for i, row in enumerate(rows):
            content = row and row["bytes"]
            yield f"{file.name} row {i}", io.BytesIO(content) if content else None
