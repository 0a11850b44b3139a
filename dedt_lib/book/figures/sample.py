"""Figures of generated samples and other images."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .common import WIDTH, Arrays, Names, beside, finished, panel_grid, show_tiled


def image_grid(images: np.ndarray, *, columns: int, title: str | None = None) -> Figure:
    """Images uint8 [n, C, H, W] in rows of ``columns``; with few columns the figure is narrower."""
    rows, width = -(-len(images) // columns), min(WIDTH, 0.9 * columns)
    figure, axes = plt.subplots(figsize=(width, width * rows / columns + (0.4 if title else 0.1)))
    show_tiled(axes, images, columns, title)
    return finished(figure)


def image_sheets(sheets: Arrays, *, columns: int) -> Figure:
    """Sheets of images side by side; ``sheets`` maps a title to uint8 [n, C, H, W]."""
    rows = max(-(-len(images) // columns) for images in sheets.values())
    height = WIDTH / len(sheets) * rows / columns + 0.4
    figure, panels = panel_grid(len(sheets), height, columns=len(sheets))
    for axes, (title, images) in zip(panels, sheets.items()):
        show_tiled(axes, images, columns, title)
    return finished(figure)


def image_rows(rows: Sequence[np.ndarray], titles: Names) -> Figure:
    """Rows of images, each with its title at the left; ``rows`` holds one uint8 [n, C, H, W] for each row.

    The rows may differ in length.
    """
    columns = max(map(len, rows))
    figure, panels = plt.subplots(len(rows), 1, figsize=(WIDTH, 0.72 * len(rows)), squeeze=False)
    for axes, images, title in zip(panels[:, 0], rows, titles):
        show_tiled(axes, images, columns)
        beside(axes, -0.01, 0.5, title)
    return finished(figure)


def nearest_pairs(images: np.ndarray, neighbours: np.ndarray, distances: np.ndarray) -> Figure:
    """Samples above their nearest training images, with the distances in grey levels."""
    figure, panels = plt.subplots(2, len(images), figsize=(WIDTH, 2.2))
    for k, distance in enumerate(distances):
        for axes, image in zip(panels[:, k], (images[k], neighbours[k])):
            show_tiled(axes, image[None], 1)
        panels[0, k].set_title(f"{distance:.0f}", fontsize=8)
    for axes, name in zip(panels[:, 0], ("sample", "training")):
        beside(axes, -0.3, 0.5, name)
    return finished(figure)


def nearest_histogram(distances: Arrays, threshold: float) -> Figure:
    """Density of the distances to the nearest training image; ``distances`` maps a label to float [n]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    for label, values in distances.items():
        sns.kdeplot(x=values, ax=axes, label=label, cut=0)
    axes.axvline(threshold, color="crimson", ls="--", label="near-copy threshold")
    axes.set(xlabel="distance to the nearest training image (grey levels)", ylabel="density")
    return finished(figure, axes)
