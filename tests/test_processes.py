import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from dedt_lib.errors import DedtError
from dedt_lib.files import locked, read_json
from dedt_lib.processes import Processes
from dedt_lib.shell import cli
from dedt_lib.stages import Lab
from dedt_lib.store import Store

SCRIPT = Path(__file__).with_name("two_processes.py")
# With --cpu accelerate ignores --num_processes and starts one process; --multi_gpu works without a GPU.
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 --main_process_port 0 "
LAUNCH += "--mixed_precision no --dynamo_backend no"


def test_two_processes_give_the_result_of_one(tmp_path):
    """Reference, proxy and weighted run, with dropout and uneven batches, then samples and their FID."""
    for name, how in (("one", []), ("two", LAUNCH.split())):
        done = tiny.python(*how, SCRIPT, tmp_path / name, ACCELERATE_USE_CPU="true", timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "one", tmp_path / "two"
    for root, count in ((one, 1), (two, 2)):
        manifests = [read_json(path) for path in root.glob("training/*/manifest.json")]
        assert [manifest["processes"] for manifest in manifests] == [count] * 2
    weights = [np.load(next(root.glob("proxy/*/weights.npy"))) for root in (one, two)]
    np.testing.assert_allclose(*weights, rtol=1e-6)
    assert weights[0].std() > 0
    # The class weights may differ in their last digits, so the address of the weighted run may differ too.
    models = [sorted(root.glob("*/*/model.safetensors")) for root in (one, two)]
    assert len(models[0]) == len(models[1]) == 5  # encoder, reference, proxy, weighted run, FID network
    # Losses are compared and not weights, because the gradient of a bias before a GroupNorm is only rounding
    # error, which Adam amplifies.
    for stage in ("training", "proxy"):
        losses = [[np.load(path) for path in root.glob(f"{stage}/*/losses.npy")] for root in (one, two)]
        for ours, theirs in zip(*(sorted(curves, key=len) for curves in losses)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    samples = [np.load(next(root.glob("samples/*/samples.npy"))).astype(int) for root in (one, two)]
    assert samples[0].shape == (40, 1, 8, 8) and np.abs(samples[0] - samples[1]).max() <= 1


def test_two_processes_wait_for_a_lock_longer_than_for_each_other(tmp_path):
    """The lock is held for twice the time after which a message between the processes fails."""

    def start(rank):
        command = [sys.executable, SCRIPT.with_name("two_waiting.py"), rank, tmp_path]
        heard = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=tiny.environment(RANK=rank), **heard)

    folder = Store(tmp_path).folder("stage", {"size": 3})
    folder.parent.mkdir()
    with locked(folder, "it"):
        ranks = [start("0"), start("1")]
        assert ranks[0].stdout.readline() == ranks[1].stdout.readline() == "True\n"
        time.sleep(4)
    for rank in ranks:
        error = rank.communicate(timeout=60)[1]
        assert rank.returncode == 0, error
        assert error.count("waiting for the stage 'stage'") == (rank is ranks[0])
    assert (folder / "numbers.txt").read_text() == "1 2 3"


@pytest.mark.parametrize("total, count", [(128, 4), (7, 2), (5, 8)])
def test_the_rows_of_all_processes_are_the_batch(total, count):
    parts = [list(range(total))[Processes(rank, count).rows(total)] for rank in range(count)]
    assert sum(parts, []) == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_copied():
    values, alone = torch.arange(3.0), Processes()
    assert alone.gather(values, 3) is values and alone.main and alone.from_main("x") == "x"
    assert alone.any(True) and not alone.any(False)


def test_the_device_of_a_profile_holds_for_several_processes(monkeypatch):
    asked = []
    monkeypatch.setattr(Processes, "from_environment", lambda device: asked.append(device) or Processes())
    Lab("digits"), Lab("digits", device="cuda", counts=[9]), Lab("paper", counts=[9])
    assert asked == ["cpu", "cuda", None]


def test_an_estimate_takes_one_process(monkeypatch, capsys):
    monkeypatch.setattr(Processes, "from_environment", lambda: Processes(0, 2))
    assert cli.main(["train", "--profile", "smoke", "--ratio", "0.1", "--dry-run"]) == 2
    assert "An estimate takes one process" in capsys.readouterr().err


@pytest.mark.parametrize("size, alone", [("", True), ("1", True), ("2", False), ("many", False)])
def test_a_number_of_processes_that_no_launcher_set_is_refused(size, alone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    if alone:
        assert Processes.from_environment().count == 1
    else:
        with pytest.raises(DedtError, match=f"WORLD_SIZE={size} is set, but not by a launcher"):
            Processes.from_environment()
