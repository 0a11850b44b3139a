"""Tables as the book prints them, made from the results of cells."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from ..evaluation import mean_interval
from . import paper
from .grid import LABELS, TABLES
from .results import UNITS


class Metric(NamedTuple):
    """A column of ``results.read_cells``: how the book prints it, with how many digits, and if higher is better."""

    label: str
    digits: int = 2
    higher: bool = False


METRICS = {
    "fid": Metric("FID"),
    "worst": Metric("FID of the worst class"),
    "cmmd": Metric("CMMD", 4),
    "cmmd_unbiased": Metric("CMMD, unbiased", 4),
    "kid": Metric("KID", 4),
    "fid_held_out": Metric("FID to held-out images"),
    "precision": Metric("precision", 3, higher=True),
    "recall": Metric("recall", 3, higher=True),
    "copies_percent": Metric("near-copies (%)", 1),
}
"""What the book compares."""


def metric(value: str) -> Metric:
    """The entry of METRICS, or that of a column of your own, by its name."""
    return METRICS.get(value, Metric(value))


def percent(ratio: float) -> str:
    """A ratio as the book prints it: 0.1 is "10 %"."""
    return f"{100 * ratio:g} %"


def named(table: pd.DataFrame, rows: Iterable[str]) -> pd.DataFrame:
    """A table by (row, ratio) as the book prints it: ``rows`` in their order and by label, ratios in %."""
    table = table.reindex(list(rows), level=0).rename_axis([None, None])
    return table.rename(index=LABELS, level=0).rename(index=percent, level=1)


def intervals(frame: pd.DataFrame, by: str | list[str], value: str = "fid") -> pd.DataFrame:
    """Means over the seeds with their 95 % intervals (``evaluation.mean_interval``).

    Args:
        frame: of ``results.read_cells``.
        by: the columns that name a group of seeds.
        value: the column that is averaged; cells without it are left out.

    Returns:
        A row for each group.  Columns: mean, low, high, seeds; low and high are NaN for one seed.
    """
    groups = frame.set_index(by)[value].astype(float).dropna().groupby(level=by)
    found = {group: (*map(float, mean_interval(values)), len(values)) for group, values in groups}
    index = groups.size().index
    return pd.DataFrame(list(found.values()), index, columns=["mean", "low", "high", "seeds"])


def layout(
    frame: pd.DataFrame,
    table: str = "table1",
    value: str = "fid",
    digits: int = 2,
    published: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """A table as the paper prints it: rows by name, columns by ratio, "mean ± half of its 95 % interval".

    Entries of fewer seeds than the others say of how many they are.

    Args:
        frame: of ``results.read_cells``.
        table: its name in TABLES.
        value: the column of ``frame`` that is shown.
        digits: how many are printed after the point.
        published: a table of ``dedt_lib.book.paper``, for columns of its own.

    Returns:
        Strings, with a dash where there is no number.
    """
    rows = [row for row in TABLES[table] if row in set(frame.row)]
    ours = intervals(frame[frame.row.isin(rows)], ["row", "ratio"], value)
    entries = _printed(ours, digits)
    ratios = sorted(ours.index.unique("ratio"))
    columns = {percent(ratio): [entries.get((row, ratio), "–") for row in rows] for ratio in ratios}
    if published:
        for ratio in ratios:
            theirs = [paper.by_ratio(published, row).get(ratio) for row in rows]
            columns[f"paper, {percent(ratio)}"] = [f"{number:.2f}" if number else "–" for number in theirs]
    return pd.DataFrame(columns, index=[LABELS[row] for row in rows])


def metrics(frame: pd.DataFrame, rows: Iterable[str], values: Iterable[str]) -> pd.DataFrame:
    """Several metrics beside each other, by row and ratio, as "mean ± half of its 95 % interval".

    Args:
        frame: of ``results.read_cells``.
        rows: those of the table, in their order.
        values: the columns of ``frame`` that are shown, mostly of METRICS.

    Returns:
        Strings, with a dash where there is no number.
    """
    own = frame[frame.row.isin(rows := list(rows))]
    columns = {
        metric(value).label: _printed(intervals(own, ["row", "ratio"], value), metric(value).digits)
        for value in values
    }
    index = pd.MultiIndex.from_frame(own[["row", "ratio"]].drop_duplicates().sort_values(["row", "ratio"]))
    return named(pd.DataFrame(columns, index).fillna("–"), rows)


def _printed(found: pd.DataFrame, digits: int) -> dict[Any, str]:
    """Entries of :func:`intervals` as the book prints them; those of fewer seeds than the others say so."""
    most = found.seeds.max()
    return {
        cell: f"{mean:.{digits}f}"
        + (f" ± {high - mean:.{digits}f}" if seeds > 1 else "")
        + (f" (n = {seeds})" if seeds < most else "")
        for cell, mean, _, high, seeds in found.itertuples()
    }


def speedups_by_seed(
    frame: pd.DataFrame, rows: Iterable[str], whole: bool = False, full: str = "full"
) -> pd.DataFrame:
    """Speed-up over the run on all the data with the same seed, as in the paper's Table III.

    Args:
        frame: of ``results.read_cells``.
        rows: those of the table, in their order.
        whole: count all that the trained model costs (MODEL), and not the final training alone.
        full: the row of that run; a seed without it is left out.

    Returns:
        A line for each cell, by (row, ratio).  Columns: images, network evaluations, CPU time, wall clock.
    """
    columns = [f"{'whole_' if whole else ''}{unit}" for unit in UNITS]
    base = frame[frame.row == full].set_index("seed")[columns]
    own = frame[frame.row.isin(rows) & frame.seed.isin(base.index)]
    times = base.loc[own.seed].to_numpy() / own[columns].to_numpy()
    return pd.DataFrame(times, pd.MultiIndex.from_frame(own[["row", "ratio"]]), UNITS.values())


def whole_speedups(frame: pd.DataFrame, rows: Iterable[str], full: str = "full") -> pd.DataFrame:
    """The work of one run on all the data over that of whole recipes, in network evaluations; below one they take more.

    Returns:
        Strings: a line for each row by its label, a column for each ratio.
    """
    means = speedups_by_seed(frame, rows := list(rows), True, full)["network evaluations"]
    wide = means.groupby(level=[0, 1]).mean().map("{:.2f}".format).unstack()
    wide = wide.reindex([row for row in rows if row in wide.index]).fillna("–")
    return wide.rename(index=LABELS, columns=percent).rename_axis(index=None, columns=None)


def speedups(
    frame: pd.DataFrame, rows: Iterable[str], whole: bool = False, full: str = "full"
) -> pd.DataFrame:
    """Means over the seeds of :func:`speedups_by_seed`, as the book prints them."""
    rows = list(rows)
    return named(speedups_by_seed(frame, rows, whole, full).groupby(level=[0, 1]).mean(), rows)
