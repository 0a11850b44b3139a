"""Detect which column of a table holds the classes of the images, and which their captions."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..errors import DedtError
from .names import composed, few, split_of

if TYPE_CHECKING:
    from .table import Table

LABELS = ("label", "labels", "fine_label", "class", "class_name", "category", "cls")
CAPTIONS = ("caption", "captions", "text", "txt", "prompt", "description", "sentence", "title", "alt")
NONE = "none"
NOT_LABELS = re.compile(
    r"(.*_)?(id|idx|index|width|height|size|seed|row|split|fold|subset|status|license|licence|rating|camera)"
    r"|(.*_)?(date|datum|time|datetime|timestamp|year)"
    r"|(.*_)?(steps?|cfg|scale|strength|score|sampler|scheduler)|(guidance|negative|error).*|__index_level_\d+__"
    r"|(.*_)?(url|path|file|exif|hash|sha\d+|md5)",
    re.IGNORECASE,
)
"""Names of columns that are never taken for the class, whatever their values."""
FRACTION = re.compile(r"[-+]?[0-9]*[.,][0-9]+([eE][-+]?[0-9]+)?")
"""A number with a decimal point or comma, as a table without types writes it."""
WHOLE = re.compile(r"[-+]?[0-9]+(\.0*)?")
"""A whole number as text; tables write "3.0" when the column has gaps."""
WORDY = 4
"""Words in a value, on average, above which a column without a usual name holds free text."""
UNFIT = "holds values other than text and whole numbers"


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """The columns of rows, in the order in which they appear: name -> values, None in rows without one."""
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain.from_iterable(rows))}


def are_plain(values: Sequence) -> bool:
    """Whether a column holds only whole numbers or text, apart from missing values."""
    return {type(value) for value in values} <= {int, str, type(None)} and not _are_fractions(values)


def _are_fractions(values: Sequence) -> bool:
    """Whether all texts are numbers and at least one is not whole."""
    texts = [value for value in values if isinstance(value, str) and value]
    numbers = all(WHOLE.fullmatch(text) or FRACTION.fullmatch(text) for text in texts)
    return numbers and not all(map(WHOLE.fullmatch, texts))


def plain(values: Sequence) -> list | None:
    """The values of a column in a form fit for classes or captions: all int, or all str.

    Missing values (an empty text or NaN) become None.  Booleans become text, and so do the numbers in a
    column that also holds text.

    Returns:
        The values; None if any value is neither text nor a whole number (a float such as 3.0 counts as one).
    """
    found = [_plain(value) for value in values]
    texts = [value for value in found if isinstance(value, str)]
    if any("." in text for text in texts) and all(WHOLE.fullmatch(text) for text in texts):
        found = [int(float(value)) if isinstance(value, str) else value for value in found]
    kinds = {type(value) for value in found} - {type(None)}
    if not kinds <= {int, str}:
        return None
    return found if len(kinds) < 2 else [None if value is None else str(value) for value in found]


def first_texts(values: Sequence) -> list:
    """The values, with lists of texts replaced by their first text, or None if empty."""

    def are_texts(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    return [next(iter(value), None) if are_texts(value) else value for value in values]


def _plain(value):
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return composed(value.encode("utf-8", "replace").decode()).strip() or None  # JSON: half an emoji
    return int(value) if isinstance(value, float) and value.is_integer() else value


def in_order(values: Iterable) -> list:
    """The distinct values, sorted; the order is numeric if all are whole numbers, even if written as text."""
    different = set(values) - {None}
    numbers = all(re.fullmatch(r"[-+]?[0-9]+", str(value)) for value in different)
    return sorted(different, key=lambda value: (int(value), str(value)) if numbers else value)


def label_column(table: "Table", values: Callable[[str], list | None], asked: str) -> tuple[str, list[str]]:
    """The column of the classes: the requested one, one with a usual name, or the only one that fits.

    A column without a usual name fits if its values repeat as classes do.

    Args:
        table: The images.
        values: Function that returns the values of a column as :func:`plain` does.
        asked: The requested column, "none" for no classes, or "".

    Returns:
        The name of the column, "" without one, and notes on columns that might have been meant.

    Raises:
        DedtError: The requested column is missing or unfit, or several columns could hold the classes.
    """

    def is_label(name: str, known: bool) -> bool:
        counted = Counter(values(name))
        counted.pop(None, None)
        return bool(table.class_names(name)) or _repeat(counted, known)

    if asked == NONE and NONE not in table.columns:
        return "", []
    if asked:
        found = _asked(asked, table.columns, values, "label")
        if not is_label(asked, True):
            raise DedtError(
                f"The column '{asked}' has {len(set(found)):,} different values in {len(found):,} rows, so "
                f"it holds free text, not classes. Give it as --caption {asked}, and give another column as "
                f"--label, or --label {NONE}."
            )
        return asked, []
    like = _called(LABELS, table.columns)
    notes = [f"'{name}' {UNFIT}, so it is not used as the class" for name in like if values(name) is None]
    known = [name for name in like if values(name) is not None]
    known = known or [name for name in table.fields if name.lower().startswith("label")]
    if known and is_label(known[0], True):
        return known[0], notes
    if known:
        empty = not any(value is not None for value in values(known[0]) or ())
        why = "is empty" if empty else "has a different value in most rows"
        return "", [*notes, f"'{known[0]}' {why}, so it is not used as the class"]
    free = [name for name in table.fields if not NOT_LABELS.fullmatch(name) and name.lower() not in CAPTIONS]
    found = [name for name in free if is_label(name, False)]
    if len(found) > 1:
        raise DedtError(
            f"Several columns could hold the classes: {few(found)}. Choose one with --label COLUMN, or use "
            f"--label {NONE} for no classes."
        )
    return (found or [""])[0], notes


def caption_column(
    table: "Table", values: Callable[[str], list | None], label: str, asked: str
) -> tuple[str, list[str]]:
    """The column of the captions, "" without one, and notes on columns that might have been meant.

    Args:
        table: The images.
        values: Function that returns the values of a column as :func:`plain` does, of lists the first text.
        label: The column of the classes.
        asked: The requested column, or "".

    Raises:
        DedtError: The requested column is missing or unfit.
    """
    if asked:
        _asked(asked, table.columns, values, "caption")
        return asked, []
    named = _called(CAPTIONS, table.fields) + _called(CAPTIONS, table.others)
    named = [name for name in named if name != label]
    found = next((name for name in named if name in table.fields or values(name) is not None), "")
    unfit = [] if found else named
    return found, [f"'{name}' {UNFIT}, so it is not used as the caption" for name in unfit]


def _called(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """The ``names`` that equal one of ``known``, ignoring case, in the order of ``known``."""
    return [name for wanted in known for name in names if name.lower() == wanted]


def _asked(asked: str, there: Sequence[str], values: Callable[[str], list | None], what: str) -> list:
    """The values of the requested column; raises DedtError if it is missing or unfit."""
    if asked not in there:
        raise DedtError(
            f"There is no column '{asked}' for --{what}. The columns are: {few(there) if there else 'none'}."
        )
    if (found := values(asked)) is None:
        raise DedtError(
            f"The column '{asked}' {UNFIT}, so it cannot be the {what}: give another column as --{what}."
        )
    return found


def _repeat(values: Counter, known: bool) -> bool:
    """Whether values repeat as classes do; those of a requested or usual column may repeat less."""
    different, rows = len(values), values.total()
    words = sum(len(str(value).split()) for value in values)
    if not known:
        if words > WORDY * different or any(str(value).startswith(("{", "[")) for value in values):
            return False
        few = rows // 10 if words > 2 * different else min(rows // 2, 50)
        splits = all(split_of(str(value)) for value in values)
        return different > 1 and not splits and different <= max(rows // 10, few)
    return bool(rows) and (2 * different <= rows or (rows < 20 and words <= 2 * different))
