"""Run twice by tests/test_processes.py: one rank of a run, waiting for a stage that is locked elsewhere."""

import datetime
import sys

import torch

from dedt_lib import files, store
from dedt_lib.processes import Processes

files.PATIENCE = 0.5
rank, root = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo",
    init_method=f"file://{root}/meeting",
    rank=rank,
    world_size=2,
    timeout=datetime.timedelta(seconds=2),
)
processes = Processes(rank, 2, "cpu")


def work(folder):
    if processes.main:
        (folder / "numbers.txt").write_text("1 2 3")


print(processes.any(rank == 1), flush=True)
store.Store(root).run("stage", {"size": 3}, work, resumable=True, processes=processes)
