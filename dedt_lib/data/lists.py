"""Lists of images: paths in a text file or a table, or a cleaned list written by ``dedt look --drop``."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DedtError
from ..files import HUB, at_home, from_everywhere, read_json, sha256, write_json
from .listing import Listing, root_of, stamp
from .metadata import rows, there
from .names import LISTS, SOURCE_OF, legible
from .reading import Reading
from .table import Splits, Table
from .texts import read_text

CLEANED = ".dedt.json"
"""Ending of the file name of a cleaned list."""
BY_FILE = ("folder", "metadata", "list")
"""Sources whose images are files of their own."""
WANTED = f"a list of images ({', '.join(LISTS)})"
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
    ids = tuple(map(legible, names))
    table = Table.of(
        columns,
        root=file,
        files=files,
        encoded=lambda: zip(ids, files),
        ids=ids,
        reading=Reading.of(len(ids), unit="paths"),
        where=str(file),
    )
    return table, lambda: None


def name_of_cleaned(data: str | Path) -> str:
    """The file name of the cleaned list of a data set, without the suffix of a data file."""
    path = os.path.abspath(at_home(str(data).removeprefix(HUB)))
    name = os.path.basename(path).removesuffix(CLEANED) or "images"
    suffix = Path(name).suffix
    return f"{name.removesuffix(suffix) if suffix.lower() in SOURCE_OF else name}{CLEANED}"


def check_replaces(path: Path, data: str | Path) -> None:
    """Raise DedtError if ``path`` is the cleaned list of another data set, which would be replaced."""
    there = _images_of(path) if path.exists() else ""
    if there and there != where_of(data):
        raise DedtError(f"{path} is the cleaned list of {there}: give --out another folder for {data}.")


def where_of(data: str | Path) -> str:
    """The absolute path of a data set, or its name on the hub; for a cleaned list, that of its images."""
    return _images_of(data) if str(data).endswith(CLEANED) else from_everywhere(data)


def named_columns(data: str | Path, label: str, caption: str) -> tuple[str, str]:
    """The columns of classes and captions that the user named, now or for the cleaned list ``data``."""
    facts = read_json(data) if str(data).endswith(CLEANED) else {}
    return label or facts.get("label", ""), caption or facts.get("caption", "")


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
    copy_of: Mapping[str, str] = {},
    label: str = "",
    caption: str = "",
) -> None:
    """Write a cleaned list, which leaves out some images of a data set.

    The list holds what tells each image that was looked at from others, so that it stays true when files are
    added, removed, renamed or replaced.  If ``data`` is a cleaned list itself, the new list leaves out its
    left-out images too.

    Args:
        path: path of the list; its name ends in ``.dedt.json``.
        source: kind of the data set.
        data: path of the data set.
        why: id of each image to leave out -> the reason.
        listing: the images that were looked at.
        copy_of: id of an image that is left out as a copy -> id of the image that stays.
        label: the column of the classes, if the user named it.
        caption: the column of the captions, if the user named it.
    """
    facts = dict[str, Any](source=source, data=where_of(data), left_out={}, copy_of={}, seen={})
    if str(data).endswith(CLEANED):
        facts |= read_json(data)
    facts |= {"left_out": facts["left_out"] | why, "copy_of": facts["copy_of"] | copy_of}
    if facts["source"] in BY_FILE:
        digests: dict[Any, str] = listing.files.digests
        files: Any = zip(listing.ids, listing.encoded())  # in these sources every one is a path
        facts["seen"] |= {name: [digests.get(file, "")[:32], *stamp(file)] for name, (_, file) in files}
    else:
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
        DedtError: if the list cannot be read, or its images lie inside other files that were written anew.
    """
    from . import find as find_in

    file = root_of(path, "list", WANTED)
    facts = read_json(file)
    try:
        source, data, why, seen, copy_of = (
            facts[key] for key in ("source", "data", "left_out", "seen", "copy_of")
        )
    except (KeyError, TypeError) as error:
        raise DedtError(f"{file} was not written by `dedt look --drop`: write it again.") from error
    label, caption = named_columns(file, label, caption)
    again = f"dedt look {{}} --drop {','.join(sorted(set(why.values()))) or 'bad'}"
    try:
        found = find_in(source, data, split, label=label, caption=caption)
    except DedtError as error:
        moved = not data.startswith(HUB) and not Path(data).exists()
        advice = f" If they were moved, write the list again: {again.format('FOLDER')}" * moved
        raise DedtError(f"The images that {file} refers to cannot be used: {error}{advice}") from error
    if not isinstance(found, Listing) or split == "test":
        return found  # type: ignore[return-value]  # a Path is returned for CIFAR-10 only, which has no list
    if source in BY_FILE:
        return dataclasses.replace(_still_kept(found, seen, why, copy_of), whole=found)
    if facts["content"] != found.files.content:
        raise DedtError(
            f"{data} has changed since {file} was written, and its rows may hold other images now. Write the list "
            f"again: {again.format(data)}"
        )
    place = {name: i for i, name in enumerate(found.ids)}
    kept = found.without({place[name]: reason for name, reason in why.items()})
    return dataclasses.replace(kept, whole=found)


def _still_kept(
    found: Listing, seen: dict[str, list], why: dict[str, str], copy_of: dict[str, str]
) -> Listing:
    """The images of files that a cleaned list keeps, by what the files hold now.

    An image that was left out stays so under another name, and comes back when its file was replaced, or when
    the image that it copies is gone.

    Args:
        found: All images that are there now.
        seen: id -> [digest of the file, modification time, size], of the images that were looked at.
        why: id of each image that was left out -> the reason.
        copy_of: id of an image that was left out as a copy -> id of the image that stays.
    """
    names = set(found.ids)
    # What may be there under another name; of images with the same content those that are gone come last.
    known = sorted(seen, key=lambda name: name not in names)
    by_content = {seen[name][0]: name for name in known if name in why or name not in names}
    by_content.pop("", None)
    was: dict[str, str | None] = {}  # what each image was called when it was looked at
    for name, (_, file) in zip(found.ids, found.encoded()):
        content, *then = seen.get(name, [""])
        same = then == stamp(file) or content == (now := _digest(file))  # type: ignore[arg-type]
        was[name] = name if same else by_content.get(now)
    there, back = set(was.values()), dict[str, str]()
    left: dict[int, str] = {}
    for place, (name, old) in enumerate(was.items()):
        original = copy_of.get(old or "", old)
        if old in why and (original in there or back.setdefault(str(original), name) != name):
            left[place] = why[old]
    counts = {
        "added": sum(old is None and name not in seen for name, old in was.items()),
        "replaced": sum(old is None and name in seen for name, old in was.items()),
        "removed": len(seen.keys() - there - names),
    }
    notes = [
        f"images {what} since the list was written: {count:,}" for what, count in counts.items() if count
    ]
    notes += [f"copies used instead of removed images: {len(back):,}"] * bool(back)
    kept = found.without(left)
    return dataclasses.replace(kept, reading=kept.reading.noted(*notes))


def _digest(file: Any) -> str:
    """What tells the content of a file from any other, as in a cleaned list; "" where it cannot be read."""
    try:
        return sha256(file)[:32]
    except OSError:
        return ""
