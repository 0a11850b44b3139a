"""What stages that train a network share: plans over all images, and the cost of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..data import LabelledImages
from ..plans import EpochPlan
from ..training import Source, TrainingSettings, train
from .base import Cost, size
from .models import ModelSpec

if TYPE_CHECKING:
    from .embed import DDAE, TrainedEncoder
    from .lab import Lab
    from .latents import PretrainPipeline, TrainAutoencoder

MOMENTS = {"adan": 4}
"""Tensors that an optimiser keeps per parameter, if not two."""


def everything(stage: "DDAE | PretrainPipeline") -> EpochPlan:
    """The plan of a stage that visits all the images in every epoch."""
    n = stage.lab.n
    return EpochPlan(np.arange(n), total=n, epochs=stage.settings.epochs)


def train_on_everything(
    stage: "DDAE | PretrainPipeline", model: nn.Module, data: LabelledImages | Source, **how: Any
) -> dict[str, Any]:
    """Train the stage's model by the plan of :func:`everything`; returns facts for its manifest."""
    settings, lab = stage.settings, stage.lab
    how |= {"seed": stage.seed, "device": lab.device, "processes": lab.processes}
    result = train(model, data, everything(stage), settings, **how)
    losses = result.losses.reshape(settings.epochs, -1).mean(axis=1)
    return {"losses": losses.tolist(), "images_seen": result.images_seen}


def training_cost(
    lab: "Lab", spec: ModelSpec, sizes: Sequence[int], settings: TrainingSettings, kind: str, what: str
) -> Cost:
    """Cost of training a diffusion model on as many samples in each epoch as ``sizes`` says."""
    steps, images = sum(-(-size // settings.batch_size) for size in sizes), sum(sizes)
    weights = model_bytes(lab, spec)
    tensors = 2 + MOMENTS.get(settings.optimizer, 2)  # the model, its moving average, and the optimiser's
    work = {"steps": steps, "images": images, "evaluations": spec.evaluations * images}
    scratch = tensors * weights + 8 * steps  # losses in double precision
    return Cost(kind, what, spec.label, **work, bytes=weights + 4 * steps, scratch=scratch)


def epochs_cost(
    stage: "TrainedEncoder | TrainAutoencoder", kind: str, what: str, network: str, moments: int = 2
) -> Cost:
    """Cost of training a stage's network on all images; moments: optimiser tensors kept per weight."""
    n, batch, epochs = stage.lab.n, stage.settings["batch_size"], stage.settings["epochs"]
    alone = n % batch == 1 and 1 < batch < n  # a batch of one has no batch statistics and is left out
    steps, images = epochs * (-(-n // batch) - alone), epochs * (n - alone)
    with torch.device("meta"):
        held = size(stage.build())
    work = {"steps": steps, "images": images, "evaluations": 3 * images}
    return Cost(kind, what, network, **work, bytes=held, scratch=(1 + moments) * held)


def model_bytes(lab: "Lab", spec: ModelSpec) -> int:
    """Bytes of a model's weights."""
    from .latents import source_shape

    shape = source_shape(lab, spec)
    return 4 * lab.remember(("parameters", spec.name), lambda: spec.parameters(shape, lab.class_names))
