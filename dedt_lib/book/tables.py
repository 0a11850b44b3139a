"""Tables of results as the book prints them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from ..evaluation import mean_interval
from . import paper
from .grid import LABELS, TABLES
from .results import UNITS


class Metric(NamedTuple):
    """How the book prints a column of ``results.read_cells``: label, decimals, whether higher is better."""

    label: str
    digits: int = 2
    higher: bool = False


METRICS = {
    "fid": Metric("FID"),
    "worst": Metric("FID of the worst class"),
    "cmmd": Metric("CMMD", 4),
    "cmmd_unbiased": Metric("CMMD, unbiased", 4),
    "kid": Metric("KID", 3),
    "fid_held_out": Metric("FID to held-out images"),
    "precision": Metric("precision", 3, higher=True),
    "recall": Metric("recall", 3, higher=True),
    "copies_percent": Metric("near-copies (%)", 1),
    "seen": Metric("images seen (%)", 0),
}
"""Column of ``results.read_cells`` -> how the book prints it."""


def metric(value: str) -> Metric:
    """The entry of METRICS for a column; an unknown column is printed under its own name."""
    return METRICS.get(value, Metric(value))


def percent(ratio: float) -> str:
    """A ratio as the book prints it: 0.1 is "10 %"."""
    return f"{100 * ratio:g} %"


def named(table: pd.DataFrame, rows: Iterable[str]) -> pd.DataFrame:
    """A table by (row, ratio) as the book prints it: ``rows`` in their order and as labels, ratios in %."""
    table = table.reindex(list(rows), level=0).rename_axis([None, None])
    return table.rename(index=LABELS, level=0).rename(index=percent, level=1)


def intervals(frame: pd.DataFrame, by: str | list[str], value: str = "fid") -> pd.DataFrame:
    """Means over the seeds with their 95 % intervals (``evaluation.mean_interval``).

    Args:
        frame: results of ``results.read_cells``.
        by: the column or columns to group by; the runs of a group differ in their seed.
        value: the column that is averaged; cells without a value are left out.

    Returns:
        A line for each group.  Columns: mean, low, high, seeds; low and high are NaN for one seed.
    """
    groups = frame.set_index(by)[value].astype(float).dropna().groupby(level=by)
    found = {group: (*map(float, mean_interval(values)), len(values)) for group, values in groups}
    index = groups.size().index
    return pd.DataFrame(list(found.values()), index, columns=["mean", "low", "high", "seeds"])


def layout(
    frame: pd.DataFrame,
    table: str = "table1",
    value: str = "fid",
    published: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """A table in the paper's layout: a line for each row, a column for each ratio.

    Args:
        frame: results of ``results.read_cells``.
        table: name of the table in TABLES.
        value: the column of ``frame`` that is shown.
        published: a table of ``dedt_lib.book.paper``, shown in further columns.

    Returns:
        Strings "mean ± half of its 95 % interval", with "(n = seeds)" where an entry has fewer seeds than
        others, and a dash where there is no number.
    """
    rows = [row for row in TABLES[table] if row in set(frame.row)]
    ours = intervals(frame[frame.row.isin(rows)], ["row", "ratio"], value)
    entries = _printed(ours, metric(value).digits)
    ratios = sorted(ours.index.unique("ratio"))
    columns = {percent(ratio): [entries.get((row, ratio), "–") for row in rows] for ratio in ratios}
    if published:
        for ratio in ratios:
            theirs = [paper.by_ratio(published, row).get(ratio) for row in rows]
            columns[f"paper, {percent(ratio)}"] = [f"{number:.2f}" if number else "–" for number in theirs]
    return pd.DataFrame(columns, index=[LABELS[row] for row in rows])


def metrics(frame: pd.DataFrame, rows: Iterable[str], values: Iterable[str]) -> pd.DataFrame:
    """Several metrics side by side: a line for each row and ratio, a column for each metric.

    Args:
        frame: results of ``results.read_cells``.
        rows: the rows of the table, in their order.
        values: the columns of ``frame`` that are shown, usually keys of METRICS.

    Returns:
        Strings as in :func:`layout`.
    """
    own = frame[frame.row.isin(rows := list(rows))]
    columns = {
        metric(value).label: _printed(intervals(own, ["row", "ratio"], value), metric(value).digits)
        for value in values
    }
    index = pd.MultiIndex.from_frame(own[["row", "ratio"]].drop_duplicates().sort_values(["row", "ratio"]))
    return named(pd.DataFrame(columns, index).fillna("–"), rows)


def _printed(found: pd.DataFrame, digits: int) -> dict[Any, str]:
    """The lines of :func:`intervals` as strings, with the number of seeds where others have more."""
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
        frame: results of ``results.read_cells``.
        rows: the rows of the table.
        whole: count all stages that lead to the trained model (MODEL) instead of the final training alone.
        full: the row of the run on all the data; seeds without it are left out.

    Returns:
        A line for each cell, indexed by (row, ratio).  Columns: images, network evaluations, CPU time, wall
        clock.
    """
    columns = [f"{'whole_' if whole else ''}{unit}" for unit in UNITS]
    base = frame[frame.row == full].set_index("seed")[columns]
    own = frame[frame.row.isin(rows) & frame.seed.isin(base.index)]
    times = base.loc[own.seed].to_numpy() / own[columns].to_numpy()
    return pd.DataFrame(times, pd.MultiIndex.from_frame(own[["row", "ratio"]]), UNITS.values())


def whole_speedups(frame: pd.DataFrame, rows: Iterable[str], full: str = "full") -> pd.DataFrame:
    """Speed-up of whole recipes (:func:`speedups_by_seed` with ``whole``), counted in network evaluations.

    Below one, a recipe takes more work than one run on all the data.

    Returns:
        Strings: a line for each row by its label, a column for each ratio.
    """
    means = speedups_by_seed(frame, rows := list(rows), True, full)["network evaluations"]
    wide = means.groupby(level=[0, 1]).mean().map("{:.2f}".format).unstack()
    wide = wide.reindex([row for row in rows if row in wide.index]).fillna("–")
    return wide.rename(index=LABELS, columns=percent).rename_axis(index=None, columns=None)


def costs(frame: pd.DataFrame, rows: Iterable[str], full: str = "full") -> pd.DataFrame:
    """Cost in per cent of that of the run on all the data with the same seed: means over the seeds.

    Args:
        frame: results of ``results.read_cells``.
        rows: the rows of the table, in their order.
        full: the row of the run on all the data; seeds without it are left out.

    Returns:
        A line for each (row, ratio), as :func:`named` prints it.  Columns: network evaluations of the final
        training, and network evaluations and CPU time of the whole recipe (see :func:`speedups_by_seed`).
    """
    rows = list(rows)
    training, whole = (speedups_by_seed(frame, rows, part, full) for part in (False, True))
    shares = {
        "evaluations, final training": 100 / training["network evaluations"],
        "evaluations, whole recipe": 100 / whole["network evaluations"],
        "CPU time, whole recipe": 100 / whole["CPU time"],
    }
    return named(pd.DataFrame(shares).groupby(level=[0, 1]).mean(), rows)


def speedups(
    frame: pd.DataFrame, rows: Iterable[str], whole: bool = False, full: str = "full"
) -> pd.DataFrame:
    """Means over the seeds of :func:`speedups_by_seed`, as the book prints them."""
    rows = list(rows)
    return named(speedups_by_seed(frame, rows, whole, full).groupby(level=[0, 1]).mean(), rows)
