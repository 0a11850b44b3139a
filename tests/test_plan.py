"""The plan, compared with the paper's arithmetic and with real runs."""

from collections import Counter

import pytest
import tiny
import torch

from dedt_lib import plan as planning
from dedt_lib import plans
from dedt_lib.book import grid
from dedt_lib.config.profile import load_profile
from dedt_lib.config.recipe import Recipe
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.reweighting import RULES, GroupDRO
from dedt_lib.shell.cli import main
from dedt_lib.stages import Lab, Stage, closure
from dedt_lib.stages.embed import ENCODERS, encoder
from dedt_lib.stages.evaluate import FidClassifier
from dedt_lib.stages.latents import source_shape
from dedt_lib.stages.training import MOMENTS
from dedt_lib.training.loop import OPTIMIZERS

RATIOS = (0.1, 0.2, 0.3, 0.4)
DIGITS = [30] * 10


def imagined(name="paper", **changes):
    """A lab without data under a profile of the library, or that of the tests if ``name`` is empty."""
    profile = load_profile(name, **changes) if name else tiny.profile(**changes)
    return Lab(profile, counts=planning.survey(profile)[0])


def runs(lab, *cells):
    """The runs of cells (row, ratio) or (row, ratio, seed); the default seed is 0."""
    full = [(*cell, 0)[:3] for cell in cells]
    return {cell: Experiment(lab, **grid.cell_recipe(*cell)) for cell in full}


def planned(lab, *cells):
    """The planned work of some cells: kind -> list of costs."""
    found = {}
    for work in planning.plan(runs(lab, *cells)):
        found.setdefault(work.kind, []).append(work)
    return found


def training(works):
    """The final training of one cell."""
    (work,) = works.get("training") or works["reference"]
    return work


# ---- the paper's arithmetic ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, row, ratio, steps",
    [
        ("paper", "random", 0.1, 80_000),  # 50,000 images in batches of 128, 2000 epochs
        ("paper", "random", 0.2, 158_000),
        ("paper", "random", 0.3, 236_000),
        ("paper", "random", 0.4, 314_000),
        ("paper", "full", 1.0, 782_000),
        ("paper", "random-annealed", 0.1, 1750 * 40 + 250 * 391),  # an eighth of the epochs on all images
        ("imagenet", "mdt-full", 1.0, 60 * 5005),  # 1,281,167 images in batches of 256, 60 epochs
        ("imagenet", "mdt-random", 0.2, 60_060),
        ("imagenet", "mdt-random", 0.1, 30_060),
        ("imagenette", "sd-full", 1.0, 29_600),  # 9,469 images in batches of 16, 50 epochs
        ("imagenette", "sd-random", 0.4, 50 * 237),
    ],
)
def test_steps_at_the_papers_settings(name, row, ratio, steps):
    work = training(planned(imagined(name), (row, ratio)))
    assert work.steps == steps
    assert work.evaluations == (6 if row.startswith("mdt") else 3) * work.images


@pytest.mark.parametrize("ratio, steps", [(0.1, 3006), (0.2, 6006)])
def test_the_proxy_on_imagenet_takes_six_epochs(ratio, steps):
    """Besides training on two passes, it compares one more forward pass of the proxy and of the reference."""
    (proxy,) = planned(imagined("imagenet"), ("mdt-gaussian-reweighted", ratio))["proxy"]
    assert proxy.steps == steps and proxy.evaluations == 8 * proxy.images


@pytest.mark.parametrize(
    "name, model, parameters",
    [
        ("paper", "unet", 35_746_307 + 11 * 512),  # DDPM's network plus the class embeddings
        ("imagenet", "mdt", 38_454_872),
        ("imagenette", "stable-diffusion", 859_520_964),
    ],
)
def test_the_networks_are_as_large_as_the_published_ones(name, model, parameters):
    lab = imagined(name)
    spec = lab.spec(model)
    assert spec.parameters(source_shape(lab, spec), lab.class_names) == parameters


def test_the_u_net_of_a_profile_can_be_on_latents():
    works = planned(imagined("cifar10-latent"), ("random", 0.1), ("full", 1.0))
    assert [work.images for work in works["latents"]] == [20_000]  # with mirror images
    assert "autoencoder" in works and works["decoding"][0].network == "vae"
    assert training(works).steps * 10 == pytest.approx(works["reference"][0].steps, rel=0.02)
    pixels = planned(imagined("cifar10-cpu"), ("random", 0.1))
    assert not pixels.keys() & {"autoencoder", "latents", "decoding"}


def test_stable_diffusion_knows_no_patches():
    with pytest.raises(DedtError, match="autoencoder.patch = 1"):
        imagined("cifar10-latent").spec("stable-diffusion")


def test_the_ideal_speed_ups():
    rows = ("moderate", "random-annealed", "early-stopping")
    found = planning.speedups(runs(imagined(), *((row, ratio, 0) for row in rows for ratio in RATIOS)))
    for ratio in RATIOS:
        assert found["moderate", ratio] == pytest.approx((1 / ratio, 1 / ratio))
        assert found["random-annealed", ratio][0] == pytest.approx(1 / (0.875 * ratio + 0.125))
        assert found["early-stopping", ratio][0] == pytest.approx(1 / ratio, rel=0.03)


def test_the_whole_recipe_is_slower_than_one_run_on_all_the_data():
    found = planning.speedups(runs(imagined(), ("moderate-reweighted", 0.1, 0), ("ddae-moderate", 0.1, 0)))
    assert found["moderate-reweighted", 0.1] == pytest.approx((10, 3 / (3 + 0.4 + 0.3)))
    assert found["ddae-moderate", 0.1][1] < 1


def test_evaluations_of_the_reference_the_proxy_and_the_sampler():
    cell = ("moderate-reweighted", 0.1)
    size = {"sample.count": 50_000, "unet.steps": 100}
    works = planned(imagined(**size, **{"unet.guidance": 0.3}), cell)
    assert works["reference"][0].evaluations == 3 * 2000 * 50_000
    assert works["proxy"][0].evaluations == 4 * 2000 * 5_000
    assert works["sampling"][0].evaluations == 50_000 * 100 * 2
    plain = planned(imagined(**size, **{"unet.guidance": 0}), cell)
    assert plain["sampling"][0].evaluations == 50_000 * 100


def test_images_become_latents_once_and_samples_come_back():
    works = planned(imagined("imagenet"), ("mdt-random", 0.1, 0), ("mdt-random", 0.1, 1))
    (images,), (encoded,), (decoded,) = works["images"], works["latents"], works["decoding"]
    assert images.bytes == 1_281_167 * 3 * 256**2
    assert encoded.images == 2 * 1_281_167  # with mirror images
    assert encoded.bytes == 1_281_167 * 2 * 2 * (4 * 32 * 32) * 2  # views, mean and deviation, half precision
    assert (decoded.runs, decoded.images) == (2, 100_000)
    assert works["sampling"][0].evaluations == 2 * 50_000 * 250 * 2
    assert "autoencoder" not in works and "pipeline" not in works
    (single,) = planned(imagined("imagenet", **{"train.flip": False}), ("mdt-random", 0.1))["latents"]
    assert single.bytes == encoded.bytes / 2
    assert planning.seconds(images, {}) == 0  # decoding files takes disk; its time is not estimated


@pytest.mark.parametrize(
    "name, row, ratio, pairs",
    [
        # 10,000 samples and their mirror images against 5,000 training images, in pixels and in features.
        ("paper", "random", 0.1, 4 * 10_000 * 5_000),
        # Copies 4 * 10,000 * 1,281,167, KID 2 * 100 * 1000^2, CMMD 2 * 50,000^2, neighbours 2 * 10,000^2.
        ("imagenet", "mdt-full", 1.0, 51_246_680_000 + 200_000_000 + 5_000_000_000 + 200_000_000),
        ("digits", "mdt-full", 1.0, (10 + 2 + 2 + 2) * 1500**2 + 3 * 10 * 150**2),
    ],
)
def test_the_pairs_of_images_whose_distances_are_taken(name, row, ratio, pairs):
    (work,) = planned(imagined(name), (row, ratio))["comparison"]
    assert work.pairs == pairs and planning.seconds(work, {("comparison", "distances"): 2.0}) == 2.0 * pairs


# ---- which stages, and which of them are shared ----------------------------------------------------


def test_what_is_not_published_is_trained():
    lab = imagined("", **{"stable_diffusion.pretraining_epochs": 3, "autoencoder.epochs": 4})
    works = planned(lab, ("sd-random", 0.2), ("sd-full", 1.0), ("mdt-random", 0.2))
    found = {kind: [(work.runs, work.images) for work in works[kind]] for kind in ("autoencoder", "pipeline")}
    assert found == {"autoencoder": [(1, 4 * 300)], "pipeline": [(1, 3 * 300)]}
    published = {"encoders.inceptionv3.weights": "imagenet", "encoders.clip.weights": "openai"}
    rows = ("inceptionv3-gaussian", "clip-moderate", "ddae-moderate")
    encoders = planned(imagined(**published), *((row, 0.1) for row in rows))["encoder"]
    assert "DDAE" in {work.what for work in encoders} <= {"DDAE", "FID network"}


@pytest.mark.parametrize(
    "cmmd, network, expected",
    [
        ("vit-l-14-336", "vit", [("features", 300), ("measuring", 100)]),
        ("clip", "clip", [("encoder", 2 * 300), ("features", 300), ("measuring", 100)]),
        ("", "clip", []),
        ("", "vit", []),
    ],
)
def test_cmmd_takes_embeddings_of_both_sides(cmmd, network, expected):
    works = planning.plan(runs(imagined("", **{"evaluate.cmmd": cmmd}), ("sd-random", 0.2, 0)))
    assert [(work.kind, work.images) for work in works if work.network == network] == expected


@pytest.mark.parametrize("name", ["smoke", "digits"])
def test_table3_needs_no_run_that_table1_and_table2_do_not_have(name):
    lab = imagined(name)
    found = {table: set(planning.stages(runs(lab, *grid.cells(table, lab.profile)))) for table in grid.TABLES}
    assert found["table3"] <= found["table1"] | found["table2"]
    assert found["figure2"] <= found["table3"]
    assert not found["table2"] <= found["table1"]


def test_cells_share_what_is_the_same():
    def counted(cells, **changes):
        return {work.what: work.runs for work in planning.plan(runs(imagined(**changes), *cells))}

    pair = [("moderate-reweighted", 0.1, 0), ("moderate-literal-dro", 0.1, 0)]
    assert [counted(pair, **{"reweight.burn_in": share})["group DRO"] for share in (0.0, 0.2)] == [1, 2]
    found = counted([("moderate-reweighted", 0.1, 0), ("moderate-reweighted", 0.1, 1)])
    assert (found["ResNet-18"], found["all the data"], found["coreset, weighted"]) == (2, 2, 2)
    controls = [("full", 1.0, 0), *(("early-stopping", ratio, 0) for ratio in (*RATIOS, 1.0))]
    works = planned(imagined(), *controls)
    assert works["reference"][0].runs == 1 and works["sampling"][0].runs == 5


def test_the_unguided_samples_are_those_of_the_same_training():
    works = planned(imagined(""), ("sd-random", 0.2), ("sd-random-unguided", 0.2))
    guided, unguided = works["sampling"]
    assert training(works).runs == 1 and guided.evaluations == 2 * unguided.evaluations


def test_every_field_of_a_recipe_that_makes_another_run_is_told_apart(monkeypatch):
    """Every field of Recipe must be listed here with a value that changes the address of the samples."""
    monkeypatch.setitem(plans.REGISTRY, "own", plans.EpochPlan)
    monkeypatch.setitem(RULES, "own", type("Own", (GroupDRO,), {}))
    choices = {"model": "mdt", "method": "gaussian", "encoder": "ddae", "scope": "global", "centre": "mean"}
    choices |= {"band": "nearest", "weighting": "draw", "infobatch": "ratio", "plan": "own"}
    choices |= {"null": "shuffled", "reference": "equal-steps", "rule": "own"}
    switches = dict.fromkeys(("reweighting", "balancing", "annealing", "early_stopping", "unguided"), True)
    switches["full_length"] = True
    values = {**choices, **switches, "ratio": 0.2, "burn_in": 0.5, "seed": 3}
    assert set(values) == set(Recipe.model_fields)
    lab = imagined(**{"select.moderate_scope": "class"})
    of_reweighting = ("burn_in", "weighting", "null", "reference", "rule")
    for name, value in values.items():
        base = Experiment(lab, method="moderate", ratio=0.1, reweighting=name in of_reweighting)
        assert base.samples.address != base.change(**{name: value}).samples.address, name


def test_an_imagined_lab_has_as_many_stages_as_a_real_one(smoke):
    """Over all cells of all tables, stages that share an address in one lab share one in the other."""

    def stages(lab):
        cells = grid.all_cells(lab.profile)
        recipes = [Experiment(lab, **grid.cell_recipe(*cell)) for cell in cells]
        return Counter(stage.name for stage in closure(e.samples for e in recipes).values())

    assert stages(smoke.lab) == stages(imagined(""))


# ---- against runs that took place ------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, ratio",
    [("moderate-reweighted", 0.1), ("ddae-moderate", 0.1), ("sd-random", 0.2), ("mdt-random", 0.2)],
)
def test_a_real_run_took_and_left_what_the_plan_said(row, ratio, smoke):
    recipe = smoke.change(**grid.cell_recipe(row, ratio, 0))
    lab, trained = imagined(""), 0
    of_plan = Experiment(lab, **recipe.recipe.model_dump())
    pairs = zip(closure([recipe.model]).values(), closure([of_plan.model]).values(), strict=True)
    for stage, outline in pairs:
        for cost in outline.cost():
            facts = stage.manifest()
            assert facts.get("steps", cost.steps) == cost.steps
            assert facts.get("images_seen", cost.images) == cost.images
            kept = sum(f.stat().st_size for f in stage.folder.iterdir() if f.suffix != ".json")
            assert kept == pytest.approx(cost.bytes, rel=0.1, abs=40_000)  # files also hold tensor names
            trained += "images_seen" in facts
    assert trained >= 1
    ledger, works = recipe.costs(), planned(lab, (row, ratio))
    for part, kind in {"reference": "reference", "proxy": "proxy", "train": "training"}.items():
        if part in ledger:
            (work,) = works[kind]
            assert ledger[part]["images"] == work.images and ledger[part]["evaluations"] == work.evaluations


def test_infobatch_is_planned_for_the_epochs_that_it_prunes():
    """57 of 100 epochs, the first of which visits everything; binary fractions make 0.57 * 100 a little less."""
    lab = imagined("", **{"train.annealing_start": 0.57, "unet.epochs": 100})
    run = Experiment(lab, infobatch="budget", ratio=0.1, annealing=True).model
    (cost,) = run.cost()
    assert cost.images == 44 * lab.n + 56 * round(0.1 * lab.n)


@pytest.mark.parametrize("prune", ["ratio", "budget"])
def test_a_real_infobatch_run_lies_in_the_planned_range(prune, smoke):
    row = {"ratio": "infobatch-annealed", "budget": "infobatch-budget-annealed"}[prune]
    lab = imagined("", **{"data.per_class": 10, "unet.batch_size": 10})
    run = Experiment(lab.profile, store=smoke.store, device="cpu", **grid.cell_recipe(row, 0.4, 0))
    facts = run.training()
    least, most = (
        next(work for work in planning.plan(runs(lab, (row, 0.4, 0)), least) if work.kind == "training")
        for least in (True, False)
    )
    assert least.images <= facts["images_seen"] <= most.images
    assert least.steps <= facts["steps"] <= most.steps
    assert (least == most) == (prune == "budget")


@pytest.mark.parametrize("optimizer", sorted({*OPTIMIZERS} - {"sgd"}))
def test_a_checkpoint_holds_the_moments_of_the_optimizer(optimizer):
    parameter = torch.nn.Parameter(torch.zeros(3))
    used = OPTIMIZERS[optimizer]([parameter], lr=1e-3)
    parameter.grad = torch.ones(3)
    used.step()
    moments = [value for value in used.state[parameter].values() if value.shape == parameter.shape]
    assert MOMENTS.get(optimizer, 2) == len(moments)


def test_a_batch_of_one_is_left_out_by_classifiers():
    (work,) = FidClassifier(imagined("", **{"evaluate.batch_size": 299, "evaluate.epochs": 2})).cost()
    assert (work.steps, work.images) == (2, 2 * 299)


# ---- the data --------------------------------------------------------------------------------------


def test_known_data_is_counted_without_being_there():
    everything = tiny.profile(**{"data.per_class": 0})
    real = Experiment(everything, device="cpu").data.class_counts.tolist()
    assert planning.survey(everything) == ([150] * 10, (), None) and real == [150] * 10
    assert planning.survey(tiny.profile())[0] == DIGITS
    published = {"paper": (50_000, 10), "imagenet": (1_281_167, 1000), "imagenette": (9469, 10)}
    for name, numbers in published.items():
        lab = imagined(name)
        assert (lab.n, len(lab.class_names)) == numbers


def test_of_a_folder_only_the_names_of_the_files_are_read(tmp_path):
    root = tiny.write_images(tmp_path / "trees", each=5)
    (root / "ash" / "0.png").write_bytes(b"not an image")
    own = {"data.source": "folder", "data.path": str(root), "data.per_class": 0}
    assert planning.survey(load_profile("smoke", **own))[:2] == ([5, 5, 5], ("ash", "birch", "cedar"))
    assert planning.survey(load_profile("imagenette", **{"data.path": str(root), "data.class_names": ()}))[
        0
    ] == [5, 5, 5]
    with pytest.raises(DedtError, match="no does not exist"):
        planning.survey(load_profile("smoke", **{**own, "data.path": str(tmp_path / "no")}))


def test_published_encoders_are_planned_without_their_weights():
    named = {"resnet18": "imagenet", "inceptionv3": "imagenet", "clip": "openai"}
    lab = imagined("", **{f"encoders.{name}.weights": weights for name, weights in named.items()})
    widths = {name: encoder(lab, name).features_width() for name in ENCODERS}
    assert widths == {"resnet18": 512, "inceptionv3": 2048, "clip-rn50": 1024, "ddae": widths["ddae"]}


def test_an_unknown_row_is_an_error():
    with pytest.raises(DedtError, match="Unknown row 'best'"):
        runs(imagined(""), ("best", 0.1, 0))


def test_a_verb_of_a_recipe_takes_what_its_stages_take(tmp_path, capsys):
    for k, folder in enumerate(("a", "b")):
        tiny.write_images(tmp_path / "photos", [folder], each=12 + k, size=(40, 33))
    photos = [str(tmp_path / "photos"), "--ratio", "0.5", "--dry-run", "--store", str(tmp_path / "store")]
    assert main(["select", *photos, "--encoder", "efficientnet-lite0"]) == 0
    told = capsys.readouterr().out
    assert "25 images in 2 classes" in told and "speed-up" not in told and "in total" in told
    kinds = [line.split()[0] for line in told.splitlines() if line.startswith("  ")]
    assert "features" in kinds and not {"training", "sampling", "reference"} & {*kinds}
    assert not (tmp_path / "store").exists()
    assert main(["run", "table1", "--row", "random", "--dry-run"]) == 2
    assert "dedt plan table1 --row" in capsys.readouterr().err
    flat = tiny.write_images(tmp_path / "flat", ["."], each=40)
    assert main(["select", str(flat), *photos[1:], "--encoder", "efficientnet-lite0"]) == 0
    assert "40 images in 2 classes" in capsys.readouterr().out  # the classes are clusters
    single = tiny.write_images(tmp_path / "single", ["a"], each=1)
    assert main(["run", str(single), "--ratio", "1", "--dry-run"]) == 2
    assert "FID and the FID between halves of the real images need at least 4" in capsys.readouterr().err


# ---- the probe -------------------------------------------------------------------------------------


def test_the_probe_times_every_kind_of_work():
    small = {"encoders.clip.batch_size": 10, "encoders.inceptionv3.batch_size": 5, "evaluate.batch_size": 10}
    lab = imagined("", **small)
    rows = ("moderate-reweighted", "mdt-gaussian-reweighted", "sd-moderate-reweighted")
    chosen = runs(lab, *((row, 0.2, 0) for row in rows))
    works = planning.plan(chosen)
    speed = planning.probe(chosen, limit=0)
    assert set(speed) == {(work.kind, work.network) for work in works}
    assert {kind for kind, _ in speed} == set(planning.KINDS) - {"images"}
    assert all(value > 0 for value in speed.values())
    assert speed["reference", "U-Net"] == speed["training", "U-Net"]


def test_the_probe_needs_neither_files_nor_published_weights():
    published = {
        "evaluate.network": "inceptionv3",
        "data.source": "folder",
        "encoders.resnet18.weights": "imagenet",
    }
    lab = Lab(tiny.profile(**published), counts=[9, 9])
    speed = planning.probe(runs(lab, ("moderate", 0.2, 0)), limit=0)
    assert speed["measuring", "metric"] > 0 and speed["features", "resnet18"] > 0


def test_hours_are_the_units_of_each_kind_times_their_time():
    works = planned(imagined(), ("moderate", 0.1))
    speed = {(work.kind, work.network): 2.0 for kind in works.values() for work in kind}
    hours = {kind: sum(planning.seconds(work, speed) for work in works[kind]) for kind in works}
    (sampled,) = works["sampling"]
    assert hours["training"] == 2.0 * 80_000 and hours["sampling"] == 2.0 * sampled.evaluations
    assert hours["features"] == 2.0 * sum(work.images for work in works["features"])


def test_a_batch_that_does_not_fit_says_what_to_lower(monkeypatch):
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stage, "manifest", full)
    with pytest.raises(DedtError, match="Lower batch_size"):
        planning.probe(runs(imagined(""), ("random", 0.1, 0)), limit=0)
