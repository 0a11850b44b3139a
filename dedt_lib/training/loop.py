"""The one training loop, for diffusion models, classifiers, CLIP and autoencoders.

A :class:`Task` defines what differs between kinds of training, and :func:`fit` does the rest.  Everything
random is a function of (seed, stream, step), so a run that was killed ends with the same bits as an
uninterrupted one.  Within a step nothing waits for the device: losses stay there and are fetched every
``devices.FLUSH`` steps.

:class:`Supervised` is the task of classifiers, CLIP and autoencoders; that of diffusion models is in
:mod:`dedt_lib.training.diffusion`.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .. import interruption
from ..arrays import check_choice, check_positive
from ..data import LabelledImages
from ..devices import FLUSH, History, upload
from ..errors import DedtError
from ..files import PATIENCE, intact, make_folder, say_damaged, sealed
from ..processes import Processes
from ..randomness import derive, seed_dropout, torch_generator
from ..weights import save_weights
from . import checkpoint
from .checkpoint import CHECKPOINT

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


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


class Run:
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
) -> Run:
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
    run = Run(task, processes)
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
