# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does an autoencoder keep of an image?
#
# The paper's second half leaves pixel space. A photograph of 256 pixels on a
# side is expensive for a network that evaluates it hundreds of times per
# sample, and most of its numbers encode fine texture. So an **autoencoder** is
# trained first: it encodes an image into a small *latent* and decodes a latent
# into an image. The diffusion model learns the distribution of the latents and
# never sees a pixel
# ([Rombach et al., 2022](https://arxiv.org/abs/2112.10752)). Both models of
# this part work like that: the transformer of [Table IV](16_table4.ipynb) and
# the Stable Diffusion of [Table V](18_table5.ipynb). This chapter asks what is
# lost before any of them has learned anything.

# %% tags=["parameters"]
profile = "digits"
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "seed")

# %% [markdown]
# For the digits everything is small. They are enlarged, and an autoencoder
# with the architecture of Stable Diffusion's, only narrower, is trained on
# them.

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.models import autoencoder
from dedt_lib.pixels import resize, to_float
from dedt_lib.stages import latents

experiment = Experiment(profile, model="mdt", seed=seed)
data, p = experiment.data, experiment.profile
network = latents.autoencoder(experiment.lab).result()
source = experiment.latents
everything = torch.arange(len(data))
{"an image": data.images.shape[1:], "its latent": source.shape}

# %%
weights = sum(w.numel() for w in network.parameters())
Markdown(
    f"The autoencoder has {weights / 1000:.0f} thousand weights and sees the "
    f"digits at {p.autoencoder.image_size} pixels on a side. An image has "
    f"{data.images[0].size} numbers, and its latent has "
    f"{np.prod(source.shape)}."
)

# %% [markdown]
# At the paper's size the saving is large:

# %%
from dedt_lib.config.profile import load_profile
from dedt_lib.stages.models import latent_shape

imagenet = load_profile("imagenet")
side = imagenet.autoencoder.image_size
pixels = imagenet.data.channels * side**2
numbers = np.prod(latent_shape(imagenet.autoencoder))
Markdown(
    f"{pixels:,} numbers of a photograph become {numbers:,}, "
    f"{pixels / numbers:.0f} times fewer."
)

# %% [markdown]
# Images of a few pixels have no fine texture to leave out, so the digits show
# how a latent model works and not what it saves.
#
# ## A latent is a distribution
#
# The encoder does not output a single latent but a normal distribution, with a
# mean and a standard deviation for every number. This distribution is called the
# **posterior**. The decoder is trained on
# samples from this distribution, so that neighbouring latents decode to similar
# images. The figure shows one digit per class: the four channels of the mean,
# red above zero and blue below, and under them the four channels of the
# standard deviation. Look for the digit in the means: its parts are rearranged
# and not just scaled down.

# %%
K = len(data.class_names)
first = [int((data.labels == k).argmax()) for k in range(K)]
few = data.images[first]


def posterior_of(images):
    enlarged = resize(images, p.autoencoder.image_size)
    with torch.no_grad():
        pixels = to_float(torch.from_numpy(enlarged))
        return network.encode(pixels).latent_dist


posterior = posterior_of(few)
mean, deviation = posterior.mean, posterior.std
figures.posteriors(few, mean.numpy(), deviation.numpy())

# %%
Markdown(
    f"The standard deviations are {deviation.mean():.3f} on average, while "
    f"the means spread by {mean.std():.2f} over images and positions. The "
    "smaller the first number is beside the second, the more certain is the "
    "encoder."
)

# %% [markdown]
# ## There and back
#
# An image becomes a latent in three lines: encode, sample from the posterior,
# and multiply by a **scaling factor** that gives all latents together a
# standard deviation of one ([the next chapter](14b_latent_diffusion.ipynb)
# measures it). A latent becomes an image by the same steps backwards.

# %%
from dedt_lib.pixels import to_uint8
from dedt_lib.randomness import torch_generator

side, factor = data.images.shape[2], network.config.scaling_factor
generator = torch_generator(seed, "draw of the latents")

noise = torch.randn(mean.shape, generator=generator)
z = factor * (mean + deviation * noise)

with torch.no_grad():
    decoded = network.decode(z / factor).sample
images = resize(to_uint8(decoded).numpy(), side, antialias=False)

# %% [markdown]
# The library encodes all images once and keeps mean and standard deviation on
# disk, in half precision; every training step samples from them anew. Does it
# draw the same latents, up to this precision, and decode the same images?

# %%
generator = torch_generator(seed, "draw of the latents")
theirs = source.draw(torch.tensor(first), None, generator)
same_images = autoencoder.decode(network, z, size=side) == images
torch.allclose(z, theirs, atol=1e-2), bool(same_images.all())

# %% [markdown]
# ## Reconstruction error
#
# The figure shows images that were encoded and decoded, once from the mean of
# the posterior and once from a sample. The last row is the difference between
# the first two rows, where grey is zero.

# %%
drawn = source.draw(everything, None, generator)
from_mean = autoencoder.decode(network, source.mean(everything), size=side)
from_draw = autoencoder.decode(network, drawn, size=side)
difference = from_mean[first].astype(int) - few + 128
figures.image_rows(
    [few, from_mean[first], from_draw[first], difference.clip(0, 255)],
    ["image", "mean", "sample", "difference"],
)

# %% [markdown]
# Even a perfect model of the latents would use this decoder. The FID of the
# *reconstructions* of all training images is therefore a cost that every model
# of the next chapters pays before it has learned anything. The first row of the
# table does not involve the autoencoder: the images are enlarged and shrunk
# again.

# %%
real = experiment.real()["all"]
enlarged = resize(data.images, p.autoencoder.image_size)
rows = {
    "enlarged and shrunk": resize(enlarged, side, antialias=False),
    "decoded from the mean": from_mean,
    "decoded from a sample": from_draw,
}


def error(images, originals=data.images):
    squares = np.square(images.astype(float) - originals)
    return np.sqrt(squares.mean())


losses = {
    name: {
        "error (grey levels)": error(images),
        "FID": real.distance(experiment.metric_features(images)),
    }
    for name, images in rows.items()
}
losses["real half against real half"] = {"FID": experiment.floor()["fid"]}
pd.DataFrame(losses).T.round(2)

# %% [markdown]
# Reconstructions are compared with their own originals, so a perfect autoencoder
# would have an FID of zero. The last row is only a scale for how large FIDs are
# here. A half holds half as many images, and FID grows as the number of images
# shrinks; two independent full sets would have about half of that value.

# %%
price = losses["decoded from a sample"]["FID"]
chance = experiment.floor()["fid"] / 2
Markdown(
    f"The reconstructions have an FID of {price:.2f} against their own "
    "originals; two independent sets of as many real images would have about "
    f"{chance:.2f}."
)

# %% [markdown]
# ## Mirrored images are encoded anew
#
# Training on photographs also uses their mirror images. Their latents have to
# be encoded from the mirrored pixels, because a mirrored latent does not
# decode to the mirrored image. The figure shows the mirrored images, their
# encoded and decoded versions, and the decoded mirrored latents.

# %%
mirrored = few[..., ::-1].copy()
encoded = factor * posterior_of(mirrored).mean
flipped = factor * mean.flip(3)
by_image = autoencoder.decode(network, encoded, size=side)
by_latent = autoencoder.decode(network, flipped, size=side)
figures.image_rows(
    [mirrored, by_image, by_latent],
    ["mirrored", "its latent", "latent mirrored"],
)

# %%
Markdown(
    "The error against the mirrored image is "
    f"{error(by_image, mirrored):.0f} grey levels with the image mirrored, "
    f"and {error(by_latent, mirrored):.0f} with the latent mirrored."
)

# %% [markdown]
# With `train.flip = true` in a profile both views of every image are therefore
# encoded. The profile `digits` does not mirror, because a mirrored digit is
# another digit, or none.
#
# ## In short
#
# An autoencoder replaces the pixels of an image by a latent, a normal
# distribution per number, from which the decoder nearly restores the image.
# What it does not restore is a cost under the FID of every latent model. A
# latent is no small image: it cannot be mirrored, and its parts are
# rearranged.
#
# ## Try it
#
# - Set `autoencoder.channels = [16, 32]` in a profile of your own, for latents
#   that are half as wide as the enlarged image. How does the FID of the
#   reconstructions change, and how many numbers does a latent then have?
#   ([Solution](solutions_autoencoder.ipynb#Autoencoders))
# - Multiply the deviation in "There and back" by 3, by 10 and by 30. When does the
#   decoded digit become another one?
#   ([Solution](solutions_autoencoder.ipynb#Autoencoders))
# - Next: [diffusion on latents](14b_latent_diffusion.ipynb).
