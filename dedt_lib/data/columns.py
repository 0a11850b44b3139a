"""Which column of a table is the class of an image, and which its caption."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from ..errors import DedtError
from .names import few

LABELS = ("label", "labels", "fine_label", "class", "class_name", "category", "cls")
CAPTIONS = ("caption", "captions", "text", "txt", "prompt", "description", "sentence", "title", "alt")
NONE = "none"
NOT_LABELS = re.compile(r"(.*_)?(id|idx|index|width|height|size|seed|row)|__index_level_\d+__", re.IGNORECASE)
"""Columns that say something else than the class, whatever their values."""


def label_column(
    fields: Sequence[str], values: Callable[[str], list], named: Callable[[str], object], asked: str = ""
) -> tuple[str, list[str]]:
    """The column of the classes: the one asked for, known by its name, or the only one that repeats as they do.

    Args:
        fields: Columns of integers or strings.
        values: Of a column.
        named: Whether the classes of a column have names in its file.
        asked: A column that somebody chose, or "none".

    Returns:
        Its name, "" without one, and notes on columns that might have been meant.

    Raises:
        DedtError: A column that is not there or holds free text; several that could be meant.
    """

    def is_label(name: str, known: bool) -> bool:
        counted = Counter(values(name))
        counted.pop(None, None)
        return bool(named(name)) or _repeat(counted, known)

    if asked == NONE and NONE not in fields:
        return "", []
    if asked:
        _check_there(asked, fields, "label")
        if not is_label(asked, True):
            raise DedtError(
                f"The column '{asked}' has {len(set(values(asked))):,} different values in {len(values(asked)):,} "
                f"rows: that is free text, and no class. Give it as --caption {asked}, and another as --label, or "
                f"--label {NONE}."
            )
        return asked, []
    known = [name for name in LABELS if name in fields]
    known = known or [name for name in fields if name.lower().startswith("label")]
    others = [name for name in fields if not NOT_LABELS.fullmatch(name) and name not in CAPTIONS]
    candidates = known[:1] or others
    found = [name for name in candidates if is_label(name, bool(known))]
    if len(found) > 1:
        raise DedtError(
            f"Each of the columns {few(found)} could be the class of an image: say which by "
            f"--label COLUMN, or that none is by --label {NONE}."
        )
    notes = [
        f"'{name}' has a value of its own in most rows, so it is no class" for name in known[:1] if not found
    ]
    return (found or [""])[0], notes


def caption_column(fields: Sequence[str], label: str, asked: str = "") -> str:
    """The column of the captions, "" without one; raises DedtError for one that was asked for and is not there."""
    if asked:
        _check_there(asked, fields, "caption")
        return asked
    return next((name for name in CAPTIONS if name in fields and name != label), "")


def _check_there(asked: str, fields: Sequence[str], what: str) -> None:
    if asked not in fields:
        there = few(fields) if fields else "none of integers or strings"
        raise DedtError(f"There is no column '{asked}' for --{what}. The columns are: {there}.")


def _repeat(values: Counter, known: bool) -> bool:
    """Whether values repeat as those of classes do; those of a column with a known name may repeat less."""
    different, rows = len(values), values.total()
    words = sum(len(str(value).split()) for value in values)
    if not known:
        few = rows // 10 if words > 2 * different else min(rows // 2, 50)
        return bool(rows) and different <= max(1, rows // 10, few)
    return bool(rows) and (2 * different <= rows or (rows < 20 and words <= 2 * different))
