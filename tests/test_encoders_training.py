import signal

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from dedt_lib import data, encoders, interruption
from dedt_lib.encoders.training import random_flip
from dedt_lib.errors import DedtError
from dedt_lib.randomness import seeded, torch_generator
from dedt_lib.training import loop
from dedt_lib.training.checkpoint import CHECKPOINT


class Dropped(nn.Module):
    """A linear classifier behind dropout; the masks come from the global random generator."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(nn.functional.dropout(images.flatten(1), 0.5, self.training))


def resnet(width=2):
    return seeded(0, "weights", lambda: encoders.ResNet18(1, 10, width))


def dropped():
    return seeded(0, "weights", Dropped)


def train(net, images, **changes):
    given = {"epochs": 4, "batch_size": 10, "learning_rate": 0.05, "seed": 0, **changes}
    return encoders.train_classifier(net, images, **given)


def test_training_learns_and_repeats_itself(digits):
    first, second = resnet(), resnet()
    losses, again = train(first, digits, epochs=6), train(second, digits, epochs=6)
    assert losses[-1] < losses[0] and not first.training
    np.testing.assert_array_equal(losses, again)
    tiny.assert_same_weights(first, second)


def test_dropout_is_a_function_of_the_seed(digits):
    first, second = dropped(), dropped()
    train(first, digits)
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    train(second, digits)
    tiny.assert_same_weights(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "make, changes",
    [
        (resnet, {}),
        (resnet, {"schedule": "steps", "nesterov": False, "shift": 2, "padding": "zero", "flip": True}),
        (dropped, {"optimizer": "adamw", "learning_rate": 1e-3}),
    ],
)
def test_a_killed_training_ends_with_the_same_bits(make, changes, tmp_path, digits, monkeypatch):
    whole, parts = make(), make()
    losses = train(whole, digits, epochs=5, **changes)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 7)  # in the third epoch; the last checkpoint is at the end of the second
        train(make(), digits, epochs=5, folder=tmp_path, **changes)
    steps = tiny.recorded(monkeypatch, lambda run: run.step, before=True)
    np.testing.assert_array_equal(train(parts, digits, epochs=5, folder=tmp_path, **changes), losses)
    assert steps == list(range(6, 15))
    tiny.assert_same_weights(whole, parts)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == [CHECKPOINT]


@pytest.fixture
def checkpoint(tmp_path, digits, monkeypatch):
    """The checkpoint of a training of ``dropped`` that was killed after three steps."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 3)
        train(dropped(), digits, folder=tmp_path)
    return tmp_path / CHECKPOINT


def test_a_checkpoint_of_another_run_is_refused(checkpoint, tmp_path, digits):
    with pytest.raises(DedtError, match="cannot be resumed .*settings are.*Delete it"):
        train(dropped(), digits, folder=tmp_path, learning_rate=0.1)
    with pytest.raises(DedtError, match="cannot be resumed"):
        train(resnet(), digits, folder=tmp_path)


def test_a_damaged_checkpoint_is_said_and_the_training_begins_anew(checkpoint, tmp_path, digits, capsys):
    whole, again = dropped(), dropped()
    train(whole, digits)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    train(again, digits, folder=tmp_path)
    assert f"{checkpoint} is damaged" in capsys.readouterr().err
    tiny.assert_same_weights(whole, again)


@pytest.mark.parametrize("step", [0, 4, 11])
def test_a_signal_lets_the_step_end_and_nothing_is_lost(step, tmp_path, digits, monkeypatch):
    changes = {"flip": True}  # drawn from a generator whose state must be restored within an epoch
    whole, resumed = dropped(), dropped()
    losses = train(whole, digits, **changes)
    with monkeypatch.context() as patch, pytest.raises(interruption.Stopped), interruption.handled():
        tiny.signal_at(patch, step, signal.SIGTERM)
        train(dropped(), digits, folder=tmp_path, **changes)
    steps = tiny.recorded(monkeypatch, lambda run: run.step, before=True)
    np.testing.assert_array_equal(train(resumed, digits, folder=tmp_path, **changes), losses)
    assert steps == list(range(step + 1, 12))
    tiny.assert_same_weights(whole, resumed)


def test_a_last_batch_of_one_image_is_left_out(digits):
    subset = data.LabelledImages(digits.images[:21], digits.labels[:21] % 3, ("a", "b", "c"), digits.ids[:21])
    # Batch normalisation raises an error for a single 1x1 map.
    assert np.isfinite(train(resnet(), subset, epochs=2)).all()


def test_a_loss_that_is_not_finite_is_told(digits):
    with pytest.raises(DedtError, match="loss of the ResNet18 is .* at step .*Lower the learning rate"):
        train(resnet(), digits, learning_rate=1e20)


# ---- schedule and optimiser --------------------------------------------------------------------------


def rates(name, epochs, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = loop.make_schedule(name, optimizer, epochs, steps)
    found = []
    for _ in range(epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found).reshape(epochs, steps)


def test_steps_are_those_of_moderate_ds():
    found = rates("steps", 200, 3)
    for first, last, rate in [(0, 60, 0.1), (60, 120, 0.02), (120, 160, 0.004), (160, 200, 0.0008)]:
        np.testing.assert_allclose(found[first:last], rate)


def test_training_follows_its_schedule(digits):
    cosine, steps = dropped(), dropped()
    train(cosine, digits)
    train(steps, digits, schedule="steps")
    assert not torch.equal(cosine.head.weight, steps.head.weight)


def test_cosine_falls_to_zero_over_all_steps():
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(rates("cosine", 4, 5).ravel(), expected, rtol=1e-6)


def test_sgd_is_that_of_the_papers():
    sgd = loop.OPTIMIZERS["sgd"]([nn.Parameter(torch.zeros(1))], lr=0.1).defaults
    assert (sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.9, 5e-4, False)


@pytest.mark.parametrize("what", ["schedule", "optimizer", "padding"])
def test_unknown_settings_list_the_known_ones(what, digits):
    with pytest.raises(DedtError, match=f"Unknown {what} 'other'. Choose one of: "):
        train(dropped(), digits, **{what: "other"})


# ---- augmentation ------------------------------------------------------------------------------------


def test_shift_moves_whole_images_by_at_most_a_pixel():
    images = torch.zeros(20, 1, 5, 5)
    images[:, :, 2, 2] = 1
    moved = encoders.random_shift(images, 1, torch_generator(0, "shift"))
    assert torch.equal(moved.sum(dim=(1, 2, 3)), torch.ones(20))
    assert moved[:, :, 1:4, 1:4].sum() == 20
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 1
    assert torch.equal(encoders.random_shift(images, 0, None), images)


def test_a_shift_brings_in_the_border_or_black():
    images = torch.ones(50, 1, 3, 3)
    repeated = encoders.random_shift(images, 1, torch_generator(0, "shift"))
    black = encoders.random_shift(images, 1, torch_generator(0, "shift"), padding="zero")
    assert torch.equal(repeated, images)
    assert set(black.unique().tolist()) == {-1.0, 1.0}


def test_flip_mirrors_about_half_of_the_images():
    images = torch.arange(3.0).expand(200, 1, 2, 3)
    flipped = random_flip(images, torch_generator(0, "flip"))
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 70 < mirrored.sum() < 130


def test_flip_is_used_only_when_asked(digits, monkeypatch):
    asked = []
    monkeypatch.setattr(encoders.training, "random_flip", lambda images, generator: asked.append(1) or images)
    train(dropped(), digits, epochs=1)
    assert not asked
    train(dropped(), digits, epochs=1, flip=True)
    assert len(asked) == 3
