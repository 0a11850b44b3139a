"""The only checkpoint format: a safetensors file with tensors by part and name, and JSON in its metadata."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import DedtError
from ..files import sealed

if TYPE_CHECKING:
    from .loop import Task

CHECKPOINT = ".checkpoint.safetensors"
"""File name.  The file stays until the result is complete, in case of a kill; then the store removes it."""
SCHEDULE = ("last_epoch", "_step_count", "_last_lr")

Parts = dict[str, dict[str, torch.Tensor]]


def save(path: Path, task: "Task", parts: Parts, facts: dict) -> None:
    """Write a checkpoint atomically: a process killed at any moment leaves the previous one intact.

    Args:
        path: The file; its digest is written beside it (``files.sealed``).
        task: The :class:`~dedt_lib.training.loop.Task` whose network, optimiser, schedule and EMA are saved.
        parts: Further tensors to save, by part and name.
        facts: Counters of the training loop, JSON-serialisable.

    Raises:
        DedtError: The disk is full.
    """
    optimizer, ema = task.optimizer, task.ema
    parts = {"model": task.network.state_dict(), "optimizer": {}, **parts}
    for k, state in optimizer.state_dict()["state"].items():
        parts["optimizer"] |= {f"{k}/{name}": value for name, value in state.items() if value is not None}
    if ema is not None:
        parts["ema"] = {str(k): value for k, value in enumerate(ema.shadow_params)}
    facts = {
        **facts,
        "settings": task.settings,
        "ema_step": ema and ema.optimization_step,
        # Adan counts its steps per parameter group.
        "groups": [{"lr": group["lr"], "step": group.get("step")} for group in optimizer.param_groups],
        "schedule": {name: getattr(task.schedule, name) for name in SCHEDULE},
    }
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous().clone()
        for part, values in parts.items()
        for name, value in values.items()
    }
    with sealed(path) as partial:
        # JSON has no NumPy scalars.
        save_file(tensors, partial, metadata={"run": json.dumps(facts, default=lambda number: number.item())})


def restore(path: Path, task: "Task") -> tuple[Parts, dict]:
    """Load what :func:`save` wrote into the network, optimiser, schedule, EMA and further state of ``task``.

    Returns:
        (parts, facts) as saved.

    Raises:
        DedtError: The checkpoint belongs to another run or cannot be read.
    """
    try:
        parts, facts = _read(path)
        if facts["settings"] != task.settings:
            raise ValueError(f"it was written with {facts['settings']}, but the settings are {task.settings}")
        task.network.load_state_dict(parts["model"])
        if task.ema is not None:
            shadows = task.ema.shadow_params
            task.ema.shadow_params = [parts["ema"][str(k)].to(p.device) for k, p in enumerate(shadows)]
            task.ema.optimization_step = facts["ema_step"]
        state: dict[int, dict] = {}
        for name, value in parts.get("optimizer", {}).items():
            k, _, key = name.partition("/")
            state.setdefault(int(k), {})[key] = value
        task.optimizer.load_state_dict({**task.optimizer.state_dict(), "state": state})
        for group, kept in zip(task.optimizer.param_groups, facts["groups"]):
            group |= {name: value for name, value in kept.items() if value is not None}
        vars(task.schedule).update(facts["schedule"])
        task.restore(parts)
    except Exception as error:
        raise DedtError(
            f"The checkpoint {path} cannot be resumed ({error}). Delete it to start the run again."
        ) from error
    return parts, facts


def _read(path: Path) -> tuple[Parts, dict]:
    parts: Parts = {}
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["run"])
        for key in file.keys():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = file.get_tensor(key)
    return parts, facts
