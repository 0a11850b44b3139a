"""Randomness as a function of (seed, stream, step), never as hidden state.

Two networks that ask for the same stream and step see the same draw; a run that is killed and
resumed draws what it would have drawn anyway.
"""

import hashlib

import numpy as np


def derive(seed, stream, step=0):
    """A 63-bit integer that depends on all three arguments.

    Parameters: ``seed`` int, ``stream`` str (what the draw is for), ``step`` int.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(seed, stream, step=0, device="cpu"):
    """A fresh ``torch.Generator`` on ``device`` for this (seed, stream, step)."""
    import torch

    return torch.Generator(device).manual_seed(derive(seed, stream, step))


def numpy_generator(seed, stream, step=0):
    """A fresh ``numpy.random.Generator`` for this (seed, stream, step)."""
    return np.random.default_rng(derive(seed, stream, step))


def seed_dropout(seed, device):
    """Seed the global generators that dropout on ``device`` draws from.

    Not by ``torch.manual_seed``, which spends a quarter of a millisecond on devices that are not there.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


def seeded(seed, stream, make):
    """Call ``make()`` with PyTorch's global generator set from (seed, stream): same weights each time."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, stream))
        return make()
