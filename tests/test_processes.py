import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dedt_lib.encoders import read_tensors
from dedt_lib.processes import Processes

SCRIPT = Path(__file__).with_name("two_processes.py")
LAUNCH = "-m accelerate.commands.launch --cpu --num_machines 1 --mixed_precision no --dynamo_backend no"


def stages(root, pattern):
    return {path.relative_to(root): path for path in sorted(root.glob(pattern))}


def test_two_processes_give_the_result_of_one(tmp_path):
    """Reference, proxy with group DRO and weighted run, with dropout and uneven batches, and the samples."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    for name, how in (
        ("one", []),
        ("two", [*LAUNCH.split(), "--num_processes", "2", "--main_process_port", "0"]),
    ):
        command = [sys.executable, *how, str(SCRIPT), str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "one", tmp_path / "two"
    weights = [np.load(next(root.glob("proxy/*/weights.npy"))) for root in (one, two)]
    np.testing.assert_allclose(*weights, rtol=1e-6)
    assert weights[0].std() > 0
    # The class weights may differ in their last digits, and with them the address of the weighted run.
    models = [sorted(root.glob("*/*/model.safetensors")) for root in (one, two)]
    assert len(models[0]) == len(models[1]) == 4  # encoder, reference, proxy, weighted run
    for proxy_or_reference in ("proxy", "encoder"):
        a, b = (
            read_tensors(next(root.glob(f"{proxy_or_reference}/*/model.safetensors"))) for root in (one, two)
        )
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], rtol=1e-4, atol=1e-5)
    samples = [np.load(next(root.glob("samples/*/samples.npy"))).astype(int) for root in (one, two)]
    assert samples[0].shape == (40, 1, 8, 8) and np.abs(samples[0] - samples[1]).max() <= 1


@pytest.mark.parametrize("total, count", [(128, 4), (7, 2), (5, 8)])
def test_the_rows_of_all_processes_are_the_batch(total, count):
    parts = [list(range(total))[Processes(rank, count).rows(total)] for rank in range(count)]
    assert sum(parts, []) == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_copied():
    values, alone = torch.arange(3.0), Processes()
    assert alone.gather(values, 3) is values and alone.main and alone.from_main("x") == "x"
