"""Guided samples of given classes, batch by batch, resumable; and DDIM (Song et al., 2021).

MDT has a sampler of its own, in :mod:`dedt_lib.samplers`.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from tqdm import tqdm

from .encoders import to_uint8
from .models.unet import NOISE_SCHEDULE
from .processes import Processes
from .randomness import torch_generator
from .store import create_array, intact_or_removed, sealed, unlink_sealed
from .training import autocast


def balanced_labels(n, num_classes):
    """0, 1, .., K-1, 0, 1, ..: int64 [n], the same number of each class when K divides n."""
    return np.arange(n, dtype=np.int64) % num_classes


def proportional_labels(n, counts):
    """Classes for n samples in the shares of ``counts`` (int [K], images per class): int64 [n].

    Each label is the class that is furthest behind its share so far, the lowest of equals, so that every
    beginning is as near to the shares as it can be.  Equal counts give :func:`balanced_labels`.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if (counts == counts[0]).all():
        return balanced_labels(n, len(counts))
    labels, behind, total = np.empty(n, dtype=np.int64), np.zeros_like(counts), counts.sum()
    for i in range(n):
        behind += counts  # in units of 1 / total, so that nothing is rounded
        labels[i] = behind.argmax()
        behind[labels[i]] -= total
    return labels


def initial_noise(numbers, shape, seed, device="cpu"):
    """Gaussian noise for the samples with these numbers; each depends only on (seed, number)."""
    return torch.stack(
        [torch.randn(shape, generator=torch_generator(seed, "sample", int(i))) for i in numbers]
    ).to(device)


def sample_generators(numbers, seed):
    """A generator for each of the samples with these numbers, for what a sampler draws on its way."""
    return [torch_generator(seed, "sampler", int(i)) for i in numbers]


def pixel_scheduler():
    """DDIM for images in [-1, 1]: clipped at every step, and the last alpha-bar is that of t = 0."""
    return DDIMScheduler(
        **NOISE_SCHEDULE, clip_sample=True, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=0
    )


def guided_noise(model, x_t, t, labels, guidance):
    """(1 + w) eps(x_t, c, t) - w eps(x_t, t), in one doubled batch (paper, Section III-A; Ho & Salimans)."""
    if guidance == 0:
        return model.predict(x_t, t, labels)
    null = torch.full_like(labels, model.null_label)
    conditional, unconditional = model.predict(
        torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([labels, null])
    ).chunk(2)
    return (1 + guidance) * conditional - guidance * unconditional


@torch.no_grad()
def ddim(model, noise, labels, *, steps, guidance, generators=None, keep=()):
    """Turn ``noise`` float [b, C, H, W] into images float [b, C, H, W] in [-1, 1], or into scaled latents.

    labels: int64 [b].  steps: evenly spaced.  guidance: w >= 0.  generators: not used, since eta = 0.  keep:
    step numbers whose intermediate x_t to return as well.  The schedule is the model's own
    (``ddim_scheduler``), else that of pixels, where the noise is recomputed from the clipped clean image.
    On pixels the last of the evaluations sits at the alpha-bar of t = 0, where the steps end, so it changes
    nothing.  FutureXiang/Diffusion takes every timestep one higher; on the digits' model that changes images
    by 0.2 grey levels on average with 20 steps, by 0.1 with 100.
    Returns images, or (images, list of x_t) when ``keep`` is given.
    """
    scheduler = getattr(model, "ddim_scheduler", pixel_scheduler)()
    scheduler.set_timesteps(steps, device=noise.device)
    x_t, kept = noise, []
    for number, t in enumerate(scheduler.timesteps):
        if number in keep:
            kept.append(x_t)
        eps = guided_noise(model, x_t, t.expand(len(labels)), labels, guidance)
        x_t = scheduler.step(eps, t, x_t, eta=0.0, use_clipped_model_output=True).prev_sample
    x_0 = x_t.clamp(-1, 1) if scheduler.config.clip_sample else x_t
    return (x_0, [*kept, x_0]) if keep else x_0


def sample(
    model,
    labels,
    *,
    seed,
    steps,
    guidance,
    batch_size,
    sampler=ddim,
    decode=to_uint8,
    folder=None,
    precision="float32",
    processes=None,
    device="cpu",
):
    """uint8 [n, C, H, W] images of the classes ``labels`` int64 [n].

    sampler: :func:`ddim`, or a function like it.  decode: float [b, ...] that the sampler gives, to uint8
    images. With ``folder`` each finished batch is kept there, so that an interrupted call goes on (a batch
    that was damaged is drawn again), and the result is the memory-mapped ``samples.npy`` in it.  With
    ``processes`` the batches are shared out among them, and every process gets all images; this needs a
    folder.  The images do not depend on ``batch_size`` or on the number of processes (up to the rounding of
    one grey level by another order of sums).
    """
    processes = processes or Processes()
    whole = Path(folder) / "samples.npy" if folder else None
    if folder and processes.from_main(processes.main and intact_or_removed(whole)):
        return np.load(whole, mmap_mode="r")
    model.to(device).eval()
    labels = np.asarray(labels, dtype=np.int64)
    starts = range(0, len(labels), batch_size)
    batches = {}

    def part(start):
        return Path(folder) / f".batch-{start:07d}-{batch_size}.npy"

    hidden = None if processes.main else True
    mine = starts[processes.rank :: processes.count]
    for start in tqdm(mine, desc="sample", unit="batch", leave=False, disable=hidden):
        if folder and intact_or_removed(part(start)):
            continue
        numbers = range(start, min(start + batch_size, len(labels)))
        noise = initial_noise(numbers, model.sample_shape, seed, device)
        chosen = torch.from_numpy(labels[start : start + batch_size]).to(device)
        draws = sample_generators(numbers, seed)
        with autocast(precision, device):
            x_0 = sampler(model, noise, chosen, steps=steps, guidance=guidance, generators=draws)
        batches[start] = decode(x_0).cpu().numpy()
        if folder:
            with sealed(part(start)) as partial, open(partial, "wb") as file:
                np.save(file, batches.pop(start))
    if not folder:
        return np.concatenate([batches[start] for start in starts])
    processes.wait()
    if processes.main:
        _join([part(start) for start in starts], whole, len(labels))
    processes.wait()
    return np.load(whole, mmap_mode="r")


def _join(parts, path, n):
    """Write the batches one after the other into one file, with one of them in memory, and remove them."""
    with sealed(path) as partial:
        joined = create_array(partial, (n, *np.load(parts[0], mmap_mode="r").shape[1:]), np.uint8)
        start = 0
        for part in parts:
            images = np.load(part)
            joined[start : start + len(images)] = images
            start += len(images)
        joined.flush()
    for part in parts:
        unlink_sealed(part)
