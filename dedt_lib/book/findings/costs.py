"""What recipes cost, and whether models copy."""

from collections.abc import Iterable

import pandas as pd

from ..comparisons import between
from ..grid import LABELS
from ..tables import intervals, percent


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
