"""Run by tests/test_processes.py under ``accelerate launch``: a weighted run with dropout, its samples and their FID, from an empty store, where one process alone
measures what all have to draw.
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
        "unet.batch_size": 29,  # of 30 images the last batch has fewer rows than there are processes
    }
)
experiment = Experiment(profile, store=Store(sys.argv[1]), device="cpu", reweighting=True)
experiment.evaluate()
