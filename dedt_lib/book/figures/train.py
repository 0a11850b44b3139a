"""Figures of training runs and of class weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .common import (
    MOST_NAMED,
    WIDTH,
    Arrays,
    Names,
    Reading,
    class_ticks,
    finished,
    panel_grid,
    plain,
    plain_ticks,
)


def loss_curves(runs: Arrays) -> Figure:
    """Smoothed training losses; ``runs`` maps a label to losses [steps].  Later lines are thinner."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    size = min(50, *(max(1, len(losses) // 4) for losses in runs.values()))
    for k, (label, losses) in enumerate(runs.items()):
        smooth = np.convolve(losses, np.ones(size) / size, mode="valid")
        axes.plot(np.arange(len(smooth)) + size, smooth, label=label, lw=max(1.0, 3 - 0.7 * k))
    axes.set(xlabel="optimiser step", ylabel="loss (mean squared error)", yscale="log")
    if len(runs) > 1:
        axes.legend()
    plain_ticks(axes.yaxis, 0.02, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1)
    return finished(figure)


def epoch_losses(runs: Mapping[str, Sequence[float]]) -> Figure:
    """Mean training loss of each epoch, in a separate panel for each run because the losses differ in kind.

    Args:
        runs: label -> losses [epochs].
    """
    figure, panels = panel_grid(len(runs), 2.1, columns=4)
    for axes, (label, losses) in zip(panels, runs.items()):
        axes.plot(np.arange(1, len(losses) + 1), losses, "o-" if len(losses) < 30 else "-", ms=3, lw=1.4)
        axes.set(title=label, xlabel="epoch", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel("training loss")
    return finished(figure)


def class_draws(draws: np.ndarray, expected: np.ndarray, class_names: Names) -> Figure:
    """How often an epoch draws each class (bars), and the number expected by the class weights (short lines).

    Args:
        draws: images drawn of each class, int [K].
        expected: expected number of images, float [K].
        class_names: names of the classes, in their order.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6))
    places = np.arange(len(class_names))
    axes.bar(places, draws, width=0.6, label="drawn in one epoch")
    axes.hlines(expected, places - 0.4, places + 0.4, color="0.15", lw=1.6, label="expected by class weights")
    axes.axhline(
        np.sum(expected) / len(expected), color="0.4", lw=0.8, ls="--", label="equal for all classes"
    )
    axes.set(xlabel="class", ylabel="images")
    class_ticks(axes, class_names)
    return finished(figure, axes)


def losses_by_timestep(t: np.ndarray, losses: np.ndarray) -> Figure:
    """Loss of each sample against its random timestep, and the mean loss.

    Args:
        t: timesteps, int [n].
        losses: float [n].
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    mean = losses.mean()
    for side, color, label in (
        (losses >= mean, "C1", "above the mean: kept"),
        (losses < mean, "C0", "below the mean: may be skipped"),
    ):
        axes.plot(t[side], losses[side], ".", ms=3, color=color, label=label)
    axes.axhline(mean, color="0.15", lw=1.4, ls="--", label="mean")
    axes.set(xlabel="timestep $t$ of the sample", ylabel="loss of the sample", yscale="log")
    axes.legend(fontsize=8, markerscale=3)
    return finished(figure)


def epoch_sizes(sizes: Mapping[str, Sequence[int]], total: int) -> Figure:
    """Samples that each epoch visits, in per cent of ``total``; ``sizes`` maps a label to int [epochs]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    for k, (label, values) in enumerate(sizes.items()):
        epochs, share = np.arange(1, len(values) + 1), 100 * np.asarray(values) / total
        axes.step(epochs, share, where="mid", color=f"C{k}", lw=1.2)
        axes.plot(
            epochs, share, "osD^v"[k % 5], ms=9 - 2 * k, mfc="none", mew=1.4, color=f"C{k}", label=label
        )
    axes.set(xlabel="epoch", ylabel="samples visited (% of all)", ylim=(0, 105))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finished(figure, axes)


def weight_trajectories(readings: Mapping[str, Reading], class_names: Names) -> Figure:
    """Class weights K alpha (1 is uniform) over the proxy's steps; the burn-in is shaded.

    Args:
        readings: label -> :data:`Reading`.
        class_names: names of the classes, in their order.
    """
    figure, panels = panel_grid(len(readings), 3.4, columns=len(readings), sharey=True)
    for axes, (title, reading) in zip(panels, readings.items()):
        step = reading.get("step", np.arange(len(reading["trajectory"])))
        for k, name in enumerate(plain(class_names)):
            relative, line = len(class_names) * reading["trajectory"][:, k], ("-", "--", "-.", ":")[k % 4]
            label = name if len(class_names) <= MOST_NAMED else None
            axes.plot(step, relative, color=f"C{k % 10}", ls=line, label=label, lw=1.2)
        if reading["burn_in"]:
            axes.axvspan(0, reading["burn_in"], color="0.9", label="burn-in")
        axes.axhline(1, color="0.4", lw=0.8, ls="--")
        axes.set(title=title, xlabel="proxy step", yscale="log")
    panels[0].set_ylabel("class weight $K\\alpha$")
    plain_ticks(panels[0].yaxis, 0.1, 0.2, 0.5, 1, 2, 5)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False, fontsize=8)
    return finished(figure)


def reweighting_signal(reading: Reading) -> Figure:
    """Mean clipped excess loss, share of clipped samples, and effective number of classes at each step."""
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 2.6))
    series = {
        "mean excess loss": reading["excess"].mean(axis=1),
        "share clipped to zero": reading["clipped"],
        "effective classes": reading["effective"],
    }
    for axes, (label, values) in zip(panels, series.items()):
        axes.plot(values, lw=0.8)
        axes.axvspan(0, reading["burn_in"], color="0.9")
        axes.set(title=label, xlabel="proxy step")
        axes.title.set_fontsize(9)
    panels[0].set_yscale("log")
    return finished(figure)


def clipped_share(readings: Mapping[str, Reading]) -> Figure:
    """Share of samples whose excess loss is clipped to zero over the proxy's run, a line for each label.

    It is a running average over a twentieth of the run.

    Args:
        readings: label -> :data:`Reading`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    for label, reading in readings.items():
        clipped = reading["clipped"]
        size = max(1, int(0.05 * len(clipped)))
        smooth = np.convolve(clipped, np.ones(size) / size, mode="valid")
        axes.plot(100 * (np.arange(len(smooth)) + size) / len(clipped), 100 * smooth, label=label, lw=1.4)
    axes.axhline(50, color="0.4", lw=0.8, ls="--", label="proxy as good as reference")
    axes.set(xlabel="progress of the proxy (%)", ylabel="clipped to zero (% of samples)", ylim=(0, 100))
    return finished(figure, axes)


def group_weights(runs: Arrays, groups: Arrays) -> Figure:
    """Class weights by group of classes, a panel for each run: median, and range of 90 % of the classes.

    Args:
        runs: label -> trajectory of the class weights, float [T, K].
        groups: label -> members of the group, bool [K].
    """
    figure, panels = panel_grid(len(runs), 3.0, sharey=True)
    for axes, (title, trajectory) in zip(panels, runs.items()):
        relative = trajectory.shape[1] * trajectory
        for k, (label, members) in enumerate(groups.items()):
            low, middle, high = np.percentile(relative[:, members], (5, 50, 95), axis=1)
            axes.fill_between(range(len(middle)), low, high, color=f"C{k}", alpha=0.25, lw=0)
            axes.plot(middle, color=f"C{k}", lw=1.6, label=label)
        axes.axhline(1, color="0.4", lw=0.8, ls="--")
        axes.set(title=title, xlabel="proxy step", yscale="log")
    panels[0].set_ylabel("class weight $K\\alpha$")
    plain_ticks(panels[0].yaxis, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
    return finished(figure, panels[0])
