"""What the plan says, against the paper's arithmetic, the store, and runs that took place."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from dedt_lib.surrogates import CLIP_WIDTH

from dedt_lib import encoders, experiment, families, planning, probing, sizes
from dedt_lib.book import tables
from dedt_lib.config.profile import load_profile
from dedt_lib.config.recipe import Recipe
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.models import build_model
from dedt_lib.models.stable_diffusion import tiny_pipeline
from dedt_lib.store import Store
from dedt_lib.training import OPTIMIZERS, TrainingResult
from dedt_lib.weights import save_weights

CIFAR10 = [5000] * 10
DIGITS = [30] * 10
RATIOS = (0.1, 0.2, 0.3, 0.4)
UNET = planning.DIFFUSION["unet"]


def paper(**changes):
    """The settings of the paper that decide how much there is to do."""
    return load_profile(
        "smoke",
        **{
            "unet.epochs": 2000,
            "encoders.ddae.epochs": 2000,
            "unet.batch_size": 128,
            "unet.ratios": RATIOS,
            "data.per_class": 0,
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
    assert steps("random", 0.1, profile=paper(**{"unet.epochs": 1})) == 40


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
    profile = paper(**{"sample.count": 50_000, "unet.steps": 100, "unet.guidance": 0.3})
    cell = [("moderate-reweighted", 0.1, 0)]
    works = {work.what: work for work in planning.plan(profile, cell, CIFAR10)}
    assert works["all the data"].evaluations == 3 * 2000 * 50_000
    assert works["group DRO"].evaluations == 4 * 2000 * 5_000
    assert works["50,000 samples, 100 steps, guided"].evaluations == 50_000 * 100 * 2
    plain = planning.plan(
        paper(**{"sample.count": 50_000, "unet.steps": 100, "unet.guidance": 0}), cell, CIFAR10
    )
    assert [work.evaluations for work in plain if work.kind == "sampling"] == [50_000 * 100]


# ---- the latent models -----------------------------------------------------------------------------


def latent_runs(name, cells, **changes):
    """Kind of work -> its runs, for cells under a profile of the library; the data need not be there."""
    profile = load_profile(name, **changes)
    found = {}
    for run in planning.distinct_runs(profile, cells, planning.class_counts(profile)).values():
        found.setdefault(run.kind, []).append(run)
    return found


@pytest.mark.parametrize(
    "row, ratio, expected",
    [("mdt-full", 1.0, 60 * 5005), ("mdt-random", 0.2, 60_060), ("mdt-random", 0.1, 30_060)],
)
def test_steps_of_mdt_on_imagenet_at_the_papers_settings(row, ratio, expected):
    """1,281,167 images in batches of 256, 60 epochs: 300 k, 60 k and 30 k steps."""
    runs = latent_runs("imagenet", [(row, ratio, 0)])
    (training,) = runs.get("training") or runs["reference"]
    assert training.steps == expected
    assert training.evaluations == 6 * training.images


@pytest.mark.parametrize("ratio, expected", [(0.1, 3006), (0.2, 6006)])
def test_the_proxy_on_imagenet_takes_six_epochs(ratio, expected):
    """Beside the loss of both passes it compares one more, of the proxy and of the reference."""
    (proxy,) = latent_runs("imagenet", [("mdt-gaussian-reweighted", ratio, 0)])["proxy"]
    assert proxy.steps == expected and proxy.evaluations == 8 * proxy.images


@pytest.mark.parametrize("row, ratio, expected", [("sd-full", 1.0, 29_600), ("sd-random", 0.4, 50 * 237)])
def test_steps_of_stable_diffusion_on_imagenette(row, ratio, expected):
    """9,469 images in batches of 16, 50 epochs."""
    runs = latent_runs("imagenette", [(row, ratio, 0)])
    (training,) = runs.get("training") or runs["reference"]
    assert training.steps == expected and training.evaluations == 3 * training.images


def test_images_become_latents_once_and_samples_come_back():
    runs = latent_runs("imagenet", [("mdt-random", 0.1, 0), ("mdt-random", 0.1, 1)])
    (images,), (encoded,) = runs["images"], runs["latents"]
    assert images.bytes == 1_281_167 * 3 * 256**2
    assert encoded.images == 2 * 1_281_167  # mirrored too
    assert encoded.bytes == 1_281_167 * 2 * 2 * (4 * 32 * 32) * 2  # views, mean and deviation, half precision
    assert [run.images for run in runs["decoding"]] == [50_000] * 2
    assert [run.evaluations for run in runs["sampling"]] == [50_000 * 250 * 2] * 2
    assert "autoencoder" not in runs and "pipeline" not in runs
    assert (
        latent_runs("imagenet", [("mdt-random", 0.1, 0)], flip=False)["latents"][0].bytes == encoded.bytes / 2
    )


def test_what_is_not_published_is_trained():
    cells = [("sd-random", 0.2, 0), ("sd-full", 1.0, 0), ("mdt-random", 0.2, 0)]
    profile = tiny.profile(**{"stable_diffusion.pretraining_epochs": 3, "autoencoder.epochs": 4})
    runs = [
        run
        for run in planning.distinct_runs(profile, cells, DIGITS).values()
        if run.kind in ("autoencoder", "pipeline")
    ]
    assert [(run.kind, run.images) for run in runs] == [("autoencoder", 4 * 300), ("pipeline", 3 * 300)]


def test_cmmd_takes_embeddings_of_both_sides():
    cell = [("sd-random", 0.2, 0)]
    seen = {network: [] for network in ("vit", "clip")}
    for cmmd, network in (("vit-l-14-336", "vit"), ("clip", "clip")):
        for run in planning.distinct_runs(tiny.profile(**{"evaluate.cmmd": cmmd}), cell, DIGITS).values():
            if run.network == network:
                seen[network].append((run.kind, run.images))
    assert seen["vit"] == [("features", 300), ("measuring", 100)]
    assert seen["clip"] == [("encoder", 2 * 300), ("features", 300), ("measuring", 100)]
    none = planning.distinct_runs(tiny.profile(**{"evaluate.cmmd": ""}), cell, DIGITS).values()
    assert not {run.network for run in none} & {"vit", "clip"}


def test_the_pairs_of_images_whose_distances_are_taken():
    (pixels,) = latent_runs("paper", [("random", 0.1, 0)])["comparison"]
    # 10,000 of the samples and 5,000 training images: pixels and their mirror images, and the same in features.
    assert pixels.pairs == 4 * 10_000 * 5_000
    (full,) = latent_runs("imagenet", [("mdt-full", 1.0, 0)])["comparison"]
    copies, subsets, embedded = 4 * 10_000 * 1_281_167, 3 * 100 * 1000**2, 2 * 50_000**2
    assert full.pairs == copies + subsets + embedded + 2 * 10_000**2
    assert latent_runs("imagenet", [("mdt-full", 1.0, 0)])["features"][1].images == 50_000
    (digits,) = latent_runs("digits", [("mdt-full", 1.0, 0)])["comparison"]
    assert digits.pairs == 10 * 1500**2 + 3 * 1500**2 + 2 * 1500**2 + 2 * 1500**2


def test_hours_count_the_pairs():
    works = planning.plan(paper(), [("moderate", 0.1, 0)], CIFAR10)
    (pairs,) = (work for work in works if work.kind == "comparison")
    assert probing.seconds(pairs, {("comparison", "distances"): 2.0}) == 2.0 * pairs.pairs > 0


@pytest.mark.parametrize("name", ["smoke", "digits", "paper", "imagenet", "imagenette"])
@pytest.mark.parametrize("model", planning.DIFFUSION)
def test_a_model_is_planned_as_its_family_has_it(name, model):
    profile = load_profile(name)
    family = families.FAMILIES[model](SimpleNamespace(profile=profile))
    planned = planning.diffusion(profile, model, 10)
    assert (planned.epochs, planned.batch_size) == (family.settings.epochs, family.settings.batch_size)
    assert (planned.proxy_epochs, planned.ratios) == (family.proxy_epochs, family.ratios)
    assert planned.evaluations == family.evaluations
    assert planned.proxy_evaluations == family.proxy_evaluations
    assert planned.sampler_steps == family.sampler_steps
    assert planned.guided and family.guidance != family.unguided


@pytest.mark.parametrize("model", planning.DIFFUSION)
def test_a_checkpoint_holds_the_moments_of_the_optimizer(model):
    profile, parameter = load_profile("smoke"), torch.nn.Parameter(torch.zeros(3))
    settings = families.FAMILIES[model](SimpleNamespace(profile=profile)).settings
    optimizer = OPTIMIZERS[settings.optimizer]([parameter], lr=1e-3)
    parameter.grad = torch.ones(3)
    optimizer.step()
    moments = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
    assert planning.diffusion(profile, model, 10).moments == len(moments)


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
    assert kinds(pair, **{"reweight.burn_in": 0.0})["group DRO"] == 1
    assert kinds(pair, **{"reweight.burn_in": 0.2})["group DRO"] == 2
    seeds = [("moderate-reweighted", 0.1, 0), ("moderate-reweighted", 0.1, 1)]
    found = kinds(seeds)
    assert found["ResNet-18"] == 1 and found["all the data"] == 2 and found["coreset, weighted"] == 2
    controls = [("full", 1.0, 0), *(("early-stopping", ratio, 0) for ratio in (*RATIOS, 1.0))]
    found = kinds(controls)
    assert found["all the data"] == 1 and found["100 samples, 5 steps, guided"] == 5


def test_the_unguided_samples_are_those_of_the_same_training():
    def runs(row):
        return planning.distinct_runs(tiny.profile(), [(row, 0.2, 0)], DIGITS).values()

    both = [runs(row) for row in ("sd-random", "sd-random-unguided")]
    trained = [{run.key for run in found if run.kind == "training"} for found in both]
    (guided,), (unguided,) = ([run for run in found if run.kind == "sampling"] for found in both)
    assert trained[0] == trained[1] and guided.key != unguided.key
    assert guided.evaluations == 2 * unguided.evaluations


def test_an_encoder_with_published_weights_is_not_trained():
    profile = paper(**{"encoders.inceptionv3.weights": "imagenet", "encoders.clip.weights": "openai"})
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
    losses = np.zeros(sum(batches), dtype=np.float32)
    np.save(folder / "losses.npy", losses)
    if weighting is not None:
        weighting.trajectory = list(generator.dirichlet(np.ones(10), size=sum(batches)))
        weighting.excess_history, weighting.clipped_history = weighting.trajectory, [0.0] * sum(batches)
    return TrainingResult(sum(batches), visits, 1.0, 1.0, losses)


def no_samples(*_, folder, **__):
    """Stands in for ``sample``."""
    np.save(folder / "samples.npy", np.zeros((10, 1, 8, 8), np.uint8))


def test_the_store_holds_the_runs_of_the_plan_and_no_other(tmp_path, monkeypatch):
    """Every cell of every table; sampling and the training of diffusion models are outlines."""
    profile = tiny.profile(**{"sample.count": 10})
    # Much the same distances in every class, so that no choice leaves a class without images; without ties,
    # which can make one coreset of two choices.
    features = {
        name: np.tile(np.random.default_rng(k).permutation(30), 10)[:, None]
        + np.random.default_rng(k).uniform(-0.3, 0.3, (300, 1))
        for k, name in enumerate(("resnet18", "inceptionv3", "clip-rn50", "ddae"))
    }
    for module in (experiment, families):
        monkeypatch.setattr(module, "train", random_training)
    monkeypatch.setattr(experiment, "surrogate", lambda self, name: (None, {"key": name}))
    monkeypatch.setattr(Experiment, "embed", lambda self: features[self.encoder[1]["key"]][order])
    monkeypatch.setattr(experiment.sampling, "sample", no_samples)
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
        *((kind, (kind,)) for kind in ("autoencoder", "latents", "pipeline")),
    ):
        stored = [store.manifest(path.parent) for path in store.root.glob(f"{stage}/*/manifest.json")]
        assert len(stored) == sum(work.runs for work in most if work.kind in kinds)
        if stage not in ("training", "proxy"):
            continue
        for name in ("steps", "images"):
            low, high = (sum(getattr(w, name) for w in plan if w.kind in kinds) for plan in (least, most))
            found = sum(facts["images_seen" if name == "images" else name] for facts in stored)
            assert low <= found <= high
            assert (low == high) == (stage == "proxy")
    (encoded,) = (work for work in most if work.kind == "latents")
    there = sum(path.stat().st_size for path in store.root.glob("latents/*/*.npy"))
    assert there == pytest.approx(encoded.bytes, rel=0.01)


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
    profile, cell = tiny.profile(**{"data.per_class": 10, "unet.batch_size": 10}), (row, 0.4, 0)
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
        {"unet.channels": (24, 32, 40), "unet.attention": (True, False, True), "unet.layers": 2},
        {
            "unet.channels": (128, 256, 256, 256),
            "unet.attention": (False, True, False, False),
            "unet.layers": 2,
            "unet.groups": 32,
            "data.channels": 3,
            "data.image_size": 32,
        },
    ],
)
def test_the_parameters_of_the_u_net_are_counted_without_building_it(changes):
    p = load_profile("smoke", **{"data.source": "folder"}, **changes)
    with torch.device("meta"):
        model = build_model(
            "unet",
            channels=p.data.channels,
            image_size=p.data.image_size,
            num_classes=7,
            block_channels=p.unet.channels,
            layers=p.unet.layers,
            attention=p.unet.attention,
            groups=p.unet.groups,
        )
    assert sizes.unet_parameters(p, 7) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "name, classes, expected", [("imagenet", 1000, 38_454_872), ("digits", 10, None), ("smoke", 7, None)]
)
def test_the_parameters_of_mdt_are_counted_without_building_it(name, classes, expected):
    p = load_profile(name)
    side, channels = sizes.latent_shape(p)
    with torch.device("meta"):
        model = build_model(
            "mdt",
            input_size=side,
            in_channels=channels,
            patch_size=p.mdt.patch_size,
            hidden_size=p.mdt.hidden_size,
            depth=p.mdt.depth,
            num_heads=p.mdt.heads,
            decode_layer=p.mdt.decode_layers,
            num_classes=classes,
        )
    found = sizes.mdt_parameters(p, classes)
    assert found == sum(parameter.numel() for parameter in model.parameters()) == (expected or found)


@pytest.mark.parametrize(
    "changes", [{}, {"stable_diffusion.channels": (16, 24, 24), "autoencoder.channels": (8, 16, 24)}]
)
def test_the_parameters_of_latent_diffusion_are_counted_without_building_it(changes):
    p = load_profile("smoke", **changes)
    vae = latents.small_autoencoder(p.data.channels, widths=p.autoencoder.channels)
    pipeline = tiny_pipeline(
        vae, image_size=p.autoencoder.image_size, block_channels=p.stable_diffusion.channels
    )
    assert sizes.autoencoder_parameters(p) == vae.num_parameters()
    assert sizes.stable_diffusion_parameters(p) == pipeline.unet.num_parameters()


def test_the_parameters_of_stable_diffusion_are_those_of_the_published_checkpoint():
    assert sizes.stable_diffusion_parameters(load_profile("imagenette")) == 859_520_964


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
    profile = tiny.profile(**{"evaluate.batch_size": 299, "evaluate.epochs": 2})
    run = planning._Planner(profile, DIGITS).classifier("metric")
    assert (run.steps, run.images) == (2, 2 * 299)


# ---- the data --------------------------------------------------------------------------------------


def test_known_data_is_counted_without_being_there():
    cifar10 = load_profile(
        "smoke", **{"data.source": "cifar10", "data.image_size": 32, "data.channels": 3, "data.per_class": 0}
    )
    assert planning.class_counts(cifar10) == CIFAR10
    assert (
        planning.class_counts(tiny.profile(**{"data.per_class": 0}))
        == [150] * 10
        == Experiment(tiny.profile(**{"data.per_class": 0}), device="cpu").data.class_counts.tolist()
    )
    assert planning.class_counts(tiny.profile()) == DIGITS
    for name, images, classes in (("imagenet", 1_281_167, 1000), ("imagenette", 9469, 10)):
        counts = planning.class_counts(load_profile(name))
        assert (sum(counts), len(counts)) == (images, classes)


def test_of_a_folder_only_the_names_of_the_files_are_read(tmp_path):
    root = tiny.write_images(tmp_path / "trees", each=5)
    (root / "ash" / "0.png").write_bytes(b"not an image")
    profile = load_profile("smoke", **{"data.source": "folder", "data.path": str(root), "data.per_class": 0})
    assert planning.class_counts(profile) == [5, 5, 5]
    assert planning.class_counts(load_profile("imagenette", **{"data.path": str(root)})) == [5, 5, 5]
    with pytest.raises(DedtError, match="is not a folder"):
        planning.class_counts(
            load_profile("smoke", **{"data.source": "folder", "data.path": str(tmp_path / "no")})
        )


# ---- the probe -------------------------------------------------------------------------------------


def test_the_probe_measures_every_kind_of_work(monkeypatch):
    profile = tiny.profile(
        **{
            "evaluate.batch_size": 10,
            "encoders.clip.batch_size": 10,
            "encoders.inceptionv3.batch_size": 5,
            "sample.batch_size": 4,
        }
    )
    cells = [
        ("moderate-reweighted", 0.1, 0),
        ("mdt-gaussian-reweighted", 0.1, 0),
        ("sd-moderate-reweighted", 0.2, 0),
    ]
    works = planning.plan(profile, cells, DIGITS)
    speed = probing.probe(profile, works, DIGITS, limit=0)
    assert set(speed) == {(work.kind, work.network) for work in works}
    assert all(value > 0 for value in speed.values())
    assert speed["reference", UNET] == speed["training", UNET]
    assert (
        len(set(speed.values())) == len(speed) - 4
    )  # a step of each model, and of Stable Diffusion's pre-training
    assert {kind for kind, _ in speed} == set(planning.KINDS) - {"images"}


def test_files_that_are_decoded_take_disk_but_no_time_that_could_be_told():
    works = planning.plan(load_profile("imagenette"), [("sd-full", 1.0, 0)], [900] * 10)
    (images,) = (work for work in works if work.kind == "images")
    assert images.bytes == 9000 * 3 * 256**2 and probing.seconds(images, {}) == 0


def test_hours_are_the_units_of_each_kind_times_their_time():
    works = planning.plan(paper(), [("moderate", 0.1, 0)], CIFAR10)
    by_kind = {(work.kind, work.network): work for work in works}
    speed = dict.fromkeys(by_kind, 2.0)
    assert probing.seconds(by_kind["training", UNET], speed) == 2.0 * 80_000
    assert probing.seconds(by_kind["sampling", UNET], speed) == 2.0 * 100 * 5 * 2
    assert probing.seconds(by_kind["features", "resnet18"], speed) == 2.0 * 50_000


def test_a_batch_that_does_not_fit_says_what_to_lower(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(probing._Device, "_step", full)
    works = planning.plan(tiny.profile(), [("random", 0.1, 0)], DIGITS)
    with pytest.raises(DedtError, match="Lower batch_size"):
        probing.probe(tiny.profile(), [w for w in works if w.kind == "training"], DIGITS, limit=0)


def test_an_unknown_row_is_an_error():
    with pytest.raises(DedtError, match="Unknown row 'best'"):
        planning.plan(tiny.profile(), [("best", 0.1, 0)], DIGITS)


def test_every_field_of_a_recipe_that_makes_another_run_is_told_apart():
    """A new field of Recipe must either be entered here, or be one that changes no training run."""
    values = {
        "model": "mdt",
        "method": "gaussian",
        "ratio": 0.2,
        "encoder": "ddae",
        "scope": "global",
        "centre": "mean",
        "band": "nearest",
        "reweighting": True,
        "balancing": True,
        "burn_in": 0.5,
        "weighting": "sampler",
        "annealing": True,
        "infobatch": "ratio",
        "early_stopping": True,
        "unguided": True,
        "seed": 3,
    }
    assert set(values) == set(Recipe.model_fields)
    planners = planning._planners(paper(**{"select.moderate_scope": "class"}), CIFAR10, False)
    for name, value in values.items():
        base = Recipe(reweighting=name in ("burn_in", "weighting"))
        keys = [
            {run.key for run in planners[r.model].runs(r)}
            for r in (base, base.model_copy(update={name: value}))
        ]
        assert keys[0] != keys[1], name
