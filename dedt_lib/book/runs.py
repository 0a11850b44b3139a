"""The runs behind a printed number, with their seeds, commit and command."""

import re
from collections.abc import Collection, Iterator
from html import escape
from typing import Any

import pandas as pd
from IPython.display import HTML

from . import grid, tables

PERCENT = re.compile(r"[\d.]+ %")
Rows = str | Collection[str]
"""The name of a table, or names of rows."""


def linked(table: pd.DataFrame, rows: Rows, without: str = "") -> HTML:
    """A printed table whose numbers link to their line of :func:`behind` on the same page.

    Args:
        table: a table of ``tables.layout``, ``tables.metrics`` or ``Page.shown``; its index begins with the
            label of a row, and its index or its columns hold the ratio.
        rows: rows that the table may contain; no two have the same label.
        without: an ending that is removed from the printed labels.
    """
    names = {grid.LABELS[row]: row for row in _names(rows)}

    def entry(text: Any, *labels: str) -> str:
        if text != text:  # NaN
            return "–"
        row = next((names[label] for label in labels if label in names), None)
        kept = next(filter(PERCENT.fullmatch, labels), None)
        published = any(word in label for label in labels for word in ("paper", "CIFAR-10"))
        if row is None or kept is None or text == "–" or published:
            return escape(str(text))
        return f"<a href='#{_anchor(row, kept)}'>{escape(str(text))}</a>"

    shown = table.astype(object)
    for i, label in enumerate(table.index):
        labels = [label] if isinstance(label, str) else label
        shown.iloc[i] = [entry(text, *labels, column) for column, text in table.iloc[i].items()]
    shown = shown.rename(index=lambda label: escape(label.removesuffix(without)))
    return HTML(shown.to_html(escape=False, border=0))


def behind(frame: pd.DataFrame, rows: Rows) -> HTML:
    """The runs behind the numbers of a page: a line for each row and ratio that has results.

    Args:
        frame: results of ``results.read_cells``.
        rows: the rows of the page, in their order.

    Returns:
        A scrollable table: the FID of each seed, the date and commit of the runs, and the command of the
        first seed.
    """
    lines = [line for row in _names(rows) for line in _lines(frame[frame.row == row])]
    columns = ["row", "kept", "FID by seed", "date, commit", "command (first seed)"]
    table = pd.DataFrame(lines, columns=columns).set_index("row").rename_axis(None)
    with pd.option_context("display.max_colwidth", None):
        text = table.to_html(escape=False, border=0)
    return HTML(f"<div style='max-height: 24em; overflow: auto'>{text}</div>")


def _lines(own: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """The lines of :func:`behind` for one row, as HTML."""
    for ratio, cells in own.sort_values("seed").groupby("ratio"):
        row, kept, first = cells.row.iloc[0], tables.percent(ratio), cells.iloc[0]
        notes = [result["provenance"] for result in cells.result]
        made = dict.fromkeys(f"{note['date']}, {note.get('commit', 'not recorded')}" for note in notes)
        of_first = grid.command((row, ratio, first.seed), first.profile)
        yield (
            f"<span id='{_anchor(row, kept)}'>{escape(grid.LABELS[row])}</span>",
            kept,
            "<br>".join(f"{seed}: {fid:.4f}" for seed, fid in zip(cells.seed, cells.fid)),
            "<br>".join(made),
            f"<code style='white-space: normal'>{escape(of_first)}</code>",
        )


def _names(rows: Rows) -> list[str]:
    """The rows, each once."""
    return list(dict.fromkeys(grid.TABLES[rows] if isinstance(rows, str) else rows))


def _anchor(row: str, kept: str) -> str:
    """The HTML id of a line of :func:`behind`."""
    return f"run-{row}-{kept.removesuffix(' %')}"
