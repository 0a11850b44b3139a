"""Figures of results: class-wise values, and the tables of the book."""

import itertools
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ...data import LabelledImages
from ...evaluation import mean_interval
from ...selection import Coreset
from ..results import MODEL
from ..tables import intervals, percent
from .common import (
    LETTERS,
    WIDTH,
    Classwise,
    Labels,
    Names,
    class_bars,
    class_columns,
    class_ticks,
    finished,
    legend_above,
    panel_grid,
    plain,
    plain_ticks,
    show_tiled,
)

FLOOR = "real-vs-real FID"
"""Label of the FID between two random halves of the real images."""

MARKERS = "osD^vP*"


def classwise_bars(
    classwise: Mapping[str, Classwise], class_names: Names, floor: Classwise | None = None
) -> Figure:
    """Bars of class-wise FID; ``classwise`` maps a label to float [K], ``floor`` is drawn as short lines."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    class_bars(axes, classwise, class_names)
    if floor is not None:
        places = np.arange(len(class_names))
        floor = np.array(floor, dtype=float)
        axes.hlines(floor, places - 0.4, places + 0.4, color="0.2", lw=1.2, label=FLOOR)
    axes.set(xlabel="class", ylabel="class-wise FID")
    class_ticks(axes, class_names)
    axes.legend(title=None, fontsize=8)
    return finished(figure)


def figure_2(
    before: np.ndarray,
    after: np.ndarray,
    weights: np.ndarray,
    class_names: Names,
    floor: Classwise | None = None,
) -> Figure:
    """Class-wise FID before and after reweighting (above), and the class weights (below); paper, Fig. 2.

    Bars are means over the seeds, thin lines their 95 % intervals.

    Args:
        before: class-wise FID without weights, float [seeds, K].
        after: class-wise FID with weights, float [seeds, K].
        weights: class weights alpha, float [seeds, K].
        class_names: names of the classes, in their order.
        floor: class-wise real-vs-real FID, float [K].
    """
    K = len(class_names)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=[2, 1])
    places = np.arange(K)
    for shift, label, values in ((-0.2, "before reweighting", before), (0.2, "after reweighting", after)):
        mean, low, high = mean_interval(values)
        top.bar(places + shift, mean, width=0.38, label=label)
        top.vlines(places + shift, low, high, color="0.15", lw=1)
    if floor is not None:
        floor = np.array(floor, dtype=float)
        top.hlines(floor, places - 0.4, places + 0.4, color="crimson", lw=1.2, label=FLOOR)
    top.set(ylabel="class-wise FID")
    legend_above(figure, top)
    mean, low, high = mean_interval(K * weights)
    bottom.bar(places, mean - 1, bottom=1, width=0.6, color="C2")
    bottom.vlines(places, low, high, color="0.15", lw=1)
    bottom.axhline(1, color="0.4", lw=0.8)
    bottom.set(ylabel="class weight $K\\alpha$", xlabel="class")
    class_ticks(bottom, class_names)
    return finished(figure)


def weights_by_seed(weights: np.ndarray, class_names: Names, seeds: Sequence[int]) -> Figure:
    """Class weights K alpha, a marker for each seed; ``weights`` is alpha, float [seeds, K]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    K = len(class_names)
    shifts = np.linspace(-0.2, 0.2, len(seeds)) if len(seeds) > 1 else [0.0]
    for k, (seed, shift, values) in enumerate(zip(seeds, shifts, weights, strict=True)):
        axes.plot(np.arange(K) + shift, K * values, MARKERS[k % len(MARKERS)], ms=5, label=f"seed {seed}")
    axes.axhline(1, color="0.4", lw=0.8)
    axes.set(xlabel="class", ylabel="class weight $K\\alpha$")
    class_ticks(axes, class_names)
    if len(weights) > 1:
        axes.legend(fontsize=8)
    return finished(figure)


def weight_and_difficulty(weights: np.ndarray, before: np.ndarray, class_names: Names) -> Figure:
    """Class weight against class-wise FID before reweighting, a dot for each class.

    Dots are means over the seeds, thin lines their 95 % intervals.  Right of the vertical dashed line is the
    harder half of the classes; above the horizontal one are classes with a weight above 1/K.

    Args:
        weights: class weights alpha, float [seeds, K].
        before: class-wise FID without weights, float [seeds, K].
        class_names: names of the classes, in their order.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    x, *x_ends = mean_interval(before)
    y, *y_ends = mean_interval(len(class_names) * weights)
    axes.hlines(y, *x_ends, color="0.75", lw=1)
    axes.vlines(x, *y_ends, color="0.75", lw=1)
    axes.plot(x, y, "o", ms=17, mfc="white", mec="C0", mew=1.4, ls="none")
    for place, name in zip(zip(x, y), plain(class_names)):
        axes.annotate(name, place, ha="center", va="center", fontsize=9)
    axes.axhline(1, color="0.4", lw=1, ls="--")
    axes.axvline(np.nanmedian(x), color="0.4", lw=1, ls="--")
    axes.set(
        xlabel="class-wise FID before reweighting (harder to the right)", ylabel="class weight $K\\alpha$"
    )
    return finished(figure)


def fid_by_ratio(
    frame: pd.DataFrame,
    rows: Names,
    labels: Labels,
    *,
    dashed: Collection[str] = (),
    floor: float | None = None,
    full: str | None = None,
) -> Figure:
    """FID against the share of the data kept, a line for each row: means over the seeds, 95 % intervals.

    Args:
        frame: results of ``results.read_cells``.
        rows: names of rows in ``grid.ROWS``.
        labels: row -> printed label.
        dashed: rows drawn dashed.
        floor: real-vs-real FID, drawn as a dotted line.
        full: the row of the run on all the data, drawn as a horizontal line.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    _by_ratio(axes, frame, rows, labels, "fid", dashed, full)
    _fid_axis(axes, floor, 7, 12, 14, 17, 20, 30, 50, 100)
    return finished(figure)


def _fid_axis(axes, floor, *ticks):
    """Set up a logarithmic FID axis with labels at round numbers and ``ticks``, the floor, and the legend."""
    if floor is not None:
        axes.axhline(floor, color="crimson", lw=1.2, ls=":", label=FLOOR)
    axes.set(ylabel="FID", yscale="log")
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    plain_ticks(axes.yaxis, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, *ticks)


def fid_over_steps(frame: pd.DataFrame) -> Figure:
    """FID in the course of training, a line for each ratio: means over the seeds with 95 % intervals.

    Args:
        frame: a DataFrame of ``results.fid_over_steps``.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for k, (ratio, own) in enumerate(frame.groupby("ratio")):
        found = intervals(own, "steps")
        places = found.index.to_numpy() * (1 + 0.01 * (k - 1))
        label = "all data" if ratio == 1 else f"{100 * ratio:g} %, drawn at random"
        _line(axes, k, places, found, label)
    axes.set(xlabel="optimiser step", ylabel="FID", xscale="log", yscale="log")
    low, high = axes.get_ylim()
    more = (2.5, 4, 6, 8, 9, 12, 14) if high < 3 * low else ()
    plain_ticks(axes.yaxis, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, *more)
    steps = sorted(frame.steps.unique())
    axes.set_xticks(steps[:1] + [b for a, b in itertools.pairwise(steps) if b > 1.3 * a])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    return finished(figure, axes)


def _by_ratio(axes, frame, rows, labels, value, dashed, full):
    """Draw a line with interval bars for each row that has numbers, shifted sideways so as not to overlap."""
    ratios = sorted(frame[frame.row.isin(rows)].ratio.unique())
    width = 0.4 * min(np.diff(ratios), default=0.1) / max(1, len(rows))
    for k, row in enumerate(rows):
        found = intervals(frame[frame.row == row], "ratio", value)
        if len(found):
            places = 100 * (found.index + (k - (len(rows) - 1) / 2) * width)
            _line(axes, k, places, found, labels[row], row in dashed)
    if full is not None and (frame.row == full).any():
        mean, low, high = map(float, mean_interval(frame[frame.row == full][value]))
        axes.axhline(mean, color="C9", lw=1.4, label=labels[full])
        if low > 0 or frame[value].min() <= 0:
            axes.axhspan(low, high, color="C9", alpha=0.2, lw=0)
    axes.set(xlabel="training images kept (%)")
    axes.set_xticks([100 * ratio for ratio in ratios])


def _line(axes, k, places, found, label, dashed=False):
    """Draw the k-th line through the means of ``tables.intervals``, with bars for the intervals."""
    colour, line = ("0.25", "--") if dashed else (f"C{k}", "-")
    axes.plot(places, found["mean"], MARKERS[k % 7] + line, ms=4, lw=1.4, color=colour, label=label)
    axes.vlines(places, found.low, found.high, color=colour, lw=1)


def fid_by_images(
    frame: pd.DataFrame,
    lines: Mapping[str, Names],
    *,
    dashed: Collection[str] = (),
    floor: float | None = None,
) -> Figure:
    """FID against the images seen in training, in per cent of a run on all the data, with 95 % intervals.

    Args:
        frame: results of ``results.read_cells``.
        lines: label -> the rows on that line.
        dashed: labels of dashed lines.
        floor: real-vs-real FID, drawn as a dotted line.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    shown = {label: frame[frame.row.isin(rows)] for label, rows in lines.items()}
    for k, (label, part) in enumerate(shown.items()):
        if len(part) == 0:
            continue
        found = intervals(part, ["row", "ratio"])
        found = found.assign(seen=part.groupby(["row", "ratio"]).realised.mean()).sort_values("seen")
        _line(axes, k, 100 * found.seen, found, label, label in dashed)
    axes.set(xscale="log", xlabel="images seen in training (% of the run on all the data)")
    _fid_axis(axes, floor)
    plain_ticks(axes.xaxis, 5, 10, 20, 30, 50, 100)
    return finished(figure)


def metrics_by_ratio(
    frame: pd.DataFrame,
    rows: Names,
    labels: Labels,
    metrics: Labels,
    *,
    dashed: Collection[str] = (),
    full: str | None = None,
) -> Figure:
    """Several metrics against the share of the data kept, a panel for each: means with 95 % intervals.

    Rows and metrics without numbers are left out.  Positive metrics that span more than a factor of five get
    a logarithmic axis.

    Args:
        frame: results of ``results.read_cells``.
        rows: names of rows in ``grid.ROWS``.
        labels: row -> printed label.
        metrics: column of ``frame`` -> printed name.
        dashed: rows drawn dashed.
        full: the row of the run on all the data, drawn as a horizontal line.
    """
    shown = {value: name for value, name in metrics.items() if frame[value].notna().any()}
    if not shown:
        return finished(plt.figure(figsize=(WIDTH, 1)))
    figure, panels = panel_grid(len(shown), 3.4)
    for axes, (value, name) in zip(panels, shown.items()):
        _by_ratio(axes, frame, rows, labels, value, dashed, full)
        axes.set(ylabel=name)
        if frame[value].max() > 5 * frame[value].min() > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
    legend_above(figure, panels[0], 2)
    return finished(figure)


def differences(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Differences between rows, a line for each comparison: means with 95 % paired intervals.

    Args:
        found: name of a comparison -> its ``Page.compare``; those without results are left out.
    """
    found = {name: table for name, table in found.items() if len(table)}
    ratios = sorted({ratio for table in found.values() for ratio in table.index})
    names = [textwrap.fill(name, 42) for name in found]
    heights = [
        max(0.17 * len(table), 0.15 * (name.count("\n") + 1)) for name, table in zip(names, found.values())
    ]
    figure, axes = plt.subplots(figsize=(WIDTH, 1 + len(names) * max(heights, default=0) * 1.3))
    for k, ratio in enumerate(ratios):
        own = pd.DataFrame(
            {name: table.loc[ratio] for name, table in found.items() if ratio in table.index}
        ).T
        shift = (k - (len(ratios) - 1) / 2) * 0.6 / len(ratios)
        places = [list(found).index(name) + shift for name in own.index]
        axes.plot(own.difference, places, MARKERS[k % 7], ms=5, color=f"C{k}", label=f"{100 * ratio:g} %")
        axes.hlines(places, own.low.astype(float), own.high.astype(float), color=f"C{k}", lw=1.4)
    axes.axvline(0, color="0.15", lw=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.set(xlabel="difference in FID (below 0 is better)")
    if len(ratios) > 1:
        legend_above(figure, axes)
    return finished(figure)


def changes(table: pd.DataFrame) -> Figure:
    """The changes of FID of ``claims.changes``, a line for each claim and ratio: means with 95 % intervals."""
    named = list(zip(table.said, table.ratio))
    lines = list(dict.fromkeys(named))
    names = [textwrap.fill(f"{said}, {percent(ratio)}", 44) for said, ratio in lines]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.44 * len(lines)))
    sources = list(dict.fromkeys(table.source))
    for k, source in enumerate(sources):
        own = table[table.source == source]
        shift = (k - (len(sources) - 1) / 2) * 0.6 / len(sources)
        places = [lines.index(name) + shift for name in zip(own.said, own.ratio)]
        look = {"color": f"C{k - 1}" if k else "0.15"}
        axes.plot(1 + own.change, places, MARKERS[k % 7], ms=5, label=source, **look)
        axes.hlines(places, 1 + own.low, 1 + own.high, lw=1.4, **look)
    axes.axvline(1, color="0.15", lw=1)
    axes.set_xscale("log", base=2)
    ticks = [0.25, 0.5, 1, 2, 4, 8]
    axes.set_xticks(ticks, [f"{100 * (tick - 1):+.0f} %" if tick != 1 else "0" for tick in ticks])
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.set(xlabel="change of FID (below 0 is better)")
    legend_above(figure, axes)
    return finished(figure)


def rank_slopes(order: pd.DataFrame, labels: Labels) -> Figure:
    """Ranks of the rows in the paper and here, a panel for each ratio; lines cross where the orders disagree.

    Args:
        order: the DataFrame of ``findings.same_order``.
        labels: row -> printed label.
    """
    rows = list(dict.fromkeys(row for ranked in order["paper"] for row in ranked))
    figure, grid = panel_grid(len(order), 0.42 * len(rows) + 1.1, columns=4, sharey=True)
    for axes, (ratio, entry) in zip(grid, order.iterrows()):
        for k, row in enumerate(rows):
            if row in entry["paper"]:
                ends = entry["paper"].index(row) + 1, entry["ours"].index(row) + 1
                axes.plot(
                    [0, 1], ends, MARKERS[k % 7], ls="-", color=f"C{k}", lw=1.6, ms=5, label=labels[row]
                )
        axes.set(title=ratio, xlim=(-0.15, 1.15))
        axes.set_xticks([0, 1], ["paper", "here"])
        axes.set_yticks(range(1, len(rows) + 1))
        axes.grid(False)
    grid[0].invert_yaxis()
    grid[0].set_ylabel("rank by FID (1 is best)")
    legend_above(figure, grid[0], 2)
    return finished(figure)


def cost_bars(ledgers: Mapping[str, Mapping[str, float]], full: float) -> Figure:
    """Cost of each recipe up to its trained model, stage by stage, in units of one run on all the data.

    Args:
        ledgers: label -> {stage: cost}.
        full: cost of the run on all the data, in the same unit.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.5 * len(ledgers) + 1.2))
    labels = list(ledgers)
    left = np.zeros(len(labels))
    for k, stage in enumerate(MODEL):
        values = np.array([ledgers[label].get(stage, 0) for label in labels]) / full
        if values.max(initial=0) > 0.005:
            hatch = ("", "//", "..", "xx")[k % 4]
            axes.barh(
                labels, values, left=left, color=f"C{k}", label=stage, hatch=hatch, edgecolor="white", lw=0
            )
        left += values
    axes.axvline(1, color="0.3", ls="--", lw=1)
    axes.invert_yaxis()
    axes.set(xlabel="cost (one run on all the data = 1)")
    axes.legend(fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    return finished(figure)


def speedup_by_ratio(panels: Mapping[str, Mapping[str, Sequence[float]]], ratios: Sequence[float]) -> Figure:
    """Speed-ups against the share of the data kept, a panel for each recipe; 1 is the run on all the data.

    Args:
        panels: recipe -> {series: speed-up at each of ``ratios``, NaN where there is none}; the first
            series is the ideal speed-up and is drawn as a wide line.
        ratios: shares of the data that are kept.
    """
    figure, grid = panel_grid(len(panels), 3.3, columns=3, sharey=True)
    for axes, (title, series) in zip(grid, panels.items()):
        for k, (label, values) in enumerate(series.items()):
            style: dict[str, Any] = {"color": "0.8", "lw": 5}  # the other lines may cover it
            if k:
                style = {"marker": MARKERS[k - 1], "color": f"C{k - 1}", "lw": 1.4, "ms": 5}
            axes.plot(100 * np.asarray(ratios), values, label=label, **style)
        axes.axhline(1, color="0.15", lw=1)
        axes.set(title=title, xlabel="images kept (%)", yscale="log")
        axes.set_xticks(100 * np.asarray(ratios))
        axes.title.set_fontsize(9)
    grid[0].set_ylabel("speed-up")
    plain_ticks(grid[0].yaxis, 0.5, 1, 2, 3, 5, 10)
    legend_above(figure, grid[0])
    return finished(figure)


def front_page(
    data: LabelledImages,
    coreset: Coreset,
    weights: np.ndarray,
    samples: np.ndarray,
    classwise_before: Classwise,
    classwise_after: Classwise,
) -> Figure:
    """The method in one picture: kept images, samples, class weights, and class-wise FID."""
    from ...sampling import proportional_labels

    K = len(data.class_names)
    figure = plt.figure(figsize=(WIDTH * 1.35, 3.7))
    grid = figure.add_gridspec(2, 3, width_ratios=[1.1, 1.1, 1])
    kept = class_columns(data.images[coreset.kept], data.labels[coreset.kept], K)
    show_tiled(figure.add_subplot(grid[:, 0]), kept, K, f"{100 * coreset.ratio:.0f} % kept")
    labels = proportional_labels(len(samples), data.class_counts)
    shown = class_columns(samples, labels, K)
    show_tiled(figure.add_subplot(grid[:, 1]), shown, K, "samples of the model")
    top, bottom = figure.add_subplot(grid[0, 2]), figure.add_subplot(grid[1, 2])
    top.bar(range(K), K * weights - 1, bottom=1, color="C2")
    top.axhline(1, color="0.4", lw=0.8)
    top.set(title="class weights $K\\alpha$")
    places = np.arange(K)
    before, after = np.array([classwise_before, classwise_after], dtype=float)
    bottom.bar(places - 0.2, before, width=0.38, label="unweighted")
    bottom.bar(places + 0.2, after, width=0.38, label="weighted")
    bottom.set(title="class-wise FID")
    bottom.legend(fontsize=7)
    for axes in (top, bottom):
        class_ticks(axes, data.class_names, LETTERS // 3)
    return finished(figure)
