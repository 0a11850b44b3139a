"""Selection and messages with exact copies, with equal scores, and with a single class."""

import json
import shutil

import numpy as np
import pytest
import tiny

from dedt_lib.config.profile import load_profile
from dedt_lib.data import LabelledImages
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.selection import Coreset, gaussian_scores, moderate_distances, select
from dedt_lib.shell import cli
from dedt_lib.stages.embed import Embed, SmallClip, TrainedEncoder
from dedt_lib.store import Store


def half_copies(n=40, classes=2, d=3):
    """Features, labels and originals; the second half of each class are copies of its first sample."""
    labels = np.repeat(np.arange(classes), n)
    features = np.random.default_rng(0).normal(size=(classes * n, d))
    originals = np.arange(len(labels))
    for k in range(classes):
        originals[k * n + n // 2 : (k + 1) * n] = k * n
    return features[originals], labels, originals


# ---- exact copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [{"method": "gaussian"}, {"method": "gaussian", "threshold": "percentile"}, {"method": "moderate"}],
)
@pytest.mark.parametrize("scope", ["class", "global"])
@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_no_copy_is_taken_while_there_are_distinct_images(choice, scope, ratio):
    features, labels, originals = half_copies()
    coreset = select(features, labels, ratio=ratio, scope=scope, originals=originals, **choice)
    assert len(coreset.indices) == 80 * ratio and coreset.copies == 40 and coreset.copies_kept == 0
    distinct = originals == np.arange(80)
    assert coreset.rank[~distinct].min() > coreset.rank[distinct & (labels == 0)].max()
    ranks = coreset.rank[labels == 0] if scope == "class" else coreset.rank
    assert sorted(ranks) == list(range(len(ranks)))


def test_copies_fill_what_distinct_images_leave_open():
    features, labels, originals = half_copies()
    for method in ("gaussian", "moderate"):
        coreset = select(features, labels, method=method, scope="class", ratio=0.75, originals=originals)
        assert coreset.counts.tolist() == [30, 30] and coreset.copies_kept == 20
        assert coreset.kept[originals == np.arange(80)].all()


def test_gaussians_and_centres_are_those_of_the_distinct_images():
    features, labels, originals = half_copies()
    distinct = originals == np.arange(80)
    for scores in (gaussian_scores, moderate_distances):
        alone = scores(features[distinct], labels[distinct])
        mixed = scores(features, labels, originals=originals)
        np.testing.assert_array_equal(mixed[distinct], alone)
        np.testing.assert_array_equal(mixed, mixed[originals])
        assert not np.allclose(scores(features, labels)[distinct], alone)


def test_the_uniform_baseline_looks_at_no_image():
    _, labels, originals = half_copies()
    plain = select(None, labels, method="random", ratio=0.3)
    told = select(None, labels, method="random", ratio=0.3, originals=originals)
    assert told.indices.tolist() == plain.indices.tolist() and told.rank.tolist() == plain.rank.tolist()
    assert told.copies == 40 and told.copies_kept == (originals[told.indices] != told.indices).sum() > 0


@pytest.mark.parametrize("originals", [np.arange(79), np.zeros(80), np.full(80, 80), np.arange(80)[::-1]])
def test_originals_that_are_none_are_refused(originals):
    features, labels, _ = half_copies()
    with pytest.raises(DedtError, match=r"originals must be int \[80\]"):
        select(features, labels, method="moderate", ratio=0.5, originals=originals)


def test_a_class_of_one_image_and_its_copies_has_no_gaussian():
    features, labels, originals = half_copies()
    originals[:40] = 0
    with pytest.raises(DedtError, match="Class 0 has a single image, not counting exact copies,"):
        select(features[originals], labels, method="gaussian", ratio=0.5, originals=originals)


def images(*values):
    pixels = np.stack([np.full((1, 2, 2), value, np.uint8) for value, _ in values])
    labels = np.array([label for _, label in values])
    return LabelledImages(pixels, labels, ("a", "b"), tuple(map(str, range(len(labels)))))


def test_copies_are_found_within_a_class_and_conflicts_across():
    data = images((1, 0), (2, 0), (1, 1), (1, 0), (3, 1), (1, 0), (3, 1))
    assert data.originals.tolist() == [0, 1, 2, 0, 4, 0, 4]
    assert data.conflicts == 4
    assert images((1, 0), (2, 1)).conflicts == 0


@pytest.fixture
def own(tmp_path):
    """A folder in which "ash" has nine files of only two images, one of which is in "birch" too."""
    root = tiny.write_images(tmp_path / "images", ("ash", "birch"), each=6)
    for number in range(2, 6):
        shutil.copy(root / "ash" / "1.png", root / "ash" / f"{number}.png")
    for number in range(6, 9):
        shutil.copy(root / "ash" / "0.png", root / "ash" / f"{number}.png")
    shutil.copy(root / "ash" / "0.png", root / "birch" / "9.png")
    return tmp_path


def command(folder, verb, *options):
    given = ["--profile", "smoke", "--data", str(folder / "images"), "--store", str(folder / "store")]
    return cli.main([verb, *given, "--set", "data.channels=3", "--set", "data.per_class=0", *options])


def test_select_says_what_it_found(own, capsys):
    out = own / "out"
    assert command(own, "select", "--ratio=0.5", "--scope=class", f"--out={out}") == 0
    said = capsys.readouterr().out
    assert "7 exact copies of other images, ranked last; 2 of them kept" in said
    assert "warning: 5 images have the same pixels as an image of another class" in said
    facts = json.loads((out / "coreset.json").read_text())
    assert (facts["exact_copies"], facts["exact_copies_kept"], facts["label_conflicts"]) == (7, 2, 5)
    again = Coreset.load(out)
    assert (again.copies, again.copies_kept, again.conflicts) == (7, 2, 5)
    assert command(own, "select", "--ratio=0.5", "--method=random") == 0
    assert "7 exact copies of other images, drawn like any image" in capsys.readouterr().out


def test_without_copies_nothing_is_said(smoke):
    assert smoke.data.conflicts == 0 and (smoke.data.originals == np.arange(len(smoke.data))).all()
    assert (smoke.select().copies, smoke.select().tied) == (0, ())


# ---- equal scores ----------------------------------------------------------------------------------


def test_scores_that_are_tied_are_named():
    labels, features = np.repeat([0, 1], 40), np.random.default_rng(0).normal(size=(80, 3))
    features[labels == 1] = 0.5
    coreset = select(features, labels, method="moderate", scope="class", ratio=0.5)
    assert coreset.tied == ("1",)
    everything = select(np.ones_like(features), labels, method="moderate", scope="global", ratio=0.5)
    assert everything.tied == ("all",)
    assert select(None, labels, method="random", ratio=0.5).tied == ()
    wide = np.random.default_rng(0).normal(size=(80, 200))
    assert select(wide, labels, method="gaussian", ratio=0.5).tied == ()


def test_an_encoder_that_tells_nothing_apart_is_said_to(own, capsys, monkeypatch):
    load = Embed.load
    monkeypatch.setattr(Embed, "load", lambda self, folder: np.zeros_like(load(self, folder)))
    assert command(own, "select", "--ratio=0.5", "--scope=class") == 0
    assert "warning: most images of ash, birch have equal scores" in capsys.readouterr().out


# ---- a single class --------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["embed", "select", "run"])
@pytest.mark.parametrize("encoder", ["resnet18", "inceptionv3", "clip-rn50"])
def test_an_encoder_learns_nothing_of_one_class(verb, encoder, tmp_path, capsys, monkeypatch):
    def trains(*given, **more):
        raise AssertionError("something was trained")

    for stage in (TrainedEncoder, SmallClip):
        monkeypatch.setattr(stage, "fit", trains)
    monkeypatch.setattr("dedt_lib.stages.train.train", trains)
    tiny.write_images(tmp_path / "images", ("ash",), each=8)
    assert command(tmp_path, verb, f"--encoder={encoder}", "--ratio=0.5") == 2
    said = capsys.readouterr().err
    assert said.startswith("dedt: ") and said.count("\n") == 1 and "one class" in said


def test_what_is_advised_for_one_class_works(tmp_path, capsys):
    tiny.write_images(tmp_path / "images", ("ash",), each=8)
    assert command(tmp_path, "select", "--encoder=resnet18") == 2
    error = capsys.readouterr().err
    for way in ("--encoder ddae", "encoders.resnet18.weights=imagenet", "--method random"):
        assert way in error
    for way in ("--encoder=ddae", "--method=random"):
        assert command(tmp_path, "select", way, "--ratio=0.5", "--set", "encoders.ddae.epochs=1") == 0
        assert "4 of 8 images kept" in capsys.readouterr().out


# ---- sizes that a network cannot take --------------------------------------------------------------


@pytest.mark.parametrize(
    "model, changes, message",
    [
        ("unet", {"data.image_size": 30, "unet.channels": (8, 8, 8), "unet.attention": (False,) * 3}, "by 4"),
        ("mdt", {"autoencoder.image_size": 30}, "divisible by 4"),
        ("mdt", {"mdt.patch_size": 3}, "patches of 3"),
        ("mdt", {"mdt.heads": 5}, "5 heads"),
        ("stable-diffusion", {"autoencoder.image_size": 12}, "multiple of 8 for Stable Diffusion; got 12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_data_is_read(model, changes, message):
    with pytest.raises(DedtError, match=message):
        Experiment(load_profile("smoke", **changes), model=model)


def test_a_block_that_the_ddae_lacks_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("dedt_lib.stages.embed.trained.train_on_everything", None)
    profile = tiny.profile(**{"encoders.ddae.block": 5})
    with pytest.raises(DedtError, match="encoders.ddae.block is 5, but .* blocks 1 to 4. Choose"):
        Experiment(profile, store=Store(tmp_path), device="cpu", encoder="ddae").select()


# ---- what a profile can choose ---------------------------------------------------------------------


def test_a_percentile_threshold_and_unit_embeddings_come_from_the_profile(smoke):
    recipe = {"method": "gaussian", "encoder": "resnet18", "ratio": 0.15}
    plain = tiny.beside(smoke, recipe)
    counted = tiny.beside(smoke, recipe, **{"select.gaussian_threshold": "count"})
    by_percentile = tiny.beside(smoke, recipe, **{"select.gaussian_threshold": "percentile"})
    assert plain.coreset.address == counted.coreset.address != by_percentile.coreset.address
    labels, features = smoke.data.labels, smoke.change(method="gaussian", encoder="resnet18").embed()
    choice = {"method": "gaussian", "ratio": 0.15, "ridge": smoke.profile.select.gaussian_ridge}
    expected = select(features, labels, **choice, threshold="percentile").indices.tolist()
    assert by_percentile.select().indices.tolist() == expected != plain.select().indices.tolist()

    clip = {"encoder": "clip-rn50"}
    raw, unit = (tiny.beside(smoke, clip, **{"encoders.clip.normalise": unit}) for unit in (False, True))
    assert unit.encoder[0].normalise and not raw.encoder[0].normalise
    assert raw.embedding.address == tiny.beside(smoke, clip).embedding.address != unit.embedding.address
    embedding = raw.embed()
    expected = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.embed(), expected, atol=1e-6)
