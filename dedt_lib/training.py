"""The one training loop: reference, proxy, plain, weighted, annealed and InfoBatch runs.

A plan (:mod:`dedt_lib.plans`) says which samples an epoch visits and with what weights; a weighting (group
DRO) may change the weights while training.  Everything random is a function of (seed, stream, step), so a
run that was killed ends with the same bits as one that was not.
"""

import functools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from . import interruption
from .encoders import channels_first, save_weights, to_float
from .errors import DedtError
from .plans import ClassSamplerPlan, EpochPlan, InfoBatchPlan
from .processes import Processes
from .randomness import derive, seed_dropout, torch_generator
from .store import intact, say_damaged, sealed

__all__ = ["Batch", "ClassSamplerPlan", "EpochPlan", "InfoBatchPlan", "TrainingSettings", "train"]

CHECKPOINT = ".checkpoint.safetensors"
"""Kept to the end, for a run that is killed before its result is complete; the store then removes it."""


@dataclass(frozen=True)
class Batch:
    """One training step's draw, shared by every network that looks at it.

    images: float [b, C, H, W], flipped already; pixels in [-1, 1], or scaled latents.  labels: int64 [b],
    true classes.  t: int64 [b] in 0..999.  noise: float [b, C, H, W].  drop: bool [b], labels hidden for
    guidance. extra: what else the model draws in a step, by name: tensors [b, ...].
    """

    images: torch.Tensor
    labels: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor
    drop: torch.Tensor
    extra: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.labels)

    def rows(self, chosen):
        """The part of the batch in the slice ``chosen``."""
        own = (self.images, self.labels, self.t, self.noise, self.drop)
        return Batch(*(values[chosen] for values in own), {k: v[chosen] for k, v in self.extra.items()})


@dataclass(frozen=True)
class TrainingSettings:
    """How a diffusion model is trained; a profile holds the values.

    epochs, batch_size (the last partial batch is kept), learning_rate (constant after a linear warm-up over
    warmup_epochs, each as long as the first, whatever the later ones visit), gradient_clip (global norm),
    ema_decay (see ema_warmup), label_dropout (probability), flip (horizontal), checkpoint_every (steps),
    precision ("float32" or "bfloat16" for the forward and backward pass; weights and optimiser stay float32),
    channels_last and compile (faster on many GPUs, the same result up to rounding).  optimizer: a name of
    OPTIMIZERS.  ema_warmup: see :func:`moving_average`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    gradient_clip: float
    ema_decay: float
    label_dropout: float
    flip: bool
    checkpoint_every: int
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    optimizer: str = "adam"
    ema_warmup: str = "power"


def _adan(parameters, lr):
    from timm.optim import Adan

    return Adan(parameters, lr=lr)


OPTIMIZERS = {
    "adam": functools.partial(torch.optim.Adam, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=1e-2, fused=True),
    "adan": _adan,
}
"""Adam; AdamW with the weight decay of Stable Diffusion's recipe; Adan (Xie et al., 2022)."""


def moving_average(parameters, settings):
    """diffusers' EMA of the weights; its decay after s steps is at most ema_decay.

    ema_warmup "power": 1 - (1 + s)^(-2/3); "reciprocal": (1 + s) / (10 + s), as diffusers' fine-tuning
    script; "none": ema_decay from the second step on, as MDT's code.
    """
    warmup = {
        "power": {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 2 / 3},
        "reciprocal": {},
        "none": {"min_decay": settings.ema_decay},
    }[settings.ema_warmup]
    return EMAModel(parameters, decay=settings.ema_decay, foreach=True, **warmup)


class PixelImages:
    """LabelledImages as the training loop draws them: uint8 on the device, flipped and scaled when drawn."""

    def __init__(self, data):
        self.images, self.labels = torch.from_numpy(data.images), data.labels

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        self.images = self.images.to(device)
        return self

    def draw(self, indices, flip, generator):
        """float [b, C, H, W] in [-1, 1] at ``indices``; flip: bool [b], or None for none."""
        x = to_float(self.images[indices])
        return x if flip is None else channels_first(torch.where(flip[:, None, None, None], x.flip(3), x))


@dataclass
class TrainingResult:
    """What a finished run leaves: losses float32 [steps]; seconds and cpu_seconds of training."""

    steps: int
    images_seen: int
    seconds: float
    cpu_seconds: float
    losses: np.ndarray


def draw_batch(source, indices, settings, seed, step, model=None):
    """The :class:`Batch` of ``step``: images and labels at ``indices`` with this step's random draws.

    source: LabelledImages, or something else that draws (:class:`PixelImages`, latents.Latents).
    indices: int64 tensor [b], on the source's device.  model: asked for its own draws, if it has any.
    """
    source, device, n = as_source(source), indices.device, len(indices)
    generator = torch_generator(seed, "batch", step, device)
    flip = torch.rand(n, generator=generator, device=device) < 0.5 if settings.flip else None
    x = source.draw(indices, flip, generator)
    return Batch(
        images=x,
        labels=torch.from_numpy(source.labels[indices.cpu().numpy()]).to(device),
        t=torch.randint(0, 1000, (n,), generator=generator, device=device),
        noise=torch.randn(x.shape, generator=generator, device=device),
        drop=torch.rand(n, generator=generator, device=device) < settings.label_dropout,
        extra=model.draws(n, generator, device) if hasattr(model, "draws") else {},
    )


def as_source(data):
    """What the training loop draws from: LabelledImages are wrapped, anything that draws is left as it is."""
    return data if hasattr(data, "draw") else PixelImages(data)


def shuffled_epoch(plan, seed, epoch):
    """Indices and weights of an epoch in the order in which they are visited."""
    indices, weights = plan.epoch(epoch)
    order = torch.randperm(len(indices), generator=torch_generator(seed, "order", epoch)).numpy()
    return indices[order], weights[order]


def weighted_mean(losses, weights):
    """sum(w l) / sum(w): the batch-normalised weighted loss of DoReMi; weights of one change no bit."""
    return (losses * weights).mean() / weights.mean()


def batch_loss(losses, weights, normalised=True):
    """The loss of a batch: :func:`weighted_mean`, or sum(w l) / b, in which each weight counts as it stands.

    A batch that holds few samples of large weight divides most of that weight away when it is normalised: on
    long tails a rare class then counts for less than its weight asks.  Group DRO divides all the same, as
    DoReMi's code does; fixed weights do not.
    """
    return weighted_mean(losses, weights) if normalised else (losses * weights).mean()


def autocast(precision, device):
    """The context in which a network is run at ``precision`` ("float32" or "bfloat16")."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


def train(
    model,
    data,
    plan,
    settings,
    *,
    seed,
    folder,
    weighting=None,
    keep_steps=(),
    device="cpu",
    processes=None,
    progress="train",
):
    """Train ``model`` on ``data`` along ``plan``; write its EMA weights into ``folder``.

    data: LabelledImages, or latents (see :func:`draw_batch`).
    weighting: None, or an object called with (losses [b], batch, model) that returns weights [b] (GroupDRO);
    its losses are divided by the mean weight of the batch, those of a plan's own weights are not.
    keep_steps: steps after which the EMA weights are also kept as ``ema-STEP.safetensors``.
    processes: the Processes that share the run; only the main one writes.
    A checkpoint in ``folder`` from an interrupted run is taken up, and the last one stays there; if it is
    damaged, a line says so and the run begins anew.  Returns a TrainingResult and leaves ``model`` with the
    EMA weights.  Raises DedtError for a checkpoint of another run, a full disk, or losses that are not
    finite.
    A signal to stop (:mod:`dedt_lib.interruption`) leaves a checkpoint of the step that was under way.
    """
    folder, processes = Path(folder), processes or Processes()
    model.to(device, memory_format=torch.channels_last if settings.channels_last else None).train()
    optimizer = OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.learning_rate)
    ema = moving_average(model.parameters(), settings)
    run = _Run(model, optimizer, ema, plan, weighting, settings, processes)
    if processes.from_main(processes.main and _can_go_on(folder)):
        run.restore(folder / CHECKPOINT)
    if settings.compile:
        model.compile_network()

    source = as_source(data).to(device)
    total = plan.steps(settings.batch_size)
    hidden = None if processes.main else True
    bar = tqdm(total=total, initial=run.step, desc=progress, unit="step", leave=False, disable=hidden)
    with bar, interruption.postponed():
        for epoch in range(run.epoch, plan.epochs):
            indices, weights = shuffled_epoch(plan, seed, epoch)
            run.start_epoch(epoch)
            chosen = torch.from_numpy(indices).to(device).split(settings.batch_size)
            weights = torch.from_numpy(weights).float().to(device).split(settings.batch_size)
            for batch_indices, batch_weights in list(zip(chosen, weights))[run.position :]:
                seed_dropout(derive(seed, "dropout", run.step), device)
                batch = draw_batch(source, batch_indices, settings, seed, run.step, model)
                run.take_step(batch, batch_weights, batch_indices)
                bar.update()
                if run.step in keep_steps:
                    run.keep_ema(folder / f"ema-{run.step:06d}.safetensors")
                stopping = processes.any(interruption.asked())
                if stopping or (run.step % settings.checkpoint_every == 0 and run.step < total):
                    run.save(folder / CHECKPOINT)
                if stopping:
                    processes.wait()
                    interruption.stop()
    run.stop_clock()
    ema.copy_to(model.parameters())
    losses = np.array(run.losses, dtype=np.float32)
    if processes.main:
        save_weights(model, folder / "model.safetensors")
        np.save(folder / "losses.npy", losses)
    model.eval()
    return TrainingResult(run.step, run.images_seen, run.seconds, run.cpu_seconds, losses)


def _can_go_on(folder):
    """Whether ``folder`` holds a checkpoint to go on from, with all that the run wrote before it.

    What is damaged is removed, the checkpoint first, because only a run from the start makes it again.
    """
    checkpoint = folder / CHECKPOINT
    damaged = [path for path in (checkpoint, *folder.glob("ema-*")) if path.exists() and not intact(path)]
    for path in damaged:
        say_damaged(path, "this run begins anew")
    for path in (checkpoint, *damaged) if damaged else ():
        path.unlink(missing_ok=True)
    return checkpoint.exists()


class _Run:
    """The state of one training run: what a step changes and what a checkpoint holds."""

    def __init__(self, model, optimizer, ema, plan, weighting, settings, processes):
        self.model, self.optimizer, self.ema, self.plan = model, optimizer, ema, plan
        self.weighting, self.settings, self.processes = weighting, settings, processes
        self.parameters = list(model.parameters())
        self.row_layers = [layer for layer in model.modules() if hasattr(layer, "share_rows")]
        self.normalised = weighting is not None
        self.warmup_steps = settings.warmup_epochs * -(-plan.first_epoch // settings.batch_size)
        self.step = self.epoch = self.position = self.images_seen = 0
        self.seconds = self.cpu_seconds = 0.0
        self.losses = []
        self._last = time.perf_counter(), time.process_time()

    def start_epoch(self, epoch):
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def take_step(self, batch, weights, indices):
        """One optimiser step: losses, weights, gradient, clip, optimiser, EMA."""
        mine = self.processes.rows(len(batch))
        for layer in self.row_layers:
            layer.share_rows(mine, len(batch))
        with autocast(self.settings.precision, batch.images.device):
            losses = self.model.losses(self.processes.mine(batch))
            everyone = self.processes.gather(losses.detach(), len(batch))
            if self.weighting is not None:
                weights = weights * self.weighting(everyone, batch, self.model)
        self.plan.record(indices.cpu().numpy(), everyone.float().cpu().numpy())
        loss = batch_loss(everyone, weights, self.normalised)
        if not torch.isfinite(loss):
            raise DedtError(
                f"The loss is {loss.item()} at step {self.step}. Lower the learning rate, or look for broken "
                "images; the last checkpoint is kept."
            )
        self._warm_up()
        self.optimizer.zero_grad()
        self._my_share(losses, weights, mine).backward()
        self.processes.sum_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip)
        self.optimizer.step()
        self.ema.step(self.parameters)
        self.losses.append(loss.item())
        self.step, self.position, self.images_seen = (
            self.step + 1,
            self.position + 1,
            self.images_seen + len(batch),
        )

    def _my_share(self, losses, weights, mine):
        """This process's part of the batch loss; the parts add up to it."""
        if self.processes.count == 1:
            return batch_loss(losses, weights, self.normalised)
        divisor = weights.sum() if self.normalised else len(weights)
        return (losses * weights[mine]).sum() / divisor

    def _warm_up(self):
        factor = min(1.0, (self.step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def stop_clock(self):
        """Add the time since the last call to the run's own clock, which survives interruptions."""
        now = time.perf_counter(), time.process_time()
        self.seconds += now[0] - self._last[0]
        self.cpu_seconds += now[1] - self._last[1]
        self._last = now

    def keep_ema(self, path):
        if not self.processes.main:
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        with sealed(path) as partial:
            save_weights(self.model, partial)
        self.ema.restore(self.parameters)

    def save(self, path):
        """Write a checkpoint atomically: a process killed at any moment leaves the one before."""
        self.stop_clock()
        if not self.processes.main:
            return
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for k, value in enumerate(self.ema.shadow_params):
            tensors[f"ema/{k}"] = value
        for k, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{k}/{name}": value for name, value in state.items()}
        if self.weighting is not None:
            tensors |= {f"weighting/{name}": value for name, value in self.weighting.state().items()}
        tensors |= {f"plan/{name}": torch.as_tensor(value) for name, value in self.plan.state().items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        facts = {name: getattr(self, name) for name in ("step", "epoch", "position", "images_seen")}
        facts |= {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "ema_step": self.ema.optimization_step,
            "optimizer_steps": [group.get("step") for group in self.optimizer.param_groups],
        }
        with sealed(path) as partial:
            copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
            save_file(copies, partial, metadata={"run": json.dumps(facts)})

    def restore(self, path):
        """Go on from a checkpoint; raises DedtError when it is from another run."""
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            part = {}
            for name, value in tensors.items():
                head, _, tail = name.partition("/")
                part.setdefault(head, {})[tail] = value
            self.model.load_state_dict(part["model"])
            self.ema.shadow_params = [part["ema"][str(k)].to(p.device) for k, p in enumerate(self.parameters)]
            self.ema.optimization_step = facts["ema_step"]
            state = {}
            for name, value in part["optimizer"].items():
                k, _, key = name.partition("/")
                state.setdefault(int(k), {})[key] = value
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            for group, step in zip(self.optimizer.param_groups, facts["optimizer_steps"]):
                if step is not None:  # Adan counts its steps for a whole group
                    group["step"] = step
            if self.weighting is not None:
                self.weighting.restore(part["weighting"])
            self.plan.restore({name: value.numpy() for name, value in part.get("plan", {}).items()})
        except Exception as error:
            raise DedtError(
                f"The checkpoint {path} cannot be taken up ({error}). Delete it to start this run again."
            ) from error
        self.losses = tensors["losses"].tolist()
        for name in ("step", "epoch", "position", "images_seen", "seconds", "cpu_seconds"):
            setattr(self, name, facts[name])
        self._last = time.perf_counter(), time.process_time()
