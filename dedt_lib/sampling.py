"""Guided sampling of given classes in resumable batches: DDIM (Song et al., 2021), ancestral sampling.

A sampler is a function like :func:`ddim`; MDT is sampled with :func:`respaced_ddpm`.
"""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .arrays import check_labels, check_positive
from .devices import autocast
from .errors import DedtError
from .files import claim, intact_or_removed, join, keep_part
from .models.schedule import NOISE_SCHEDULE, pixel_scheduler
from .pixels import to_uint8
from .processes import Processes
from .randomness import torch_generator
from .weights import key_of

INDEX, PARTS = ".samples.json", (".batch-*.npy", "samples.npy")
"""File that records which call the samples in a folder belong to, and patterns of the files with samples."""


def balanced_labels(n: int, num_classes: int) -> np.ndarray:
    """0, 1, .., K-1, 0, 1, ..: int64 [n], the same number of each class when K divides n."""
    return np.arange(n, dtype=np.int64) % num_classes


def proportional_labels(n: int, counts: np.ndarray) -> np.ndarray:
    """Classes for n samples in the proportions of ``counts`` (int [K], images per class): int64 [n].

    Each label is the class furthest behind its share so far (the lowest on ties), so that every prefix of the
    labels is as close to the proportions as possible.  Equal counts give :func:`balanced_labels`.

    Raises:
        DedtError: A count is negative or not an integer, or all are zero.
    """
    counts = np.asarray(counts)
    if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0 or not counts.any():
        raise DedtError(
            f"Counts of images per class must be whole numbers, not all zero; got {counts.tolist()}."
        )
    counts = counts.astype(np.int64)
    if (counts == counts[0]).all():
        return balanced_labels(n, len(counts))
    labels: np.ndarray = np.empty(n, dtype=np.int64)
    behind, total = np.zeros_like(counts), counts.sum()
    for i in range(n):
        behind += counts  # in units of 1 / total, so that nothing is rounded
        labels[i] = behind.argmax()
        behind[labels[i]] -= total
    return labels


def initial_noise(
    numbers: Iterable[int], shape: tuple[int, ...], seed: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Gaussian noise float ``[n, *shape]`` for samples ``numbers``; each depends on (seed, number) only."""
    return torch.stack(
        [torch.randn(shape, generator=torch_generator(seed, "sample", int(i))) for i in numbers]
    ).to(device)


def sample_generators(numbers: Iterable[int], seed: int) -> list[torch.Generator]:
    """One generator for each of the samples ``numbers``, for the random draws of the sampler."""
    return [torch_generator(seed, "sampler", int(i)) for i in numbers]


def guided_noise(
    model: nn.Module, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, guidance: float
) -> torch.Tensor:
    """(1 + w) eps(x_t, c, t) - w eps(x_t, t), in one doubled batch (paper, Section III-A; Ho & Salimans)."""
    if guidance == 0:
        return model.predict(x_t, t, labels)
    null = torch.full_like(labels, model.null_label)
    conditional, unconditional = model.predict(
        torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([labels, null])
    ).chunk(2)
    return (1 + guidance) * conditional - guidance * unconditional


def check_ddim_steps(steps: int, offset: int = 0) -> None:
    """Raise DedtError for a number of steps with which DDIM would start in the middle of the schedule.

    The steps lie 1000 // steps timesteps apart, from t = ``offset`` up (diffusers' spacing "leading").  Some
    numbers, such as 501, then start where x_t is not yet pure noise.  Fewer than five steps always do.
    """
    first = offset + (steps - 1) * (1000 // max(1, steps))
    if not 1 <= steps <= 1000 or first > 999 or (steps > 4 and first < 800):
        raise DedtError(
            f"{steps} steps of DDIM cannot be spread evenly over the timesteps 0 to 999. Use a divisor of 1000, "
            "such as 50, 100 or 500."
        )


def check_ancestral_steps(steps: int) -> None:
    """Raise DedtError unless ancestral sampling can take so many steps."""
    if not 2 <= steps <= NOISE_SCHEDULE["num_train_timesteps"]:
        raise DedtError(f"Ancestral sampling needs 2 to 1000 steps; got {steps}.")


@torch.no_grad()
def ddim(
    model: nn.Module,
    noise: torch.Tensor,
    labels: torch.Tensor,
    *,
    steps: int,
    guidance: float,
    generators: list[torch.Generator] | None = None,
    keep: Collection[int] = (),
) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
    """Turn noise into images, or into scaled latents, by DDIM (Song et al., 2021).

    The scheduler is the model's own (``ddim_scheduler``), else the one for pixels, where the noise is
    recomputed from the clipped clean image.  On pixels the last evaluation is at alpha-bar of t = 0, where
    the steps end, so it changes nothing.  In FutureXiang/Diffusion every timestep is higher by one.  For the
    digits model this changes images by 0.2 grey levels on average with 20 steps, by 0.1 with 100.

    Args:
        model: See :mod:`dedt_lib.models`.
        noise: float [b, C, H, W].
        labels: int64 [b].
        steps: Number of evenly spaced steps, see :func:`check_ddim_steps`.
        guidance: Guidance weight w >= 0.
        generators: Not used, since eta = 0.
        keep: Step numbers whose intermediate x_t to return as well.

    Returns:
        x_0, float [b, C, H, W], pixels in [-1, 1]; with ``keep`` (x_0, list of the x_t and x_0).

    Raises:
        DedtError: The number of steps is unsuitable.
    """
    scheduler = getattr(model, "ddim_scheduler", pixel_scheduler)()
    check_ddim_steps(steps, scheduler.config.steps_offset)
    # The timesteps stay on the host: the scheduler reads their values, which would mean waiting for a device.
    scheduler.set_timesteps(steps)
    x_t, kept = noise, []
    for number, t in enumerate(scheduler.timesteps):
        if number in keep:
            kept.append(x_t)
        eps = guided_noise(model, x_t, t.to(noise.device).expand(len(labels)), labels, guidance)
        x_t = scheduler.step(eps, t, x_t, eta=0.0, use_clipped_model_output=True).prev_sample
    x_0 = x_t.clamp(-1, 1) if scheduler.config.clip_sample else x_t
    return (x_0, [*kept, x_0]) if keep else x_0


def sample(
    model: nn.Module,
    labels: np.ndarray,
    *,
    seed: int,
    steps: int,
    guidance: float,
    batch_size: int,
    sampler: Callable = ddim,
    decode: Callable[[torch.Tensor], torch.Tensor] = to_uint8,
    folder: Path | str | None = None,
    precision: str = "float32",
    processes: Processes | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Generate images of given classes.

    The images do not depend on ``batch_size`` or on the number of processes (up to one grey level, as another
    order of sums can round differently).

    Args:
        model: See :mod:`dedt_lib.models`.
        labels: int64 [n].
        seed: Each sample's noise is a function of (seed, its number).
        steps: Number of steps of the sampler.
        guidance: Guidance as the sampler defines it: 0 is none for :func:`ddim`, 1 for :func:`respaced_ddpm`.
        batch_size: Samples per batch.
        sampler: :func:`ddim`, or a function like it.
        decode: Turns the sampler's output, float [b, ...], into uint8 images.
        folder: Keeps the finished batches, so that an interrupted call with the same arguments resumes (a
            damaged batch is drawn again); the result is then its memory-mapped ``samples.npy``.
        precision: "float32" or "bfloat16".
        processes: Processes that share the batches; each returns all images.  Several of them need a folder.
        device: Device to sample on.

    Returns:
        uint8 [n, C, H, W].

    Raises:
        DedtError: Labels or steps are invalid, samples are not finite, or the folder holds samples of another
            model, other labels or settings.
    """
    processes, labels = processes or Processes(), check_labels(labels)
    check_positive(steps=steps, batch_size=batch_size)
    if labels.max() > model.null_label:
        raise DedtError(
            f"The largest label is {labels.max()}, but the model has {model.null_label} classes, from 0, and "
            "the label after them for none."
        )
    facts = {"model": key_of(model), "labels": hashlib.sha256(labels.data).hexdigest(), "seed": int(seed)}
    facts |= {"sampler": getattr(sampler, "__name__", ""), "steps": int(steps), "guidance": float(guidance)}
    facts["precision"] = precision
    starts, mine = range(0, len(labels), batch_size), slice(processes.rank, None, processes.count)

    def draw(k: int) -> np.ndarray:
        """The k-th batch of this process, decoded to uint8."""
        numbers = range(len(labels))[starts[mine][k] :][:batch_size]
        noise = initial_noise(numbers, model.sample_shape, seed, device)
        draws = sample_generators(numbers, seed)
        chosen = torch.from_numpy(labels[numbers]).to(device)
        with autocast(precision, device):
            x_0 = sampler(model, noise, chosen, steps=steps, guidance=guidance, generators=draws)
        if not torch.isfinite(x_0).all():
            raise DedtError(
                "The samples are not finite: the model's weights are damaged, or its training diverged."
            )
        return decode(x_0).cpu().numpy()

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        whole = place / "samples.npy"
        parts = [place / f".batch-{start:07d}-{batch_size}.npy" for start in starts]
        if processes.main:
            claim(place / INDEX, facts, PARTS, "samples of another model or other settings")
        if not processes.from_main(processes.main and intact_or_removed(whole)):
            model.to(device).eval()
            how = {"unit": "batch", "leave": False, "disable": processes.hides_bars}
            for k, part in enumerate(tqdm(parts[mine], "sample", **how)):
                keep_part(part, partial(draw, k))
            processes.wait()
            if processes.main:
                join(parts, whole, len(labels))
            processes.wait()
        return np.load(whole, mmap_mode="r" if folder else None)


@torch.no_grad()
def respaced_ddpm(
    model: nn.Module,
    noise: torch.Tensor,
    labels: torch.Tensor,
    *,
    steps: int,
    guidance: float,
    generators: list[torch.Generator],
    keep: Collection[int] = (),
) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
    """Turn noise into latents by ancestral sampling with fewer steps (Nichol & Dhariwal, 2021).

    The clean latent is not clipped.  MDT's code truncates when it converts decoded images to 8 bits.  This
    library rounds, here as everywhere, so its images are half a grey level brighter on average.

    Args:
        model: Its ``guided(x_t, t, labels, scale)`` returns the noise estimate and, with ``learn_sigma``, in
            as many further channels how to interpolate the log-variance (learned range); else the variance is
            beta.
        noise: float [b, C, H, W].
        labels: int64 [b].
        steps: 2..1000, spaced evenly from t = 999 to t = 0 (paper: 250).
        guidance: Guidance scale g >= 1 (paper: 3.8).
        generators: One per sample, so that a sample does not depend on its batch.
        keep: Step numbers whose intermediate x_t to return as well.

    Returns:
        x_0, float [b, C, H, W]; with ``keep`` (x_0, list of the x_t and x_0).

    Raises:
        DedtError: The number of steps is out of range.
    """
    from diffusers import DDPMScheduler

    check_ancestral_steps(steps)
    variance = "learned_range" if model.learn_sigma else "fixed_large"
    how = {"variance_type": variance, "clip_sample": False, "timestep_spacing": "linspace"}
    scheduler = DDPMScheduler(**NOISE_SCHEDULE, **how)
    scheduler.set_timesteps(steps)  # on the host, as in ddim
    x_t, kept = noise, []
    for number, t in enumerate(scheduler.timesteps):
        if number in keep:
            kept.append(x_t)
        output = model.guided(x_t, t.to(noise.device).expand(len(labels)), labels, guidance)
        x_t = scheduler.step(output, t, x_t, generator=generators).prev_sample
    return (x_t, [*kept, x_t]) if keep else x_t
