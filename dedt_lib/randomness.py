"""Randomness as a function of (seed, stream, step), never as hidden state.

Two networks that ask for the same stream and step get the same draw.  A run that is killed and resumed
draws the same values as an uninterrupted one.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # its import takes seconds, and selectors do not need it
    import torch

Made = TypeVar("Made")


def derive(seed: int, stream: str, step: int = 0) -> int:
    """A 63-bit integer that depends on all three arguments.

    Args:
        seed: Seed of the run.
        stream: Name of what the draw is for.
        step: Number of the draw in the stream.

    Returns:
        The same integer for the same arguments, on every machine.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(seed: int, stream: str, step: int = 0, device: str = "cpu") -> "torch.Generator":
    """A fresh ``torch.Generator`` on ``device`` for this (seed, stream, step)."""
    import torch

    return torch.Generator(device).manual_seed(derive(seed, stream, step))


def numpy_generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """A fresh ``numpy.random.Generator`` for this (seed, stream, step)."""
    return np.random.default_rng(derive(seed, stream, step))


def seed_dropout(seed: int, device: "str | torch.device") -> None:
    """Seed the global generators that dropout on ``device`` draws from.

    This avoids ``torch.manual_seed``, which spends a quarter of a millisecond on devices that do not exist.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def seeded(seed: int, stream: str, make: Callable[[], Made]) -> Made:
    """Call ``make()`` with PyTorch's global generator seeded from (seed, stream): same weights each time."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, stream))
        return make()
