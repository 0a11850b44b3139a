"""Parquet files in the Hugging Face schema: a struct of image bytes, and a label.

pyarrow reads them a row group at a time.  The ``datasets`` package would do so too, but it is one more
dependency and first copies every file into a cache of its own.
"""

import dataclasses
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import DedtError
from .labelled import without_empty
from .listing import SHOWN, Listing
from .names import HELD_OUT, TRAINING, resembles_split
from .reading import Reading

SUBFOLDERS = (".", "data", "plain_text")
FILE = re.compile(r"([a-z]+)(?:[-_]?(\d+)(?:-of-(\d+)(?:-[0-9a-f]{6,})?)?)?\.parquet", re.IGNORECASE)
"""``train.parquet``, ``train-00000-of-00003.parquet``, the same with a hash as the hub adds it, and
``train-0.parquet``; the groups are split, number and how many there are."""
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
NO_LABELS = re.compile(r"(.*_)?(id|idx|index|width|height|size|seed|row)|__index_level_\d+__", re.IGNORECASE)
"""Columns that say something else than the class, whatever their values."""
LABELS = "labels (integers or strings)"
BATCH = 16


def load_parquet(path, *, split="train", image_size=None, channels=None, store=None, **bad):
    """Images and labels in Parquet files, centre-cropped to a square and resized.

    path: a file; or a folder with ``train.parquet`` or all shards ``train-00000-of-00003.parquet`` (a hash
    may follow), and perhaps the same of a held-out split, in it or in its subfolder ``data`` or
    ``plain_text``; splits are called as in :mod:`dedt_lib.data.names`, and the first held-out one in the
    order there is taken.  Two sets of files for one split are refused.
    Columns: a struct with ``bytes`` (``img``, ``image``, or the only one); integers or strings (``label``,
    ``labels``, ``fine_label``, another ``label...``, or the only ones whose values repeat as those of classes
    do).  Class names come from the Hugging Face metadata; without it they are the labels of the training
    images in order.  Classes without images are left out.  An image's id is its split and row, counted over
    the files in order: ``train-00000``.
    image_size: pixels (default: the training images' own if they are squares of one size, else 32).
    channels: 1 or 3 (default 3).  store: a Store to keep the pixels in.  bad: what :meth:`Listing.decode`
    takes.
    Transparent pixels are put over white.
    Returns LabelledImages, or None for split "test" without usable test files.  Raises DedtError for a path,
    columns, labels or images that cannot be used.
    """
    found = find(path, split)
    if found is None:
        return None
    if not image_size:
        image_size = (found if split == "train" else find(path)).side()
    return found.decode(image_size, channels or 3, store, **bad)


def find(path, split="train"):
    """The Listing of a split, or None without usable test files; reads the labels.  Raises DedtError."""
    root, train = _root(path), find_files(path, "train")
    if not train:
        raise DedtError(
            f"{root} holds no train.parquet and no shards such as train-00000-of-00001.parquet. Give a "
            f"Parquet file, or a folder with such files{_others(root, ())}."
        )
    schema = _open(train[0]).schema_arrow
    image_column = _image_column(schema, train[0])
    label_column = _label_column(schema, train, image_column)
    values = _read_labels(train, image_column, label_column)
    if set(values) == {-1}:
        raise DedtError(
            f"All labels in {train[0].parent} are -1, which stands for no label: give files with the class "
            "of each image."
        )
    names = _names_in_metadata(schema, label_column)
    keys = range(len(names)) if names else sorted({v for v in values if v is not None})
    labels, class_names, empty = without_empty(
        _class_numbers(values, keys, train[0].parent), names or tuple(map(str, keys))
    )
    notes = [f"without images, so no class: {_few(empty)}"] if empty else []
    held_out, test = None, ()

    def listing(split, files, labels, notes=()):
        return Listing(
            root=root,
            files=files,
            encoded=lambda: _encoded_images(files, image_column),
            labels=labels,
            class_names=class_names,
            ids=tuple(f"{split}-{i:05d}" for i in range(len(labels))),
            name=root.resolve().stem if root.is_file() else root.resolve().name,
            reading=Reading.of(len(labels), (), notes, unit="rows"),
        )

    try:
        test = find_files(path, "test")
        if test:
            kept = [key for key, name in zip(keys, names or map(str, keys)) if name not in empty]
            numbers = _class_numbers(_read_labels(test, image_column, label_column), kept, test[0].parent)
            _, _, missing = without_empty(numbers, class_names)
            if missing:
                raise DedtError(f"{test[0].name} has no images of {_few(missing)}")
            held_out = listing("test", test, numbers)
    except DedtError as error:
        notes.append(f"no held-out images are used: {error}")
    if split == "test":
        return held_out
    found = listing("train", train, labels, [*notes, *_unused(root, (*train, *test))])
    return dataclasses.replace(
        found, reading=dataclasses.replace(found.reading, held_out=held_out and held_out.reading)
    )


def _few(names):
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


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
    """The Parquet files of a split, in order; a path that is a file is the training split.

    Raises DedtError.
    """
    root = _root(path)
    if root.is_file():
        return (root,) if split == "train" else ()
    for names in (TRAINING,) if split == "train" else ((name,) for name in HELD_OUT):
        families = {}
        for file in _files(root):
            match = FILE.fullmatch(file.name)
            if match and match[1].lower() in names:
                # The hub gives each shard a hash of its own, so the hash does not tell two uploads apart.
                key = file.parent, match[1], match[2] is not None, match[3]
                families.setdefault(key, []).append((int(match[2] or 0), file))
        if families:
            return _one_family(list(families.values()), families)
    return ()


def holds_splits(root):
    """Whether a folder has Parquet files that are named like a split, if not quite as they must be."""
    return any(resembles_split(file.name.partition(".")[0]) for file in _files(root))


def _files(root):
    found = [(root / name).glob("*") for name in SUBFOLDERS]
    return sorted(f for files in found for f in files if f.suffix.lower() == ".parquet" and f.is_file())


def _one_family(families, keys):
    """The files of a split, all there and from one upload."""
    files = [file for _, file in sorted(families[0])]
    numbers = [number for number, _ in sorted(families[0])]
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    two = (files[0], sorted(families[1])[0][1]) if len(families) > 1 else None
    if twice:
        two = [file for number, file in sorted(families[0]) if number == twice[0]][:2]
    if two:
        raise DedtError(
            f"{two[0]} and {two[1]} belong to two sets of files for one split: move one set away."
        )
    total = next(iter(keys))[3]
    first = min(numbers) if total is None else 0
    wanted = int(total) if total else max(numbers) - min(first, 1) + 1
    if numbers != list(range(min(first, 1), min(first, 1) + wanted)):
        start = re.match(r"[a-z]+[-_]?", files[0].name, re.IGNORECASE)[0]
        raise DedtError(
            f"{files[0].parent} holds {len(files)} of the {wanted} files {start}*.parquet: add those that "
            "are missing."
        )
    return tuple(files)


def _unused(root, used):
    others = [] if root.is_file() else [file for file in _files(root) if file not in used]
    return [f"other Parquet files, left out: {_few([file.name for file in others])}"] if others else []


def _others(root, used):
    return "".join(f"; {note}" for note in _unused(root, used))


def _open(file):
    import pyarrow
    import pyarrow.parquet

    try:
        # By default pyarrow fetches row groups ahead, up to the whole file.
        source = pyarrow.OSFile(os.fsencode(file))  # of a path it takes no name that is not UTF-8
        return pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=2**20)
    except (pyarrow.ArrowException, OSError) as error:
        raise DedtError(f"{file} is not a whole Parquet file ({error}): fetch or write it again.") from error


def _image_column(schema, file):
    from pyarrow import types

    structs = [field for field in schema if types.is_struct(field.type)]
    images = [field.name for field in structs if field.type.get_field_index("bytes") >= 0]
    return _choose(images, IMAGE_COLUMNS, "images (a struct with 'bytes')", schema, file)


def _label_column(schema, files, image_column):
    """The column of the labels: known by its name, or the only one whose values repeat as labels do."""
    from pyarrow import types

    def is_label(kind):
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)

    fields = [field.name for field in schema if is_label(field.type)]
    named = [name for name in fields if name.lower().startswith("label")]
    known = [name for name in LABEL_COLUMNS if name in fields] or named
    candidates = known[:1] or [name for name in fields if not NO_LABELS.fullmatch(name)]
    found, refused = [], []
    for name in candidates:
        values = Counter(_read_labels(files, image_column, name))
        values.pop(None, None)
        if _names_in_metadata(schema, name) or _are_labels(values, bool(known)):
            found.append(name)
        else:
            refused.append(f"'{name}' has {len(values):,} different values in {values.total():,} rows")
    if refused and not found:
        raise DedtError(
            f"{files[0]} has 0 columns that could be the labels: {', '.join(refused)}. Free text and numbers "
            "of single images are no labels; name the column with the class of each image 'label'."
        )
    known = tuple(found) if found and found == named[:1] else LABEL_COLUMNS
    return _choose(found, known, LABELS, schema, files[0])


def _are_labels(values, named):
    """Whether values (a Counter) repeat as those of classes do; a column called "label" may repeat less."""
    different, rows = len(values), values.total()
    words = sum(len(str(value).split()) for value in values)
    if not named:
        few = rows // 10 if words > 2 * different else min(rows // 2, 50)
        return different <= max(1, rows // 10, few)
    return 2 * different <= rows or (rows < 20 and words <= 2 * different)


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
