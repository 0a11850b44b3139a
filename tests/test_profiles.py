"""Every profile of the library runs a cell of each of its tables to the end.

The profiles are shrunk: sizes become tiny, every other choice stays.  In place of published weights there are
random ones in the published layout, where the library looks for them.
"""

import math
import shutil
from functools import partial
from operator import attrgetter

import numpy as np
import pytest
import test_data_parquet
import tiny
import torch
from safetensors.torch import save_file
from test_encoders_clip import torchscript_archive
from test_evaluation import inception  # noqa: F401
from test_metrics_latent import TOWER
from test_models_stable_diffusion import as_version_1_4, edit_json
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dedt_lib import encoders, weights
from dedt_lib.book import grid, results
from dedt_lib.config.profile import Profile, keys, load_profile, profile_names
from dedt_lib.data.cifar10 import CLASS_NAMES
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.files import read_json
from dedt_lib.models import autoencoder
from dedt_lib.models.stable_diffusion import VERSION_1_4, tiny_pipeline
from dedt_lib.randomness import seeded
from dedt_lib.shell.cli import main
from dedt_lib.stages import latents
from dedt_lib.store import Store
from dedt_lib.weights import read_tensors

# ---- small copies ------------------------------------------------------------------------------------

NETWORKS = ("encoders.resnet18", "encoders.inceptionv3", "encoders.clip", "evaluate", "autoencoder")
MODELS = ("unet", "mdt", "stable_diffusion")
CHANNELS = ("unet", "autoencoder", "stable_diffusion")
TINY = {
    **{f"{section}.epochs": 1 for section in (*NETWORKS, "encoders.ddae")},
    **{f"{section}.epochs": 2 for section in MODELS},
    **{f"{section}.batch_size": 20 for section in (*NETWORKS, *MODELS, "sample")},
    **{f"{section}.ratios": (0.8,) for section in MODELS},
    **{f"{section}.steps": 3 for section in MODELS},
    **{f"{section}.image_size": lambda size: min(size, 32) for section in ("data", "autoencoder")},
    **{f"{part}.channels": lambda widths: (8,) * len(widths) for part in CHANNELS},
    "mdt.proxy_epochs": 1,
    "stable_diffusion.pretraining_epochs": 1,
    "sample.count": 20,
    "data.per_class": 4,
    "threads": 1,
    "seeds": (0,),
    "encoders.resnet18.width": 16,
    "encoders.inceptionv3.size": 75,
    "unet.layers": 1,
    "unet.groups": 4,
    "mdt.hidden_size": 16,
    "mdt.depth": 4,
    "mdt.heads": 2,
    "mdt.decode_layers": 2,
    "train.warmup_steps": lambda steps: min(steps, 2),
    "train.warmup_epochs": lambda epochs: min(epochs, 1),
    "train.checkpoint_every": 10,
    "evaluate.networks": 1,
    "evaluate.width": 8,
}
"""Keys of sizes -> a tiny value, or a function that makes a value tiny."""

CHOICES = """
name tables device data.source data.path data.class_names data.channels data.skip_bad encoders.default
encoders.resnet18.weights encoders.resnet18.learning_rate encoders.resnet18.procedure
encoders.inceptionv3.weights encoders.inceptionv3.learning_rate encoders.clip.weights
encoders.clip.learning_rate encoders.clip.normalise encoders.ddae.block encoders.ddae.timestep
encoders.ddae.draws select.gaussian_ridge select.gaussian_threshold select.moderate_scope
select.moderate_centre unet.attention unet.dropout unet.learning_rate train.gradient_clip unet.ema_decay
train.label_dropout train.flip unet.latent autoencoder.patch
autoencoder.latent_channels train.annealing_start train.annealing_weights train.precision
train.channels_last train.compile reweight.step_size reweight.smoothing reweight.clip reweight.absent
reweight.scores reweight.burn_in reweight.window unet.guidance sample.precision autoencoder.weights
autoencoder.decoder_weights autoencoder.learning_rate mdt.patch_size mdt.mask_ratio mdt.mask_range
mdt.learning_rate mdt.optimizer mdt.ema_decay mdt.guidance stable_diffusion.weights
stable_diffusion.pretraining_learning_rate stable_diffusion.learning_rate stable_diffusion.ema_decay
stable_diffusion.guidance evaluate.network evaluate.weights evaluate.learning_rate evaluate.classwise
evaluate.cmmd evaluate.cmmd_weights evaluate.kid data.label data.caption select.clusters select.cluster_encoder
""".split()
"""Keys whose values are not shrunk."""


def shrunk(name, **changes):
    profile = load_profile(name)
    sizes = {key: how(attrgetter(key)(profile)) if callable(how) else how for key, how in TINY.items()}
    return load_profile(profile, **{**sizes, **changes})


def test_every_key_of_a_profile_is_a_size_or_a_choice():
    assert not TINY.keys() & set(CHOICES)
    new = set(keys(Profile)) - TINY.keys() - set(CHOICES)
    assert not new, f"say in TINY how small {new} can be made, or in CHOICES that it stays as it is"


# ---- stand-ins ---------------------------------------------------------------------------------------


class SmallInput(encoders.InceptionV3):
    def __init__(self):
        super().__init__(size=75)


@pytest.fixture(scope="module")
def published(tmp_path_factory, inception):  # noqa: F811
    """A weights folder with all networks that profiles name, in the published layout but random."""
    from torchvision.models import inception_v3, resnet18
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    root = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEDT_WEIGHTS", str(root))
        # The sizes of published networks are fixed, so only their input images can be made small.
        patch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
        patch.setitem(encoders.PRETRAINED, "inceptionv3", (SmallInput, "inceptionv3-imagenet"))

        def official(name, save, file):
            """Save a file in the weights folder, under an address with its hash, as published ones have."""
            save(root / file)
            digest = weights.sha256(root / file)
            if file == "RN50.pt":
                url = f"http://127.0.0.1:9/{digest}/{file}"
            else:
                (root / file).rename(root / f"net-{digest[:8]}.pth")
                url = f"http://127.0.0.1:9/net-{digest[:8]}.pth"
            patch.setitem(weights.ADDRESSES, name, lambda: url)

        def save(state):
            return lambda path: torch.save(state, path)

        plain_inception = partial(inception_v3, init_weights=False, transform_input=True)
        for name, network in (("inceptionv3-imagenet", plain_inception), ("resnet18-imagenet", resnet18)):
            official(name, save(seeded(0, name, network).state_dict()), "new.pth")
        official("inception-fid", save(inception[0].state_dict()), "new.pth")
        clip = seeded(0, "clip", encoders.rn50).model.state_dict()
        official("clip-rn50-openai", lambda path: torchscript_archive(clip, path), "RN50.pt")

        for seed, name in enumerate(("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema", "of v1-4")):
            vae = seeded(seed, "vae", lambda: autoencoder.small_autoencoder(3, widths=(8, 8, 8, 8)))
            if name in weights.PINNED:
                vae.save_pretrained(root / name)
        pipe = tiny_pipeline(vae, image_size=32, block_channels=(8, 8), text_width=16, text_length=77)
        pipe.save_pretrained(root / VERSION_1_4)
        as_version_1_4(root / VERSION_1_4, with_checker=True)
        edit_json(root / VERSION_1_4 / "tokenizer" / "tokenizer_config.json", model_max_length=77)
        tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER))
        tower.save_pretrained(root / encoders.vit.CLIP_VIT)
        yield root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Name of a profile -> path of its images."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, each in (("train", 4), ("test", 1)):
        (root / "cifar10").mkdir(exist_ok=True)
        labels = [k for k in range(10) for _ in range(each)]
        pixels = random.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        test_data_parquet.write(root / f"cifar10/{split}.parquet", pixels, labels, names=list(CLASS_NAMES))
    sections = {name: load_profile(name).data for name in profile_names()}
    for name in (name for name, section in sections.items() if section.source == "folder"):
        for split, each in (("train", 4), ("val", 1)):
            folders = [f"n{k:08d}" for k in range(len(sections[name].class_names) or 3)]
            tiny.write_images(root / name / split, folders, each=each, size=(40, 33))
    paths = {name: root / (name if (root / name).exists() else s.source) for name, s in sections.items()}
    return {name: "" if path.name == "digits" else str(path) for name, path in paths.items()}


# ---- whole cells -------------------------------------------------------------------------------------

NEEDIEST = {
    "table1": "moderate-reweighted",
    "table1-latent": "moderate-reweighted",
    "table2": "moderate-reweighted-annealed",
    "table3": "moderate-reweighted-annealed",
    "figure2": "moderate-reweighted",
    "controls": "moderate-reweighted-another-seed",
    "table4": "mdt-gaussian-reweighted",
    "table5": "sd-moderate-reweighted",
    "table5-unguided": "sd-clip-moderate-unguided",
}
"""Table -> its most demanding row."""


def finite(value):
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_runs_a_cell_of_each_of_its_tables(name, published, images, tmp_path):
    profile, store = shrunk(name, **{"data.path": images[name]}), Store(tmp_path / "store")
    for row in dict.fromkeys(NEEDIEST[table] for table in profile.tables):
        _, result = results.run_cell(profile, row, 0.8, 0, root=tmp_path, store=store)
        assert finite(result) and isinstance(result["fid"], float)
        latent = row.startswith(("mdt", "sd"))
        assert not latent or isinstance(result["kid"], float)
        assert not latent or (result["cmmd"] is None) == (profile.evaluate.cmmd == "")
        assert grid.cell_name(row, 0.8, 0) in results.done(profile, root=tmp_path)
        assert set(result["provenance"].get("weights", ())) == PUBLISHED.get((name, row), set())
        for facts in result["provenance"].get("weights", {}).values():
            assert facts["files"] and all(len(digest) == 64 for digest in facts["files"].values())


FID_ALONE = {"extractor"}
PUBLISHED = {
    **{(name, row): FID_ALONE for name in ("paper", "short", "cifar10-cpu") for row in NEEDIEST.values()},
    ("imagenet", NEEDIEST["table4"]): {"encoder", "autoencoder", "decoder", "extractor", "cmmd_network"},
    ("imagenette", NEEDIEST["table5"]): {"encoder", "autoencoder", "pipeline", "extractor"},
}
"""(profile, row) -> the networks of that run that have published weights."""


# ---- before anything is computed -----------------------------------------------------------------------

MISSING = [
    ("paper", "moderate", "inception-fid"),
    ("short", "clip-moderate", "clip-rn50-openai"),
    ("cifar10-cpu", "inceptionv3-gaussian", "inceptionv3-imagenet"),
    ("imagenet", "mdt-random", "stabilityai/sd-vae-ft-mse"),
    ("imagenet", "mdt-moderate", "stabilityai/sd-vae-ft-ema"),
    ("imagenet", "mdt-full", encoders.vit.CLIP_VIT),
    ("imagenette", "sd-full", VERSION_1_4),
    ("imagenette", "sd-moderate", "resnet18-imagenet"),
    ("imagenette", "sd-random", "inception-fid"),
]


@pytest.fixture
def without(published, no_network, tmp_path, monkeypatch):
    """A function that makes one published network unavailable; the others stay."""

    def remove(missing):
        known = missing in weights.ADDRESSES
        absent = weights.official(missing)[0].rpartition("/")[2] if known else missing
        for file in (path for path in published.rglob("*") if path.is_file()):
            name = file.relative_to(published).as_posix()
            if not name.startswith((absent, weights.LOCK)):
                (no_network / name).parent.mkdir(parents=True, exist_ok=True)
                (no_network / name).symlink_to(file)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        return absent

    yield remove


@pytest.mark.parametrize("name, row, missing", MISSING)
def test_weights_that_are_missing_are_told_before_anything_is_computed(name, row, missing, without, tmp_path):
    absent, store = without(missing), Store(tmp_path / "store")
    profile = shrunk(name, **{"data.path": "/nowhere"})
    experiment = Experiment(profile, store=store, **grid.cell_recipe(row, 0.8, 0))
    with pytest.raises(DedtError, match=absent) as error:
        experiment.cell()
    assert str(tmp_path / "weights") in str(error.value)
    assert not (tmp_path / "store").exists()


def test_only_what_a_stage_needs_is_looked_for(without, images, tmp_path):
    without("stabilityai")
    profile = shrunk("imagenet", **{"data.path": images["imagenet"]})
    recipe = grid.cell_recipe("mdt-moderate", 0.8, 0)
    experiment = Experiment(profile, store=Store(tmp_path / "s"), **recipe)
    experiment.check_weights("select")
    assert len(experiment.select().indices) < 12
    for stage in (experiment.reweight, experiment.train, experiment.sample, experiment.compare):
        with pytest.raises(DedtError, match="sd-vae-ft-mse"):
            stage()


def test_the_command_looks_for_weights_before_it_reads_images(without, images, tmp_path, capsys):
    without("stabilityai")
    where = ("--data", images["imagenet"], "--store", str(tmp_path / "store"))
    assert main(["train", "--profile", "imagenet", "--model", "mdt", *where]) == 2
    assert "sd-vae-ft-mse" in capsys.readouterr().err and not (tmp_path / "store").exists()


@pytest.fixture
def odd(published, tmp_path):
    """The folder of an autoencoder that fits none of the published networks."""
    autoencoder.small_autoencoder(3, widths=(8, 8, 8), latent_channels=6).save_pretrained(tmp_path / "odd")
    return str(tmp_path / "odd")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data.channels": 1}, "have 1 channel.*expects 3"),
        ({"autoencoder.image_size": 20}, "multiple of 8"),
        (
            {"autoencoder.weights": "odd"},
            "odd encodes to 6 latent channels, downsampled by 4, but .*ema decodes 4 .*, downsampled by 8",
        ),
    ],
)
def test_networks_that_do_not_fit_are_told_before_anything_is_computed(change, message, odd, tmp_path):
    if "autoencoder.weights" in change:
        change = {"autoencoder.weights": odd}
    profile = shrunk("imagenet", **{"data.path": "/nowhere"}, **change)
    experiment = Experiment(profile, store=Store(tmp_path / "store"), model="mdt")
    with pytest.raises(DedtError, match=message):
        experiment.cell()
    assert not (tmp_path / "store").exists()


def test_an_autoencoder_that_does_not_fit_the_pipeline_is_told(odd, tmp_path):
    profile = shrunk("imagenette", **{"data.path": "/nowhere", "autoencoder.weights": odd})
    experiment = Experiment(profile, store=Store(tmp_path / "store"), model="stable-diffusion")
    told = 'encodes to 6 latent channels.*U-Net of .* takes 4.*autoencoder.weights = "pipeline"'
    with pytest.raises(DedtError, match=told):
        experiment.check_weights()


# ---- which pipeline ------------------------------------------------------------------------------------


def tune(images, store, pipeline=VERSION_1_4, **changes):
    own = {"data.path": images["imagenette"], "stable_diffusion.weights": str(pipeline)}
    profile = shrunk("imagenette", **own, **changes)
    recipe = {"model": "stable-diffusion", "method": "random", "ratio": 0.8}
    return Experiment(profile, store=store, device="cpu", **recipe)


def another_text_encoder(folder):
    file = folder / "text_encoder" / "model.safetensors"
    state = read_tensors(file)
    name = next(name for name in state if "final_layer_norm.weight" in name)
    save_file(state | {name: 2 * state[name]}, file, {"format": "pt"})


def another_tokenizer(folder):
    file = folder / "tokenizer" / "vocab.json"
    vocabulary = read_json(file)
    edit_json(file, a=vocabulary["b"], b=vocabulary["a"])


def another_schedule(folder):
    edit_json(folder / "scheduler" / "scheduler_config.json", beta_end=0.02)


@pytest.mark.parametrize("change", [another_text_encoder, another_tokenizer, another_schedule])
def test_each_part_of_a_pipeline_decides_the_result(change, published, images, tmp_path):
    shutil.copytree(published / VERSION_1_4, tmp_path / "other")
    change(tmp_path / "other")
    store = Store(tmp_path / "store")
    one, other = tune(images, store), tune(images, store, tmp_path / "other")
    # The autoencoder is the same, so the latents are shared.
    assert latents.encoded(one.lab).address == latents.encoded(other.lab).address
    assert one.training()["key"] != other.training()["key"]
    assert not np.array_equal(one.training()["losses"], other.training()["losses"])
    shutil.copytree(published / VERSION_1_4, tmp_path / "same")
    assert tune(images, store, tmp_path / "same").training()["key"] == one.training()["key"]


@pytest.mark.parametrize("decoder", ["", "stabilityai/sd-vae-ft-ema"])
def test_the_exported_pipeline_decodes_as_the_measured_samples_were(decoder, published, images, tmp_path):
    from diffusers import StableDiffusionPipeline

    experiment = tune(images, Store(tmp_path / "store"), **{"autoencoder.decoder_weights": decoder})
    experiment.save_pipeline(tmp_path / "exported")
    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "exported", safety_checker=None)
    key = weights.key_of(autoencoder.load_autoencoder(published / (decoder or f"{VERSION_1_4}/vae")))
    lab = experiment.lab
    assert weights.key_of(opened.vae) == latents.decoder(lab).address == key
    assert latents.autoencoder(lab).address == weights.key_of(latents.pipeline(lab).result().vae)
    x_0 = torch.randn(2, *experiment.latents.shape, generator=torch.Generator().manual_seed(0))
    decoded = autoencoder.decode(opened.vae, x_0, size=32)
    assert np.array_equal(decoded, experiment.samples.decode(x_0).numpy())


def test_an_autoencoder_of_no_pipeline_is_refused():
    told = "'pipeline' needs a pipeline in stable_diffusion.weights, which is empty"
    with pytest.raises(DedtError, match=told):
        load_profile("digits", **{"autoencoder.weights": "pipeline"})


def test_a_path_in_a_profile_lies_where_the_profile_does(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    own = tmp_path / "own" / "mine.toml"
    own.write_text('extends = "photos"\ndata.path = "my-photos"\n')
    (tmp_path / "own" / "other.toml").write_text('extends = "mine.toml"\n')
    monkeypatch.chdir(tmp_path)
    for name in ("own/mine.toml", tmp_path / "own" / "other.toml"):
        assert load_profile(name).data.path == str(tmp_path / "own" / "my-photos")
    assert load_profile("own/mine.toml", **{"data.path": "here"}).data.path == "here"
    own.write_text('extends = "photos"\ndata.path = "hub:some/where"\n')
    assert load_profile(own).data.path == "hub:some/where" and load_profile(own).called == str(own)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unet.learning_rate": float("inf")}, "finite number"),
        ({"unet.ema_decay": 1.0}, "less than 1"),
        ({"train.label_dropout": 1.0}, "less than 1"),
        ({"unet.channels": "8,16"}, r"write \[a, b\]"),
        ({"evaluate.network": "inceptionv3", "evaluate.networks": 2}, "networks must be 1 for inceptionv3"),
    ],
)
def test_values_that_would_train_nothing_are_refused(change, said):
    with pytest.raises(DedtError, match=said):
        load_profile("smoke", **change)
