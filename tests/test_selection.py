import dataclasses
import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.mixture import GaussianMixture

from dedt_lib import arrays, selection
from dedt_lib.errors import DedtError
from dedt_lib.selection import (
    Coreset,
    class_to_sample_weights,
    gaussian_scores,
    moderate_distances,
    moderate_order,
    select,
)
from dedt_lib.selection.gaussian import Gaussian


def toy(counts=(31, 20, 14), d=6, seed=0):
    """Random features, and labels of classes that differ in size, position and spread."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = generator.normal(size=(len(labels), d)) * (1 + labels[:, None]) + 5 * labels[:, None]
    order = generator.permutation(len(labels))
    return features[order], labels[order]


# ---- against the reference implementations -------------------------------------------------------


def test_gaussian_scores_match_the_reference(golden):
    g = golden("selection")
    scores = gaussian_scores(g["features"], g["labels"])
    np.testing.assert_allclose(scores, g["gaussian_score"], rtol=1e-9)


def test_moderate_distances_match_the_reference(golden):
    g = golden("selection")
    distances = moderate_distances(g["features"], g["labels"])
    np.testing.assert_allclose(distances, g["moderate_distance"], rtol=1e-12)


@pytest.mark.parametrize("percent", [10, 20, 40])
@pytest.mark.parametrize("method, options", [("gaussian", {"threshold": "percentile"}), ("moderate", {})])
def test_a_selector_keeps_what_the_reference_keeps(golden, method, options, percent):
    g = golden("selection")
    coreset = select(g["features"], g["labels"], method=method, ratio=percent / 100, **options)
    np.testing.assert_array_equal(coreset.indices, np.sort(g[f"{method}_keep_{percent}"]))


@pytest.mark.parametrize("d", [4, 40])
@pytest.mark.parametrize("scope", ["class", "global"])
def test_gaussian_scores_equal_scikit_learn(scope, d):
    features, labels = toy(d=d)
    scores = gaussian_scores(features, labels, scope=scope)
    for members in [labels == k for k in range(3)] if scope == "class" else [labels >= 0]:
        mixture = GaussianMixture(reg_covar=1e-5).fit(features[members])
        np.testing.assert_allclose(scores[members], mixture.score_samples(features[members]), rtol=1e-6)


# ---- many samples, few samples -------------------------------------------------------------------


def by_definition(features, ridge=1e-5):
    """The Gaussian scores by their formula in 80-bit numbers, for a covariance that is diagonal."""
    z = features.astype(np.longdouble) - features.mean(axis=0, dtype=np.longdouble)
    variance = np.square(z).mean(axis=0) + np.longdouble(ridge)
    return -0.5 * (np.square(z) / variance + np.log(variance) + np.log(2 * np.longdouble(np.pi))).sum(axis=1)


@pytest.mark.parametrize("d", [19, 50])
def test_gaussian_scores_keep_the_digits_that_the_ranking_hangs_on(d):
    # Orthogonal columns with mean zero give a diagonal covariance; the other columns are zero.
    columns = np.cos(np.pi * (np.arange(20)[:, None] + 0.5) * np.arange(1, 20) / 20)
    features = np.zeros((20, d))
    features[:, :19] = columns * np.geomspace(0.1, 10, 19)
    scores = gaussian_scores(features, np.zeros(20, dtype=int))
    np.testing.assert_allclose(scores, by_definition(features).astype(float), rtol=0, atol=1e-9)


@pytest.mark.parametrize("d", [6, 40])
@pytest.mark.parametrize("score", [gaussian_scores, moderate_distances])
def test_scores_do_not_depend_on_the_blocks(score, d, monkeypatch):
    features, labels = toy(d=d)
    whole = score(features, labels)
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 4)
    monkeypatch.setattr(arrays, "BLOCK_NUMBERS", 100)
    np.testing.assert_allclose(score(features, labels), whole, rtol=1e-12)


@pytest.mark.parametrize("change", [{"scope": "class"}, {"scope": "global"}, {"centre": "median"}])
def test_a_memory_mapped_file_is_read_in_parts(tmp_path, change, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 256)
    monkeypatch.setattr(arrays, "BLOCK_NUMBERS", 2**14)
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    labels = np.arange(20_000) % 2
    score = moderate_distances if "centre" in change else gaussian_scores
    score(np.array(features[:500]), labels[:500], **change)  # keeps imports out of the measurement
    tracemalloc.start()
    scores = score(features, labels, **change)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < features.nbytes / 2
    np.testing.assert_allclose(scores, score(np.array(features), labels, **change), rtol=1e-12)


# ---- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.37, 1.0])
@pytest.mark.parametrize("method", ["random", "gaussian", "moderate"])
def test_each_class_keeps_exactly_its_share(method, ratio):
    features, labels = toy()
    coreset = select(features, labels, method=method, ratio=ratio, scope="class")
    assert coreset.counts.tolist() == [round(ratio * n) for n in (31, 20, 14)]
    assert (np.diff(coreset.indices) > 0).all()


@pytest.mark.parametrize("method", ["random", "gaussian"])
def test_the_global_scope_keeps_the_share_of_all(method):
    features, labels = toy()
    coreset = select(features, labels, method=method, ratio=0.3, scope="global")
    assert len(coreset.indices) == round(0.3 * 65)


@pytest.mark.parametrize("scope", ["class", "global"])
@pytest.mark.parametrize("method", ["random", "gaussian", "moderate"])
def test_the_first_ranks_are_the_kept_ones(method, scope):
    features, labels = toy()
    coreset = select(features, labels, method=method, ratio=0.3, scope=scope)
    for members in [labels == k for k in range(3)] if scope == "class" else [labels >= 0]:
        rank, kept = coreset.rank[members], coreset.kept[members]
        assert sorted(rank) == list(range(members.sum()))
        assert ((rank < kept.sum()) == kept).all()


def test_a_larger_gaussian_coreset_contains_a_smaller_one():
    features, labels = toy()
    small, large = (select(features, labels, method="gaussian", ratio=r).indices for r in (0.2, 0.5))
    assert set(small) < set(large)


@pytest.mark.parametrize("method", ["gaussian", "moderate"])
def test_ties_go_to_the_first_position(method):
    features = np.random.default_rng(0).integers(-2, 3, (999, 1)).astype(float)
    coreset = select(features, np.zeros(999, dtype=int), method=method, ratio=0.3, scope="class")
    sign = -1 if method == "gaussian" else 1
    in_order = sorted(range(999), key=lambda i: sign * coreset.scores[i])
    start = 0 if method == "gaussian" else (999 - 300) // 2
    assert coreset.indices.tolist() == sorted(in_order[start : start + 300])


def test_the_percentile_drops_ties_at_the_cutoff_and_the_count_does_not():
    features = np.array([[-5.0], [-1.0], [1.0], [0.0], [-1.0], [1.0], [5.0]])
    labels = np.zeros(7, dtype=int)
    counted = select(features, labels, method="gaussian", ratio=4 / 7)
    strictly_above = select(features, labels, method="gaussian", ratio=4 / 7, threshold="percentile")
    assert counted.indices.tolist() == [1, 2, 3, 4]
    assert strictly_above.indices.tolist() == [3]


@pytest.mark.parametrize("n, ratio", [(182, 0.1), (105, 0.1), (4, 0.1), (25, 0.99), (40, 0.25), (7, 1.0)])
def test_the_number_above_a_percentile_is_known_beforehand(n, ratio):
    features, labels = np.random.default_rng(0).normal(size=(n, 3)), np.zeros(n, dtype=int)
    kept = select(features, labels, method="gaussian", ratio=ratio, threshold="percentile").indices
    assert len(kept) == Gaussian(threshold="percentile").count(n, ratio, "class")
    assert len(kept) == (n if ratio == 1 else n - 1 - int((1 - ratio) * (n - 1)))


@pytest.mark.parametrize("band", ["nearest", "farthest"])
def test_ties_of_a_band_go_to_the_first_position(band):
    order, count = moderate_order(np.array([2.0, 2, 2, 2, 2, 2]), 0.5, "class", band)
    assert order[:count].tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", ["gaussian", "moderate"])
def test_features_too_large_to_be_scored(method):
    features = np.random.default_rng(0).normal(size=(20, 3)) * 1e155
    with pytest.raises(DedtError, match="returned -?inf as the score of 20"), np.errstate(all="ignore"):
        select(features, np.zeros(20, dtype=int), method=method, ratio=0.3)


@pytest.mark.parametrize(
    "band, kept", [("nearest", [0, 1, 2]), ("center", [3, 4, 5]), ("farthest", [6, 7, 8])]
)
def test_bands_of_the_sorted_distances(band, kept):
    order, count = moderate_order(np.arange(9.0), 1 / 3, "class", band)
    assert sorted(order[:count]) == kept


def test_the_middle_of_the_band_comes_first():
    assert moderate_order(np.arange(9.0), 1 / 3, "class")[0].tolist() == [4, 3, 5, 2, 6, 1, 7, 0, 8]


def test_median_and_mean_centres():
    features, labels = np.array([[0.0], [0.0], [9.0]]), np.zeros(3, dtype=int)
    assert moderate_distances(features, labels).tolist() == [0, 0, 9]
    assert moderate_distances(features, labels, centre="mean").tolist() == [3, 3, 6]


def test_gaussian_keeps_the_dense_mode_and_moderate_the_ring():
    generator = np.random.default_rng(0)
    angle = generator.uniform(0, 2 * np.pi, 140)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * generator.uniform(2.9, 3.1, (140, 1))
    features = np.concatenate([generator.normal(0, 0.1, (60, 2)), ring])
    dense, labels = np.arange(200) < 60, np.zeros(200, dtype=int)
    assert dense[select(features, labels, method="gaussian", ratio=0.2).indices].all()
    assert not dense[select(features, labels, method="moderate", ratio=0.2).indices].any()


def test_random_follows_its_seed():
    labels = np.repeat([0, 1], 50)
    drawn = [select(None, labels, method="random", ratio=0.2, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (coreset.indices.tolist() for coreset in drawn)
    assert first == again != other


def test_features_may_be_float32():
    features, labels = toy()
    single = features.astype(np.float32)
    double = gaussian_scores(single.astype(float), labels)
    np.testing.assert_array_equal(gaussian_scores(single, labels), double)


# ---- weights -------------------------------------------------------------------------------------


def test_sample_weights_are_alpha_over_the_share():
    np.testing.assert_allclose(class_to_sample_weights([0.5, 0.25, 0.25], [10, 20, 10]), [2, 0.5, 1])
    np.testing.assert_array_equal(class_to_sample_weights(np.full(4, 0.25), np.full(4, 7)), np.ones(4))


def test_sample_weights_average_to_one_over_the_coreset():
    features, labels = toy()
    coreset = select(features, labels, method="moderate", ratio=0.5).with_weights([0.2, 0.3, 0.5])
    assert coreset.sample_weights[coreset.kept].mean() == pytest.approx(1)
    assert (coreset.sample_weights[~coreset.kept] == 0).all()


def test_a_class_without_images_cannot_be_weighted():
    told = r"\[1\] have no image in the coreset.*scope='class' or a larger ratio"
    with pytest.raises(DedtError, match=told):
        class_to_sample_weights([0.5, 0.5], [3, 0])


# ---- files ---------------------------------------------------------------------------------------


def coreset_with_names(weights=None):
    features, labels = toy()
    ids = [f"{k}/{i}.png" for i, k in enumerate(labels)]
    names = {"ids": ids, "class_names": ("a", "b", "c")}
    coreset = select(features, labels, method="gaussian", ratio=0.4, **names)
    return coreset if weights is None else coreset.with_weights(weights)


def test_a_coreset_keeps_the_options_of_its_method(tmp_path):
    features, labels = toy()
    chosen = select(features, labels, method="gaussian", ratio=0.5, ridge=0.1)
    chosen.save(tmp_path)
    assert Coreset.load(tmp_path).options == chosen.options == {"ridge": 0.1, "threshold": "count"}
    facts = json.loads((tmp_path / "coreset.json").read_text())
    del facts["options"]  # as an older version wrote it
    (tmp_path / "coreset.json").write_text(json.dumps(facts))
    assert Coreset.load(tmp_path).options == {}


@pytest.mark.parametrize("weights", [None, [0.2, 0.3, 0.5]])
def test_a_saved_coreset_comes_back(tmp_path, weights):
    coreset = coreset_with_names(weights)
    coreset.save(tmp_path)
    loaded = Coreset.load(tmp_path)
    for name in ("indices", "scores", "rank", "labels", "sample_weights"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(coreset, name))
    for name in ("method", "ratio", "scope", "ids", "class_names"):
        assert getattr(loaded, name) == getattr(coreset, name)
    assert (loaded.weights is None) == (weights is None)


def test_the_parquet_file_reads_without_this_library(tmp_path):
    coreset = coreset_with_names([0.2, 0.3, 0.5])
    coreset.save(tmp_path)
    table = pd.read_parquet(tmp_path / "coreset.parquet")
    known = "id class class_name caption score rank kept weight original why"
    assert list(table.columns) == known.split()
    assert table["kept"].sum() == len(coreset.indices) and len(table) == 65
    assert (table["class_name"] == [("a", "b", "c")[k] for k in table["class"]]).all()


def test_missing_and_damaged_coresets(tmp_path):
    with pytest.raises(DedtError, match="coreset.json does not exist"):
        Coreset.load(tmp_path)
    coreset_with_names().save(tmp_path)
    (tmp_path / "coreset.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DedtError, match="cannot be read.*Select it again"):
        Coreset.load(tmp_path)
    (tmp_path / "coreset.parquet").unlink()
    with pytest.raises(DedtError, match="coreset.parquet does not exist"):
        Coreset.load(tmp_path)
    (tmp_path / "coreset.json").write_text('{"method":')
    with pytest.raises(DedtError, match="not valid JSON.*delete it and run again"):
        Coreset.load(tmp_path)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ratio": 0}, r"must lie in \(0, 1\].*Write 10 % as 0.1"),
        ({"ratio": 2}, r"must lie in \(0, 1\]"),
        ({"ratio": -0.1}, r"must lie in \(0, 1\]"),
        ({"ratio": float("nan")}, r"must lie in \(0, 1\]"),
        ({"ratio": 0.01}, "keeps none of the .* samples. Raise it"),
        ({"method": "best"}, "random, gaussian, moderate"),
        ({"scope": "each"}, "class, global"),
        ({"method": "moderate", "band": "middle"}, "center, nearest, farthest"),
        ({"threshold": "top"}, "count, percentile"),
        ({"band": "center"}, "Unknown option of 'gaussian' 'band'.*: ridge, threshold"),
        ({"method": "moderate", "centre": "mode"}, "median, mean"),
    ],
)
def test_wrong_choices_name_the_right_ones(changes, message):
    features, labels = toy()
    with pytest.raises(DedtError, match=message):
        select(features, labels, **{"method": "gaussian", "ratio": 0.5, **changes})


@pytest.mark.parametrize("method", ["gaussian", "moderate"])
def test_features_that_cannot_be_used(method):
    features, labels = toy()
    with pytest.raises(DedtError, match="embed the images first"):
        select(None, labels, method=method, ratio=0.5)
    with pytest.raises(DedtError, match="64 feature rows but 65 labels"):
        select(features[1:], labels, method=method, ratio=0.5)
    with pytest.raises(DedtError, match=r"shape \[n, d\]"):
        select(features[:, 0], labels, method=method, ratio=0.5)
    features[[4, 9], 0] = np.nan, np.inf
    told = "2 of 65 samples have NaN or infinite features .first: sample 4.*embed again"
    with pytest.raises(DedtError, match=told):
        select(features, labels, method=method, ratio=0.5)


@pytest.mark.parametrize("labels", [[], [0.5, 1.0], [0, -1], [[0, 1]]])
def test_labels_that_cannot_be_used(labels):
    with pytest.raises(DedtError, match="non-empty array of integers"):
        select(None, np.array(labels), method="random", ratio=0.5)


def test_a_gaussian_needs_two_images_of_a_class():
    features, labels = toy(counts=(5, 1))
    told = "Class 1 has a single image.*Add images, drop the class, or use scope='global'"
    with pytest.raises(DedtError, match=told):
        select(features, labels, method="gaussian", ratio=0.5)
    assert len(select(features, labels, method="gaussian", ratio=0.5, scope="global").indices) == 3


def test_a_gaussian_needs_a_known_scope_and_a_ridge():
    features, labels = toy()
    with pytest.raises(DedtError, match="class, global"):
        gaussian_scores(features, labels, scope="each")
    with pytest.raises(DedtError, match="covariance is singular.*Raise the ridge"):
        gaussian_scores(np.ones((6, 3)), np.zeros(6, dtype=int), ridge=0.0)
    with pytest.raises(DedtError, match="covariance is singular .5 samples in 9 dimensions.*Raise the ridge"):
        gaussian_scores(np.eye(9)[:5], np.zeros(5, dtype=int), ridge=0.0)


@pytest.mark.parametrize("given", [{"ids": ["a"]}, {"class_names": ["a", "b"]}])
def test_ids_and_names_must_fit(given):
    _, labels = toy()
    with pytest.raises(DedtError, match="Got 1 ids for|Got 2 class names for labels from 0 to 2"):
        select(None, labels, method="random", ratio=0.5, **given)


def test_labels_that_number_no_classes_are_refused():
    with pytest.raises(
        DedtError, match="largest label is 1000000000, but there are only 2 samples.*return_inverse"
    ):
        select(None, [0, 10**9], method="random", ratio=0.5)


@pytest.mark.parametrize("kind", [np.uint8, list])
def test_scores_may_be_of_any_type(monkeypatch, kind):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(selection.Selector):
        def scores(self, features, labels, scope, originals):
            return features[:, 0].astype(np.uint8) if kind is np.uint8 else features[:, 0].tolist()

    monkeypatch.setitem(selection.REGISTRY, "own", Own)
    chosen = select(np.arange(10.0)[:, None], np.zeros(10, int), method="own", ratio=0.3)
    assert chosen.indices.tolist() == [7, 8, 9] and chosen.scores.dtype == np.float64
    monkeypatch.setattr(Own, "scores", lambda *_: np.arange(9.0))
    with pytest.raises(DedtError, match=r"'own' returned scores of shape .9,. for 10 samples"):
        select(np.arange(10.0)[:, None], np.zeros(10, int), method="own", ratio=0.3)


def test_a_class_that_keeps_nothing_is_named():
    labels = np.repeat([0, 1, 2], [50, 7, 3])
    chosen = select(None, labels, method="random", ratio=0.07, class_names=("ant", "bee", "cat"))
    assert chosen.counts.tolist() == [4, 0, 0] and chosen.empty == ["bee", "cat"]


def test_class_weights_must_fit():
    with pytest.raises(DedtError, match="2 class weights for 3 classes"):
        class_to_sample_weights([0.5, 0.5], [3, 3, 3])
    for weights in ([2, 1], [-1, 2], [np.nan, 1]):
        with pytest.raises(DedtError, match="must not be negative and must sum to one"):
            class_to_sample_weights(weights, [3, 3])


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_features_may_be_tensors(kind):
    features, labels = toy()
    tensor = torch.tensor(features, dtype=getattr(torch, kind), requires_grad=True)
    kept = select(tensor, labels, method="moderate", ratio=0.5).indices
    assert np.array_equal(
        kept, select(tensor.detach().double().numpy(), labels, method="moderate", ratio=0.5).indices
    )


@pytest.mark.parametrize("features", [np.array([["a"]] * 6), np.ones((6, 2), complex), np.ones((6, 0))])
def test_features_that_are_no_numbers_are_refused(features):
    with pytest.raises(DedtError, match=r"Features must (be real numbers|have the shape \[n, d\])"):
        moderate_distances(features, np.arange(6) % 2)


def test_files_that_are_no_coreset(tmp_path):
    coreset_with_names().save(tmp_path)
    (tmp_path / "coreset.json").write_text("{}")
    with pytest.raises(DedtError, match="cannot be read.*Select it again"):
        Coreset.load(tmp_path)
    coreset_with_names().save(tmp_path)
    pd.DataFrame({"id": ["x"]}).to_parquet(tmp_path / "coreset.parquet")
    with pytest.raises(DedtError, match="cannot be read.*Select it again"):
        Coreset.load(tmp_path)
    coreset_with_names().save(tmp_path)
    facts = json.loads((tmp_path / "coreset.json").read_text())
    (tmp_path / "coreset.json").write_text(json.dumps(facts | {"kept": facts["kept"] - 1}))
    with pytest.raises(DedtError, match="two files are of different coresets"):
        Coreset.load(tmp_path)


def test_two_images_of_a_class_are_no_reason_for_doubt():
    features, labels = np.array([[0.0], [1], [5], [9], [14]]), np.array([0, 0, 1, 1, 1])
    assert select(features, labels, method="moderate", ratio=0.5, scope="class").tied == ()
    assert select(0 * features, labels, method="moderate", ratio=0.5, scope="class").tied == ("0", "1")
    pairs, classes = np.arange(80.0)[:, None] ** 2, np.repeat(np.arange(40), 2)
    assert select(pairs, classes, method="moderate", ratio=0.5).tied == ()
    assert select(0 * pairs, classes, method="moderate", ratio=0.5).tied == ("all",)


# ---- selectors of one's own --------------------------------------------------------------------------


class Logarithm(selection.Selector):
    def scores(self, features, labels, scope, originals):
        with np.errstate(invalid="ignore"):
            return np.log(features[:, 0])


class Bare(Logarithm):
    power: float = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Logarithm):
    ids: int = 0


@pytest.mark.parametrize(
    "method, message",
    [
        (Logarithm, "returned nan as the score of 1 sample.s., the first 2"),
        (Bare, "Bare must be decorated"),
        (Named, "Rename the option ids of Named"),
        (Logarithm(), "must be a subclass of Selector: enter the class itself"),
        (np.linalg.norm, "must be a subclass of Selector"),
    ],
)
def test_a_faulty_selector_is_told(monkeypatch, method, message):
    monkeypatch.setitem(selection.REGISTRY, "own", method)
    with pytest.raises(DedtError, match=message):
        select(np.array([[1.0], [2], [-1], [3]]), [0, 0, 0, 0], method="own", ratio=0.5)


def test_originals_are_of_the_class_of_their_copies():
    features = np.arange(6.0)[:, None]
    with pytest.raises(DedtError, match="LabelledImages.originals, not .copies"):
        select(features, [0, 0, 0, 0, 1, 1], method="moderate", ratio=0.5, originals=[0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("wrong", [{"band": "centre"}, {"scope": "clas"}])
def test_a_band_has_known_names(wrong):
    with pytest.raises(DedtError, match="Choose one of"):
        selection.moderate_order(np.arange(5.0), 0.5, **{"scope": "class", **wrong})
