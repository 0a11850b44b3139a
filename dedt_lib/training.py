"""The one training loop, for diffusion models, classifiers, CLIP and autoencoders.

A :class:`Task` defines what differs between kinds of training, and :func:`fit` does the rest.  Everything
random is a function of (seed, stream, step), so a run that was killed ends with the same bits as an
uninterrupted one.  Within a step nothing waits for the device: losses stay there and are fetched every
``devices.FLUSH`` steps.

A diffusion model (plain, weighted, annealed, InfoBatch, proxy) is trained along a plan
(:mod:`dedt_lib.plans`), which says which samples an epoch visits and with what weights.  A weighting (group
DRO) may change the weights during training.
"""

import contextlib
import copy
import functools
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from . import checkpoint, interruption
from .arrays import check_choice, check_positive
from .checkpoint import CHECKPOINT
from .data import LabelledImages
from .devices import FLUSH, PRECISIONS, History, autocast, upload
from .errors import DedtError
from .files import PATIENCE, intact, make_folder, say_damaged, sealed
from .latents import Latents
from .models.batch import Batch
from .pixels import mirrored, to_float
from .plans import EpochPlan, InfoBatchPlan
from .processes import Processes
from .randomness import derive, seed_dropout, torch_generator
from .weights import save_weights

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

    from .reweighting import GroupDRO

MILESTONES = (0.3, 0.6, 0.8)  # of the epochs: 60, 120 and 160 of 200


# ---- optimisers and schedules ----------------------------------------------------------------------


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": functools.partial(torch.optim.Adam, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=1e-2, fused=True),
    "adan": lambda parameters, lr: resolve_name("timm.optim:Adan")(parameters, lr=lr),
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4),
}
"""Adam; AdamW with the weight decay of Stable Diffusion; Adan (Xie et al., 2022); SGD of the classifiers.

Networks other than diffusion models use AdamW with ``fused=False``, the sum order of their stored results.
"""


EMA_WARMUPS: dict[str, Callable[[float], dict[str, Any]]] = {
    "power": lambda decay: {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 2 / 3},
    "reciprocal": lambda decay: {},
    "none": lambda decay: {"min_decay": decay},
}
"""Name -> function from the decay to arguments of diffusers' EMA: see :func:`moving_average`."""


def moving_average(parameters: Iterable[nn.Parameter], settings: "TrainingSettings") -> "EMAModel":
    """diffusers' EMA of the weights, whose decay after s steps is at most ema_decay.

    ema_warmup "power": 1 - (1 + s)^(-2/3); "reciprocal": (1 + s) / (10 + s), as in diffusers' fine-tuning
    script; "none": ema_decay from the second step on, as in MDT's code.
    """
    from diffusers.training_utils import EMAModel

    warmup = EMA_WARMUPS[settings.ema_warmup](settings.ema_decay)
    return EMAModel(parameters, decay=settings.ema_decay, foreach=True, **warmup)


def make_schedule(
    name: str, optimizer: torch.optim.Optimizer, epochs: int, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rate per optimiser step: "cosine" to zero, or "steps" to a fifth at each of MILESTONES."""
    check_choice("schedule", name, ("cosine", "steps"))
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
    milestones = [round(share * epochs) * steps_per_epoch for share in MILESTONES]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)


# ---- the loop --------------------------------------------------------------------------------------


class Task:
    """Base class of one kind of training, for :func:`fit`.

    Attributes:
        network: The network to train, on its device.
        optimizer, schedule: Those of PyTorch; the schedule steps after every step of the optimiser.
        epochs, steps: Length of the whole run; ``steps`` is the largest possible number.
        seed, dropout: The dropout of a step is a function of (seed, dropout, step).
        checkpoint_every: Steps between checkpoints.
        ema: Moving average of the weights, or None.
        clip: Largest norm of the gradient, or None.
        generator: Random generator that the steps of an epoch share, or None if every step has its own.
        settings: What identifies this run, JSON-serialisable; a checkpoint with other settings is refused.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    epochs: int
    steps: int
    seed: int
    checkpoint_every: int
    dropout: str = "dropout"
    ema: "EMAModel | None" = None
    clip: float | None = None
    generator: torch.Generator | None = None
    settings: dict = {}

    def batches(self, epoch: int) -> Sequence:
        """Batches of an epoch, made at its start: tuples of tensors, the indices [b] first."""
        raise NotImplementedError

    def loss(self, step: int, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch, and the part of it that this process minimises: two scalars on the device."""
        raise NotImplementedError

    def state(self) -> checkpoint.Parts:
        """Further state for a checkpoint: tensors by part and name."""
        return {}

    def restore(self, parts: checkpoint.Parts) -> None:
        """Continue from a :meth:`state`."""


class _Run:
    """State of a running task: what a step changes and a checkpoint stores."""

    COUNTERS = ("step", "epoch", "position", "images_seen", "seconds", "cpu_seconds")

    def __init__(self, task: Task, processes: Processes | None = None) -> None:
        self.task, self.processes = task, processes or Processes()
        self.model, self.optimizer = task.network, task.optimizer
        self.parameters = list(task.network.parameters())
        self.step = self.epoch = self.position = self.images_seen = 0
        self.seconds = self.cpu_seconds = 0.0
        self.losses, self._generator_state = History(), None
        self._last = time.perf_counter(), time.process_time()

    def start(self, epoch: int) -> Sequence:
        """The remaining batches of ``epoch``."""
        batches = self.task.batches(epoch)
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0
        elif self._generator_state is not None:
            self.task.generator.set_state(self._generator_state)
        return batches[self.position :]

    def take_step(self, batch: Any) -> None:
        """One training step: loss, gradient, clipping, optimiser, schedule, EMA."""
        task = self.task
        seed_dropout(derive(task.seed, task.dropout, self.step), self.parameters[0].device)
        loss, share = task.loss(self.step, batch)
        self.optimizer.zero_grad()
        share.backward()
        self.processes.sum_gradients(self.parameters)
        if task.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, task.clip)
        self.optimizer.step()
        task.schedule.step()
        if task.ema is not None:
            task.ema.step(self.parameters)
        self.losses.append(loss)
        self.step, self.position = self.step + 1, self.position + 1
        self.images_seen += len(batch[0])

    def flush(self) -> None:
        """Fetch the losses from the device; raises DedtError if one is not finite."""
        losses = self.losses.fetch()
        for k in np.flatnonzero(~np.isfinite(losses))[:1]:
            raise DedtError(
                f"The loss of the {type(self.model).__name__} is {losses[k]} at step {self.step - len(losses) + k}. "
                "Lower the learning rate, or check the images. The last checkpoint is kept."
            )

    def stop_clock(self) -> None:
        """Add the time since the last call to the run's own clock, which survives interruptions."""
        now = time.perf_counter(), time.process_time()
        self.seconds += now[0] - self._last[0]
        self.cpu_seconds += now[1] - self._last[1]
        self._last = now

    def keep_ema(self, path: Path) -> None:
        """Write the EMA weights of this step to ``path``."""
        self.flush()
        ema = self.task.ema
        if ema is not None and self.processes.main:
            ema.store(self.parameters)
            ema.copy_to(self.parameters)
            with sealed(path) as partial:
                save_weights(self.model, partial)
            ema.restore(self.parameters)

    def save(self, path: Path) -> None:
        """Write a checkpoint; raises DedtError instead if a new loss is not finite."""
        self.flush()
        self.stop_clock()
        if self.processes.main:
            parts = {**self.task.state(), "run": {"losses": torch.from_numpy(self.losses.rows())}}
            if self.task.generator is not None:
                parts["run"]["generator"] = self.task.generator.get_state()
            checkpoint.save(path, self.task, parts, {name: getattr(self, name) for name in self.COUNTERS})

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint; raises DedtError if it belongs to another run."""
        parts, facts = checkpoint.restore(path, self.task)
        self.losses = History(parts["run"]["losses"].numpy())
        self._generator_state = parts["run"].get("generator")
        for name in self.COUNTERS:
            setattr(self, name, facts[name])
        self._last = time.perf_counter(), time.process_time()


def fit(
    task: Task,
    *,
    folder: Path | str | None,
    progress: str,
    processes: Processes | None = None,
    keep_steps: Collection[int] = (),
) -> _Run:
    """Train ``task.network`` to the end of its epochs.

    Args:
        task: What to train, and how.
        folder: Folder of the checkpoint, from which an interrupted run continues, or None for none.  If the
            checkpoint is damaged, a line reports it and the run starts again.
        progress: Title of the progress bar.
        processes: Processes that share the run; only the main one writes.
        keep_steps: Steps after which the EMA weights are also kept, as ``ema-STEP.safetensors``.

    Returns:
        The finished run, with its losses and counters.

    Raises:
        DedtError: The folder cannot be written, the checkpoint belongs to another run, the disk is full, or
            losses are not finite.
        interruption.Stopped: A signal asked to stop; the last finished step is in a checkpoint.
    """
    run = _Run(task, processes)
    processes, folder = run.processes, Path(folder) if folder else None
    if folder and processes.main:
        make_folder(folder, "Choose")
    if folder and processes.from_main(processes.main and _can_go_on(folder)):
        run.restore(folder / CHECKPOINT)
    how = {"unit": "step", "leave": False, "disable": processes.hides_bars}
    bar = tqdm(None, progress, task.steps, initial=run.step, **how)
    # Several processes ask each other only at every look, at first after one step: it may take long.
    every, looked, since = FLUSH if processes.count == 1 else 1, run.step, time.perf_counter()
    # Without checkpoints there is no reason to finish a step before stopping.
    patient = interruption.postponed() if folder else contextlib.nullcontext()
    # The first to ask for a trained network, and so to train it, may be in a block without gradients.
    with bar, patient, torch.random.fork_rng(devices=[]), torch.enable_grad():
        for epoch in range(run.epoch, task.epochs):
            for batch in run.start(epoch):
                run.take_step(batch)
                bar.update()
                looks = run.step - looked >= every or run.step == task.steps
                if looks:
                    run.flush()
                    each = (time.perf_counter() - since) / (run.step - looked)
                    every = processes.from_main(max(1, min(FLUSH, int(PATIENCE / each))))
                    looked, since = run.step, time.perf_counter()
                if folder and run.step in keep_steps:
                    run.keep_ema(folder / f"ema-{run.step:06d}.safetensors")
                # Asking the other processes means waiting for them.
                stopping = folder and (looks or processes.count == 1) and processes.any(interruption.asked())
                due = run.step % task.checkpoint_every == 0 and run.step < task.steps
                if folder and (stopping or due):
                    run.save(folder / CHECKPOINT)
                if stopping:
                    processes.wait()
                    interruption.stop()
    run.flush()
    run.stop_clock()
    return run


def _can_go_on(folder):
    """Whether ``folder`` holds a checkpoint to continue from, undamaged like the EMA weights beside it.

    If any of these files is damaged, the checkpoint is removed first and then the damaged files, because only
    a run from the start writes them again.
    """
    first = folder / CHECKPOINT
    damaged = [path for path in (first, *folder.glob("ema-*")) if path.exists() and not intact(path)]
    for path in damaged:
        say_damaged(path, "the run starts again")
    for path in (first, *damaged) if damaged else ():
        path.unlink(missing_ok=True)
    return first.exists()


# ---- classifiers, CLIP, autoencoders ---------------------------------------------------------------


class Supervised(Task):
    """Minimise a loss over all samples, shuffled in every epoch, with a checkpoint after each epoch.

    Args:
        network: The network, on ``device``.
        loss: Called with the indices of a batch, int64 [b] on the device, and a generator on the host for
            random draws; returns a scalar.
        optimizer: One of OPTIMIZERS, over the parameters of ``network``.
        data: The samples.
        settings: epochs, batch_size, seed, schedule (:func:`make_schedule`), and whatever else identifies
            the run.
        stream: Name of its randomness, a function of (seed, stream, epoch).
        device: Device of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        data: LabelledImages,
        settings: dict,
        *,
        stream: str,
        device: torch.device | str,
    ) -> None:
        check_positive(epochs=settings["epochs"], batch_size=settings["batch_size"])
        self.network, self.optimizer = network.train(), optimizer
        self.settings, n = {**settings, "data": data.fingerprint}, len(data)
        self.epochs, self.seed = settings["epochs"], settings["seed"]
        self.dropout, self._stream = f"{stream} dropout", stream
        self._loss, self._n, self._device = loss, n, device
        self._sizes = [len(batch) for batch in self._split(torch.arange(n))]
        self.checkpoint_every = len(self._sizes)
        self.steps = self.epochs * self.checkpoint_every
        self.schedule = make_schedule(settings["schedule"], optimizer, self.epochs, self.checkpoint_every)

    def batches(self, epoch: int) -> list[tuple[torch.Tensor]]:
        """The indices of all samples, shuffled, in batches."""
        self.generator = torch_generator(self.seed, self._stream, epoch)
        order = upload(torch.randperm(self._n, generator=self.generator), self._device)
        return [(batch,) for batch in self._split(order)]

    def _split(self, order):
        """Batches of ``order``; a last one with a single sample is dropped, as it has no batch statistics."""
        size = self.settings["batch_size"]
        return [batch for batch in order.split(size) if len(batch) > 1 or len(order) == 1 or size == 1]

    def loss(self, step: int, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of the batch, twice, since one process computes all of it."""
        value = self._loss(batch[0], self.generator)
        return value, value

    def train(self, folder: Path | str | None) -> np.ndarray:
        """Train with :func:`fit`; returns mean losses float64 [epochs], leaves the network in eval mode."""
        run = fit(self, folder=folder, progress=f"train {type(self.network).__name__}")
        self.network.eval()
        sizes = self._sizes
        epochs: np.ndarray = run.losses.rows().astype(np.float64).reshape(self.epochs, -1)
        return np.array([sum(value * size for value, size in zip(row, sizes)) / sum(sizes) for row in epochs])


# ---- diffusion models ------------------------------------------------------------------------------


SPEED = ("checkpoint_every", "channels_last", "compile")
"""Settings that change only the speed of a run; ``book.results.FREE`` names them too."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a diffusion model is trained; a profile holds the values.

    Attributes:
        epochs: Epochs of the plan.
        batch_size: Samples per batch; the last partial batch is kept.
        learning_rate: Constant after a linear warm-up over ``warmup_steps`` plus ``warmup_epochs``, each as
            long as the first epoch, even if later ones differ.  A warm-up in steps is equally long for few
            and for many images.
        gradient_clip: Largest global norm of the gradient.
        ema_decay, ema_warmup: See :func:`moving_average`.
        label_dropout: Probability that a label is hidden, for guidance.
        flip: Mirror each image with probability 1/2.
        checkpoint_every: Steps between checkpoints.
        precision: "float32" or "bfloat16", of the forward and backward pass; weights and optimiser stay
            float32.
        channels_last, compile: Faster on many GPUs, with the same result up to rounding.
        optimizer: A name in OPTIMIZERS.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
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
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("ema_warmup", self.ema_warmup, EMA_WARMUPS)
        check_choice("precision", self.precision, PRECISIONS)
        sizes = ("epochs", "batch_size", "checkpoint_every")
        check_positive(**{name: getattr(self, name) for name in sizes})

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result."""
        return {name: value for name, value in vars(self).items() if name not in SPEED}


@dataclass
class TrainingResult:
    """Result of a finished run: losses float32 [steps]; seconds and cpu_seconds of training."""

    steps: int
    images_seen: int
    seconds: float
    cpu_seconds: float
    losses: np.ndarray


class PixelImages:
    """LabelledImages as a source of training samples: uint8 on the device, flipped and scaled when drawn."""

    def __init__(self, data: LabelledImages) -> None:
        self.images, self.labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)

        self.shape, self.content = data.images.shape[1:], data.fingerprint

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Self:
        """The same source on ``device``."""
        moved = copy.copy(self)
        moved.images, moved.labels = self.images.to(device), self.labels.to(device)
        return moved

    def draw(
        self, indices: torch.Tensor, flip: torch.Tensor | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Images float [b, C, H, W] in [-1, 1] at ``indices`` int64 [b]; flip: bool [b], or None for none."""
        x = to_float(self.images[upload(indices, self.images.device)])
        return x if flip is None else mirrored(x, flip)


Source = PixelImages | Latents
"""A source of training samples: it has ``labels``, moves with ``to`` and returns samples from ``draw``."""


def as_source(data: LabelledImages | Source) -> Source:
    """A source of training samples: LabelledImages are wrapped, other sources are returned as they are."""
    return PixelImages(data) if isinstance(data, LabelledImages) else data


def draw_batch(
    source: LabelledImages | Source,
    indices: torch.Tensor,
    settings: TrainingSettings,
    seed: int,
    step: int,
    model: nn.Module | None = None,
) -> Batch:
    """The :class:`Batch` of ``step``: images and labels at ``indices`` with this step's random draws.

    Args:
        source: LabelledImages, or another source (:class:`PixelImages`, ``latents.Latents``).
        indices: int64 [b], on the host or on the device of the source.
        settings: Used for flip and label_dropout.
        seed: All draws are a function of ``seed`` and ``step``.
        step: Training step, from 0.
        model: Makes its own draws as well, if it has any.
    """
    source, n, draws = as_source(source), len(indices), getattr(model, "draws", None)
    device = source.labels.device
    generator = torch_generator(seed, "batch", step, device)
    flip = torch.rand(n, generator=generator, device=device) < 0.5 if settings.flip else None
    x = source.draw(indices, flip, generator)
    return Batch(
        images=x,
        labels=source.labels[upload(indices, device)],
        t=torch.randint(0, 1000, (n,), generator=generator, device=device),
        noise=torch.randn(x.shape, generator=generator, device=device),
        drop=torch.rand(n, generator=generator, device=device) < settings.label_dropout,
        extra=draws(n, generator, device) if draws else {},
    )


def shuffled_epoch(plan: EpochPlan | InfoBatchPlan, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64 [m] and weights float64 [m] of an epoch, in the shuffled order of the visits."""
    indices, weights = plan.epoch(epoch)
    order = torch.randperm(len(indices), generator=torch_generator(seed, "order", epoch)).numpy()
    return indices[order], weights[order]


def batch_loss(losses: torch.Tensor, weights: torch.Tensor, normalised: bool = True) -> torch.Tensor:
    """The loss of a batch: sum(w l) / sum(w) if ``normalised``, else sum(w l) / b.

    In a batch with few samples of large weight, the normalisation divides most of that weight away: on
    long-tailed data a rare class then counts for less than its weight.  Group DRO normalises nevertheless, as
    DoReMi's code does; with fixed weights nothing is normalised.
    """
    weighted = (losses * weights).mean()
    return weighted / weights.mean() if normalised else weighted  # weights that are all one change no bit


class _Diffusion(Task):
    """Training of a diffusion model along a plan; the arguments are those of :func:`train`."""

    ema: "EMAModel"

    def __init__(
        self,
        model: nn.Module,
        data: LabelledImages | Source,
        plan: EpochPlan | InfoBatchPlan,
        settings: TrainingSettings,
        *,
        seed: int,
        weighting: "GroupDRO | None" = None,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        self.device, self.processes = torch.device(device), processes or Processes()
        layout = torch.channels_last if settings.channels_last else None
        self.network = model.to(device, memory_format=layout).train()
        source = as_source(data)
        self.source, self.plan = source.to(device), plan
        self.settings = {**settings.decisive, "seed": seed, "visits": _visits(plan, source)}
        self.settings["weighting"] = getattr(weighting, "settings", None)
        self.options, self.weighting = settings, weighting
        self.seed, self.epochs, self.checkpoint_every = seed, plan.epochs, settings.checkpoint_every
        self.steps, self.clip = plan.steps(settings.batch_size), settings.gradient_clip
        if not self.steps:
            raise DedtError("The plan visits no samples, so there is nothing to train on.")
        _check_fit(model, source, settings, weighting)
        self.optimizer = OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.learning_rate)
        warmup: float = settings.warmup_steps
        if settings.warmup_epochs:
            warmup += settings.warmup_epochs * -(-len(plan.epoch(0)[0]) // settings.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0
        )
        self.ema = moving_average(model.parameters(), settings)
        self._row_layers = [layer for layer in model.modules() if hasattr(layer, "share_rows")]
        self._seen: list[tuple] = []  # indices and losses of this epoch, if the plan needs them
        if settings.compile:
            model.compile_network()

    def batches(self, epoch: int) -> list[tuple]:
        self._tell_plan()
        size = self.options.batch_size
        indices, weights = map(torch.from_numpy, shuffled_epoch(self.plan, self.seed, epoch))
        weights = upload(weights.float(), self.device)
        return [pair for pair in zip(indices.split(size), weights.split(size)) if len(pair[0])]

    def loss(self, step: int, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        (indices, weights), model = batch, self.network
        drawn = draw_batch(self.source, indices, self.options, self.seed, step, model)
        mine = self.processes.rows(len(drawn))
        for layer in self._row_layers:
            layer.share_rows(mine, len(drawn))
        with autocast(self.options.precision, self.device):
            own = self.processes.mine(drawn)
            # A batch may have fewer rows than there are processes.
            losses = model.losses(own) if len(own) else next(model.parameters()).flatten()[:0]
            everyone = self.processes.gather(losses.detach(), len(drawn))
            if self.weighting is not None:
                weights = weights * self.weighting(everyone, drawn, model)
        if self.plan.needs_losses:
            self._seen.append((indices, everyone))
        normalised = self.weighting is not None
        loss = batch_loss(everyone, weights, normalised)
        if self.processes.count == 1:
            return loss, batch_loss(losses, weights, normalised)
        # The parts of all processes add up to the loss.
        return loss, (losses * weights[mine]).sum() / (weights.sum() if normalised else len(weights))

    def _tell_plan(self):
        if self._seen:
            indices, losses = map(torch.cat, zip(*self._seen))
            self.plan.record(indices.numpy(), losses.float().cpu().numpy())
            self._seen.clear()

    def state(self) -> checkpoint.Parts:
        self._tell_plan()
        plan = {name: torch.as_tensor(value) for name, value in self.plan.state().items()}
        return {"plan": plan, **({} if self.weighting is None else {"weighting": self.weighting.state()})}

    def restore(self, parts: checkpoint.Parts) -> None:
        if self.weighting is not None:
            self.weighting.restore(parts["weighting"])
        self.plan.restore({name: value.numpy() for name, value in parts.get("plan", {}).items()})


def _check_fit(model, source, settings, weighting):
    """Raise DedtError unless a model's classes and size, where it has them, are those of the images."""
    K, size = getattr(model, "null_label", None), getattr(model, "sample_shape", None)
    largest, counts = int(source.labels.max()), getattr(weighting, "counts", None)
    if K is not None and largest >= K and settings.label_dropout < 1:
        raise DedtError(
            f"The largest label is {largest}, but the model has {K} classes, 0..{K - 1}: build it for the "
            "classes of the images."
        )
    if size is not None and tuple(source.shape) != tuple(size):
        raise DedtError(
            f"The model draws {tuple(size)} (channels, height, width), but the images or latents are "
            f"{tuple(source.shape)}: build it for their size."
        )
    if counts is not None and largest >= len(counts):
        raise DedtError(
            f"Group DRO has the counts of {len(counts)} classes, but the largest label is {largest}: give it "
            "the images of every class."
        )


def _visits(plan, source):
    """Digest of what a run visits: images, labels, the plan's scalars, its first and (if fixed) last epoch."""
    content = getattr(source, "content", "")
    scalars = int | float | str | None
    numbers = sorted((name, value) for name, value in vars(plan).items() if isinstance(value, scalars))
    digest = hashlib.sha256(repr((type(plan).__name__, numbers, content)).encode())
    ends = (0, plan.epochs - 1) if not plan.needs_losses else (0,)
    for values in (source.labels.cpu().numpy(), *(part for e in ends for part in plan.epoch(e))):
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def train(
    model: nn.Module,
    data: LabelledImages | Source,
    plan: EpochPlan | InfoBatchPlan,
    settings: TrainingSettings,
    *,
    seed: int,
    folder: Path | str,
    weighting: "GroupDRO | None" = None,
    keep_steps: Collection[int] = (),
    device: torch.device | str = "cpu",
    processes: Processes | None = None,
    progress: str = "train",
) -> TrainingResult:
    """Train a diffusion model on ``data`` along ``plan``; write its EMA weights into ``folder``.

    Training continues from a checkpoint in ``folder``, if there is one, and the last checkpoint stays there.
    A checkpoint with another seed, other settings, other labels or another plan is refused.  Afterwards
    ``model`` has the EMA weights and is in eval mode.

    Args:
        model: See :mod:`dedt_lib.models`.
        data: LabelledImages, or latents (see :func:`draw_batch`).
        plan: Which samples an epoch visits, and with what weights.
        settings: Training settings.
        seed: Seed of the order of the samples and of every draw.
        folder: Folder for ``model.safetensors`` and ``losses.npy``.
        weighting: None, or called with (losses [b], batch, model) to return weights [b] (GroupDRO).  The loss
            is then divided by the mean weight of the batch, which is not done with a plan's weights alone.
        keep_steps: As in :func:`fit`.
        processes: As in :func:`fit`.
        progress: As in :func:`fit`.
        device: Device to train on.

    Raises:
        DedtError, interruption.Stopped: As in :func:`fit`.
    """
    task = _Diffusion(
        model, data, plan, settings, seed=seed, weighting=weighting, device=device, processes=processes
    )
    run = fit(task, folder=folder, progress=progress, processes=processes, keep_steps=keep_steps)
    task.ema.copy_to(model.parameters())
    losses: np.ndarray = run.losses.rows().astype(np.float32)
    if run.processes.main:
        save_weights(model, Path(folder) / "model.safetensors")
        np.save(Path(folder) / "losses.npy", losses)
    model.eval()
    return TrainingResult(run.step, run.images_seen, run.seconds, run.cpu_seconds, losses)
