"""The paper's comparisons beside those of this book, as changes of FID in per cent, which have one scale."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..evaluation import mean_interval
from . import paper
from .comparisons import ENOUGH, seeds_in_words, side_by_side
from .tables import percent

PAPER = "the paper"
"""Source of the published changes in the table of :func:`changes`."""


class Claim(NamedTuple):
    """A comparison that the paper makes, or a control that it lacks.

    Attributes:
        said: The two rows in words.
        place: Where the paper has it; "" for a control of this book.
        row, other: The rows of ``grid.ROWS``.
        ratios: Shares of the images for which it is shown.
        published: The table of ``dedt_lib.book.paper`` with both rows.
        instead: Rows of other results that stand for those of the paper: row -> row.
    """

    said: str
    place: str
    row: str
    other: str
    ratios: tuple[float, ...] = (0.1,)
    published: dict[str, Any] = paper.TABLE_1
    instead: dict[str, str] = {}


OURS, ANNEALED = "moderate-reweighted", "moderate-reweighted-annealed"
ENDS = (0.1, 0.4)
BUDGET = {"infobatch-annealed": "infobatch-budget-annealed"}
CLAIMS = (
    Claim("the recipe, against a random coreset", "Table I", OURS, "random", ENDS),
    Claim("the recipe, against all the data", "Table I", OURS, "full", ENDS),
    Claim("Moderate-DS, against a random coreset", "Table I", "moderate", "random"),
    Claim(
        "Moderate-DS by CLIP, against a random coreset",
        "Table I",
        "clip-moderate",
        "random",
        instead={"clip-moderate": "lite0-moderate"},
    ),
    Claim(
        "Gaussian by Inception, against a random coreset",
        "Table I",
        "inceptionv3-gaussian",
        "random",
        ENDS,
        instead={"inceptionv3-gaussian": "lite0-gaussian"},
    ),
    Claim("class weights, against none", "Table I", OURS, "moderate", ENDS),
    Claim("the recipe, against InfoBatch, both annealed", "Table II", ANNEALED, "infobatch-annealed",
          published=paper.TABLE_2, instead=BUDGET),
    Claim("the annealed recipe, against all the data", "Table II", ANNEALED, "full", published=paper.TABLE_2),
    Claim("MDT: the recipe by the Gaussian, against a random coreset", "Table IV", "mdt-gaussian-reweighted",
          "mdt-random", (0.2,), paper.TABLE_4_FID),
    Claim("MDT: the recipe by the Gaussian, against all the data", "Table IV", "mdt-gaussian-reweighted",
          "mdt-full", (0.2,), paper.TABLE_4_FID),
    Claim("Stable Diffusion: Moderate-DS, against all the data", "Table V", "sd-moderate", "sd-full", (0.4,),
          paper.TABLE_5),
    Claim("the recipe, against all the data at equal steps", "", OURS, "early-stopping", ENDS),
    Claim("a random coreset, against all the data at equal steps", "", "random", "early-stopping"),
)  # fmt: skip
"""The comparisons, in the order of the paper's tables, then the controls."""


def changes(frames: Mapping[str, pd.DataFrame], claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """The change of FID from ``other`` to ``row`` for each claim, in the paper and here.

    Args:
        frames: name of a set of images -> its results, of ``results.read_cells``.
        claims: the comparisons.

    Returns:
        A line for each claim, ratio and source that has it.  Columns: said, place, ratio, source (PAPER, or a
        name of ``frames``), change (of the geometric mean over the paired seeds, as a share: 0.5 is 50 % more),
        low and high (95 % interval of the paired logarithms; NaN for the paper and for one seed), seeds.
    """
    lines = []
    for claim in claims:
        for ratio in claim.ratios:
            found = {PAPER: _published(claim, ratio)}
            found |= {name: _change(frame, claim, ratio) for name, frame in frames.items()}
            for source, values in found.items():
                if values:
                    lines.append((claim.said, claim.place, ratio, source, *values))
    columns = ["said", "place", "ratio", "source", "change", "low", "high", "seeds"]
    return pd.DataFrame(lines, columns=columns)


def _published(claim: Claim, ratio: float) -> tuple[float, ...]:
    """The paper's (change, NaN, NaN, 1), or () where it does not have both rows."""
    ours, theirs = (paper.by_ratio(claim.published, row) for row in (claim.row, claim.other))
    fid, other = ours.get(ratio), theirs.get(ratio, theirs.get(1.0))
    return (fid / other - 1, np.nan, np.nan, 1) if claim.place and fid and other else ()


def _change(frame: pd.DataFrame, claim: Claim, ratio: float) -> tuple[float, ...]:
    """(change, low, high, seeds) in a set of results, or () without a seed that has both rows."""
    there = set(frame.row)
    row, other = (
        name if name in there else claim.instead.get(name, name) for name in (claim.row, claim.other)
    )
    both = side_by_side(frame, row, other, "fid")
    both = both[both.index.get_level_values("ratio") == ratio]
    if both.empty:
        return ()
    logarithms = np.log(both[row]) - np.log(both[other])
    return (*np.expm1(mean_interval(logarithms)).tolist(), len(both))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`changes` as the book prints it: a line for each claim and ratio, a column a source."""
    usual = table[table.source != PAPER].groupby("source").seeds.max()
    sources = list(dict.fromkeys([PAPER, *table.source]))
    entries: dict[tuple[str, ...], dict[str, str]] = {}
    for line in table.itertuples():
        named = line.said, line.place or "not in the paper", percent(line.ratio)
        entries.setdefault(named, {})[line.source] = entry(line, usual.get(line.source))
    found = pd.DataFrame.from_dict(entries, orient="index", columns=sources).fillna("–")
    found.index = pd.MultiIndex.from_tuples(list(entries), names=["FID of", "where", "images kept"])
    return found


def agreement_in_words(table: pd.DataFrame) -> str:
    """For each set of images, which intervals exclude zero on the paper's side, and which on the other.

    Only comparisons with ENOUGH seeds count.
    """
    published = table[table.source == PAPER].set_index(["said", "ratio"]).change
    said = []
    for source, own in table[table.source != PAPER].groupby("source", sort=False):
        own = own[own.seeds >= ENOUGH].set_index(["said", "ratio"])
        own = own[own.index.isin(published.index)]
        clear, same = (own.low > 0) | (own.high < 0), (own.change > 0) == (published.reindex(own.index) > 0)
        groups = {"on the paper's side": own.index[clear & same], "on the other": own.index[clear & ~same]}
        told = [
            f"{len(index)} {side}"
            + f" ({'; '.join(f'{name}, {percent(ratio)}' for name, ratio in index)})" * (len(index) > 0)
            for side, index in groups.items()
        ]
        counted = f"{len(own)} comparison{'s' * (len(own) != 1)} of the paper with {ENOUGH} seeds"
        said.append(
            f"**{source}:** of {counted}, {clear.sum()} have an interval without zero: {' and '.join(told)}."
        )
    return "\n\n".join(said) or "No results yet."


def entry(line: Any, usual: float | None = None) -> str:
    """A change as text: +57 % (46 to 69), with the number of seeds where it is not the ``usual`` one."""
    mean, low, high = (f"{100 * value:z.0f}" for value in (line.change, line.low, line.high))
    inside = [] if np.isnan(line.low) else [f"{low} to {high}"]
    if line.source != PAPER and line.seeds != usual:
        inside.append(seeds_in_words(line.seeds))
    return f"{'+' if line.change > 0 else ''}{mean} %" + f" ({', '.join(inside)})" * bool(inside)
