"""Ancestral sampling for latent diffusion transformers (Ho et al., 2020; Nichol & Dhariwal, 2021)."""

import math

import torch
from diffusers import DDPMScheduler

from .errors import DedtError
from .models.unet import NOISE_SCHEDULE


def power_cosine(t, guidance, power=4.0):
    """Guidance scale at timesteps t int [b] of 0..999: float [b], from 1 in pure noise to ``guidance``.

    1 + (g - 1) (1 - cos(pi (1 - t/1000)^power)) / 2 (Gao et al., 2023): weak while the layout forms, strong
    at the end.
    """
    progress = 1 - t / NOISE_SCHEDULE["num_train_timesteps"]
    return 1 + (guidance - 1) * (1 - torch.cos(math.pi * progress**power)) / 2


@torch.no_grad()
def respaced_ddpm(model, noise, labels, *, steps, guidance, generators, keep=()):
    """Turn ``noise`` float [b, C, H, W] into latents float [b, C, H, W] by ancestral sampling.

    model: has ``guided(x_t, t, labels, scale)``, which returns the noise estimate and, if it has
    ``learn_sigma``, in as many channels again how to interpolate the log-variance (learned range); else the
    variance is beta. labels: int64 [b].  steps: 2..1000, spaced evenly from t = 999 to t = 0 (paper: 250).
    guidance: the scale g >= 1 (paper: 3.8).  generators: a torch.Generator for each sample, so that a sample
    does not depend on the batch that it is drawn in.  keep: step numbers whose intermediate x_t to return as
    well. The clean latent is not clipped.  Returns latents, or (latents, list of x_t) when ``keep`` is given.
    MDT's code cuts the decimals off when it turns decoded images into 8 bits; this library rounds, here as
    everywhere, so its images are half a grey level brighter on average.
    Raises DedtError for a number of steps that is out of range.
    """
    if not 2 <= steps <= NOISE_SCHEDULE["num_train_timesteps"]:
        raise DedtError(f"Ancestral sampling takes 2 to 1000 steps; got {steps}.")
    variance = "learned_range" if model.learn_sigma else "fixed_large"
    scheduler = DDPMScheduler(
        **NOISE_SCHEDULE, variance_type=variance, clip_sample=False, timestep_spacing="linspace"
    )
    # The timesteps stay on the CPU: the scheduler looks at their values, and a GPU would have to be waited
    # for.
    scheduler.set_timesteps(steps)
    x_t, kept = noise, []
    for number, t in enumerate(scheduler.timesteps):
        if number in keep:
            kept.append(x_t)
        output = model.guided(x_t, t.to(noise.device).expand(len(labels)), labels, guidance)
        x_t = scheduler.step(output, t, x_t, generator=generators).prev_sample
    return (x_t, [*kept, x_t]) if keep else x_t
