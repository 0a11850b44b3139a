"""What the results say: comparisons seed by seed, and the sentences that the book makes of them.

``frame`` is the DataFrame of ``tables.read_cells``, whole or in part.  Rows that it lacks give empty tables
and sentences that say so, never an error, because a page shows what is there.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ..config.profile import Profile
from . import paper
from .tables import LABELS, cells, percent, speedups

if TYPE_CHECKING:
    from IPython.display import Markdown

NO_RESULTS = "no results yet"

HIGHER_IS_BETTER = {"precision", "recall"}
"""The values for which a larger number is the better one."""

WORDS = {
    "lower": "better in every seed",
    "higher": "worse in every seed",
    "undecided": "undecided between seeds",
}


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


# ---- the options of group DRO ----------------------------------------------------------------------


def options(table: pd.DataFrame) -> str:
    """What the measurement says of the defaults of group DRO (``tables.dro_options``): a sentence or two."""
    if table.empty:
        return "Their effect was not measured for this profile."
    default, others = table.loc["default"], table.drop("default")

    def named(rows: pd.DataFrame) -> str:
        return ", ".join(f"{setting} ({lowest:.2f})" for setting, lowest in rows.lowest.items())

    better, worse = (others[sign * (others.lowest - default.lowest) > 0.02] for sign in (1, -1))
    said = f"Two seeds of the default correlate by {default.lowest:.2f} at the least"
    said += (
        f"; more than that do those of {named(better)}"
        if len(better)
        else "; those of no other setting do more"
    )
    return f"{said}; less do those of {named(worse)}." if len(worse) else f"{said}."


# ---- one row against another -----------------------------------------------------------------------


def compare(frame: pd.DataFrame, row: str, other: str, value: str = "fid") -> pd.DataFrame:
    """Row against another row at each ratio, seed by seed: a DataFrame.

    Returns:
        Columns: difference (mean over seeds of ``row`` minus ``other``; negative is better for FID), lower (seeds
        in which ``row`` is lower), seeds, verdict: "lower" or "higher" when every one of several seeds agrees, else
        "undecided".
    """
    pair = frame[frame.row.isin([row, other])].pivot(index=["ratio", "seed"], columns="row", values=value)
    pair = pair.reindex(columns=[row, other]).astype(float).dropna()
    difference = pair[row] - pair[other]
    lower, higher = ((sign * difference > 0).groupby("ratio").sum() for sign in (-1, 1))
    seeds = difference.groupby("ratio").size()
    verdict = [
        "lower" if a == n > 1 else "higher" if b == n > 1 else "undecided"
        for a, b, n in zip(lower, higher, seeds)
    ]
    mean = difference.groupby("ratio").mean()
    return pd.DataFrame({"difference": mean, "lower": lower, "seeds": seeds, "verdict": verdict})


def compare_all(frame: pd.DataFrame, rows: Sequence[str], other: str, value: str = "fid") -> pd.DataFrame:
    """:func:`compare` of one or more rows against ``other``: a DataFrame by (row, ratio)."""
    return pd.concat({row: compare(frame, row, other, value) for row in rows}, names=["row", "ratio"])


def at_every_ratio(frame: pd.DataFrame, row: str) -> pd.DataFrame:
    """The frame with the results that ``row`` has on all the data repeated at every other ratio.

    So that :func:`compare` and ``figures.differences`` can lay each coreset beside it.
    """
    whole = frame[(frame.row == row) & (frame.ratio == 1)]
    ratios = sorted(frame.ratio[frame.ratio < 1].unique())
    return pd.concat([frame, *(whole.assign(ratio=ratio) for ratio in ratios)])


def in_words(frame: pd.DataFrame, row: str, other: str, value: str = "fid") -> str:
    """One sentence on :func:`compare`: at which ratios ``row`` is lower or higher in every seed."""
    table = compare(frame, row, other, value)
    lower, higher = ("worse", "better") if value in HIGHER_IS_BETTER else ("better", "worse")
    words = {
        "lower": f"lower ({lower}) in every seed",
        "higher": f"higher ({higher}) in every seed",
        "undecided": WORDS["undecided"],
    }
    return f"{LABELS[row]} against {LABELS[other]}: {_by_verdict(table, words) or NO_RESULTS}."


def say(frame: pd.DataFrame, *pairs: tuple[str, str], value: str = "fid") -> "Markdown":
    """A list with a sentence for each (row, other) that has results, as Markdown for a notebook."""
    from IPython.display import Markdown

    there = [pair for pair in pairs if set(pair) <= set(frame.row)]
    return Markdown("\n".join(f"- {in_words(frame, *pair, value)}" for pair in there) or "No results yet.")


def answer(frame: pd.DataFrame, row: str, other: str, value: str = "fid") -> str:
    """Whether ``row`` is better than ``other``, lower being better: yes, no or open; where; by how much."""
    table = compare(frame, row, other, value)
    if len(table) == 0:
        return "No results yet."
    verdicts = set(table.verdict)
    if verdicts == {"lower"}:
        head = "Yes"
    elif verdicts == {"undecided"}:
        head = "Open"
    elif "lower" not in verdicts:
        head = "No"
    elif "higher" not in verdicts:
        head = "At some ratios, and nowhere is it worse"
    else:
        head = "At some ratios, and at others it is worse"
    by = ", ".join(f"{difference:+.2f}" for difference in table.difference)
    return (
        f"{head}: {_by_verdict(table, WORDS)}. Mean difference, ratio by ratio: {by} (below zero is better)."
    )


def _by_verdict(table: pd.DataFrame, words: dict[str, str]) -> str:
    """The ratios of each verdict behind its words: better in every seed at 10 %, 20 %; undecided at 30 %."""
    ratios = {verdict: [percent(r) for r in table.index[table.verdict == verdict]] for verdict in words}
    return "; ".join(f"{words[verdict]} at {', '.join(there)}" for verdict, there in ratios.items() if there)


def steps_or_images(frame: pd.DataFrame, row: str, *, control: str, full: str) -> str:
    """What the control says about the advantage of a coreset ``row`` over all the data: a sentence.

    Args:
        frame: of ``tables.read_cells``.
        row: its name in ``tables.ROWS``.
        control: the row of all the data stopped after equally many steps.
        full: that of all the data to the end.
    """
    frame = at_every_ratio(frame, full)
    whole, images = compare(frame, row, full).verdict, compare(frame, row, control).verdict
    steps = compare(frame, control, full).verdict
    name = LABELS[row]
    if whole.empty or images.empty:
        return f"{name}: {NO_RESULTS}."
    beats = list(whole.index[whole == "lower"])
    by_images = [r for r in beats if images.get(r) == "lower"]
    by_steps = [r for r in beats if r not in by_images and steps.get(r) == "lower"]
    unclear = [r for r in beats if r not in (*by_images, *by_steps)]
    said = []
    if not beats:
        said.append("at no ratio lower than all the data in every seed: no gain to explain")
    if by_steps:
        said.append(
            f"lower than all the data at {_percents(by_steps)}, where stopping early is lower as well "
            "and the coreset not in every seed lower still: fewer steps are enough to explain it"
        )
    if unclear:
        said.append(f"lower than all the data at {_percents(unclear)}: the control leaves open why")
    if by_images:
        said.append(
            f"lower than all the data at {_percents(by_images)}, and than all the data at equal steps "
            "too: there fewer images help by themselves"
        )
    return f"{name}: {'; '.join(said)}."


def part_against_whole(frame: pd.DataFrame, rows: Sequence[str], full: str) -> str:
    """Which coresets have a lower FID than all the data (row ``full``) in every seed: a sentence."""
    table = compare_all(at_every_ratio(frame, full), rows, full)
    wins = table.index[table.lower == table.seeds]
    wins = "; ".join(f"{LABELS[row]} at {percent(ratio)}" for row, ratio in wins)
    if len(table) == 0:
        return "There are no results yet."
    if wins:
        caution = " (That is one seed, which says little.)" if table.seeds.max() == 1 else ""
        return f"Better than all the data in every seed: {wins}.{caution}"
    if table.lower.any():
        return "No coreset is better than all the data in every seed; some are in some seeds."
    return "No: no coreset is better than all the data, in any seed."


def guidance_in_words(frame: pd.DataFrame, rows: Sequence[str], full: str) -> str:
    """How many coresets beat all the data (row ``full``) with guidance, and how many without: sentences."""
    verdicts = []
    for ending in ("", "-unguided"):
        own = [f"{row}{ending}" for row in rows]
        table = compare_all(at_every_ratio(frame, f"{full}{ending}"), own, f"{full}{ending}")
        verdicts.append(table.verdict)
    better, worse = ([int((v == verdict).sum()) for v in verdicts] for verdict in ("lower", "higher"))
    if not all(len(v) for v in verdicts):
        return "No results yet."
    if better[0] and not better[1]:
        head = "So it takes guidance for less to beat all."
    elif better[1] and not better[0]:
        head = "So guidance hides that less beats all."
    elif better[0] and better[1]:
        head = "So less beats all with guidance and without."
    else:
        head = "So less beats all neither with guidance nor without."
    return (
        f"Of {len(verdicts[0])} coresets (rows and ratios) {better[0]} have a lower FID than all the data "
        f"in every seed with guidance, and {better[1]} of {len(verdicts[1])} without; a higher one in every "
        f"seed have {worse[0]} with guidance and {worse[1]} without. {head}"
    )


# ---- the order of the rows -------------------------------------------------------------------------


def same_order(frame: pd.DataFrame, published: dict[str, Any], value: str = "fid") -> pd.DataFrame:
    """Whether our rows come in the paper's order, ratio by ratio: a DataFrame.

    Args:
        frame: of ``tables.read_cells``.
        published: a table of :mod:`dedt_lib.book.paper`.
        value: the column of ``frame`` that is compared.

    Returns:
        Columns: ours and paper (rows from the lowest value to the highest), agree (share of the pairs of rows that
        both put in the same order), same.
    """
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
        pairs = list(itertools.combinations(rows, 2))
        agree = sum((ours[a] < ours[b]) == (theirs[a] < theirs[b]) for a, b in pairs)
        found[percent(ratio)] = {
            "ours": sorted(rows, key=ours.__getitem__),
            "paper": sorted(rows, key=theirs.__getitem__),
            "agree": agree / len(pairs),
            "same": agree == len(pairs),
        }
    return pd.DataFrame(found, index=["ours", "paper", "agree", "same"]).T


def order_in_words(frame: pd.DataFrame, published: dict[str, Any], value: str = "fid") -> str:
    """Whether the rows come in the paper's order, how many pairs do, and which row is lowest: sentences."""
    order = same_order(frame, published, value)
    if len(order) == 0:
        return "No results yet."
    same = int(order.same.astype(bool).sum())
    head = "Yes" if same == len(order) else "Partly" if same else "No"
    agree = ", ".join(f"{100 * share:.0f} % at {ratio}" for ratio, share in order.agree.items())
    first: dict[tuple[str, str], list[str]] = {}
    for ratio, entry in order.iterrows():
        first.setdefault((entry["ours"][0], entry["paper"][0]), []).append(ratio)
    lowest = "; ".join(
        f"{LABELS[ours]} at {', '.join(ratios)} (paper: {LABELS[theirs]})"
        for (ours, theirs), ratios in first.items()
    )
    return (
        f"{head}. The rows come in the paper's order at {same} of {len(order)} ratios. Of all pairs of rows, "
        f"these shares stand as in the paper: {agree} (half is chance). The lowest: {lowest}."
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


def heavy_and_easy(classes: Classes) -> tuple[np.ndarray, np.ndarray, float]:
    """Which classes are heavy and which easy, bool [K] each, and the rank correlation of weight and FID.

    Heavy is above 1/K, easy a class-wise FID below the median.  FID is that before reweighting; both are means
    over the seeds.
    """
    from scipy.stats import spearmanr

    heaviness, difficulty = classes.weights.mean(axis=0), classes.before.mean(axis=0)
    rank = float(spearmanr(heaviness, difficulty, nan_policy="omit").statistic)
    return heaviness > 1 / len(classes.names), difficulty < np.nanmedian(difficulty), rank


def gains_in_words(classes: Classes) -> str:
    """Which classes reweighting helps in every seed, which it harms, and which gain most and least."""
    gain = (classes.before - classes.after).mean(axis=0)
    always, never = (
        (classes.before > classes.after).all(axis=0),
        (classes.before < classes.after).all(axis=0),
    )
    seeds = f"{len(classes.seeds)} seed" + "s" * (len(classes.seeds) > 1)
    return (
        f"Over {seeds}, these classes have a lower FID in every seed: {_listed(classes.names[always])}. A "
        f"higher one in every seed: {_listed(classes.names[never])}. On average class "
        f"{classes.names[np.nanargmax(gain)]} gains most ({-np.nanmax(gain):+.2f}) and class "
        f"{classes.names[np.nanargmin(gain)]} least ({-np.nanmin(gain):+.2f})."
    )


def heaviness_in_words(classes: Classes) -> str:
    """Whether the heavier classes are the easy ones, as the paper says of its Figure 2."""
    heavy, easy, rank = heavy_and_easy(classes)
    if rank < -0.3 and (heavy & easy).sum() > heavy.sum() / 2:
        verdict = "Yes"
    elif rank > 0.3:
        verdict = "No, rather the hard ones"
    else:
        verdict = "Neither they nor the hard ones"
    return (
        f"{verdict}: of the {heavy.sum()} classes that are heavier than average "
        f"({_listed(classes.names[heavy])}), {(heavy & easy).sum()} have a class-wise FID below the median "
        f"before reweighting. The rank correlation of weight and FID is {rank:.2f}; the paper's claim would "
        "make it negative."
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
    ends = dict.fromkeys([f"{shares.min():.0f}", f"{shares.max():.0f}"])
    if shares.min() > 50:
        verdict = "In every seed more than half are clipped, as the paper says."
    elif shares.max() <= 50:
        verdict = "In no seed is it the majority that the paper speaks of."
    else:
        verdict = "The seeds do not agree on whether it is a majority."
    return f"Of Stable Diffusion's margins {' to '.join(ends)} % are clipped. {verdict}"


# ---- costs and copies ------------------------------------------------------------------------------


def slower_and_faster(
    frame: pd.DataFrame, rows: Sequence[str], full: str = "full"
) -> tuple[list[str], list[str]]:
    """Whole recipes slower and not slower than one run on all the data, by CPU time: two lists of names."""
    rows = [row for row in rows if row in set(frame.row)]
    whole = speedups(frame, rows, whole=True, full=full)["CPU time"]
    slower: list[str] = []
    faster: list[str] = []
    for row in rows:
        own = whole.xs(LABELS[row]) if LABELS[row] in whole.index else whole[:0]
        for found, ratios in ((slower, own.index[own < 1]), (faster, own.index[own >= 1])):
            found += [f"{LABELS[row]} at {', '.join(ratios)}"] if len(ratios) else []
    return slower, faster


def copies_in_words(frame: pd.DataFrame) -> str:
    """Whether samples are near-copies of training images: the row with the most, and all the data."""
    shares = 100 * frame.copies.astype(float).groupby([frame.row, frame.ratio]).mean().dropna()
    if len(shares) == 0:
        return "It was not counted: there are no held-out images that are not training images as well."
    (row, ratio), most = shares.idxmax(), shares.max()
    everyone = shares.get(("full", 1.0), float("nan"))
    return (
        f"{'No' if most < 1 else 'A little' if most < 5 else 'Yes'}. The most near-copies are {most:.1f} % "
        f"of the samples ({LABELS[row]}, {percent(ratio)}); for all the data it is {everyone:.1f} %, and one "
        "per cent is what new real images show by chance."
    )


def made(frame: pd.DataFrame, table: str, profile: str | Profile) -> dict[str, Any]:
    """When, where and with what the results of a table were made: a dict of words and numbers for its page.

    Returns:
        seeds, cells: their numbers; missing: words on the cells that are not there yet, "" for none; dates, machine,
        torch: words; floor: FID of two random halves of the real images.
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
    }


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _percents(ratios: Iterable[float]) -> str:
    return ", ".join(map(percent, ratios))
