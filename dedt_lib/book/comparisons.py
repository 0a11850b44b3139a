"""Paired comparisons over seeds, corrected for multiple testing, and how the book prints them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DedtError
from ..evaluation import detectable_difference, holm, paired_interval, paired_p
from .grid import LABELS, Named, all_cells
from .tables import metric, percent

LEVEL, ENOUGH = 0.05, 5
"""A verdict needs at least ENOUGH seeds and a p-value below LEVEL after Holm's correction."""

BETTER, WORSE, OPEN = "better", "worse", "inconclusive"
"""The possible verdicts of a comparison."""

COLUMNS = ["difference", "low", "high", "deviation", "seeds", "p"]

HEADS = {
    frozenset([BETTER]): "Yes",
    frozenset([WORSE]): "No",
    frozenset([OPEN]): "Inconclusive",
    frozenset([BETTER, OPEN]): "Yes at some ratios, inconclusive at others",
    frozenset([WORSE, OPEN]): "No at some ratios, inconclusive at others",
}
"""Set of the verdicts at all ratios -> first words of :meth:`Page.answer`."""


class Page:
    """All comparisons of a page.  They are named once, and Holm's correction covers all of them together.

    Runs are paired by seed.  A row that is trained on all the data is compared with the other row at each
    ratio of the other row.

    Args:
        frame: results of ``results.read_cells``.
        pairs: (row, other) or (row, other, value) of each comparison; those without results are left out.
        value: the column of ``frame`` that is compared where a pair names none.
        profile: its grid tells which comparisons still lack results; the correction counts these too.
        added: True if the comparisons were chosen after the results had been read; they then get no verdict.

    Attributes:
        pairs: all named pairs, as (row, other, value).
        table: DataFrame indexed by (row, other, value, ratio).  Columns: difference (mean over the seeds of
            ``row`` minus ``other``), low and high (95 % paired t interval, NaN for one seed), deviation
            (standard deviation of the differences), seeds, p (of the paired t test), p_holm (after the
            correction; NaN below ENOUGH seeds), verdict.
        named: number of comparisons once all cells have results.

    Raises:
        DedtError: a pair names a row that no table has.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        pairs: Iterable[Sequence[str]],
        value: str = "fid",
        *,
        profile: Named | None = None,
        added: bool = False,
    ) -> None:
        self.value, self.added = value, added
        self.pairs = list(dict.fromkeys(tuple((*pair, value)[:3]) for pair in pairs))
        if unknown := sorted({name for pair in self.pairs for name in pair[:2]} - set(LABELS)):
            raise DedtError(f"Unknown row(s) {', '.join(unknown)}. Choose from: {', '.join(LABELS)}.")
        found = {
            (*pair, ratio): paired(own[pair[0]], own[pair[1]])
            for pair in self.pairs
            for ratio, own in side_by_side(frame, *pair).groupby("ratio")
        }
        index = pd.DataFrame(list(found), columns=["row", "other", "value", "ratio"])
        table = pd.DataFrame(list(found.values()), pd.MultiIndex.from_frame(index), columns=COLUMNS)
        to_come = set(_planned(self.pairs, profile)) - set(found) if profile else ()
        self.named = len(found) + len(to_come)
        sign = np.where([metric(value).higher for value in index.value], 1, -1)
        self.table = judged(table, sign, len(to_come))
        if added:
            self.table = self.table.assign(verdict=OPEN)

    @property
    def rows(self) -> list[str]:
        """The rows of all pairs, each once."""
        return list(dict.fromkeys(name for pair in self.pairs for name in pair[:2]))

    def compare(self, row: str, other: str, value: str | None = None) -> pd.DataFrame:
        """The lines of ``table`` for one pair, indexed by ratio.

        Raises:
            DedtError: the pair was not named when the page was made.
        """
        pair = (row, other, value or self.value)
        if pair not in self.pairs:
            raise DedtError(
                f"This page does not compare {row} with {other} by {pair[2]}. Pass the pair when you create "
                "the Page, so that Holm's correction covers it."
            )
        own = np.array([key[:3] == pair for key in self.table.index], dtype=bool)
        return self.table[own].droplevel([0, 1, 2])

    def shown(self, *pairs: tuple[str, str], value: str | None = None) -> pd.DataFrame:
        """Comparisons as the book prints them: a line for each (row, other), a column for each ratio.

        Args:
            pairs: the comparisons to print (default: all of the page).
            value: the column that is compared (default: that of the page).

        Returns:
            Strings "difference (95 % interval)" with the verdict if it is not open; empty without results.
        """
        value = value or self.value
        digits, most = metric(value).digits, self.table.seeds.max()
        chosen = pairs or [(row, other) for row, other, by in self.pairs if by == value]
        found = {pair: self.compare(*pair, value) for pair in chosen}
        entries = {
            (LABELS[row], f"minus {LABELS[other]}"): {
                line.Index: entry(line, digits, most) for line in own.itertuples()
            }
            for (row, other), own in found.items()
            if len(own)
        }
        if not entries:
            return pd.DataFrame(columns=["no results yet"])
        table = pd.DataFrame.from_dict(entries, orient="index").sort_index(axis=1).fillna("–")
        table.index = pd.MultiIndex.from_tuples(list(entries))
        return table.rename(columns=percent)

    def answer(self, row: str, other: str, value: str | None = None) -> str:
        """Whether ``row`` is better than ``other`` (yes, no, inconclusive), and by how much at each ratio."""
        table = self.compare(row, other, value)
        if table.empty:
            return "No results yet."
        told, most, kind = table[table.seeds >= ENOUGH], table.seeds.max(), metric(value or self.value)
        head = HEADS.get(frozenset(told.verdict), "Better at some ratios, worse at others")
        if self.added:
            head = "No verdict (chosen after the results)"
        elif 0 < len(told) < len(table):
            head = f"At {', '.join(map(percent, told.index))}: {head[0].lower()}{head[1:]}"
        head = head if len(told) else "Too few seeds for a verdict"
        entries = "; ".join(
            f"{percent(line.Index)}: {entry(line, kind.digits, most)}" for line in table.itertuples()
        )
        pair = f"{kind.label}, *{LABELS[row]}* minus *{LABELS[other]}*"
        return f"**{head}.** {pair} ({seeds_in_words(most)}), at {entries}."

    def summary(self) -> str:
        """How to read the comparisons, how many there are, and which difference the seeds can detect."""
        tested = self.table[self.table.seeds > 1]
        if self.table.empty:
            return "No results yet."
        higher = ", except for precision and recall (above zero)" * any(
            metric(pair[2]).higher for pair in self.pairs
        )
        said = f"Differences are means over the seeds; below zero is better{higher}. "
        if tested.empty:
            return f"{said}There is one seed, so there are no intervals and no verdicts."
        said += "The 95 % interval of the paired t test is in brackets. "
        most, m, there = tested.seeds.max(), self.named, int((tested.seeds >= ENOUGH).sum())
        if self.added:
            return (
                f"{said}These comparisons were added after the results had been read, so they get no verdict."
            )
        if most < ENOUGH:
            return f"{said}A verdict needs {ENOUGH} seeds and there are {most}, so this page gives none."

        def found(value: str) -> str:
            least, usual, largest = (
                f"{number:.{metric(value).digits}f}" for number in self.detectable(value)
            )
            spread = f" (from {least} where the seeds vary least to {largest} where they vary most)"
            return f"{usual} in {metric(value).label}{spread * (least != largest)}"

        so_far = f", of which {there} {'has' if there == 1 else 'have'} {ENOUGH} seeds so far" * (there < m)
        return (
            f"{said}*Better* and *worse* are given only where p is below {LEVEL} after Holm's correction for "
            f"the {m} comparison{'s' * (m != 1)} named here{so_far}. A comparison with neither word is "
            "inconclusive, which does not mean that the two are equal: at the strictest level of the "
            f"correction, {most} seeds detect with a power of 80 % a true difference of "
            f"{' or '.join(map(found, tested[tested.seeds == most].index.unique('value')))}."
        )

    def detectable(self, value: str | None = None) -> tuple[float, float, float]:
        """The true difference that the seeds detect with a power of 80 % at the strictest corrected level.

        Returns:
            Least, median and largest over the comparisons by ``value`` with the most seeds, because the
            differences vary over the seeds more in some than in others.
        """
        tested = self.table[self.table.seeds == self.table.seeds.max()].xs(value or self.value, level="value")
        least, usual, largest = (
            detectable_difference(deviation, self.table.seeds.max(), level=LEVEL / self.named)
            for deviation in tested.deviation.quantile([0, 0.5, 1])
        )
        return least, usual, largest


def side_by_side(frame: pd.DataFrame, row: str, other: str, value: str) -> pd.DataFrame:
    """Values of two rows by (ratio, seed); a row on all the data is repeated at each ratio of the other."""
    wide = frame[frame.row.isin([row, other])].pivot(index=["ratio", "seed"], columns="row", values=value)
    wide = wide.reindex(columns=[row, other]).astype(float)
    for name, values in wide.items():
        if set(values.dropna().index.get_level_values("ratio")) == {1.0}:
            wide[name] = values.groupby("seed").transform("first")
    return wide.dropna()


def _planned(pairs: Iterable[tuple[str, ...]], profile: Named) -> Iterator[tuple[str, str, str, float]]:
    """The comparisons (row, other, value, ratio) whose two rows are both in the grid of a profile."""
    ratios: dict[str, set[float]] = {}
    for row, ratio, _ in all_cells(profile):
        ratios.setdefault(row, set()).add(ratio)
    for row, other, value in pairs:
        ours, theirs = (ratios.get(name, set()) for name in (row, other))
        both = ours if theirs == {1.0} else theirs if ours == {1.0} else ours & theirs
        yield from ((row, other, value, ratio) for ratio in sorted(both))


def paired(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """The numbers of one comparison, in the order of COLUMNS, from two rows' values with the same seeds."""
    ours, theirs = np.array([*ours]), np.array([*theirs])
    differences, nan = ours - theirs, float("nan")
    several = len(ours) > 1
    interval = paired_interval(ours, theirs) if several else (float(differences[0]), nan, nan)
    deviation = float(differences.std(ddof=1)) if several else nan
    return [*interval, deviation, len(ours), float(paired_p(differences))]


def judged(table: pd.DataFrame, sign: np.ndarray | int, to_come: int = 0) -> pd.DataFrame:
    """The table with p_holm and verdict added; ``sign`` is -1 where lower is better, 1 where higher is.

    Comparisons with too few seeds, and those still ``to_come``, enter Holm's correction with p = 1, so a
    verdict once given stays when their results arrive.
    """
    told = table.seeds >= ENOUGH
    family = np.array([*table.p.where(told, 1.0), *[1.0] * to_come])
    p_holm = np.where(told, holm(family)[: len(table)], np.nan)
    verdict = np.where(sign * table.difference > 0, BETTER, WORSE)
    return table.assign(p_holm=p_holm, verdict=np.where(p_holm < LEVEL, verdict, OPEN))


def entry(line: Any, digits: int = 2, usual: float | None = None) -> str:
    """A comparison as text: +0.42 (0.31 to 0.53, 5 seeds), worse; for ``usual`` see :func:`between`."""
    verdict = "" if line.verdict == OPEN else f", {line.verdict}"
    mean = signed(line.difference, digits, "+")
    return between(mean, (line.low, line.high), line.seeds, digits, usual) + verdict


def signed(value: float, digits: int, plus: str = "") -> str:
    """A number as text, with up to two more digits where its sign would be lost: 0.42, -0.003."""
    texts = [f"{value:{plus}z.{digits + more}f}" for more in range(3)]
    return next(filter(float, texts), texts[0])


def between(
    mean: str, ends: Iterable[float], seeds: float, digits: int = 2, usual: float | None = None
) -> str:
    """A mean as text: 0.42 (0.31 to 0.53, 5 seeds), without the number of seeds where it is ``usual``."""
    interval = " to ".join(signed(end, digits) for end in ends) if seeds > 1 else ""
    number = seeds_in_words(seeds) if seeds != usual else ""
    inside = ", ".join(filter(None, [interval, number]))
    return f"{mean} ({inside})" if inside else mean


def seeds_in_words(number: float) -> str:
    """A number of seeds as text, such as 5 seeds or 1 seed."""
    return f"{number:.0f} seed{'' if number == 1 else 's'}"
