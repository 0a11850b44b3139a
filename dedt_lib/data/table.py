"""Rows of images with columns, and their conversion to a Listing, which all sources with columns share."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DedtError
from .columns import NONE, are_plain, caption_column, first_texts, in_order, label_column, plain
from .labelled import without_empty
from .listing import SHOWN, Encoded, Files, Listing, of_split
from .names import HELD_OUT, composed, few, split_of, split_words
from .reading import Reading


@dataclass(frozen=True)
class Table:
    """Encoded images of a split in rows, before it is decided which column holds their class.

    Attributes:
        root: File or folder of the images.
        files: The files that determine the pixels.
        encoded: Function that yields the encoded images, as in :class:`Listing`.
        ids: A name for each image.
        fields: Columns of integers or strings.
        others: Columns of other kinds, which are used only if requested or if they have a usual name.
        values: Function that returns the values of a column, with None for rows without one.
        reading: Counts of what was left out.
        where: Name of the table in messages.
        class_names: Function that returns the class names of a column of numbers, or None.
        folders: The folder of each image, or ().  Without a column of classes, the folders are the classes if
            there are several.
    """

    root: Path
    files: tuple[Path, ...]
    encoded: Callable[[], Iterable[Encoded]]
    ids: tuple[str, ...]
    fields: tuple[str, ...]
    others: tuple[str, ...]
    values: Callable[[str], list]
    reading: Reading
    where: str
    class_names: Callable[[str], Sequence[str] | None] = lambda column: None
    folders: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: Mapping[str, list], **rest: Any) -> "Table":
        """A Table of columns that say nothing of their kind: name -> values; ``rest``: the other attributes."""
        fields = tuple(name for name, values in columns.items() if are_plain(values))
        others = tuple(name for name in columns if name not in fields)
        return cls(fields=fields, others=others, values=columns.__getitem__, **rest)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return *self.fields, *self.others


SPLITS = ("split", "subset", "set", "partition", "usage")
"""Usual names of the column that says to which split each row belongs."""

Splits = tuple[Table, Callable[[], Table | None]]
"""The training images of a source, and a function that returns its held-out images or None."""


def classed(
    split: str, train: Table, held_out: Callable[[], Table | None], *, label: str = "", caption: str = ""
) -> Listing | None:
    """The images of a split, with classes and captions from the columns chosen for the training images.

    Class names are those that the file gives, else the sorted values; classes without images are left out.
    If a column of ``train`` names the split of each row, it divides these rows into splits; of several
    held-out splits, the first in the order of HELD_OUT is used.

    Args:
        split: "train" or "test".
        train: The training images.
        held_out: Function that returns the held-out images, or None.
        label: The column of the classes, or "none"; by default it is detected.
        caption: The column of the captions; by default one with a usual name.

    Returns:
        The Listing, without classes if neither a column nor folders hold any; None for "test" without
        held-out images.

    Raises:
        DedtError: For columns that are missing, or labels that cannot be used.
    """
    classes = _classes(train, label, caption)
    by, said = split_column(train)

    def of_rows(kept: str, *notes: str) -> Listing:
        found = classes.listing(train, classes.labels, *notes)
        others = {
            i: f"of the split '{kind}'" for i, kind in enumerate(said) if kept not in (kind, split_of(kind))
        }
        return found.without(others) if others else found

    @functools.cache
    def find_train() -> Listing:
        divided = [f"splits from the column '{by}'"] if by else []
        unused = [] if by else _unused_splits(train)
        return of_rows("train", *divided, *classes.notes, *unused)

    def find_held_out() -> Listing | None:
        if not by:
            table = held_out()
            return None if table is None else classes.listing(table, classes.of(table))
        taken = next(kind for kind in HELD_OUT if kind in said)
        found = of_rows(taken)
        if lacking := set(find_train().class_names) - set(found.class_names):
            raise DedtError(f"the split '{taken}' has no images of {few(sorted(lacking), SHOWN)}")
        return found

    return of_split(split, find_train, find_held_out)


@dataclass(frozen=True)
class _Classes:
    """The classes and captions of a source, as found in its training images.

    Attributes:
        name: Name of the data set.
        column: The column of the classes; "" for folders, or without classes.
        caption: The column of the captions, or "".
        keys: The classes that have images, as they stand in the column.
        names: Their names; () without classes.
        labels: The class of each training image: int64 [n].
        notes: What the user is told about them.
    """

    name: str
    column: str
    caption: str
    keys: Sequence
    names: tuple[str, ...]
    labels: np.ndarray
    notes: list[str]

    def of(self, table: Table) -> np.ndarray:
        """The class of each image of another table, int64 [n]; raises DedtError if a class has no image."""
        if not self.names:
            return np.zeros(len(table.ids), np.int64)
        values = plain(table.values(self.column)) if self.column in table.columns else _by_folder(table)
        if not values:
            raise DedtError(f"{table.where} has no classes, unlike the training images")
        labels = _numbers(values, self.keys, table)
        if missing := without_empty(labels, self.names)[2]:
            raise DedtError(f"{table.where} has no images of {few(missing, SHOWN)}")
        return labels

    def listing(self, table: Table, labels: np.ndarray, *notes: str) -> Listing:
        """The images of a table with their classes and captions."""
        texts = table.values(self.caption) if self.caption in table.columns else []
        return Listing(
            root=table.root,
            files=Files(table.files),
            encoded=table.encoded,
            labels=labels,
            class_names=self.names,
            ids=table.ids,
            name=self.name,
            reading=table.reading.noted(*notes),
            captions=tuple("" if text is None else str(text) for text in plain(first_texts(texts)) or ()),
        )


def _classes(train: Table, label: str, caption: str) -> _Classes:
    """Classes and captions by the choice of columns; raises DedtError for columns that cannot be used."""
    read = functools.cache(lambda name: plain(train.values(name)))
    first = functools.cache(lambda name: plain(first_texts(train.values(name))))
    column, about_labels = label_column(train, read, label)
    text, about_captions = caption_column(train, first, column, caption)
    notes = [*about_labels, *about_captions]
    texts = train.values(text) if text else []
    if several := sum(isinstance(said, list) and len(said) > 1 for said in texts):
        notes.append(f"images with several captions, of which the first is used: {several:,}")
    by_folder = label != NONE and len(set(train.folders)) > 1
    values = (read(column) or []) if column else _by_folder(train) if by_folder else []
    if values and set(values) <= {-1, "-1", None}:
        notes, values = [*notes, f"'{column}' holds no label except -1, so it is not used as the class"], []

    given = tuple(train.class_names(column) or ()) if column else ()
    keys = range(len(given)) if given else in_order(values) if column else sorted(set(values))
    names = given or tuple(map(str, keys))
    labels, kept, empty = np.zeros(len(train.ids), np.int64), tuple[str, ...](), tuple[str, ...]()
    if values:
        labels, kept, empty = without_empty(_numbers(values, keys, train), names)
    notes = [
        *[f"classes from the column '{column}'"] * bool(values and column not in ("", label)),
        *[f"captions from the column '{text}'"] * (text not in ("", caption)),
        *notes,
        *["no classes"] * (not values),
        *[f"classes without images, left out: {few(empty, SHOWN)}"] * bool(empty),
    ]
    root = train.root.resolve()
    name = root.stem if root.is_file() else root.name
    with_images = [key for key, called in zip(keys, names) if called not in empty]
    return _Classes(name, column, text, with_images, kept, labels, notes)


def _by_folder(table: Table) -> list[str]:
    """The class of each image by its folder; [] for a table without folders."""
    return list(map(composed, table.folders))


def split_column(table: Table) -> tuple[str, list[str]]:
    """The column that names each row's split, and its values in lower case; ("", []) if there is none.

    Raises:
        DedtError: Some rows are of a training and some of a held-out split, but others of neither.
    """
    for name in table.fields:
        values = table.values(name) if name.lower() in SPLITS else []
        said = [str(value or "").strip().lower() for value in values]
        kinds = {kind: split_of(kind) for kind in said}
        if not {"train", "test"} <= set(kinds.values()):
            continue
        if others := [kind or "nothing" for kind, split in kinds.items() if split is None]:
            raise DedtError(
                f"The column '{name}' of {table.where} divides the images into splits, but in some rows it "
                f"says {few(others, SHOWN)}: write train or test there, or leave the column out."
            )
        return name, said
    return "", []


def _unused_splits(table: Table) -> list[str]:
    """Notes on columns that look like splits but do not name a training and a held-out one in these words."""
    found = {}
    for name in table.fields:
        kinds = {str(kind) for kind in table.values(name) if kind} if name.lower() in SPLITS else set()
        if 1 < len(kinds) <= SHOWN and any(split_of(kind) or split_words(kind) for kind in kinds):
            found[name] = few(sorted(kinds))
    return [f"not used as splits: the column '{name}' with {kinds}" for name, kinds in found.items()]


def _numbers(values: Sequence, keys: Sequence, table: Table) -> np.ndarray:
    """The index of each value in ``keys``, int64 [n]; a number also matches the same number as text."""
    number = {str(key): k for k, key in enumerate(keys)}
    found = [-1 if value is None else number.get(str(value), -1) for value in values]
    numbers = np.array(found, dtype=np.int64)
    if len(foreign := np.flatnonzero(numbers < 0)):
        shown = ", ".join(f"{table.ids[i]}: {values[i]!r}" for i in foreign[:SHOWN])
        raise DedtError(
            f"{len(foreign)} of {len(values)} images in {table.where} have no label or one "
            f"that is not among the {len(number)} classes ({shown}): correct the labels, remove the images, "
            f"or ignore all labels with --label {NONE}."
        )
    return numbers
