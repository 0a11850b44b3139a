import dataclasses

import numpy as np
import pytest
import tiny
import torch

from dedt_lib.errors import DedtError
from dedt_lib.models import build_model
from dedt_lib.models.autoencoder import small_autoencoder
from dedt_lib.models.stable_diffusion import StableDiffusion, tiny_pipeline
from dedt_lib.randomness import seeded
from dedt_lib.training import Batch


def batch(model, n=6, drop=False):
    generator = torch.Generator().manual_seed(0)
    shape = (n, *model.sample_shape)
    return Batch(
        images=torch.rand(shape, generator=generator) * 2 - 1,
        labels=torch.arange(n),
        t=torch.linspace(0, 999, n).long(),
        noise=torch.randn(shape, generator=generator),
        drop=torch.full((n,), drop),
        extra=model.draws(n, generator, "cpu") if hasattr(model, "draws") else {},
    )


def stable_diffusion(seed=0):
    vae = seeded(0, "vae", lambda: small_autoencoder(1, (4, 8, 8)))
    sizes = dict(image_size=16, block_channels=(8, 16), text_width=16, groups=4)
    return StableDiffusion(tiny_pipeline(vae, seed=seed, **sizes), "0123456789")


MODELS = {"unet": tiny.unet, "mdt": tiny.mdt, "stable-diffusion": stable_diffusion}


@pytest.fixture(scope="module", params=MODELS)
def make(request):
    return MODELS[request.param]


# ---- what every model does -----------------------------------------------------------------------


def test_each_sample_has_its_own_loss_and_prediction(make):
    model = make().eval()
    b = batch(model)
    with torch.no_grad():
        one = model.losses(b.rows(slice(2, 3)))
        torch.testing.assert_close(model.losses(b)[2:3], one, rtol=1e-4, atol=1e-4)
        assert model.predict(b.images, b.t, b.labels).shape == b.images.shape
    assert model.null_label == 10


def test_a_dropped_label_is_the_null_label(make):
    model = make().eval()
    b, dropped = batch(model), batch(model, drop=True)
    nameless = dataclasses.replace(b, labels=torch.full_like(b.labels, model.null_label))
    with torch.no_grad():
        errors = [model.element_losses(which) for which in (b, dropped, nameless)]
    assert torch.equal(errors[1], errors[2]) and not torch.equal(errors[1], errors[0])


def test_every_parameter_learns(make):
    model = make()
    model.losses(batch(model)).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_seed_decides_the_weights(make):
    first, again, other = (next(make(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


# ---- the U-Net -----------------------------------------------------------------------------------


def test_losses_are_the_mean_squared_error_of_the_noise():
    model = tiny.unet().eval()
    b = batch(model)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[b.t.numpy()]
    alpha_bar = torch.from_numpy(alpha_bar).view(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt().float() * b.images + (1 - alpha_bar).sqrt().float() * b.noise
    with torch.no_grad():
        predicted = model.predict(x_t, b.t, b.labels)
        losses = model.losses(b)
    expected = ((predicted - b.noise) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert losses.shape == (6,)


def test_dropout_acts_in_training_only():
    model = tiny.unet(dropout=0.5)
    b = batch(model)
    with torch.no_grad():
        assert not torch.equal(model.train().losses(b), model.losses(b))
        assert torch.equal(model.eval().losses(b), model.losses(b))


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(DedtError, match="Choose one of: unet"):
        build_model("mlp")
