"""Class-conditional DDPM on pixels (Ho et al., 2020) with label dropout for classifier-free guidance."""

from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from ..errors import DedtError
from .batch import Batch
from .schedule import NOISE_SCHEDULE


class UNet(UNet2DModel):
    """diffusers' U-Net with a fast ``dtype``; the original visits all parameters twice per forward pass."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.conv_in.weight.dtype


class RowDropout(nn.Module):
    """Dropout whose mask does not depend on how many processes share the batch.

    Every process draws the mask of the whole batch and uses its own rows.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.rows: slice | None = None
        self.total: int | None = None

    def share_rows(self, rows: slice, total: int) -> None:
        """Declare that the inputs to come are the slice ``rows`` of a batch of ``total`` rows."""
        self.rows, self.total = rows, total

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """This process's rows [b, ...]; in training each value is set to zero with probability p."""
        if not self.training:
            return x
        rows, total = (slice(None), len(x)) if self.rows is None else (self.rows, self.total)
        keep = torch.empty((total, *x.shape[1:]), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * keep[rows] / (1 - self.p)


class ConditionalUNet(nn.Module):
    """A diffusers U-Net that predicts the noise; the class embedding is added to the time embedding.

    Args:
        channels, image_size: Channels and side of the images.
        num_classes: Number of classes K; label K is the null label.
        block_channels: Width of each resolution level.
        layers: Residual blocks per level.
        attention: For each level, whether it has self-attention.
        dropout: Dropout rate inside the residual blocks.
        groups: Groups of the group normalisation.

    Raises:
        DedtError: The image size cannot be halved from level to level.
    """

    def __init__(
        self,
        *,
        channels: int,
        image_size: int,
        num_classes: int,
        block_channels: Sequence[int],
        layers: int,
        attention: Sequence[bool],
        dropout: float = 0.0,
        groups: int = 8,
    ) -> None:
        super().__init__()
        factor = 2 ** (len(block_channels) - 1)
        if image_size % factor:
            raise DedtError(
                f"An image size of {image_size} does not fit a U-Net with {len(block_channels)} levels, each "
                f"half the size of the one above. Choose a multiple of {factor}, or fewer levels."
            )
        self.null_label = num_classes
        self.sample_shape = (channels, image_size, image_size)
        kinds = ["Attn" if use else "" for use in attention]
        self.net = UNet(
            sample_size=image_size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(block_channels),
            layers_per_block=layers,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            attention_head_dim=None,
            norm_num_groups=groups,
            norm_eps=1e-6,
            flip_sin_to_cos=False,
            freq_shift=1,
            dropout=dropout,
            num_class_embeds=num_classes + 1,
        )
        if dropout:
            for name, layer in list(self.net.named_modules()):
                if isinstance(layer, nn.Dropout):
                    self.net.set_submodule(name, RowDropout(dropout))
        self.schedule = DDPMScheduler(**NOISE_SCHEDULE)

    def compile_network(self) -> None:
        """Compile the network in place; neither its parameter names nor its dropout masks change."""
        import torch._inductor.config

        torch._inductor.config.fallback_random = True
        self.net.compile()

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Noise estimate for x_t float [b, C, H, W] at t int [b] with labels int [b]."""
        return self.net(x_t, t, class_labels=labels).sample.float()

    def element_losses(self, batch: Batch) -> torch.Tensor:
        """(eps_theta(x_t, c, t) - eps)^2 for every pixel: float [b, C, H, W]."""
        x_t = self.schedule.add_noise(batch.images, batch.noise, batch.t)
        labels = torch.where(batch.drop, self.null_label, batch.labels)
        return (self.predict(x_t, batch.t, labels) - batch.noise).square()

    def losses(self, batch: Batch) -> torch.Tensor:
        """||eps_theta(x_t, c, t) - eps||^2 averaged over pixels, one per sample (paper, Eq. 1)."""
        return self.element_losses(batch).mean(dim=(1, 2, 3))
