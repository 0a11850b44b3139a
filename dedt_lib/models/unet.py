"""Class-conditional DDPM on pixels (Ho et al., 2020) with label dropout for classifier-free guidance."""

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from ..errors import DedtError

NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


class UNet(UNet2DModel):
    """diffusers' U-Net; its own ``dtype`` walks through all parameters twice in every forward pass."""

    @property
    def dtype(self):
        return self.conv_in.weight.dtype


class RowDropout(nn.Module):
    """Dropout whose mask does not depend on how many processes share the batch.

    Every process draws the mask of the whole batch and uses its own rows of it.
    """

    def __init__(self, p):
        super().__init__()
        self.p, self.rows, self.total = p, None, None

    def share_rows(self, rows, total):
        """From now on the input is the slice ``rows`` of a batch of ``total`` rows."""
        self.rows, self.total = rows, total

    def forward(self, x):
        if not self.training:
            return x
        rows, total = (slice(None), len(x)) if self.rows is None else (self.rows, self.total)
        keep = torch.empty((total, *x.shape[1:]), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * keep[rows] / (1 - self.p)


class ConditionalUNet(nn.Module):
    """A diffusers U-Net that predicts the noise; the class embedding is added to the time embedding.

    channels, image_size: of the images.  num_classes: K; label K is the null label.
    block_channels: width of each resolution level.  layers: residual blocks per level.
    attention: for each level, whether it has self-attention.  dropout: inside the residual blocks.
    Raises DedtError for an image size that the levels cannot halve.
    """

    def __init__(
        self, *, channels, image_size, num_classes, block_channels, layers, attention, dropout=0.0, groups=8
    ):
        super().__init__()
        factor = 2 ** (len(block_channels) - 1)
        if image_size % factor:
            raise DedtError(
                f"Images of {image_size} pixels do not fit a U-Net of {len(block_channels)} levels, each "
                f"half as large as the one before. Choose a multiple of {factor}, or fewer levels."
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

    def compile_network(self):
        """Compile the network in place; the names of its weights stay."""
        self.net.compile()

    def predict(self, x_t, t, labels):
        """Noise estimate for x_t float [b, C, H, W] at t int [b] with labels int [b]."""
        return self.net(x_t, t, class_labels=labels).sample.float()

    def element_losses(self, batch):
        """(eps_theta(x_t, c, t) - eps)^2 of every pixel: float [b, C, H, W]."""
        x_t = self.schedule.add_noise(batch.images, batch.noise, batch.t)
        labels = torch.where(batch.drop, self.null_label, batch.labels)
        return (self.predict(x_t, batch.t, labels) - batch.noise).square()

    def losses(self, batch):
        """||eps_theta(x_t, c, t) - eps||^2 averaged over pixels, one per sample (paper, Eq. 1)."""
        return self.element_losses(batch).mean(dim=(1, 2, 3))
