"""The order of the rows against the paper's."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from ...evaluation import holm
from .. import paper
from ..comparisons import ENOUGH, LEVEL, seeds_in_words
from ..tables import percent
from .words import p_in_words


def same_order(
    frame: pd.DataFrame,
    published: dict[str, Any],
    value: str = "fid",
    *,
    family: Mapping[str, dict[str, Any]] | None = None,
) -> pd.DataFrame:
    """The order of our rows against the paper's at each ratio, from means over the seeds that all rows have.

    Args:
        frame: results of ``results.read_cells``.
        published: a table of ``dedt_lib.book.paper``.
        value: the column of ``frame`` that is compared.
        family: column -> table of the paper, for all orders that a page prints; Holm's correction covers them
            together (default: this column alone).

    Returns:
        A line for each ratio.  Columns: ours and paper (rows from the lowest value to the highest), tau
        (Kendall's tau of the two orders), p (exact without ties; the means count as free of error), seeds,
        low and high (the range of tau when one seed is left out; NaN for one seed), p_holm (corrected for
        all orders of the family; NaN with fewer than ENOUGH seeds, or so few rows that no order of them has
        a p below LEVEL).
    """
    published_by = {**(family or {}), value: published}
    found = {
        (by, percent(ratio)): line
        for by, table in published_by.items()
        for ratio, line in _orders(frame, table, by)
    }
    index = pd.MultiIndex.from_frame(pd.DataFrame(list(found), columns=["value", "ratio"]))
    columns = ["ours", "paper", "tau", "p", "seeds", "low", "high"]
    order = pd.DataFrame(list(found.values()), index, columns=columns)
    testable = order.ours.map(lambda rows: 2 / math.factorial(len(rows)) < LEVEL).astype(bool)
    told = testable & (order.seeds >= ENOUGH)
    corrected = holm(order.p.where(told, 1.0).where(testable))  # as in ``comparisons.judged``
    order = order.assign(p_holm=pd.Series(corrected, index).where(told))
    return order[index.get_level_values("value") == value].droplevel("value").rename_axis(None)


def _orders(frame: pd.DataFrame, published: dict[str, Any], value: str) -> Iterator[tuple[float, list[Any]]]:
    """Each ratio with its line of :func:`same_order`, from ours to high."""
    for ratio, own in frame[frame.row.isin(published)].groupby("ratio"):
        theirs = {row: paper.by_ratio(published, row).get(ratio) for row in published}
        wide = own.pivot(index="seed", columns="row", values=value).astype(float).dropna(axis=1, how="all")
        wide = wide[[row for row in published if row in wide and theirs[row] is not None]].dropna()
        if wide.shape[1] < 2 or wide.empty:
            continue
        means, published_means = wide.mean(), pd.Series(theirs)[wide.columns].astype(float)
        tau, p = _kendall(means, published_means)
        fewer = [wide.drop(index=seed).mean() for seed in wide.index if len(wide) > 1]
        taus = [_kendall(one_less, published_means)[0] for one_less in fewer] or [math.nan]
        orders = ([*values.sort_values(kind="stable").index] for values in (means, published_means))
        yield float(ratio), [*orders, tau, p, len(wide), min(taus), max(taus)]


def _kendall(ours: pd.Series, theirs: pd.Series) -> tuple[float, float]:
    """Kendall's tau of two orders of the same rows, and its two-sided p."""
    from scipy.stats import kendalltau

    tau, p = kendalltau(ours, theirs)
    return float(tau), float(p)


def order_in_words(
    frame: pd.DataFrame,
    published: dict[str, Any],
    value: str = "fid",
    *,
    family: Mapping[str, dict[str, Any]] | None = None,
    added: bool = False,
) -> str:
    """Whether our rows have the paper's order, with Kendall's tau, its range and its p-value at each ratio.

    Args:
        frame: results of ``results.read_cells``.
        published: a table of ``dedt_lib.book.paper``.
        value: the column of ``frame`` that is compared.
        family: all orders that the page prints, as in :func:`same_order`.
        added: True if the orders were chosen after the results had been read; they then get no verdict.
    """
    order = same_order(frame, published, value, family=family)
    if order.empty:
        return "No results yet."
    head = "No verdict (chosen after the results)" if added else _order_verdict(order)
    taus = ", ".join(_tau_in_words(line) for line in order.itertuples())
    several = " The range in brackets is that of tau with one seed left out." * bool((order.seeds > 1).any())
    corrected = (
        " p is how often rows in a random order would agree or disagree as much, after Holm's correction for "
        "all orders of this page; it takes the means as exact, so it does not count the seeds' noise."
    ) * bool(order.p_holm.notna().any())
    return (
        f"**{head}.** Kendall's tau between the paper's order and the order of the means here (1: same "
        f"order) is {taus}.{several} The means are over the seeds that all rows have.{corrected}"
    )


def _order_verdict(order: pd.DataFrame) -> str:
    """The first words of :func:`order_in_words` on the lines of :func:`same_order`."""
    told = order[order.p_holm < LEVEL]
    alike, reversed_ = told.index[told.tau > 0], told.index[told.tau < 0]
    if order.p_holm.isna().all():
        return "Too few seeds or rows for a verdict"
    if len(told) == 0:
        return "Inconclusive"
    if len(alike) == len(order):
        return "Yes"
    heads = {"Yes at": alike, "No, the order is reversed at": reversed_}
    return "; ".join(f"{start} {', '.join(ratios)}" for start, ratios in heads.items() if len(ratios))


def _tau_in_words(line: Any) -> str:
    """A line of :func:`same_order` as text: -0.40 at 10 % (-0.60 to -0.20; 5 rows, 5 seeds, p = 0.97)."""
    spread = f"{line.low:+.2f} to {line.high:+.2f}; " if line.seeds > 1 else ""
    p = f", p {p_in_words(line.p_holm)}" if line.p_holm == line.p_holm else ""
    return f"{line.tau:+.2f} at {line.Index} ({spread}{len(line.ours)} rows, {seeds_in_words(line.seeds)}{p})"
