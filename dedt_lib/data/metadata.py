"""The imagefolder convention of Hugging Face: image files, and beside them a table that describes each."""

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import DedtError
from . import folder, parquet
from .columns import columns_of
from .listing import SHOWN, root_of
from .names import HELD_OUT, METADATA, TRAINING, few, legible, split_of
from .reading import Reading
from .table import Splits, Table
from .texts import read_text

FILE_NAME = "file_name"


def splits(path: str | Path | None) -> Splits:
    """The images of folders with ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet``.

    The column ``file_name`` holds paths relative to the table's folder.  Other columns may hold a class and a
    caption (:mod:`dedt_lib.data.columns`).  Without a column of classes, the folders of the images are the
    classes if there are several.  Images without a row are left out and counted.

    Args:
        path: the folder of the table, or a folder of split folders with one table each.

    Raises:
        DedtError: for a table that cannot be read, or rows without a file.
    """
    root = root_of(path, "metadata", "a folder with metadata.jsonl, .csv or .parquet beside its images")
    tables = find_tables(root)
    train, test = tables.get("train"), tables.get("test")
    if not train:
        raise DedtError(
            f"{root} has no metadata.jsonl, .csv or .parquet for training images: put the table beside the "
            "images, beside their folders, or into the folder train."
        )

    def read(file: Path) -> Table:
        names, columns = rows(file)
        files = tuple(file.parent / name for name in there(names, file))
        named = [legible(os.path.relpath(f, file.parent)) for f in files]
        counted: Counter[str] = Counter()
        images = {legible(f.relative_to(file.parent)) for f in folder.images_below(file.parent, counted)}
        spare = [name for name in METADATA if name != file.name and (file.parent / name).is_file()]
        counted["not images"] -= 1 + len(spare)  # the tables
        counted[f"images without a row in {file.name}"] += len(images.difference(named))
        ids = tuple(os.path.normpath(legible(file.parent.relative_to(root) / name)) for name in named)
        folders = tuple(map(os.path.dirname, named))
        first = {name.partition("/")[0] for name in folders}
        if len(first) > 1 and all(map(split_of, first)):
            raise DedtError(
                f"{file} lists images of several splits ({few(sorted(first))}): put a separate table into "
                "the folder of each split."
            )
        in_one = all(name.partition("/")[0] not in ("", "..") for name in folders)
        notes = ["some images are not in a folder beside the table, so folders are not used as classes"]
        notes *= len(set(folders)) > 1 and not in_one
        notes += [f"not read, because {file.name} is used: {few(spare)}"] * bool(spare)
        return Table.of(
            columns,
            root=root,
            files=files,
            encoded=lambda: zip(ids, files),
            ids=ids,
            reading=Reading.of(len(files), counted, notes),
            where=str(file),
            folders=folders if in_one else (),
        )

    return read(train), lambda: read(test) if test else None


def find_tables(root: Path) -> dict[str, Path]:
    """The tables of a folder: split -> file; a table in the folder itself is the only one, for training."""
    found: dict[str, Path] = {}
    if root.is_dir():
        known = {below.name.lower(): below for below in folder.subfolders(root, Counter())}
        for below in (known[name] for name in (*TRAINING, *HELD_OUT) if name in known):
            split, file = split_of(below.name), _table(below)
            if split and file:
                found.setdefault(split, file)
        if own := _table(root):
            found = {"train": own}
    return found


def _table(folder: Path) -> Path | None:
    there = (folder / name for name in METADATA if os.path.isfile(folder / name))
    # Other tools use the name metadata.parquet for tables of other kinds.
    return next((f for f in there if f.suffix != ".parquet" or FILE_NAME in parquet.columns(f)), None)


def there(names: Sequence[str], file: Path) -> list[str]:
    """The paths that a file names, spelt like the existing files; those without a file stay unchanged.

    Paths are absolute or relative to the folder of ``file``.  A path may be quoted, begin with ``~`` or have
    backslashes, as on Windows; an accent may be part of its letter or a combining character.

    Raises:
        DedtError: none of the paths exists.
    """

    def is_there(name: str) -> bool:
        return os.path.exists(file.parent / name)

    def spellings(name: str) -> Iterator[str]:
        yield name
        yield (bare := os.path.expanduser(name.strip().strip("\"'")))
        yield (slashed := bare.replace("\\", "/"))
        yield from (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))

    found = [next(filter(is_there, spellings(name)), name) for name in names]
    if not any(map(is_there, found)):
        raise DedtError(
            f"None of the {len(found):,} images listed in {file} exists ({few(found, SHOWN)}). Give absolute "
            f"paths, or paths relative to {file.parent}."
        )
    return found


def rows(file: Path, keys: Sequence[str] = (FILE_NAME,)) -> tuple[list[str], dict[str, list]]:
    """Read a table: .jsonl or .json, .parquet, or text with a header and commas, semicolons or tabs.

    Args:
        file: The table.
        keys: Lower-case names of the column of paths, matched in any case; the first one found is used.

    Returns:
        The paths, and the other columns: name -> values.

    Raises:
        DedtError: for a row that cannot be read or has no path, or a table without rows or a column of paths.
    """
    try:
        read = _read(file, keys)
    except ValueError as error:
        raise DedtError(f"{file} cannot be read ({error}): correct the table.") from error
    if not read:
        raise DedtError(
            f"{file} has no rows: give one row per image, with its path relative to {file.parent}."
        )
    columns = columns_of(read)
    if not (key := _key(columns, keys)):
        wanted = " or ".join(f"'{name}'" for name in keys)
        raise DedtError(
            f"{file} has no column {wanted} with the path of each image relative to {file.parent}. Its "
            f"columns are: {few(columns)}."
        )
    names = columns.pop(key)
    if bad := [i for i, name in enumerate(names, 1) if not (isinstance(name, str) and name)]:
        raise DedtError(
            f"{file} has no path under '{key}' in row {few(bad)}: give that of the image relative to "
            f"{file.parent}."
        )
    columns.pop("", None)
    return names, columns


def _read(file: Path, keys: Sequence[str]) -> list[dict]:
    """The rows of a table; raises ValueError if one cannot be read."""
    if file.suffix.lower() == ".parquet":
        return parquet.read_rows(file)
    text = read_text(file)
    return _lines(text) if file.suffix.lower() in (".jsonl", ".json") else _csv(text, keys)


def _key(columns: Iterable[str], keys: Sequence[str]) -> str | None:
    return next((name for key in keys for name in columns if name.lower() == key), None)


def _lines(text: str) -> list[dict]:
    """The rows of JSON lines, or of one array of objects; raises ValueError for anything else."""
    read = {}
    if text.lstrip().startswith("["):
        read = {f"entry {i}": row for i, row in enumerate(json.loads(text), 1)}
    else:
        for i, line in enumerate(text.split("\n"), 1):  # splitlines would also split at other characters
            if line.strip():
                try:
                    read[f"line {i}"] = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {i}: {error}") from error
    for where, row in read.items():
        if not isinstance(row, dict):
            raise ValueError(f"{where} is not a JSON object")
    return list(read.values())


csv.field_size_limit(2**31 - 1)  # captions may be long


def _csv(text: str, keys: Sequence[str]) -> list[dict]:
    """The rows of a table with a header, values stripped of spaces; raises ValueError for a malformed table.

    The delimiter is the one with which the header contains the column of paths.
    """

    def parsed(text: str, delimiter: str, strict: bool = True) -> list[list[str]]:
        lines = io.StringIO(text, newline="")
        found = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)
        try:
            return [row for row in ([value.strip() for value in row] for row in found) if any(row)]
        except csv.Error as error:
            raise ValueError(
                f"line {found.line_num}: {error}; a value that begins with a quote has to end with one, and "
                "quotes inside it are doubled"
            ) from error

    head, _, rest = text.lstrip().partition("\n")
    if re.fullmatch(r"sep=.\r?", head, re.IGNORECASE):  # a line that tells Excel the delimiter
        text, head = rest, rest.lstrip().partition("\n")[0]
    likely = max(",;\t", key=head.count)
    delimiter = next((d for d in ",;\t" if _key(sum(parsed(head, d, strict=False), []), keys)), likely)
    header, *read = parsed(text, delimiter) or [[]]
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise ValueError(f"the header has {few(twice)} more than once")
    if header and not _key(header, keys):
        return [dict.fromkeys(header, "")]
    for i, row in enumerate(read, 1):
        if any(row[len(header) :]):
            raise ValueError(
                f"row {i} has more values than the header: quote values that contain {delimiter!r}"
            )
    return [dict(zip(header, row)) for row in read]
