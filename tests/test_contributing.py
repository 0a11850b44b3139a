"""The instructions of CONTRIBUTING.md, followed in a script: each is a class and an entry in a registry."""

import ast
import copy
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import nn

from dedt_lib import plans, selection
from dedt_lib.book import grid, results, tables
from dedt_lib.book.grid import Row
from dedt_lib.book.notebook import check_parameters
from dedt_lib.config.profile import Diffusion, Encoders, Section, load_profile
from dedt_lib.data import SOURCE_OF, TABLES
from dedt_lib.data.parquet import row_names
from dedt_lib.data.reading import Reading
from dedt_lib.data.table import Table
from dedt_lib.encoders.classifier import SmallClassifier
from dedt_lib.errors import DedtError
from dedt_lib.evaluation import METRICS
from dedt_lib.experiment import Experiment
from dedt_lib.extensions import load_extensions
from dedt_lib.models.schedule import NOISE_SCHEDULE
from dedt_lib.plans import EpochPlan
from dedt_lib.randomness import numpy_generator
from dedt_lib.reweighting import RULES, GroupDRO
from dedt_lib.selection import Selector
from dedt_lib.shell import cli, verbs
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


# ---- a rule for the class weights


class Additive(GroupDRO):
    """The weights grow by the excess itself: a projected gradient."""

    def update(self, weights, excess):
        raised = weights + self.step_size * excess
        return raised / raised.sum()


# ---- a metric


def spread(real, generated):
    """How far the samples spread, as a share of the images' spread."""
    return generated.std(axis=0).mean() / real.std(axis=0).mean()


# ---- a reader


def read_npz(path):
    """The arrays ``images``, uint8 [n, H, W, 3], and ``labels`` of an .npz file."""
    with np.load(path) as file:
        images, labels = file["images"], file["labels"].tolist()
    ids = row_names("train", len(images))

    def encoded():
        for name, pixels in zip(ids, images):
            Image.fromarray(pixels).save(content := io.BytesIO(), "PNG")
            content.seek(0)
            yield name, content

    said = {"root": Path(path), "files": (Path(path),), "where": str(path)}
    read = Reading.of(len(ids), unit="rows")
    return Table.of({"label": labels}, encoded=encoded, ids=ids, reading=read, **said), lambda: None


# ---- all of them


@dataclass(frozen=True)
class Case:
    """A class and its registry, the recipe that selects it, and the words for it in a plan and by a verb."""

    registry: dict
    made: type
    recipe: dict
    planned: str
    told: str
    verb: str = "select"


MODEL = {"method": "random", "model": "convolution"}
RULE = {"method": "random", "reweighting": True, "rule": "additive"}
HARDEST, HALF = ({"method": "random", "plan": name} for name in ("hardest", "half"))
CASES = {
    "thumbnail": Case(ENCODERS, Thumbnail, {"encoder": "thumbnail"}, "thumbnail", "encoder thumbnail"),
    "narrow": Case(ENCODERS, Narrow, {"encoder": "narrow"}, "narrow", "encoder narrow"),
    "norm": Case(selection.REGISTRY, Norm, {"method": "norm"}, "ResNet-18", "norm at ratio 0.1"),
    "convolution": Case(MODELS, ConvolutionSpec, MODEL, "one convolution", "model convolution"),
    "hardest": Case(plans.REGISTRY, Hardest, HARDEST, "coreset, hardest", "plan hardest"),
    "half": Case(plans.REGISTRY, Half, HALF, "coreset, half", "plan half"),
    "additive": Case(RULES, Additive, RULE, "additive", "reweighting, rule additive", "reweight"),
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
    options = [word for key, value in case.recipe.items() for word in (f"--{key}", value) if word is not True]
    assert case.told in dedt(case.verb, *options, *kept)
    assert "FID" in dedt("run", *options, *kept)
    assert case.planned in dedt("plan", "table1", "--row", name, "--probe")
    assert f"wrote {name}-10-0" in dedt("run", "table1", "--row", name, *kept)
    (cell,) = results.read_cells(place / "tiny.toml", root=tmp_path).to_dict("records")
    assert cell["row"] == name and cell["fid"] > 0


class Sides(Section):
    side: int


class WithThumbnail(Encoders):
    thumbnail: Sides


def test_an_encoder_takes_the_values_of_its_section(smoke, monkeypatch):
    monkeypatch.setitem(ENCODERS, "thumbnail", Thumbnail)
    usual = smoke.change(method="moderate", encoder="thumbnail").embedding

    def stage(**values):
        sections = WithThumbnail(**smoke.profile.encoders.model_dump(), thumbnail=values)
        profile = smoke.profile.model_copy(update={"encoders": sections})
        how = {"store": smoke.store, "device": "cpu", "method": "moderate", "encoder": "thumbnail"}
        return Experiment(profile, **how).embedding

    assert stage(side=4).address == usual.address and usual.result().shape[1] == 16
    assert stage(side=2).address != usual.address and stage(side=2).result().shape[1] == 4


class Needy(Thumbnail):
    def __init__(self, side):
        super().__init__(side)


class Unset(TrainedEncoder):
    network = label = "unset"


@pytest.mark.parametrize(
    "made, message",
    [
        (Thumbnail(), "'own' is a network that is made already: enter the class"),
        (nn.Flatten, "Give the encoder Flatten a method features"),
        (Needy, "'own' cannot be made .missing a required argument: 'side'.: its arguments need defaults"),
        (partial(Thumbnail, sides=2), "'own' cannot be made"),
        (Unset, "'own' cannot be trained .*give Unset a `network`, and `settings`"),
        (None, "'own' has no class: enter the class"),
    ],
)
def test_a_faulty_encoder_is_told(made, message, smoke, monkeypatch):
    monkeypatch.setitem(ENCODERS, "own", made)
    with pytest.raises(DedtError, match=message):
        _ = smoke.change(method="moderate", encoder="own").embedding


def test_a_rule_of_ones_own_learns_the_weights(smoke, monkeypatch):
    monkeypatch.setitem(RULES, "additive", Additive)
    own = smoke.change(method="random", ratio=0.4, reweighting=True, rule="additive")
    learned = own.reweight()
    weights = np.full(10, 0.1)
    for step, excess in enumerate(learned["excess"]):
        if step >= learned["burn_in"]:
            weights = (weights + excess) / (1 + excess.sum())
        np.testing.assert_allclose(learned["trajectory"][step], weights)
    assert "rule" not in own.change(rule="group-dro").proxy.identity
    with pytest.raises(DedtError, match="learned class weights: add reweighting"):
        own.change(reweighting=False)
    with pytest.raises(DedtError, match="rule: choose one of: group-dro, additive .got 'third'"):
        own.change(rule="third")


def test_a_metric_of_ones_own_is_measured_kept_and_shown(smoke, tmp_path, monkeypatch, capsys):
    plain = smoke.change(method="random", ratio=0.1)
    assert not plain.compared and "metrics" not in plain.comparison.identity
    monkeypatch.setitem(METRICS, "spread", spread)
    how = {"root": tmp_path, "store": smoke.store}
    own, result = results.run_cell(tiny.profile(), "random", 0.1, 0, **how)
    assert own.comparison.address != plain.comparison.address
    assert result["spread"] == pytest.approx(spread(own.real()["features"], own.metrics.generated()))
    frame = results.read_cells(tiny.profile(), root=tmp_path)
    assert tables.layout(frame, value="spread").iloc[0, 0] == f"{result['spread']:.2f}"
    verbs.evaluate(own, None)
    assert f"\nspread: {result['spread']:.3g}\n" in capsys.readouterr().out

    for name in ("steps", "kid"):
        with monkeypatch.context() as patch, pytest.raises(DedtError, match=f"Rename the metric '{name}'"):
            patch.setitem(METRICS, name, spread)
            plain.change(seed=0).cell()
    monkeypatch.setitem(METRICS, "deviations", lambda real, generated: generated.std(axis=0))
    with pytest.raises(DedtError, match="The metric 'deviations' must return a finite number"):
        plain.change(seed=0).compare()


def test_a_reader_of_ones_own_is_a_source(tmp_path, monkeypatch, capsys):
    generator, labels = np.random.default_rng(0), np.repeat(["ash", "birch", "cedar"], 10)
    images = generator.integers(0, 256, (30, 10, 12, 3), dtype=np.uint8)
    np.savez(path := tmp_path / "leaves.npz", images=images, labels=labels)
    with pytest.raises(DedtError, match="data.source: choose one of: digits, .*, list .got 'npz'"):
        load_profile("photos", **{"data.source": "npz"})
    assert cli.main(["look", str(path)]) == 2
    assert "a file (.parquet, .tar, .txt," in capsys.readouterr().err

    monkeypatch.setitem(TABLES, "npz", read_npz)
    monkeypatch.setitem(SOURCE_OF, ".npz", "npz")
    how = ["--method", "random", "--scope", "class", "--ratio", "0.2", "--store", str(tmp_path / "store")]
    assert cli.main(["select", str(path), *how, "--out", str(tmp_path / "coreset")]) == 0
    facts = json.loads((tmp_path / "coreset" / "coreset.json").read_text())
    assert facts["class_counts"] == [2, 2, 2] and facts["source"]["source"] == "npz"
    assert "leaves" in (tmp_path / "coreset" / "report.html").read_text()
    assert (
        cli.main(["export", str(tmp_path / "coreset"), "--to", "imagefolder", "--out", str(tmp_path / "out")])
        == 0
    )
    kept = {np.asarray(Image.open(file)).tobytes() for file in (tmp_path / "out").rglob("*.png")}
    assert len(kept) == 6 and kept < {pixels.tobytes() for pixels in images}
    assert cli.main(["look", str(tmp_path / "leaves.dat")]) == 2
    assert ", .npz)" in capsys.readouterr().err


# ---- files with such entries

ENTRIES = """
from dataclasses import dataclass

import numpy as np
from dedt_lib import selection
from dedt_lib.book import grid


@dataclass(frozen=True, kw_only=True)
class Norm(selection.Selector):
    power: "float" = 2.0

    def scores(self, features, labels, scope, originals):
        return np.linalg.norm(features, ord=self.power, axis=1)


assert selection.REGISTRY.get("norm") is None, "run twice"
selection.REGISTRY["norm"] = Norm
grid.add_row("norm", grid.Row("Norm", {"method": "norm"}, "table1", (0.1,)))
"""


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """A file in DEDT_EXTENSIONS whose entries end with the test."""
    (file := tmp_path / "own.py").write_text(ENTRIES)
    monkeypatch.setenv("DEDT_EXTENSIONS", str(file))
    monkeypatch.setitem(selection.REGISTRY, "norm", None)
    del selection.REGISTRY["norm"]
    for part in ("ROWS", "LABELS", "TABLES"):
        monkeypatch.setattr(grid, part, copy.deepcopy(getattr(grid, part)))
    return file


def test_the_command_and_the_pages_know_what_an_extension_enters(extension, capsys):
    for _ in range(2):
        assert cli.main(["cells", "--table", "table1", "--profile", "smoke"]) == 0
        assert "--row norm --ratio 0.1" in capsys.readouterr().out
    del (
        selection.REGISTRY["norm"],
        sys.modules[str(extension)],
        grid.ROWS["norm"],
        grid.TABLES["table1"]["norm"],
    )
    check_parameters()
    assert selection.REGISTRY["norm"].__name__ == "Norm"


def test_the_grid_knows_what_an_extension_enters(extension):
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--config", "profile=smoke"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ)
    own = len(grid.all_cells("smoke")) + 1
    assert re.search(rf"^cell +{own}$", done.stdout, re.MULTILINE), done.stderr


@pytest.mark.parametrize(
    "content, told",
    [
        (None, "DEDT_EXTENSIONS must hold absolute paths of Python files, but there is no .*own.py"),
        ("\n1 / 0", "own.py, line 2, in DEDT_EXTENSIONS fails: ZeroDivisionError: division by zero"),
        ("class", r"own.py in DEDT_EXTENSIONS fails: SyntaxError: .*own.py, line 1"),
    ],
)
def test_an_extension_that_is_missing_or_fails_is_told(content, told, tmp_path, monkeypatch, capsys):
    file = tmp_path / "own.py"
    if content:
        file.write_text(content)
    monkeypatch.setenv("DEDT_EXTENSIONS", str(file))
    assert cli.main(["cells"]) == 2 and re.search(told, capsys.readouterr().err)
    monkeypatch.setenv("DEDT_EXTENSIONS", file.name)
    with pytest.raises(DedtError, match="there is no own.py"):
        load_extensions()


# ---- what decides


def test_an_option_of_ones_own_selector_is_set_told_and_kept(smoke, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(selection.REGISTRY, "norm", Norm)

    def dedt(*changes):
        said = [word for change in changes for word in ("--set", change)]
        how = ["--profile", "smoke", "--method", "norm", "--encoder", "thumbnail", "--store", str(tmp_path)]
        status = cli.main(["select", *how, *said, "--out", str(tmp_path / "out")])
        return status, "".join(capsys.readouterr())

    monkeypatch.setitem(ENCODERS, "thumbnail", Thumbnail)
    assert "power" not in dedt()[1]
    assert "norm at ratio 0.1, encoder thumbnail, scope class, power 1" in dedt("select.norm_power=1")[1]
    assert json.loads((tmp_path / "out" / "coreset.json").read_text())["options"] == {"power": 1}
    assert "select: norm_power must be like its default, 2.0; got 'high'" in dedt("select.norm_power=high")[1]
    status, complaint = dedt("select.norm_pow=1")
    assert status == 2 and "'select.norm_pow'; the nearest are: select.norm_power" in complaint
    monkeypatch.delitem(selection.REGISTRY, "norm")
    with pytest.raises(DedtError, match="unknown parameter 'select.norm_power'"):
        load_profile("smoke", **{"select.norm_power": 1.0})


@pytest.mark.parametrize("name", ["thumbnail", "norm", "half", "additive"])
def test_a_raised_version_is_another_address(name, smoke, monkeypatch):
    case, addresses = CASES[name], set()
    monkeypatch.setitem(case.registry, name, case.made)
    for version in (1, 2):
        monkeypatch.setattr(case.made, "version", version, raising=False)
        own = Experiment(smoke.profile, store=smoke.store, device="cpu", ratio=0.1, **case.recipe)
        addresses.add(own.model.address)
    assert len(addresses) == 2


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
        parts = [part for part in ast.parse(text).body if isinstance(part, ast.ClassDef | ast.FunctionDef)]
        return {part.name: ast.unparse(part) for part in parts}

    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    shown = classes("\n".join(re.findall("```python\n(.*?)```", page, re.DOTALL)))
    classed = {"Thumbnail", "Narrow", "Norm", "ConvolutionSpec", "Half", "Additive"}
    assert set(shown) == classed | {"spread", "read_npz"}
    assert shown.items() <= classes(Path(__file__).read_text()).items()


def test_a_value_that_is_no_number_or_word_is_told(monkeypatch, smoke):
    class Odd(Thumbnail):
        def __init__(self, side=frozenset()):
            super().__init__()

    monkeypatch.setitem(ENCODERS, "odd", Odd)
    with pytest.raises(DedtError, match="must be numbers, words, or lists of them"):
        _ = smoke.change(method="moderate", encoder="odd").coreset.address
