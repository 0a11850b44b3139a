"""Figures of latents, and of masking, loss and guidance of the models on them."""

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .common import WIDTH, Arrays, finished
from .sample import image_rows


def _coloured(maps: np.ndarray, palette: str, low: float, high: float) -> np.ndarray:
    """float [n, h, w] in the colours of a matplotlib palette: uint8 [n, 3, h, w]."""
    shares = (np.asarray(maps) - low) / (high - low)
    return np.moveaxis(plt.get_cmap(palette)(shares, bytes=True)[..., :3], 3, 1)


def posteriors(images: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> Figure:
    """Images, and below them the mean and the standard deviation of their latents, a row for each channel.

    Positive means are red, negative ones blue; large deviations are bright.

    Args:
        images: uint8 [n, C, H, W].
        mean: posterior means, float [n, c, h, w].
        deviation: posterior standard deviations, float [n, c, h, w].
    """
    limit, channels = np.abs(mean).max(), range(mean.shape[1])
    rows = {"image": images}
    rows |= {f"mean {k}": _coloured(mean[:, k], "RdBu_r", -limit, limit) for k in channels}
    rows |= {f"deviation {k}": _coloured(deviation[:, k], "cividis", 0, deviation.max()) for k in channels}
    return image_rows(list(rows.values()), list(rows))


def latent_histogram(values: np.ndarray) -> Figure:
    """Histogram of each channel of scaled latents, float [n, c, h, w], and the standard normal density."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    edge = np.abs(values).max()
    bins = np.linspace(-edge, edge, 81)
    for k in range(values.shape[1]):
        axes.hist(values[:, k].ravel(), bins, density=True, histtype="step", lw=1.4, label=f"channel {k}")
    axes.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), "--", color="0.25", label="standard normal")
    axes.set(xlabel="value of a scaled latent", ylabel="density")
    return finished(figure, axes)


def masked_tokens(images: np.ndarray, kept: Arrays, side: int) -> Figure:
    """Images with their masked tokens covered, a row for each mask.

    Args:
        images: uint8 [n, C, H, W].
        kept: label -> int [n, m], the indices of the tokens that the encoder sees.
        side: number of tokens along an edge of the image.
    """
    edge = images.shape[2] // side
    colour = np.round(255 * np.array(sns.color_palette("colorblind")[1]))[:, None, None]
    rows = []
    for tokens in kept.values():
        hidden = np.ones((len(images), side * side), dtype=bool)
        np.put_along_axis(hidden, np.asarray(tokens), False, axis=1)
        cover = np.kron(hidden.reshape(-1, side, side), np.ones((edge, edge), dtype=bool))[:, None]
        rows.append(np.where(cover, colour, images).astype(np.uint8))
    return image_rows(rows, list(kept))


def loss_by_timestep(weight: np.ndarray, log_posterior: np.ndarray, log_beta: np.ndarray) -> Figure:
    """MDT's loss at each timestep: the weight of the squared error, and the range of the learned variance.

    All arguments are float [1000]; the logarithms are those of the smallest and the largest variance.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8))
    left.plot(weight, lw=1.6)
    left.set(title="weight of the squared error", xlabel="timestep $t$", ylim=(0, 1.05))
    t = np.arange(len(weight))
    right.fill_between(t, np.exp(log_posterior), np.exp(log_beta), alpha=0.35, color="C2")
    right.plot(t, np.exp(log_beta), color="C2", lw=1.2, label="$\\beta_t$")
    right.plot(t, np.exp(log_posterior), color="0.25", lw=1.2, ls="--", label="posterior")
    right.set(title="range of the learned variance", xlabel="timestep $t$", xscale="symlog", yscale="log")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.title.set_fontsize(10)
    return finished(figure)


def guidance_schedule(scales: Arrays) -> Figure:
    """Guidance scale by timestep, noise on the left; ``scales`` maps a label to float [1000]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.7))
    for k, (label, values) in enumerate(scales.items()):
        axes.plot(values, ls=["-", "--", ":", "-."][k % 4], lw=1.6, label=label)
    axes.invert_xaxis()
    axes.set(xlabel="timestep $t$ (sampling runs from left to right)", ylabel="guidance scale")
    return finished(figure, axes)
