import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from dedt_lib import encoders, evaluation
from dedt_lib.errors import DedtError
from dedt_lib.evaluation import classwise_frechet, cmmd, frechet_between, frechet_distance


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


def test_equal_features_are_at_distance_zero():
    assert frechet_distance(draw(50), draw(50)) == pytest.approx(0, abs=1e-9)


def test_diagonal_covariances_differ_by_their_standard_deviations():
    mean, a, b = np.zeros(3), np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    assert frechet_between((mean, np.diag(a)), (mean, np.diag(b))) == pytest.approx(1 + 0 + 4)


def test_two_correlated_gaussians_have_their_known_distance():
    # For 2 x 2 matrices tr(M^1/2) = sqrt(tr M + 2 sqrt(det M)).
    a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = 1 + np.trace(a) + np.trace(b) - 2 * overlap
    assert frechet_between((np.zeros(2), a), (np.array([1.0, 0.0]), b)) == pytest.approx(expected)


def test_singular_covariances_work():
    real, generated = draw(4, d=10), draw(4, d=10, seed=1)
    assert np.isfinite(frechet_distance(real, generated))
    assert frechet_distance(np.ones((5, 3)), np.zeros((5, 3))) == pytest.approx(3)


def test_the_distance_is_symmetric():
    real, generated = draw(80), draw(60, seed=1, scale=2.0)
    assert frechet_distance(real, generated) == pytest.approx(frechet_distance(generated, real))


def test_classwise_distances_look_at_one_class_each():
    features, labels = draw(60), np.arange(60) % 3
    moved = features + np.array([0.0, 1.0, 2.0])[labels, None]
    np.testing.assert_allclose(classwise_frechet(features, labels, moved, labels), [0, 5, 20], atol=1e-9)


class Images(Dataset):
    def __init__(self, images):
        self.images = torch.from_numpy(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


@pytest.fixture(scope="module")
def extractor():
    network = encoders.seeded(0, "yardstick", lambda: encoders.SmallClassifier(1, 10, 16))
    return evaluation.register_classifier(network, "a-test" * 4, (1, 8, 8))


def test_torch_fidelity_agrees_on_the_same_images(extractor, digits):
    generator = np.random.default_rng(0)
    generated = generator.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    features = [evaluation.extract_features(images, extractor) for images in (digits.images, generated)]
    theirs = calculate_metrics(
        input1=Images(digits.images),
        input2=Images(generated),
        fid=True,
        feature_extractor=extractor,
        feature_layer_fid="features",
        batch_size=20,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )["frechet_inception_distance"]
    assert theirs > 0 and frechet_distance(*features) == pytest.approx(theirs, rel=1e-6)


def test_the_extractor_is_the_network_in_batches(extractor, digits):
    network = encoders.seeded(0, "yardstick", lambda: encoders.SmallClassifier(1, 10, 16))
    features = evaluation.extract_features(digits.images, extractor, batch_size=7)
    np.testing.assert_allclose(features, encoders.embed(network, digits.images), rtol=1e-4, atol=1e-6)


def test_other_weights_are_another_extractor(extractor):
    network = encoders.SmallClassifier(1, 10, 16)
    assert evaluation.register_classifier(network, "a-test" * 4, (1, 8, 8)) == extractor
    assert evaluation.register_classifier(network, "b-test" * 4, (1, 8, 8)) != extractor


# ---- the floor -----------------------------------------------------------------------------------


def test_the_floor_is_zero_when_the_halves_are_equal():
    labels = np.repeat([0, 1, 2], 8)
    floor = evaluation.real_floor(np.eye(3)[labels], labels, splits=2)
    assert floor["fid"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(floor["classwise"], np.zeros(3), atol=1e-12)


def test_the_floor_falls_with_more_images():
    few, many = (evaluation.real_floor(draw(n), np.arange(n) % 2, splits=4) for n in (40, 4000))
    assert 0 < many["fid"] < few["fid"] / 10 and (many["classwise"] > 0).all()


# ---- CMMD ----------------------------------------------------------------------------------------


def embeddings(n, seed, shift):
    features = draw(n, d=32, seed=seed, shift=shift)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_cmmd_matches_the_reference(golden):
    g = golden("metrics")
    assert cmmd(g["clip_real"], g["clip_fake"]) == pytest.approx(float(g["cmmd"]), rel=1e-9)


def test_cmmd_is_nearly_the_distance_of_the_means():
    real, generated = embeddings(150, 0, 0.0), embeddings(120, 1, 1.0)
    difference = real.mean(axis=0) - generated.mean(axis=0)
    assert cmmd(real, generated) == pytest.approx(10 * difference @ difference, rel=0.02)


def test_cmmd_of_two_points_by_hand():
    value = cmmd(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), sigma=1.0)
    assert value == pytest.approx(2000 * (1 - np.exp(-1)))


def test_cmmd_does_not_depend_on_the_block():
    real, generated = embeddings(30, 0, 0.0), embeddings(21, 1, 0.5)
    assert cmmd(real, generated, block=4) == pytest.approx(cmmd(real, generated), rel=1e-12)
    assert cmmd(real, real) == pytest.approx(0, abs=1e-12)


# ---- near-copies ---------------------------------------------------------------------------------


def test_the_nearest_image_and_its_distance():
    generator = np.random.default_rng(0)
    references = generator.integers(10, 240, (20, 1, 8, 8), dtype=np.uint8)
    images = references[[7, 3, 11]] + np.array([0, 3, 5], dtype=np.uint8)[:, None, None, None]
    distances, nearest = evaluation.nearest_distances(images, references, block=2)
    assert nearest.tolist() == [7, 3, 11]
    np.testing.assert_allclose(distances, [0, 3, 5], atol=1e-4)


def test_copies_are_told_from_new_images():
    generator = np.random.default_rng(0)
    train, test, new = (generator.integers(0, 256, (100, 1, 8, 8), dtype=np.uint8) for _ in range(3))
    threshold = evaluation.copy_threshold(train, test)
    copies = np.clip(train[:40].astype(int) + generator.integers(-4, 5, (40, 1, 8, 8)), 0, 255).astype(
        np.uint8
    )
    assert (evaluation.nearest_distances(copies, train)[0] < threshold).all()
    assert (evaluation.nearest_distances(new, train)[0] < threshold).mean() < 0.1


def test_the_threshold_is_a_quantile_of_the_held_out_images():
    train = np.zeros((1, 1, 2, 2), dtype=np.uint8)
    test = np.arange(0, 101, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), dtype=np.uint8)
    assert evaluation.copy_threshold(train, test) == pytest.approx(1)
    assert evaluation.copy_threshold(train, test, quantile=0.5) == pytest.approx(50)


# ---- bad input -----------------------------------------------------------------------------------


def test_features_that_cannot_be_compared():
    with pytest.raises(DedtError, match="at least two images on each side"):
        frechet_distance(draw(1), draw(10))
    with pytest.raises(DedtError, match="different width .5 and 6. cannot be compared"):
        frechet_distance(draw(10), draw(10, d=6))
    with pytest.raises(DedtError, match="NaN or infinite features .first: sample 0.*embed again"):
        frechet_distance(draw(10) * np.nan, draw(10))


def test_a_class_needs_two_images_on_both_sides():
    labels = np.array([0] * 5 + [1] * 5)
    with pytest.raises(DedtError, match="Class 1 has 5 and 1 images.*add images .*draw more samples"):
        classwise_frechet(draw(10), labels, draw(6), labels[:6])
    with pytest.raises(DedtError, match="10 feature rows but 6 labels"):
        classwise_frechet(draw(10), labels[:6], draw(10), labels)


def test_embeddings_that_cannot_be_compared():
    with pytest.raises(DedtError, match="width 5 and 6 cannot be compared"):
        cmmd(draw(10), draw(10, d=6))
    with pytest.raises(DedtError, match="NaN or infinite features"):
        cmmd(draw(10), draw(10) * np.nan)
