"""What the results say, in sentences.

``frame`` is the DataFrame of ``tables.read_cells``, whole or in part.  Rows that it lacks give empty tables
and sentences that say so, never an error, because a page shows what is there.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..config.profile import Profile
from ..evaluation import concordance, holm, rank_correlation
from . import paper
from .comparisons import (
    BETTER,
    COLUMNS,
    ENOUGH,
    LEVEL,
    NO_RESULTS,
    OPEN,
    WORSE,
    Page,
    between,
    entry,
    judged,
    paired,
    seeds_in_words,
)
from .tables import LABELS, cells, intervals, percent, speedups_by_seed


class Classes(NamedTuple):
    """Class by class without and with weights.

    Attributes:
        names: [K].
        before: class-wise FID without weights, float [S, K] of S seeds, NaN where a class has too few images.
        after: the same with weights.
        weights: class weights, float [S, K].
        seeds: [S].
    """

    names: np.ndarray
    before: np.ndarray
    after: np.ndarray
    weights: np.ndarray
    seeds: np.ndarray


# ---- one row against another -----------------------------------------------------------------------


def steps_or_images(page: Page, row: str, *, control: str, full: str) -> str:
    """What the control says about the advantage of a coreset ``row`` over all the data: a sentence.

    Args:
        page: compares each two of the three rows.
        row: its name in ``tables.ROWS``.
        control: the row of all the data stopped after equally many steps.
        full: that of all the data to the end.
    """
    whole, images, steps = (page.compare(*pair) for pair in ((row, full), (row, control), (control, full)))
    said = []
    for ratio in whole.index.intersection(images.index):
        verdict = steps.verdict.get(ratio)
        if min(whole.seeds[ratio], images.seeds[ratio]) < ENOUGH:
            why = "too few seeds for a verdict"
        elif whole.verdict[ratio] != BETTER:
            why = "no gain to explain"
        elif images.verdict[ratio] == BETTER:
            why = "fewer images help by themselves"
        elif verdict == BETTER:
            why = "fewer steps gain too, and may be all of it"
        else:
            why = "the control leaves open why"
        said.append(
            f"at {percent(ratio)} {entry(whole.loc[ratio])} against all the data, and "
            f"{entry(images.loc[ratio])} against all the data at equal steps: {why}"
        )
    return f"{LABELS[row]}: {'; '.join(said) or NO_RESULTS}."


def part_against_whole(page: Page, rows: Sequence[str], full: str) -> str:
    """Which coresets are better than all the data (row ``full``): a sentence."""
    table = page.compare_all(rows, full)
    if table.empty:
        return "There are no results yet."

    def listed(table: pd.DataFrame) -> str:
        lines = table.itertuples()
        return "; ".join(
            f"{LABELS[line.Index[0]]} at {percent(line.Index[1])} {entry(line)}" for line in lines
        )

    wins = table[table.verdict == BETTER]
    if len(wins):
        return f"Yes, of {len(table)} coresets (rows and ratios) these: {listed(wins)}."
    lowest = f"The lowest mean difference is {listed(table.loc[[table.difference.idxmin()]])}."
    if table.seeds.max() < ENOUGH:
        return f"There are too few seeds for a verdict. {lowest}"
    worse = (table.verdict == WORSE).sum()
    return (
        f"None of {len(table)} coresets (rows and ratios) is told to be better; {worse} are worse. {lowest}"
    )


def guidance_in_words(page: Page, rows: Sequence[str], full: str) -> str:
    """How many coresets beat all the data (row ``full``) with guidance, and how many without: sentences."""
    guided = page.compare_all(rows, full)
    unguided = page.compare_all([f"{row}-unguided" for row in rows], f"{full}-unguided")
    if guided.empty or unguided.empty:
        return "No results yet."

    def tally(table: pd.DataFrame) -> str:
        better, worse = ((table.verdict == verdict).sum() for verdict in (BETTER, WORSE))
        return (
            f"{better} of {len(table)} coresets (rows and ratios) are better than all the data and {worse} "
            f"worse (differences {table.difference.min():+.2f} to {table.difference.max():+.2f}, "
            f"{seeds_in_words(table.seeds.max())})"
        )

    said = f"With guidance {tally(guided)}; without {tally(unguided)}."
    if max(guided.seeds.max(), unguided.seeds.max()) < ENOUGH:
        return f"{said} So few seeds give no verdict."
    heads = {
        (True, False): "Less beats all with guidance; without, this does not show.",
        (False, True): "Less beats all without guidance; with it, this does not show.",
        (True, True): "Less beats all with guidance and without.",
        (False, False): "That less beats all does not show, with guidance or without.",
    }
    return f"{said} {heads[(guided.verdict == BETTER).any(), (unguided.verdict == BETTER).any()]}"


# ---- the order of the rows -------------------------------------------------------------------------


def same_order(frame: pd.DataFrame, published: dict[str, Any], value: str = "fid") -> pd.DataFrame:
    """Whether our rows come in the paper's order, ratio by ratio: a DataFrame.

    Args:
        frame: of ``tables.read_cells``.
        published: a table of :mod:`dedt_lib.book.paper`.
        value: the column of ``frame`` that is compared.

    Returns:
        Columns: ours and paper (rows from the lowest value to the highest), tau (Kendall's, of the two
        orders), p (exact without ties), p_holm (over the ratios).
    """
    from scipy.stats import kendalltau

    means = frame.pivot_table(index="row", columns="ratio", values=value)
    numbers = {row: paper.by_ratio(published, row) for row in published if row in means.index}
    found = {}
    for ratio in sorted({ratio for own in numbers.values() for ratio in own}):
        rows = [
            row for row in numbers if ratio in numbers[row] and ratio in means and pd.notna(means[ratio][row])
        ]
        if len(rows) < 2:
            continue
        ours, theirs = ({row: means[ratio][row] for row in rows}, {row: numbers[row][ratio] for row in rows})
        tau, p = kendalltau([*ours.values()], [*theirs.values()])
        orders = (sorted(rows, key=values.__getitem__) for values in (ours, theirs))
        found[percent(ratio)] = [*orders, float(tau), float(p)]
    columns = ["ours", "paper", "tau", "p"]
    order = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    return order.assign(p_holm=holm(order.p))


def order_in_words(frame: pd.DataFrame, published: dict[str, Any], value: str = "fid") -> str:
    """Whether the rows come in the paper's order: Kendall's tau and its p at each ratio."""
    order = same_order(frame, published, value)
    if order.empty:
        return "No results yet."
    told = order[order.p_holm < LEVEL]
    alike = told.index[told.tau > 0]
    if len(told) == 0:
        head = "The data do not say"
    elif len(alike) == 0:
        head = f"No, rather the other way round at {', '.join(told.index)}"
    else:
        head = "Yes" if len(alike) == len(order) else f"At {', '.join(alike)} they are alike"
    taus = ", ".join(
        f"{line.tau:+.2f} at {line.Index} ({len(line.ours)} rows, p {p_in_words(line.p_holm)})"
        for line in order.itertuples()
    )
    return (
        f"{head}. Kendall's tau of the paper's order and that of our means, 1 where they are the same: "
        f"{taus}; p after Holm's correction for the ratios."
    )


# ---- class by class --------------------------------------------------------------------------------


def by_class(
    frame: pd.DataFrame, ratio: float, row: str = "moderate", weighted: str = "moderate-reweighted"
) -> Classes | None:
    """:class:`Classes` of the seeds that have both rows at a ratio, or None where no seed has."""
    chosen = frame[(frame.ratio == ratio) & frame.row.isin([row, weighted])]
    wide = (
        chosen.pivot(index="seed", columns="row", values="result").reindex(columns=[row, weighted]).dropna()
    )
    if len(wide) == 0 or not any(value is not None for value in wide[row].iloc[0]["classwise"]):
        return None
    return Classes(
        np.array(wide[row].iloc[0]["class_names"]),
        np.array([result["classwise"] for result in wide[row]], dtype=float),
        np.array([result["classwise"] for result in wide[weighted]], dtype=float),
        np.array([result["class_weights"] for result in wide[weighted]]),
        wide.index.to_numpy(),
    )


def heavy_and_easy(classes: Classes) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Which classes are heavy and which easy, bool [K] each; rank correlation of weight and FID, and its p.

    Heavy is above 1/K, easy a class-wise FID below the median.  FID is that before reweighting; both are
    means over the seeds.
    """
    heaviness, difficulty = classes.weights.mean(axis=0), classes.before.mean(axis=0)
    heavy, easy = heaviness > 1 / len(classes.names), difficulty < np.nanmedian(difficulty)
    return heavy, easy, *rank_correlation(heaviness, difficulty)


def class_gains(classes: Classes) -> pd.DataFrame:
    """Class-wise FID with weights minus without, by class: the columns of ``Page.table``.

    Holm's correction covers the classes; one that lacks a value is left out.
    """
    found = {
        name: paired(after, before)
        for name, before, after in zip(classes.names, classes.before.T, classes.after.T)
        if np.isfinite([before, after]).all()
    }
    return judged(pd.DataFrame.from_dict(found, orient="index", columns=COLUMNS), -1)


def gains_in_words(classes: Classes) -> str:
    """Which classes reweighting helps, which it harms, and which gain most and least."""
    gains = class_gains(classes)
    if len(classes.seeds) < ENOUGH:
        head = f"{seeds_in_words(len(classes.seeds))}: too few for a verdict"
    else:
        better, worse = (gains.index[gains.verdict == verdict] for verdict in (BETTER, WORSE))
        head = (
            f"Of {len(gains)} classes, reweighting is better for {len(better)} ({_listed(better)}) and worse "
            f"for {len(worse)} ({_listed(worse)}) after Holm's correction; the others are not told apart"
        )
    most, least = gains.difference.idxmin(), gains.difference.idxmax()
    return (
        f"{head}. The differences reach from class {most}, {entry(gains.loc[most])}, to class {least}, "
        f"{entry(gains.loc[least])}."
    )


def heaviness_in_words(classes: Classes) -> str:
    """Whether the heavier classes are the easy ones, as the paper says of its Figure 2."""
    heavy, easy, rank, p = heavy_and_easy(classes)
    verdict = "The data do not say" if p >= LEVEL else "Yes" if rank < 0 else "No, rather the hard ones"
    return (
        f"{verdict}: the rank correlation of weight and class-wise FID before reweighting is {rank:.2f} over "
        f"{len(heavy)} classes (p {p_in_words(p)}, {seeds_in_words(len(classes.seeds))}); the paper's claim "
        f"would make it negative. Heavier than average are {_listed(classes.names[heavy])}, and of these "
        f"{_listed(classes.names[heavy & easy])} have an FID below the median."
    )


def steady_in_words(frame: pd.DataFrame, row: str = "moderate-reweighted") -> str:
    """Whether the weights that DRO learned are alike from seed to seed: Kendall's W over the classes, and its p."""
    found = {
        ratio: np.array([result["class_weights"] for result in own.result])
        for ratio, own in frame[frame.row == row].groupby("ratio")
    }
    tests = {ratio: concordance(weights) for ratio, weights in found.items() if len(weights) > 1}
    if not tests:
        return "It takes two seeds to say."
    said = "; ".join(
        f"at {percent(ratio)} W {W:.2f} (p {p_in_words(p)}, {seeds_in_words(len(found[ratio]))})"
        for (ratio, (W, _)), p in zip(tests.items(), holm(np.array([p for _, p in tests.values()])))
    )
    return (
        f"How alike the seeds order the classes, by Kendall's W, 1 for one order and 0 for none: {said}; p of "
        "Friedman's test, after Holm's correction for the ratios."
    )


def networks_in_words(frame: pd.DataFrame) -> str:
    """Whether FID puts the cells in the same order in the features of networks of other seeds: a sentence."""
    fids = [result.get("fids", ()) for result in frame.result if len(result.get("fids", ())) > 1]
    if len(fids) < 3:
        return "It was measured by one network."
    values = np.array(fids).T
    pairs = [rank_correlation(a, b)[0] for a, b in itertools.combinations(values, 2)]
    return (
        f"The FIDs of {values.shape[1]} cells were measured in the features of {len(values)} networks that differ "
        f"in their seed alone. Each two of them order the cells with a rank correlation of {min(pairs):.3f} to "
        f"{max(pairs):.3f}; the mean FID is {', '.join(f'{mean:.2f}' for mean in values.mean(axis=1))}."
    )


def proxies(frame: pd.DataFrame) -> pd.DataFrame:
    """What group DRO learned in each reweighted cell: a DataFrame by (row, ratio, seed).

    Returns:
        Columns: effective classes, lightest and heaviest (class weights times K, 1 is uniform), clipped (%) and mean
        excess, both after the burn-in.
    """
    found = {}
    for result in frame.result:
        if "dro" in result:
            K, weights, dro = len(result["class_names"]), result["class_weights"], result["dro"]
            found[result["row"], result["recipe"]["ratio"], result["recipe"]["seed"]] = {
                "effective classes": dro["effective_classes"],
                "lightest": K * min(weights),
                "heaviest": K * max(weights),
                "clipped (%)": 100 * dro["clipped"],
                "mean excess": dro["mean_excess"],
            }
    columns = ["effective classes", "lightest", "heaviest", "clipped (%)", "mean excess"]
    index = pd.MultiIndex.from_frame(pd.DataFrame(list(found), columns=["row", "ratio", "seed"]))
    return pd.DataFrame(list(found.values()), index=index, columns=columns).sort_index()


def clipped_in_words(percentages: Iterable[float]) -> str:
    """Whether most margins are clipped, from the shares (in per cent) of some seeds of Stable Diffusion."""
    shares = np.array(list(percentages))
    if len(shares) == 0:
        return "No results yet."
    majority = judged(pd.DataFrame([paired(shares, np.full_like(shares, 50))], columns=COLUMNS), 1).iloc[0]
    verdict = {
        BETTER: "That is the majority that the paper speaks of.",
        WORSE: "That is not the majority that the paper speaks of.",
        OPEN: "Whether that is a majority cannot be told from so few seeds.",
    }[majority.verdict]
    ends = (majority.low + 50, majority.high + 50)
    clipped = between(f"{shares.mean():.0f} %", ends, len(shares), digits=0)
    return f"Of Stable Diffusion's margins {clipped} are clipped. {verdict}"


# ---- costs and copies ------------------------------------------------------------------------------


def slower_and_faster(frame: pd.DataFrame, rows: Sequence[str], full: str = "full") -> str:
    """How many times as fast as one run on all the data the whole recipes are, by CPU time: a sentence.

    Speed-ups are compared as logarithms, with Holm's correction for all rows and ratios.
    """
    logarithms = np.log(speedups_by_seed(frame, rows, whole=True, full=full)["CPU time"])
    by_cell = logarithms.groupby(level=["row", "ratio"])
    found = [paired(own, 0 * own) for _, own in by_cell]
    table = judged(pd.DataFrame(found, by_cell.size().index, columns=COLUMNS), 1)
    words = {BETTER: "faster", WORSE: "slower", OPEN: OPEN}
    said = []
    for row in (row for row in rows if row in table.index):
        entries = []
        for ratio, line in table.loc[row].iterrows():
            speed, *ends = np.exp([line.difference, line.low, line.high])
            verdict = f", {words[line.verdict]}" if line.seeds >= ENOUGH else ""
            entries.append(f"at {percent(ratio)} {between(f'{speed:.2f}', ends, line.seeds)}{verdict}")
        said.append(f"{LABELS[row]} {'; '.join(entries)}")
    return f"Times as fast as one run on all the data: {'. '.join(said) or NO_RESULTS}."


def copies_in_words(frame: pd.DataFrame) -> str:
    """Whether samples are near-copies of training images: the row with the most, and all the data."""
    shares = intervals(frame, ["row", "ratio"], "copies")
    if len(shares) == 0:
        return "It was not counted: there are no held-out images that are not training images as well."

    def share(line: pd.Series) -> str:
        mean, *ends = 100 * line[["mean", "low", "high"]]
        return between(f"{mean:.1f} %", ends, line.seeds, digits=1)

    row, ratio = shares["mean"].idxmax()
    most = shares.loc[row, ratio]
    head = "No" if most["mean"] < 0.01 else "A little" if most["mean"] < 0.05 else "Yes"
    everyone = share(shares.loc["full", 1.0]) if ("full", 1.0) in shares.index else "not there yet"
    return (
        f"{head}. The most near-copies among the samples have {LABELS[row]} at {percent(ratio)}: "
        f"{share(most)}. All the data: {everyone}. One per cent is what new real images show by chance."
    )


def made(frame: pd.DataFrame, table: str, profile: str | Profile) -> dict[str, Any]:
    """When, where and with what the results of a table were made: a dict of words and numbers for its page.

    Returns:
        seeds, cells: their numbers; missing: words on the cells that are not there yet, "" for none; dates, machine,
        torch: words; floor: FID of two random halves of the real images; real: words
        on it.
    """
    wanted, there = set(cells(table, profile)), list(zip(frame.row, frame.ratio, frame.seed))
    own = frame[np.array([cell in wanted for cell in there], dtype=bool)]
    notes = [result["provenance"] for result in own.result]
    dates = sorted({note["date"] for note in notes})
    missing = len(wanted - set(there))
    return {
        "seeds": int(own.seed.nunique()),
        "cells": len(own),
        "missing": f" ({missing} more are not there yet)" if missing else "",
        "dates": " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])) or "–",
        "machine": " and ".join(sorted({note["machine"] for note in notes})) or "–",
        "torch": " and ".join(sorted({note["versions"]["torch"] for note in notes})) or "–",
        "floor": float(frame.result.iloc[0]["floor"]["fid"]) if len(frame) else float("nan"),
        "real": floor_in_words(frame.result.iloc[0]) if len(frame) else "No results yet.",
    }


def floor_in_words(result: dict[str, Any]) -> str:
    """What FID real images have, from the result of a cell: sentences."""
    floor, held_out = result["floor"]["fid"], result.get("held_out_fid")
    said = f"Held-out real images have an FID of {held_out:.2f}. " if held_out is not None else ""
    return (
        f"{said}Two random halves of the real images are {floor:.2f} apart. FID of fewer images is larger, "
        "and a half is half as many as a model draws: at the models' number of samples it would be about "
        f"{floor / 2:.2f}."
    )


# ---- the options of group DRO ----------------------------------------------------------------------


def options(table: pd.DataFrame) -> str:
    """What the measurement says of the defaults of group DRO (``tables.dro_options``): a sentence or two.

    Correlations of K classes are compared by Fisher's z, of which the difference of two has the variance
    2 / (K - 3), with Holm's correction for all settings.
    """
    from scipy.stats import norm

    if table.empty:
        return "Their effect was not measured for this profile."
    default, others = table.loc["default"], table.drop("default")
    z = np.arctanh(np.clip(table.lowest, -0.9999, 0.9999))
    away = (z.drop("default") - z["default"]) / np.sqrt(2 / (default.classes - 3))
    told = holm(2 * norm.sf(np.abs(away))) < LEVEL

    def named(rows: pd.DataFrame) -> str:
        return ", ".join(f"{setting} ({lowest:.2f})" for setting, lowest in rows.lowest.items()) or "none"

    return (
        f"Two seeds of the default correlate by {default.lowest:.2f} at the least, over "
        f"{default.classes:.0f} classes; those of the other settings by {others.lowest.min():.2f} to "
        f"{others.lowest.max():.2f}. Told to do more than the default's: {named(others[told & (away > 0)])}; "
        f"less: {named(others[told & (away < 0)])} (Fisher's z, p < {LEVEL} after Holm's correction for "
        f"{len(others)} settings)."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def p_in_words(p: float) -> str:
    """A p-value to be read after the letter: = 0.35, < 0.001."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"
