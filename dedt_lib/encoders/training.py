"""Training by epochs, with a checkpoint after each: classifiers here, CLIP in its own file."""

import contextlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from .. import interruption
from ..errors import DedtError
from ..randomness import derive, seed_dropout, torch_generator
from ..store import intact_or_removed, sealed
from .common import channels_first, to_float

CHECKPOINT = ".checkpoint.safetensors"
MILESTONES = (0.3, 0.6, 0.8)  # of the epochs: 60, 120 and 160 of 200


def train_classifier(
    network,
    data,
    *,
    epochs,
    batch_size,
    learning_rate,
    seed,
    shift=1,
    padding="replicate",
    flip=False,
    schedule="cosine",
    nesterov=True,
    optimizer="sgd",
    folder=None,
    device="cpu",
):
    """Train ``network`` on LabelledImages with cross-entropy; returns the training losses [epochs].

    SGD with momentum 0.9 and weight decay 5e-4.  By default Nesterov momentum and a cosine schedule to zero
    (the DeepCore recipe) with random shifts of up to ``shift`` pixels.  The recipe of Moderate-DS (Xia et
    al., 2023; utils.py): epochs=200, batch_size=128, learning_rate=0.1, schedule="steps", nesterov=False,
    shift=4, padding="zero", flip=True, and a network that normalises with the data's mean and standard
    deviation.

    optimizer: "sgd", or "adamw", with which Inception-v3 learns from few steps (``nesterov`` is SGD's alone).
    schedule: "cosine", or "steps" (a fifth after 30, 60 and 80 % of the epochs).  padding: what a shift
    brings in, the border again ("replicate") or black ("zero").  flip: mirror half of the images.
    folder: keeps a checkpoint there after each epoch, and goes on from one; on a CPU the result is then the
    same bit for bit.  Raises DedtError for a checkpoint of another run and for losses that are not finite.
    """
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "shift": shift,
        "padding": padding,
        "flip": flip,
        "schedule": schedule,
        "nesterov": nesterov,
        "optimizer": optimizer,
    }
    network.to(device).train()
    images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
    optimizer = make_optimizer(optimizer, network, learning_rate, nesterov)

    def loss(batch, randomness):
        pixels = random_shift(to_float(images[batch]), shift, randomness, padding)
        if flip:
            pixels = random_flip(pixels, randomness)
        return nn.functional.cross_entropy(network(pixels), labels[batch])

    return fit(
        network, loss, optimizer, len(data), settings, stream="classifier", folder=folder, device=device
    )


def fit(network, loss, optimizer, n, settings, *, stream, folder, device):
    """Minimise ``loss(indices, generator)`` over n samples; returns the mean losses float64 [epochs].

    settings: epochs, batch_size, seed, schedule, and whatever else tells this run from another.  Everything
    random is a function of (seed, stream, epoch), so that an epoch can be the first after an interruption.
    With a folder a signal to stop (:mod:`dedt_lib.interruption`) lets the epoch end and leaves a checkpoint;
    a damaged checkpoint is removed, and the training begins anew.
    """
    epochs, batch_size, seed = settings["epochs"], settings["batch_size"], settings["seed"]
    steps = len(_batches(torch.arange(n), batch_size))
    schedule = make_schedule(settings["schedule"], optimizer, epochs, steps)
    checkpoint = Path(folder) / CHECKPOINT if folder else None
    history = []
    if checkpoint and intact_or_removed(checkpoint, "this training begins anew"):
        history = restore(checkpoint, network, optimizer, schedule, settings)
    bar = tqdm(
        total=epochs * steps,
        initial=len(history) * steps,
        desc=f"train {type(network).__name__}",
        unit="step",
        leave=False,
    )
    # Without a checkpoint there is nothing to stop for at the end of an epoch.
    patient = interruption.postponed() if checkpoint else contextlib.nullcontext()
    with bar, patient, torch.random.fork_rng(devices=[]):
        for epoch in range(len(history), epochs):
            randomness = torch_generator(seed, stream, epoch)
            seed_dropout(derive(seed, f"{stream} dropout", epoch), device)
            order = torch.randperm(n, generator=randomness).to(device)
            total = seen = 0
            for batch in _batches(order, batch_size):
                value = loss(batch, randomness)
                if not torch.isfinite(value):
                    raise DedtError(
                        f"The loss of the {type(network).__name__} is {value.item()} in epoch {epoch + 1}. "
                        "Lower its learning rate, or look for broken images."
                    )
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
                total, seen = total + value.item() * len(batch), seen + len(batch)
                bar.update()
            history.append(total / seen)
            if checkpoint and (epoch + 1 < epochs or interruption.asked()):
                save(checkpoint, network, optimizer, schedule, settings, history)
            if checkpoint and interruption.asked():
                interruption.stop()
    network.eval()
    return np.array(history)


def _batches(order, batch_size):
    """Parts of ``order``; a last one of a single sample is left out, as it has no batch statistics."""
    return [
        batch for batch in order.split(batch_size) if len(batch) > 1 or len(order) == 1 or batch_size == 1
    ]


def make_optimizer(name, network, learning_rate, nesterov):
    """SGD as the cited recipes set it, or AdamW as PyTorch does; raises DedtError for another name."""
    if name == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=nesterov
        )
    if name == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=learning_rate)
    raise DedtError(f"Unknown optimizer '{name}'. Choose one of: sgd, adamw.")


def make_schedule(name, optimizer, epochs, steps_per_epoch):
    """A learning rate for every step: "cosine" to zero, or "steps" down to a fifth at each of MILESTONES."""
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
    if name == "steps":
        milestones = [round(share * epochs) * steps_per_epoch for share in MILESTONES]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    raise DedtError(f"Unknown schedule '{name}'. Choose one of: cosine, steps.")


def random_shift(images, pixels, generator, padding="replicate"):
    """Shift each image by up to ``pixels`` in both directions.

    images: float [n, C, H, W] in [-1, 1].  What comes in is the border again ("replicate") or black ("zero",
    as of the pixels: -1 here).  Raises DedtError for another padding.
    """
    if padding not in ("replicate", "zero"):
        raise DedtError(f"Unknown padding '{padding}'. Choose one of: replicate, zero.")
    if pixels == 0:
        return images
    n, _, height, width = images.shape
    how = {"mode": "replicate"} if padding == "replicate" else {"value": -1.0}
    padded = nn.functional.pad(images, (pixels,) * 4, **how)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=generator)
    rows = (dy + torch.arange(height)).to(images.device)
    columns = (dx + torch.arange(width)).to(images.device)
    which = torch.arange(n, device=images.device)[:, None, None]
    shifted = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return channels_first(shifted)


def random_flip(images, generator):
    """Mirror each image with probability one half."""
    flip = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return channels_first(torch.where(flip[:, None, None, None], images.flip(3), images))


def save(path, network, optimizer, schedule, settings, history):
    """Write a checkpoint atomically: a process killed at any moment leaves the one before."""
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    for k, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{k}/{name}": value for name, value in state.items() if value is not None}
    facts = {
        "settings": settings,
        "losses": history,
        "rates": [group["lr"] for group in optimizer.param_groups],
        "schedule": {name: getattr(schedule, name) for name in ("last_epoch", "_step_count", "_last_lr")},
    }
    with sealed(path) as partial:
        copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        save_file(copies, partial, metadata={"run": json.dumps(facts)})


def restore(path, network, optimizer, schedule, settings):
    """Take up a checkpoint; returns the losses so far.  Raises DedtError for one of another run."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if facts["settings"] != settings:
            raise ValueError(f"it was written with {facts['settings']}, but the settings are {settings}")
        prefix = "network/"
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        state = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, k, key = name.split("/")
                state.setdefault(int(k), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for group, rate in zip(optimizer.param_groups, facts["rates"]):
            group["lr"] = rate
        schedule.load_state_dict(facts["schedule"])
    except Exception as error:
        raise DedtError(
            f"The checkpoint {path} cannot be taken up ({error}). Delete it to train this encoder again."
        ) from error
    return facts["losses"]
