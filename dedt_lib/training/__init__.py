"""Training: one loop, one format of checkpoints, and what diffusion models add to them.

``loop`` trains every network here, and ``checkpoint`` carries its runs over an interruption.  ``diffusion``
trains diffusion models along a plan (:mod:`dedt_lib.plans`).
"""

from ..models.batch import Batch
from ..plans import ClassDrawPlan, EpochPlan, InfoBatchPlan
from .diffusion import Source, TrainingSettings, draw_batch, train

__all__ = [
    "Batch",
    "ClassDrawPlan",
    "EpochPlan",
    "InfoBatchPlan",
    "Source",
    "TrainingSettings",
    "draw_batch",
    "train",
]
