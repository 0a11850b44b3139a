"""Every plot of the book, one function each.  Each returns a matplotlib Figure and draws nothing else."""

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

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
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(title=None, fontsize=8) if len(counts) > 1 else axes.get_legend().remove()
    return _finish(figure)


def weight_trajectories(readings, class_names):
    """Class weights over the proxy's steps, K alpha so that 1 means unchanged.

    readings: label -> what ``Experiment.reweight`` or ``tables.reading`` returns.  The burn-in is shaded.
    """
    figure, panels = plt.subplots(1, len(readings), figsize=(WIDTH, 3.4), sharey=True)
    for axes, (label, reading) in zip(np.atleast_1d(panels), readings.items()):
        step = reading.get("step", np.arange(len(reading["trajectory"])))
        for k, name in enumerate(class_names):
            axes.plot(
                step,
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


def clipped_share(readings, *, window=0.05):
    """Share of samples whose excess loss is clipped to zero, over the proxy's run, a line per model.

    readings: label -> what ``Experiment.reweight`` or ``tables.reading`` returns.  window: share of the run
    that is averaged over.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    for label, reading in readings.items():
        clipped = reading["clipped"]
        size = max(1, int(window * len(clipped)))
        smooth = np.convolve(clipped, np.ones(size) / size, mode="valid")
        axes.plot(100 * (np.arange(len(smooth)) + size) / len(clipped), 100 * smooth, label=label, lw=1.4)
    axes.axhline(50, color="0.4", lw=0.8, ls="--", label="proxy as good as reference")
    axes.set(xlabel="proxy's run (%)", ylabel="clipped to zero (% of samples)", ylim=(0, 100))
    axes.legend(fontsize=8)
    return _finish(figure)


def denoising(frames, titles):
    """Rows of the same images at several moments of sampling; frames: list of uint8 [n, C, H, W]."""
    figure, panels = plt.subplots(len(frames), 1, figsize=(WIDTH, 0.72 * len(frames)), squeeze=False)
    for axes, images, title in zip(panels[:, 0], frames, titles):
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

    before, after: float [seeds, K].  weights: float [seeds, K], alpha.  floor: float [K].  Bars are means
    over the seeds, the thin lines reach from the smallest to the largest seed.
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
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    _plain_ticks(axes, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 7, 10, 12, 14, 17, 20, 30, 50, 100)
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
    axes.legend(fontsize=8, ncols=len(stages), loc="lower right", bbox_to_anchor=(1, 1))
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


# ---- encoders --------------------------------------------------------------------------------------


def _panels(count, height, *, columns=2, **how):
    """Axes for ``count`` panels in rows of ``columns``: (figure, list of axes), the rest left empty."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, **how)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])


def epoch_losses(runs):
    """Mean training loss of each epoch, a panel per run since each has a loss of its own.

    runs: label -> losses [epochs].
    """
    figure, panels = _panels(len(runs), 2.1, columns=4)
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
    return _finish(figure)


def feature_planes(features, labels, class_names):
    """Several encoders' features, each in its own principal plane, coloured by class.

    features: encoder -> float [n, d].  labels: int [n].
    """
    figure, panels = _panels(len(features), 3.3 if len(features) < 3 else 2.9)
    for axes, (title, values) in zip(panels, features.items()):
        x, y = plane(values).T
        for k, name in enumerate(class_names):
            axes.scatter(x[labels == k], y[labels == k], s=7, color=f"C{k % 10}", linewidths=0, label=name)
        axes.set(title=title, xticks=[], yticks=[])
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        title="class",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        markerscale=2,
    )
    return _finish(figure)


def neighbours(data, nearest):
    """Images (first column) and their nearest neighbours, a panel per encoder; a wrong class is framed.

    data: LabelledImages.  nearest: encoder -> int [rows, 1 + neighbours], the image itself first.
    """
    figure, panels = _panels(len(nearest), 3.6, columns=4)
    height, width = data.images.shape[2:]
    gap = max(1, height // 8)
    for axes, (title, rows) in zip(panels, nearest.items()):
        _show(axes, data.images[rows.ravel()], rows.shape[1], title)
        axes.title.set_fontsize(9)
        wrong = data.labels[rows] != data.labels[rows[:, :1]]
        for row, column in zip(*np.nonzero(wrong)):
            corner = (column * (width + gap) - 0.5, row * (height + gap) - 0.5)
            axes.add_patch(plt.Rectangle(corner, width, height, fill=False, ec="C3", lw=1.6, clip_on=False))
        axes.axvline(width + gap / 2 - 0.5, color="0.3", lw=1)
    return _finish(figure)


def overlap_map(coresets):
    """How much of each coreset another one keeps too, in per cent; ``coresets`` maps a label to a Coreset."""
    labels = list(coresets)
    shares = np.array(
        [[100 * np.isin(a.indices, b.indices).mean() for b in coresets.values()] for a in coresets.values()]
    )
    figure, axes = plt.subplots(figsize=(min(WIDTH, 2.6 + 0.9 * len(labels)), 1.2 + 0.55 * len(labels)))
    sns.heatmap(
        shares,
        annot=True,
        fmt=".0f",
        cmap="cividis",
        vmin=0,
        vmax=100,
        linewidths=1,
        cbar_kws={"label": "images in both (%)"},
        xticklabels=labels,
        yticklabels=labels,
        ax=axes,
    )
    axes.tick_params(axis="x", rotation=25)
    axes.tick_params(axis="y", rotation=0)
    return _finish(figure)


# ---- training --------------------------------------------------------------------------------------


def class_draws(draws, expected, class_names):
    """How often an epoch draws each class (bars), and how often it should (short lines).

    draws: int [K].  expected: float [K].
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6))
    places = np.arange(len(class_names))
    axes.bar(places, draws, width=0.6, label="drawn in one epoch")
    axes.hlines(expected, places - 0.4, places + 0.4, color="0.15", lw=1.6, label="by the class weights")
    axes.axhline(np.sum(expected) / len(expected), color="0.4", lw=0.8, ls="--", label="all classes alike")
    axes.set(xlabel="class", ylabel="images", xticks=places, xticklabels=class_names)
    axes.legend(fontsize=8)
    return _finish(figure)


def losses_by_timestep(t, losses):
    """Each sample's loss at the timestep that it drew, and the mean loss.

    t: int [n].  losses: float [n].
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    mean = losses.mean()
    for side, color, label in (
        (losses >= mean, "C1", "above the mean: stays"),
        (losses < mean, "C0", "below: may be skipped"),
    ):
        axes.plot(t[side], losses[side], ".", ms=3, color=color, label=label)
    axes.axhline(mean, color="0.15", lw=1.4, ls="--", label="mean of all")
    axes.set(xlabel="timestep $t$ that the sample drew", ylabel="its loss", yscale="log")
    axes.legend(fontsize=8, markerscale=3)
    return _finish(figure)


def epoch_sizes(sizes, total):
    """How many samples each epoch visits, in per cent of all; ``sizes`` maps a label to int [epochs]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    for k, (label, values) in enumerate(sizes.items()):
        epochs, share = np.arange(1, len(values) + 1), 100 * np.asarray(values) / total
        axes.step(epochs, share, where="mid", color=f"C{k}", lw=1.2)
        axes.plot(
            epochs, share, "osD^v"[k % 5], ms=9 - 2 * k, mfc="none", mew=1.4, color=f"C{k}", label=label
        )
    axes.set(xlabel="epoch", ylabel="samples visited (% of all)", ylim=(0, 105))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return _finish(figure)


# ---- results ---------------------------------------------------------------------------------------


def fid_by_images(frame, lines, *, dashed=(), floor=None):
    """FID against the images that a run has seen, in per cent of a run on all the data; one dot per seed.

    frame: of ``tables.read_cells``.  lines: label -> the rows on that line.  dashed: labels of dashed lines.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    shown = {label: frame[frame.row.isin(rows)] for label, rows in lines.items()}
    for k, (label, part) in enumerate(shown.items()):
        if len(part) == 0:
            continue
        means = part.groupby(["row", "ratio"])[["realised", "fid"]].mean().sort_values("realised")
        color, line = ("0.25", "--") if label in dashed else (f"C{k}", "-")
        marker = "osD^vP*"[k % 7]
        axes.plot(100 * means.realised, means.fid, line, color=color, lw=1.5)
        axes.plot(100 * means.realised, means.fid, marker, color=color, ms=6, label=label)
        axes.plot(100 * part.realised, part.fid, ".", color=color, ms=4, alpha=0.7)
    if floor is not None:
        axes.axhline(floor, color="crimson", lw=1.2, ls=":", label="real against real")
    axes.set(
        xlabel="images seen in training (% of the run on all the data)",
        ylabel="FID (classifier features)",
        xscale="log",
        yscale="log",
    )
    low, high = axes.get_xlim()
    ticks = [tick for tick in (5, 10, 20, 30, 50, 100) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    _plain_ticks(axes, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10)
    return _finish(figure)


def speedup_by_ratio(panels, ratios):
    """Speed-ups against the share of the data, a panel per recipe; at the line, as slow as all the data.

    panels: recipe -> {series: speed-up at each of ``ratios``, NaN where there is none}; the first series is
    the ideal and dashed.
    """
    figure, grid = _panels(len(panels), 3.3, columns=3, sharey=True)
    for axes, (title, series) in zip(grid, panels.items()):
        for k, (label, values) in enumerate(series.items()):
            style = (
                {"ls": "--", "color": "0.4"}
                if k == 0
                else {"marker": "osD^"[(k - 1) % 4], "color": f"C{k - 1}"}
            )
            axes.plot(100 * np.asarray(ratios), values, label=label, lw=1.4, ms=5, **style)
        axes.axhline(1, color="0.15", lw=1)
        axes.set(title=title, xlabel="images kept (%)", yscale="log")
        axes.set_xticks(100 * np.asarray(ratios))
        axes.title.set_fontsize(9)
    grid[0].set_ylabel("times as fast")
    _plain_ticks(grid[0], 0.5, 1, 2, 3, 5, 10)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=8, ncols=len(labels), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    return _finish(figure)


def rank_slopes(order, labels):
    """The rows in the paper's order and in ours, a panel per ratio; lines that cross are pairs that disagree.

    order: of ``findings.same_order``.  labels: row -> how it is printed.
    """
    rows = list(dict.fromkeys(row for ranked in order["paper"] for row in ranked))
    figure, grid = _panels(len(order), 0.42 * len(rows) + 1.1, columns=4, sharey=True)
    for axes, (ratio, entry) in zip(grid, order.iterrows()):
        for k, row in enumerate(rows):
            if row in entry["paper"]:
                ends = entry["paper"].index(row) + 1, entry["ours"].index(row) + 1
                axes.plot(
                    [0, 1], ends, "osD^vP*"[k % 7], ls="-", color=f"C{k}", lw=1.6, ms=5, label=labels[row]
                )
        axes.set(title=ratio, xlim=(-0.15, 1.15))
        axes.set_xticks([0, 1], ["paper", "here"])
        axes.set_yticks(range(1, len(rows) + 1))
        axes.grid(False)
    grid[0].invert_yaxis()
    grid[0].set_ylabel("rank by FID (1 is best)")
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _finish(figure)


def differences(frame, pairs, *, value="fid", label="difference in FID (below 0 is better)"):
    """How much lower or higher a row is than another at each ratio: bars are means, dots are seeds.

    frame: of ``tables.read_cells``.  pairs: legend -> (row, the other row); those without results are left
    out. label: of the axis.
    """
    wide = frame.pivot_table(index=["ratio", "seed"], columns="row", values=value)
    pairs = {name: pair for name, pair in pairs.items() if set(pair) <= set(wide)}
    found = {name: (wide[a] - wide[b]).dropna() for name, (a, b) in pairs.items()}
    ratios = sorted({ratio for difference in found.values() for ratio, _ in difference.index})
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    width = 0.8 / max(1, len(found))
    for k, (name, difference) in enumerate(found.items()):
        means = difference.groupby("ratio").mean().reindex(ratios)
        places = np.arange(len(ratios)) + (k + 0.5) * width - 0.4
        axes.bar(places, means, width=0.9 * width, color=f"C{k}", label=name)
        place_of = dict(zip(ratios, places))
        dots = [place_of[ratio] for ratio, _ in difference.index]
        axes.plot(dots, difference, "o", ms=3, color="0.15")
    axes.axhline(0, color="0.15", lw=1)
    axes.set_xticks(range(len(ratios)), [f"{100 * ratio:g} %" for ratio in ratios])
    axes.set(xlabel="images kept", ylabel=label)
    if found:
        axes.legend(fontsize=8)
    return _finish(figure)


def weights_by_seed(weights, class_names):
    """Class weights, one line per seed: float [seeds, K], alpha."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    K = len(class_names)
    for k, values in enumerate(weights):
        axes.plot(K * values, "osD^v"[k % 5], ls="-", ms=5, label=f"seed {k}" if len(weights) > 1 else None)
    axes.axhline(1, color="0.4", lw=0.8)
    axes.set(xlabel="class", ylabel="class weight $K\\alpha$")
    axes.set_xticks(range(K), class_names)
    if len(weights) > 1:
        axes.legend(fontsize=8)
    return _finish(figure)


def weight_and_difficulty(weights, before, class_names):
    """Class weight against the class-wise FID before reweighting, a dot per class.

    weights, before: float [seeds, K].  Dots are means over the seeds, thin lines reach from the smallest to
    the largest; right of the dashed line are the harder half of the classes, above the other one the heavier
    ones.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    relative = len(class_names) * weights
    x, y = before.mean(axis=0), relative.mean(axis=0)
    axes.hlines(y, before.min(axis=0), before.max(axis=0), color="0.75", lw=1)
    axes.vlines(x, relative.min(axis=0), relative.max(axis=0), color="0.75", lw=1)
    axes.plot(x, y, "o", ms=17, mfc="white", mec="C0", mew=1.4, ls="none")
    for place, name in zip(zip(x, y), class_names):
        axes.annotate(name, place, ha="center", va="center", fontsize=9)
    axes.axhline(1, color="0.4", lw=1, ls="--")
    axes.axvline(np.median(x), color="0.4", lw=1, ls="--")
    axes.set(xlabel="class-wise FID before reweighting (hard is right)", ylabel="class weight $K\\alpha$")
    return _finish(figure)


# ---- latents and transformers ----------------------------------------------------------------------


def _coloured(maps, palette, low, high):
    """float [n, h, w] in the colours of a matplotlib palette: uint8 [n, 3, h, w]."""
    shares = (np.asarray(maps) - low) / (high - low)
    return np.moveaxis(plt.get_cmap(palette)(shares, bytes=True)[..., :3], 3, 1)


def posteriors(images, mean, deviation):
    """Images over the posteriors of their latents, a row per channel: red means are positive, blue negative,
    bright deviations large.

    images: uint8 [n, C, H, W].  mean, deviation: float [n, c, h, w].
    """
    limit, channels = np.abs(mean).max(), range(mean.shape[1])
    rows = {"image": images}
    rows |= {f"mean {k}": _coloured(mean[:, k], "RdBu_r", -limit, limit) for k in channels}
    rows |= {f"deviation {k}": _coloured(deviation[:, k], "cividis", 0, deviation.max()) for k in channels}
    return denoising(list(rows.values()), list(rows))


def latent_histogram(values):
    """Values of each channel of scaled latents, float [n, c, h, w], beside the standard normal density."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    edge = np.abs(values).max()
    bins = np.linspace(-edge, edge, 81)
    for k in range(values.shape[1]):
        axes.hist(values[:, k].ravel(), bins, density=True, histtype="step", lw=1.4, label=f"channel {k}")
    axes.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), "--", color="0.25", label="standard normal")
    axes.set(xlabel="value of a scaled latent", ylabel="density")
    axes.legend(fontsize=8)
    return _finish(figure)


def masked_tokens(images, kept, side):
    """Images with the tokens that an encoder does not see covered, a row per mask.

    images: uint8 [n, C, H, W].  kept: label -> int [n, m], numbers of the tokens that are seen.  side: tokens
    along an edge.
    """
    edge = images.shape[2] // side
    colour = np.round(255 * np.array(sns.color_palette("colorblind")[1]))[:, None, None]
    rows = []
    for tokens in kept.values():
        hidden = np.ones((len(images), side * side), dtype=bool)
        np.put_along_axis(hidden, np.asarray(tokens), False, axis=1)
        cover = np.kron(hidden.reshape(-1, side, side), np.ones((edge, edge), dtype=bool))[:, None]
        rows.append(np.where(cover, colour, images).astype(np.uint8))
    return denoising(rows, list(kept))


def loss_by_timestep(weight, log_posterior, log_beta):
    """What MDT's loss does at each timestep: the weight of the squared error, and the range of the variance.

    All float [1000]; the logarithms are of the least and the largest variance that can be learned.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8))
    left.plot(weight, lw=1.6)
    left.set(title="weight of the squared error", xlabel="timestep $t$", ylim=(0, 1.05))
    t = np.arange(len(weight))
    right.fill_between(t, np.exp(log_posterior), np.exp(log_beta), alpha=0.35, color="C2")
    right.plot(t, np.exp(log_beta), color="C2", lw=1.2, label="$\\beta_t$")
    right.plot(t, np.exp(log_posterior), color="0.25", lw=1.2, ls="--", label="posterior")
    right.set(title="learned variance: between these", xlabel="timestep $t$", xscale="symlog", yscale="log")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.title.set_fontsize(10)
    return _finish(figure)


def guidance_schedule(scales):
    """Guidance scales over sampling, from noise on the left; ``scales`` maps a label to float [1000] by t."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.7))
    for k, (label, values) in enumerate(scales.items()):
        axes.plot(values, ls=["-", "--", ":", "-."][k % 4], lw=1.6, label=label)
    axes.invert_xaxis()
    axes.set(xlabel="timestep $t$ (sampling goes from left to right)", ylabel="guidance scale")
    axes.legend(fontsize=8)
    return _finish(figure)


def image_sheets(sheets, *, columns):
    """Sheets of images side by side; ``sheets`` maps a title to uint8 [n, C, H, W]."""
    rows = max(-(-len(images) // columns) for images in sheets.values())
    height = WIDTH / len(sheets) * rows / columns + 0.4
    figure, panels = _panels(len(sheets), height, columns=len(sheets))
    for axes, (title, images) in zip(panels, sheets.items()):
        _show(axes, images, columns, title)
    return _finish(figure)


def group_weights(runs, groups):
    """Class weights of many classes by group, a panel per run: the median and where nine in ten classes lie.

    runs: label -> trajectory float [T, K].  groups: label -> bool [K].
    """
    figure, panels = _panels(len(runs), 3.0, sharey=True)
    for axes, (title, trajectory) in zip(panels, runs.items()):
        relative = trajectory.shape[1] * trajectory
        for k, (label, members) in enumerate(groups.items()):
            low, middle, high = np.percentile(relative[:, members], (5, 50, 95), axis=1)
            axes.fill_between(range(len(middle)), low, high, color=f"C{k}", alpha=0.25, lw=0)
            axes.plot(middle, color=f"C{k}", lw=1.6, label=label)
        axes.axhline(1, color="0.4", lw=0.8, ls="--")
        axes.set(title=title, xlabel="proxy step", yscale="log")
    panels[0].set_ylabel("class weight $K\\alpha$")
    _plain_ticks(panels[0], 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
    panels[0].legend(fontsize=8)
    return _finish(figure)


def metrics_by_ratio(frame, rows, labels, metrics, *, dashed=(), full=None):
    """Several metrics against the share of the data kept, a panel each: one line per row, one dot per seed.

    frame: of ``tables.read_cells``.  metrics: column -> its name.  dashed: rows drawn dashed.  full: the row
    of the run on all the data, a solid line across.  Rows and metrics without numbers are left out; positive
    ones that span a factor of five are drawn on a logarithmic axis.
    """
    shown = {value: name for value, name in metrics.items() if frame[value].notna().any()}
    if not shown:
        return _finish(plt.figure(figsize=(WIDTH, 1)))
    figure, panels = _panels(len(shown), 3.4)
    for axes, (value, name) in zip(panels, shown.items()):
        for k, row in enumerate(rows):
            part = frame[(frame.row == row) & frame[value].notna()].sort_values("ratio")
            if len(part) == 0:
                continue
            means = part.groupby("ratio")[value].mean()
            colour, line = ("0.25", "--") if row in dashed else (f"C{k}", "-")
            axes.plot(
                100 * means.index, means, "osD^vP*"[k % 7] + line, color=colour, ms=5, label=labels[row]
            )
            axes.plot(100 * part.ratio, part[value], ".", color=colour, ms=4, alpha=0.7)
        if full is not None and (frame.row == full).any():
            axes.axhline(frame[frame.row == full][value].mean(), color="C9", lw=1.4, label=labels[full])
        axes.set(xlabel="training images kept (%)", ylabel=name)
        axes.set_xticks(sorted(100 * frame[frame.row.isin(rows)].ratio.unique()))
        if frame[value].max() > 5 * frame[value].min() > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _finish(figure)
