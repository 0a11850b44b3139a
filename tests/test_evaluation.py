import numpy as np
import pytest
import scipy.stats
import tiny
import torch
from safetensors.torch import save_file
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from dedt_lib import arrays, encoders, evaluation
from dedt_lib.errors import DedtError
from dedt_lib.evaluation import (
    FrechetReference,
    classwise_frechet,
    classwise_kid,
    classwise_references,
    cmmd,
    concordance,
    frechet_distance,
    kernels,
    kid,
    kid_within,
    near,
    nearest_distances,
    paired_interval,
)
from dedt_lib.stages.evaluate import features, width
from dedt_lib.stages.lab import Lab


def draw(n, d=5, seed=0, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + shift


# ---- Frechet distance ----------------------------------------------------------------------------


def test_fid_matches_the_reference(golden):
    g = golden("metrics")
    assert frechet_distance(g["fid_real"], g["fid_fake"]) == pytest.approx(float(g["fid"]), rel=1e-9)
    sides = g["fid_real"], g["fid_real_labels"], g["fid_fake"], g["fid_fake_labels"]
    classwise = classwise_frechet(*sides)
    np.testing.assert_allclose(classwise, g["fid_classwise"], rtol=1e-9)


def test_equal_covariances_leave_the_squared_distance_of_the_means():
    features, shift = draw(200), np.array([1.0, -2.0, 0.0, 3.0, 0.5])
    assert frechet_distance(features, features + shift) == pytest.approx(shift @ shift)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def between(mean, covariance, other, its_covariance):
    sides = FrechetReference.from_statistics(mean, covariance), (other, its_covariance)
    return sides[0].distance(FrechetReference.from_statistics(*sides[1]))


def test_two_gaussians_have_their_known_distance():
    # For diagonal covariances the distance is that of the standard deviations.
    zero, a, b = np.zeros(3), np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 4.0, 1.0])
    assert between(zero, a, zero, b) == pytest.approx(1 + 0 + 4)
    # For 2 x 2 matrices tr(M^1/2) = sqrt(tr M + 2 sqrt(det M)).
    a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = 1 + np.trace(a) + np.trace(b) - 2 * overlap
    assert between(np.zeros(2), a, np.array([1.0, 0.0]), b) == pytest.approx(expected)


def test_singular_covariances_work():
    real, generated = draw(4, d=10), draw(4, d=10, seed=1)
    assert np.isfinite(frechet_distance(real, generated))
    assert frechet_distance(np.ones((5, 3)), np.zeros((5, 3))) == pytest.approx(3)


def test_the_distance_is_symmetric():
    real, generated = draw(80), draw(60, seed=1, scale=2.0)
    assert frechet_distance(real, generated) == pytest.approx(frechet_distance(generated, real))


def torch_fidelity_fid(real, generated):
    sides = [fid_features_to_statistics(torch.from_numpy(side)) for side in (real, generated)]
    return fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize("n, m", [(300, 200), (300, 20), (20, 200), (30, 20)])
def test_torch_fidelity_agrees_on_the_same_features(n, m):
    # With 48 features, each side has more images than features in one case and fewer in another.
    mix = draw(48, d=48, seed=9)
    real, generated = draw(n, d=48) @ mix, draw(m, d=48, seed=1, scale=1.2, shift=0.3) @ mix
    assert frechet_distance(real, generated) == pytest.approx(torch_fidelity_fid(real, generated), rel=1e-6)


def test_few_images_give_what_the_covariances_give():
    # With 5 features the distance is computed from covariances, with 20 from the images themselves.
    real, generated = draw(8, d=5), draw(7, d=5, seed=1, shift=1.0)
    wide = [np.concatenate([side, np.zeros((len(side), 15))], axis=1) for side in (real, generated)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(real, generated), rel=1e-12)


# ---- references ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 6])
@pytest.mark.parametrize("m", [20, 4])
def test_a_reference_gives_the_same_distance(n, m, tmp_path):
    real, generated = draw(n, d=12), draw(m, d=12, seed=1, shift=0.5)
    FrechetReference.of(real).save(tmp_path / "real.npz")
    reference = FrechetReference.load(tmp_path / "real.npz")
    assert reference.count == n and len(list(tmp_path.iterdir())) == 1
    assert reference.distance(generated) == frechet_distance(reference, generated)
    assert reference.distance(generated) == frechet_distance(real, generated)
    assert reference.distance(FrechetReference.of(generated)) == pytest.approx(reference.distance(generated))


@pytest.mark.parametrize("n", [30, 6])
def test_a_reference_holds_the_mean_and_the_covariance(n):
    features = draw(n, d=12)
    reference = FrechetReference.of(features)
    np.testing.assert_allclose(reference.mean, features.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(reference.factor @ reference.factor.T, np.cov(features.T), atol=1e-12)


def test_statistics_do_not_depend_on_the_blocks(monkeypatch):
    features = draw(50).astype(np.float32)
    mean, covariance = evaluation.gaussian_statistics(features)
    np.testing.assert_allclose(covariance, np.cov(features.astype(float).T), rtol=1e-12)
    monkeypatch.setattr("dedt_lib.arrays.BLOCK_ROWS", 7)
    np.testing.assert_allclose(evaluation.gaussian_statistics(features)[1], covariance, rtol=1e-12)
    np.testing.assert_allclose(evaluation.gaussian_statistics(features)[0], mean, rtol=1e-12)


def test_published_statistics_make_a_reference():
    real, generated = draw(90), draw(60, seed=1, scale=2.0)
    reference = FrechetReference.from_statistics(real.mean(axis=0), np.cov(real.T), 90)
    assert reference.distance(generated) == pytest.approx(frechet_distance(real, generated), rel=1e-12)


def test_classwise_distances_are_the_separate_ones():
    real, labels = draw(90, d=12), np.arange(90) % 3
    generated, others = draw(45, d=12, seed=1, scale=1.3), np.arange(45) % 9 // 3
    pairs = [(real[labels == k], generated[others == k]) for k in range(3)]
    expected = [frechet_distance(*pair) for pair in pairs]
    assert classwise_frechet(real, labels, generated, others).tolist() == expected
    references = classwise_references(real, labels)
    assert [reference.count for reference in references] == [30, 30, 30]
    assert classwise_frechet(references, None, generated, others).tolist() == expected


def test_the_real_side_is_factorised_once(monkeypatch):
    references = classwise_references(draw(60), np.arange(60) % 3)
    monkeypatch.setattr(np.linalg, "eigh", None)
    assert len(classwise_frechet(references, None, draw(30, seed=1), np.arange(30) % 3)) == 3


def test_references_that_cannot_be_used(tmp_path):
    references = classwise_references(draw(20), np.arange(20) % 2)
    with pytest.raises(DedtError, match="Class 2 has too few real and 2 generated images"):
        classwise_frechet(references, None, draw(6), np.arange(6) % 3)
    with pytest.raises(DedtError, match="Class 1 has 10 real and 0 generated images"):
        classwise_frechet(references, None, draw(6), np.zeros(6, dtype=int))
    with pytest.raises(DedtError, match="Class 1 has 1 images.*Add images of this class"):
        classwise_references(draw(3), [0, 0, 1])
    for other in (draw(9, d=6), draw(3, d=6), FrechetReference.of(draw(9, d=6))):
        with pytest.raises(DedtError, match="different width .5 and 6. cannot be compared"):
            references[0].distance(other)


# ---- features ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch-fidelity's Inception-v3 with random weights, and the file of these weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *a, **k: {})
        kind = feature_extractor_inceptionv3.FeatureExtractorInceptionV3
        patch.setattr(kind, "load_state_dict", lambda *a: None)
        network = kind("inception-v3-compat", ["2048"], verbose=False)
    generator = torch.Generator().manual_seed(0)
    for weights in (w for w in network.parameters() if w.ndim == 4):
        torch.nn.init.kaiming_normal_(weights, nonlinearity="relu", generator=generator)
    file = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(network.state_dict(), file)
    return network, file


@pytest.fixture(scope="module")
def colours():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)


def test_inception_features_are_those_of_torch_fidelity(inception, colours):
    network, file = inception
    features = encoders.embed(encoders.FidInception(file), colours, batch_size=1)
    assert features.shape == (2, 2048) and features.dtype == np.float32 and features.std(axis=0).mean() > 1e-3
    np.testing.assert_allclose(features, network(torch.from_numpy(colours))[0], rtol=1e-3, atol=1e-5)


def test_one_channel_is_repeated_for_inception(inception, colours):
    network = encoders.FidInception(inception[1])
    grey = encoders.embed(network, colours[:, :1])
    np.testing.assert_array_equal(grey, encoders.embed(network, np.repeat(colours[:, :1], 3, axis=1)))


def test_inception_without_weights_can_be_timed():
    lab = Lab("paper", counts=[3, 3])
    assert features(lab, lab.imagine(2).images).shape == (2, width(lab))


def test_weights_that_cannot_be_used(tmp_path):
    with pytest.raises(DedtError, match="none.pth does not exist"):
        encoders.FidInception(tmp_path / "none.pth")
    save_file({"fc.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(DedtError, match="other.safetensors belongs to another network"):
        encoders.FidInception(tmp_path / "other.safetensors")
    torch.save({"fc.weight": tiny.Bomb(tmp_path / "opened")}, tmp_path / "code.pth")
    with pytest.raises(DedtError, match="code.pth is not the official .*must be a .safetensors file"):
        encoders.FidInception(tmp_path / "code.pth")
    assert not (tmp_path / "opened").exists()


# ---- the floor -----------------------------------------------------------------------------------


def test_the_floor_is_zero_when_the_halves_are_equal():
    labels = np.repeat([0, 1, 2], 8)
    floor = evaluation.real_floor(np.eye(3)[labels], labels, splits=2)
    # These covariances are singular, and the square root of a rounded zero is about 1e-8.
    assert floor["fid"] == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(floor["classwise"], np.zeros(3), atol=1e-7)


def test_the_floor_needs_a_label_for_each_image():
    with pytest.raises(DedtError, match="40 feature rows but 20 labels"):
        evaluation.real_floor(draw(40), np.arange(20) % 2)


def test_the_floor_falls_with_more_images():
    few, many = (evaluation.real_floor(draw(n), np.arange(n) % 2, splits=4) for n in (40, 4000))
    assert 0 < many["fid"] < few["fid"] / 10 and (many["classwise"] > 0).all()


# ---- KID -----------------------------------------------------------------------------------------


def test_kid_matches_torch_fidelity():
    real, generated = draw(60, d=24), draw(60, d=24, seed=1, shift=0.3)
    sides = torch.from_numpy(real), torch.from_numpy(generated)
    # A single subset with all samples.
    theirs = kid_features_to_metric(*sides, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert kid(real, generated) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_kid_of_many_images_is_torch_fidelitys_mean_over_subsets(monkeypatch):
    monkeypatch.setattr(kernels, "MOST_PAIRED", 90)
    monkeypatch.setattr(kernels, "KID_SUBSET_SIZE", 50)
    real, generated = draw(100, d=24), draw(70, d=24, seed=1, shift=0.3)
    sides = torch.from_numpy(real), torch.from_numpy(generated)
    theirs = kid_features_to_metric(*sides, kid_subsets=100, kid_subset_size=50, verbose=False)
    assert kid(real, generated) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    monkeypatch.setattr(kernels, "KID_SUBSET_SIZE", 1000)
    estimate = kid(real, generated)
    monkeypatch.setattr(kernels, "MOST_PAIRED", 100)
    assert estimate == pytest.approx(kid(real, generated), rel=0.1)
    assert estimate != kid(real, generated)


def test_kid_of_single_numbers_by_hand():
    # k(x, y) = (x y + 1)^3 in one dimension: k(1, 2) = 27, k(0, .) = 1, k(1, 3) = 64, k(2, 3) = 343.
    real, generated = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    assert kid(real, generated) == pytest.approx(27 + 1 - 2 * (1 + 64 + 1 + 343) / 4)


def test_kid_is_unbiased():
    real, generated = draw(30), draw(21, seed=1, shift=0.5)
    same = [kid(draw(20, seed=i), draw(10, seed=1000 + i)) for i in range(400)]
    assert min(same) < 0 < max(same)
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(400) < kid(real, generated)


def test_the_real_side_of_kid_is_taken_once(monkeypatch):
    real, generated = draw(100, d=24), draw(70, d=24, seed=1, shift=0.3)
    for most in (100, 90):
        monkeypatch.setattr(kernels, "MOST_PAIRED", most)
        within = kid_within(real, len(generated))
        assert len(within) == {100: 1, 90: kernels.KID_SUBSETS}[most]
        assert kid(real, generated, within=within) == kid(real, generated)


def test_a_real_side_for_other_samples_is_refused(monkeypatch):
    real, generated = draw(100, d=24), draw(70, d=24, seed=1)
    monkeypatch.setattr(kernels, "MOST_PAIRED", 80)
    with pytest.raises(DedtError, match="another number of samples than 70"):
        kid(real, generated, within=[0.1])
    with pytest.raises(DedtError, match="another number of samples than 70"):
        kid(real, generated, within=kid_within(real, 60))


def test_kid_class_by_class():
    real, generated = draw(60, d=8), draw(41, d=8, seed=1, shift=0.3)
    labels, drawn = np.arange(60) % 3, np.append(np.arange(40) % 2, 3)
    found = classwise_kid(real, labels, generated, drawn)
    assert found[0] == kid(real[labels == 0], generated[drawn == 0])
    assert np.isnan(found).tolist() == [False, False, True, True]
    np.testing.assert_array_equal(classwise_kid(real.tolist(), labels.tolist(), generated, drawn), found)
    with pytest.raises(DedtError, match="60 feature rows but 20 labels"):
        classwise_kid(real, labels[:20], generated, drawn)


# ---- CMMD ----------------------------------------------------------------------------------------


def embeddings(n, seed, shift):
    features = draw(n, d=32, seed=seed, shift=shift)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_cmmd_matches_the_reference(golden):
    g = golden("metrics")
    single, double = ([g[name].astype(kind) for name in ("clip_real", "clip_fake")] for kind in "fd")
    assert cmmd(*double) == pytest.approx(float(g["cmmd"]), rel=1e-12)
    assert cmmd(*single) == pytest.approx(float(g["cmmd"]), rel=1e-8)


def test_cmmd_is_nearly_the_distance_of_the_means():
    real, generated = embeddings(150, 0, 0.0), embeddings(120, 1, 1.0)
    difference = real.mean(axis=0) - generated.mean(axis=0)
    assert cmmd(real, generated) == pytest.approx(10 * difference @ difference, rel=0.02)


def test_cmmd_of_two_points_by_hand():
    value = cmmd(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), sigma=1.0)
    assert value == pytest.approx(2000 * (1 - np.exp(-1)))
    same = embeddings(30, 0, 0.0)
    assert cmmd(same, same) == pytest.approx(0, abs=1e-12)


# ---- near-copies ---------------------------------------------------------------------------------


def copy_threshold(train, test):
    """The distance to the training images below which 1 % of the held-out images lie, leaks excluded."""
    distances = nearest_distances(test, train)[0]
    return near(distances[distances > evaluation.SAME])


def test_the_nearest_image_and_its_distance(monkeypatch):
    generator = np.random.default_rng(0)
    references = generator.integers(10, 240, (20, 1, 8, 8), dtype=np.uint8)
    images = references[[7, 3, 11]] + np.array([0, 3, 5], dtype=np.uint8)[:, None, None, None]
    monkeypatch.setattr(arrays, "BLOCK", 2)
    distances, nearest = nearest_distances(images, references)
    assert nearest.tolist() == [7, 3, 11]
    np.testing.assert_allclose(distances, [0, 3, 5], atol=1e-4)


def test_copies_are_told_from_new_images():
    generator = np.random.default_rng(0)
    train, test, new = (generator.integers(0, 256, (100, 1, 8, 8), dtype=np.uint8) for _ in range(3))
    threshold = copy_threshold(train, test)
    noise = generator.integers(-4, 5, (40, 1, 8, 8))
    copies = np.clip(train[:40].astype(int) + noise, 0, 255).astype(np.uint8)
    assert (nearest_distances(copies, train)[0] < threshold).all()
    assert (nearest_distances(new, train)[0] < threshold).mean() < 0.1


def test_the_threshold_is_a_quantile_of_the_held_out_images():
    train = np.zeros((1, 1, 2, 2), dtype=np.uint8)
    test = np.arange(0, 101, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), dtype=np.uint8)
    # The black test image is also a training image, so the threshold leaves it out.
    assert copy_threshold(train, test) == pytest.approx(1.99)
    assert near(np.arange(1, 101), quantile=0.5) == pytest.approx(50.5) and near(np.empty(0)) is None


# ---- statistics ----------------------------------------------------------------------------------


def test_paired_intervals_are_those_of_student():
    # t of two degrees of freedom is 4.302653 at 97.5 %; the differences 1, 2, 3 have a deviation of one.
    found = paired_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found == pytest.approx((2, 2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)))
    ours, theirs = draw(7, d=1)[:, 0], draw(7, d=1, seed=1)[:, 0]
    for level in (0.5, 0.95, 0.99):
        expected = scipy.stats.ttest_rel(ours, theirs).confidence_interval(level)
        assert paired_interval(ours, theirs, level=level)[1:] == pytest.approx(tuple(expected))
        mean, low, high = paired_interval(theirs, ours, level=level)
        assert (-mean, -high, -low) == pytest.approx(paired_interval(ours, theirs, level=level))


def test_a_paired_interval_covers_the_true_difference_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [paired_interval(random.normal(1, 2, 4), random.normal(0, 1, 4))[1:] for _ in range(2000)]
    assert np.mean([low < 1 < high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_equal_differences_leave_an_interval_of_no_width():
    assert paired_interval([3.0, 5.0], [1.0, 3.0]) == (2, 2, 2)
    assert paired_interval([3.0, 5.0], [3.0, 5.0]) == (0, 0, 0)


@pytest.mark.parametrize(
    "ours, theirs, level, message",
    [
        ([1.0], [2.0], 0.95, "at least two seeds; got 1. Run more seeds"),
        ([1.0, 2.0], [2.0], 0.95, "one finite value per seed on each side"),
        ([1.0, np.nan], [2.0, 3.0], 0.95, "one finite value per seed on each side"),
        ([1.0, 2.0], [2.0, 3.0], 95, "must lie in .0, 1., such as 0.95; got 95"),
    ],
)
def test_seeds_that_make_no_interval(ours, theirs, level, message):
    with pytest.raises(DedtError, match=message):
        paired_interval(ours, theirs, level=level)


def test_an_interval_for_each_column_and_none_for_one_seed():
    values = draw(5, d=3)
    mean, low, high = evaluation.mean_interval(values)
    for k in range(3):
        assert (mean[k], low[k], high[k]) == pytest.approx(paired_interval(values[:, k], np.zeros(5)))
    expected = scipy.stats.ttest_1samp(values, 0).pvalue
    np.testing.assert_allclose(evaluation.paired_p(values), expected, rtol=1e-9)
    mean, low, high = evaluation.mean_interval(values[:1])
    assert np.array_equal(mean, values[0]) and np.isnan([low, high, evaluation.paired_p(values[:1])]).all()


def test_seeds_that_agree_to_the_last_digit_have_a_p():
    assert evaluation.paired_p([1.0, 1.0, 1.0]) == 0 and evaluation.paired_p([0.0, 0.0]) == 1


def test_holm_by_hand():
    assert evaluation.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = evaluation.holm([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(with_gap, [0.03, np.nan, 0.06, 0.06, 0.02])
    assert evaluation.holm([0.9, 0.8]).tolist() == [1, 1] and evaluation.holm([]).shape == (0,)


def test_holm_keeps_false_alarms_rare():
    p = np.random.default_rng(0).uniform(size=(4000, 10))
    alarms = np.mean([evaluation.holm(row).min() < 0.05 for row in p])
    assert alarms == pytest.approx(1 - (1 - 0.005) ** 10, abs=0.01)


def test_the_detectable_difference():
    # With many seeds t is normal: (1.95996 + 0.84162) sd / sqrt(n).
    assert evaluation.detectable_difference(2.0, 10_000) == pytest.approx(2.80158 * 2 / 100, rel=1e-3)
    least = evaluation.detectable_difference(1.0, 5, level=0.01)
    seeds = np.random.default_rng(0).normal(least, 1.0, (5, 20_000))
    assert np.mean(evaluation.paired_p(seeds) < 0.01) == pytest.approx(0.8, abs=0.01)


def test_rank_correlations_have_the_p_of_their_permutations():
    assert evaluation.rank_correlation([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx((1, 2 / 24))
    assert evaluation.rank_correlation([1, 2, 3, np.nan], [3, 2, 1, 0]) == pytest.approx((-1, 2 / 6))
    x, y = draw(10, d=2).T
    rho, p = evaluation.rank_correlation(x, y)
    expected = scipy.stats.spearmanr(x, y)
    assert rho == pytest.approx(expected.statistic) and p == pytest.approx(expected.pvalue, abs=0.01)
    assert np.isnan(evaluation.rank_correlation([1, 1, 1], [1, 2, 3])[0])


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [frechet_distance, kid])
def test_features_that_cannot_be_compared(metric):
    for sides in ((draw(1), draw(10)), (draw(10), draw(1))):
        with pytest.raises(DedtError, match="at least two images on each side"):
            metric(*sides)
    with pytest.raises(DedtError, match="different width .5 and 6. cannot be compared"):
        metric(draw(10), draw(10, d=6))
    with pytest.raises(DedtError, match="NaN or infinite features .first: sample 0.*embed again"):
        metric(draw(10) * np.nan, draw(10))


def test_a_class_needs_two_images_on_both_sides():
    labels = np.array([0] * 5 + [1] * 5)
    with pytest.raises(
        DedtError, match="Class 1 has 5 real and 1 generated images.*Add images .*draw more samples"
    ):
        classwise_frechet(draw(10), labels, draw(6), labels[:6])
    with pytest.raises(DedtError, match="10 feature rows but 6 labels"):
        classwise_frechet(draw(10), labels[:6], draw(10), labels)


def test_embeddings_that_cannot_be_compared():
    with pytest.raises(DedtError, match="width .5 and 6. cannot be compared"):
        cmmd(draw(10), draw(10, d=6))
    with pytest.raises(DedtError, match="NaN or infinite features"):
        cmmd(draw(10), draw(10) * np.nan)


def test_concordance_is_one_for_one_order_and_small_for_none():
    same = np.tile(np.arange(10.0), (5, 1)) + np.arange(5)[:, None]
    W, p = concordance(same)
    assert W == pytest.approx(1) and p == pytest.approx(scipy.stats.chi2.sf(5 * 9, 9))
    # Two seeds in opposite orders: every class has the same sum of ranks.
    assert concordance(np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])) == pytest.approx((0, 1))
    ps = [concordance(np.random.default_rng(i).random((5, 10)))[1] for i in range(200)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.1
    assert concordance(np.ones((3, 4)))[1] == concordance(np.ones((1, 4)))[1] == 1


def test_a_reference_is_saved_under_the_name_that_is_given(tmp_path):
    reference = FrechetReference.of(draw(20))
    reference.save(tmp_path / "real")
    assert FrechetReference.load(tmp_path / "real").distance(draw(20, seed=1)) == reference.distance(
        draw(20, seed=1)
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: evaluation.kid_within(np.full_like(x, np.nan), 10), "NaN or infinite"),
        (lambda x: evaluation.both_cmmds(x, x[:0]), "at least 1 embedding"),
        (lambda x: evaluation.precision_recall(x, x, k=0), "k must be at least 1"),
        (lambda x: evaluation.nearest_features([x], x, among=[]), "no references to search"),
        (lambda x: evaluation.nearest_features([x], x[:, :2]), "different width"),
        (lambda x: evaluation.real_floor(x, np.arange(len(x)) % 2, splits=0), "splits must be at least 1"),
    ],
)
def test_what_a_metric_cannot_use_is_told(call, message):
    with pytest.raises(DedtError, match=message):
        call(draw(20))
