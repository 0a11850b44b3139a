"""The class weights: whether seeds agree on them, and what they depend on."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation import concordance, holm, mean_interval
from ..comparisons import BETTER, ENOUGH, LEVEL, OPEN, WORSE, Page, between, entry, seeds_in_words
from ..tables import percent
from .compared import of_networks
from .words import p_in_words


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
    most = _bounds_in_words([lines.loc[ratio] for lines in of_networks(own, "moderate-reweighted", null)])
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
