"""One training step of every network on photographs: ``python one_step.py CHANNELS SIZE ...``.

The tests run this in a separate process, because a fault in a kernel ends the process.  It prints the network
and the size before each step, and stops at an image whose memory layout is not contiguous.
"""

import sys
import tempfile

import numpy as np
import tiny
import torch
from torch import nn

from dedt_lib import data, encoders, latents
from dedt_lib.models import autoencoder, build_model, stable_diffusion
from dedt_lib.plans import EpochPlan
from dedt_lib.training import train

FIT = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "seed": 0}
UNET = {"block_channels": (4, 4, 4), "layers": 1, "attention": (False,) * 3, "groups": 4}


def photographs(channels, size, classes=2):
    """One image per class; in memory the channels come last, as image readers leave them."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (classes, size, size, channels), dtype=np.uint8)
    names = tuple(f"kind {k}" for k in range(classes))
    return data.LabelledImages(pixels.transpose(0, 3, 1, 2), np.arange(classes), names, names)


def watched(network):
    """The network, with a hook that checks the strides of every image before its first convolution."""

    def look(layer, inputs):
        (x,) = inputs
        _, c, h, w = x.shape
        assert x.stride() == (c * h * w, h * w, w, 1), (tuple(x.shape), x.stride())
        network.seen = True

    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(look)
    return network


def classifier(name, images, **changes):
    channels = images.images.shape[1]
    network = watched(encoders.build(name, channels=channels, num_classes=2, width=8))
    encoders.train_classifier(network, images, **{**FIT, **changes})
    return network


def clip(images):
    network = watched(encoders.build("clip", channels=3, num_classes=2, width=8))
    encoders.train_clip(network, images, **FIT)
    return network


def diffusion(network, source):
    plan = EpochPlan(np.arange(2), total=2, epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        train(watched(network), source, plan, tiny.settings(epochs=1), seed=0, folder=folder)
    return network


def unet(images):
    _, channels, size, _ = images.images.shape
    return diffusion(build_model("unet", channels=channels, image_size=size, num_classes=2, **UNET), images)


def train_autoencoder(vae, images):
    autoencoder.train_autoencoder(vae, images, image_size=images.images.shape[-1], **FIT)
    return vae


def latent_models(images):
    """The autoencoder, then MDT and Stable Diffusion's U-Net on its latents."""
    _, channels, size, _ = images.images.shape
    vae = watched(autoencoder.small_autoencoder(channels, widths=(4, 4, 4, 4)))
    yield "autoencoder", lambda: train_autoencoder(vae, images)
    with tempfile.TemporaryDirectory() as folder:
        autoencoder.encode(vae, images.images, folder, image_size=size, flip=True)
        source = latents.Latents(folder, images.labels, scaling_factor=1.0)
        mdt = tiny.mdt(input_size=size // 8, num_classes=2)
        yield "mdt", lambda: diffusion(mdt, source)
        pipe = stable_diffusion.tiny_pipeline(vae, image_size=size, block_channels=(8, 8))
        sd = stable_diffusion.StableDiffusion(pipe, images.class_names, image_size=size)
        yield "stable diffusion", lambda: diffusion(sd, source)


def steps(channels, size):
    """(name, step) of each network; a step returns the network after it."""
    images = photographs(channels, size)
    yield "resnet18", lambda: classifier("resnet18", images)
    yield "classifier", lambda: classifier("classifier", images)
    yield "clip", lambda: clip(images)
    yield "unet", lambda: unet(images)
    yield from latent_models(images)
    if size == 64:  # Inception enlarges every image to the same size
        yield "resnet18, flips", lambda: classifier("resnet18", images, shift=4, padding="zero", flip=True)
        yield "resnet18, flips only", lambda: classifier("resnet18", images, shift=0, flip=True)
        yield "inceptionv3", lambda: classifier("inceptionv3", images)


if __name__ == "__main__":
    torch.set_num_threads(1)
    channels, *sizes = map(int, sys.argv[1:])
    for size in sizes:
        for name, step in steps(channels, size):
            print(f"{name}, {size} pixels, {channels} channels", flush=True)
            assert step().seen
    print("done", flush=True)
