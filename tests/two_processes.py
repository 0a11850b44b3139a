"""Run by tests/test_processes.py under ``accelerate launch``: a weighted run with dropout, and its
samples.
"""

import sys

import tiny
import torch

from dedt_lib.experiment import Experiment
from dedt_lib.store import Store

torch.set_num_threads(1)
profile = tiny.profile(
    **{
        "unet.epochs": 3,
        "unet.dropout": 0.3,
        "sample.count": 40,
        "sample.batch_size": 10,
        "reweight.burn_in": 0.0,
        "unet.batch_size": 7,
    }
)
experiment = Experiment(profile, store=Store(sys.argv[1]), device="cpu", reweighting=True)
experiment.sample()
