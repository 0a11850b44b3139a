"""Parquet files in the Hugging Face schema: a struct of image bytes, and a label.

pyarrow reads them a row group at a time.  The ``datasets`` package would first copy every file into its own
cache.
"""

import contextlib
import functools
import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import DedtError
from .listing import SHOWN, root_of
from .names import HELD_OUT, TRAINING, few, resembles_split
from .reading import Reading
from .table import Splits, Table

SUBFOLDERS = (".", "data", "plain_text")
FILE = re.compile(r"([a-z]+)(?:[-_]?(\d+)(?:-of-(\d+)(?:-[0-9a-f]{6,})?)?)?\.parquet", re.IGNORECASE)
"""Matches ``train.parquet``, ``train-00000-of-00003.parquet``, the same with the hash that the hub adds, and
``train-0.parquet``; the groups are the split, the number of the file and the number of files."""
IMAGE_COLUMNS = ("img", "image")
BATCH = 16


def splits(path: str | Path | None) -> Splits:
    """The images in Parquet files.

    The images are in a struct column with a field ``bytes``: ``img``, ``image`` or the only such column.
    Other columns may hold a class and a caption (:mod:`dedt_lib.data.columns`).  Class names come from the
    Hugging Face metadata; without it they are the labels of the training images in order.  An image's id is
    its split and its row, counted over the files in order: ``train-00000``.

    Args:
        path: a file, which is the training split; or a folder with ``train.parquet`` or all shards
            ``train-00000-of-00003.parquet`` (a hash may follow), and perhaps the same for a held-out split.
            The files lie in the folder or in its subfolder ``data`` or ``plain_text``.  The names of splits
            are those in :mod:`dedt_lib.data.names`, and the first held-out split in the order there is used.
            Two sets of files for one split are refused.

    Raises:
        DedtError: for a path, columns or labels that cannot be used.
    """
    root, train = _root(path), find_files(path, "train")
    if not train:
        raise DedtError(
            f"{root} holds no train.parquet and no shards such as train-00000-of-00001.parquet. Give a "
            f"Parquet file, or a folder with such files{''.join(f'; {note}' for note in _unused(root, ()))}."
        )
    schema = _open(train[0]).schema_arrow
    column = _image_column(schema, train[0])
    fields = plain_fields(schema, column)

    def read(split, files, notes=()):
        values = functools.cache(functools.partial(_read_column, files, column))
        count = sum(_open(file).metadata.num_rows for file in files)
        return Table(
            root=root,
            files=files,
            encoded=functools.partial(_encoded_images, files, column),
            ids=row_names(split, count),
            fields=fields,
            others=tuple(name for name in schema.names if name not in (column, *fields)),
            values=values,
            class_names=functools.partial(_names_in_metadata, schema),
            reading=Reading.of(count, notes=notes, unit="rows"),
            where=str(files[0].parent),
        )

    def held_out():
        test = find_files(path, "test")
        return read("test", test) if test else None

    test: tuple[Path, ...] = ()
    with contextlib.suppress(DedtError):  # ``held_out`` raises the same error
        test = find_files(path, "test")
    own = read("train", train, _unused(root, (*train, *test)))
    return own, held_out


def columns(file: Path) -> list[str]:
    """The columns of a Parquet file, in lower case."""
    return [name.lower() for name in _open(file).schema_arrow.names]


def read_rows(file: Path) -> list[dict]:
    """All rows of a Parquet file of texts and numbers; raises DedtError if the file is damaged."""
    with _told(file, "damaged"):
        return _open(file).read().to_pylist()


def row_names(split: str, count: int) -> tuple[str, ...]:
    """The ids of the images of a split: ``train-00000`` and so on."""
    return tuple(f"{split}-{i:05d}" for i in range(count))


def _root(path):
    return root_of(path, "parquet", "a Parquet file, or of a folder with train*.parquet")


def find_files(path: str | Path | None, split: str) -> tuple[Path, ...]:
    """The Parquet files of a split, in order; a path to a file is the training split.

    Raises:
        DedtError: for two sets of files for the split, or an incomplete one.
    """
    root = _root(path)
    if root.is_file():
        return (root,) if split == "train" else ()
    for names in (TRAINING,) if split == "train" else ((name,) for name in HELD_OUT):
        families: dict[tuple, list[tuple[int, Path]]] = {}
        for file in _files(root):
            match = FILE.fullmatch(file.name)
            if match and match[1].lower() in names:
                # The hub gives each shard a hash of its own, so the hash does not tell two uploads apart.
                family = file.parent, match[1], match[2] is not None, match[3]
                families.setdefault(family, []).append((int(match[2] or 0), file))
        if families:
            return _one_family(families)
    return ()


def holds_splits(root: Path) -> bool:
    """Whether a folder has Parquet files with names that resemble a split, even if they do not match FILE."""
    return any(resembles_split(file.name.partition(".")[0]) for file in _files(root))


def holds_shards(root: Path) -> bool:
    """Whether a folder is a copy of a hub data set; images beside its shards are part of its description."""
    return any("-of-" in file.name and file.parent.name in SUBFOLDERS[1:] for file in _files(root))


def _files(root):
    found = [(root / name).glob("*") for name in SUBFOLDERS]
    return sorted(f for files in found for f in files if f.suffix.lower() == ".parquet" and f.is_file())


def _one_family(families):
    """The files of a split; raises DedtError unless they are complete and form one set."""
    (shards, *others), total = map(sorted, families.values()), next(iter(families))[3]
    twice = [pair for pair in itertools.pairwise(shards) if pair[0][0] == pair[1][0]]
    for (_, one), (_, other) in [*twice, *((shards[0], found[0]) for found in others)]:
        raise DedtError(
            f"{one} and {other} belong to two sets of files for the same split: move one set away."
        )
    numbers, files = zip(*shards)
    first = 0 if total else min(numbers[0], 1)
    wanted = int(total or numbers[-1] - first + 1)
    if numbers != tuple(range(first, first + wanted)):
        start = re.match(r"[a-z]+[-_]?", files[0].name, re.IGNORECASE)[0]
        raise DedtError(
            f"{files[0].parent} holds {len(files)} of the {wanted} files {start}*.parquet: add the missing "
            "files."
        )
    return files


def _unused(root, used):
    others = [] if root.is_file() else [file.name for file in _files(root) if file not in used]
    return [f"other Parquet files, left out: {few(others, SHOWN)}"] * bool(others)


def _open(file):
    import pyarrow.parquet

    with _told(file, "not a complete Parquet file"):
        # By default pyarrow fetches row groups ahead, up to the whole file.
        source = pyarrow.OSFile(os.fsencode(file))  # a str that is not UTF-8 would be rejected
        return pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=2**20)


def _image_column(schema, file):
    from pyarrow import types

    structs = [field for field in schema if types.is_struct(field.type)]
    images = [field.name for field in structs if field.type.get_field_index("bytes") >= 0]
    named = [name for name in IMAGE_COLUMNS if name in images]
    if named or len(images) == 1:
        return (named or images)[0]
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    bare = [
        field.name for field in schema if types.is_binary(field.type) or types.is_large_binary(field.type)
    ]
    if bare and not images:
        raise DedtError(
            f"{file} holds plain bytes in {few(bare)}: write a struct of bytes and path instead, as the "
            "datasets library does for a column cast to datasets.Image()."
        )
    if not images and "file_name" in schema.names:
        raise DedtError(
            f"{file} lists image files but holds no images: rename it to metadata.parquet and give its "
            "folder."
        )
    raise DedtError(
        f"{file} has {len(images)} columns that could hold the images (structs with 'bytes'): name the one "
        f"to use {' or '.join(IMAGE_COLUMNS)}. Its columns are: {columns}"
    )


def plain_fields(schema: Any, image_column: str) -> tuple[str, ...]:
    """The names of the columns of integers or strings in a schema of pyarrow."""
    from pyarrow import types

    def is_plain(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)

    return tuple(field.name for field in schema if field.name != image_column and is_plain(field.type))


def _names_in_metadata(schema, column):
    try:
        information = json.loads(schema.metadata[b"huggingface"])
        return tuple(information["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _batches(file, column, size):
    """The values of one column, in lists of up to ``size``."""
    with _told(file, "damaged"):
        for batch in _open(file).iter_batches(size, columns=[column]):
            yield batch.column(0).to_pylist()


@contextlib.contextmanager
def _told(file, fault):
    """Turn an error of pyarrow or of the disk in the block into a DedtError: the file is ``fault``."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        why = str(error).partition("\n")[0]
        raise DedtError(f"{file} is {fault} ({why}): download or write it again.") from error


def _read_column(files, image_column, column):
    for file in files:
        if missing := {image_column, column} - set(_open(file).schema_arrow.names):
            raise DedtError(
                f"{file} has no column {' and '.join(sorted(missing))}, unlike the first training file: "
                "give all files the same columns."
            )
    return [value for file in files for batch in _batches(file, column, 2**16) for value in batch]


def _encoded_images(files, column):
    for file in files:
        rows = (row for batch in _batches(file, column, BATCH) for row in batch)
        for i, row in enumerate(rows):
            content, path = row and row["bytes"], file.parent / (row and row.get("path") or "")
            image = io.BytesIO(content) if content else path if path.is_file() else None
            yield f"{file.name} row {i}", image
