"""Figures of images, features and coresets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...arrays import thin
from ...data import LabelledImages
from ...selection import Coreset
from .common import (
    MOST_NAMED,
    WIDTH,
    Arrays,
    Names,
    beside,
    class_bars,
    class_columns,
    class_ticks,
    finished,
    legend_above,
    panel_grid,
    plain,
    show_tiled,
)
from .sample import image_grid


def example_images(data: LabelledImages, per_class: int = 10) -> Figure:
    """The first images of each class, a column for each class."""
    K = len(data.class_names)
    return image_grid(class_columns(data.images, data.labels, K, per_class), columns=K)


def plane(features: np.ndarray) -> np.ndarray:
    """Features float [n, d] projected on their first two principal axes: float [n, 2]."""
    from sklearn.decomposition import PCA

    return PCA(2, svd_solver="full").fit_transform(features)


def feature_planes(features: Arrays, labels: np.ndarray, class_names: Names) -> Figure:
    """Several encoders' features, each in its own principal plane, coloured by class.

    Args:
        features: encoder -> float [n, d].
        labels: int [n].
        class_names: names of the classes, in their order.
    """
    figure, panels = panel_grid(len(features), 3.3 if len(features) < 3 else 2.9)
    for axes, (title, values) in zip(panels, features.items()):
        x, y = plane(values).T
        for k, name in enumerate(plain(class_names)):
            axes.scatter(x[labels == k], y[labels == k], s=7, color=f"C{k % 10}", linewidths=0, label=name)
            middle = np.median(x[labels == k]), np.median(y[labels == k])
            if len(class_names) <= MOST_NAMED:
                axes.text(*middle, name, ha="center", va="center", fontsize=9, weight="bold")
        axes.set(title=title, xticks=[], yticks=[])
    right: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    figure.legend(*panels[0].get_legend_handles_labels(), title="class", markerscale=2, **right)
    return finished(figure)


def score_plane(features: np.ndarray, coresets: Mapping[str, Coreset], of_class: int) -> Figure:
    """One class in its own principal plane: bright images are ranked early, ringed ones are kept.

    Args:
        features: float [n, d].
        coresets: label -> Coreset.
        of_class: number of the class.
    """
    figure, panels = panel_grid(len(coresets), 2.9, columns=len(coresets), sharex=True, sharey=True)
    members = np.flatnonzero(next(iter(coresets.values())).labels == of_class)
    x, y = plane(features[members]).T
    for axes, (label, coreset) in zip(panels, coresets.items()):
        kept = coreset.kept[members]
        axes.scatter(x, y, c=-coreset.rank[members], s=14, cmap="viridis", linewidths=0)
        axes.scatter(x[kept], y[kept], s=46, facecolors="none", edgecolors="crimson", linewidths=1)
        axes.set(title=label, xticks=[], yticks=[])
    return finished(figure)


def distance_strips(distances: np.ndarray, coresets: Mapping[str, Coreset], class_names: Names) -> Figure:
    """Distance of every image to the centre of its class, a row for each class; kept images are red.

    Args:
        distances: float [n].
        coresets: label -> Coreset.
        class_names: names of the classes, in their order.
    """
    figure, panels = panel_grid(len(coresets), 3.4, columns=len(coresets), sharex=True, sharey=True)
    for axes, (label, coreset) in zip(panels, coresets.items()):
        for kept, color, size in ((False, "0.75", 4), (True, "crimson", 9)):
            chosen = coreset.kept == kept
            axes.scatter(distances[chosen], coreset.labels[chosen], s=size, color=color, linewidths=0)
        axes.set_title(label)
    names = plain(name if len(name) <= 20 else f"{name[:19]}…" for name in class_names)
    panels[0].set(ylabel="class", yticks=range(len(names)), yticklabels=names)
    figure.supxlabel("distance to centre", fontsize=panels[0].yaxis.label.get_fontsize())
    return finished(figure)


def score_histogram(coreset: Coreset, label: str, of_class: int) -> Figure:
    """Histogram of the scores of one class, kept and removed images stacked; ``label`` names the x axis."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6))
    members = coreset.labels == of_class
    fate = np.where(coreset.kept[members], "kept", "removed")
    how = {"hue_order": ["removed", "kept"], "multiple": "stack", "bins": 30}
    sns.histplot(x=coreset.scores[members], hue=fate, ax=axes, **how)
    axes.set(xlabel=label, ylabel="images")
    return finished(figure)


def kept_and_removed(
    images: np.ndarray,
    coresets: Mapping[str, Coreset],
    per_side: int = 6,
    drawn: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Kept images beside removed ones: a row for each of the first twelve classes, two columns per coreset.

    The kept images shown are those ranked first, the removed ones those ranked last.

    Args:
        images: uint8 [n, C, H, W].
        coresets: label -> Coreset.
        per_side: number of images in a row of a column.
        drawn: samples of a model, uint8 [m, C, H, W], and their labels, int [m], for one more column.
    """
    first = next(iter(coresets.values()))
    classes = range(min(12, len(first.class_names)))
    blank = np.full((per_side, *images.shape[1:]), 235, dtype=np.uint8)
    sheets: dict[str, list[np.ndarray]] = {}

    def add(title: str, chosen: np.ndarray) -> None:
        sheets.setdefault(title, []).append(np.concatenate([chosen, blank])[:per_side])

    for label, coreset in coresets.items():
        for c in classes:
            members = np.flatnonzero(coreset.labels == c)
            order = members[np.argsort(coreset.rank[members], kind="stable")]
            add(f"{label}\nkept", images[order[coreset.kept[order]]])
            add(f"{label}\nremoved", images[order[~coreset.kept[order]][::-1]])
    if drawn:
        for c in classes:
            add("samples\nof a model", drawn[0][drawn[1] == c])
    height, width = images.shape[2:]
    row = WIDTH / (len(sheets) * per_side) * height / width
    figure, panels = panel_grid(len(sheets), 1.15 * row * len(classes) + 0.6, columns=len(sheets))
    for axes, (title, shown) in zip(panels, sheets.items()):
        show_tiled(axes, np.concatenate(shown), per_side)
        axes.set_title(title, fontsize=9)
    for place, name in enumerate(plain(first.class_names[c] for c in classes)):
        centre = (place + 0.5) / len(classes)
        beside(panels[0], -0.02, 1 - centre, name)
    return finished(figure)


def kept_by_ratio(
    images: np.ndarray, coresets: Mapping[float, Mapping[str, Coreset]], of_class: int, shown: int = 24
) -> Figure:
    """Scores and images of one class, a row for each ratio and a column for each selector.

    The images are in the order of their scores; removed ones are faded.

    Args:
        images: uint8 [n, C, H, W].
        coresets: ratio -> label -> Coreset, with the same labels at each ratio.
        of_class: number of the class.
        shown: maximum number of images in a panel, evenly spaced in the order.
    """
    columns = len(next(iter(coresets.values())))
    figure, panels = plt.subplots(
        2 * len(coresets), columns, figsize=(WIDTH, 1.9 * len(coresets) + 0.2), squeeze=False
    )
    for row, (ratio, at_ratio) in enumerate(coresets.items()):
        for column, (label, coreset) in enumerate(at_ratio.items()):
            above, below = panels[2 * row : 2 * row + 2, column]
            members = np.flatnonzero(coreset.labels == of_class)
            order = members[np.argsort(coreset.scores[members], kind="stable")]
            split = [coreset.scores[order[coreset.kept[order] == kept]] for kept in (False, True)]
            bins = np.histogram_bin_edges(coreset.scores[order], 30)
            above.hist(split, bins, stacked=True, label=["removed", "kept"], color=["0.8", "C3"], linewidth=0)
            above.set(yticks=[])
            above.tick_params(labelsize=7)
            above.set_title(f"{label}, ratio {ratio:g}", fontsize=9)
            order = thin(order, shown)
            faded = (235 - 0.2 * (235 - images[order].astype(float))).astype(np.uint8)
            kept = coreset.kept[order][:, None, None, None]
            show_tiled(below, np.where(kept, images[order], faded), -(-len(order) // 2))
    panels[0, 0].legend(fontsize=7)
    return finished(figure)


def class_counts(counts: Arrays, class_names: Names, what: str = "images kept") -> Figure:
    """Number of images in each class; ``counts`` maps a label to int [K], ``what`` names the axis."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    class_bars(axes, counts, class_names)
    axes.set(xlabel="class", ylabel=what)
    axes.tick_params(axis="x", labelsize=8)
    class_ticks(axes, class_names)
    if len(counts) > 1:
        legend_above(figure, axes)
    axes.get_legend().remove()
    return finished(figure)


def neighbours(data: LabelledImages, nearest: Arrays) -> Figure:
    """Images (first column) and their nearest neighbours, a panel for each encoder.

    Neighbours of another class are framed.

    Args:
        data: the images.
        nearest: encoder -> indices, int [rows, 1 + neighbours], the image itself first.
    """
    figure, panels = panel_grid(len(nearest), 3.6, columns=4)
    height, width = data.images.shape[2:]
    gap = max(1, height // 8)
    for axes, (title, rows) in zip(panels, nearest.items()):
        show_tiled(axes, data.images[rows.ravel()], rows.shape[1], title)
        axes.title.set_fontsize(9)
        wrong = data.labels[rows] != data.labels[rows[:, :1]]
        for row, column in zip(*np.nonzero(wrong)):
            corner = (column * (width + gap) - 0.5, row * (height + gap) - 0.5)
            axes.add_patch(plt.Rectangle(corner, width, height, fill=False, ec="C3", lw=1.6, clip_on=False))
        axes.axvline(width + gap / 2 - 0.5, color="0.3", lw=1)
    return finished(figure)


def overlap_map(coresets: Mapping[str, Coreset]) -> Figure:
    """Percentage of each coreset (rows) that another one (columns) keeps too."""
    labels = list(coresets)
    shares = np.array(
        [[100 * np.isin(a.indices, b.indices).mean() for b in coresets.values()] for a in coresets.values()]
    )
    figure, axes = plt.subplots(figsize=(min(WIDTH, 2.6 + 0.9 * len(labels)), 1.2 + 0.55 * len(labels)))
    how = {"annot": True, "fmt": ".0f", "cmap": "cividis", "vmin": 0, "vmax": 100, "linewidths": 1}
    bar = {"label": "images in both (%)"}
    sns.heatmap(shares, ax=axes, xticklabels=labels, yticklabels=labels, cbar_kws=bar, **how)
    axes.tick_params(axis="x", rotation=25)
    axes.tick_params(axis="y", rotation=0)
    return finished(figure)
