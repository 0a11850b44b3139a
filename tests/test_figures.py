"""The plots of encoders, training plans and results, drawn from small made-up numbers."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import tiny
from matplotlib import pyplot as plt

from dedt_lib.book import figures
from dedt_lib.book.comparisons import Page
from dedt_lib.book.notebook import dial
from dedt_lib.book.tables import intervals
from dedt_lib.data import LabelledImages
from dedt_lib.selection import select

NAMES = tuple("0123456789")
K = len(NAMES)
LABELS = {"random": "Uniform random", "moderate": "Moderate-DS", "clip": "CLIP", "full": "All data"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def frame(rng):
    """Results of two rows at two ratios and of the run on all the data, with two seeds."""
    cells = [(row, ratio, seed) for row in ("random", "moderate") for ratio in (0.1, 0.4) for seed in (0, 1)]
    cells += [("full", 1.0, 0), ("full", 1.0, 1)]
    frame = pd.DataFrame(cells, columns=["row", "ratio", "seed"])
    return frame.assign(fid=rng.uniform(0.5, 2, len(cells)), realised=frame.ratio)


def drawn(figure, panels):
    """Check that a figure renders, is closed in pyplot and has so many panels; return their axes."""
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.canvas.draw()
    assert figure.number not in plt.get_fignums()
    axes = [axes for axes in figure.axes if axes.has_data()]
    assert len(axes) == panels
    return axes


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_panel_for_each_encoder(count, rng):
    data = tiny.digits(6)
    encoders = [f"encoder {k}" for k in range(count)]
    features = {name: rng.normal(size=(len(data), 5)) for name in encoders}
    panels = drawn(figures.feature_planes(features, data.labels, data.class_names), count)
    assert [axes.get_title() for axes in panels] == encoders
    drawn(figures.epoch_losses({name: [2.0, 1.0, 0.5] for name in encoders}), count)
    nearest = {name: np.tile(np.arange(4), (3, 1)) for name in encoders}
    drawn(figures.neighbours(data, nearest), count)


def test_a_class_without_a_value_leaves_a_gap():
    (axes,) = drawn(figures.classwise_bars({"a": [1.0, None], "b": [2.0, None]}, ["x", "y"], [0.5, None]), 1)
    heights = [patch.get_height() for patch in axes.patches]
    assert {height for height in heights if height > 0} == {1.0, 2.0}


def test_a_class_has_a_column_and_a_rare_one_leaves_it_empty():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), dtype=np.uint8)
    sheet = figures.class_columns(images, np.array([0, 0, 1, 0, 0, 2]), 3, rows=3)
    assert sheet[:, 0, 0, 0].tolist() == [0, 2, 5, 1, 235, 235, 3, 235, 235]
    turns = figures.class_columns(images, np.arange(6) % 3, 3)
    assert np.array_equal(turns, images)


def test_classes_of_unequal_size_fill_their_columns_as_far_as_they_go(rng):
    labels = np.array([0] * 9 + [1] * 5 + [2])
    images, ids = rng.integers(0, 256, (15, 1, 8, 8), dtype=np.uint8), tuple("abcdefghijklmno")
    data = LabelledImages(images, labels, tuple("xyz"), ids)
    coreset = select(rng.normal(size=(15, 4)), labels, method="random", ratio=0.3, scope="class")
    assert coreset.counts[2] == 0
    (sheet,) = drawn(figures.example_images(data, per_class=4), 1)
    assert sheet.get_images()[0].get_array().shape == (4 * 9 - 1, 3 * 9 - 1)
    weights, fid = np.full(3, 1 / 3), [1.0, 2.0, None]
    drawn(figures.front_page(data, coreset, weights, data.images, fid, fid), 4)


def test_a_run_of_one_epoch_has_a_loss_curve():
    drawn(figures.epoch_losses({"Inception-v3": [2.3]}), 1)


def test_neighbours_of_another_class_are_framed():
    data = tiny.digits(3)
    right, wrong = np.flatnonzero(data.labels == 0)[:2], np.flatnonzero(data.labels == 1)[:1]
    nearest = {"encoder": np.concatenate([right, wrong])[None]}
    (axes,) = drawn(figures.neighbours(data, nearest), 1)
    assert len(axes.patches) == 1


def test_kept_beside_removed_with_a_row_for_each_class(rng):
    coreset = select(rng.normal(size=(40, 3)), np.repeat(np.arange(4), 10), method="moderate", ratio=0.5)
    grey = np.where(coreset.kept, 200, 50).astype(np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (40, 1, 8, 8))
    samples = np.full((6, 1, 8, 8), 100, dtype=np.uint8), np.arange(6) % 4
    panels = drawn(figures.kept_and_removed(images, {"a": coreset}, per_side=4, drawn=samples), 3)
    assert {text.get_text() for text in panels[0].texts} == set(coreset.class_names)
    for axes, grey in zip(panels, (200, 50, 100)):
        sheet = axes.get_images()[0].get_array()
        assert sheet.shape == (4 * 9 - 1, 4 * 9 - 1) and set(np.unique(sheet)) <= {grey, 235}


def test_rows_of_images_may_be_of_different_length(rng):
    rows = [rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8) for n in (5, 2)]
    panels = drawn(figures.image_rows(rows, ["five", "two"]), 2)
    assert len({axes.get_images()[0].get_array().shape for axes in panels}) == 1


def test_names_of_classes_that_would_overlap_are_tilted():
    neighbours = ("airplane", "automobile", *NAMES[2:])
    for names, angle in ((NAMES, 0), (neighbours, 35), ([f"a kind of thing {k}" for k in range(12)], 35)):
        (axes,) = drawn(figures.class_counts({"kept": np.arange(len(names))}, names), 1)
        assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {angle}
        assert [tick.get_text() for tick in axes.get_xticklabels()] == list(names)


@pytest.mark.parametrize("axes_known", [1, 3])
def test_the_map_of_photographs_draws_some_of_them(axes_known, rng):
    coreset = select(None, np.zeros(40, dtype=int), method="random", ratio=0.25)
    images = rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    (axes,) = drawn(figures.feature_map(rng.normal(size=(40, axes_known)), coreset, images, shown=15), 1)
    assert len(axes.get_images()) == 15
    dots = [len(points.get_offsets()) for points in axes.collections]
    assert dict(zip(texts(axes), dots)) == {"removed": 30, "kept": 10}


def test_the_knee_marks_the_ratio():
    (axes,) = drawn(figures.knee([(0.1, 0.8), (0.5, 0.3), (1.0, 0.0)], 0.2), 1)
    line, mark = axes.lines
    assert np.allclose(line.get_xydata(), [(10, 80), (50, 30), (100, 0)]) and mark.get_xdata() == [20, 20]


def test_the_overlap_of_coresets(rng):
    labels = np.repeat(np.arange(4), 10)
    features = rng.normal(size=(40, 3))
    coresets = {
        "random": select(None, labels, method="random", ratio=0.5),
        "moderate": select(features, labels, method="moderate", ratio=0.5, scope="class"),
    }
    heat = drawn(figures.overlap_map(coresets), 2)[0]
    shared = 100 * np.isin(coresets["random"].indices, coresets["moderate"].indices).mean()
    assert [text.get_text() for text in heat.texts] == ["100", f"{shared:.0f}", f"{shared:.0f}", "100"]


def test_the_draws_of_an_epoch(rng):
    (axes,) = drawn(figures.class_draws(rng.integers(0, 30, K), np.full(K, 15.0), NAMES), 1)
    assert len(axes.patches) == K


def test_losses_are_split_at_their_mean(rng):
    t = rng.integers(0, 1000, 50)
    (axes,) = drawn(figures.losses_by_timestep(t, np.exp(-t / 100) + 0.01), 1)
    above, below = (line.get_ydata() for line in axes.lines[:2])
    assert len(above) + len(below) == 50 and above.min() >= below.max()


def test_epochs_of_different_plans():
    sizes = {"InfoBatch": [100, 40, 30, 100], "coreset": [10, 10, 10, 100]}
    (axes,) = drawn(figures.epoch_sizes(sizes, 100), 1)
    assert texts(axes) == list(sizes)


def test_fid_over_images_leaves_out_rows_without_results(frame):
    lines = {"Uniform random": ["random"], "InfoBatch": ["infobatch-annealed"], "All data": ["full"]}
    figure = figures.fid_by_images(frame, lines, dashed=["All data"], floor=0.3)
    (axes,) = drawn(figure, 1)
    assert texts(axes) == ["Uniform random", "All data", "real-vs-real FID"]


def test_speedups_with_a_gap():
    series = {"ideal": [10, 2.5], "here, training": [9.0, np.nan], "here, whole recipe": [0.8, 0.5]}
    panels = drawn(figures.speedup_by_ratio({"a": series, "b": series}, [0.1, 0.4]), 2)
    assert [axes.get_title() for axes in panels] == ["a", "b"]


def test_the_ranks_of_two_orders():
    orders = {"ours": [list("abc"), list("ab")], "paper": [list("cba"), list("ab")]}
    order = pd.DataFrame(orders, index=["10 %", "40 %"])
    panels = drawn(figures.rank_slopes(order, {"a": "row a", "b": "row b", "c": "row c"}), 2)
    ends = {line.get_label(): list(line.get_ydata()) for line in panels[0].lines}
    assert ends == {"row c": [1, 3], "row b": [2, 2], "row a": [3, 1]}


@pytest.mark.parametrize("seeds", [1, 3])
def test_weights_of_classes(seeds, rng):
    weights = rng.dirichlet(np.ones(K), size=seeds)
    (axes,) = drawn(figures.weights_by_seed(weights, NAMES, range(len(weights))), 1)
    assert (axes.get_legend() is None) == (seeds == 1)
    (axes,) = drawn(figures.weight_and_difficulty(weights, rng.uniform(2, 9, (seeds, K)), NAMES), 1)
    assert [text.get_text() for text in axes.texts] == list(NAMES)


def test_differences_are_means_with_their_intervals(frame):
    pairs = {"selected": ("moderate", "random"), "not there yet": ("mdt-random", "random")}
    page = Page(frame, pairs.values())
    found = {name: page.compare(*pair) for name, pair in pairs.items()}
    (axes,) = drawn(figures.differences(found), 1)
    dots = [line for line in axes.lines if line.get_marker() != "None"]
    assert [dot.get_xdata()[0] for dot in dots] == pytest.approx(list(found["selected"].difference))
    ends = [line.get_segments()[0][:, 0] for line in axes.collections]
    np.testing.assert_allclose(ends, found["selected"][["low", "high"]])
    assert [dot.get_label() for dot in dots] == ["10 %", "40 %"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["selected"]


def test_differences_without_results_are_an_empty_figure():
    assert not figures.differences({}).axes[0].collections


@pytest.mark.parametrize("seeds", [1, 2])
def test_means_over_ratios_have_the_intervals_of_their_seeds(frame, seeds):
    own, rows = frame[frame.seed < seeds], ["random", "moderate", "clip"]
    figure = figures.fid_by_ratio(own, rows, LABELS, dashed=["moderate"], floor=0.3, full="full")
    (axes,) = drawn(figure, 1)
    assert {*texts(axes)} == {"Uniform random", "Moderate-DS", "All data", "real-vs-real FID"}
    expected = intervals(own[own.row == "random"], "ratio")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected["mean"])
    ends = [list(segment[:, 1]) for segment in axes.collections[0].get_segments() if len(segment)]
    assert np.allclose(ends, expected[["low", "high"]]) if seeds > 1 else ends == []
    classes = np.random.default_rng(0).uniform(1, 2, (3, seeds, K))
    drawn(figures.figure_2(*classes, NAMES, [0.5] * K), 2)


def test_runs_of_different_length_share_one_axis_of_clipped_samples():
    readings = {"long": {"clipped": np.full(200, 0.25)}, "short": {"clipped": np.full(7, 0.75)}}
    (axes,) = drawn(figures.clipped_share(readings), 1)
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in axes.lines[:2]]
    assert np.allclose(ends, [(100, 25), (100, 75)])
    assert texts(axes) == ["long", "short", "proxy as good as reference"]


def test_the_posterior_of_each_channel(rng):
    images = rng.integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    mean, deviation = rng.normal(size=(5, 2, 4, 4)), rng.uniform(size=(5, 2, 4, 4))
    panels = drawn(figures.posteriors(images, mean, deviation), 5)
    red, green, blue = panels[1].get_images()[0].get_array()[:4, :4].transpose(2, 0, 1).astype(int)
    assert ((red > blue) == (mean[0, 0] > 0)).all()


def test_hidden_tokens_are_covered_and_visible_ones_are_not():
    images = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    (axes,) = drawn(figures.masked_tokens(images, {"one of four": [[2]]}, side=2), 1)
    cover = np.asarray(axes.get_images()[0].get_array()).any(axis=-1)
    assert not cover[4:, :4].any() and cover[:4].all() and cover[:, 4:].all()


def test_a_histogram_for_each_channel_of_a_latent(rng):
    (axes,) = drawn(figures.latent_histogram(rng.normal(size=(20, 3, 4, 4))), 1)
    assert texts(axes) == ["channel 0", "channel 1", "channel 2", "standard normal"]


def test_the_schedules_of_a_transformer():
    t = np.arange(1000)
    drawn(figures.loss_by_timestep(np.minimum(t / 100, 1), np.log(1e-5 + t / 2), np.log(1e-5 + t)), 2)
    (axes,) = drawn(figures.guidance_schedule({"a": 4 - t / 333, "b": 4 - t / 500}), 1)
    left, right = axes.get_xlim()
    assert left > right


def test_sheets_side_by_side(rng):
    sheets = {name: rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8) for name, n in (("a", 20), ("b", 10))}
    assert [axes.get_title() for axes in drawn(figures.image_sheets(sheets, columns=10), 2)] == ["a", "b"]


def test_the_weights_of_groups_of_classes(rng):
    runs = {rule: rng.dirichlet(np.ones(20), size=30) for rule in ("previous", "zero")}
    hard = np.arange(20) < 4
    first, second = drawn(figures.group_weights(runs, {"hard": hard, "others": ~hard}), 2)
    assert np.allclose(second.lines[0].get_ydata(), np.median(20 * runs["zero"][:, hard], axis=1))


def test_metrics_by_ratio_leave_out_what_is_not_there(frame):
    frame["cmmd"] = None
    metrics = {"fid": "FID", "cmmd": "CMMD"}
    figure = figures.metrics_by_ratio(frame, ["random", "moderate", "clip"], LABELS, metrics, full="full")
    (axes,) = drawn(figure, 1)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["Uniform random", "Moderate-DS", "All data"]
    drawn(figures.metrics_by_ratio(frame.iloc[:0], [], LABELS, metrics), 0)


def test_a_ratio_has_a_row_and_a_selector_a_column():
    data = tiny.digits(40)
    z = data.images.reshape(len(data), -1).astype(float)
    methods = ("gaussian", "moderate")
    by_ratio = {
        ratio: {method: select(z, data.labels, method=method, ratio=ratio) for method in methods}
        for ratio in (0.1, 0.5, 0.9)
    }
    figure = figures.kept_by_ratio(data.images, by_ratio, of_class=1)
    drawn(figure, 2 * 2 * 3)
    histograms = figure.axes[::4], figure.axes[1::4]
    for column, method in zip(histograms, methods):
        for axes, (ratio, coresets) in zip(column, by_ratio.items()):
            removed, both = (sum(bar.get_height() for bar in bars) for bars in axes.containers)
            assert axes.get_title() == f"{method}, ratio {ratio:g}"
            assert both == coresets[method].counts[1]
            assert removed + both == data.class_counts[1]


def test_a_dial_is_a_figure_and_in_jupyterlab_a_slider_too(monkeypatch):
    shown, settings = [], {0.1: [1, 2], 0.4: [4, 8], 0.9: [9, 18]}
    monkeypatch.setattr("IPython.display.display", shown.append)
    how = {"settings": settings, "draw": lambda counts: figures.class_counts(counts, ["a", "b"])}

    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    (axes,) = drawn(dial("ratio", **how, printed=(0.1, 0.9)), 1)
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0.1", "0.9"] and shown == []

    monkeypatch.setenv("JPY_SESSION_NAME", "chapter.ipynb")
    drawn(dial("ratio", **how), 1)
    (box,) = shown
    slider, pictures = box.children
    assert slider.options == ("0.1", "0.4", "0.9")
    assert len({picture.value for picture in pictures.children}) == 3


def test_a_hundred_classes_have_few_names():
    names = [f"class {k}" for k in range(100)]
    axes = figures.classwise_bars({"FID": np.ones(100)}, names).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == names[::4]
    reading = {"trajectory": np.full((3, 100), 0.01), "burn_in": 0}
    drawn = figures.weight_trajectories({"all": reading}, names).axes[0]
    assert len(drawn.lines) > 100 and not drawn.get_legend().get_texts()
