"""Run the latent models at their published sizes on the CPU: do they work, and how long is a step?

``python benchmarks/full_size_latent.py`` encodes a few generated pictures of 256 pixels with an autoencoder
of Stable Diffusion's size, trains MDT-S/2 on the latents for three steps of Adan (straight through; stopped
after a checkpoint and started again), draws a sample and decodes it, and writes
``benchmarks/full_size_latent.json``.  The weights are random: nothing is downloaded, and nothing is learned.
This takes two minutes, 6 GiB of memory and 2 GB of disk.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from peak_memory import peak_gib

from dedt_lib import latents
from dedt_lib.files import write_json
from dedt_lib.models import autoencoder as autoencoders
from dedt_lib.models import build_model
from dedt_lib.pixels import resize
from dedt_lib.plans import EpochPlan
from dedt_lib.randomness import seeded
from dedt_lib.sampling import respaced_ddpm
from dedt_lib.store import provenance
from dedt_lib.training import TrainingSettings, checkpoint, loop, train
from dedt_lib.weights import read_tensors

RESULT = Path(__file__).with_suffix(".json")
IMAGES, SAMPLING_STEPS = 6, 2
SETTINGS = TrainingSettings(
    epochs=1,
    batch_size=2,
    learning_rate=5e-4,
    warmup_steps=0,
    gradient_clip=1.0,
    ema_decay=0.9999,
    label_dropout=0.1,
    flip=True,
    checkpoint_every=2,
    optimizer="adan",
    ema_warmup="none",
)


def timed(work):
    """The result and the wall-clock seconds of one call."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def autoencoder():
    """An untrained autoencoder of the size of sd-vae-ft-mse."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    ).eval()


def pictures():
    """Generated colour pictures: smooth random fields, uint8 [n, 3, 256, 256]."""
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 8, 8), dtype=np.uint8)
    return resize(coarse, 256)


def fit(source, folder):
    """Train MDT-S/2 for three steps in ``folder``, from the checkpoint there if there is one."""
    folder.mkdir(exist_ok=True)
    plan = EpochPlan(np.arange(IMAGES), total=IMAGES, epochs=1)
    model = seeded(0, "full size", lambda: build_model("mdt"))
    return model, train(model, source, plan, SETTINGS, seed=0, folder=folder)


def stop_after(steps):
    """Make training stop after some steps as by Ctrl-C; returns a function that undoes this."""
    take_step = loop.Run.take_step

    def step(self, *given):
        if self.step == steps:
            raise KeyboardInterrupt
        take_step(self, *given)

    loop.Run.take_step = step
    return lambda: setattr(loop.Run, "take_step", take_step)


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root, torch.no_grad():
        root = Path(root)
        vae = seeded(0, "autoencoder", autoencoder)
        (root / "latents").mkdir()
        _, encoding = timed(
            lambda: autoencoders.encode(
                vae, pictures(), root / "latents", image_size=256, flip=True, batch_size=2
            )
        )
        source = latents.Latents(root / "latents", np.arange(IMAGES), scaling_factor=0.18215)
        with torch.enable_grad():
            (model, whole), training_seconds = timed(lambda: fit(source, root / "whole"))
            undo = stop_after(2)
            try:
                fit(source, root / "parts")
            except KeyboardInterrupt:
                size = (root / "parts" / checkpoint.CHECKPOINT).stat().st_size
            undo()
            _, resumed = fit(source, root / "parts")
        same = [read_tensors(root / name / "model.safetensors") for name in ("whole", "parts")]
        noise = torch.randn((1, 4, 32, 32), generator=torch.Generator().manual_seed(0))
        draws = [torch.Generator().manual_seed(0)]
        x_0, sampling = timed(
            lambda: respaced_ddpm(
                model, noise, torch.tensor([0]), steps=SAMPLING_STEPS, guidance=3.8, generators=draws
            )
        )
        image, decoding = timed(lambda: autoencoders.decode(vae, x_0))
        result = {
            "autoencoder_parameters": sum(p.numel() for p in vae.parameters()),
            "encoding_seconds_per_image": round(encoding / (2 * IMAGES), 2),  # and its mirror image
            "mdt_parameters": sum(p.numel() for p in model.parameters()),
            "batch_size": SETTINGS.batch_size,
            "seconds_per_step": round(whole.seconds / whole.steps, 2),
            "cpu_seconds_per_step": round(whole.cpu_seconds / whole.steps, 2),
            "training_seconds": round(training_seconds, 1),
            "losses": [round(float(loss), 4) for loss in whole.losses],
            "checkpoint_bytes": size,
            "resumed_equals_uninterrupted": bool((whole.losses == resumed.losses).all())
            and all(torch.equal(same[0][name], same[1][name]) for name in same[0]),
            "sampling_seconds_per_step": round(sampling / SAMPLING_STEPS, 2),
            "decoding_seconds_per_image": round(decoding, 2),
            "sample_shape": list(image.shape),
            "peak_memory_gib": round(peak_gib(), 2),
            **provenance(),
        }
    write_json(RESULT, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
