"""Metrics of generators of known quality: fresh draws, memorised images, and cases between the two.

The tests supply the images and the samples; the library does everything after that.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from dedt_lib import arrays, evaluation, sampling
from dedt_lib.data import LabelledImages
from dedt_lib.evaluation import cmmd, frechet_distance, kid, precision_recall, real_floor, spread
from dedt_lib.experiment import Experiment
from dedt_lib.sampling import balanced_labels, proportional_labels
from dedt_lib.stages import evaluate
from dedt_lib.stages.train import Train
from dedt_lib.store import Store

SHARES = [(1, 1), (4, 1), (90, 5, 3, 2)]


def class_labels(shares, n):
    """About n labels in these shares, sorted by class as images in folders are."""
    return np.repeat(np.arange(len(shares)), np.array(shares) * n // sum(shares))


# ---- in features -----------------------------------------------------------------------------------


def draw(labels, seed):
    """Features with one cluster for each class: float64 [n, 6]."""
    generator = np.random.default_rng(seed)
    return 4 * np.eye(6)[labels] + generator.normal(size=(len(labels), 6)) * (1 + labels[:, None] / 4)


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


METRICS = {
    "fid": frechet_distance,
    "kid": kid,
    "cmmd": lambda real, generated: cmmd(unit(real), unit(generated), unbiased=True),
    "precision": lambda real, generated: 1 - precision_recall(real, generated)[0],
    "recall": lambda real, generated: 1 - precision_recall(real, generated)[1],
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("shares", SHARES)
def test_fresh_draws_in_the_shares_of_the_classes_stay_at_the_floor(name, shares):
    labels, metric = class_labels(shares, 1200), METRICS[name]
    counts, real = np.bincount(labels), draw(labels, 0)
    floors = [metric(draw(labels, 10 + 2 * i), draw(labels, 11 + 2 * i)) for i in range(4)]
    perfect = metric(real, draw(proportional_labels(len(labels), counts), 1))
    assert abs(perfect) < 2 * np.max(np.abs(floors)) + 1e-9
    if name in ("fid", "kid", "cmmd") and len(set(counts)) > 1:
        balanced = metric(real, draw(balanced_labels(len(labels), len(counts)), 1))
        assert balanced > 20 * np.max(np.abs(floors))


@pytest.mark.parametrize("shares", SHARES)
def test_the_floor_is_that_of_two_draws_of_its_size(shares):
    labels = class_labels(shares, 2000)
    halves = [frechet_distance(draw(labels[::2], 2 * i), draw(labels[::2], 2 * i + 1)) for i in range(1, 6)]
    floor = real_floor(draw(labels, 0), labels, splits=5)
    assert floor["fid"] == pytest.approx(np.mean(halves), rel=0.5) and (floor["classwise"] > 0).all()


def test_the_floor_of_a_class_of_three_is_left_out():
    labels = np.array([0] * 40 + [1] * 3 + [2] * 4)
    floor = real_floor(draw(labels, 0), labels, splits=2)
    assert floor["fid"] > 0 and np.isnan(floor["classwise"]).tolist() == [False, True, False]


@pytest.mark.parametrize("most", [10, 99, 100, 1000])
@pytest.mark.parametrize("order", ["sorted", "in turns", "shuffled"])
def test_a_part_of_the_images_has_the_shares_of_all(order, most):
    labels = class_labels((90, 5, 3, 2), 1000) if order != "in turns" else np.arange(1000) % 4
    labels = np.random.default_rng(0).permutation(labels) if order == "shuffled" else labels
    chosen = spread(labels, most)
    assert len(chosen) == most == len(set(chosen)) and (np.diff(chosen) > 0).all()
    shares = np.bincount(labels[chosen], minlength=4) - most * np.bincount(labels) / 1000
    assert np.abs(shares).max() < 1
    assert spread(labels, 5000).tolist() == list(range(1000))


# ---- in images -------------------------------------------------------------------------------------


def pictures(labels, seed, side=12):
    """Images of noise whose brightness depends on the class: uint8 [n, 1, side, side]."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), 1, side, side))
    return np.clip(70 + 35 * labels[:, None, None, None] + 40 * noise, 0, 255).astype(np.uint8)


def images(labels, seed, pixels=None):
    pixels = pictures(labels, seed) if pixels is None else pixels
    names = tuple("abcdef"[: labels.max() + 1])
    return LabelledImages(pixels, labels, names, tuple(f"{seed}-{i}" for i in range(len(labels))))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


MODELS = itertools.count()
CLIP = {"encoders.clip.epochs": 1}


@pytest.fixture
def measured(store, monkeypatch):
    """A function (training images, held-out images or None, sample generator, ..) -> Experiment."""

    def measure(train, test, generate, **changes):
        def sample(model, labels, *, folder, **_):
            np.save(folder / "samples.npy", generate(labels))

        sizes = {"data.image_size": 12, "data.per_class": 0, "sample.count": len(train), "evaluate.epochs": 1}
        recipe = {"method": "random", "ratio": 1.0, "seed": next(MODELS)}
        x = Experiment(tiny.profile(**{**sizes, **changes}), store=store, device="cpu", **recipe)
        for split, images in (("train", train), ("test", test)):
            x.lab.remember(("images", split), lambda images=images: images)
        monkeypatch.setattr(Train, "folder", property(lambda self: Path("nowhere")))
        monkeypatch.setattr(Train, "load", lambda self, folder: None)
        monkeypatch.setattr(sampling, "sample", sample)
        return x

    return measure


@pytest.mark.parametrize("shares", [(4, 1), (90, 5, 3, 2)])
def test_a_perfect_generator_of_unequal_classes_is_found_to_be_one(shares, measured):
    labels = class_labels(shares, 400)
    small = {**CLIP, "evaluate.epochs": 3, "evaluate.cmmd": "clip" if len(shares) == 2 else ""}
    x = measured(images(labels, 0), images(labels, 1), lambda labels: pictures(labels, 2), **small)
    metrics, floor, more = x.evaluate(), x.floor(), x.compare()
    assert np.bincount(x.sample_labels()).tolist() == x.data.class_counts.tolist()
    assert metrics["fid"] < 1.5 * floor["fid"] and metrics["copies"] < 0.05
    assert metrics["copies_features"] < 0.05
    assert "labels in the shares of the training images" in metrics["protocol"]
    assert more["cmmd"] is None or more["cmmd_unbiased"] < more["cmmd"]
    assert min(more["precision"], more["recall"]) > 0.7
    assert "precision and recall of 400 samples and 400 training images" in more["comparison_protocol"]
    wrong = balanced_labels(len(labels), len(shares))
    balanced = measured(x.data, x.test, lambda labels: pictures(wrong, 2), **small)
    assert balanced.evaluate()["fid"] > 10 * floor["fid"]


def test_large_sides_are_measured_in_parts_and_the_real_one_once(measured, monkeypatch):
    labels = class_labels((4, 1), 200)
    x = measured(images(labels, 0), images(labels, 1), lambda labels: pictures(labels, 2), **CLIP)
    whole = x.compare()
    monkeypatch.setattr(evaluation, "MOST_NEIGHBOURS", 100)
    monkeypatch.setattr(evaluation, "MOST_EMBEDDED", 150)
    monkeypatch.setattr(evaluation.kernels, "MOST_PAIRED", 150)
    monkeypatch.setattr(evaluation, "MOST_PAIRED", 150)
    x = measured(x.data, x.test, lambda labels: pictures(labels, 2), **CLIP)
    parts, metrics = x.compare(), x.evaluate()
    for words in ("100 subsets of 1000", "100 samples and 100 training", "against 150 training images"):
        assert words in parts["comparison_protocol"]
    for name in ("cmmd", "precision", "recall"):
        assert parts[name] == pytest.approx(whole[name], rel=0.3, abs=1e-6)
    assert metrics["held_out"] == 100 and metrics["copies"] < 0.05
    embeddings = evaluate.CmmdReal(x.lab).result()
    assert len(embeddings) == 150

    within, radii, sides = evaluation.within_real, evaluation.neighbour_radii, []

    def counted(side, **how):
        sides.append(side)
        return radii(side, **how)

    monkeypatch.setattr(evaluation, "within_real", None)
    monkeypatch.setattr(evaluation.neighbours, "neighbour_radii", counted)
    other = measured(x.data, x.test, lambda labels: pictures(labels, 3), **CLIP)
    # Radii are computed for the samples only; those of the real images come from the store.
    assert other.compare()["cmmd"] is not None and len(sides) == 1
    assert list(within(embeddings)) == evaluate.CmmdWithin(other.lab).result()


TRAIN = images(np.arange(200) % 2, 0)


def shifted(pixels):
    return np.pad(pixels, ((0, 0), (0, 0), (0, 0), (1, 0)), mode="edge")[..., :-1]


MEMORISERS = {
    "exact": lambda labels: TRAIN.images[: len(labels)],
    "mirrored": lambda labels: TRAIN.images[: len(labels), :, :, ::-1].copy(),
    "in noise": lambda labels: TRAIN.images[: len(labels)] // 2 * 2,
}


@pytest.mark.parametrize(
    "kind, leaks", [("exact", 2), ("exact", 60), ("mirrored", 0), ("mirrored", 2), ("in noise", 60)]
)
def test_a_memoriser_is_found_whatever_leaked(kind, leaks, measured):
    labels = np.arange(100) % 2
    held_out = pictures(labels, 1)
    held_out[:leaks] = TRAIN.images[50 : 50 + leaks]
    held_out[: leaks // 2] = held_out[: leaks // 2, :, :, ::-1]
    x = measured(TRAIN, images(labels, 1, held_out), MEMORISERS[kind], **{"train.flip": True})
    metrics = x.evaluate()
    assert metrics["copies"] > 0.97 and metrics["copies_features"] > 0.97
    assert (metrics["leaks"], metrics["held_out"]) == (leaks, 100 - leaks)
    assert metrics["copies_threshold"] > 5


def test_a_mirrored_copy_is_none_where_nothing_is_mirrored(measured):
    metrics = measured(TRAIN, images(np.arange(100) % 2, 1), MEMORISERS["mirrored"]).evaluate()
    assert metrics["copies"] < 0.05


def test_a_copy_shifted_by_a_pixel_is_found_in_features(measured):
    held_out = images(np.arange(100) % 2, 1)
    metrics = measured(TRAIN, held_out, lambda labels: shifted(TRAIN.images)).evaluate()
    assert metrics["copies"] < 0.3 and metrics["copies_features"] > 0.6
    fresh = measured(TRAIN, held_out, lambda labels: pictures(labels, 5)).evaluate()
    assert fresh["copies_features"] < 0.05


def test_held_out_images_score_one_per_cent(measured):
    labels = np.arange(200) % 2
    x = measured(TRAIN, images(labels, 1), lambda labels: pictures(labels, 3))
    held_out = x.held_out()
    for reading in ("pixels", "features"):
        share = (held_out[reading] <= held_out[f"{reading}_threshold"]).mean()
        assert share == pytest.approx(0.01, abs=0.005)
    new = pictures(labels, 4)
    found = x.metric_features(new)
    fresh = evaluate.distances_to_training(x.lab, new, found)
    assert (fresh["pixels"] <= held_out["pixels_threshold"]).mean() < 0.04
    few = evaluate.distances_to_training(x.lab, new, found, np.arange(20))
    assert (few["pixels"] >= fresh["pixels"]).all() and (few["features"] >= fresh["features"]).all()


@pytest.mark.parametrize("test", [None, TRAIN])
def test_without_new_held_out_images_nothing_is_counted(test, measured):
    metrics = measured(TRAIN, test, MEMORISERS["exact"]).evaluate()
    assert metrics["copies"] is None and metrics["copies_features"] is None
    assert metrics["copies_threshold"] is None and metrics["leaks"] == (test and 200)
    json.dumps(metrics, allow_nan=False)


def test_a_class_with_few_images_or_samples_has_no_value_of_its_own(measured):
    labels = class_labels((90, 5, 3, 2), 400)
    labels = np.concatenate([labels, [4] * 3])
    x = measured(images(labels, 0), None, lambda labels: pictures(labels, 2), **{"sample.count": 70})
    metrics, floor = x.evaluate(), x.floor()
    missing = [value is None for value in metrics["classwise"]]
    assert missing == [False, False, False, True, True]
    assert metrics["classwise_left_out"] == ["d (1 sample)", "e (3 images, 1 sample)"]
    assert [value is None for value in floor["classwise"]] == [False] * 4 + [True]
    assert x.real()["classes"][4] is None and x.real()["classes"][3].count == 8
    json.dumps([metrics, floor], allow_nan=False)


def test_near_copies_are_looked_for_in_blocks_and_among_some(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 7)
    train, some = TRAIN.images, np.array([3, 50, 199])
    distances, nearest = evaluation.nearest_distances(train, train, among=some)
    assert nearest[some].tolist() == some.tolist() and (distances == 0).sum() == 3
    assert set(nearest) == set(some)
    mirrored, which = evaluation.nearest_distances(train[:, :, :, ::-1], train, mirrored=True)
    assert mirrored.max() == 0 and which.tolist() == list(range(200))
    views = list(evaluation.views(train[:2], shifted=True, mirrored=True))
    assert len(views) == 18 and {view.shape for view in views} == {(2, 1, 12, 12)}
    assert any((view == shifted(train[:2])).all() for view in views)
