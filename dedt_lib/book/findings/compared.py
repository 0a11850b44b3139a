"""What follows from comparisons of rows, by one metric or several."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation import rank_correlation
from ..comparisons import BETTER, ENOUGH, OPEN, WORSE, Page, entry
from ..grid import LABELS
from ..tables import metric, percent
from .words import listed


def concluded(page: Page, row: str, other: str, said: Mapping[str, str], value: str | None = None) -> str:
    """What follows from a comparison: the ratios with each outcome, and what that outcome means.

    Args:
        page: comparisons with this one among them.  If they were added after the results, which gives no
            verdicts, the outcomes are those of the intervals, and the sentence says so.
        row: the row that is compared.
        other: the row that it is compared with.
        said: BETTER, WORSE and OPEN -> what it means, as a clause that can follow "at 10 %,".
        value: the column that is compared (default: that of the page).
    """
    table = page.compare(row, other, value)
    table = table[table.seeds >= ENOUGH]
    if table.empty:
        return f"A conclusion needs {ENOUGH} seeds."
    outcomes = table.verdict
    if page.added:
        lower = np.where((table.difference < 0) != metric(value or page.value).higher, BETTER, WORSE)
        outcomes = pd.Series(lower, table.index).where((table.low > 0) | (table.high < 0), OPEN)
    ratios = {
        outcome: ", ".join(map(percent, outcomes.index[outcomes == outcome]))
        for outcome in (BETTER, WORSE, OPEN)
    }
    clauses = "; ".join(f"at {at}, {said[outcome]}" for outcome, at in ratios.items() if at)
    alone = " (by the 95 % intervals alone; chosen after the results, so without a verdict)" * page.added
    return f"{clauses[0].upper()}{clauses[1:]}{alone}."


def traded_in_words(page: Page, others: Page, value: str = "recall") -> str:
    """Which rows have a clearly lower FID than another row, and with it a clearly lower ``value``.

    Clear is a 95 % interval, without correction, that excludes zero.

    Args:
        page: comparisons by FID.
        others: comparisons by ``value``; those of them that ``page`` has as well are told.
        value: a column that is better the higher it is.
    """
    if page.table.empty or others.table.empty:
        return "No results yet."
    sides = [page.table.xs("fid", level="value"), others.table.xs(value, level="value")]
    gained, kept = (side.loc[[key for key in sides[0].index if key in sides[1].index]] for side in sides)
    gained, lost = gained[gained.high < 0], kept[kept.high < 0]
    paid = [key for key in gained.index if key in lost.index]

    def named(keys: Iterable[Any]) -> str:
        return listed(f"*{LABELS[row]}* at {percent(ratio)}" for row, _, ratio in keys)

    return (
        f"Rows whose interval of FID lies below zero: {named(gained.index)}. Of these, the interval of "
        f"{metric(value).label} lies below zero, too, for: {named(paid)}."
    )


def metrics_in_words(page: Page, others: Page) -> str:
    """Which intervals exclude zero by the metric of ``page`` and not by one of ``others``, or the reverse.

    Args:
        page: comparisons by one metric.
        others: the same comparisons by other metrics.
    """

    def clear(table: pd.DataFrame, value: str) -> pd.Series:
        own = table.xs(value, level="value")
        return (own.low > 0) | (own.high < 0)

    if page.table.empty or others.table.empty:
        return "No results yet."
    said = []
    for value in others.table.index.unique("value"):
        sides = {page.value: clear(page.table, page.value), value: clear(others.table, value)}
        both = pd.DataFrame(sides).dropna().astype(bool)  # a comparison may have results by one metric only
        for by, not_by in ((page.value, value), (value, page.value)):
            alone = [
                f"*{LABELS[row]}* minus *{LABELS[other]}* at {percent(ratio)}"
                for row, other, ratio in both.index[both[by] & ~both[not_by]]
            ]
            said.append(f"by {metric(by).label} and not by {metric(not_by).label}: {listed(alone)}")
    return f"Intervals that exclude zero {'; '.join(said)}."


def networks_in_words(frame: pd.DataFrame, row: str, other: str) -> str:
    """Whether FID orders the cells of ``frame`` at its smallest ratio alike in the features of each network.

    Args:
        frame: results of rows that differ little; with unlike rows any network gives the same order.
        row: the row whose FID, minus that of ``other``, is given for each network.
        other: the row that ``row`` is compared with.
    """
    own = frame[frame.ratio == frame.ratio.min()]
    own = own[[len(result.get("fids", ())) > 1 for result in own.result]]
    if len(own) < 3:
        return "FID was measured with only one network."
    values = np.array([result["fids"] for result in own.result]).T
    alike = [rank_correlation(a, b)[0] for a, b in itertools.combinations(values, 2)]
    pages = of_networks(own, row, other)
    told = "; ".join(entry(page.assign(verdict=OPEN).iloc[0]) for page in pages if len(page))
    return (
        f"The FIDs of {len(own)} cells of {own.row.nunique()} rows at {percent(own.ratio.min())} were "
        f"measured in the features of {len(values)} networks that differ only in their seed. The rank "
        f"correlations between the FIDs of two networks range from {min(alike):.2f} to {max(alike):.2f}."
        + f" *{LABELS[row]}* minus *{LABELS[other]}* is, with each network: {told}."
        * bool(told)
    )


def of_networks(frame: pd.DataFrame, row: str, other: str) -> list[pd.DataFrame]:
    """``Page.compare`` of two rows by FID in the features of each network (``fids`` of the results)."""
    by_network = zip(*(result.get("fids") or [fid] for result, fid in zip(frame.result, frame.fid)))
    return [Page(frame.assign(fid=fids), [(row, other)]).compare(row, other) for fids in by_network]
