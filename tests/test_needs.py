"""What is refused or left out because there are too few images."""

import json

import numpy as np
import pytest
import tiny

from dedt_lib import encoders, selection
from dedt_lib.data.names import few
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.shell import cli
from dedt_lib.stages import Lab, needs
from dedt_lib.stages import train as training_stage
from dedt_lib.stages.evaluate import CmmdReal
from dedt_lib.stages.select import Select
from dedt_lib.store import Store


@pytest.fixture
def nothing_is_trained(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was computed before the numbers of images were looked at")

    for module, name in ((training_stage, "train"), (encoders, "train_classifier"), (selection, "select")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(encoders, "embed", refuse)


def folder(root, counts):
    """Write classes with these numbers of images; the changes to a profile that reads them."""
    root.mkdir()
    for k, count in enumerate(counts):
        tiny.write_images(root, classes=(f"class{k}",), each=count)
    return {"data.source": "folder", "data.path": str(root), "data.channels": 3, "data.per_class": 0}


GAUSSIAN, RANDOM = {"method": "gaussian"}, {"method": "random"}
CASES = [
    (
        [12, 3],
        {"ratio": 0.1},
        {},
        "train",
        "class1 keep no image at ratio 0.1: raise the ratio to 0.167 or more",
    ),
    ([12, 3], {"ratio": 0.1, **RANDOM}, {}, "reweight", "class1 keep no image at ratio 0.1"),
    (
        [3, 3, 3],
        {"ratio": 0.2, "scope": "global"},
        {},
        "evaluate",
        "Ratio 0.2 keeps 1 of 9 images, too few for 3 classes",
    ),
    ([3, 3], {"ratio": 0.1}, {}, "select", "keeps none of the 6 images. Select among the images of"),
    ([6, 1], {"ratio": 1.0, **GAUSSIAN}, {}, "select", "class1 have fewer than 2 images.*drop the class"),
    ([6, 1], {"ratio": 0.6, **GAUSSIAN}, {}, "run", "class1 have fewer than 2 images"),
    ([1], {"ratio": 1.0}, {}, "run", "need at least 4 training images, but there are only 1"),
    ([8, 8], {"ratio": 0.5}, {"sample.count": 1}, "evaluate", "--set sample.count=2"),
    ([8, 8], {"ratio": 0.5, **RANDOM}, {"unet.steps": 501}, "run", "501 steps of DDIM.*divisor of 1000"),
    (
        [8, 8],
        {"ratio": 0.5, **RANDOM, "model": "mdt"},
        {"mdt.steps": 1},
        "run",
        "needs 2 to 1000 steps; got 1",
    ),
    (
        [8],
        {"ratio": 0.5, **RANDOM},
        {},
        "run",
        "belong to one class.*FID network.*--set evaluate.network=inceptionv3",
    ),
]


def test_a_clip_of_one_class_measures_nothing():
    lab = Lab(tiny.profile(**{"evaluate.network": "inceptionv3"}), counts=[8])
    with pytest.raises(DedtError, match="--set evaluate.cmmd="):
        CmmdReal(lab).check()


@pytest.mark.parametrize("counts, recipe, changes, verb, message", CASES)
def test_what_cannot_be_had_is_refused_before_anything_is_computed(
    counts, recipe, changes, verb, message, tmp_path, nothing_is_trained, capsys
):
    data = folder(tmp_path / "images", counts)
    options = [f"--{name}={value}" for name, value in recipe.items()]
    for name, value in {"data.channels": 3, "data.per_class": 0, **changes}.items():
        options += ["--set", f"{name}={value}"]
    given = ["--profile", "smoke", "--data", data["data.path"], "--store", str(tmp_path / "store"), *options]
    assert cli.main([verb, *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dedt: ") and error.count("\n") == 1
    x = Experiment(tiny.profile(**data, **changes), store=Store(tmp_path / "store"), device="cpu", **recipe)
    with pytest.raises(DedtError, match=message):
        x.cell() if verb == "run" else getattr(x, verb)()


@pytest.mark.parametrize("method", ["random", "gaussian", "moderate"])
@pytest.mark.parametrize("scope", ["class", "global"])
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.31, 0.5, 1.0])
def test_the_size_of_a_coreset_is_known_before_it_is_chosen(method, scope, ratio):
    labels = np.repeat([0, 1, 2], [20, 11, 5])
    features = np.random.default_rng(0).normal(size=(36, 3))
    coreset = selection.select(features, labels, method=method, ratio=ratio, scope=scope)
    known = Select(Lab("smoke", counts=[20, 11, 5]), method, ratio, scope).counts
    assert known == (coreset.counts.tolist() if scope == "class" else [len(coreset.indices)])


@pytest.mark.parametrize("smallest", range(1, 40))
def test_the_ratio_that_is_named_is_enough(smallest):
    assert round(needs.enough([50, smallest]) * smallest) >= 1


def test_a_coreset_without_a_class_is_shown_but_not_trained_on(tmp_path):
    data = folder(tmp_path / "images", [12, 3])
    x = Experiment(tiny.profile(**data), store=Store(tmp_path / "store"), device="cpu", method="random")
    assert x.select().counts.tolist() == [1, 0]
    with pytest.raises(DedtError, match="class1 keep no image"):
        x.train()
    x.change(infobatch="ratio").check(), x.change(ratio=0.4, early_stopping=True).check()


def test_a_class_of_three_costs_its_own_value_and_no_other(tmp_path, capsys):
    data = folder(tmp_path / "images", [12, 3])
    options = ["--set", "data.channels=3", "--method", "random", "--ratio", "0.5", "--set", "unet.epochs=1"]
    store = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", "--profile", "smoke", "--data", data["data.path"], *options, *store]) == 0
    printed = capsys.readouterr().out
    assert "class-wise FID left out for: class1 (3 images)\n" in printed
    (line,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["class1"]]
    assert line == ["class1", "–", "–"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["classwise"][1] is None and metrics["floor"]["classwise"][1] is None
    assert metrics["classwise"][0] > 0 and metrics["fid"] > 0


def test_of_many_classes_some_are_named():
    found = needs.left_out([3] * 30, [1] * 30, [f"c{k}" for k in range(30)])
    assert found[0] == "c0 (3 images, 1 sample)" and len(found) == 30
    assert few(found, needs.MOST_NAMED).endswith("c19 (3 images, 1 sample) and 10 more")


def test_a_class_that_most_batches_lack_is_named():
    assert needs.seldom_seen([199, 2], ("large", "small"), 8) == ["small (8 %)"]
    assert needs.seldom_seen([199, 2], ("large", "small"), 1000) == []
    assert needs.seldom_seen([10] * 10, "abcdefghij", 25) == []


def test_weights_of_one_class_are_not_learned(tmp_path, nothing_is_trained):
    lone = tiny.profile(**folder(tmp_path / "one", [12]))
    one = Experiment(lone, store=tmp_path, method="random", ratio=0.5, reweighting=True)
    with pytest.raises(DedtError, match="There is one class, so there are no class weights to learn"):
        one.reweight()


def test_the_advice_for_empty_classes_helps(tmp_path, nothing_is_trained):
    small = tiny.profile(**folder(tmp_path / "small", [1, 16]))
    for scope, advice in (
        ("class", "raise the ratio to 0.501"),
        ("global", "raise the ratio, or add images"),
    ):
        with pytest.raises(DedtError, match=advice):
            Experiment(small, store=tmp_path, method="random", ratio=0.05, scope=scope).train()
