"""The batch from which every diffusion model computes its losses."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Batch:
    """Samples and random draws of one training step, shared by all networks that are compared on it.

    Attributes:
        images: float [b, C, H, W], already flipped; pixels in [-1, 1], or scaled latents.
        labels: int64 [b], the true classes.
        t: Timesteps, int64 [b] in 0..999.
        noise: float [b, C, H, W].
        drop: bool [b], whether the label is hidden (label dropout for classifier-free guidance).
        extra: Further random tensors [b, ...] that the model draws in a step, by name.
    """

    images: torch.Tensor
    labels: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor
    drop: torch.Tensor
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: slice) -> "Batch":
        """The samples of the batch in the slice ``chosen``."""
        own = {name: getattr(self, name)[chosen] for name in ("images", "labels", "t", "noise", "drop")}
        return Batch(**own, extra={name: values[chosen] for name, values in self.extra.items()})
