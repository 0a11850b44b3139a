"""Work on a device that nobody waits for: what goes there, what comes back, and at what precision."""

import contextlib
import ctypes

import numpy as np
import torch

from .arrays import check_choice

PRECISIONS = ("float32", "bfloat16")
FLUSH = 20
"""Steps after which training fetches what the device has computed; in between it only gives it work."""


def upload(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on ``device``, without waiting for what the device is at."""
    if torch.device(device).type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is asked for next; no result changes.

    By default glibc hands the large arrays of every layer back to the system and gets them again, page by
    page, which can take a network on photographs more time than its sums.  Other C libraries are left as they
    are.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no array is mapped by itself
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: bytes that may lie unused


def autocast(precision: str, device: torch.device | str) -> contextlib.AbstractContextManager:
    """The context in which a network is run at ``precision``, one of PRECISIONS."""
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


class History:
    """One row of numbers a step: the newest on their device, those that were fetched on the host."""

    def __init__(self, rows: np.ndarray | None = None) -> None:
        self._fetched: list[np.ndarray] = [] if rows is None else [rows]
        self._waiting: list[torch.Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._fetched)) + len(self._waiting)

    def append(self, row: torch.Tensor) -> None:
        """Take the row of a step; nothing waits for its value."""
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
