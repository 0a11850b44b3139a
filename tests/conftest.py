"""Fixtures that several test files share."""

import os
import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent.parent / folder) for folder in ("tools", "benchmarks")]
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import pytest
import tiny
import torch

from dedt_lib.experiment import Experiment
from dedt_lib.store import Store

# Many tests compare bits, and the order of a sum depends on the number of threads.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden():
    """Numbers made by the reference implementations: ``golden(name)`` is a dict of arrays."""

    def read(name):
        with np.load(Path(__file__).parent / "golden" / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    return read


@pytest.fixture(scope="session")
def digits():
    return tiny.digits()


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """An experiment under the smoke profile; ``smoke.change(...)`` shares its store and networks."""
    store = Store(tmp_path_factory.mktemp("store"))
    return Experiment(tiny.profile(), store=store, device="cpu", method="random")


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """The empty weights folder of a machine that cannot reach the hub and has no hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DEDT_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"
