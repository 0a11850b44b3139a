"""The imagefolder convention of Hugging Face: images, and a table of what is said of each beside them."""

import csv
import json
from collections import Counter
from pathlib import Path

from ..errors import DedtError
from . import folder
from .listing import root_of
from .names import few, legible, split_of
from .reading import Reading
from .table import Splits, Table

NAMES = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"


def splits(path: str | Path | None) -> Splits:
    """The images of folders with ``metadata.jsonl`` or ``metadata.csv``.

    The column ``file_name`` is a path below the table's folder.  The others may hold a class and a caption
    (:mod:`dedt_lib.data.columns`); without a column of classes the folders of the images are their classes, if there
    are several.  Images that no row names are left out, and counted.

    Args:
        path: the folder of the table, or of split folders that hold one each.

    Raises:
        DedtError: for a table that cannot be read, or rows without a file.
    """
    root = root_of(path, "metadata", "a folder with metadata.jsonl or metadata.csv beside its images")
    tables = find_tables(root)
    train, test = tables.get("train"), tables.get("test")
    if not train:
        raise DedtError(
            f"{root} holds no metadata.jsonl or metadata.csv of training images: put it beside them, or beside their "
            "folders, or into the folder train."
        )

    def read(file: Path) -> Table:
        names, columns = rows(file)
        files = tuple(file.parent / name for name in names)
        counted: Counter[str] = Counter()
        named = {legible(f.relative_to(file.parent)) for f in files}
        there = {legible(f.relative_to(file.parent)) for f in folder.images_below(file.parent, counted)}
        counted["not images"] -= 1  # the table itself
        counted[f"images without a row in {file.name}"] += len(there - named)
        ids = tuple(legible(f.relative_to(root)) for f in files)
        return Table(
            root=root,
            files=files,
            encoded=lambda: zip(ids, files),
            ids=ids,
            fields=tuple(columns),
            values=columns.__getitem__,
            reading=Reading.of(len(files), counted),
            where=str(file),
            folders=tuple(legible(f.parent.relative_to(file.parent)) for f in files),
        )

    return read(train), lambda: read(test) if test else None


def find_tables(root: Path) -> dict[str, Path]:
    """The tables of a folder: split -> file; that in the folder itself is of the training images."""
    found: dict[str, Path] = {}
    if root.is_dir():
        for below in sorted(entry for entry in root.iterdir() if entry.is_dir()):
            split, file = split_of(below.name), _table(below)
            if split and file:
                found.setdefault(split, file)
        if own := _table(root):
            found = {"train": own}
    return found


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def rows(file: Path, key: str = FILE_NAME) -> tuple[list[str], dict[str, list]]:
    """Reads a table (.jsonl or .csv): the names of the files, and the other columns that hold text or integers.

    Raises:
        DedtError: for a line that is none, or that names no file, or one twice.
    """
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            if file.suffix == ".csv":
                read = list(csv.DictReader(lines))
            else:
                read = [json.loads(line) for line in lines if line.strip()]
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DedtError(f"{file} cannot be read ({error}): each line is a row, in UTF-8.") from error
    named = [isinstance(row, dict) and isinstance(row.get(key), str) for row in read]
    bad = [i for i, is_named in enumerate(named, 1) if not is_named]
    if bad or not read:
        raise DedtError(
            f"{file} has no '{key}' in row {few(bad)}: give each image's path below {file.parent} there."
        )
    names = [row[key] for row in read]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DedtError(f"{file} names {few(twice)} more than once: keep one row for each image.")
    columns: dict[str, list] = {}
    for name in dict.fromkeys(name for row in read for name in row if name not in (key, None)):
        values = [row.get(name) for row in read]
        if all(isinstance(value, str | int | None) and not isinstance(value, bool) for value in values):
            columns[name] = [None if value == "" else value for value in values]
    return names, columns
