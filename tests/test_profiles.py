"""Every profile that comes with the library runs a cell of each of its tables to the end.

A profile is shrunk: what says how large something is becomes tiny, every choice stays as it is.  Its weights are
stand-ins of the published layout, in the places in which the published ones are looked for.
"""

import math
import os

import numpy as np
import pytest
import test_data_parquet
import tiny
import torch
from test_encoders_clip import torchscript_archive
from test_evaluation import inception  # noqa: F401
from test_metrics_latent import TOWER
from test_models_stable_diffusion import as_version_1_4, edit_json
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dedt_lib import encoders, families, latents, tables, weights
from dedt_lib.data.cifar10 import CLASS_NAMES
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.models.stable_diffusion import VERSION_1_4, tiny_pipeline
from dedt_lib.recipes import Profile, load_profile, profile_names
from dedt_lib.store import Store

# ---- small copies ------------------------------------------------------------------------------------

TINY = {
    **dict.fromkeys(("epochs", "mdt_epochs", "sd_epochs"), 2),
    **dict.fromkeys(("mdt_proxy_epochs", "sd_pretraining_epochs", "ddae_epochs", "vae_epochs"), 1),
    **{f"{name}_epochs": 1 for name in ("resnet18", "inceptionv3", "clip", "metric")},
    **{f"{name}_batch_size": 20 for name in ("resnet18", "inceptionv3", "clip", "metric", "vae", "mdt", "sd")},
    "batch_size": 20,
    "sample_batch_size": 20,
    "samples": 20,
    "per_class": 4,
    "threads": 1,
    "seeds": (0,),
    "ratios": (0.8,),
    "mdt_ratios": (0.8,),
    "sd_ratios": (0.8,),
    "image_size": lambda size: min(size, 32),
    "latent_image_size": lambda size: min(size, 32),
    "resnet18_width": 16,
    "inceptionv3_size": 75,
    "unet_channels": lambda widths: (8,) * len(widths),
    "unet_layers": 1,
    "unet_groups": 4,
    "vae_channels": lambda widths: (8,) * len(widths),
    "sd_channels": lambda widths: (8,) * len(widths),
    "mdt_hidden_size": 16,
    "mdt_depth": 4,
    "mdt_heads": 2,
    "mdt_decode_layers": 2,
    "sampler_steps": 3,
    "mdt_sampler_steps": 3,
    "sd_sampler_steps": 3,
    "warmup_epochs": lambda epochs: min(epochs, 1),
    "checkpoint_every": 10,
}
"""Keys that say how large something is -> a tiny value, or how a value is made tiny."""

CHOICES = """
name tables data path class_names channels encoder resnet18_weights resnet18_learning_rate resnet18_recipe
inceptionv3_weights inceptionv3_learning_rate clip_weights clip_learning_rate ddae_block ddae_timestep ddae_draws
gaussian_ridge moderate_scope moderate_centre unet_attention unet_dropout learning_rate gradient_clip
ema_decay label_dropout flip annealing_start annealing_weights precision channels_last compile dro_step_size
dro_smoothing dro_clip dro_absent dro_burn_in dro_window guidance vae_weights vae_decoder_weights
vae_learning_rate mdt_patch_size mdt_mask_ratio mdt_mask_range mdt_learning_rate mdt_ema_decay mdt_guidance
sd_weights sd_pretraining_learning_rate sd_learning_rate sd_ema_decay sd_guidance metric metric_weights
metric_learning_rate classwise cmmd cmmd_weights
""".split()
"""Keys whose values stay as they are."""


def shrunk(name, **changes):
    profile = load_profile(name)
    sizes = {key: how(getattr(profile, key)) if callable(how) else how for key, how in TINY.items()}
    return load_profile(profile, **{**sizes, **changes})


def test_every_key_of_a_profile_is_a_size_or_a_choice():
    assert not TINY.keys() & set(CHOICES)
    new = set(Profile.model_fields) - TINY.keys() - set(CHOICES)
    assert not new, f"say in TINY how small {new} can be made, or in CHOICES that it stays as it is"


# ---- stand-ins ---------------------------------------------------------------------------------------


class SmallInput(encoders.InceptionV3):
    def __init__(self):
        super().__init__(size=75)


@pytest.fixture(scope="module")
def published(tmp_path_factory, inception):  # noqa: F811
    """A weights folder with all the networks that profiles name, of their layout and with random weights."""
    from torchvision.models import inception_v3, resnet18
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    root = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEDT_WEIGHTS", str(root))
        families.published_autoencoder.cache_clear()
        # The published networks are as large as they are, so that their images become small.
        patch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
        patch.setitem(encoders.PRETRAINED, "inceptionv3", (SmallInput, "inceptionv3-imagenet"))

        def official(name, save, file):
            """Put a file in its place, under an address that carries its hash as the published one's does."""
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

        make = {
            "inceptionv3-imagenet": lambda: inception_v3(init_weights=False, transform_input=True),
            "resnet18-imagenet": resnet18,
        }
        for name, network in make.items():
            official(name, save(encoders.seeded(0, name, network).state_dict()), "new.pth")
        official("inception-fid", save(inception[0].state_dict()), "new.pth")
        clip = encoders.seeded(0, "clip", encoders.rn50).model.state_dict()
        official("clip-rn50-openai", lambda path: torchscript_archive(clip, path), "RN50.pt")

        for seed, name in enumerate(("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema", "of v1-4")):
            vae = encoders.seeded(seed, "vae", lambda: latents.small_autoencoder(3, widths=(8, 8, 8, 8)))
            if name in weights.PINNED:
                vae.save_pretrained(root / name)
        pipe = tiny_pipeline(vae, image_size=32, block_channels=(8, 8), text_width=16, text_length=77)
        pipe.save_pretrained(root / VERSION_1_4)
        as_version_1_4(root / VERSION_1_4, with_checker=True)
        edit_json(root / VERSION_1_4 / "tokenizer" / "tokenizer_config.json", model_max_length=77)
        tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER))
        tower.save_pretrained(root / encoders.vit.CLIP_VIT)
        yield root
    families.published_autoencoder.cache_clear()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Where the images of a source are: name of a profile -> path."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, each in (("train", 4), ("test", 1)):
        (root / "cifar10").mkdir(exist_ok=True)
        labels = [k for k in range(10) for _ in range(each)]
        pixels = random.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        test_data_parquet.write(root / f"cifar10/{split}.parquet", pixels, labels, names=list(CLASS_NAMES))
    for name, classes in (("imagenet", 3), ("imagenette", 10)):
        for split, each in (("train", 4), ("val", 1)):
            folders = [f"n{k:08d}" for k in range(classes)]
            tiny.write_images(root / name / split, folders, each=each, size=(40, 33))
    paths = {name: root / load_profile(name).data for name in profile_names()}
    paths |= {name: root / name for name in ("imagenet", "imagenette")}
    return {name: "" if path.name == "digits" else str(path) for name, path in paths.items()}


# ---- whole cells -------------------------------------------------------------------------------------

NEEDIEST = {
    "table1": "moderate-reweighted",
    "table2": "moderate-reweighted-annealed",
    "table3": "moderate-reweighted-annealed",
    "figure2": "moderate-reweighted",
    "table4": "mdt-gaussian-reweighted",
    "table5": "sd-moderate-reweighted",
    "table5-unguided": "sd-clip-moderate-unguided",
}
"""Table -> the row that needs the most."""


def finite(value):
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_runs_a_cell_of_each_of_its_tables(name, published, images, tmp_path):
    profile, store = shrunk(name, path=images[name]), Store(tmp_path / "store")
    for row in dict.fromkeys(NEEDIEST[table] for table in profile.tables):
        _, result = tables.run_cell(profile, row, 0.8, 0, root=tmp_path, store=store)
        assert finite(result) and isinstance(result["fid"], float)
        latent = row.startswith(("mdt", "sd"))
        assert not latent or isinstance(result["kid"], float)
        assert not latent or (result["cmmd"] is None) == (profile.cmmd == "")
        assert (tmp_path / name / "cells" / f"{tables.cell_name(row, 0.8, 0)}.json").exists()
