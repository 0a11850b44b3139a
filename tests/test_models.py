import numpy as np
import pytest
import tiny
import torch

from dedt_lib.config.profile import load_profile
from dedt_lib.encoders.ddae import decoder_blocks
from dedt_lib.errors import DedtError
from dedt_lib.models import build_model
from dedt_lib.training import Batch


def batch(n=6, drop=False):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.rand(n, 1, 8, 8, generator=generator) * 2 - 1,
        labels=torch.arange(n),
        t=torch.linspace(0, 999, n).long(),
        noise=torch.randn(n, 1, 8, 8, generator=generator),
        drop=torch.full((n,), drop),
    )


def test_losses_are_the_mean_squared_error_of_the_noise():
    model, b = tiny.unet().eval(), batch()
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[b.t.numpy()]
    signal, noise = (
        torch.from_numpy(np.sqrt(a)).float().view(-1, 1, 1, 1) for a in (alpha_bar, 1 - alpha_bar)
    )
    with torch.no_grad():
        predicted = model.predict(signal * b.images + noise * b.noise, b.t, b.labels)
        losses = model.losses(b)
    expected = ((predicted - b.noise) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert losses.shape == (6,)


def test_a_dropped_label_is_the_null_label():
    model, b = tiny.unet().eval(), batch()
    nameless = Batch(b.images, torch.full_like(b.labels, model.null_label), b.t, b.noise, b.drop)
    with torch.no_grad():
        assert torch.equal(model.losses(batch(drop=True)), model.losses(nameless))
        assert not torch.equal(model.losses(batch(drop=True)), model.losses(b))


def test_each_sample_has_its_own_loss():
    model, b = tiny.unet().eval(), batch()
    one = Batch(*(getattr(b, name)[2:3] for name in ("images", "labels", "t", "noise", "drop")))
    with torch.no_grad():
        torch.testing.assert_close(model.losses(b)[2:3], model.losses(one), rtol=1e-4, atol=1e-5)


def test_shape_and_null_label_are_known():
    model = tiny.unet()
    assert model.sample_shape == (1, 8, 8) and model.null_label == 10
    assert model.predict(batch().images, batch().t, batch().labels).shape == (6, 1, 8, 8)


def test_every_parameter_learns():
    model = tiny.unet()
    model.losses(batch()).mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_seed_decides_the_weights():
    first, again, other = (tiny.unet(seed).net.conv_in.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_dropout_acts_in_training_only():
    model, b = tiny.unet(dropout=0.5), batch()
    with torch.no_grad():
        assert not torch.equal(model.train().losses(b), model.losses(b))
        assert torch.equal(model.eval().losses(b), model.losses(b))


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(DedtError, match="Choose one of: unet"):
        build_model("mlp")


def test_the_published_network_has_its_size():
    p = load_profile("paper")
    with torch.device("meta"):  # counted, not filled
        model = build_model(
            "unet",
            channels=3,
            image_size=32,
            num_classes=10,
            block_channels=p.unet.channels,
            layers=p.unet.layers,
            attention=p.unet.attention,
            dropout=p.unet.dropout,
            groups=p.unet.groups,
        )
    of_classes = sum(parameter.numel() for parameter in model.net.class_embedding.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - of_classes == 35_746_307
    assert len(decoder_blocks(model)) == 12
