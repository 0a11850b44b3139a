import pytest
import torch

from dedt_lib.errors import DedtError
from dedt_lib.models.mdt import MDTv2
from dedt_lib.models.schedule import power_cosine
from dedt_lib.randomness import seeded
from dedt_lib.sampling import respaced_ddpm

ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
LABELS = torch.tensor([0, 1, 2])


def generators(n=3, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


def noise(n=3, seed=0, size=4):
    return torch.randn(n, 4, size, size, generator=torch.Generator().manual_seed(seed))


class Known:
    """A model whose answers are a function: (x_t, t) to (noise estimate, variance output)."""

    learn_sigma = True

    def __init__(self, answer):
        self.answer, self.times = answer, []

    def guided(self, x_t, t, labels, scale):
        self.times.append(int(t[0]))
        return torch.cat(self.answer(x_t, ALPHA_BAR[t].float().view(-1, 1, 1, 1)), dim=1)


def smooth(x_t, alpha_bar):
    return 0.5 * x_t.sin() + alpha_bar, x_t.cos()


def spaced_timesteps(steps):
    """Steps over 0..999 as improved-DDPM takes them: a stride, added up and rounded."""
    taken, position = [], 0.0
    for _ in range(steps):
        taken.append(round(position))
        position += 999 / (steps - 1)
    return taken


def test_guidance_grows_from_one_to_its_scale():
    t = torch.tensor([1000, 500, 0])
    bend = (1 - torch.cos(torch.tensor(torch.pi / 16))) / 2
    torch.testing.assert_close(power_cosine(t, 3.8), torch.tensor([1.0, 1 + 2.8 * bend.item(), 3.8]))
    assert (power_cosine(torch.arange(1000), 3.8).diff() <= 0).all()
    assert power_cosine(torch.tensor([500]), 3.8, power=1).item() == pytest.approx(2.4)


@pytest.mark.parametrize("steps", [2, 10, 50, 250, 1000])
def test_timesteps_are_those_of_improved_ddpm(steps):
    model = Known(lambda x_t, _: (0 * x_t, 0 * x_t))
    respaced_ddpm(model, noise(1), LABELS[:1], steps=steps, guidance=1, generators=generators(1))
    assert model.times == spaced_timesteps(steps)[::-1]


@pytest.mark.parametrize("steps", [10, 250])
def test_each_step_is_the_written_out_formula(steps):
    model, x_t, draws = Known(smooth), noise(3).double(), generators()
    timesteps = spaced_timesteps(steps)
    for i in reversed(range(steps)):
        alpha_bar = ALPHA_BAR[timesteps[i]]
        before = ALPHA_BAR[timesteps[i - 1]] if i else torch.ones((), dtype=torch.float64)
        eps, fraction = smooth(x_t, alpha_bar)
        beta = 1 - alpha_bar / before
        x_0 = (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
        x_t = (before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - alpha_bar)
        if i:
            posterior = beta * (1 - before) / (1 - alpha_bar)
            variance = beta ** ((fraction + 1) / 2) * posterior ** ((1 - fraction) / 2)
            x_t = x_t + variance.sqrt() * torch.cat([torch.randn(1, 4, 4, 4, generator=g) for g in draws])
    found = respaced_ddpm(model, noise(3), LABELS, steps=steps, guidance=1, generators=generators())
    torch.testing.assert_close(found, x_t.float(), rtol=1e-2, atol=1e-2)


def test_a_point_is_recovered_whatever_the_noise():
    """Who knows the one possible latent knows the noise, and the last step lands on the latent."""
    point = torch.linspace(-3, 3, 64).view(1, 4, 4, 4)
    model = Known(lambda x_t, a: ((x_t - a.sqrt() * point) / (1 - a).sqrt(), torch.zeros_like(x_t)))
    for seed in (0, 7):
        found = respaced_ddpm(
            model, noise(3, seed), LABELS, steps=20, guidance=1, generators=generators(first=seed)
        )
        torch.testing.assert_close(found, point.expand(3, -1, -1, -1), rtol=0, atol=2e-3)


def test_gaussian_data_keep_their_deviation():
    """For latents that are N(0, 1) the best noise estimate is linear, and beta is the variance of a step."""
    model = Known(lambda x_t, a: ((1 - a).sqrt() * x_t, torch.ones_like(x_t)))
    settings = {"steps": 50, "guidance": 1, "generators": generators(1)}
    found = respaced_ddpm(model, noise(1, size=64), LABELS[:1], **settings)
    assert found.std().item() == pytest.approx(1, abs=0.02) and abs(found.mean().item()) < 0.02


def test_a_model_without_learned_variance_uses_beta():
    model = Known(lambda x_t, _: (0 * x_t,))
    model.learn_sigma = False
    found = respaced_ddpm(model, noise(1), LABELS[:1], steps=2, guidance=1, generators=generators(1))
    drawn = torch.randn(1, 4, 4, 4, generator=generators(1)[0])
    beta = (1 - ALPHA_BAR[999] / ALPHA_BAR[0]).float()
    x_0 = noise(1) / ALPHA_BAR[999].sqrt().float()
    share, rest = ALPHA_BAR[0].sqrt() * beta, (1 - beta).sqrt() * (1 - ALPHA_BAR[0])
    mean = (share * x_0 + rest * noise(1)) / (1 - ALPHA_BAR[999])
    torch.testing.assert_close(
        found, ((mean + beta.sqrt() * drawn) / ALPHA_BAR[0].sqrt()).float(), rtol=1e-3, atol=1e-3
    )


@pytest.fixture(scope="module")
def mdt():
    sizes = {
        "input_size": 4,
        "patch_size": 1,
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "decode_layer": 2,
    }
    model = seeded(0, "mdt", lambda: MDTv2(**sizes, num_classes=10)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    return model


def test_a_sample_does_not_depend_on_its_batch(mdt):
    settings = {"steps": 8, "guidance": 3.8}
    together = respaced_ddpm(mdt, noise(3), LABELS, generators=generators(), **settings)
    alone = respaced_ddpm(mdt, noise(3)[1:2], LABELS[1:2], generators=generators(1, first=1), **settings)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_samples_follow_label_guidance_and_generator(mdt):
    def sample(label=3, guidance=3.8, seed=0):
        draws = generators(1, first=seed)
        return respaced_ddpm(
            mdt, noise(1), torch.tensor([label]), steps=5, guidance=guidance, generators=draws
        )

    reference = sample()
    assert torch.equal(reference, sample())
    for other in (sample(label=4), sample(guidance=1), sample(seed=1)):
        assert not torch.allclose(reference, other, atol=1e-3)


def test_intermediate_latents_can_be_kept(mdt):
    settings = {"steps": 4, "guidance": 1, "generators": generators()}
    latents, kept = respaced_ddpm(mdt, noise(3), LABELS, keep=(0, 2), **settings)
    assert len(kept) == 3 and torch.equal(kept[0], noise(3)) and torch.equal(kept[-1], latents)


@pytest.mark.parametrize("steps", [1, 1001])
def test_a_number_of_steps_out_of_range_is_refused(mdt, steps):
    with pytest.raises(DedtError, match="2 to 1000"):
        respaced_ddpm(mdt, noise(3), LABELS, steps=steps, guidance=1, generators=generators())
