"""The instructions of CONTRIBUTING.md, followed in a script: each is a class and an entry in a registry."""

import ast
import copy
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMScheduler
from torch import nn

from dedt_lib import plans, selection
from dedt_lib.book import grid, results
from dedt_lib.book.grid import Row
from dedt_lib.config.profile import Diffusion
from dedt_lib.encoders.classifier import SmallClassifier
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.models.schedule import NOISE_SCHEDULE
from dedt_lib.plans import EpochPlan
from dedt_lib.randomness import numpy_generator
from dedt_lib.selection import Selector
from dedt_lib.shell import cli
from dedt_lib.stages.embed import ENCODERS, TrainedEncoder
from dedt_lib.stages.models import MODELS, ModelSpec
from dedt_lib.store import Store

# ---- an encoder


class Thumbnail(nn.Module):
    """The images themselves, made small."""

    def __init__(self, side=4):
        super().__init__()
        self.side = side

    def features(self, images):
        return nn.functional.adaptive_avg_pool2d(images, self.side).flatten(1)


class Narrow(TrainedEncoder):
    """A narrow classifier, trained on the images."""

    network = label = "narrow"
    settings = {"epochs": 1, "batch_size": 50, "learning_rate": 0.05}
    shape = {"width": 8}

    def build(self):
        return SmallClassifier(self.lab.shape[0], len(self.lab.class_names), **self.shape)


# ---- a selector


@dataclass(frozen=True, kw_only=True)
class Norm(Selector):
    """The samples of the largest norm."""

    power: float = 2.0

    def scores(self, features, labels, scope, originals):
        return np.linalg.norm(features, ord=self.power, axis=1)


# ---- a diffusion model


class Convolution(nn.Module):
    """One layer that sees the noisy image and a channel for each class."""

    def __init__(self, shape, classes):
        super().__init__()
        self.null_label, self.sample_shape = classes, tuple(shape)
        self.label = nn.Embedding(classes + 1, shape[0])
        self.net = nn.Conv2d(shape[0], shape[0], 3, padding=1)
        self.schedule = DDPMScheduler(**NOISE_SCHEDULE)

    def predict(self, x_t, t, labels):
        return self.net(x_t) + self.label(labels)[:, :, None, None]

    def losses(self, batch):
        x_t = self.schedule.add_noise(batch.images, batch.noise, batch.t)
        labels = torch.where(batch.drop, self.null_label, batch.labels)
        return (self.predict(x_t, batch.t, labels) - batch.noise).square().mean(dim=(1, 2, 3))


class ConvolutionSpec(ModelSpec):
    name, label, latent = "convolution", "one convolution", False
    section = Diffusion(epochs=2, batch_size=25, learning_rate=1e-3, ema_decay=0.9, steps=2, ratios=(0.1,))

    def network(self, shape, class_names, pipeline=None):
        return Convolution(shape, len(class_names))


# ---- a way to train on less data


class Half(EpochPlan):
    """Half of the coreset in each epoch, drawn anew."""

    def __init__(self, indices, *, share=0.5, **settings):
        super().__init__(indices, **settings)
        self.share = share

    def epoch(self, e):
        indices, weights = super().epoch(e)
        kept = numpy_generator(self.seed, "half", e).permutation(len(indices))[
            : round(self.share * len(indices))
        ]
        return indices[kept], weights[kept]


class Hardest(Half):
    """The half of the coreset with the largest last losses, chosen once at the start of each epoch."""

    needs_losses = True

    def __init__(self, indices, **settings):
        super().__init__(indices, **settings)
        self.values = {"scores": np.full(self.total, np.inf), "epoch": np.array(-1)}

    def epoch(self, e):
        if self.values["epoch"] != e:
            order = np.argsort(-self.values["scores"][self.indices], kind="stable")
            self.values |= {"epoch": np.array(e), "kept": order[: round(self.share * len(order))]}
        return self.indices[self.values["kept"]], self.weights[self.values["kept"]]

    def record(self, indices, losses):
        self.values["scores"][indices] = losses

    def state(self):
        return self.values

    def restore(self, state):
        self.values = {name: value.copy() for name, value in state.items()}


# ---- all of them


@dataclass(frozen=True)
class Case:
    """A class and its registry, the recipe that selects it, and the words for it in a plan and in a run."""

    registry: dict
    made: type
    recipe: dict
    planned: str
    told: str


MODEL = {"method": "random", "model": "convolution"}
HARDEST, HALF = ({"method": "random", "plan": name} for name in ("hardest", "half"))
CASES = {
    "thumbnail": Case(ENCODERS, Thumbnail, {"encoder": "thumbnail"}, "thumbnail", "encoder thumbnail"),
    "narrow": Case(ENCODERS, Narrow, {"encoder": "narrow"}, "narrow", "encoder narrow"),
    "norm": Case(selection.REGISTRY, Norm, {"method": "norm"}, "ResNet-18", "norm at ratio 0.1"),
    "convolution": Case(MODELS, ConvolutionSpec, MODEL, "one convolution", "model convolution"),
    "hardest": Case(plans.REGISTRY, Hardest, HARDEST, "coreset, hardest", "plan hardest"),
    "half": Case(plans.REGISTRY, Half, HALF, "coreset, half", "plan half"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a profile and a store that all instructions share."""
    folder = tmp_path_factory.mktemp("own")
    sizes = "data.per_class = 30\nunet.epochs = 2\nunet.batch_size = 10\n"
    (folder / "tiny.toml").write_text(f'extends = "smoke"\n{sizes}')
    return folder


@pytest.mark.parametrize("name", CASES)
def test_an_instruction_is_followed(name, place, tmp_path, monkeypatch, capsys):
    """Select, run, plan and a cell of a table work without editing a file of the package."""
    case = CASES[name]
    monkeypatch.setitem(case.registry, name, case.made)
    for part in ("ROWS", "LABELS", "TABLES"):
        monkeypatch.setattr(grid, part, copy.deepcopy(getattr(grid, part)))
    grid.add_row(name, Row("One's own", case.recipe, "table1", (0.1,)))
    monkeypatch.setenv("DEDT_RESULTS", str(tmp_path))

    def dedt(*argv):
        status = cli.main([*argv, "--profile", str(place / "tiny.toml")])
        printed, complaint = capsys.readouterr()
        assert status == 0, complaint
        return printed

    kept = ["--store", str(place / "store")]
    options = [word for key, value in case.recipe.items() for word in (f"--{key}", value)]
    assert case.told in dedt("select", *options, *kept)
    assert "FID" in dedt("run", *options, *kept)
    assert case.planned in dedt("plan", "table1", "--row", name, "--probe")
    assert f"wrote {name}-10-0" in dedt("run", "table1", "--row", name, *kept)
    (cell,) = results.read_cells(place / "tiny.toml", root=tmp_path).to_dict("records")
    assert cell["row"] == name and cell["fid"] > 0


@pytest.mark.parametrize(
    "name, changed", [("thumbnail", {"side": 2}), ("half", {"share": 0.2}), ("half", {"share": 1.0})]
)
def test_the_values_of_ones_own_class_decide_its_address(name, changed, smoke, monkeypatch):
    case, addresses = CASES[name], set()
    for made in (case.made, partial(case.made, **changed)):
        monkeypatch.setitem(case.registry, name, made)
        own = Experiment(smoke.profile, store=smoke.store, device="cpu", ratio=0.1, **case.recipe)
        addresses.add(own.model.address)
    assert len(addresses) == 2


def test_a_plan_of_ones_own_is_what_is_trained_on(smoke, monkeypatch):
    monkeypatch.setitem(plans.REGISTRY, "half", Half)
    own = smoke.change(method="random", ratio=0.4, plan="half")
    facts, whole = own.training(), own.change(plan="").plan()
    assert facts["images_seen"] == 8 * 60 and facts["steps"] == own.plan().steps(25) == 8 * 3
    assert len(whole.indices) == 120 and set(own.plan().epoch(3)[0]) < set(whole.indices)
    everything = own.change(ratio=1.0)
    assert not everything.model.is_reference and everything.model.address != everything.reference_run.address


def test_a_plan_that_looks_at_the_losses_is_taken_up_where_it_was(smoke, tmp_path, monkeypatch):
    monkeypatch.setitem(plans.REGISTRY, "hardest", Hardest)
    recipe = {"method": "random", "ratio": 0.4, "plan": "hardest"}
    parts = Experiment(smoke.profile, store=Store(tmp_path), device="cpu", **recipe)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 22)  # of 24 steps; the last checkpoint is at step 20, within an epoch
        parts.train()
    tiny.assert_same_weights(parts.train(), smoke.change(**recipe).train())


@pytest.mark.parametrize("other", [{"infobatch": "ratio"}, {"early_stopping": True}, {"weighting": "draw"}])
def test_a_plan_needs_a_coreset_of_its_own(other, smoke, monkeypatch):
    monkeypatch.setitem(plans.REGISTRY, "half", Half)
    with pytest.raises(DedtError, match="a plan chooses from a coreset"):
        smoke.change(plan="half", **other)
    with pytest.raises(DedtError, match="plan: choose one of: half .got 'third'"):
        smoke.change(plan="third")


def test_the_page_shows_what_is_tested():
    def classes(text):
        parts = [part for part in ast.parse(text).body if isinstance(part, ast.ClassDef)]
        return {part.name: ast.unparse(part) for part in parts}

    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    shown = classes("\n".join(re.findall("```python\n(.*?)```", page, re.DOTALL)))
    assert set(shown) == {"Thumbnail", "Narrow", "Norm", "ConvolutionSpec", "Half"}
    assert shown.items() <= classes(Path(__file__).read_text()).items()


def test_a_value_that_is_no_number_or_word_is_told(monkeypatch, smoke):
    class Odd(Thumbnail):
        def __init__(self, side=frozenset()):
            super().__init__()

    monkeypatch.setitem(ENCODERS, "odd", Odd)
    with pytest.raises(DedtError, match="must be numbers, words, or lists of them"):
        _ = smoke.change(method="moderate", encoder="odd").coreset.address
