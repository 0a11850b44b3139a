"""Every plot of the book, one function each.  Each returns a matplotlib Figure and draws nothing else."""

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt

WIDTH = 7.2
sns.set_theme(style="whitegrid", context="notebook", palette="colorblind", font_scale=0.9)
plt.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110})


def _plain_ticks(axes, *ticks):
    """Label a logarithmic axis with these numbers, written out, where they lie in its range."""
    low, high = axes.get_ylim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_yticks([], minor=True)


def _finish(figure):
    figure.tight_layout()
    plt.close(figure)
    return figure


def tile(images, columns):
    """uint8 [n, C, H, W] to one array [rows * H', columns * W'(, 3)] with thin light gaps."""
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
    size = min(window, *(max(1, len(losses) // 4) for losses in runs.values()))
    for label, losses in runs.items():
        smooth = np.convolve(losses, np.ones(size) / size, mode="valid")
        axes.plot(np.arange(len(smooth)) + size, smooth, label=label)
    axes.set(xlabel="optimiser step", ylabel="loss (mean squared error)", yscale="log")
    if len(runs) > 1:
        axes.legend()
    _plain_ticks(axes, 0.02, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1)
    return _finish(figure)


def example_images(data, per_class=10):
    """The first images of each class, one class per column: LabelledImages -> Figure."""
    K = len(data.class_names)
    chosen = np.stack([np.flatnonzero(data.labels == k)[:per_class] for k in range(K)], axis=1).ravel()
    return image_grid(data.images[chosen], columns=K)


def plane(features):
    """The two principal axes of the features: float [n, 2]."""
    from sklearn.decomposition import PCA

    return PCA(2, svd_solver="full").fit_transform(features)


def feature_plane(features, labels, class_names):
    """Features [n, d] in their principal plane, coloured by class."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    x, y = plane(features).T
    sns.scatterplot(
        x=x,
        y=y,
        hue=[class_names[k] for k in labels],
        hue_order=class_names,
        palette="tab10",
        s=14,
        linewidth=0,
        ax=axes,
    )
    axes.set(xlabel="first principal axis", ylabel="second principal axis")
    axes.legend(title="class", bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False)
    return _finish(figure)


def score_plane(features, coresets, of_class):
    """One class in its own principal plane: brighter is ranked earlier, ringed is kept.

    features: float [n, d].  coresets: label -> Coreset.  of_class: the class's number.
    """
    figure, panels = plt.subplots(
        1, len(coresets), figsize=(WIDTH, 2.9), sharex=True, sharey=True, squeeze=False
    )
    members = np.flatnonzero(next(iter(coresets.values())).labels == of_class)
    x, y = plane(features[members]).T
    for axes, (label, coreset) in zip(panels[0], coresets.items()):
        kept = coreset.kept[members]
        axes.scatter(x, y, c=-coreset.rank[members], s=14, cmap="viridis", linewidths=0)
        axes.scatter(x[kept], y[kept], s=46, facecolors="none", edgecolors="crimson", linewidths=1)
        axes.set(title=label, xticks=[], yticks=[])
    return _finish(figure)


def distance_strips(distances, coresets, class_names):
    """Distance of every image to the centre of its class, a row per class; what is kept is red.

    distances: float [n].  coresets: label -> Coreset.
    """
    figure, panels = plt.subplots(
        1, len(coresets), figsize=(WIDTH, 3.4), sharex=True, sharey=True, squeeze=False
    )
    for axes, (label, coreset) in zip(panels[0], coresets.items()):
        for kept, color, size in ((False, "0.75", 4), (True, "crimson", 9)):
            chosen = coreset.kept == kept
            axes.scatter(distances[chosen], coreset.labels[chosen], s=size, color=color, linewidths=0)
        axes.set(title=label, xlabel="distance to centre")
    panels[0, 0].set(ylabel="class", yticks=range(len(class_names)), yticklabels=class_names)
    return _finish(figure)


def score_histogram(coreset, label, of_class):
    """Scores of the kept and the removed samples of one class."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6))
    members = coreset.labels == of_class
    fate = np.where(coreset.kept[members], "kept", "removed")
    sns.histplot(
        x=coreset.scores[members], hue=fate, hue_order=["removed", "kept"], multiple="stack", bins=30, ax=axes
    )
    axes.set(xlabel=label, ylabel="images")
    return _finish(figure)


def kept_and_removed(data, coresets, classes=None, per_side=6, seed=0):
    """Kept images beside removed ones, a row for each class and a pair of columns for each coreset.

    The kept ones are those ranked first, the removed ones those ranked last.
    """
    classes = range(len(data.class_names)) if classes is None else classes
    figure, panels = plt.subplots(
        1, 2 * len(coresets), figsize=(WIDTH, WIDTH * 0.17 * len(classes) / len(coresets) + 0.6)
    )
    for k, (label, coreset) in enumerate(coresets.items()):
        sides = {"kept": [], "removed": []}
        for c in classes:
            members = np.flatnonzero(data.labels == c)
            order = members[np.argsort(coreset.rank[members], kind="stable")]
            inside, outside = order[coreset.kept[order]], order[~coreset.kept[order]]
            for side, chosen in (("kept", inside[:per_side]), ("removed", outside[::-1][:per_side])):
                blank = np.full((per_side - len(chosen), *data.images.shape[1:]), 235, dtype=np.uint8)
                sides[side] += [data.images[chosen], blank]
        for axes, (side, images) in zip(panels[2 * k :], sides.items()):
            _show(axes, np.concatenate(images), per_side)
            axes.set_title(f"{label}\n{side}", fontsize=9)
    return _finish(figure)


def class_counts(counts, class_names):
    """Kept images per class; ``counts`` maps a label to int [K]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    rows = [(name, label, n) for label, row in counts.items() for name, n in zip(class_names, row)]
    names, labels, values = zip(*rows)
    sns.barplot(x=list(names), y=list(values), hue=list(labels), ax=axes)
    axes.set(xlabel="class", ylabel="images kept")
    axes.legend(title=None, fontsize=8) if len(counts) > 1 else axes.get_legend().remove()
    return _finish(figure)


def weight_trajectories(readings, class_names):
    """Class weights over the proxy's steps, K alpha so that 1 means unchanged.

    readings: label -> what ``Experiment.reweight`` returns.  The burn-in is shaded.
    """
    figure, panels = plt.subplots(1, len(readings), figsize=(WIDTH, 3.4), sharey=True)
    for axes, (label, reading) in zip(np.atleast_1d(panels), readings.items()):
        for k, name in enumerate(class_names):
            axes.plot(
                len(class_names) * reading["trajectory"][:, k],
                color=f"C{k}" if k < 10 else None,
                label=name,
                lw=1.2,
            )
        if reading["burn_in"]:
            axes.axvspan(0, reading["burn_in"], color="0.9", label="burn-in")
        axes.axhline(1, color="0.4", lw=0.8, ls="--")
        axes.set(title=label, xlabel="proxy step", yscale="log")
    np.atleast_1d(panels)[0].set_ylabel("class weight $K\\alpha$")
    _plain_ticks(np.atleast_1d(panels)[0], 0.1, 0.2, 0.5, 1, 2, 5)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False, fontsize=8)
    return _finish(figure)


def reweighting_signal(reading):
    """Mean clipped excess loss, share of samples clipped, and effective number of classes, by step."""
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
    return _finish(figure)


def denoising(frames, titles):
    """Rows of the same images at several moments of sampling; frames: list of uint8 [n, C, H, W]."""
    figure, panels = plt.subplots(len(frames), 1, figsize=(WIDTH, 0.72 * len(frames)))
    for axes, images, title in zip(panels, frames, titles):
        _show(axes, images, len(images))
        axes.text(-0.01, 0.5, title, transform=axes.transAxes, ha="right", va="center", fontsize=8)
    return _finish(figure)


def nearest_pairs(images, neighbours, distances):
    """Samples above their nearest training image, with the distance in grey levels."""
    figure, panels = plt.subplots(2, len(images), figsize=(WIDTH, 2.2))
    for k, distance in enumerate(distances):
        for axes, image in zip(panels[:, k], (images[k], neighbours[k])):
            _show(axes, image[None], 1)
        panels[0, k].set_title(f"{distance:.0f}", fontsize=8)
    panels[0, 0].text(
        -0.3, 0.5, "sample", transform=panels[0, 0].transAxes, ha="right", va="center", fontsize=8
    )
    panels[1, 0].text(
        -0.3, 0.5, "training", transform=panels[1, 0].transAxes, ha="right", va="center", fontsize=8
    )
    return _finish(figure)


def nearest_histogram(distances, threshold):
    """Distances to the nearest training image; ``distances`` maps a label to float [n]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    for label, values in distances.items():
        sns.kdeplot(x=values, ax=axes, label=label, cut=0)
    axes.axvline(threshold, color="crimson", ls="--", label="near-copy threshold")
    axes.set(xlabel="distance to the nearest training image (grey levels)", ylabel="density")
    axes.legend(fontsize=8)
    return _finish(figure)


def classwise_bars(classwise, class_names, floor=None):
    """Class-wise FID; ``classwise`` maps a label to float [K]; the floor is a short line at each class."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    _classwise(axes, classwise, class_names, floor)
    return _finish(figure)


def _classwise(axes, classwise, class_names, floor):
    rows = [(name, label, value) for label, row in classwise.items() for name, value in zip(class_names, row)]
    names, labels, values = zip(*rows)
    sns.barplot(x=list(names), y=list(values), hue=list(labels), ax=axes)
    if floor is not None:
        places = np.arange(len(class_names))
        axes.hlines(floor, places - 0.4, places + 0.4, color="0.2", lw=1.2, label="real against real")
    axes.set(xlabel="class", ylabel="class-wise FID")
    axes.legend(title=None, fontsize=8)


def figure_2(before, after, weights, class_names, floor=None):
    """Class-wise FID before and after reweighting over the class weights (paper, Fig. 2).

    before, after: float [seeds, K].  weights: float [seeds, K], alpha.  floor: float [K].  Bars are means over
    the seeds, the thin lines reach from the smallest to the largest seed.
    """
    K = len(class_names)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=[2, 1])
    places = np.arange(K)
    for shift, label, values in ((-0.2, "before reweighting", before), (0.2, "after reweighting", after)):
        top.bar(places + shift, values.mean(axis=0), width=0.38, label=label)
        top.vlines(places + shift, values.min(axis=0), values.max(axis=0), color="0.15", lw=1)
    if floor is not None:
        top.hlines(floor, places - 0.4, places + 0.4, color="crimson", lw=1.2, label="real against real")
    top.set(ylabel="class-wise FID")
    top.legend(fontsize=8)
    relative = K * weights
    bottom.bar(places, relative.mean(axis=0) - 1, bottom=1, width=0.6, color="C2")
    bottom.vlines(places, relative.min(axis=0), relative.max(axis=0), color="0.15", lw=1)
    bottom.axhline(1, color="0.4", lw=0.8)
    bottom.set(ylabel="class weight $K\\alpha$", xlabel="class", xticks=places, xticklabels=class_names)
    return _finish(figure)


def fid_by_ratio(frame, rows, labels, *, floor=None, full=None):
    """FID against the share of the data kept: one line per row, one dot per seed."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    for k, row in enumerate(rows):
        part = frame[frame.row == row].sort_values("ratio")
        means = part.groupby("ratio").fid.mean()
        dashed = {"ls": "--", "color": "0.25"} if row == "early-stopping" else {"color": f"C{k}"}
        axes.plot(100 * means.index, means, label=labels[row], lw=1.6, **dashed)
        axes.plot(100 * part.ratio, part.fid, "o", ms=3, color=dashed["color"])
    if full is not None:
        axes.axhline(full, color="C9", lw=1.2, label=labels["full"])
    if floor is not None:
        axes.axhline(floor, color="crimson", lw=1.2, ls=":", label="real against real")
    axes.set(xlabel="training images kept (%)", ylabel="FID (classifier features)", yscale="log")
    axes.set_xticks(sorted(100 * frame[frame.ratio < 1].ratio.unique()))
    axes.legend(fontsize=8)
    _plain_ticks(axes, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10)
    return _finish(figure)


def cost_bars(ledgers, full):
    """What each recipe costs, stage by stage, in units of one run on all the data.

    ledgers: label -> {stage: cost}.  full: the same cost of the run on all the data.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.5 * len(ledgers) + 1.2))
    stages = ["embed", "select", "reference", "proxy", "train"]
    labels = list(ledgers)
    left = np.zeros(len(labels))
    for k, stage in enumerate(stages):
        values = np.array([ledgers[label].get(stage, 0) for label in labels]) / full
        if values.any():
            axes.barh(labels, values, left=left, color=f"C{k}", label=stage)
        left += values
    axes.axvline(1, color="0.3", ls="--", lw=1)
    axes.invert_yaxis()
    axes.set(xlabel="cost (one run on all the data = 1)")
    axes.legend(fontsize=8, loc="lower right")
    return _finish(figure)


def front_page(data, coreset, weights, samples, classwise_before, classwise_after):
    """The method in one picture: what is kept, what is generated, the class weights, the class-wise FID."""
    K = len(data.class_names)
    figure = plt.figure(figsize=(WIDTH * 1.35, 3.7))
    grid = figure.add_gridspec(2, 3, width_ratios=[1.1, 1.1, 1])
    kept = [np.flatnonzero(coreset.kept & (data.labels == k)) for k in range(K)]
    rows = max(1, min(10, min(map(len, kept))))
    chosen = np.stack([members[:rows] for members in kept], axis=1).ravel()
    _show(figure.add_subplot(grid[:, 0]), data.images[chosen], K, f"{100 * coreset.ratio:.0f} % is kept")
    _show(figure.add_subplot(grid[:, 1]), samples[: 10 * K], K, "samples of the model")
    top, bottom = figure.add_subplot(grid[0, 2]), figure.add_subplot(grid[1, 2])
    top.bar(range(K), K * weights - 1, bottom=1, color="C2")
    top.axhline(1, color="0.4", lw=0.8)
    top.set(title="class weights $K\\alpha$", xticks=range(K), xticklabels=data.class_names)
    places = np.arange(K)
    bottom.bar(places - 0.2, classwise_before, width=0.38, label="unweighted")
    bottom.bar(places + 0.2, classwise_after, width=0.38, label="weighted")
    bottom.set(title="class-wise FID", xticks=places, xticklabels=data.class_names)
    bottom.legend(fontsize=7)
    return _finish(figure)
