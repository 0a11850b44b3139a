"""The linear noise schedule (Ho et al., 2020), with its schedules for guidance and DDIM sampling."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


class NoiseSchedule(nn.Module):
    """Tables over t of the linear noise schedule for the losses, float32 [1000], computed in float64.

    signal, deviation: x_t = signal x_0 + deviation eps.
    weight: min(SNR, 5) / SNR (Hang et al., 2023).
    reach: distance between two posterior means whose noise estimates differ by 1.
    log_beta, log_posterior: upper and lower bound of the log-variance of x_{t-1}.
    """

    def __init__(self) -> None:
        super().__init__()
        first, last = NOISE_SCHEDULE["beta_start"], NOISE_SCHEDULE["beta_end"]
        beta = torch.linspace(first, last, NOISE_SCHEDULE["num_train_timesteps"], dtype=torch.float64)
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        posterior = beta * (1 - before) / (1 - alpha_bar)
        # At t = 0 the posterior variance is zero, so that of t = 1 replaces it.
        posterior = torch.cat([posterior[1:2], posterior[1:]])
        tables = {
            "signal": alpha_bar.sqrt(),
            "deviation": (1 - alpha_bar).sqrt(),
            "weight": (5 * (1 - alpha_bar) / alpha_bar).clamp(max=1),
            "reach": beta / ((1 - beta) * (1 - alpha_bar)).sqrt(),
            "log_beta": beta.log(),
            "log_posterior": posterior.log(),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def forward(self, t: torch.Tensor, *names: str) -> list[torch.Tensor]:
        """The named tables at t int64 [b], each float [b, 1, 1, 1]."""
        return [getattr(self, name)[t].view(-1, 1, 1, 1) for name in names]


def power_cosine(t: torch.Tensor, guidance: float, power: float = 4.0) -> torch.Tensor:
    """Guidance scale float [b] at t int [b] in 0..999; it rises from 1 in pure noise to ``guidance``.

    1 + (g - 1) (1 - cos(pi (1 - t/1000)^power)) / 2 (Gao et al., 2023): guidance is weak while the layout
    forms and strong at the end.
    """
    progress = 1 - t / NOISE_SCHEDULE["num_train_timesteps"]
    return 1 + (guidance - 1) * (1 - torch.cos(math.pi * progress**power)) / 2


def pixel_scheduler() -> "DDIMScheduler":
    """DDIM for images in [-1, 1]; it clips at every step, and its final alpha-bar is that of t = 0."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        **NOISE_SCHEDULE, clip_sample=True, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=0
    )
