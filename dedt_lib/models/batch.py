"""What the losses of every diffusion model are computed from."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Batch:
    """One training step's draw, shared by every network that looks at it.

    Attributes:
        images: float [b, C, H, W], flipped already; pixels in [-1, 1], or scaled latents.
        labels: int64 [b], true classes.
        t: int64 [b] in 0..999.
        noise: float [b, C, H, W].
        drop: bool [b], labels hidden for guidance.
        extra: What else the model draws in a step, by name: tensors [b, ...].
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
        """The part of the batch in the slice ``chosen``."""
        own = {name: getattr(self, name)[chosen] for name in ("images", "labels", "t", "noise", "drop")}
        return Batch(**own, extra={name: values[chosen] for name, values in self.extra.items()})
