"""Lists of images: paths in a text file or a table, or a cleaned list written by ``dedt look --drop``."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from ..errors import DedtError
from ..files import HUB, from_everywhere, read_json, write_json
from .columns import by_kind
from .listing import Listing, root_of
from .metadata import rows, there
from .names import few, legible
from .reading import Reading
from .table import Splits, Table
from .texts import read_text

CLEANED = ".dedt.json"
"""Ending of the file name of a cleaned list."""
BY_ROW = ("parquet", "datasets")
"""Sources whose images are named only by the number of their row."""
SUFFIXES = (".parquet", ".tar", ".txt", ".csv", ".tsv", ".jsonl", ".json")
"""Suffixes of data files, which the name of a cleaned list leaves out."""
WANTED = "a list of images (.txt, .csv, .tsv, .jsonl, .json)"
KEYS = ("file_name", "path", "image", "file", "filename", "image_path", "filepath")


def splits(path: str | Path | None) -> Splits:
    """The images that a list names, all of them training images.

    Args:
        path: a text file with one path per line (``.txt``), or a table (``.csv``, ``.tsv``, ``.jsonl``,
            ``.json``) with a column of paths, ``file_name`` or another of KEYS, and perhaps a class and a
            caption.  Paths are absolute or relative to the folder of the list.

    Raises:
        DedtError: for a list that cannot be read or names no image.
    """
    file, columns = root_of(path, "list", WANTED), dict[str, list]()
    if file.suffix.lower() == ".txt":
        lines = read_text(file, "surrogateescape").split("\n")  # splitlines would split elsewhere too
        names = [line.rstrip("\r") for line in lines if line.strip()]
    else:
        names, columns = rows(file, KEYS)
    if not names:
        raise DedtError(f"{file} lists no images: give one path per line.")
    names = there(names, file)
    files = tuple(file.parent / name for name in names)
    fields, others = by_kind(columns, columns.__getitem__)
    ids = tuple(map(legible, names))
    table = Table(
        root=file,
        files=files,
        encoded=lambda: zip(ids, files),
        ids=ids,
        fields=fields,
        others=others,
        values=columns.__getitem__,
        reading=Reading.of(len(ids), unit="paths"),
        where=str(file),
    )
    return table, lambda: None


def name_of_cleaned(data: str | Path) -> str:
    """The file name of the cleaned list of a data set."""
    path = os.path.abspath(os.path.expanduser(str(data).removeprefix(HUB)))
    name = os.path.basename(path).removesuffix(CLEANED) or "images"
    suffix = Path(name).suffix
    return f"{name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name}{CLEANED}"


def check_replaces(path: Path, data: str | Path) -> None:
    """Raise DedtError if ``path`` is the cleaned list of another data set, which would be replaced."""
    there = _images_of(path) if path.exists() else ""
    if there and there != where_of(data):
        raise DedtError(f"{path} is the cleaned list of {there}: give --out another folder for {data}.")


def where_of(data: str | Path) -> str:
    """The absolute path of a data set, or its name on the hub; for a cleaned list, that of its images."""
    return _images_of(data) if str(data).endswith(CLEANED) else from_everywhere(data)


def _images_of(cleaned: str | Path) -> str:
    """The path of the images of a cleaned list; "" if the file is not a cleaned list."""
    facts = read_json(cleaned)
    return str(facts.get("data", "")) if isinstance(facts, dict) else ""


def write_cleaned(
    path: Path,
    source: str,
    data: str | Path,
    why: dict[str, str],
    *,
    listing: Listing,
    label: str = "",
    caption: str = "",
) -> None:
    """Write a cleaned list, which leaves out some images of a data set.

    If ``data`` is a cleaned list itself, the new list leaves out its left-out images too.

    Args:
        path: path of the list; its name ends in ``.dedt.json``.
        source: kind of the data set.
        data: path of the data set.
        why: id of each image to leave out -> the reason.
        listing: the images that were looked at.
        label: the column of the classes, if the user named it.
        caption: the column of the captions, if the user named it.
    """
    facts: dict[str, Any] = {"source": source, "data": where_of(data), "left_out": {}}
    if str(data).endswith(CLEANED):
        facts |= read_json(data)
    facts |= {"images": len(listing.ids) + len(facts["left_out"]), "left_out": facts["left_out"] | why}
    if facts["source"] in BY_ROW:
        facts["content"] = listing.files.content
    write_json(path, facts | {key: said for key, said in (("label", label), ("caption", caption)) if said})


def cleaned(path: str | Path, split: str, label: str, caption: str) -> Listing | None:
    """The images of a split that a cleaned list keeps, not decoded yet.

    Args:
        path: path of the list, written by :func:`write_cleaned`.
        split: "train" or "test".
        label: as in :func:`dedt_lib.data.find`.
        caption: as in :func:`dedt_lib.data.find`.

    Raises:
        DedtError: if the list cannot be read, or images that it leaves out may have other names now.
    """
    from . import find as find_in

    file = root_of(path, "list", WANTED)
    facts = read_json(file)
    try:
        source, data, why, seen = (facts[key] for key in ("source", "data", "left_out", "images"))
    except (KeyError, TypeError) as error:
        raise DedtError(f"{file} was not written by `dedt look --drop`: write it again.") from error
    label, caption = label or facts.get("label", ""), caption or facts.get("caption", "")
    try:
        found = find_in(source, data, split, label=label, caption=caption)
    except DedtError as error:
        raise DedtError(f"The images that {file} refers to cannot be used: {error}") from error
    if not isinstance(found, Listing) or split == "test":
        return found  # type: ignore[return-value]  # a Path is returned for CIFAR-10 only, which has no list
    if facts.get("content", "") and facts["content"] != found.files.content:
        raise DedtError(
            f"{data} has changed since {file} was written, and its rows may hold other images now. Write the "
            f"list again: dedt look {data} --drop ..."
        )
    place = {name: i for i, name in enumerate(found.ids)}
    gone = sorted(set(why) - set(place))
    if gone and len(place) + len(gone) > seen:  # under new names, images that were left out might come back
        raise DedtError(
            f"{file} was written for other images: {data} has no {few(gone, 3)}. Write the list again: dedt "
            f"look {data} --drop ..."
        )
    if more := len(place) - seen:
        note = f"images {'added' if more > 0 else 'removed'} since the list was written: {abs(more):,}"
        found = dataclasses.replace(found, reading=found.reading.noted(note))
    return found.without({place[name]: reason for name, reason in why.items() if name in place})
