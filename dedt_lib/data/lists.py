"""A list of images: paths in a text or a table, or what the look at a data set leaves of it."""

from pathlib import Path

from ..errors import DedtError
from ..files import read_json, write_json
from .listing import Listing, root_of
from .metadata import rows
from .names import few, legible
from .reading import Reading
from .table import Table, listing

CLEANED = ".dedt.json"
"""The end of the name of a cleaned list."""
KEYS = ("file_name", "path", "image", "file", "filename")


def find(
    path: str | Path | None, split: str = "train", *, label: str = "", caption: str = ""
) -> Listing | None:
    """The images that a list names, not decoded yet.

    Args:
        path: a text with a path in each line (``.txt``); a table with a column of paths (``.csv``, ``.jsonl``:
            ``file_name``, ``path``, ``image``, ``file`` or ``filename``) and perhaps a class and a caption; or a cleaned
            list (:func:`write_cleaned`).  Paths are absolute or below the list's folder.
        split: "train" or "test"; only a cleaned list can have held-out images.
        label: the column of the classes.
        caption: the column of the captions.

    Returns:
        The Listing; None for "test" without held-out images.

    Raises:
        DedtError: for a list that cannot be read or names nothing.
    """
    file = root_of(path, "list", "a list of images (.txt, .csv, .jsonl)")
    if file.name.endswith(CLEANED):
        return _cleaned(file, split, label, caption)
    if split == "test":
        return None
    columns: dict[str, list] = {}
    if file.suffix == ".txt":
        names = [
            line for line in file.read_text("utf-8", errors="surrogateescape").splitlines() if line.strip()
        ]
    else:
        with open(file, encoding="utf-8") as lines:
            head = lines.readline()
        key = next((key for key in KEYS if key in head), KEYS[0])
        names, columns = rows(file, key)
    if not names:
        raise DedtError(f"{file} names no image: give a path in each line.")
    files = tuple(file.parent / name for name in names)
    ids = tuple(map(legible, names))
    table = Table(
        root=file,
        files=files,
        encoded=lambda: zip(ids, files),
        ids=ids,
        fields=tuple(columns),
        values=columns.__getitem__,
        reading=Reading.of(len(ids), unit="paths"),
        where=str(file),
    )
    return listing(split, table, lambda: None, label=label, caption=caption)


def write_cleaned(path: Path, source: str, data: str | Path, why: dict[str, str]) -> None:
    """Write a list of all images of a data set but some.

    Args:
        path: of the list; its name ends in ``.dedt.json``.
        source: kind of the data set.
        data: where it is.
        why: id of each image that is left out -> the reason.
    """
    write_json(path, {"source": source, "data": str(Path(data).absolute()), "left_out": why})


def _cleaned(file: Path, split: str, label: str, caption: str) -> Listing | None:
    from . import find as find_in

    facts = read_json(file)
    try:
        source, data, why = facts["source"], facts["data"], facts["left_out"]
    except (KeyError, TypeError) as error:
        raise DedtError(f"{file} is no list that `dedt look --drop` wrote: write it again.") from error
    found = find_in(source, data, split, label=label, caption=caption)
    if not isinstance(found, Listing) or split == "test":
        return found  # type: ignore[return-value]  # only CIFAR-10 is a folder, and that is no file to look at
    place = {name: i for i, name in enumerate(found.ids)}
    if gone := sorted(set(why) - set(place)):
        raise DedtError(
            f"{file} was made of other images: {data} has no {few(gone, 3)}. Look at it again: dedt look {data} --drop ..."
        )
    return found.without({place[name]: reason for name, reason in why.items()})
