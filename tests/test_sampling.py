import time

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler

from dedt_lib import sampling
from dedt_lib.errors import DedtError
from dedt_lib.models.schedule import NOISE_SCHEDULE, power_cosine
from dedt_lib.sampling import (
    balanced_labels,
    check_ddim_steps,
    ddim,
    guided_noise,
    initial_noise,
    proportional_labels,
    respaced_ddpm,
    sample,
    to_uint8,
)

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


@pytest.fixture(scope="module")
def model():
    return tiny.unet().eval()


class Recorder(torch.nn.Module):
    """Passes every call on to a model and notes its timestep; is interrupted after ``patience`` calls."""

    def __init__(self, model, patience=10**9):
        super().__init__()
        self.model, self.patience, self.times = model, patience, []
        self.null_label, self.sample_shape = model.null_label, model.sample_shape

    def predict(self, x_t, t, labels):
        if len(self.times) == self.patience:
            raise KeyboardInterrupt
        self.times.append(int(t[0]))
        return self.model.predict(x_t, t, labels)


class Oracle(torch.nn.Module):
    """A model that knows the clean image and so predicts the exact noise."""

    null_label, sample_shape = 10, (1, 4, 4)

    def __init__(self, x_0):
        super().__init__()
        self.x_0 = x_0

    def predict(self, x_t, t, labels):
        alpha_bar = torch.tensor(ALPHA_BAR[t.numpy()], dtype=torch.float32).view(-1, 1, 1, 1)
        return (x_t - alpha_bar.sqrt() * self.x_0) / (1 - alpha_bar).sqrt()


def draw(model, n=12, **changes):
    settings = {"seed": 5, "steps": 4, "guidance": 0.3, "batch_size": 5, **changes}
    return sample(model, balanced_labels(n, 10), **settings)


def test_labels_are_balanced():
    assert np.bincount(balanced_labels(50, 10)).tolist() == [5] * 10
    assert balanced_labels(5, 3).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("counts", [[1, 1], [150] * 10, [7]])
def test_equal_classes_take_turns(counts):
    labels = proportional_labels(47, counts)
    assert labels.dtype == np.int64 and labels.tolist() == balanced_labels(47, len(counts)).tolist()


@pytest.mark.parametrize("counts", [[4, 1], [90, 5, 3, 2], [1, 2, 3, 4, 5], [963, 955, 993, 858], [1, 1, 2]])
def test_every_beginning_has_the_shares_of_the_classes(counts):
    labels = proportional_labels(3 * sum(counts), counts)
    drawn = np.cumsum(np.eye(len(counts), dtype=int)[labels], axis=0)
    shares = np.arange(1, len(labels) + 1)[:, None] * np.array(counts) / sum(counts)
    assert np.abs(drawn - shares).max() < 1
    assert drawn[sum(counts) - 1].tolist() == counts
    assert proportional_labels(11, counts).tolist() == labels[:11].tolist()


def test_the_labels_of_imagenet_are_there_at_once():
    counts = np.random.default_rng(0).integers(732, 1301, 1000)
    start = time.process_time()
    labels = proportional_labels(50_000, counts)
    assert time.process_time() - start < 2
    drawn = np.bincount(labels, minlength=1000)
    assert np.abs(drawn - 50_000 * counts / counts.sum()).max() < 1


def test_each_sample_has_its_own_noise():
    together = initial_noise(range(6), (1, 8, 8), seed=1)
    apart = torch.cat([initial_noise([i], (1, 8, 8), seed=1) for i in range(6)])
    assert torch.equal(together, apart) and len(together.unique()) == together.numel()
    assert not torch.equal(together, initial_noise(range(6), (1, 8, 8), seed=2))


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_the_batch_size_does_not_change_the_images(model, batch_size):
    images, reference = draw(model, batch_size=batch_size), draw(model, batch_size=4)
    assert images.dtype == np.uint8 and images.shape == (12, 1, 8, 8)
    assert np.abs(images.astype(int) - reference).max() <= 1


def test_more_samples_begin_with_the_same_ones(model):
    assert np.abs(draw(model, 12)[:7].astype(int) - draw(model, 7)).max() <= 1


def test_images_follow_seed_and_label(model):
    reference = draw(model)
    assert np.array_equal(reference, draw(model))
    assert not np.array_equal(reference, draw(model, seed=6))
    noise = initial_noise(range(2), model.sample_shape, 0)
    with torch.no_grad():
        first, second = ddim(model, noise[[0, 0]], torch.tensor([1, 2]), steps=4, guidance=0)
    assert not torch.equal(first, second)


def test_guidance_combines_both_predictions(model):
    x_t, labels = initial_noise(range(4), (1, 8, 8), 0), torch.tensor([0, 3, 3, 9])
    t = torch.full((4,), 500)
    with torch.no_grad():
        conditional = model.predict(x_t, t, labels)
        unconditional = model.predict(x_t, t, torch.full_like(labels, 10))
        assert torch.equal(guided_noise(model, x_t, t, labels, 0), conditional)
        guided = guided_noise(model, x_t, t, labels, 0.7)
    torch.testing.assert_close(guided, 1.7 * conditional - 0.7 * unconditional, rtol=1e-4, atol=1e-5)


def test_25_steps_visit_960_to_0(model):
    recorder = Recorder(model)
    draw(recorder, n=2, steps=25)
    assert recorder.times == list(range(960, -1, -40))


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50, 250, 333, 1000])
def test_numbers_of_steps_that_suit_ddim(steps):
    check_ddim_steps(steps)


@pytest.mark.parametrize("steps, offset", [(0, 0), (334, 0), (501, 0), (700, 1), (1000, 1), (1001, 0)])
def test_ddim_refuses_to_start_in_the_middle_of_the_schedule(model, steps, offset):
    with pytest.raises(DedtError, match=f"^{steps} steps of DDIM.*Use a divisor of 1000"):
        check_ddim_steps(steps, offset)
    if not offset:
        noise = initial_noise([0], model.sample_shape, 0)
        with pytest.raises(DedtError, match="divisor"):
            ddim(model, noise, torch.tensor([1]), steps=steps, guidance=0)


def test_ddim_recovers_what_a_perfect_model_knows():
    x_0 = torch.linspace(-0.9, 0.9, 32).view(2, 1, 4, 4)
    noise = initial_noise(range(2), (1, 4, 4), 0)
    alpha_bar = torch.tensor(ALPHA_BAR[[0, 960]], dtype=torch.float32)
    eps = (noise - alpha_bar[1].sqrt() * x_0) / (1 - alpha_bar[1]).sqrt()
    expected = alpha_bar[0].sqrt() * x_0 + (1 - alpha_bar[0]).sqrt() * eps
    images = ddim(Oracle(x_0), noise, torch.zeros(2, dtype=torch.long), steps=25, guidance=0)
    torch.testing.assert_close(images, expected.clamp(-1, 1), atol=1e-3, rtol=0)


def test_ddim_is_the_scheduler_of_diffusers(model):
    noise, labels = initial_noise(range(3), (1, 8, 8), 0), torch.tensor([1, 2, 3])
    scheduler = DDIMScheduler(**NOISE_SCHEDULE, set_alpha_to_one=False)
    scheduler.set_timesteps(5)
    x_t = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            eps = model.predict(x_t, t.expand(3), labels)
            x_t = scheduler.step(eps, t, x_t, use_clipped_model_output=True).prev_sample
    assert torch.equal(ddim(model, noise, labels, steps=5, guidance=0), x_t.clamp(-1, 1))


def test_intermediate_images_can_be_kept(model):
    noise, labels = initial_noise(range(2), (1, 8, 8), 0), torch.tensor([1, 2])
    x_0, kept = ddim(model, noise, labels, steps=4, guidance=0, keep=(0, 2))
    assert len(kept) == 3 and torch.equal(kept[0], noise) and torch.equal(kept[-1], x_0)


def test_pixels_are_rounded_to_the_nearest_grey():
    values = torch.tensor([-1.5, -1.0, -1 + 0.6 / 127.5, 1 - 0.6 / 127.5, 1.0, 1.5])
    assert to_uint8(values).tolist() == [0, 0, 1, 254, 255, 255]


@pytest.fixture
def interrupted(tmp_path, model):
    """The folder of a sampling run that was interrupted in the third batch of three."""
    with pytest.raises(KeyboardInterrupt):
        draw(Recorder(model, patience=10), folder=tmp_path)
    return tmp_path


@pytest.mark.parametrize("counts", [[0.1, 0.2, 0.7], [0, 0], [2, -1]])
def test_shares_are_counts(counts):
    with pytest.raises(DedtError, match="must be whole numbers, not all zero"):
        sampling.proportional_labels(10, counts)


def test_interrupted_sampling_goes_on_from_the_last_batch(interrupted, model):
    recorder = Recorder(model)
    assert np.array_equal(draw(recorder, folder=interrupted), draw(model))
    assert len(recorder.times) == 4  # the four steps of the missing batch


def test_a_batch_that_was_cut_off_is_drawn_again(tmp_path, model, monkeypatch):
    def half(file, array):
        file.write(b"\x93NUMPY")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sampling.np, "save", half)
        draw(model, folder=tmp_path)
    assert not list(tmp_path.glob("*.npy"))
    assert np.array_equal(draw(model, folder=tmp_path), draw(model))


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 3}, {"guidance": 0.1}, {"n": 11}])
def test_samples_of_another_call_are_refused(interrupted, model, change):
    with pytest.raises(DedtError, match="holds samples of another model or other settings. Delete these"):
        draw(Recorder(model), folder=interrupted, **change)


def test_samples_of_another_model_are_refused(interrupted):
    with pytest.raises(DedtError, match="holds samples of another model or other settings"):
        draw(Recorder(tiny.unet(seed=1)), folder=interrupted)


DAMAGE = [*tiny.DAMAGE, lambda b: b"x" + b[1:]]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_batch_that_was_damaged_is_drawn_again_and_no_other(interrupted, model, damage, capsys):
    first = min(interrupted.glob(".batch-*.npy"))
    first.write_bytes(damage(first.read_bytes()))
    recorder = Recorder(model)
    assert np.array_equal(draw(recorder, folder=interrupted), draw(model))
    assert len(recorder.times) == 8 and f"{first} is damaged" in capsys.readouterr().err
    claim = {".samples.json", ".samples.json.seal"}
    assert {path.name for path in interrupted.iterdir()} == {"samples.npy", ".samples.npy.seal", *claim}


@pytest.mark.parametrize("damage", DAMAGE)
def test_samples_damaged_before_their_stage_was_complete_are_drawn_again(damage, tmp_path, model, capsys):
    whole = np.array(draw(model, folder=tmp_path))
    file = tmp_path / "samples.npy"
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(draw(model, folder=tmp_path), whole)
    assert f"{file} is damaged" in capsys.readouterr().err


# ---- ancestral sampling --------------------------------------------------------------------------

BARS = torch.from_numpy(ALPHA_BAR)
LABELS = torch.tensor([0, 1, 2])


def generators(n=3, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


def noise(n=3, seed=0, size=4):
    return torch.randn(n, 4, size, size, generator=torch.Generator().manual_seed(seed))


class Known:
    """A model given by a function (x_t, alpha-bar) -> (noise estimate, variance output)."""

    learn_sigma = True

    def __init__(self, answer):
        self.answer, self.times = answer, []

    def guided(self, x_t, t, labels, scale):
        self.times.append(int(t[0]))
        return torch.cat(self.answer(x_t, BARS[t].float().view(-1, 1, 1, 1)), dim=1)


def smooth(x_t, alpha_bar):
    return 0.5 * x_t.sin() + alpha_bar, x_t.cos()


def spaced_timesteps(steps):
    """Timesteps 0..999 as improved-DDPM spaces them: a fractional stride, summed and rounded."""
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
        alpha_bar = BARS[timesteps[i]]
        before = BARS[timesteps[i - 1]] if i else torch.ones((), dtype=torch.float64)
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
    """If only one latent is possible, the noise is known, and the last step returns the latent."""
    point = torch.linspace(-3, 3, 64).view(1, 4, 4, 4)
    model = Known(lambda x_t, a: ((x_t - a.sqrt() * point) / (1 - a).sqrt(), torch.zeros_like(x_t)))
    for seed in (0, 7):
        settings = {"steps": 20, "guidance": 1, "generators": generators(first=seed)}
        found = respaced_ddpm(model, noise(3, seed), LABELS, **settings)
        torch.testing.assert_close(found, point.expand(3, -1, -1, -1), rtol=0, atol=2e-3)


def test_gaussian_data_keep_their_deviation():
    """For N(0, 1) latents the best noise estimate is linear, and beta is the variance of a step."""
    model = Known(lambda x_t, a: ((1 - a).sqrt() * x_t, torch.ones_like(x_t)))
    settings = {"steps": 50, "guidance": 1, "generators": generators(1)}
    found = respaced_ddpm(model, noise(1, size=64), LABELS[:1], **settings)
    assert found.std().item() == pytest.approx(1, abs=0.02) and abs(found.mean().item()) < 0.02


def test_a_model_without_learned_variance_uses_beta():
    model = Known(lambda x_t, _: (0 * x_t,))
    model.learn_sigma = False
    found = respaced_ddpm(model, noise(1), LABELS[:1], steps=2, guidance=1, generators=generators(1))
    drawn = torch.randn(1, 4, 4, 4, generator=generators(1)[0])
    beta = (1 - BARS[999] / BARS[0]).float()
    x_0 = noise(1) / BARS[999].sqrt().float()
    share, rest = BARS[0].sqrt() * beta, (1 - beta).sqrt() * (1 - BARS[0])
    mean = (share * x_0 + rest * noise(1)) / (1 - BARS[999])
    expected = (mean + beta.sqrt() * drawn) / BARS[0].sqrt()
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def mdt():
    return tiny.mdt(input_size=4, patch_size=1).eval()


def test_a_sample_does_not_depend_on_its_batch(mdt):
    settings = {"steps": 8, "guidance": 3.8}
    together = respaced_ddpm(mdt, noise(3), LABELS, generators=generators(), **settings)
    alone = respaced_ddpm(mdt, noise(3)[1:2], LABELS[1:2], generators=generators(1, first=1), **settings)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_samples_follow_label_guidance_and_generator(mdt):
    def drawn(label=3, guidance=3.8, seed=0):
        settings = {"steps": 5, "guidance": guidance, "generators": generators(1, first=seed)}
        return respaced_ddpm(mdt, noise(1), torch.tensor([label]), **settings)

    reference = drawn()
    assert torch.equal(reference, drawn())
    for other in (drawn(label=4), drawn(guidance=1), drawn(seed=1)):
        assert not torch.allclose(reference, other, atol=1e-3)


def test_intermediate_latents_can_be_kept(mdt):
    settings = {"steps": 4, "guidance": 1, "generators": generators()}
    latents, kept = respaced_ddpm(mdt, noise(3), LABELS, keep=(0, 2), **settings)
    assert len(kept) == 3 and torch.equal(kept[0], noise(3)) and torch.equal(kept[-1], latents)


@pytest.mark.parametrize("steps", [1, 1001])
def test_a_number_of_steps_out_of_range_is_refused(mdt, steps):
    with pytest.raises(DedtError, match="2 to 1000"):
        respaced_ddpm(mdt, noise(3), LABELS, steps=steps, guidance=1, generators=generators())


@pytest.mark.parametrize(
    "labels, change, message",
    [
        ([0, 11], {}, "largest label is 11, but the model has 10 classes"),
        ([], {}, "non-empty array of integers"),
        ([0.5], {}, "got float64 .1."),
        ([0], {"steps": 0}, "steps must be at least 1"),
    ],
)
def test_labels_and_steps_that_cannot_be_drawn_are_refused(labels, change, message):
    with pytest.raises(DedtError, match=message):
        sample(tiny.unet(), labels, **{"seed": 0, "steps": 2, "guidance": 0.0, "batch_size": 4, **change})


def test_a_model_that_diverged_draws_nothing():
    model = tiny.unet()
    torch.nn.init.constant_(next(model.parameters()), float("nan"))
    with pytest.raises(DedtError, match="samples are not finite"):
        sample(model, [0, 1], seed=0, steps=2, guidance=0.0, batch_size=2)
