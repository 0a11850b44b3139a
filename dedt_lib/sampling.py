"""Class-balanced guided samples by DDIM (Song et al., 2021), batch by batch, resumable."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from tqdm import tqdm

from .models.unet import NOISE_SCHEDULE
from .processes import Processes
from .randomness import torch_generator
from .store import atomic
from .training import autocast


def balanced_labels(n, num_classes):
    """0, 1, .., K-1, 0, 1, ..: int64 [n], the same number of each class when K divides n."""
    return np.arange(n, dtype=np.int64) % num_classes


def initial_noise(numbers, shape, seed, device="cpu"):
    """Gaussian noise for the samples with these numbers; each depends only on (seed, number)."""
    return torch.stack(
        [torch.randn(shape, generator=torch_generator(seed, "sample", int(i))) for i in numbers]
    ).to(device)


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
def ddim(model, noise, labels, *, steps, guidance, keep=()):
    """Turn ``noise`` float [b, C, H, W] into images float [b, C, H, W] in [-1, 1].

    labels: int64 [b].  steps: evenly spaced, the last at t = 0.  guidance: w >= 0.  keep: step numbers
    whose intermediate x_t to return as well.  The clean image is clipped to [-1, 1] at every step and
    the noise recomputed from it; eta = 0, and the last alpha-bar is that of t = 0.
    Returns images, or (images, list of x_t) when ``keep`` is given.
    """
    scheduler = DDIMScheduler(
        **NOISE_SCHEDULE, clip_sample=True, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=0
    )
    scheduler.set_timesteps(steps, device=noise.device)
    x_t, kept = noise, []
    for number, t in enumerate(scheduler.timesteps):
        if number in keep:
            kept.append(x_t)
        eps = guided_noise(model, x_t, t.expand(len(labels)), labels, guidance)
        x_t = scheduler.step(eps, t, x_t, eta=0.0, use_clipped_model_output=True).prev_sample
    x_0 = x_t.clamp(-1, 1)
    return (x_0, [*kept, x_0]) if keep else x_0


def to_uint8(images):
    """float in [-1, 1] to uint8 0..255, rounded to the nearest."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def sample(
    model,
    labels,
    *,
    seed,
    steps,
    guidance,
    batch_size,
    folder=None,
    precision="float32",
    processes=None,
    device="cpu",
):
    """uint8 [n, C, H, W] images of the classes ``labels`` int64 [n].

    With ``folder`` each finished batch is kept there, so that an interrupted call goes on.  With ``processes`` the
    batches are shared out among them, and every process gets all images; this needs a folder.  The images
    do not depend on ``batch_size`` or on the number of processes (up to the rounding of one grey level by
    another order of sums).
    """
    processes = processes or Processes()
    model.to(device).eval()
    labels = np.asarray(labels, dtype=np.int64)
    starts = range(0, len(labels), batch_size)
    batches = {}

    def part(start):
        return Path(folder) / f".batch-{start:07d}-{batch_size}.npy"

    hidden = None if processes.main else True
    mine = starts[processes.rank :: processes.count]
    for start in tqdm(mine, desc="sample", unit="batch", leave=False, disable=hidden):
        if folder and part(start).exists():
            continue
        numbers = range(start, min(start + batch_size, len(labels)))
        noise = initial_noise(numbers, model.sample_shape, seed, device)
        chosen = torch.from_numpy(labels[start : start + batch_size]).to(device)
        with autocast(precision, device):
            images = ddim(model, noise, chosen, steps=steps, guidance=guidance)
        batches[start] = to_uint8(images).cpu().numpy()
        if folder:
            with atomic(part(start)) as partial, open(partial, "wb") as file:
                np.save(file, batches.pop(start))
    processes.wait()
    return np.concatenate([batches[start] if start in batches else np.load(part(start)) for start in starts])
