"""Samples of a trained model."""

import time

import numpy as np
import torch

from .. import sampling
from ..models import autoencoder as ae
from ..pixels import to_uint8
from ..randomness import derive
from .base import Cost, Stage
from .embed import LABELS
from .latents import decoder
from .train import Snapshot, Train


class Sample(Stage):
    """Generated images uint8 [samples, C, H, W], memory-mapped.

    Attributes:
        model: The run, or the snapshot, whose weights are sampled.
        unguided: Whether guidance is left out.
    """

    model: Train | Snapshot
    unguided: bool = False

    name, resumable, together, file, mapped = "samples", True, True, "samples.npy", "r"

    @property
    def spec(self):
        """The kind of model."""
        return self.model.spec

    def inputs(self):
        return {"model": self.model, **({"decoder": decoder(self.lab)} if self.spec.latent else {})}

    def decides(self):
        p = self.lab.profile.sample
        seed = derive(self.model.seed, "sampling")
        return {"count": p.count, "seed": seed, "precision": p.precision, **self.spec.sampling(self.unguided)}

    def check(self):
        self.spec.check_steps()

    def labels(self) -> np.ndarray:
        """Classes of the samples, in the proportions of the training images: int64 [samples]."""
        return sampling.proportional_labels(self.lab.profile.sample.count, self.lab.class_counts)

    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        """Decode the output of the sampler to images uint8 [b, C, H, W]."""
        if not self.spec.latent:
            return to_uint8(x_0)
        network = decoder(self.lab).result().to(x_0.device)
        return torch.from_numpy(ae.decode(network, x_0, size=self.lab.shape[1]))

    def work(self, folder):
        p, decoding = self.lab.profile.sample, 0.0

        def decode(x_0: torch.Tensor) -> torch.Tensor:
            nonlocal decoding
            start = time.perf_counter()
            images = self.decode(x_0)
            decoding += time.perf_counter() - start
            return images

        how = {"seed": self.decides()["seed"], "batch_size": p.batch_size, "precision": p.precision}
        how |= {"sampler": self.spec.sampler, "decode": decode, **self.spec.sampling(self.unguided)}
        where = {"folder": folder, "processes": self.lab.processes, "device": self.lab.device}
        sampling.sample(self.model.load(self.model.folder), self.labels(), **how, **where)
        return {"part_seconds": {"decoding": decoding}} if self.spec.latent else {}

    def cost(self):
        p, (channels, height, width) = self.lab.profile, self.lab.shape
        count, how = p.sample.count, self.spec.sampling(self.unguided)
        guided = how["guidance"] > self.spec.unguided
        held = count * channels * height * width
        what = f"{count:,} samples, {how['steps']} steps" + (", guided" if guided else "")
        work = {"images": count, "evaluations": count * how["steps"] * (2 if guided else 1)}
        yield Cost("sampling", what, self.spec.label, **work, bytes=held, scratch=held)
        if self.spec.latent:
            yield Cost("decoding", LABELS["vae"], "vae", images=count, evaluations=count)
