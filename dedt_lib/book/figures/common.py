"""Parts that the figures share: the theme, sheets of images, panels, class labels."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

WIDTH = 7.2
"""Width of a figure in inches."""
LETTERS = 75
"""Number of letters of class names that fit side by side into that width."""

Classwise = Sequence[float | None] | np.ndarray
"""A number for each class; None or NaN where it is missing."""

Names = Sequence[str]
"""Names of classes or rows, in their order."""

Labels = Mapping[str, str]
"""Name -> printed label."""

Arrays = Mapping[str, np.ndarray]
"""Label -> array."""

Reading = Mapping[str, Any]
"""What ``Experiment.reweight`` or ``results.reading`` returns."""

sns.set_theme(style="whitegrid", context="notebook", palette="colorblind", font_scale=0.9)
plt.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110})
# For class names in scripts that matplotlib's default font lacks.
FALLBACK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Hiragino Sans", "PingFang SC", "Arial Unicode MS")
plt.rcParams["font.family"] = ["sans-serif", *(f for f in FALLBACK if f in font_manager.get_font_names())]
MOST_NAMED = 25
"""The largest number of classes whose names fit beside one another."""


def plain_ticks(axis: Axis, *ticks: float) -> None:
    """Label a logarithmic axis with plain numbers instead of powers of ten, at those ticks in its range."""
    low, high = axis.get_view_interval()
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_ticks([], minor=True)


def plain(names: Iterable[str]) -> list[str]:
    """Class names with ``$`` escaped, which would start a formula in matplotlib."""
    return [str(name).replace("$", r"\$") for name in names]


def class_ticks(axes: Axes, names: Names, letters: int = LETTERS) -> None:
    """Label the classes on an x axis that has room for so many letters; names that would touch are tilted.

    With more than MOST_NAMED classes, only every second (third, ...) class gets a name.
    """
    each = -(-len(names) // MOST_NAMED)
    shown = plain(names)[::each]
    crowded = any(len(a) + len(b) + 2 > 2 * letters / len(shown) for a, b in pairwise(shown))
    tilted: dict[str, Any] = {"rotation": 35, "ha": "right"} if crowded else {}
    axes.set_xticks(range(0, len(names), each), shown, **tilted)


def class_bars(axes: Axes, values: Mapping[str, Classwise], names: Names) -> None:
    """Bars for each class, one for each label side by side; ``values`` maps a label to float [K]."""
    rows = [(name, label, x) for label, row in values.items() for name, x in zip(plain(names), row)]
    table = pd.DataFrame(rows, columns=["class", "label", "value"])
    sns.barplot(table.astype({"value": float}), x="class", y="value", hue="label", ax=axes)


def legend_above(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """Put the legend of one panel above all panels, in one line or in ``columns`` columns."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, fontsize=8, ncols=columns or len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )


def finished(figure: Figure, legend: Axes | None = None) -> Figure:
    """Lay out a figure and release it from pyplot; ``legend`` is a panel that gets a legend."""
    if legend is not None:
        legend.legend(fontsize=8)
    figure.tight_layout()
    plt.close(figure)
    return figure


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Images uint8 [n, C, H, W] as one array [rows * H', columns * W'(, 3)] with thin light gaps."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    gap = max(1, height // 8)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 235, dtype=np.uint8
    )
    for k, image in enumerate(images):
        y, x = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return sheet[:, :, 0] if channels == 1 else sheet


def class_columns(images: np.ndarray, labels: np.ndarray, num_classes: int, rows: int = 10) -> np.ndarray:
    """The first images of each class, to be tiled in K columns, one per class: uint8 [rows * K, C, H, W].

    The number of rows is that of the largest class, at most ``rows``; a smaller class leaves the rest of its
    column blank.

    Args:
        images: uint8 [n, C, H, W].
        labels: int [n].
        num_classes: K.
        rows: maximum number of rows.
    """
    places = [np.flatnonzero(labels == k)[:rows] for k in range(num_classes)]
    sheet = np.full((max(map(len, places)), num_classes, *images.shape[1:]), 235, dtype=np.uint8)
    for k, chosen in enumerate(places):
        sheet[: len(chosen), k] = images[chosen]
    return sheet.reshape(-1, *images.shape[1:])


def show_tiled(axes: Axes, images: np.ndarray, columns: int, title: str | None = None) -> None:
    """Draw images uint8 [n, C, H, W] in rows of ``columns``."""
    axes.imshow(tile(images, columns), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title)


def beside(axes: Axes, x: float, y: float, words: str) -> None:
    """Write right-aligned text at (x, y), in fractions of a panel's width and height."""
    axes.text(x, y, words, transform=axes.transAxes, ha="right", va="center", fontsize=8)


def panel_grid(count: int, height: float, *, columns: int = 2, **how: Any) -> tuple[Figure, list[Axes]]:
    """A figure and the axes of ``count`` panels in rows of ``columns``; the rest of the grid stays empty."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, **how)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])
