"""Stable Diffusion behind the common interface of the models, with a pipeline of real but tiny parts."""

import copy
import errno
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

from dedt_lib.errors import DedtError
from dedt_lib.models.stable_diffusion import StableDiffusion, load_pipeline, save_pipeline, tiny_pipeline
from dedt_lib.randomness import seeded
from dedt_lib.sampling import guided_noise
from dedt_lib.training import Batch
from dedt_lib.weights import load_weights, save_weights

NAMES = tuple("0123456789")
ALPHA_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def make_pipeline(seed=0, **settings):
    def autoencoder():
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
        widths = {"block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
        return AutoencoderKL(1, 1, latent_channels=4, sample_size=16, scaling_factor=0.5, **blocks, **widths)

    vae = seeded(0, "autoencoder", autoencoder)
    sizes = {"block_channels": (8, 16), "text_width": 16, "groups": 4, **settings}
    return tiny_pipeline(vae.eval(), image_size=16, seed=seed, **sizes)


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline()


@pytest.fixture
def model(pipeline):
    return StableDiffusion(copy.deepcopy(pipeline), NAMES).eval()


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory):
    """The folder of a saved pipeline; copy it before changing it."""
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


def batch(n=6, drop=False):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randn(n, 4, 4, 4, generator=generator),
        labels=torch.arange(n),
        t=torch.linspace(0, 999, n).long(),
        noise=torch.randn(n, 4, 4, 4, generator=generator),
        drop=torch.full((n,), drop),
    )


def levels(t):
    """sqrt(alpha-bar) and sqrt(1 - alpha-bar) of Stable Diffusion's schedule."""
    alpha_bar = torch.from_numpy(ALPHA_BAR).float()[t].view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def velocity(pipeline):
    """A copy of the pipeline that interprets the network's output as the velocity."""
    other = copy.deepcopy(pipeline)
    other.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    return other


# ---- The interface of the models ---------------------------------------------------------------------


@torch.no_grad()
def test_losses_are_the_mean_squared_error_of_the_noise(model):
    b = batch()
    signal, noise = levels(b.t)
    predicted = model.predict(signal * b.images + noise * b.noise, b.t, b.labels)
    expected = (predicted - b.noise).square()
    torch.testing.assert_close(model.element_losses(b), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.losses(b), expected.flatten(1).mean(1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_pipeline_of_velocities_trains_on_them_and_predicts_the_noise(pipeline, model):
    of_velocity, b = StableDiffusion(velocity(pipeline), NAMES).eval(), batch()
    signal, noise = levels(b.t)
    x_t = signal * b.images + noise * b.noise
    output = model.predict(x_t, b.t, b.labels)
    expected = (output - (signal * b.noise - noise * b.images)).square()
    torch.testing.assert_close(of_velocity.element_losses(b), expected, rtol=1e-4, atol=1e-4)
    # The noise follows from the velocity: eps = signal v + noise x_t.
    torch.testing.assert_close(of_velocity.predict(x_t, b.t, b.labels), signal * output + noise * x_t)


def test_other_predictions_are_refused(pipeline):
    other = copy.deepcopy(pipeline)
    other.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="sample")
    with pytest.raises(DedtError, match="predicts 'sample'"):
        StableDiffusion(other, NAMES)


@torch.no_grad()
def test_a_dropped_label_is_the_empty_prompt(pipeline, model):
    b, dropped = batch(), batch(drop=True)
    empty = StableDiffusion(pipeline, [""], template="{}").eval()
    nameless = empty.losses(Batch(b.images, 0 * b.labels, b.t, b.noise, b.drop))
    torch.testing.assert_close(model.losses(dropped), nameless)
    assert not torch.allclose(model.losses(dropped), model.losses(b), rtol=1e-3)


def test_prompts_are_sentences(pipeline):
    model = StableDiffusion(pipeline, ["tench", "gas_pump"])
    assert model.prompts == ("a photo of a tench", "a photo of a gas pump")
    assert model.null_label == 2 and model.captions.shape == (3, 24, 16)
    assert StableDiffusion(pipeline, ["7"], template="digit {}").prompts == ("digit 7",)
    with pytest.raises(DedtError, match="no placeholder for the class name"):
        StableDiffusion(pipeline, ["7"], template="a digit")


def test_a_prompt_that_would_be_cut_is_refused(pipeline):
    StableDiffusion(pipeline, ["x" * 12])
    with pytest.raises(DedtError, match="longer than the 24 tokens"):
        StableDiffusion(pipeline, ["x" * 40])


def test_the_captions_of_the_classes_differ(model):
    captions = model.captions.flatten(1)
    distances = torch.pdist(captions) / captions.norm(dim=1).mean()
    assert distances.min() > 0.1


def test_shapes_are_known(pipeline, model):
    assert model.sample_shape == (4, 4, 4)
    assert StableDiffusion(pipeline, NAMES, image_size=32).sample_shape == (4, 8, 8)
    with pytest.raises(DedtError, match="multiple of 8, not 12"):
        StableDiffusion(pipeline, NAMES, image_size=12)


def test_only_the_unet_learns_and_all_of_it(pipeline, model):
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"net"}
    assert len(list(model.parameters())) == len(list(pipeline.unet.parameters()))
    assert not model.captions.requires_grad


def test_the_state_dict_is_the_unet(tmp_path, model):
    assert {name.partition(".")[0] for name in model.state_dict()} == {"net"}
    save_weights(model, tmp_path / "model.safetensors")
    other = StableDiffusion(make_pipeline(seed=1), NAMES).eval()
    b = batch()
    with torch.no_grad():
        assert not torch.equal(other.losses(b), model.losses(b))
        # The text encoder differs, but it is not part of the saved weights.
        load_weights(other, tmp_path / "model.safetensors").captions.copy_(model.captions)
        assert torch.equal(other.losses(b), model.losses(b))


@torch.no_grad()
def ddim(model, noise, labels, steps, guidance):
    """Guided DDIM sampling on the model's own schedule."""
    scheduler, x_t = model.ddim_scheduler(), noise
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        eps = guided_noise(model, x_t, t.expand(len(labels)), labels, guidance)
        x_t = scheduler.step(eps, t, x_t).prev_sample
    return x_t


@pytest.mark.parametrize("make", [copy.deepcopy, velocity])
def test_guided_samples_are_those_of_the_pipeline(pipeline, make):
    pipe = make(pipeline)
    model = StableDiffusion(pipe, NAMES).eval()
    noise = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 0, 8])
    pipe.set_progress_bar_config(disable=True)
    how = {"guidance_scale": 5, "num_inference_steps": 8, "output_type": "latent"}
    expected = pipe([model.prompts[k] for k in labels], latents=noise, **how).images
    torch.testing.assert_close(ddim(model, noise, labels, 8, guidance=4), expected, rtol=1e-4, atol=1e-4)


def test_the_last_step_is_at_one_and_goes_to_alpha_bar_zero(model):
    scheduler = model.ddim_scheduler()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[[0, -1]].tolist() == [981, 1]
    assert float(scheduler.final_alpha_cumprod) == pytest.approx(ALPHA_BAR[0], rel=1e-5)


# ---- Pipelines on disk -------------------------------------------------------------------------------


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def as_version_1_4(folder, with_checker):
    """Give a saved pipeline the layout of CompVis: PNDM, vocabulary and merges, a safety checker."""
    checker = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    edit_json(folder / "model_index.json", _diffusers_version="0.2.2", **checker)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    schedule |= {"num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1}
    schedule |= {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "trained_betas": None}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    tokenizer = folder / "tokenizer"
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 24, "pad_token": "<|endoftext|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    if with_checker:
        for name in ("safety_checker", "feature_extractor"):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("with_checker", [False, True])
def test_the_published_layout_opens_by_path(tmp_path, pipeline, saved, with_checker):
    opened = load_pipeline(as_version_1_4(shutil.copytree(saved, tmp_path / "v1-4"), with_checker))
    assert type(opened) is StableDiffusionPipeline and opened.safety_checker is None
    assert isinstance(opened.scheduler, DDIMScheduler) and not opened.scheduler.config.clip_sample
    assert opened.unet.dtype == opened.text_encoder.dtype == torch.float32
    first, second = StableDiffusion(pipeline, NAMES).eval(), StableDiffusion(opened, NAMES).eval()
    torch.testing.assert_close(first.captions, second.captions)
    with torch.no_grad():
        torch.testing.assert_close(first.losses(batch()), second.losses(batch()))


def test_half_precision_is_read_as_single(tmp_path, pipeline):
    copy.deepcopy(pipeline).to(torch.float16).save_pretrained(tmp_path / "half")
    opened = load_pipeline(tmp_path / "half")
    assert {part.dtype for part in (opened.unet, opened.vae, opened.text_encoder)} == {torch.float32}


def test_a_fine_tuned_pipeline_is_an_ordinary_one(tmp_path, pipeline):
    pipe = copy.deepcopy(pipeline)
    model = StableDiffusion(pipe, NAMES, image_size=32)
    with torch.no_grad():
        model.net.conv_out.bias.add_(1)
    save_pipeline(model, pipe, tmp_path / "tuned")
    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "tuned")
    modes = {file.stat().st_mode for file in (tmp_path / "tuned").rglob("*") if file.is_file()}
    assert len(modes) == 1  # who may read the index may also read the weights
    opened.set_progress_bar_config(disable=True)
    assert torch.equal(opened.unet.conv_out.bias, pipeline.unet.conv_out.bias + 1)
    (image,) = opened("a photo of a 3", num_inference_steps=2).images
    assert (image.size, image.mode) == ((32, 32), "L")


def test_a_full_disk_is_said_plainly(tmp_path, pipeline, model, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    pipe = copy.deepcopy(pipeline)
    monkeypatch.setattr(pipe, "save_pretrained", full)
    with pytest.raises(DedtError, match="No space left on the disk while writing"):
        save_pipeline(model, pipe, tmp_path)


def test_what_the_hub_gave_before_needs_no_network(tmp_path, saved, no_network):
    repository = tmp_path / "cache" / "models--nobody--some-diffusion"
    shutil.copytree(saved, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert type(load_pipeline("nobody/some-diffusion")) is StableDiffusionPipeline


def test_a_name_is_looked_for_among_ones_own_weights(saved, no_network):
    shutil.copytree(saved, no_network / "nobody/some-diffusion")
    assert type(load_pipeline("nobody/some-diffusion")) is StableDiffusionPipeline


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickles_are_refused(tmp_path, saved, part):
    folder = shutil.copytree(saved, tmp_path / "pickled")
    (weights,) = (folder / part).glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(DedtError, match="is a pickle, which can run code"):
        load_pipeline(folder)


@pytest.mark.parametrize("damage", ["missing part", "missing index", "cut short"])
def test_an_incomplete_folder_is_an_error(tmp_path, saved, damage):
    folder = shutil.copytree(saved, tmp_path / "broken")
    (weights,) = (folder / "unet").glob("*.safetensors")
    if damage == "missing part":
        weights.unlink()
    elif damage == "missing index":
        (folder / "model_index.json").unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DedtError, match="is not a complete Stable Diffusion pipeline"):
        load_pipeline(folder)


def test_a_path_that_is_not_there_is_no_name_on_the_hub(saved, no_network):
    shutil.copytree(saved, no_network / "tiny")
    with pytest.raises(DedtError, match="/no/such/tiny does not exist"):
        load_pipeline("/no/such/tiny")
