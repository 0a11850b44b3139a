"""Latents on disk as a source of training samples: memory-mapped shards, read only at the rows needed."""

import copy
from pathlib import Path
from typing import Self

import numpy as np
import torch

from .devices import upload
from .errors import DedtError
from .files import read_json

INDEX, SHARD = "latents.json", "latents-{:05d}.npy"
RESIDENT = 2**30
"""Size in bytes below which latents are kept on the device."""


class Latents:
    """Posteriors that :func:`dedt_lib.models.autoencoder.encode` wrote, as a source of training samples.

    After :meth:`to`, latents of less than 1 GiB are kept on the device.  Larger ones are read row by row; the
    samples are the same.

    Args:
        folder: Folder of the posteriors.
        labels: int64 [n].
        scaling_factor: Scaling factor of the autoencoder that encoded the images.

    Attributes:
        labels: int64 tensor [n] on the device.
        shape: Shape (c, h, w) of one latent.

    Raises:
        DedtError: The index or a shard is missing or damaged, or the number of labels differs.
    """

    def __init__(self, folder: Path | str, labels: np.ndarray, *, scaling_factor: float) -> None:
        folder = Path(folder)
        facts = read_json(folder / INDEX)
        self.labels, self.scaling_factor = torch.as_tensor(labels, dtype=torch.int64), scaling_factor
        n, self.shard_size, row = facts["images"][0], facts["shard_size"], tuple(facts["row"])
        if len(self.labels) != n:
            raise DedtError(
                f"{folder} holds the latents of {n} images, but there are {len(self.labels)} labels."
            )
        self.views, self.shape = row[0], row[2:]
        count = -(-n // self.shard_size)
        try:
            self.shards = [np.load(folder / SHARD.format(k), mmap_mode="r") for k in range(count)]
        except (OSError, ValueError) as error:
            raise DedtError(
                f"The latents in {folder} are incomplete or damaged ({error}): encode again."
            ) from error
        self.device, self.resident = torch.device("cpu"), None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Self:
        """The same source with its samples on ``device``."""
        moved = copy.copy(self)
        moved.device, moved.resident = torch.device(device), None
        moved.labels = self.labels.to(device)
        if sum(shard.nbytes for shard in self.shards) < RESIDENT:
            moved.resident = torch.from_numpy(np.concatenate(self.shards)).to(device)
        return moved

    def draw(
        self, indices: torch.Tensor, flip: torch.Tensor | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Scaled samples from the posteriors at ``indices``.

        Args:
            indices: int64 [b]; on the host if the latents are not kept on the device.
            flip: bool [b] on the device, True for the mirror image; or None for no flips.
            generator: Random generator on the device of this source.

        Returns:
            float32 [b, c, h, w].

        Raises:
            DedtError: ``flip`` is given, but the mirror images were not encoded.
        """
        mean, deviation = self._posteriors(indices, flip)
        noise = torch.randn(mean.shape, generator=generator, device=self.device)
        return ((mean + deviation * noise) * self.scaling_factor).contiguous()

    def mean(self, indices: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Scaled posterior means at ``indices`` (int64 [b]): float32 [b, c, h, w]."""
        return self._posteriors(torch.as_tensor(indices), None)[0] * self.scaling_factor

    def _posteriors(self, indices, flip):
        """Means and standard deviations: two float32 [b, c, h, w] on the device."""
        if flip is not None and self.views == 1:
            raise DedtError(
                "The mirror images were not encoded: encode with flip=True, or train without flips."
            )
        if self.resident is not None:
            rows = self.resident[upload(indices, self.device)]
        else:
            rows = upload(torch.from_numpy(self._read(indices.cpu().numpy())), self.device)
        rows = rows[:, 0] if flip is None else torch.where(flip.view(-1, 1, 1, 1, 1), rows[:, 1], rows[:, 0])
        return rows.float().unbind(dim=1)

    def _read(self, indices):
        """The rows ``indices`` of the shards: float16 [b, views, 2, c, h, w]."""
        rows = np.empty((len(indices), self.views, 2, *self.shape), np.float16)
        shards, places = np.divmod(indices, self.shard_size)
        for number in np.unique(shards):
            mine = shards == number
            rows[mine] = self.shards[number][places[mine]]
        return rows
