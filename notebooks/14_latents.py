# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Into latent space
#
# The paper's second half leaves pixel space. A photograph of 256 pixels on a
# side is expensive for a network that evaluates it hundreds of times per
# sample, and most of its numbers encode fine texture. So an **autoencoder** is
# trained first: it encodes an image into a small *latent* and decodes a latent
# into an image. The diffusion model learns the distribution of the latents and
# never sees a pixel
# ([Rombach et al., 2022](https://arxiv.org/abs/2112.10752)). Both models of
# this part work like that: the transformer of [Table IV](16_table4.ipynb) and
# the Stable Diffusion of [Table V](18_table5.ipynb).

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
# mean and a standard deviation for every number. The decoder is trained on
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
mean, deviation = posterior.mean.numpy(), posterior.std.numpy()
figures.posteriors(few, mean, deviation)

# %%
Markdown(
    f"The standard deviations are {deviation.mean():.3f} on average, while "
    f"the means spread by {mean.std():.2f} over images and positions. The "
    "smaller the first number is beside the second, the more certain is the "
    "encoder."
)

# %% [markdown]
# The posterior is stored on disk, and every training step samples from it
# anew.
#
# ## Reconstruction error
#
# The figure shows images that were encoded and decoded, once from the mean of
# the posterior and once from a sample. The last row is the difference between
# the first two rows, where grey is zero.

# %%
from dedt_lib.randomness import torch_generator

generator = torch_generator(seed, "draw of the latents")
side = data.images.shape[2]
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
# A half holds half as many images, and FID grows as the number of images
# shrinks. At the full number of images, chance alone would give about half of
# the value in the last row. This is the scale for the FID of the
# reconstructions.

# %%
price = losses["decoded from a sample"]["FID"]
chance = experiment.floor()["fid"] / 2
Markdown(
    f"The reconstructions have a FID of {price:.2f} against their own "
    f"originals, {'less' if price < chance else 'more'} than the "
    f"{chance:.2f} of chance."
)

# %% [markdown]
# ## The scaled latents
#
# Diffusion ends in noise of standard deviation one, so its data should have
# about this standard deviation too. One number for all channels, the **scaling
# factor**, takes care of this. It is measured when the autoencoder is trained;
# the published factor of Stable Diffusion is 0.18215. The histogram compares
# the channels with each other and with a standard normal distribution (the
# dashed line). Nothing forces the latents to be normal.

# %%
figures.latent_histogram(drawn.numpy())

# %%
Markdown(
    f"The scaling factor is {network.config.scaling_factor:.3f}, and the "
    f"standard deviation of all scaled latents is {drawn.std():.2f}."
)

# %% [markdown]
# The channels differ:

# %%
channels = {
    "mean": drawn.mean(dim=(0, 2, 3)),
    "standard deviation": drawn.std(dim=(0, 2, 3)),
}
pd.DataFrame(channels).rename_axis("channel").T.round(2)

# %% [markdown]
# ## The loss in latent space
#
# The loss is still the squared error of the predicted noise, averaged over all
# numbers. But a number is now an element of a latent. The figure shows latents
# in the forward process, decoded at five timesteps. In pixel space
# ([Train](05_train.ipynb)) noise looks like grain. In latent space even pure
# noise decodes to digit-like blobs on a dark ground, because the decoder has
# learned to produce nothing else.

# %%
model = experiment.build_model()
clean = drawn[first]
generator = torch_generator(seed, "noise to look at")
noise = torch.randn(clean.shape, generator=generator)
timesteps = [0, 100, 300, 500, 999]
frames = []
for t in timesteps:
    t = torch.tensor([t])
    signal, sigma = model.schedule(t, "signal", "deviation")
    noisy = signal * clean + sigma * noise
    frames.append(autoencoder.decode(network, noisy, size=side))
figures.image_rows(frames, [f"t = {t}" for t in timesteps])

# %% [markdown]
# The loss weighs all channels alike, but the decoder does not. The next cell
# adds noise of standard deviation 0.3 to one channel at a time. The table
# shows the resulting error in pixels.

# %%
def disturbed(channel, by=0.3):
    generator = torch_generator(seed, "disturbed latents")
    changed = source.mean(everything)
    shape = changed[:, channel].shape
    noise = torch.randn(shape, generator=generator)
    changed[:, channel] += by * noise
    return error(autoencoder.decode(network, changed, size=side))


errors = pd.Series(
    {f"channel {k}": disturbed(k) for k in range(source.shape[0])}
)
errors.to_frame("error (grey levels)").T.round(1)

# %%
Markdown(
    "The most sensitive channel moves the pixels "
    f"{errors.max() / errors.min():.1f} times as far as the least sensitive "
    "one."
)

# %% [markdown]
# So the loss of a latent model is not a perceptual loss. Neither is the excess
# loss, which moves the class weights.
#
# ## Mirrored images are encoded anew
#
# Training on photographs also uses their mirror images. Their latents have to
# be encoded from the mirrored pixels, because a mirrored latent does not
# decode to the mirrored image. The figure shows the mirrored images, their
# encoded and decoded versions, and the decoded mirrored latents.

# %%
mirrored = few[..., ::-1].copy()
factor = network.config.scaling_factor
encoded = factor * posterior_of(mirrored).mean
flipped = factor * posterior.mean.flip(3)
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
# ## On disk
#
# Images are encoded once. The posteriors are stored as one array per **shard**
# of up to ten thousand images: float16, with axes for the image, its views,
# mean and standard deviation, channels, height and width. The array is
# *memory-mapped*: training reads only the rows of its batch, however many
# images there are.

# %%
shard = source.shards[0]
type(shard).__name__, str(shard.dtype), shard.shape

# %% [markdown]
# The table shows what ImageNet takes at the paper's size with both views, in
# gigabytes. The last line has to fit into memory during encoding.

# %%
images = 1_281_167
per_image = 2 * numbers * shard.itemsize * (1 + imagenet.train.flip)
gigabytes = {
    "pixels, one byte each": images * pixels,
    "latents": images * per_image,
    "one shard": source.shard_size * per_image,
}
pd.Series(gigabytes).div(1e9).round(2).to_frame("GB")

# %% [markdown]
# ## Selection does not change
#
# A coreset is selected in the features of the surrogate encoder, which sees
# pixels ([Select](03_select.ipynb)). The diffusion model plays no part in it.
# So all diffusion models share one coreset:

# %%
choice = {"method": "moderate", "ratio": 0.1, "seed": seed}
coresets = [
    Experiment(profile, model=name, **choice).select().indices
    for name in ("unet", "mdt", "stable-diffusion")
]
all((coresets[0] == other).all() for other in coresets[1:])

# %% [markdown]
# FID is measured on the decoded images, in the same features as before. The
# values of all models on these images can therefore be compared.
#
# ## In short
#
# An autoencoder replaces pixels by latents that are smaller and still
# decodable, and the diffusion model learns these latents. Its reconstruction
# error is a cost under every FID of this part. Selection, reweighting and
# evaluation stay as they were.
#
# ## Try it
#
# - Set `autoencoder.channels = [16, 32]` in a profile of your own, for latents
#   that are half as wide as the enlarged image. How does the FID of the
#   reconstructions change, and the cost of the transformer?
# - Halve and double the scaling factor: `draw` from
#   `dedt_lib.latents.Latents(..., scaling_factor=...)`. How noisy is a latent
#   at $t=300$ then?
# - Next: [a transformer that learns from masked tokens](15_mdt.ipynb).
