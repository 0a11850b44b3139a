"""Findings: what the results say, as tables and sentences.

``frame`` is the DataFrame of ``results.read_cells`` or a part of it, unless said otherwise.  Missing rows
give empty tables and sentences such as "No results yet.", never an error, so that a page shows what there is.
"""

import itertools
import math
import re
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..config.profile import Profile
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


def same_order(frame: pd.DataFrame, published: dict[str, Any], value: str = "fid") -> pd.DataFrame:
    """The order of our rows against the paper's at each ratio, from means over the seeds that all rows have.

    Args:
        frame: results of ``results.read_cells``.
        published: a table of ``dedt_lib.book.paper``.
        value: the column of ``frame`` that is compared.

    Returns:
        A line for each ratio.  Columns: ours and paper (rows from the lowest value to the highest), tau
        (Kendall's tau of the two orders), p (exact without ties), seeds, p_holm (corrected for the ratios;
        NaN with fewer than ENOUGH seeds, or so few rows that no order of them has a p below LEVEL).
    """
    from scipy.stats import kendalltau

    found = {}
    for ratio, own in frame[frame.row.isin(published)].groupby("ratio"):
        theirs = {row: paper.by_ratio(published, row).get(ratio) for row in published}
        wide = own.pivot(index="seed", columns="row", values=value).astype(float).dropna(axis=1, how="all")
        wide = wide[[row for row in published if row in wide and theirs[row] is not None]].dropna()
        if wide.shape[1] < 2 or wide.empty:
            continue
        means, published_means = wide.mean(), pd.Series(theirs)[wide.columns].astype(float)
        tau, p = kendalltau(means, published_means)
        orders = ([*values.sort_values(kind="stable").index] for values in (means, published_means))
        found[percent(ratio)] = [*orders, float(tau), float(p), len(wide)]
    columns = ["ours", "paper", "tau", "p", "seeds"]
    order = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    testable = order.ours.map(lambda rows: 2 / math.factorial(len(rows)) < LEVEL).astype(bool)
    told = testable & (order.seeds >= ENOUGH)
    family = order.p.where(told, 1.0).where(testable)  # as in ``comparisons.judged``
    return order.assign(p_holm=pd.Series(holm(family), order.index).where(told))


def order_in_words(frame: pd.DataFrame, published: dict[str, Any], value: str = "fid") -> str:
    """Whether our rows have the paper's order, with Kendall's tau and its p-value at each ratio."""
    order = same_order(frame, published, value)
    if order.empty:
        return "No results yet."
    told = order[order.p_holm < LEVEL]
    alike, reversed_ = told.index[told.tau > 0], told.index[told.tau < 0]
    if order.p_holm.isna().all():
        head = "Too few seeds or rows for a verdict"
    elif len(told) == 0:
        head = "Inconclusive"
    elif len(alike) == len(order):
        head = "Yes"
    else:
        heads = {"Yes at": alike, "No, the order is reversed at": reversed_}
        head = "; ".join(f"{start} {', '.join(ratios)}" for start, ratios in heads.items() if len(ratios))
    taus = ", ".join(
        f"{line.tau:+.2f} at {line.Index} ({len(line.ours)} rows, {seeds_in_words(line.seeds)}"
        + f", p {p_in_words(line.p_holm)}" * (line.p_holm == line.p_holm)
        + ")"
        for line in order.itertuples()
    )
    return (
        f"**{head}.** Kendall's tau between the paper's order and the order of the means here (1: same "
        f"order) is {taus}. The means are over the seeds that all rows have; p is after Holm's correction "
        "for the ratios."
    )


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
    table = page.compare("moderate-reweighted", "moderate-reweighted-shuffled")
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
    most = f"a gain of more than {max(0.0, -line.low):.2f} in FID lies outside the 95 % interval"
    return f"{alike}, {told}; {most} (at {percent(ratio)}, {seeds_in_words(line.seeds)})."


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
    pages = [Page(own.assign(fid=fids), [(row, other)]).compare(row, other) for fids in values]
    told = "; ".join(entry(page.assign(verdict=OPEN).iloc[0]) for page in pages if len(page))
    return (
        f"The FIDs of {len(own)} cells of {own.row.nunique()} rows at {percent(own.ratio.min())} were "
        f"measured in the features of {len(values)} networks that differ only in their seed. The rank "
        f"correlations between the FIDs of two networks range from {min(alike):.2f} to {max(alike):.2f}."
        + f" *{LABELS[row]}* minus *{LABELS[other]}* is, with each network: {told}."
        * bool(told)
    )


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


def clipped_in_words(percentages: Iterable[float]) -> str:
    """Whether most margins of Stable Diffusion are clipped, from the clipped share of each seed (%)."""
    shares = np.array(list(percentages))
    if len(shares) == 0:
        return "No results yet."
    mean, low, high = map(float, mean_interval(shares))
    if len(shares) < ENOUGH:
        verdict = f"A verdict needs {ENOUGH} seeds."
    elif low > 50:
        verdict = "This is the majority that the paper expects."
    elif high < 50:
        verdict = "This is not the majority that the paper expects."
    else:
        verdict = "Whether this is a majority is inconclusive."
    clipped = between(f"{mean:.0f} %", (low, high), len(shares), digits=0)
    return f"Of Stable Diffusion's margins, {clipped} are clipped. {verdict}"


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


def reconstruction_in_words(price: dict[str, Any]) -> str:
    """The FID that the autoencoder alone costs, from ``results.reconstruction``; "" if not measured."""
    if not price:
        return ""
    return (
        f"The training images, encoded and decoded, have an FID of {price['fid']:.2f} against themselves "
        f"(an error of {price['error']:.0f} grey levels). A model of the latents cannot do better than its "
        "decoder, so every FID here includes about that."
    )


def shared_in_words(frame: pd.DataFrame) -> str:
    """How many cells were measured with another FID network than others, by their protocols; "" if none."""
    network = frame.result.map(
        lambda result: result["protocol"].partition(" features of ")[2].partition(",")[0]
    )
    if network.nunique() < 2:
        return ""
    floors = frame.result.map(lambda result: result["floor"]["fid"])
    apart = floors.max() / floors.min() - 1
    head = (
        f"The FID network was trained {network.nunique()} times, once for each kind of machine, because "
        f"machines round differently (the real-vs-real FIDs agree within {apart:.0e} of the value)."
    )
    if (network.groupby(frame.seed).nunique() == 1).all():
        seeds = sorted(", ".join(map(str, sorted(set(own)))) for _, own in frame.seed.groupby(network))
        shared = (
            f"The seeds {' and the seeds '.join(seeds)} have one each, so every difference is within one."
        )
        return f"{head} {shared}"
    usual = network.groupby([frame.seed, frame.ratio]).transform(lambda own: own.mode()[0])
    other = int((network != usual).sum())
    were = "was" if other == 1 else "were"
    return (
        f"{head} Of the {len(frame)} runs that this page compares, {other} {were} made on another machine "
        "than most runs of their seed and ratio. A difference with such a run also includes the effect of "
        "another training of the feature extractor, which may choose another coreset."
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
