"""Run by tests/test_processes.py under ``accelerate launch``: a weighted run with dropout, samples and FID.

The store is empty at first: one process computes the metrics, but all processes have to draw the samples.
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
        "unet.batch_size": 29,  # the last batch of 30 images has fewer rows than there are processes
    }
)
experiment = Experiment(profile, store=Store(sys.argv[1]), device="cpu", reweighting=True)
experiment.evaluate()
