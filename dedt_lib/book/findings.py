"""Findings: what the results say, as tables and sentences.

``frame`` is the DataFrame of ``results.read_cells`` or a part of it, unless said otherwise.  Missing rows
give empty tables and sentences such as "No results yet.", never an error, so that a page shows what there is.
"""

import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..config.profile import Profile, load_profile
from ..evaluation import concordance, holm, mean_interval, rank_correlation
from . import paper
from .comparisons import (
    BETTER,
    COLUMNS,
    ENOUGH,
    LEVEL,
    OPEN,
    WORSE,
    Page,
    between,
    entry,
    judged,
    paired,
    seeds_in_words,
)
from .grid import LABELS, cells
from .tables import intervals, metric, percent


class Classes(NamedTuple):
    """Class-wise results without and with class weights, for S seeds and K classes.

    Attributes:
        names: class names, [K].
        before: class-wise FID without weights, float [S, K]; NaN where a class has too few images.
        after: class-wise FID with weights, float [S, K].
        weights: class weights, float [S, K].
        seeds: the seeds, int [S].
    """

    names: np.ndarray
    before: np.ndarray
    after: np.ndarray
    weights: np.ndarray
    seeds: np.ndarray


# ---- the order of the rows -------------------------------------------------------------------------


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


# ---- class by class --------------------------------------------------------------------------------


def by_class(frame: pd.DataFrame, ratio: float, value: str = "classwise") -> Classes | None:
    """Class-wise results of Moderate-DS at a ratio, from the seeds that have it with and without weights.

    With ``value`` "kid_classwise", ``before`` and ``after`` are KID instead of FID.  None if no seed has both
    runs, or if no class has a value.
    """
    row, weighted = rows = "moderate", "moderate-reweighted"
    chosen = frame[(frame.ratio == ratio) & frame.row.isin(rows)]
    wide = chosen.pivot(index="seed", columns="row", values="result").reindex(columns=rows).dropna()
    if len(wide) == 0 or not any(number is not None for number in wide[row].iloc[0].get(value) or ()):
        return None
    return Classes(
        np.array(wide[row].iloc[0]["class_names"]),
        np.array([result[value] for result in wide[row]], dtype=float),
        np.array([result[value] for result in wide[weighted]], dtype=float),
        np.array([result["class_weights"] for result in wide[weighted]]),
        wide.index.to_numpy(),
    )


def heavy_and_easy(classes: Classes) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The heavy and the easy classes, and the rank correlation between class weight and class-wise FID.

    A class is heavy if its weight is above 1/K, and easy if its FID before reweighting is below the median.
    Weights and FIDs are means over the seeds.

    Returns:
        Heavy classes, bool [K]; easy classes, bool [K]; the rank correlation; its p-value.
    """
    heaviness, difficulty = classes.weights.mean(axis=0), classes.before.mean(axis=0)
    heavy, easy = heaviness > 1 / len(classes.names), difficulty < np.nanmedian(difficulty)
    return heavy, easy, *rank_correlation(heaviness, difficulty)


def class_gains(classes: Classes | None) -> pd.DataFrame:
    """Class-wise FID (or KID) with weights minus without: a line for each class, columns of ``Page.table``.

    Holm's correction covers the classes.  A class that lacks a value is left out.
    """
    sides = zip(classes.names, classes.before.T, classes.after.T) if classes else ()
    found = {
        name: paired(after, before) for name, before, after in sides if np.isfinite([before, after]).all()
    }
    return judged(pd.DataFrame.from_dict(found, orient="index", columns=COLUMNS), -1)


def gains_in_words(classes: Classes | None) -> str:
    """Which classes reweighting improves, which it harms, and which gain most and least."""
    gains = class_gains(classes)
    if classes is None or gains.empty:
        return "No results yet."
    if len(classes.seeds) < ENOUGH:
        head = f"**Too few seeds for a verdict** ({seeds_in_words(len(classes.seeds))})"
    else:
        better, worse = (gains.index[gains.verdict == verdict] for verdict in (BETTER, WORSE))
        head = (
            f"**Of {len(gains)} classes, reweighting improves {_counted(better)}** and harms "
            f"{_counted(worse)} after Holm's correction; "
            f"{'the others' if len(better) + len(worse) else 'all'} are inconclusive"
        )
    most, least = gains.difference.idxmin(), gains.difference.idxmax()
    return (
        f"{head}. The difference in class-wise FID, with minus without weights, is on average below zero for "
        f"{(gains.difference < 0).sum()} of the classes. It is lowest for class {most}, "
        f"{entry(gains.loc[most])}; it is highest for class {least}, {entry(gains.loc[least])}."
    )


def heaviness_in_words(classes: Classes | None) -> str:
    """Whether the classes with large weights are the easy ones, as the paper claims with its Figure 2."""
    if classes is None:
        return "No results yet."
    heavy, easy, rank, p = heavy_and_easy(classes)
    head = (
        "Inconclusive" if p >= LEVEL else "Yes" if rank < 0 else "No, the heavier classes are the hard ones"
    )
    head = head if len(classes.seeds) >= ENOUGH else "Too few seeds for a verdict"
    return (
        f"**{head}.** The rank correlation between class weight and class-wise FID before reweighting is "
        f"{rank:.2f} over {len(heavy)} classes (p {p_in_words(p)}, {seeds_in_words(len(classes.seeds))}); "
        f"the paper's claim implies a negative one. Classes with a weight above 1/K: "
        f"{_listed(classes.names[heavy])}; of these, with an FID below the median: "
        f"{_listed(classes.names[heavy & easy])}."
    )


def agreement(frame: pd.DataFrame) -> dict[float, tuple[float, float, int]]:
    """Agreement of the seeds on the order of the class weights: ratio -> (Kendall's W, p, number of seeds).

    p is that of Friedman's test, after Holm's correction for the ratios.  Ratios with one seed are left out.
    """
    found = {
        ratio: np.array([result["class_weights"] for result in own.result])
        for ratio, own in frame[frame.row == "moderate-reweighted"].groupby("ratio")
        if len(own) > 1
    }
    tests = {ratio: concordance(weights) for ratio, weights in found.items()}
    corrected = holm(np.array([p for _, p in tests.values()]))
    return {ratio: (tests[ratio][0], p, len(found[ratio])) for ratio, p in zip(tests, corrected)}


def steady_in_words(frame: pd.DataFrame) -> str:
    """Whether group DRO learns similar class weights with each seed, by :func:`agreement`."""
    tests = agreement(frame)
    if not tests:
        return "At least two seeds are needed to compare weights."
    said = "; ".join(
        f"W = {W:.2f} at {percent(ratio)} (p {p_in_words(p)}, {seeds_in_words(seeds)}; "
        f"{1 / seeds:.2f} by chance)"
        for ratio, (W, p, seeds) in tests.items()
    )
    return (
        f"Agreement of the seeds on the order of the classes, by Kendall's W (1: same order): {said}. "
        "p is from Friedman's test, after Holm's correction for the ratios."
    )


def information_in_words(frame: pd.DataFrame, page: Page, ratio: float) -> str:
    """Whether the class weights at a ratio carry information: the seeds' agreement, and the shuffled null."""
    null = "moderate-reweighted-shuffled"
    table = page.compare("moderate-reweighted", null)
    if ratio not in table.index or table.seeds[ratio] < ENOUGH:
        return f"Testing whether the weights carry information needs {ENOUGH} seeds."
    line, (W, p, _) = table.loc[ratio], agreement(frame)[ratio]
    alike = (
        f"The seeds agree on the order of the classes more than by chance (W = {W:.2f})"
        if p < LEVEL
        else f"No agreement of the seeds on the order of the classes was found (W = {W:.2f})"
    )
    verdict = {BETTER: "is better than", WORSE: "is worse than", OPEN: "cannot be distinguished from"}[
        line.verdict
    ]
    told = (
        f"and a model trained with the learned weights {verdict} one with the same weights, shuffled over "
        "the classes"
    )
    own = frame[(frame.ratio == ratio) & frame.row.isin(["moderate-reweighted", null])]
    most = _bounds_in_words([lines.loc[ratio] for lines in _of_networks(own, "moderate-reweighted", null)])
    return f"{alike}, {told} (at {percent(ratio)}, {seeds_in_words(line.seeds)}). {most}"


def _bounds_in_words(lines: list[pd.Series]) -> str:
    """The largest gain inside the interval of a comparison, in the features of each FID network."""
    first, *others = (f"{max(0.0, -line.low):.2f}" for line in lines)
    outside = f"a gain of more than {first} in FID lies outside the 95 % interval"
    if not others:
        return f"{outside[0].upper()}{outside[1:]}."
    return (
        f"In the features of the first of {len(lines)} FID networks, which the tables use, {outside}; in "
        f"those of the other{'s' * (len(others) > 1)}, a gain of more than {' and '.join(others)}."
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
            said.append(f"by {metric(by).label} and not by {metric(not_by).label}: {_listed(alone)}")
    return f"Intervals that exclude zero {'; '.join(said)}."


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
        return _listed(f"*{LABELS[row]}* at {percent(ratio)}" for row, _, ratio in keys)

    return (
        f"Rows whose interval of FID lies below zero: {named(gained.index)}. Of these, the interval of "
        f"{metric(value).label} lies below zero, too, for: {named(paid)}."
    )


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
    pages = _of_networks(own, row, other)
    told = "; ".join(entry(page.assign(verdict=OPEN).iloc[0]) for page in pages if len(page))
    return (
        f"The FIDs of {len(own)} cells of {own.row.nunique()} rows at {percent(own.ratio.min())} were "
        f"measured in the features of {len(values)} networks that differ only in their seed. The rank "
        f"correlations between the FIDs of two networks range from {min(alike):.2f} to {max(alike):.2f}."
        + f" *{LABELS[row]}* minus *{LABELS[other]}* is, with each network: {told}."
        * bool(told)
    )


def _of_networks(frame: pd.DataFrame, row: str, other: str) -> list[pd.DataFrame]:
    """``Page.compare`` of two rows by FID in the features of each network (``fids`` of the results)."""
    by_network = zip(*(result.get("fids") or [fid] for result, fid in zip(frame.result, frame.fid)))
    return [Page(frame.assign(fid=fids), [(row, other)]).compare(row, other) for fids in by_network]


def proxies(frame: pd.DataFrame) -> pd.DataFrame:
    """Statistics of group DRO in each reweighted cell.

    Returns:
        A DataFrame indexed by (row, ratio, seed).  Columns: effective classes, lightest and heaviest (class
        weights times K, 1 is uniform), clipped (% of samples) and mean excess, both after the burn-in.
    """
    found = {}
    for result in frame.result:
        if "dro" in result:
            K, weights, dro = len(result["class_names"]), result["class_weights"], result["dro"]
            numbers = [dro["effective_classes"], K * min(weights), K * max(weights)]
            numbers += [100 * dro["clipped"], dro["mean_excess"]]
            found[result["row"], result["recipe"]["ratio"], result["recipe"]["seed"]] = numbers
    columns = ["effective classes", "lightest", "heaviest", "clipped (%)", "mean excess"]
    index = pd.MultiIndex.from_frame(pd.DataFrame(list(found), columns=["row", "ratio", "seed"]))
    return pd.DataFrame(list(found.values()), index=index, columns=columns).sort_index()


def clipped_in_words(percentages: Iterable[float], surpassed: pd.DataFrame) -> str:
    """Whether most margins of Stable Diffusion are clipped, and whether the paper's reason for it holds here.

    The paper expects a majority because its coreset "has surpassed" all the data.

    Args:
        percentages: the clipped share of each seed (%).
        surpassed: FID of the coreset without weights minus all the data: the line of ``Page.compare`` at the
            ratio of the margins, or no line.
    """
    shares = np.array(list(percentages))
    if len(shares) == 0:
        return "No results yet."
    mean, low, high = map(float, mean_interval(shares))
    clipped = between(f"{mean:.0f} %", (low, high), len(shares), digits=0)
    said = f"Of Stable Diffusion's margins, {clipped} are clipped."
    if len(shares) < ENOUGH:
        return f"{said} A verdict needs {ENOUGH} seeds."
    reason = 'The paper expects a majority because its coreset "has surpassed" all the data.'
    if surpassed.empty or surpassed.seeds.iloc[0] < ENOUGH:
        return f"{said} {reason} Too few seeds tell whether it has here."
    difference = f"FID, the coreset minus all the data: {entry(surpassed.assign(verdict=OPEN).iloc[0])}"
    if surpassed.high.iloc[0] >= 0:
        return f"{said} {reason} Here that was not found ({difference}), so the reason is not tested."
    share = "above" if low > 50 else "below" if high < 50 else "not told from"
    return f"{said} {reason} It has here, too ({difference}), and the share is {share} one half."


def claims_in_words(classes: Classes | None) -> str:
    """Whether the results show the two claims that the paper reads from its Figure 2."""
    gains = class_gains(classes)
    if classes is None or gains.empty or len(classes.seeds) < ENOUGH:
        return f"A conclusion needs {ENOUGH} seeds."
    better = int((gains.verdict == BETTER).sum())
    *_, rank, p = heavy_and_easy(classes)
    first = "is shown" if better == len(gains) else "is not shown"
    second = "is shown" if p < LEVEL and rank < 0 else "is not shown"
    return (
        f"The claim that all classes gain {first} here: after correction, {better} of {len(gains)} do. The "
        f"claim that the heavier classes are the easy ones {second} here: the rank correlation is {rank:.2f} "
        f"(p {p_in_words(p)})."
    )


# ---- costs and copies ------------------------------------------------------------------------------


def copies_in_words(frame: pd.DataFrame) -> str:
    """The largest mean share of near-copies among the samples of a row and ratio, and that of row "full"."""
    shares = intervals(frame, ["row", "ratio"], "copies")
    if len(shares) == 0:
        return "Near-copies were not counted because there are no held-out images to compare with."

    def share(line: pd.Series) -> str:
        mean, *ends = 100 * line[["mean", "low", "high"]].clip(0, 1)
        return between(f"{mean:.1f} %", ends, line.seeds, digits=1)

    row, ratio = shares["mean"].idxmax()
    everyone = share(shares.loc["full", 1.0]) if ("full", 1.0) in shares.index else "no results yet"
    return (
        f"The largest of {len(shares)} mean shares of near-copies among the samples is "
        f"{share(shares.loc[row, ratio])}, for {LABELS[row]} at {percent(ratio)}. With all the data: "
        f"{everyone}. Held-out real images have a share of 1 %, compared with all the training images."
    )


def faster_in_words(speedups: pd.Series) -> str:
    """Which recipes are faster than one run on all the data, and which are slower.

    Args:
        speedups: a column of ``tables.speedups``.
    """
    if speedups.empty:
        return "No results yet."

    def named(own: pd.Series) -> str:
        labels = list(dict.fromkeys(own.index.get_level_values(0)))
        return "; ".join(f"*{label}* at {', '.join(own[label].index)}" for label in labels) or "none"

    return (
        f"Faster than one run on all the data: {named(speedups[speedups >= 1])}. "
        f"Slower: {named(speedups[speedups < 1])}."
    )


def cost_in_words(shares: pd.DataFrame, rows: Iterable[str], ratio: float) -> str:
    """What whole recipes at a ratio cost, in per cent of a run on all the data (``tables.costs``)."""
    there = [(LABELS[row], percent(ratio)) for row in rows if (LABELS[row], percent(ratio)) in shares.index]
    said = "; ".join(
        f"*{cell[0]}* takes {shares.loc[cell, 'evaluations, whole recipe']:.0f} % of the network evaluations "
        f"and {shares.loc[cell, 'CPU time, whole recipe']:.0f} % of the CPU time"
        for cell in there
    )
    return f"Of what a run on all the data takes, at {percent(ratio)}: {said}." if said else "No results yet."


def made_in_words(frame: pd.DataFrame, table: str, profile: str | Profile) -> str:
    """How many results of a table exist and are missing, with their dates, machines and PyTorch versions."""
    wanted, there = set(cells(table, profile)), list(zip(frame.row, frame.ratio, frame.seed))
    own = frame[np.array([cell in wanted for cell in there], dtype=bool)]
    if own.empty:
        return "No results yet."
    notes = [result["provenance"] for result in own.result]
    dates = sorted({note["date"] for note in notes})
    missing = len(wanted - set(there))
    return (
        f"{len(own)} run{'s' * (len(own) > 1)} over {seeds_in_words(own.seed.nunique())}"
        + (f" ({missing} more still missing)" if missing else "")
        + f", computed on {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}"
        f" on {_listed(sorted({note['machine'] for note in notes}))}"
        f" with PyTorch {_listed(sorted({note['versions']['torch'] for note in notes}))}."
    )


def floor_in_words(result: dict[str, Any]) -> str:
    """The FID of real images, held-out and half against half, from the result of a cell."""
    floor, held_out = result["floor"]["fid"], result.get("held_out_fid")
    m, n = map(int, re.findall(r"FID of (\d+) samples .* all (\d+) training", result["protocol"])[0])
    said = f"The FID of held-out real images is {held_out:.2f}. " if held_out is not None else ""
    return (
        f"{said}The real-vs-real FID, between two random halves of the real images, is {floor:.2f}. The bias "
        "of FID is roughly proportional to 1/m + 1/n for m images on one side and n on the other. Each half "
        f"has {n // 2:,} images; for {m:,} samples of a model against all {n:,} real images, the "
        f"real-vs-real FID would be about {floor * (1 / m + 1 / n) * n / 4:.2f}."
    )


def fid_network_in_words(profile: str | Profile) -> str:
    """What the FID network of a profile shares with the ResNet-18 that selects, and what was not tried."""
    settings = load_profile(profile)
    own, chooser = settings.evaluate, settings.encoders.resnet18
    if own.network == "inceptionv3":
        return "The FID network is the published Inception-v3."
    alike = own.network == "resnet18" and own.width == chooser.width
    kind = "of the same architecture and width as" if alike else "of another architecture or width than"
    other = " No second feature space was tried." * (own.networks == 1 and not own.cmmd)
    name = {"resnet18": "ResNet-18", "classifier": "small classifier"}[own.network]
    return (
        f"The FID network, a {name} of width {own.width}, is {kind} the ResNet-18 that selects. It was "
        f"trained on the same images, from {seeds_in_words(own.networks)} ({own.epochs} epochs; the one that "
        f"selects: {chooser.epochs}).{other}"
    )


def reconstruction_in_words(price: dict[str, Any]) -> str:
    """The FID that the autoencoder alone costs, from ``results.reconstruction``; "" if not measured."""
    if not price:
        return ""
    return (
        f"The training images, encoded and decoded, have an FID of {price['fid']:.2f} against themselves "
        f"(an error of {price['error']:.0f} grey levels). Every sample has passed through the same decoder, "
        "so much lower values are not to be expected. FIDs do not add, so this is not a part of those below."
    )


def shared_in_words(frame: pd.DataFrame) -> str:
    """Which cells were measured with another FID network than others, by their protocols; "" if none were."""
    network = frame.result.map(
        lambda result: result["protocol"].partition(" features of ")[2].partition(",")[0]
    )
    if network.nunique() < 2:
        return ""
    floors = frame.result.map(lambda result: result["floor"]["fid"])
    apart = floors.max() / floors.min() - 1
    head = (
        f"These runs were measured with {network.nunique()} FID networks, trained separately (the "
        f"real-vs-real FIDs differ by at most {apart:.0e} of the value)."
    )
    if (network.groupby(frame.seed).nunique() == 1).all():
        seeds = sorted(sorted(set(own)) for _, own in frame.seed.groupby(network))
        shared = "; another one ".join(map(_seeds_listed, seeds))
        return f"{head} One measured {shared}. So both sides of every difference have the same network."
    usual = network.groupby([frame.seed, frame.ratio]).transform(lambda own: own.mode()[0])
    other = frame[network != usual]
    runs = "; ".join(
        f"*{LABELS[row]}* at {percent(ratio)} ({_seeds_listed(own.seed)})"
        for (row, ratio), own in other.groupby(["row", "ratio"])
    )
    were = "was" if len(other) == 1 else "were"
    return (
        f"{head} Of the {len(frame)} runs that this page compares, {len(other)} {were} measured with another "
        f"one than most runs of their seed and ratio: {runs}. A difference with such a run also includes "
        "what the networks differ by."
    )


# ---- the options of group DRO ----------------------------------------------------------------------


def options(table: pd.DataFrame) -> str:
    """How similar the seeds' class weights are under each setting of group DRO (``results.dro_options``).

    This describes and does not test: the settings share their seeds, and the lowest of a few correlations has
    no known distribution.
    """
    if table.empty:
        return "The effect of the options was not measured for this profile."
    default, others = table.loc["default"], table.drop("default").lowest

    def named(setting: Any) -> str:
        return f"{others[setting]:.2f} ({setting})"

    return (
        f"The lowest correlation between the logarithms of two seeds' weights is {default.lowest:.2f} for "
        f"the default, and {named(others.idxmin())} to {named(others.idxmax())} for the other settings. Few "
        f"seeds and {default.classes:.0f} classes are not enough to test which setting is steadier."
    )


def _counted(names: Collection[str]) -> str:
    return f"{len(names)} ({_listed(names)})" if len(names) else "none"


def _seeds_listed(seeds: Collection[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def p_in_words(p: float) -> str:
    """A p-value to be written after the letter p: = 0.35, < 0.001."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def steps_in_words(frame: pd.DataFrame) -> str:
    """FID at the last step and the lowest FID before it, by ratio, from ``results.fid_over_steps``."""
    said = []
    for ratio, own in frame.groupby("ratio", sort=False):
        means = own.groupby("steps")["fid"].mean()
        end, before = means.index[-1], means.iloc[:-1]
        which = "all the data" if ratio == 1 else f"a random {percent(ratio)}"
        trend = ", lower than at any earlier point" * (len(before) > 0)
        if means[end] >= before.min():
            trend = f", after a minimum of {before.min():.2f}"
        said.append(f"with {which} it is {means[end]:.2f} after {end:,} steps{trend}")
    seeds = frame["seed"].nunique()
    alone = ", so no interval" * (seeds == 1)
    return f"FID at the end ({seeds_in_words(seeds)}{alone}): {'; '.join(said)}." if said else ""
