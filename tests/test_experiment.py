import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch

from dedt_lib import encoders, evaluation, sampling, selection
from dedt_lib.arrays import thin
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.stages import train as train_stage
from dedt_lib.store import Store
from dedt_lib.weights import read_tensors

COMPUTATIONS = [
    (train_stage, "train"),
    (encoders, "train_classifier"),
    (encoders, "embed"),
    (selection, "select"),
    (sampling, "sample"),
    (evaluation, "frechet_distance"),
]


@pytest.fixture
def nothing_is_computed(monkeypatch):
    """A function; once it is called, computing any stage is an error."""

    def refuse(*given, **named):
        raise AssertionError("a stored stage was computed again")

    def switch():
        for module, name in COMPUTATIONS:
            monkeypatch.setattr(module, name, refuse)

    return switch


@pytest.fixture(scope="module")
def reweighted(smoke):
    return smoke.change(method="moderate", reweighting=True)


# ---- one cell ------------------------------------------------------------------------------------


def test_a_cell_is_json(reweighted):
    cell = reweighted.cell()
    assert json.loads(json.dumps(cell, allow_nan=False)) == cell
    assert cell["fid"] > 0 and len(cell["classwise"]) == 10 and 0 <= cell["copies"] <= 1
    assert cell["class_counts"] == [3] * 10 and sum(cell["class_weights"]) == pytest.approx(1)
    assert cell["floor"]["fid"] > 0 and cell["steps"] == 16 and cell["recipe"]["reweighting"]
    assert 1 <= cell["dro"]["effective_classes"] <= 10 and len(cell["dro"]["trajectory"]) == 16


def test_a_second_experiment_computes_nothing(smoke, reweighted, nothing_is_computed):
    cell = reweighted.cell()
    nothing_is_computed()
    sizes, recipe = tiny.profile(), {"method": "moderate", "reweighting": True}
    again = Experiment(sizes, store=Store(smoke.store.root), device="cpu", **recipe)
    assert again.cell() == cell


def test_the_fid_of_a_cell_is_that_of_its_samples(smoke):
    real, generated = (smoke.metric_features(images) for images in (smoke.data.images, smoke.sample()))
    distance = evaluation.frechet_distance(real, generated)
    assert smoke.evaluate()["fid"] == pytest.approx(distance, rel=1e-9)


def test_samples_are_balanced_and_do_not_depend_on_the_batch(smoke):
    images, labels = smoke.sample(), smoke.sample_labels()
    assert images.shape == (100, 1, 8, 8) and (np.bincount(labels) == 10).all()
    seed = smoke.store.manifest(smoke.samples.folder)["identity"]["seed"]
    other = sampling.sample(smoke.train(), labels[:30], seed=seed, steps=5, guidance=0.3, batch_size=7)
    assert np.abs(other.astype(int) - images[:30]).max() <= 1


# ---- what is shared ------------------------------------------------------------------------------


def test_all_data_is_the_same_run_by_any_method(smoke):
    runs = [smoke.change(method=m, ratio=1.0).training() for m in ("random", "gaussian", "moderate")]
    assert len({run["key"] for run in runs}) == 1


def test_the_reference_is_the_run_on_all_data(smoke, reweighted):
    whole = smoke.change(ratio=1.0).training()["key"]
    assert smoke.store.manifest(reweighted.reference_run.folder)["key"] == whole
    reweighted.reweight()
    assert reweighted.proxy.manifest()["identity"]["inputs"]["reference"] == whole


def test_early_stopping_uses_the_weights_that_the_full_run_kept(smoke):
    stopped, full = smoke.change(ratio=0.4, early_stopping=True), smoke.change(ratio=1.0)
    kept = read_tensors(full.model.folder / "ema-000040.safetensors")
    for name, value in stopped.train().state_dict().items():
        assert torch.equal(value, kept[name])
    assert stopped.cell()["steps"] == smoke.change(ratio=0.4).training()["steps"] == 40
    assert stopped.training()["key"] == full.training()["key"]


def test_seeds_are_different_runs(smoke):
    assert smoke.change(seed=1).training()["key"] != smoke.training()["key"]


def test_how_often_checkpoints_are_written_changes_no_address(smoke, nothing_is_computed):
    smoke.training()
    nothing_is_computed()
    often = tiny.beside(smoke, {"method": "random"}, **{"train.checkpoint_every": 1})
    assert often.training()["key"] == smoke.training()["key"]


def test_class_weights_lead_to_a_run_of_their_own(smoke, reweighted):
    assert reweighted.training()["key"] != smoke.change(method="moderate").training()["key"]
    coreset = reweighted.weighted_coreset()
    np.testing.assert_allclose(coreset.sample_weights[coreset.kept].mean(), 1)
    assert reweighted.select().weights is None


def test_annealing_visits_all_data_in_the_last_epoch(smoke):
    annealed = smoke.change(annealing=True).training()
    assert annealed["images_seen"] == 7 * 30 + 300 and annealed["steps"] == 7 * 2 + 12


def test_burn_in_is_a_share_of_the_proxys_steps(smoke, reweighted):
    dro = reweighted.reweight()
    assert dro["burn_in"] == 4 and dro["trajectory"].shape == (16, 10)
    assert (dro["trajectory"][:4] == 0.1).all() and (dro["trajectory"][4] != 0.1).any()
    np.testing.assert_allclose(dro["weights"], dro["trajectory"][4:].mean(axis=0))
    assert reweighted.change(burn_in=0.0).burn_in == 0


def test_the_scope_is_the_recipes_then_the_profiles(smoke):
    moderate = smoke.change(method="moderate")
    assert moderate.scope == "class" and moderate.change(scope="global").scope == "global"
    assert Experiment(tiny.profile(**{"select.moderate_scope": "global"})).scope == "global"


# ---- interrupted ---------------------------------------------------------------------------------


def test_an_interrupted_experiment_goes_on(smoke, tmp_path, monkeypatch):
    recipe = {"method": "random", "ratio": 0.4}
    interrupted = Experiment(tiny.profile(), store=Store(tmp_path), device="cpu", **recipe)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 30)
        interrupted.training()
    resumed, whole = interrupted.training(), smoke.change(ratio=0.4).training()
    assert resumed["key"] == whole["key"] and resumed["files"] == whole["files"]
    assert resumed["images_seen"] == whole["images_seen"] == 8 * 120


# ---- costs ---------------------------------------------------------------------------------------


def test_costs_add_up(smoke, reweighted):
    images = {name: cost["images"] for name, cost in reweighted.costs().items()}
    none = {"embed": 0, "select": 0, "sample": 0, "evaluate": 0}
    assert images == {**none, "reference": 2400, "reweight": 240, "train": 240}
    evaluations = {name: cost["evaluations"] for name, cost in reweighted.costs().items()}
    assert evaluations == {**none, "reference": 7200, "reweight": 960, "train": 720}
    assert list(smoke.costs()) == ["select", "train", "sample", "evaluate"]
    assert list(smoke.change(method="gaussian").costs()) == ["embed", "select", "train", "sample", "evaluate"]
    for cost in reweighted.costs().values():
        assert cost["seconds"] >= 0 and cost["cpu_seconds"] >= 0


def test_costs_do_not_depend_on_what_ran_before(smoke, tmp_path):
    alone = smoke.change(method="gaussian", ratio=0.4)
    after = Experiment(smoke.profile, store=Store(tmp_path), **alone.recipe.model_dump())
    after.change(method="moderate").cell()  # makes the encoder, the features and the real side of metrics
    shared = {part: cost["seconds"] for part, cost in after.costs().items()}
    made = [stage.manifest()["seconds"] for stage in (after.embedding, after.embedding.encoder)]
    assert shared["embed"] == pytest.approx(sum(made)) and shared["embed"] > 0
    assert list(shared) == list(alone.costs())


def test_a_null_takes_the_weights_of_another_run(smoke, reweighted):
    learned = reweighted.weighted_coreset().weights
    shuffled = reweighted.change(null="shuffled").weighted_coreset().weights
    assert sorted(shuffled) == sorted(learned) and not np.array_equal(shuffled, learned)
    other = reweighted.change(null="another-seed")
    assert other.weights.address == reweighted.change(seed=1).proxy.address != reweighted.proxy.address
    assert other.coreset.address == reweighted.coreset.address and other.model.seed == 0


def test_the_reference_may_stop_where_the_proxy_does(reweighted):
    stopped = reweighted.change(reference="equal-steps").proxy
    steps = stopped.outline().steps(stopped.settings.batch_size)
    assert stopped.reference.steps == reweighted.model.steps == steps
    assert stopped.address != reweighted.proxy.address
    with pytest.raises(DedtError, match="equal-steps is not available for 'mdt'"):
        reweighted.change(reference="equal-steps", model="mdt")


def test_a_coreset_can_train_as_long_as_all_the_data(smoke):
    long, whole = smoke.change(full_length=True), smoke.change(ratio=1.0)
    assert long.training()["steps"] == whole.training()["steps"] > smoke.training()["steps"]
    assert long.cell()["steps"] == 96 and long.training()["images_seen"] == 48 * 30


def test_early_stopping_costs_its_share_of_the_full_run(smoke):
    stopped = smoke.change(ratio=0.4, early_stopping=True).costs()["train"]
    full = smoke.change(ratio=1.0).costs()["train"]
    for name in ("seconds", "cpu_seconds", "images", "evaluations"):
        assert stopped[name] == pytest.approx(full[name] * 40 / 96)


def test_early_stopping_can_match_an_annealed_run(smoke):
    annealed = smoke.change(annealing=True).training()["steps"]
    stopped = smoke.change(annealing=True, early_stopping=True)
    assert stopped.cell()["steps"] == annealed == 7 * 2 + 12
    assert stopped.model.weights_file.name == f"ema-{annealed:06d}.safetensors"


# ---- other ways to train on less -----------------------------------------------------------------


def test_infobatch_reports_the_data_that_it_really_saw(smoke):
    cell = smoke.change(infobatch="budget", ratio=0.4, annealing=True).cell()
    # All samples in the first and the last of eight epochs, 40 % in the six between.
    assert cell["realised"] == pytest.approx((1 + 6 * 0.4 + 1) / 8) and cell["class_counts"] == [30] * 10
    assert list(cell["costs"]) == ["select", "train", "sample", "evaluate"]
    as_run = smoke.change(infobatch="ratio", ratio=0.4, annealing=True).cell()
    assert cell["realised"] < as_run["realised"] < 1


def test_infobatch_that_keeps_everything_is_the_full_run(smoke):
    full, kept = (smoke.change(ratio=1.0, infobatch=how).training() for how in ("", "ratio"))
    assert full["losses"].tolist() == kept["losses"].tolist() and full["key"] != kept["key"]


def test_drawn_classes_are_a_run_of_their_own(smoke, reweighted):
    by_loss = reweighted.training()
    by_draw = reweighted.change(weighting="draw").training()
    assert by_draw["key"] != by_loss["key"] and by_draw["steps"] == by_loss["steps"]


def test_the_precision_of_sampling_is_its_own_and_stands_in_the_protocol(smoke):
    plain, half = (
        tiny.beside(smoke, {"method": "random"}, **{"sample.precision": precision}).evaluate()["protocol"]
        for precision in ("float32", "bfloat16")
    )
    assert "sampled in" not in plain and half == plain + ", sampled in bfloat16"


def test_balancing_lets_every_class_count_the_same_without_dro(smoke, reweighted):
    balanced = reweighted.change(reweighting=False, balancing=True, scope="global")
    coreset = balanced.weighted_coreset()
    assert len(set(coreset.counts)) > 1
    weights = coreset.sample_weights[coreset.indices]
    of_class = np.bincount(coreset.labels[coreset.indices], weights=weights)
    np.testing.assert_allclose(of_class, weights.sum() / 10)
    assert weights.mean() == pytest.approx(1)
    assert set(balanced.costs()) == {"embed", "select", "train", "sample", "evaluate"}


def test_class_weights_in_the_tail(smoke, reweighted):
    annealed = reweighted.change(annealing=True)
    keep = tiny.beside(smoke, annealed.recipe.model_dump(), **{"train.annealing_weights": "keep"})
    assert (annealed.plan().epoch(7)[1] == 1).all()
    coreset = keep.weighted_coreset()
    indices, weights = keep.plan().epoch(7)
    expected = 10 * coreset.weights[keep.data.labels]
    np.testing.assert_allclose(weights, expected)
    assert len(indices) == len(keep.data)
    assert keep.training()["key"] != annealed.training()["key"]


@pytest.mark.parametrize("encoder, width", [("clip-rn50", 128), ("ddae", 16)])
def test_any_encoder_can_choose_the_coreset(smoke, encoder, width):
    other = smoke.change(method="moderate", encoder=encoder)
    assert other.embed().shape == (300, width)
    assert other.select().counts.tolist() == [3] * 10
    assert other.select().scores.tolist() != smoke.change(method="moderate").select().scores.tolist()


def test_the_readout_of_a_ddae_is_part_of_its_features(smoke):
    of_blocks = [tiny.beside(smoke, {"encoder": "ddae"}, **{"encoders.ddae.block": k}) for k in (1, 2)]
    assert len({experiment.embedding.address for experiment in of_blocks}) == 2


def test_variants_of_the_selector_are_coresets_of_their_own(smoke):
    moderate = smoke.change(method="moderate")
    others = [{"band": "nearest"}, {"band": "farthest"}, {"centre": "mean"}, {"scope": "global"}]
    kept = {tuple(moderate.change(**other).select().indices) for other in [{}, *others]}
    assert len(kept) == 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm(selection.Selector):
    power: float = 2.0
    seed: int = 5

    def scores(self, features, labels, scope, originals):
        return np.linalg.norm(features, ord=self.power, axis=1)


def test_a_selector_of_ones_own_is_a_class_and_an_entry(smoke, monkeypatch):
    monkeypatch.setitem(selection.REGISTRY, "norm", Norm)
    own = smoke.change(method="norm", seed=3)
    assert own.coreset.options == (("power", 2.0), ("seed", 3)) and own.scope == "class"
    assert dict(smoke.change(method="norm").coreset.options)["seed"] == 0  # the recipe's
    assert own.coreset.address != smoke.change(method="norm").coreset.address
    scores = np.linalg.norm(own.embed(), axis=1)
    assert np.array_equal(own.select().scores, scores) and own.select().counts.tolist() == [3] * 10
    assert own.change(scope="global").select().indices.tolist() == sorted(np.argsort(-scores)[:30])
    assert set(own.costs()) == {"embed", "select", "train", "sample", "evaluate"}


# ---- the user's images ---------------------------------------------------------------------------


def own_images(folder, **changes):
    """An experiment that trains for one epoch on the images in ``folder``/images."""
    sizes = {"data.per_class": 0, "data.channels": 3, "unet.epochs": 1, "sample.count": 12, **changes}
    profile = tiny.profile(**{"data.source": "folder", "data.path": str(folder / "images")}, **sizes)
    return Experiment(profile, store=Store(folder / "store"), device="cpu", method="random", ratio=0.5)


def test_a_folder_of_images_goes_all_the_way(tmp_path):
    images = tiny.write_images(tmp_path / "images", each=6)
    experiment = own_images(tmp_path)
    coreset = experiment.select()
    assert coreset.counts.tolist() == [3, 3, 3] and coreset.class_names == ("ash", "birch", "cedar")
    assert all((images / coreset.ids[i]).is_file() for i in coreset.indices)
    cell = experiment.cell()
    assert experiment.sample().shape == (12, 3, 8, 8) and len(cell["classwise"]) == 3
    assert cell["copies"] is None


def test_a_coreset_follows_its_files_when_they_are_renamed(tmp_path):
    images = tiny.write_images(tmp_path / "images")
    own_images(tmp_path).select()
    (images / "ash" / "0.png").rename(images / "ash" / "00.png")
    assert all((images / name).is_file() for name in own_images(tmp_path).select().ids)


def test_held_out_images_that_come_later_are_used(tmp_path):
    tiny.write_images(tmp_path / "images" / "train")
    assert own_images(tmp_path).evaluate()["copies"] is None
    tiny.write_images(tmp_path / "images" / "test", size=(6, 5))
    assert own_images(tmp_path).evaluate()["copies"] is not None


def test_a_class_too_small_to_be_halved_has_no_floor(tmp_path):
    tiny.write_images(tmp_path / "images", each=4)
    (tmp_path / "images" / "ash" / "3.png").unlink()
    floor = own_images(tmp_path).floor()
    assert floor["fid"] > 0 and floor["classwise"][0] is None and min(floor["classwise"][1:]) > 0


# ---- bad input -----------------------------------------------------------------------------------


def test_a_bad_recipe_is_refused_at_once():
    with pytest.raises(DedtError, match="without DRO"):
        Experiment("smoke", balancing=True, reweighting=True)


@pytest.mark.parametrize(
    "recipe", [{"early_stopping": True}, {"reference": "equal-steps", "reweighting": True}]
)
def test_a_ratio_that_the_full_run_does_not_keep_is_refused_at_once(recipe, smoke):
    told = "equal-steps need a ratio of the profile .0.1, 0.4, 1.0., .* saves its weights; got 0.3"
    with pytest.raises(DedtError, match=told):
        smoke.change(ratio=0.3, **recipe)


def test_a_ratio_that_came_after_the_full_run_says_what_to_delete(smoke):
    folder = smoke.change(ratio=1.0).model.folder
    recipe = {"method": "random", "ratio": 0.3, "early_stopping": True}
    later = tiny.beside(smoke, recipe, **{"unet.ratios": (0.1, 0.3, 0.4)})
    told = f"{folder} is older than the ratios in the profile .*Delete this folder"
    with pytest.raises(DedtError, match=told):
        later.train()


def test_a_class_that_the_coreset_lost_cannot_be_trained_on(smoke):
    told = "Ratio 0.02 keeps .* images, too few for 10 classes: raise the ratio"
    with pytest.raises(DedtError, match=told):
        smoke.change(ratio=0.02, scope="global").training()


# ---- thinning ------------------------------------------------------------------------------------


def test_thin_keeps_the_ends():
    rows = thin(np.arange(1000), 100)
    assert len(rows) == 100 and rows[0] == 0 and rows[-1] == 999
    assert thin(np.arange(5), 100).tolist() == [0, 1, 2, 3, 4]
