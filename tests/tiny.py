"""The real components at their smallest size, for the tests and for the processes they start."""

import dataclasses
import signal

import numpy as np
import torch
from PIL import Image

from dedt_lib import data, training
from dedt_lib.config.profile import load_profile
from dedt_lib.models import build_model
from dedt_lib.randomness import seeded
from dedt_lib.training import TrainingSettings

SETTINGS = TrainingSettings(
    epochs=4,
    batch_size=8,
    learning_rate=1e-3,
    warmup_steps=4,
    gradient_clip=1.0,
    ema_decay=0.999,
    label_dropout=0.2,
    flip=True,
    checkpoint_every=3,
)


# What the tests count on, so that the smoke profile may change without them.
PROFILE = {
    "data.per_class": 30,
    "unet.ratios": (0.1, 0.4),
    "seeds": (0,),
    "select.moderate_scope": "class",
    "encoders.resnet18.epochs": 2,
    "unet.epochs": 8,
    "unet.batch_size": 25,
    "train.annealing_start": 0.875,
    "train.checkpoint_every": 20,
    "reweight.burn_in": 0.25,
    "unet.steps": 5,
    "unet.guidance": 0.3,
    "sample.count": 100,
    "evaluate.epochs": 2,
}


def profile(**changes):
    """The smoke profile with the sizes above: 300 digits, 96 steps on all of them and 16 on a tenth."""
    return load_profile("smoke", **{**PROFILE, **changes})


def settings(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def digits(per_class=3):
    return data.load("digits", per_class=per_class)


def unet(seed=0, dropout=0.0):
    """A one-level U-Net for the digits."""
    sizes = {"block_channels": [8], "layers": 1, "attention": [False], "groups": 4}
    return seeded(
        seed,
        "tiny",
        lambda: build_model("unet", channels=1, image_size=8, num_classes=10, dropout=dropout, **sizes),
    )


def write_images(root, classes=("ash", "birch", "cedar"), each=4, size=(7, 5)):
    """Random colour PNGs in one folder per class."""
    generator = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def on_step(patch, action, *, before=False):
    """Call ``action`` with the run before or after every step of every training."""
    take_step = training._Run.take_step

    def step(run, batch):
        if before:
            action(run)
        take_step(run, batch)
        if not before:
            action(run)

    patch.setattr(training._Run, "take_step", step)


def interrupt(patch, after):
    """Make training stop as Ctrl-C would, once ``after`` steps are done."""

    def stop(run):
        if run.step == after:
            raise KeyboardInterrupt

    on_step(patch, stop, before=True)


def signal_at(patch, step, signum):
    """Send this process a signal in the midst of a step."""
    on_step(patch, lambda run: run.step == step and signal.raise_signal(signum), before=True)


def recorded(patch, look, **when):
    """What ``look`` sees of the run at every step, as it goes on."""
    seen = []
    on_step(patch, lambda run: seen.append(look(run)), **when)
    return seen


def assert_same_weights(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values()):
        assert torch.equal(a, b), name
