"""Samples of a trained model."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from .. import sampling
from ..models import autoencoder as ae
from ..randomness import derive
from .base import Cost, Stage
from .embed import LABELS
from .latents import decoder
from .models import to_images
from .train import Snapshot, Train


@dataclass(frozen=True, eq=False)
class Sample(Stage):
    """Generated images uint8 [samples, C, H, W], memory-mapped.

    Attributes:
        model: The run, or the snapshot, whose weights are sampled.
        unguided: Whether guidance is left out.
    """

    model: Train | Snapshot
    unguided: bool = False

    name, resumable, together = "samples", True, True

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

    def labels(self) -> np.ndarray:
        """Classes of the samples, in the shares of the training images: int64 [samples]."""
        return sampling.proportional_labels(self.lab.profile.sample.count, self.lab.class_counts)

    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        """What the sampler gives as uint8 images [b, C, H, W]."""
        if not self.spec.latent:
            return to_images(x_0)
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

        sampling.sample(
            self.model.load(self.model.folder),
            self.labels(),
            seed=self.decides()["seed"],
            batch_size=p.batch_size,
            sampler=self.spec.sampler,
            decode=decode,
            folder=folder,
            precision=p.precision,
            processes=self.lab.processes,
            device=self.lab.device,
            **self.spec.sampling(self.unguided),
        )
        return {"part_seconds": {"decoding": decoding}} if self.spec.latent else {}

    def load(self, folder):
        return np.load(folder / "samples.npy", mmap_mode="r")

    def cost(self):
        p, (channels, height, width) = self.lab.profile, self.lab.shape
        count, how = p.sample.count, self.spec.sampling(self.unguided)
        guided = how["guidance"] > self.spec.unguided
        held = count * channels * height * width
        yield Cost(
            "sampling",
            f"{count:,} samples, {how['steps']} steps" + (", guided" if guided else ""),
            self.spec.label,
            images=count,
            evaluations=count * how["steps"] * (2 if guided else 1),
            bytes=held,
            scratch=held,
        )
        if self.spec.latent:
            yield Cost("decoding", LABELS["vae"], "vae", images=count, evaluations=count)
