import numpy as np
import pytest
import torch

from dedt_lib import encoders
from dedt_lib.encoders.ddae import decoder_blocks
from dedt_lib.errors import DedtError
from dedt_lib.models import build_model
from dedt_lib.pixels import to_float
from dedt_lib.randomness import seeded, torch_generator


def unet(**changes):
    sizes = {"block_channels": [4, 8], "layers": 1, "attention": [False, True], "groups": 4, "dropout": 0.5}
    shape = {"channels": 1, "image_size": 8, "num_classes": 10}
    return seeded(0, "ddae", lambda: build_model("unet", **{**shape, **sizes, **changes}))


@pytest.fixture(scope="module")
def model():
    return unet()


@pytest.fixture(scope="module")
def images(digits):
    return to_float(torch.from_numpy(digits.images[:6]))


def test_blocks_are_counted_upwards_with_their_attention(model):
    low, high = model.net.up_blocks
    assert decoder_blocks(model) == [*low.attentions, *high.resnets]


def test_the_sixth_block_of_the_cifar_network_is_the_last_at_8x8():
    settings = {"block_channels": [128, 256, 256, 256], "layers": 2, "attention": [False, True, False, False]}
    with torch.device("meta"):
        cifar = unet(channels=3, image_size=32, groups=32, **settings)
    blocks = decoder_blocks(cifar)
    assert len(blocks) == 12
    assert blocks[5] is cifar.net.up_blocks[1].resnets[2]
    assert blocks[6] is cifar.net.up_blocks[2].attentions[0]
    assert blocks[5].out_channels == 256


@pytest.mark.parametrize("block, width", [(1, 8), (2, 8), (3, 4), (4, 4)])
def test_features_are_as_wide_as_their_block(block, width, model, images):
    assert encoders.DDAE(model, block).features(images).shape == (6, width)


def test_features_are_what_the_upsampler_gets(model, images):
    seen, (upsampler,) = [], model.net.up_blocks[0].upsamplers
    hook = upsampler.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = encoders.DDAE(model, 2).features(images)
    hook.remove()
    assert torch.equal(features, seen[0].mean(dim=(2, 3)))


def test_images_are_noised_to_the_timestep_without_labels(model, images, monkeypatch):
    calls, predict = [], model.predict
    monkeypatch.setattr(model, "predict", lambda *inputs: calls.append(inputs) or predict(*inputs))
    encoders.DDAE(model, 2, seed=3).features(images)
    x_t, t, labels = calls[0]
    # alpha-bar after eleven of the linear betas 1e-4 .. 0.02, at index 10.
    kept = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[:11])
    noise = torch.randn(1, 8, 8, generator=torch_generator(3, "ddae", 0))
    torch.testing.assert_close(x_t, kept**0.5 * images + (1 - kept) ** 0.5 * noise, rtol=1e-4, atol=1e-5)
    assert t.tolist() == [10] * 6 and labels.tolist() == [10] * 6


def test_features_depend_on_the_seed_but_not_on_batch_order_or_mode(model, digits):
    net = encoders.DDAE(model, 2).train()
    features = encoders.embed(net, digits.images)
    in_parts = encoders.embed(net, digits.images, batch_size=7)
    backwards = encoders.embed(net, digits.images[::-1])[::-1]
    np.testing.assert_allclose(in_parts, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(backwards, features, rtol=1e-4, atol=1e-5)
    other = encoders.embed(encoders.DDAE(model, 2, seed=1), digits.images)
    assert abs(other - features).max() > 1e-4


def test_dropout_stays_off(model, images):
    net = encoders.DDAE(model, 2).train()
    assert torch.equal(net.features(images), net.features(images))


def test_draws_are_averaged(model, images, monkeypatch):
    one, two = encoders.DDAE(model, 2), encoders.DDAE(model, 2, draws=2)
    second = one._pooled(images, 1)
    assert not torch.equal(second, one.features(images))
    torch.testing.assert_close(two.features(images), (one.features(images) + second) / 2)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"block": 5}, "blocks 1 to 4; there is no block 5"),
        ({"block": 0}, "there is no block 0"),
        ({"block": 1, "t": 1000}, r"must lie in 0..999; got 1000"),
        ({"block": 1, "draws": 0}, "at least one noise draw"),
    ],
)
def test_what_does_not_exist_is_refused(settings, message, model):
    with pytest.raises(DedtError, match=message):
        encoders.DDAE(model, **settings)
