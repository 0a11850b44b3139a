"""The results of the look at photographs, as text and as an HTML page."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from ..clusters import principal
from ..data import Listing, Reading
from ..data.labelled import in_conflict, originals_of
from ..data.look import ISSUES, NEAR, Look, groups_of_copies, leaks
from ..files import atomic, from_everywhere
from .common import bars, data_uri, write_page

if TYPE_CHECKING:
    from ..stages.lab import Lab

SHOWN, NEIGHBOURS = 24, 20
OUTLIERS = 0.01
"""Share of the images that are shown as outliers: those least similar to the others."""
MEANING = {
    "bad": "images that cannot be read",
    "duplicates": "exact copies of another image of the same class",
    "conflicts": "exact copies of an image of another class",
    "near": "near copies of another image of the same class (perceptual hash)",
    "leaks": "training images with a copy or near copy among the held-out images",
    "blank": "images with little information",
    "dark": "very dark images",
    "light": "very bright images",
    "blurry": "images without sharp edges",
    "odd shape": "longer side nearly three times the shorter, or more",
    "outliers": "the 1 % of images least similar to the others, by their features",
}


@dataclass(frozen=True)
class Findings:
    """Results of the look at a data set.

    Attributes:
        listing: The images.
        look: Their properties.
        places: Kind of finding -> indices of the images.
        of: "duplicates" or "near" -> for each image, the index of the copy that stays, int64 [n].
        rows: The findings as text: (finding, count, remark).
        charts: Data of the page's charts.
    """

    listing: Listing
    look: Look
    places: dict[str, np.ndarray]
    of: dict[str, np.ndarray]
    rows: list[tuple[str, str, str]]
    charts: dict[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """The table of the look, one row per image."""
        return self.look.table

    @property
    def reading(self) -> Reading:
        """What was left out of the images, those that cannot be read included."""
        bad = len(self.places["bad"])
        return self.listing.reading.without(bad, "unreadable") if bad else self.listing.reading

    def dropped(self, kinds: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """The images that ``--drop`` leaves out, and which other images they copy.

        Near copies, including exact ones, are searched last, among the images that would otherwise stay.

        Returns:
            id -> the first of ``kinds`` that applies, or that of the image that it copies; id of a copy -> id
            of the image that stays.
        """
        why = {int(i): kind for kind in reversed(kinds) if kind != "near" for i in self.places.get(kind, ())}
        if "near" in kinds:
            stay = np.setdiff1d(np.arange(len(self.table)), list(why))
            near = stay[copies(self.table.iloc[stay], self.listing.labels[stay])["near"]]
            why |= dict.fromkeys(stay[near != stay].tolist(), "near")
        original = {i: int(self.of[kind][i]) for i, kind in why.items() if kind == "duplicates"}
        if "near" in kinds:
            original |= {i: k for i, k in zip(stay.tolist(), near.tolist()) if i != k}

        def stays(i: int) -> int:
            return stays(original[i]) if i in original else i

        last, ids = {i: stays(i) for i in original}, self.listing.ids
        why |= {i: why[k] for i, k in last.items() if k in why}
        copy_of = {ids[i]: ids[k] for i, k in last.items() if k not in why}
        return {ids[i]: kind for i, kind in why.items()}, copy_of


def meaning(kind: str, listing: Listing) -> str:
    """What a kind of finding means, in words; of images without classes none is of the same class."""
    said = MEANING[kind]
    return said if listing.class_names else said.replace(" of the same class", "")


def copies(table: pd.DataFrame, labels: np.ndarray) -> dict[str, np.ndarray]:
    """For each image, the index of the image that it copies, or its own index: kind -> int64 [n].

    The kinds are "exact", "duplicates" (exact within its class) and "near" (near or exact within its class).
    Of near copies, an image without issues stays, and the largest of several such images, whatever its place.
    """
    flawed = np.any([table[name] for name in ISSUES], axis=0)
    order = np.lexsort((-(table["width"] * table["height"]), flawed))
    near = np.empty(len(table), dtype=np.int64)
    near[order] = order[groups_of_copies(table.iloc[order], NEAR, labels[order])]
    exact = groups_of_copies(table)
    return {"exact": exact, "duplicates": originals_of(exact, labels), "near": near}


def findings(lab: "Lab", *, quick: bool = False) -> Findings:
    """Look at the training images of a lab, and search for their copies among its held-out images.

    Args:
        lab: A lab with photographs.
        quick: Skip the features, and therefore the outliers.
    """
    stage = lab.photographs
    listing = stage.listing
    assert listing is not None  # only held-out images may be missing
    seen = stage.look
    table = seen.table
    of, own = copies(table, listing.labels), np.arange(len(table))
    exact = of.pop("exact")
    conflicts = np.flatnonzero(in_conflict(exact, listing.labels))
    places = {
        "bad": np.flatnonzero(~seen.readable),
        "duplicates": np.flatnonzero(of["duplicates"] != own),
        "conflicts": conflicts[np.argsort(exact[conflicts], kind="stable")],
        "near": np.flatnonzero((of["near"] != own) & (of["duplicates"] == own)),
        **{name: np.flatnonzero(table[name]) for name in ISSUES},
    }
    test = type(stage)(lab, "test")
    if test.listing is not None:
        places["leaks"] = np.flatnonzero(leaks(test.look.table, table))
    seconds = None
    if not quick and seen.readable.any():
        places["outliers"], seconds = _outliers(lab, seen)
    rows = [*_facts(listing, table)]
    rows += [
        (kind, f"{len(found):,}", meaning(kind, listing)) for kind, found in places.items() if len(found)
    ]
    rows += [] if any(map(len, places.values())) else [("findings", "0", "no problems found")]
    if seconds is not None:
        seconds += lab.store.manifest(stage.folder)["seconds"]
        took = "spent here on looking and embedding, which `dedt select` reuses"
        rows.append(("select", f"{seconds:.0f} s", took))
    from ..stages.embed import number_of_clusters

    n = int(seen.readable.sum())
    if n and (len(listing.class_names) or number_of_clusters(lab.profile, n)) > 1:
        rows.append(_run(lab, n))
    return Findings(listing, seen, places, of, rows, _charts(table))


def _facts(listing: Listing, table: pd.DataFrame) -> list[tuple[str, str, str]]:
    good = table[table["error"] == ""]
    sides = np.stack([good["width"], good["height"]])
    sizes = median = ""
    if len(good):
        (width, height), (wide, high) = sides.min(1), sides.max(1)
        sizes = f"{_span(width, wide)} pixels wide, {_span(height, high)} high"
        median = f"median of the shorter sides: {int(np.median(sides.min(0)))}"
    kinds, modes = (
        ", ".join(f"{count:,} {kind}" for kind, count in Counter(good[name]).most_common())
        for name in ("format", "mode")
    )
    rows = [("images", f"{len(table):,}", sizes), ("sizes", "", median)]
    rows.append(("formats", "", f"{kinds}; modes: {modes}"))
    if listing.class_names:
        counts = listing.class_counts
        ends = [f"{listing.class_names[k]} {counts[k]:,}" for k in (counts.argmax(), counts.argmin())]
        equal = f"{', '.join(ends)} images" if np.ptp(counts) else f"{counts[0]:,} images each"
        rows.append(("classes", f"{len(counts):,}", equal))
    if listing.captions:
        rows.append(("captions", f"{sum(map(bool, listing.captions)):,}", ""))
    return rows


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _run(lab: "Lab", n: int) -> tuple[str, str, str]:
    """A row on what ``dedt run`` does with ``n`` images, with the command that estimates its duration."""
    from ..experiment import Experiment

    run = Experiment(lab.with_counts([n]))
    ratio, samples = f"{run.recipe.ratio:g}", lab.profile.sample.count
    steps, p = run.steps_at(run.recipe.ratio), lab.profile.data
    named = (("--label", p.label), ("--caption", p.caption))
    words = [from_everywhere(p.path), *(word for option in named if option[1] for word in option)]
    how_long = f"dedt run {shlex.join(words)} --ratio {ratio} --dry-run"
    if not steps:
        return "run", "0 steps", f"at ratio {ratio}: too few images to train on"
    return "run", f"{steps:,} steps", f"at ratio {ratio}, and {samples:,} samples; time estimate: {how_long}"


def _outliers(lab: "Lab", seen: Look) -> tuple[np.ndarray, float]:
    """Indices of the images farthest from their 20th neighbour, and the seconds that the features took."""
    from sklearn.neighbors import NearestNeighbors

    from ..stages.embed import Embed, encoder

    stage = Embed(lab, encoder(lab))
    features, took = stage.result(), stage.manifest()["seconds"]
    good = np.flatnonzero(seen.readable)
    count = round(OUTLIERS * len(good))
    if count == 0 or len(good) <= NEIGHBOURS:
        return good[:0], took
    reduced = principal(features)
    distances = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(reduced).kneighbors(reduced)[0][:, -1]
    return np.sort(good[np.argsort(-distances, kind="stable")[:count]]), took


def _charts(table: pd.DataFrame) -> dict[str, Any]:
    good = table[table["error"] == ""]
    short = np.minimum(good["width"], good["height"]).to_numpy()
    if not len(short):
        return {}
    edges = np.unique(np.round(np.geomspace(max(1, short.min()), short.max() + 1, 25)))
    return {"sizes": bars([np.histogram(short, edges)[0]])[0], "low": int(edges[0]), "high": int(edges[-1])}


def write_look(found: Findings, folder: Path) -> None:
    """Write ``look.html``, with pictures of the findings, and ``look.csv``, which lists all of them."""
    listing, groups = found.listing, []
    ids, names, counts = listing.ids, listing.class_names, listing.class_counts.tolist()
    told = [
        (kind, ids[i], ids[found.of[kind][i]] if kind in found.of else "")
        for kind, places in found.places.items()
        for i in places
    ]
    with atomic(folder / "look.csv") as partial:
        pd.DataFrame(told, columns=["finding", "image", "stays"]).to_csv(partial, index=False)
    for kind, places in found.places.items():
        if not len(places):
            continue
        shown = places[:SHOWN].tolist()
        if kind in found.of:
            shown = [i for place in shown[: SHOWN // 2] for i in (int(found.of[kind][place]), place)]
        groups.append(
            {"kind": kind, "count": len(places), "meaning": meaning(kind, listing), "images": shown}
        )
    drawn = {i for group in groups for i in group["images"]}
    write_page(
        folder / "look.html",
        "look.html.j2",
        title=f"{listing.name}: {len(found.table):,} images",
        reading=found.reading.line,
        rows=found.rows,
        groups=groups,
        pictures={i: data_uri(Image.fromarray(found.look.thumbnails[i].transpose(1, 2, 0))) for i in drawn},
        ids=ids,
        table=found.table,
        charts=found.charts,
        classes=sorted(zip(counts, names), reverse=True) if names else [],
    )
