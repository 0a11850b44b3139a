# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What changes when diffusion runs on latents?
#
# A diffusion model that has never seen a pixel is trained like the one of
# [Train](05_train.ipynb): noise is added to a latent, and the network predicts
# the noise. This chapter writes the training step out once more, for latents,
# and shows what is different: the scale of the data, the meaning of the loss,
# and where the data lies. Selection stays the same.

# %% tags=["parameters"]
profile = "digits"
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "seed")

# %% [markdown]
# The autoencoder and its latents are those of
# [the chapter before](14_latents.ipynb).

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.models import autoencoder
from dedt_lib.stages import latents

experiment = Experiment(profile, model="mdt", seed=seed)
data, p = experiment.data, experiment.profile
network = latents.autoencoder(experiment.lab).result()
source = experiment.latents
n, side = len(data), data.images.shape[2]

# %% [markdown]
# ## On disk
#
# Images are encoded once. The posteriors are stored as one array per **shard**
# of up to ten thousand images: float16, with axes for the image, its views
# (the image, and its mirror image where training flips), mean and standard
# deviation, channels, height and width.

# %%
shard = source.shards[0]
type(shard).__name__, str(shard.dtype), shard.shape

# %% [markdown]
# The array is *memory-mapped*: training reads only the rows of its batch,
# however many images there are. The table shows what ImageNet takes at the
# paper's size with both views, in gigabytes. The last line has to fit into
# memory during encoding.

# %%
from dedt_lib.config.profile import load_profile
from dedt_lib.stages.models import latent_shape

imagenet, images = load_profile("imagenet"), 1_281_167
pixels = imagenet.data.channels * imagenet.autoencoder.image_size**2
numbers = np.prod(latent_shape(imagenet.autoencoder))
per_image = 2 * numbers * shard.itemsize * (1 + imagenet.train.flip)
gigabytes = {
    "pixels, one byte each": images * pixels,
    "latents": images * per_image,
    "one shard": source.shard_size * per_image,
}
pd.Series(gigabytes).div(1e9).round(2).to_frame("GB")

# %% [markdown]
# ## The scaling factor
#
# Diffusion ends in noise of standard deviation one, so its data should have
# about this standard deviation too. One number for all channels, the **scaling
# factor**, takes care of this. It is one over the standard deviation of the
# sampled latents, which need not be sampled for that: their variance is that
# of the means plus the average of the squared deviations.

# %%
rows = np.concatenate(source.shards)[:, 0].astype(float)
mean, deviation = rows[:, 0], rows[:, 1]
variance = mean.var() + np.square(deviation).mean()
factor = 1 / np.sqrt(variance)

# %% [markdown]
# The library measures it when the autoencoder is trained. Is it the same
# number, up to the half precision of the stored latents?

# %%
np.allclose(factor, network.config.scaling_factor, rtol=1e-3)

# %%
Markdown(
    f"The scaling factor is {factor:.3f} here; the published one of Stable "
    "Diffusion is 0.18215."
)

# %% [markdown]
# The histogram compares the channels of the scaled latents with each other and
# with a standard normal distribution (the dashed line). Nothing forces the
# latents to be normal.

# %%
from dedt_lib.randomness import torch_generator

generator = torch_generator(seed, "draw of the latents")
drawn = source.draw(torch.arange(n), None, generator)
figures.latent_histogram(drawn.numpy())

# %% [markdown]
# The channels differ:

# %%
channels = {
    "mean": drawn.mean(dim=(0, 2, 3)),
    "standard deviation": drawn.std(dim=(0, 2, 3)),
}
pd.DataFrame(channels).rename_axis("channel").T.round(2)

# %% [markdown]
# ## The training step
#
# Here is the step of [Train](05_train.ipynb) on latents. Only the first
# line is new: a batch is drawn from the posteriors and not read from the
# images. The network is a U-Net for four channels, fresh from its random
# weights; the networks of the next chapters take its place.

# %%
from dedt_lib.models import build_model

torch.manual_seed(seed)
model = build_model(
    "unet", channels=source.shape[0], image_size=source.shape[1],
    num_classes=len(data.class_names), block_channels=[16, 16], layers=1,
    attention=[False, False],
)
alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)


def add_noise(z, noise, t):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise


# %%
generator = torch.manual_seed(seed)
rows = torch.randint(0, n, (32,), generator=generator)
m, d = (torch.from_numpy(v).float()[rows] for v in (mean, deviation))
z = factor * (m + d * torch.randn(m.shape, generator=generator))

labels = torch.from_numpy(data.labels)[rows]
t = torch.randint(0, 1000, (32,), generator=generator)
noise = torch.randn(z.shape, generator=generator)
drop = torch.rand(32, generator=generator) < 0.1
given = torch.where(drop, model.null_label, labels)
with torch.no_grad():
    predicted = model.predict(add_noise(z, noise, t), t, given)
losses = (predicted - noise).square().mean(dim=(1, 2, 3))

# %% [markdown]
# The library's model computes the same losses from the same draws:

# %%
from dedt_lib.training import Batch

with torch.no_grad():
    theirs = model.losses(Batch(z, labels, t, noise, drop))
torch.allclose(theirs, losses, atol=1e-4)

# %% [markdown]
# ## What the loss means
#
# The loss is still the squared error of the predicted noise, averaged over all
# numbers. But a number is now an element of a latent. The figure shows latents
# in the forward process, decoded at five timesteps. In pixel space
# ([Train](05_train.ipynb)) noise looks like grain. In latent space even pure
# noise decodes to digit-like blobs on a dark ground, because the decoder has
# learned to produce nothing else.

# %%
K = len(data.class_names)
first = [int((data.labels == k).argmax()) for k in range(K)]
clean = drawn[first]
generator = torch_generator(seed, "noise to look at")
noise = torch.randn(clean.shape, generator=generator)
timesteps = [0, 100, 300, 500, 999]
frames = [
    autoencoder.decode(
        network, add_noise(clean, noise, torch.tensor([t])), size=side
    )
    for t in timesteps
]
figures.image_rows(frames, [f"t = {t}" for t in timesteps])

# %% [markdown]
# The loss weighs all channels alike, but the decoder does not. The next cell
# adds noise of standard deviation 0.3 to one channel at a time. The table
# shows the resulting error in pixels.

# %%
def disturbed(channel, by=0.3):
    generator = torch_generator(seed, "disturbed latents")
    changed = source.mean(np.arange(n))
    shape = changed[:, channel].shape
    changed[:, channel] += by * torch.randn(shape, generator=generator)
    decoded = autoencoder.decode(network, changed, size=side)
    return np.sqrt(np.square(decoded.astype(float) - data.images).mean())


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
# Latents are scaled to a standard deviation of one, and then the training step
# is that of pixels. Its loss counts all numbers of a latent alike, although
# they do not matter alike in the decoded image. Selection, reweighting and
# evaluation stay as they were.
#
# ## Try it
#
# - Halve and double the scaling factor: import `Latents` from
#   `dedt_lib.latents` and `draw` from
#   `Latents(latents.encoded(experiment.lab).folder, data.labels, scaling_factor=...)`.
#   How noisy is a latent at $t=300$ then?
#   ([Solution](solutions_autoencoder.ipynb#Diffusion-on-latents))
# - Give each channel a factor of its own, so that every one has a standard
#   deviation of one. Which channel is less noisy than before?
#   ([Solution](solutions_autoencoder.ipynb#Diffusion-on-latents))
# - Next: [a transformer that learns from masked tokens](15_mdt.ipynb).
