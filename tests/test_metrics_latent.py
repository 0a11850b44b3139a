"""The metrics of the latent models: CMMD and its network, precision and recall, copies of large images."""

import json
import tracemalloc

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from dedt_lib import arrays, evaluation
from dedt_lib.encoders import ClipViT
from dedt_lib.encoders.clip import MEAN, STD
from dedt_lib.errors import DedtError
from dedt_lib.evaluation import cmmd, kid, nearest_distances, precision_recall
from dedt_lib.pixels import to_float


def embeddings(n, seed, shift=0.0, d=32):
    features = np.random.default_rng(seed).normal(size=(n, d)) + shift
    return features / np.linalg.norm(features, axis=1, keepdims=True)


# ---- CMMD ----------------------------------------------------------------------------------------


def gaussian_kernel(x, y):
    return np.exp(-np.square(x[:, None] - y).sum(axis=2) / 200)


@pytest.mark.parametrize("block", [7, 1024])
def test_cmmd_is_the_formula(block, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", block)
    real, generated = embeddings(30, 0), embeddings(21, 1, shift=0.5)
    within = [gaussian_kernel(side, side) for side in (real, generated)]
    between = 2 * gaussian_kernel(real, generated).mean()
    biased = sum(kernel.mean() for kernel in within)
    assert cmmd(real, generated) == pytest.approx(1000 * (biased - between), rel=1e-10)
    others = sum(kernel[~np.eye(len(kernel), dtype=bool)].mean() for kernel in within)
    found = cmmd(real, generated, unbiased=True)
    assert found == pytest.approx(1000 * (others - between), rel=1e-10)


def test_one_pass_gives_both_values_and_the_real_part_may_be_known():
    real, generated = embeddings(30, 0), embeddings(21, 1, shift=0.5)
    both = evaluation.both_cmmds(real, generated)
    assert both == (cmmd(real, generated), cmmd(real, generated, unbiased=True))
    within = json.loads(json.dumps(evaluation.within_real(real)))
    assert evaluation.both_cmmds(real, generated, within=within) == both


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_pytorch_takes_the_products_where_a_device_is_named(kind):
    real, generated = (embeddings(50, seed, shift).astype(kind) for seed, shift in ((0, 0.0), (1, 0.5)))
    tolerance = {"rel": 1e-10 if kind is np.float64 else 1e-5}
    for metric in (cmmd, kid):
        assert metric(real, generated, device="cpu") == pytest.approx(metric(real, generated), **tolerance)
    assert precision_recall(real, generated, device="cpu") == precision_recall(real, generated)
    radii = [evaluation.neighbour_radii(real, device=device) for device in ("cpu", None)]
    np.testing.assert_allclose(*radii, rtol=1e-12)
    images = pictures(12, (8, 8))
    found = nearest_distances(images[:4], images[4:], device="cpu")
    np.testing.assert_array_equal(found, nearest_distances(images[:4], images[4:]))


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("offset", [0, 10])
def test_more_copies_than_neighbours_lie_in_their_balls_of_radius_zero(device, offset):
    real = np.repeat(np.random.default_rng(0).normal(size=(60, 64)) + offset, 5, axis=0).astype(np.float32)
    assert precision_recall(real, real[::2], device=device) == (1, 1)


def test_radii_that_are_known_are_not_computed_again():
    real, generated = embeddings(60, 0, d=4), embeddings(45, 1, shift=0.3, d=4)
    radii = evaluation.neighbour_radii(real)
    assert precision_recall(real, generated, radii=radii) == precision_recall(real, generated)
    assert precision_recall(real, generated, radii=np.full(60, np.inf))[0] == 1


def test_the_unbiased_value_is_zero_on_average():
    pairs = [(embeddings(20, i), embeddings(10, 1000 + i)) for i in range(200)]
    values = np.array([[cmmd(*pair, unbiased=True), cmmd(*pair)] for pair in pairs])
    assert abs(values[:, 0].mean()) < 3 * values[:, 0].std() / np.sqrt(200) < values[:, 1].mean()


def test_single_precision_costs_nothing_that_one_would_print():
    real, generated = embeddings(300, 0, d=768), embeddings(250, 1, shift=0.05, d=768)
    exact = cmmd(real, generated)
    assert cmmd(real.astype(np.float32), generated.astype(np.float32)) == pytest.approx(exact, rel=1e-6)
    assert cmmd(real.astype(np.float16), generated.astype(np.float16)) == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("metric", [cmmd, kid, precision_recall])
def test_memory_is_that_of_a_block(metric, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 100)
    np.save(tmp_path / "features.npy", embeddings(2000, 0).astype(np.float32))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    metric(features[:50], features[:50])
    tracemalloc.start()
    metric(features, features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 < features.nbytes * 8 < 2000 * 2000 * 4


def test_embeddings_of_one_image_have_no_unbiased_value():
    assert cmmd(embeddings(1, 0), embeddings(5, 1)) > 0
    with pytest.raises(DedtError, match="at least 2 embeddings on each side; got 1 and 5"):
        cmmd(embeddings(1, 0), embeddings(5, 1), unbiased=True)
    with pytest.raises(DedtError, match="at least 1 embedding on each side; got 5 and 0"):
        cmmd(embeddings(5, 0), np.zeros((0, 32)))


def test_kid_leaves_out_the_diagonal_whatever_the_block(monkeypatch):
    real, generated = embeddings(30, 0), embeddings(21, 1, shift=0.5)

    def kernel(x, y):
        return (x @ y.T / 32 + 1) ** 3

    within = [kernel(side, side)[~np.eye(len(side), dtype=bool)].mean() for side in (real, generated)]
    expected = sum(within) - 2 * kernel(real, generated).mean()
    for block in (1, 8, 1024):
        monkeypatch.setattr(arrays, "BLOCK", block)
        assert kid(real, generated) == pytest.approx(expected, rel=1e-10)


# ---- precision and recall ------------------------------------------------------------------------


def brute_force(real, generated, k):
    def distances(x, y):
        return np.linalg.norm(x[:, None] - y, axis=2)

    def share_inside(points, centres):
        radii = np.sort(distances(centres, centres), axis=1)[:, k]
        return (distances(points, centres) <= radii).any(axis=1).mean()

    return share_inside(generated, real), share_inside(real, generated)


@pytest.mark.parametrize("k", [1, 3, 12])
@pytest.mark.parametrize("block", [2, 13, 1024])
def test_precision_and_recall_are_those_of_all_distances(k, block, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", block)
    random = np.random.default_rng(0)
    real, generated = random.normal(size=(60, 4)), random.normal(size=(45, 4)) * 0.8 + 1.2
    found = precision_recall(real, generated, k=k)
    assert found == pytest.approx(brute_force(real, generated, k)) and 0 < min(found) < max(found) < 1
    assert precision_recall(generated, real, k=k) == found[::-1]


def test_equal_sets_cover_each_other_and_distant_ones_do_not():
    features = embeddings(40, 0)
    assert precision_recall(features, features) == (1, 1)
    assert precision_recall(features, features[::-1].copy()) == (1, 1)
    assert precision_recall(features, features + 10) == (0, 0)


def test_what_is_real_but_not_varied_has_precision_without_recall():
    # Real images lie at 0, 1, .. 9, so each ball reaches its neighbours.  The samples crowd around 4.
    real, generated = np.arange(10.0)[:, None], 4 + np.linspace(-0.1, 0.1, 9)[:, None]
    assert precision_recall(real, generated, k=1) == (1, 0.1)


def test_neighbours_that_there_are_not():
    with pytest.raises(DedtError, match="needs more than 3 images on each side; got 3 and 40.*Lower k"):
        precision_recall(embeddings(3, 0), embeddings(40, 1))
    with pytest.raises(DedtError, match="different width .32 and 5. cannot be compared"):
        precision_recall(embeddings(9, 0), embeddings(9, 1, d=5))


# ---- near-copies ---------------------------------------------------------------------------------


def pictures(n, size, seed=0, channels=1):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, *size), dtype=np.uint8)


@pytest.mark.parametrize("block", [1, 4, 512])
def test_the_nearest_images_do_not_depend_on_the_block(block, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", block)
    images, references = pictures(9, (8, 8)), pictures(11, (8, 8), seed=1)
    references[7] = references[2]  # of equal images the first one is returned
    images[3] = references[2]
    differences = (images[:, None].astype(float) - references).reshape(9, 11, -1)
    expected = np.sqrt(np.square(differences).sum(axis=2) / 64)
    distances, nearest = nearest_distances(images, references)
    np.testing.assert_array_equal(distances, expected.min(axis=1))
    np.testing.assert_array_equal(nearest, expected.argmin(axis=1))
    assert nearest[3] == 2 and distances[3] == 0


@pytest.mark.parametrize("size, factors", [((64, 64), (2, 2)), ((96, 32), (3, 1)), ((16, 128), (1, 4))])
def test_large_images_are_compared_as_the_means_of_areas(size, factors, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 2)
    images, references = (pictures(5, size, seed, channels=3) for seed in (0, 1))

    def means(pixels):
        height, width = (side // factor for side, factor in zip(size, factors))
        split = pixels.reshape(5, 3, height, factors[0], width, factors[1])
        return split.mean(axis=(3, 5)).reshape(5, -1)

    differences = means(images)[:, None] - means(references)
    expected = np.sqrt(np.square(differences).mean(axis=2))
    distances, nearest = nearest_distances(images, references)
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(nearest, expected.argmin(axis=1))


def test_sides_that_are_no_multiple_are_brought_down_too():
    images = pictures(4, (75, 50))
    distances, nearest = nearest_distances(images[::-1], images)
    assert nearest.tolist() == [3, 2, 1, 0] and distances.max() < 1e-3
    grey = np.full((1, 1, 75, 50), 100, dtype=np.uint8)
    assert nearest_distances(grey, grey + np.uint8(7))[0] == pytest.approx(7)


def test_references_are_read_once_and_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 16)
    np.save(tmp_path / "images.npy", pictures(300, (48, 48), channels=3))
    references = np.load(tmp_path / "images.npy", mmap_mode="r")
    nearest_distances(references[:3], references[:3])
    tracemalloc.start()
    nearest = nearest_distances(references[200:210], references)[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert nearest.tolist() == list(range(200, 210)) and peak < references.nbytes < 300 * 3 * 32 * 32 * 8


def test_images_that_cannot_be_compared():
    with pytest.raises(
        DedtError,
        match=r"Images \[1, 8, 8\] and references \[1, 8, 9\] differ in shape and cannot be compared",
    ):
        nearest_distances(pictures(2, (8, 8)), pictures(2, (8, 9)))
    with pytest.raises(DedtError, match="Images must be a NumPy array, uint8"):
        nearest_distances(pictures(2, (8, 8)).astype(float), pictures(2, (8, 8)))
    with pytest.raises(DedtError, match="Images must be a NumPy array, uint8"):
        nearest_distances(pictures(2, (8, 8)), pictures(2, (8, 8))[:0])


# ---- the network of CMMD -------------------------------------------------------------------------

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 8,
}


def floats(n):
    """Random images in [-1, 1]."""
    return to_float(torch.from_numpy(pictures(n, (28, 28), channels=3)))


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A CLIP image tower with random weights, and the folder that it is saved in."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER)).eval()
    folder = tmp_path_factory.mktemp("weights") / "tower"
    network.save_pretrained(folder)
    return network, folder


def test_features_are_unit_vectors_of_the_projected_embedding(tower):
    network, folder = tower
    images = floats(3)
    vit = ClipViT(folder)
    features = vit.features(images)
    embedded = network(pixel_values=vit.preprocess(images)).image_embeds
    torch.testing.assert_close(features, embedded / embedded.norm(dim=1, keepdim=True))
    assert features.shape == (3, 8) and not vit.training
    # Features do not depend on the other images of a batch, and grey images are repeated to three channels.
    torch.testing.assert_close(vit.features(images[1:2]), features[1:2])
    torch.testing.assert_close(vit.features(images[:, :1]), vit.features(images[:, :1].expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (64, 48), (45, 70)])
def test_images_are_prepared_as_published(tower, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = ClipViT(tower[1]).preprocess(to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    side, (top, left) = min(size), ((length - min(size)) // 2 for length in size)
    square = Image.fromarray(pixels).crop((left, top, left + side, top + side))
    expected = np.asarray(square.resize((28, 28), Image.Resampling.BICUBIC)) / 255
    levels = np.abs((expected - MEAN) / STD - found[0].permute(1, 2, 0).numpy()) * STD * 255
    assert levels.max() < 1.01 and levels.mean() < 0.02


def test_the_whole_clip_and_its_pickle_are_read(tower, tmp_path):
    # The published folder has both towers in one file, and that file is a pickle.
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50_000}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=TOWER, projection_dim=8)).eval()
    clip.save_pretrained(tmp_path)
    images = floats(2)
    features = ClipViT(tmp_path).features(images)
    (tmp_path / "model.safetensors").unlink()
    torch.save(clip.state_dict(), tmp_path / "pytorch_model.bin")
    torch.testing.assert_close(ClipViT(tmp_path).features(images), features, rtol=0, atol=0)


def test_files_that_cannot_be_used(tower, tmp_path):
    network, _ = tower
    network.config.save_pretrained(tmp_path)
    nothing = "holds no model.safetensors or pytorch_model.bin. Put .* CLIP of CMMD"
    with pytest.raises(DedtError, match=nothing):
        ClipViT(tmp_path)
    torch.save({"logit_scale": tiny.Bomb(tmp_path / "opened")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DedtError, match="holds no readable CLIP"):
        ClipViT(tmp_path)
    assert not (tmp_path / "opened").exists()
    state = network.state_dict()
    del state["visual_projection.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        DedtError, match="missing tensors: 1, such as visual_projection.weight.. Download both"
    ):
        ClipViT(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DedtError, match="holds no readable CLIP"):
        ClipViT(tmp_path)


def test_without_weights_it_is_of_the_published_make():
    with torch.device("meta"):
        network = ClipViT(None)
        assert network.features(torch.empty(2, 3, 336, 336)).shape == (2, 768)
    assert sum(value.numel() for value in network.parameters()) == 304_293_888  # ViT-L/14 at 336 pixels


def test_weights_that_were_put_there_are_found(tower, no_network):
    network, _ = tower
    network.save_pretrained(no_network / "someone/tower")
    assert ClipViT("someone/tower").size == 28
