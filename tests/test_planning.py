"""What the plan says, against the paper's arithmetic, the store, and runs that took place."""

import numpy as np
import pytest
import tiny
import torch

from dedt_lib import encoders, experiment, planning, tables
from dedt_lib.encoders import save_weights
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.models import build_model
from dedt_lib.recipes import Recipe, load_profile
from dedt_lib.store import Store
from dedt_lib.surrogates import CLIP_WIDTH
from dedt_lib.training import TrainingResult

CIFAR10 = [5000] * 10
DIGITS = [30] * 10
RATIOS = (0.1, 0.2, 0.3, 0.4)


def paper(**changes):
    """The settings of the paper that decide how much there is to do."""
    return load_profile(
        "smoke",
        **{
            "epochs": 2000,
            "ddae_epochs": 2000,
            "batch_size": 128,
            "ratios": RATIOS,
            "per_class": 0,
            **changes,
        },
    )


def steps(row, ratio, counts=CIFAR10, profile=None):
    """Optimiser steps of the final training of one cell."""
    runs = planning.distinct_runs(profile or paper(), [(row, ratio, 0)], counts).values()
    (found,) = {run.steps for run in runs if run.kind in ("training", "reference")}
    return found


# ---- the paper's arithmetic ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, expected", [(0.1, 80_000), (0.2, 158_000), (0.3, 236_000), (0.4, 314_000), (1.0, 782_000)]
)
def test_steps_of_cifar10_at_the_papers_settings(ratio, expected):
    assert steps("random", ratio) == expected
    assert steps("random", 0.1, profile=paper(epochs=1)) == 40


def test_annealing_is_an_eighth_of_the_epochs_on_everything():
    assert steps("random-annealed", 0.1) == 1750 * 40 + 250 * 391 == 167_750


def test_the_ideal_speed_up_is_one_over_the_ratio():
    cells = [(row, ratio, 0) for row in ("moderate", "random-annealed") for ratio in RATIOS]
    found = planning.speedups(paper(), cells, CIFAR10)
    assert [found["moderate", ratio][0] for ratio in RATIOS] == pytest.approx([10, 5, 10 / 3, 2.5])
    for ratio in RATIOS:
        assert found["random-annealed", ratio][0] == pytest.approx(planning.annealed_speedup(1 / ratio))


def test_annealed_speed_ups_follow_from_those_without():
    """Table III's third row from its second one: the paper's own numbers are 4.38, 3.14, 2.45, 2.02."""
    found = [planning.annealed_speedup(speedup) for speedup in (8.32, 4.48, 3.09, 2.34)]
    assert found == pytest.approx([4.34, 3.12, 2.45, 2.00], abs=0.005)


def test_the_whole_recipe_is_slower_than_one_run_on_all_the_data():
    found = planning.speedups(paper(), [("moderate-reweighted", 0.1, 0), ("ddae-moderate", 0.1, 0)], CIFAR10)
    final, whole = found["moderate-reweighted", 0.1]
    assert final == pytest.approx(10) and whole == pytest.approx(3 / (3 + 0.4 + 0.3)) and whole < 1
    assert found["ddae-moderate", 0.1][1] < 1


def test_evaluations_count_three_an_image_and_four_with_a_reference():
    profile = paper(samples=50_000, sampler_steps=100, guidance=0.3)
    cell = [("moderate-reweighted", 0.1, 0)]
    works = {work.what: work for work in planning.plan(profile, cell, CIFAR10)}
    assert works["all the data"].evaluations == 3 * 2000 * 50_000
    assert works["group DRO"].evaluations == 4 * 2000 * 5_000
    assert works["50,000 samples, 100 steps, guided"].evaluations == 50_000 * 100 * 2
    plain = planning.plan(paper(samples=50_000, sampler_steps=100, guidance=0), cell, CIFAR10)
    assert [work.evaluations for work in plain if work.kind == "sampling"] == [50_000 * 100]


# ---- what is shared --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "digits"])
def test_table3_needs_no_run_that_table1_and_table2_do_not_have(name):
    profile = load_profile(name)
    counts = planning.class_counts(profile)
    keys = {t: set(planning.distinct_runs(profile, tables.cells(t, profile), counts)) for t in tables.TABLES}
    assert keys["table3"] <= keys["table1"] | keys["table2"]
    assert keys["figure2"] <= keys["table3"]
    assert not keys["table2"] <= keys["table1"]


def test_cells_share_what_is_the_same():
    def kinds(cells, **changes):
        return {work.what: work.runs for work in planning.plan(paper(**changes), cells, CIFAR10)}

    pair = [("moderate-reweighted", 0.1, 0), ("moderate-literal-dro", 0.1, 0)]
    assert kinds(pair, dro_burn_in=0.0)["group DRO"] == 1
    assert kinds(pair, dro_burn_in=0.2)["group DRO"] == 2
    seeds = [("moderate-reweighted", 0.1, 0), ("moderate-reweighted", 0.1, 1)]
    found = kinds(seeds)
    assert found["ResNet-18"] == 1 and found["all the data"] == 2 and found["coreset, weighted"] == 2
    controls = [("full", 1.0, 0), *(("early-stopping", ratio, 0) for ratio in (*RATIOS, 1.0))]
    found = kinds(controls)
    assert found["all the data"] == 1 and found["100 samples, 5 steps, guided"] == 5


def test_an_encoder_with_published_weights_is_not_trained():
    profile = paper(inceptionv3_weights="imagenet", clip_weights="openai")
    cells = [("inceptionv3-gaussian", 0.1, 0), ("clip-moderate", 0.1, 0), ("ddae-moderate", 0.1, 0)]
    trained = [work.what for work in planning.plan(profile, cells, CIFAR10) if work.kind == "encoder"]
    assert trained == ["FID network", "DDAE"]


def random_training(model, data, plan, settings, *, seed, folder, weighting=None, keep_steps=(), **_):
    """Stands in for ``train``: the epochs of the plan with random losses, and files of the same names."""
    generator = np.random.default_rng(list(folder.name.encode()))
    visits = 0
    batches = []
    for e in range(plan.epochs):
        indices, _ = plan.epoch(e)
        plan.record(indices, generator.random(len(indices)))
        visits += len(indices)
        batches.append(-(-len(indices) // settings.batch_size))
    for name in ("model", *(f"ema-{step:06d}" for step in keep_steps)):
        save_weights(model, folder / f"{name}.safetensors")
    np.save(folder / "losses.npy", np.zeros(sum(batches), dtype=np.float32))
    if weighting is not None:
        weighting.trajectory = list(generator.dirichlet(np.ones(10), size=sum(batches)))
        weighting.excess_history, weighting.clipped_history = weighting.trajectory, [0.0] * sum(batches)
    return TrainingResult(sum(batches), visits, 1.0, 1.0, np.zeros(1))


def test_the_store_holds_the_runs_of_the_plan_and_no_other(tmp_path, monkeypatch):
    """Every cell of every table, with training and sampling replaced by their outlines."""
    profile = tiny.profile(samples=10)
    # Much the same distances in every class, so that no choice leaves a class without images; without ties,
    # which can make one coreset of two choices.
    features = {
        name: np.tile(np.random.default_rng(k).permutation(30), 10)[:, None]
        + np.random.default_rng(k).uniform(-0.3, 0.3, (300, 1))
        for k, name in enumerate(("resnet18", "inceptionv3", "clip-rn50", "ddae"))
    }
    monkeypatch.setattr(experiment, "train", random_training)
    monkeypatch.setattr(experiment, "surrogate", lambda self, name: (None, {"key": name}))
    monkeypatch.setattr(Experiment, "embed", lambda self: features[self.encoder[1]["key"]][order])
    monkeypatch.setattr(experiment.sampling, "sample", lambda *_, **__: np.zeros((10, 1, 8, 8), np.uint8))
    store = Store(tmp_path)
    first = Experiment(profile, store=store, device="cpu", method="random")
    assert len(first.data) == sum(DIGITS)  # loaded once, and shared from here on
    order = np.argsort(np.argsort(first.data.labels, kind="stable"))
    for cell in tables.all_cells(profile):
        first.change(**tables.cell_recipe(*cell)).sample()

    most, least = (
        planning.plan(profile, tables.all_cells(profile), DIGITS, least) for least in (False, True)
    )
    for stage, kinds in (
        ("training", ("training", "reference")),
        ("proxy", ("proxy",)),
        ("samples", ("sampling",)),
    ):
        stored = [store.manifest(path.parent) for path in store.root.glob(f"{stage}/*/manifest.json")]
        assert len(stored) == sum(work.runs for work in most if work.kind in kinds)
        if stage == "samples":
            continue
        for name in ("steps", "images"):
            low, high = (sum(getattr(w, name) for w in plan if w.kind in kinds) for plan in (least, most))
            found = sum(facts["images_seen" if name == "images" else name] for facts in stored)
            assert low <= found <= high
            assert (low == high) == (stage == "proxy")


# ---- against runs that took place ------------------------------------------------------------------


def test_a_real_run_took_what_the_plan_said(smoke):
    cell = ("moderate-reweighted", 0.1, 0)
    recipe = smoke.change(**tables.cell_recipe(*cell))
    works = {work.kind: work for work in planning.plan(tiny.profile(), [cell], DIGITS)}
    stages = {"reference": "reference", "proxy": "proxy", "train": "training"}
    for stage, cost in recipe.costs().items():
        if stage in stages:
            planned = works[stages[stage]]
            assert cost["images"] == planned.images and cost["evaluations"] == planned.evaluations
    manifest = recipe.training()
    assert (manifest["steps"], manifest["images_seen"]) == (works["training"].steps, works["training"].images)
    assert smoke.change(ratio=1.0).training()["steps"] == works["reference"].steps == 96


@pytest.mark.parametrize("infobatch", ["ratio", "budget"])
def test_a_real_infobatch_run_lies_in_the_planned_range(smoke, infobatch):
    row = {"ratio": "infobatch-annealed", "budget": "infobatch-budget-annealed"}[infobatch]
    profile, cell = tiny.profile(per_class=10, batch_size=10), (row, 0.4, 0)
    run = Experiment(profile, store=smoke.store, device="cpu", **tables.cell_recipe(*cell))
    manifest = run.training()
    ends = [
        next(w for w in planning.plan(profile, [cell], [10] * 10, least) if w.kind == "training")
        for least in (True, False)
    ]
    assert ends[0].images <= manifest["images_seen"] <= ends[1].images
    assert ends[0].steps <= manifest["steps"] <= ends[1].steps
    assert (ends[0] == ends[1]) == (infobatch == "budget")


def test_the_planned_disk_is_what_a_run_leaves(smoke):
    folder = smoke.store.root / "training" / smoke.training()["key"]
    (work,) = (w for w in planning.plan(tiny.profile(), [("random", 0.1, 0)], DIGITS) if w.kind == "training")
    there = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json")
    assert there == pytest.approx(work.bytes, rel=0.1)


# ---- sizes without networks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unet_channels": (24, 32, 40), "unet_attention": (True, False, True), "unet_layers": 2},
        {
            "unet_channels": (128, 256, 256, 256),
            "unet_attention": (False, True, False, False),
            "unet_layers": 2,
            "unet_groups": 32,
            "channels": 3,
            "image_size": 32,
        },
    ],
)
def test_the_parameters_of_the_u_net_are_counted_without_building_it(changes):
    p = load_profile("smoke", data="folder", **changes)
    with torch.device("meta"):
        model = build_model(
            "unet",
            channels=p.channels,
            image_size=p.image_size,
            num_classes=7,
            block_channels=p.unet_channels,
            layers=p.unet_layers,
            attention=p.unet_attention,
            groups=p.unet_groups,
        )
    assert planning.unet_parameters(p, 7) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "name, width", [("resnet18", 8), ("clip", CLIP_WIDTH), ("inceptionv3", 0), ("metric", 64)]
)
def test_the_sizes_of_encoders_are_near_enough(name, width):
    with torch.device("meta"):
        network = encoders.build(
            "classifier" if name == "metric" else name, channels=1, num_classes=10, width=width
        )
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    planner = planning._Planner(tiny.profile(), DIGITS)
    assert planner.classifier(name).bytes == pytest.approx(size, rel=0.05)


def test_a_batch_of_one_is_left_out_by_classifiers():
    profile = tiny.profile(metric_batch_size=299, metric_epochs=2)
    run = planning._Planner(profile, DIGITS).classifier("metric")
    assert (run.steps, run.images) == (2, 2 * 299)


# ---- the data --------------------------------------------------------------------------------------


def test_known_data_is_counted_without_being_there():
    cifar10 = load_profile("smoke", data="cifar10", image_size=32, channels=3, per_class=0)
    assert planning.class_counts(cifar10) == CIFAR10
    assert (
        planning.class_counts(tiny.profile(per_class=0))
        == [150] * 10
        == Experiment(tiny.profile(per_class=0), device="cpu").data.class_counts.tolist()
    )
    assert planning.class_counts(tiny.profile()) == DIGITS


def test_of_a_folder_only_the_names_of_the_files_are_read(tmp_path):
    root = tiny.write_images(tmp_path / "trees", each=5)
    (root / "ash" / "0.png").write_bytes(b"not an image")
    profile = load_profile("smoke", data="folder", path=str(root), per_class=0)
    assert planning.class_counts(profile) == [5, 5, 5]
    with pytest.raises(DedtError, match="is not a folder"):
        planning.class_counts(load_profile("smoke", data="folder", path=str(tmp_path / "no")))


# ---- the probe -------------------------------------------------------------------------------------


def test_the_probe_measures_every_kind_of_work(monkeypatch):
    profile = tiny.profile(metric_batch_size=10, clip_batch_size=10, sample_batch_size=4)
    works = planning.plan(profile, [("moderate-reweighted", 0.1, 0), ("clip-moderate", 0.1, 0)], DIGITS)
    speed = planning.probe(profile, works, DIGITS, limit=0)
    assert set(speed) == {(work.kind, work.network) for work in works}
    assert all(value > 0 for value in speed.values())
    assert speed["reference", planning.DIFFUSION] == speed["training", planning.DIFFUSION]


def test_hours_are_the_units_of_each_kind_times_their_time():
    works = planning.plan(paper(), [("moderate", 0.1, 0)], CIFAR10)
    by_kind = {(work.kind, work.network): work for work in works}
    speed = dict.fromkeys(by_kind, 2.0)
    assert planning.seconds(by_kind["training", planning.DIFFUSION], speed) == 2.0 * 80_000
    assert planning.seconds(by_kind["sampling", planning.DIFFUSION], speed) == 2.0 * 100 * 5 * 2
    assert planning.seconds(by_kind["features", "resnet18"], speed) == 2.0 * 50_000


def test_a_batch_that_does_not_fit_says_what_to_lower(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(planning._Device, "_step", full)
    works = planning.plan(tiny.profile(), [("random", 0.1, 0)], DIGITS)
    with pytest.raises(DedtError, match="Lower batch_size"):
        planning.probe(tiny.profile(), [w for w in works if w.kind == "training"], DIGITS, limit=0)


def test_an_unknown_row_is_an_error():
    with pytest.raises(DedtError, match="Unknown row 'best'"):
        planning.plan(tiny.profile(), [("best", 0.1, 0)], DIGITS)


def test_every_field_of_a_recipe_that_makes_another_run_is_told_apart():
    """A new field of Recipe must either be entered here, or be one that changes no training run."""
    values = {
        "method": "gaussian",
        "ratio": 0.2,
        "encoder": "ddae",
        "scope": "global",
        "centre": "mean",
        "band": "nearest",
        "reweighting": True,
        "burn_in": 0.5,
        "weighting": "sampler",
        "annealing": True,
        "infobatch": "ratio",
        "early_stopping": True,
        "seed": 3,
    }
    assert set(values) == set(Recipe.model_fields)
    planner = planning._Planner(paper(moderate_scope="class"), CIFAR10)
    for name, value in values.items():
        base = Recipe(reweighting=name in ("burn_in", "weighting"))
        keys = [{run.key for run in planner.runs(r)} for r in (base, base.model_copy(update={name: value}))]
        assert keys[0] != keys[1], name
