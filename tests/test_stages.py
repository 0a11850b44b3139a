"""All kinds of diffusion models go through the same stages, with the same guarantees."""

import ast
import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import dedt_lib
from dedt_lib import sampling
from dedt_lib.book import results
from dedt_lib.config import load_profile
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.files import address
from dedt_lib.models import autoencoder
from dedt_lib.models.stable_diffusion import VERSION_1_4, tiny_pipeline
from dedt_lib.pixels import to_float
from dedt_lib.plans import EpochPlan
from dedt_lib.reweighting import GroupDRO
from dedt_lib.stages import embed, evaluate, latents
from dedt_lib.stages.lab import Lab
from dedt_lib.store import Store
from dedt_lib.training import draw_batch, train
from dedt_lib.training.checkpoint import CHECKPOINT
from dedt_lib.weights import read_tensors

LATENT = ["mdt", "stable-diffusion"]


@pytest.fixture(scope="module", params=LATENT)
def latent(request, smoke):
    return smoke.change(model=request.param)


def fit(experiment, folder, *, weights=None, **changes):
    """Train the experiment's model for four epochs on a few latents."""
    indices = np.arange(24)
    folder.mkdir(exist_ok=True)
    plan = EpochPlan(indices, total=len(experiment.data), epochs=4, weights=weights)
    sizes = {"epochs": 4, "batch_size": 8, "checkpoint_every": 3}
    settings = dataclasses.replace(experiment.settings, **{**changes, **sizes})
    source = latents.source(experiment.lab, experiment.spec).result()
    return train(experiment.build_model(), source, plan, settings, seed=0, folder=folder)


def test_weights_of_one_change_no_bit(latent, tmp_path):
    plain, weighted = fit(latent, tmp_path / "a"), fit(latent, tmp_path / "b", weights=np.ones(24))
    assert plain.losses.tolist() == weighted.losses.tolist()
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_a_resumed_run_equals_an_uninterrupted_one(latent, tmp_path, monkeypatch):
    whole = fit(latent, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 7)
        fit(latent, tmp_path / "parts")
    assert (tmp_path / "parts" / CHECKPOINT).exists()
    resumed = fit(latent, tmp_path / "parts")
    assert resumed.losses.tolist() == whole.losses.tolist() and whole.steps == 12
    one, other = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_fresh_model_does_not_depend_on_what_was_loaded_before_it(latent, smoke):
    unloaded, loaded = (tiny.beside(smoke, {"model": latent.recipe.model}) for _ in range(2))
    latents.source(loaded.lab, loaded.spec).result()
    one, other = (experiment.build_model(seed=3).state_dict() for experiment in (unloaded, loaded))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_ratio_one_is_the_run_on_all_the_data(latent):
    full = latent.change(method="random", ratio=1.0)
    assert full.training()["key"] == latent.change(method="moderate", ratio=1.0).training()["key"]
    assert full.training()["key"] != full.change(model="unet").training()["key"]


@pytest.mark.parametrize("model, scale", [("unet", 0.3), ("mdt", 3.8), ("stable-diffusion", 4.0)])
def test_unguided_samples_come_from_the_same_training_without_guidance(model, scale, smoke):
    guided = smoke.change(model=model, ratio=0.2 if model != "unet" else 0.1)
    unguided = guided.change(unguided=True)
    assert unguided.training()["key"] == guided.training()["key"]
    assert guided.spec.sampling()["guidance"] == scale
    asked = []

    def watched(x_t, t, labels):
        asked.append((len(x_t), labels))
        return predict(x_t, t, labels)

    network = unguided.train()
    predict = network.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "predict", watched)
        if model == "mdt":
            patch.setattr(network, "forward", watched)
            predict = type(network).forward.__get__(network)
        how = {"sampler": unguided.spec.sampler, "decode": unguided.samples.decode}
        how |= {"seed": 0, "batch_size": 4, **unguided.spec.sampling(True)}
        images = sampling.sample(network, np.arange(4), **how)
    assert len(asked) == unguided.spec.section.steps and images.shape[0] == 4
    assert all(count == 4 and (labels != network.null_label).all() for count, labels in asked)


def test_a_cell_holds_the_metrics_of_the_latent_models(latent):
    cell = latent.change(method="random", ratio=0.2).cell()
    assert json.loads(json.dumps(cell, allow_nan=False)) == cell
    assert all(np.isfinite(cell[name]) for name in results.MORE_METRICS)
    assert 0 <= cell["precision"] <= 1 and 0 <= cell["recall"] <= 1 and len(cell["classwise"]) == 10
    assert cell["costs"]["train"]["evaluations"] == latent.spec.evaluations * cell["costs"]["train"]["images"]


def test_fid_can_be_measured_in_the_features_of_a_resnet18(tmp_path):
    sizes = {"evaluate.network": "resnet18", "evaluate.width": 8, "encoders.resnet18.width": 8}
    lab = Lab(tiny.profile(**sizes), store=Store(tmp_path))
    network = evaluate.extractor(lab)
    images = lab.data.images[:4]
    features = evaluate.features(lab, images)
    assert features.shape == (4, evaluate.width(lab)) == (4, 64)
    with torch.no_grad():
        expected = network.result().features(to_float(torch.from_numpy(images)))
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    chooses = embed.encoder(lab, "resnet18", 0)
    assert type(network.result()) is type(chooses.result())
    assert network.settings["flip"] == lab.profile.train.flip
    first = [next(stage.result().parameters()) for stage in (network, chooses)]
    assert not torch.equal(*first), "the encoder that chooses may not be the one that judges"
    assert evaluate.viewed(lab) == {"mirrored": lab.profile.train.flip, "shifted": False}


def test_samples_come_back_at_the_size_of_the_images(latent):
    images = latent.change(method="random", ratio=0.2).sample()
    assert images.shape == (100, 1, 8, 8) and images.dtype == np.uint8


def test_class_weights_are_learned_and_change_the_run(latent):
    ratio = latent.spec.section.ratios[0]
    plain = latent.change(method="moderate", ratio=ratio)
    reweighted = plain.change(reweighting=True)
    weights = reweighted.reweight()
    assert weights["weights"].sum() == pytest.approx(1) and len(weights["weights"]) == 10
    assert len(weights["trajectory"]) == -(-len(plain.select().indices) // 25) * latent.spec.proxy_epochs
    assert plain.training()["key"] != reweighted.training()["key"]


def test_the_latents_are_encoded_once(smoke):
    mdt, stable = (smoke.change(model=name) for name in LATENT)
    assert latents.encoded(mdt.lab).address == latents.encoded(stable.lab).address
    assert len(mdt.latents) == len(smoke.data)


def test_group_dro_compares_the_unmasked_pass_of_mdt(smoke):
    mdt = smoke.change(model="mdt")
    proxy, reference = mdt.build_model(seed=1), mdt.build_model(seed=2)
    with torch.no_grad():  # a fresh MDT always predicts zero
        for model in (proxy, reference):
            for parameter in model.parameters():
                parameter.normal_(std=0.1)
    source = latents.source(mdt.lab, mdt.spec).result()
    batch = draw_batch(source, torch.arange(20), mdt.settings, 0, 0, proxy)
    dro = GroupDRO(reference, np.full(10, 5))
    with torch.no_grad():
        dro(proxy.losses(batch), batch, proxy)
        margins = (proxy.margin_losses(batch) - reference.margin_losses(batch)).clamp(min=0)
    of_class = [margins[batch.labels == k] for k in range(10)]
    expected = [own.mean().item() if len(own) else 0 for own in of_class]
    np.testing.assert_allclose(dro.excess, expected, rtol=1e-5, atol=1e-8)


def test_stable_diffusion_starts_from_the_pipeline_and_leaves_it_alone(smoke):
    experiment = smoke.change(model="stable-diffusion")
    pipeline = latents.pipeline(experiment.lab).result()
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    model = experiment.build_model()
    assert all(torch.equal(before[name], value) for name, value in model.net.state_dict().items())
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert all(torch.equal(before[name], value) for name, value in pipeline.unet.state_dict().items())


def test_a_fine_tuned_model_is_saved_as_an_ordinary_pipeline(smoke, tmp_path):
    from diffusers import StableDiffusionPipeline

    experiment = smoke.change(model="stable-diffusion", method="random", ratio=0.2)
    experiment.save_pipeline(tmp_path / "pipeline")
    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", safety_checker=None)
    tuned = experiment.train().net.state_dict()
    assert all(torch.equal(tuned[name], value) for name, value in opened.unet.state_dict().items())
    with pytest.raises(DedtError, match="Only model='stable-diffusion' can be saved as a pipeline.*'mdt'"):
        experiment.change(model="mdt").save_pipeline(tmp_path / "other")


# ---- images in folders, and weights on the disk -----------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Small colour images in the layout of ImageNet and ImageNette: train/CLASS/IMAGE."""
    root = tmp_path_factory.mktemp("pictures")
    tiny.write_images(root / "train", ("n01440764", "n02102040", "n03888257"), each=12, size=(20, 16))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An autoencoder and a pipeline for colour images, in the layout of the hub."""
    root = tmp_path_factory.mktemp("weights")
    vae = autoencoder.small_autoencoder(3, widths=(8, 8, 8))
    vae.save_pretrained(root / "vae")
    tiny_pipeline(vae, image_size=16, block_channels=(8, 16)).save_pretrained(root / "pipeline")
    return root


@pytest.mark.parametrize("model", LATENT)
def test_a_folder_of_pictures_goes_all_the_way(model, pictures, weights, tmp_path):
    names = ("tench", "spaniel", "parachute")
    vae, pipeline = str(weights / "vae"), str(weights / "pipeline")
    changes = {
        "data": {"source": "folder", "path": str(pictures), "per_class": 0, "class_names": names},
        "autoencoder": {"image_size": 16, "weights": vae, "decoder_weights": vae},
        "stable_diffusion": {"weights": pipeline, "ratios": (0.5,)},
    }
    images = {"data.image_size": 16, "data.channels": 3, "train.flip": True}
    sizes = {"mdt.ratios": (0.5,), "sample.count": 12, "evaluate.classwise": False}
    given = {"method": "moderate", "ratio": 0.5, "reweighting": True, "encoder": "resnet18", "model": model}
    profile = tiny.profile(**changes, **images, **sizes)
    experiment = Experiment(profile, store=Store(tmp_path), device="cpu", **given)
    cell = experiment.cell()
    assert cell["class_names"] == list(names)
    assert cell["class_counts"] == [6, 6, 6] and cell["classwise"] == [] and np.isfinite(cell["fid"])
    assert experiment.sample().shape == (12, 3, 16, 16)
    assert experiment.latents.views == 2  # with the mirror images


def test_the_u_net_on_latents_goes_all_the_way(tmp_path):
    patches = {"autoencoder.patch": 2, "autoencoder.channels": (8, 16), "autoencoder.image_size": 8}
    unet = {"unet.latent": True, "unet.ratios": (0.4,)}
    profile = tiny.profile(**patches, **unet, **{"evaluate.cmmd": ""})
    given = {"method": "moderate", "ratio": 0.4, "reweighting": True, "annealing": True}
    experiment = Experiment(profile, store=Store(tmp_path), device="cpu", **given)
    cell = experiment.cell()
    assert np.isfinite(cell["fid"]) and np.isfinite(cell["kid"])
    assert experiment.model.build().sample_shape == experiment.latents.shape == (4, 2, 2)
    assert experiment.sample().shape == (100, 1, 8, 8)


def test_weights_that_are_not_there_are_named(no_network, tmp_path):
    published = {"autoencoder.weights": "stabilityai/sd-vae-ft-mse", "stable_diffusion.weights": VERSION_1_4}
    experiment = Experiment(tiny.profile(**published), store=Store(tmp_path), device="cpu", model="mdt")
    with pytest.raises(DedtError, match="sd-vae-ft-mse"):
        experiment.latents  # noqa: B018
    with pytest.raises(DedtError, match="stable-diffusion-v1-4"):
        latents.pipeline(experiment.lab).result()


def test_two_published_encoders_of_one_lab_are_two_networks():
    # In the profile the weights of both are named "imagenet".
    lab = Lab("imagenet", counts=[100, 100])
    found = [type(embed.encoder(lab, name).result()).__name__ for name in ("resnet18", "inceptionv3")]
    assert found == ["ImageNetResNet18", "InceptionV3"]


# ---- what a stage is ------------------------------------------------------------------------------


def test_a_cell_looks_no_stage_up_twice(tmp_path, monkeypatch):
    looked_up, run = Counter(), Store.run

    def count(store, stage, identity, *given):
        looked_up[address(stage, identity)] += 1
        return run(store, stage, identity, *given)

    monkeypatch.setattr(Store, "run", count)
    recipe = {"method": "moderate", "reweighting": True, "model": "mdt"}
    Experiment(tiny.profile(), store=Store(tmp_path), device="cpu", **recipe).cell()
    assert len(looked_up) > 10 and set(looked_up.values()) == {1}


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    words = {"float32": "bfloat16", "adam": "adan", "adamw": "adam", "adan": "adam", "power": "none"}
    words |= {"none": "power", "reciprocal": "none"}
    return words[value] if isinstance(value, str) else (value or 0) + 1


@pytest.mark.parametrize("model", ["unet", *LATENT])
def test_all_settings_but_those_of_speed_are_in_the_address(model, smoke):
    """Changing a training setting changes the address; changing one that affects only speed does not."""

    def run(**changes):
        experiment = tiny.beside(smoke, {"method": "random", "model": model})
        spec = experiment.spec
        spec.__dict__["settings"] = dataclasses.replace(spec.settings, **changes)
        return experiment.model.address

    settings = smoke.change(model=model).settings
    changed = {field.name: other(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    kept = {name for name, value in changed.items() if run(**{name: value}) == run()}
    assert kept == {"checkpoint_every", "channels_last", "compile"}


# ---- the layers of the library --------------------------------------------------------------------

LIBRARY = Path(dedt_lib.__file__).parent
FLOOR = set("errors randomness arrays pixels files interruption processes devices weights".split())
METHOD = set(
    "data encoders encoder_names clusters selection reweighting plans models training latents "
    "sampling evaluation".split()
)
ABOVE = {"experiment", "plan", "cell", "book", "pages", "shell"}


def imports(node, package):
    """Parts of the library that code in ``package`` imports, except under TYPE_CHECKING."""
    found = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        names = []
        if isinstance(child, ast.Import):
            names = [alias.name.split(".") for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) + 1 - child.level] if child.level else []
            base = base + (child.module or "").split(".") if child.module else base
            names = [[*base, alias.name] for alias in child.names]
        found |= {name[1] for name in names if name[0] == "dedt_lib" and len(name) > 1}
        found |= imports(child, package)
    return found


MODULES = {
    module: imports(ast.parse(module.read_text()), ["dedt_lib", *module.relative_to(LIBRARY).parent.parts])
    for module in LIBRARY.rglob("*.py")
}


@pytest.mark.parametrize("module", sorted(MODULES), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_module_imports_nothing_from_above_it(module):
    part, found = module.relative_to(LIBRARY).parts[0].removesuffix(".py"), MODULES[module]
    if part in FLOOR:
        assert found <= FLOOR
    elif part in METHOD:
        assert found <= FLOOR | METHOD
    elif part in ("stages", "config"):
        assert not found & ABOVE
    assert part in ("shell", "__main__") or "shell" not in found


def test_every_part_that_the_rules_name_is_there():
    parts = {module.relative_to(LIBRARY).parts[0].removesuffix(".py") for module in MODULES}
    assert FLOOR | METHOD | ABOVE | {"stages", "config"} <= parts


def test_the_digits_are_computed_on_the_cpu_wherever_there_is_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    labs = [Lab(name, counts=[1]) for name in ("digits", "photos")]
    assert [(lab.device, lab.device_name) for lab in labs] == [("cpu", "cpu"), ("cuda", "a GPU")]
    assert Lab("digits", device="cuda", counts=[1]).device == "cuda"


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DedtError, match="PyTorch finds no GPU"):
        Lab("digits", device="cuda")


def test_a_store_may_be_named_by_its_folder(tmp_path):
    assert Lab("smoke", store=str(tmp_path)).store.root == tmp_path


def test_the_reference_at_equal_steps_is_kept_in_any_scope():
    """10 % of 3,515 images are 370 if rounded in each class and 352 in one band: the steps differ."""
    lab = Lab(load_profile("digits", **{"unet.batch_size": 32}), counts=[95] * 37)
    changes = {"method": "moderate", "scope": "global", "reweighting": True, "reference": "equal-steps"}
    proxy = Experiment(lab, **changes).proxy
    assert proxy.outline().steps(32) != proxy.reference.steps
    assert proxy.reference.steps in proxy.reference.reference.kept_steps
