"""Every plot of the book, one function each.  Each returns a matplotlib Figure and draws nothing else."""

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt

WIDTH = 7.2
sns.set_theme(style="whitegrid", context="notebook", palette="colorblind", font_scale=0.9)
plt.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110})


def _finish(figure):
    figure.tight_layout()
    plt.close(figure)
    return figure


def tile(images, columns):
    """uint8 [n, C, H, W] to one array [rows * H', columns * W'(, 3)] with thin light gaps."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    gap = max(1, height // 8)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 235, dtype=np.uint8)
    for k, image in enumerate(images):
        y, x = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return sheet[:, :, 0] if channels == 1 else sheet


def _show(axes, images, columns, title=None):
    axes.imshow(tile(images, columns), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title)


def image_grid(images, *, columns, title=None):
    """Images uint8 [n, C, H, W] in rows of ``columns``."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH * rows / columns + (0.4 if title else 0.1)))
    _show(axes, images, columns, title)
    return _finish(figure)


def loss_curves(runs, *, window=50):
    """Smoothed training losses; ``runs`` maps a label to losses [steps]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    for label, losses in runs.items():
        size = min(window, max(1, len(losses) // 4))
        smooth = np.convolve(losses, np.ones(size) / size, mode="valid")
        axes.plot(np.arange(len(smooth)) + size, smooth, label=label)
    axes.set(xlabel="optimiser step", ylabel="loss (mean squared error)", yscale="log")
    if len(runs) > 1:
        axes.legend()
    return _finish(figure)
