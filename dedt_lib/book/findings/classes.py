"""Class by class: what class weights change, and for which classes."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ...evaluation import rank_correlation
from ..comparisons import BETTER, COLUMNS, ENOUGH, LEVEL, WORSE, entry, judged, paired, seeds_in_words
from .words import counted, listed, p_in_words


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
            f"**Of {len(gains)} classes, reweighting improves {counted(better)}** and harms "
            f"{counted(worse)} after Holm's correction; "
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
        f"{listed(classes.names[heavy])}; of these, with an FID below the median: "
        f"{listed(classes.names[heavy & easy])}."
    )


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
