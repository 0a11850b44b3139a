"""Denoising diffusion autoencoders (Xiang et al., 2023): a diffusion model's decoder as an encoder."""

from typing import Self

import torch
from torch import nn

from ..errors import DedtError
from ..randomness import torch_generator


class DDAE(nn.Module):
    """Pooled activations in the decoder of a diffusion U-Net that sees slightly noisy images without labels.

    Args:
        model: A trained ``models.unet.ConditionalUNet``, preferably with its EMA weights.
        block: Which residual block of the decoder (including its attention, if any), counted from 1 at the
            lowest resolution.  The CIFAR-10 network has 12; the DDAE code reads the 6th, the last at 8x8
            pixels.
        t: Timestep, 0..999 as everywhere in this library.  The DDAE code counts from 1, so its 11 is 10 here.
        draws: Number of noise draws to average over, at least 1.
        seed: Seed of the noise, which depends on (seed, draw) only and is the same for all images, so that
            features depend neither on the batch nor on the order.

    Raises:
        DedtError: The block, the timestep or the number of draws is out of range.
    """

    def __init__(
        self, model: nn.Module, block: int = 6, t: int = 10, *, draws: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        blocks = decoder_blocks(model)
        if not 1 <= block <= len(blocks):
            raise DedtError(
                f"The decoder of this U-Net has blocks 1 to {len(blocks)}; there is no block {block}."
            )
        steps = model.schedule.config.num_train_timesteps
        if not 0 <= t < steps:
            raise DedtError(f"The timestep of a DDAE must lie in 0..{steps - 1}; got {t}.")
        if draws < 1:
            raise DedtError(f"A DDAE needs at least one noise draw; got {draws}.")
        self.model, self.block, self.t, self.draws, self.seed = model, block, t, draws, seed
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever ``mode`` says: with dropout the features would be random."""
        return super().train(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, C, H, W] in [-1, 1] to features [n, block width], averaged over the draws."""
        return torch.stack([self._pooled(images, draw) for draw in range(self.draws)]).mean(dim=0)

    def _pooled(self, images, draw):
        n, device = len(images), images.device
        noise = torch.randn(images.shape[1:], generator=torch_generator(self.seed, "ddae", draw)).to(device)
        t = torch.full((n,), self.t, device=device)
        labels = torch.full((n,), self.model.null_label, device=device)
        outputs = []
        layer = decoder_blocks(self.model)[self.block - 1]
        hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            self.model.predict(self.model.schedule.add_noise(images, noise.expand_as(images), t), t, labels)
        finally:
            hook.remove()
        return outputs[0].mean(dim=(2, 3))


def decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of the decoder from the lowest resolution upwards: out_1, out_2, ... in the DDAE code."""
    layers = []
    for level in model.net.up_blocks:
        layers += getattr(level, "attentions", None) or level.resnets
    return layers
