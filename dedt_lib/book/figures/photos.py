"""Figures of photographs and of coresets of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...selection import Coreset
from .common import WIDTH, finished
from .sample import image_rows

if TYPE_CHECKING:
    from ...pages.look import Findings


def faults(found: "Findings") -> Figure:
    """Some training images of each kind of fault that ``dedt look`` found, below some without a fault."""
    places = {kind: some for kind, some in found.places.items() if kind not in ("leaks", "bad")}
    others = np.setdiff1d(np.arange(len(found.table)), np.concatenate(list(found.places.values())))
    rows = {kind: some[:10] for kind, some in {"no fault": others, **places}.items() if len(some)}
    return image_rows([found.look.thumbnails[some] for some in rows.values()], list(rows))


def feature_map(points: np.ndarray, coreset: Coreset, images: np.ndarray, shown: int = 80) -> Figure:
    """Scatter plot of images by their features: kept ones red, removed ones grey, some drawn as thumbnails.

    Args:
        points: float [n, d]; the first two columns are the axes.
        coreset: a coreset of these n images.
        images: uint8 [n, 3, H, W].
        shown: number of thumbnails.
    """
    height = 0.75 * WIDTH
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    x, y = np.pad(points, ((0, 0), (0, 1)))[:, :2].T
    for kept, color, name in ((False, "0.6", "removed"), (True, "crimson", "kept")):
        inside = coreset.kept == kept
        axes.scatter(x[inside], y[inside], s=14, color=color, linewidths=0, label=name, zorder=3)
    axes.use_sticky_edges = False
    axes.margins(0.07)
    wide, high = 0.04 * np.ptp(axes.get_xlim()), 0.04 * np.ptp(axes.get_ylim()) * WIDTH / height
    for i in np.random.default_rng(0).permutation(len(points))[:shown]:
        box = (x[i], x[i] + wide, y[i], y[i] + high)
        axes.imshow(images[i].transpose(1, 2, 0), extent=box, zorder=2)
    axes.autoscale()
    axes.set(aspect="auto", xticks=[], yticks=[])
    axes.set(xlabel="first principal axis", ylabel="second principal axis")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return finished(figure)


def knee(curve: Sequence[tuple[float, float]], ratio: float) -> Figure:
    """Mean distance of an image to the nearest kept one, against the share of images kept.

    Args:
        curve: (share, distance) pairs of :func:`dedt_lib.pages.report.knee`.
        ratio: the chosen share, marked by a line.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    shares, distances = 100 * np.array(curve).T
    axes.plot(shares, distances, "o-", ms=4)
    axes.axvline(100 * ratio, color="crimson", ls="--", lw=1.2, label=f"{100 * ratio:g} % kept")
    axes.set(xlabel="images kept (%)", ylabel="distance to the\nnearest kept image (%)", ylim=(0, None))
    return finished(figure, axes)
