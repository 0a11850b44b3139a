import dataclasses
import math

import numpy as np
import pytest
import tiny
import torch
from timm.optim import Adan
from torch.distributions import Normal, kl_divergence

from dedt_lib.errors import DedtError
from dedt_lib.models.mdt import MDTv2, discretised_log_likelihood
from dedt_lib.randomness import seeded
from dedt_lib.training import Batch

GOLDEN = {"input_size": 8, "num_classes": 10}
GOLDEN |= {"hidden_size": 48, "depth": 6, "num_heads": 4, "decode_layer": 2}
BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BAR = torch.cumprod(1 - BETA, dim=0)


def fresh(seed=0, **changes):
    return seeded(seed, "mdt", lambda: MDTv2(**{**GOLDEN, **changes}))


def reference_weights(file):
    return {name[2:]: torch.from_numpy(value) for name, value in file.items() if name.startswith("w/")}


@pytest.fixture(scope="module")
def file(golden):
    return golden("mdtv2_tiny")


@pytest.fixture
def model(file):
    """A model with the weights of the reference implementation, none of which is zero."""
    model = fresh().eval()
    model.load_reference_state_dict(reference_weights(file))
    return model


def draw(n, seed=0):
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def batch(model, t=(0, 1, 10, 300, 700, 999), drop=False, seed=0):
    n = len(t)
    return Batch(
        images=0.5 * draw(n, seed),
        labels=torch.arange(n) % 10,
        t=torch.tensor(t),
        noise=draw(n, seed + 1),
        drop=torch.full((n,), drop),
        extra=model.draws(n, torch.Generator().manual_seed(seed), "cpu"),
    )


# ---- the network -------------------------------------------------------------------------------------


def test_output_is_that_of_the_reference(file, model):
    x, t, y = (torch.from_numpy(file[name]) for name in ("x", "t", "y"))
    with torch.no_grad():
        expected = torch.from_numpy(file["out"])
        torch.testing.assert_close(model(x, t, y), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.predict(x, t, y), expected[:, :4], rtol=0, atol=1e-5)


def test_guided_output_is_that_of_the_reference(file, model):
    expected = torch.from_numpy(file["cfg_out"])
    x_t, t, labels = torch.from_numpy(file["x"])[:2], torch.full((2,), 400), torch.tensor([3, 7])
    with torch.no_grad():
        torch.testing.assert_close(model.guided(x_t, t, labels, 3.8), expected[:2], rtol=0, atol=1e-5)
        unconditional = model(x_t, t, torch.full((2,), model.null_label))
        assert torch.equal(model.guided(x_t, t, labels, 1), model(x_t, t, labels))
    torch.testing.assert_close(unconditional[:, 3:], expected[2:, 3:], rtol=0, atol=1e-5)


def test_size_s_has_its_published_number_of_parameters():
    with torch.device("meta"):  # no memory is allocated
        model = MDTv2()
    assert sum(parameter.numel() for parameter in model.parameters()) == 38_454_872
    assert [len(blocks) for blocks in (model.en_inblocks, model.en_outblocks, model.de_blocks)] == [3, 3, 6]


def test_offsets_between_tokens_are_numbered_as_in_public_checkpoints(file, model):
    index = file["w/sideblocks.0.attn.rel_pos_bias.relative_position_index"]
    assert np.array_equal(model.offsets[0], index)


def test_parameters_are_what_is_saved(model):
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def test_weights_of_another_network_are_refused(file):
    weights = reference_weights(file)
    with pytest.raises(DedtError, match="another network.*size mismatch"):
        fresh(hidden_size=64).load_reference_state_dict(weights)
    weights.pop("mask_token")
    with pytest.raises(DedtError, match="mask_token"):
        fresh().load_reference_state_dict(weights)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"patch_size": 3}, "patches of 3"),
        ({"num_heads": 5}, "5 heads"),
        ({"decode_layer": 3}, "even number"),
        ({"mask_ratio": 0.9}, "at least one token"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DedtError, match=message):
        fresh(**changes)


def test_an_untrained_network_answers_zero_and_knows_where_its_tokens_are():
    model, b = fresh(), batch(fresh())
    with torch.no_grad():
        assert not model(b.images, b.t, b.labels).any()
        assert not model(b.images, b.t, b.labels, b.extra["kept"]).any()
    # The first sine of each axis; token 7 lies in row 1, column 3.
    assert model.pos_embed[0, 7, [0, 24]].tolist() == pytest.approx([math.sin(3), math.sin(1)])
    assert torch.equal(model.pos_embed, model.decoder_pos_embed)


# ---- masks -------------------------------------------------------------------------------------------


def test_with_all_tokens_kept_the_masked_pass_is_the_unmasked_one(model):
    b = batch(model)
    order = torch.rand(6, 16, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    with torch.no_grad():
        unmasked = model(b.images, b.t, b.labels)
        for kept in (torch.arange(16).expand(6, 16), order):
            masked = model(b.images, b.t, b.labels, kept)
            torch.testing.assert_close(masked, unmasked, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_kept_tokens_does_not_matter(model):
    b = batch(model)
    kept = b.extra["kept"]
    with torch.no_grad():
        sorted_too = [model(b.images, b.t, b.labels, ids) for ids in (kept, kept.sort(dim=1).values)]
        unmasked = model(b.images, b.t, b.labels)
    torch.testing.assert_close(*sorted_too, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(sorted_too[0], unmasked, atol=1e-3)


def test_the_encoder_does_not_see_hidden_tokens(model):
    """Without the decoder's long skip connections, hidden tokens do not affect the output."""
    with torch.no_grad():
        for block in model.de_blocks:
            block.skip_linear.weight[:, 48:] = 0
        x, kept = draw(1), torch.tensor([[0, 5, 6, 15]])
        hidden, seen = x.clone(), x.clone()
        hidden[:, :, :2, 2:4] += 1  # token 1
        seen[:, :, :2, :2] += 1  # token 0
        t, y = torch.tensor([500]), torch.tensor([3])
        reference, unchanged, changed = (model(image, t, y, kept) for image in (x, hidden, seen))
    assert torch.equal(reference, unchanged) and not torch.allclose(reference, changed, atol=1e-3)


def test_the_side_block_fills_hidden_places_only(model):
    visible = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[2, 0, 9], [15, 3, 4]])
    condition = torch.ones(2, 48)
    with torch.no_grad():
        tokens = model._interpolate(visible, condition, kept.unsqueeze(-1))
        known = model.mask_token + model.decoder_pos_embed
    for sample in range(2):
        hidden = sorted(set(range(16)) - set(kept[sample].tolist()))
        expected = visible[sample] + model.decoder_pos_embed[0, kept[sample]]
        torch.testing.assert_close(tokens[sample, kept[sample]], expected)
        assert (tokens[sample, hidden] - known[0, hidden]).abs().amax(dim=1).min() > 0.01


def test_draws_hide_the_share_that_was_asked_for():
    model = fresh(input_size=32, mask_ratio=0.3)
    numbers = []
    for seed in range(40):
        draws = model.draws(3, torch.Generator().manual_seed(seed), "cpu")
        kept = draws["kept"]
        assert kept.min() >= 0 and kept.max() < 256
        assert all(len(set(row)) == kept.shape[1] for row in kept.tolist())
        numbers.append(kept.shape[1])
    assert 128 <= min(numbers) < 135 and 172 < max(numbers) <= 179
    assert not torch.equal(kept[0].sort().values, kept[1].sort().values)
    assert draws["masked_noise"].shape == (3, 4, 32, 32)


def test_the_first_version_hides_a_fixed_share():
    model = fresh(mask_ratio=0.3, mask_range=0)
    sizes = {model.draws(2, torch.Generator().manual_seed(s), "cpu")["kept"].shape for s in range(5)}
    assert sizes == {(2, 11)}


def test_draws_follow_the_generator_and_hide_labels():
    model = fresh(class_dropout_prob=0.25)
    first, again = (model.draws(2000, torch.Generator().manual_seed(0), "cpu") for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["masked_drop"].float().mean().item() == pytest.approx(0.25, abs=0.03)


# ---- losses ------------------------------------------------------------------------------------------


def bits(images, noise, t):
    """The variational term of a network that predicts zero, from its definition in float64."""
    x_0, eps = images.double(), noise.double()
    beta, alpha_bar = BETA[t], ALPHA_BAR[t]
    x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
    before = ALPHA_BAR[t - 1] if t else torch.tensor(1.0, dtype=torch.float64)

    def mean(clean):
        return (before.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - alpha_bar)

    tabulated = max(t, 1)
    posterior = BETA[tabulated] * (1 - ALPHA_BAR[tabulated - 1]) / (1 - ALPHA_BAR[tabulated])
    predicted = Normal(mean(x_t / alpha_bar.sqrt()), (beta * posterior) ** 0.25)
    if t:
        nats = kl_divergence(Normal(mean(x_0), posterior.sqrt()), predicted)
    else:
        nats = -bin_mass(predicted, x_0).log()
    return nats.mean() / math.log(2)


def bin_mass(normal, x):
    upper = torch.where(x > 0.999, 1.0, normal.cdf(x + 1 / 255))
    return upper - torch.where(x < -0.999, 0.0, normal.cdf(x - 1 / 255))


def test_losses_of_a_network_that_answers_zero_are_known():
    model = fresh()
    b = batch(model)
    with torch.no_grad():
        losses = model.losses(b)
    for i, t in enumerate(b.t.tolist()):
        weight = min(1.0, 5 * (1 - ALPHA_BAR[t]).item() / ALPHA_BAR[t].item())
        expected = sum(
            weight * noise[i].square().mean() + bits(b.images[i], noise[i], t)
            for noise in (b.noise, b.extra["masked_noise"])
        )
        # At t = 0 the reference implementation approximates the normal distribution function.
        assert losses[i].item() == pytest.approx(expected.item(), rel=1e-2 if t == 0 else 1e-4)


def test_bins_are_those_of_256_grey_levels():
    images = torch.tensor([-1.3, -1.0, -0.4, 0.0, 0.6, 1.0, 1.3])
    mean, deviation = images + torch.tensor([0.01, -0.01, 0.0, 0.004, -0.01, 0.01, -0.01]), 0.01
    found = discretised_log_likelihood(images, images - mean, torch.full((7,), math.log(deviation)))
    expected = bin_mass(Normal(mean.double(), deviation), images.double()).log().float()
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_weights_are_the_clipped_signal_to_noise_ratio():
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    torch.testing.assert_close(fresh().schedule.weight, (snr.clamp(max=5) / snr).float())


def test_margin_losses_are_the_plain_error_of_the_noise(model):
    b = batch(model)
    signal = ALPHA_BAR[b.t].float().view(-1, 1, 1, 1)
    with torch.no_grad():
        x_t = signal.sqrt() * b.images + (1 - signal).sqrt() * b.noise
        errors = (model.predict(x_t, b.t, b.labels) - b.noise).square()
        torch.testing.assert_close(model.element_losses(b), errors, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.margin_losses(b), model.element_losses(b).mean(dim=(1, 2, 3)))


def test_masked_pass_has_its_own_noise_and_hidden_labels(model):
    b = batch(model)
    changes = {"masked_noise": draw(6, seed=9), "masked_drop": ~b.extra["masked_drop"]}
    changes["kept"] = (b.extra["kept"] + 1) % 16
    with torch.no_grad():
        for name, value in changes.items():
            other = dataclasses.replace(b, extra={**b.extra, name: value})
            assert not torch.allclose(model.losses(b), model.losses(other), rtol=1e-4)
            assert torch.equal(model.margin_losses(b), model.margin_losses(other))


def test_only_the_variance_learns_from_the_variational_bound(model):
    b = batch(model)
    output = model.final_layer.linear.bias
    from_losses = torch.autograd.grad(model.losses(b).sum(), output)[0].view(4, 2, 4)
    weight = model.schedule.weight[b.t]
    masked = dataclasses.replace(b, noise=b.extra["masked_noise"], drop=b.extra["masked_drop"])
    error, _ = model._pass(b, b.noise, b.drop)
    of_masked, _ = model._pass(masked, masked.noise, masked.drop, b.extra["kept"])
    squares = (weight * (error.square() + of_masked.square()).mean(dim=(1, 2, 3))).sum()
    from_error = torch.autograd.grad(squares, output)[0].view(4, 2, 4)
    torch.testing.assert_close(from_losses[:, 0], from_error[:, 0], rtol=1e-3, atol=1e-4)
    assert not from_error[:, 1].any() and from_losses[:, 1].any()


def test_without_learned_variance_only_the_error_is_left():
    model = fresh(learn_sigma=False)
    b = batch(model)
    with torch.no_grad():
        assert model(b.images, b.t, b.labels).shape == (6, 4, 8, 8)
        squares = (b.noise**2 + b.extra["masked_noise"] ** 2).mean(dim=(1, 2, 3))
        torch.testing.assert_close(model.losses(b), model.schedule.weight[b.t] * squares)


def test_half_precision_stays_near(model):
    b = batch(model, t=(100, 500, 900))
    with torch.no_grad():
        exact = model.losses(b)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.losses(b)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)


# ---- Adan --------------------------------------------------------------------------------------------


def test_adan_is_the_published_update():
    lr, (b1, b2, b3), eps = 0.1, (0.98, 0.92, 0.99), 1e-8
    gradients = torch.tensor([[0.5, -2.0, 1e-3], [0.25, 1.0, 3.0]], dtype=torch.float64)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = Adan([theta], lr=lr, betas=(b1, b2, b3), eps=eps, weight_decay=0.0)
    expected, m, v, n = torch.zeros(3, dtype=torch.float64), 0, 0, 0
    before = gradients[0]
    for k, g in enumerate(gradients, start=1):
        theta.grad = g.clone()
        optimizer.step()
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (g - before)
        n = b3 * n + (1 - b3) * (g + b2 * (g - before)) ** 2
        direction = m / (1 - b1**k) + b2 * v / (1 - b2**k)
        expected = expected - lr * direction / ((n / (1 - b3**k)).sqrt() + eps)
        before = g
        torch.testing.assert_close(theta.detach(), expected)


def test_guidance_leaves_the_variance_alone_with_few_channels():
    model = tiny.mdt(in_channels=2)
    x, t, labels = torch.randn(1, 2, 8, 8), torch.tensor([500]), torch.tensor([3])
    assert torch.allclose(model.guided(x, t, labels, 4.0)[:, 2:], model(x, t, labels)[:, 2:], atol=1e-5)
