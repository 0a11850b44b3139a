"""Asynchronous work on a device: uploads, results fetched in batches, and numerical precision."""

import contextlib
import ctypes

import numpy as np
import torch

from .arrays import check_choice

PRECISIONS = ("float32", "bfloat16")
FLUSH = 20
"""Steps between two fetches of losses in training; in between, nothing waits for the device."""


def upload(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a host tensor to ``device`` without waiting for the work that is pending there."""
    if torch.device(device).type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for later allocations; no result changes.

    By default glibc returns the large arrays of every layer to the system and requests them again, page by
    page.  For a network on photographs this can take longer than its arithmetic.  Other C libraries are left
    unchanged.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation gets a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: free bytes to keep


def autocast(precision: str, device: torch.device | str) -> contextlib.AbstractContextManager:
    """Context manager in which a network runs at ``precision``, one of PRECISIONS."""
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


class History:
    """One row of numbers per step: the newest are still on their device, fetched ones are on the host."""

    def __init__(self, rows: np.ndarray | None = None) -> None:
        self._fetched: list[np.ndarray] = [] if rows is None else [rows]
        self._waiting: list[torch.Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._fetched)) + len(self._waiting)

    def append(self, row: torch.Tensor) -> None:
        """Add the row of a step without waiting for its value."""
        self._waiting.append(row.detach())

    def fetch(self) -> np.ndarray:
        """Wait for the rows [m, ...] that are still on the device, and return them."""
        if not self._waiting:
            return np.empty(0)
        self._fetched.append(torch.stack(self._waiting).cpu().numpy())
        self._waiting.clear()
        return self._fetched[-1]

    def rows(self) -> np.ndarray:
        """The rows [T, ...] of all steps."""
        self.fetch()
        self._fetched = [np.concatenate(self._fetched or [np.empty(0)])]
        return self._fetched[0]
