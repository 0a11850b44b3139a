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
# The paper's second half leaves the pixels. A photograph of 256 pixels on a
# side is much for a network that has to look at it hundreds of times to draw
# one, and most of it is texture that nobody looks at. So an **autoencoder** is
# trained first: it makes a small *latent* of an image, and an image of a
# latent. The diffusion model learns to make latents, and never sees a pixel
# {cite:p}`rombach2022high`. Both models of this part work like that, the
# transformer of [Table IV](16_table4) and the Stable Diffusion of Table V.

# %% tags=["parameters"]
profile = "digits"
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "seed")

# %% [markdown]
# For the digits everything is small: they are enlarged, and an autoencoder
# built like that of Stable Diffusion, only narrower, is trained on them.

# %%
import torch

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

# %% tags=["remove-cell"]
import numpy as np

from dedt_lib.config.profile import load_profile
from dedt_lib.stages.models import latent_shape

published = load_profile("imagenet")
wide = latent_shape(published.autoencoder)[1]
pixels = published.data.channels * published.autoencoder.image_size**2
own, mine = (int(np.prod(shape)) for shape in (data.images.shape[1:], source.shape))
glue(
    "la",
    weights=sum(w.numel() for w in network.parameters()) / 1000,
    enlarged=p.autoencoder.image_size,
    pixels=f"{pixels:,}",
    numbers=f"{4 * wide**2:,}",
    fewer=pixels / (4 * wide**2),
    own=own,
    mine=mine,
)
saving = "That saves nothing" if mine >= own else f"That is {own / mine:.1f} times fewer"
glue("la", saving=saving)

# %% [markdown]
# It has {glue:text}`la_weights:.0f` thousand weights and sees the digits at
# {glue:text}`la_enlarged:d` pixels on a side. At the paper's size
# {glue:text}`la_pixels:s` numbers of an image become {glue:text}`la_numbers:s`,
# {glue:text}`la_fewer:.0f` times fewer. Here {glue:text}`la_own:d` become
# {glue:text}`la_mine:d`. {glue:text}`la_saving:s`: an image of a few pixels
# has no texture to leave out. What the digits can show is how it works.
#
# ## A latent is a distribution
#
# The encoder does not name one latent but a normal distribution around it,
# with a mean and a deviation for every number. The decoder is trained on draws
# from it, so that neighbouring latents mean similar images. Below, one digit
# per class: the four channels of the mean, red above zero and blue below, and
# under them the four channels of the deviation. Look for the digit in the
# means: it has been shuffled, not just shrunk.

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

# %% tags=["remove-cell"]
glue("la", deviation=float(deviation.mean()), spread=float(mean.std()))

# %% [markdown]
# The deviations are {glue:text}`la_deviation:.3f` on average, and the means
# spread by {glue:text}`la_spread:.2f`; the smaller the first beside the second,
# the surer the encoder. What is kept on disk is the posterior, and every
# training step draws from it anew.
#
# ## What is lost
#
# Encoded and decoded, once from the mean of the posterior and once from a
# draw. The last row is the difference between the first two, with grey for
# none.

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
    ["image", "mean", "draw", "difference"],
)

# %% [markdown]
# A model that drew perfect latents would still go through this decoder. So
# the FID of the *reconstructions* of all the training images is a price that
# every model of the coming chapters pays before it has learned anything. The
# first row is not even the autoencoder's: it is enlarging and shrinking
# again.

# %%
import numpy as np
import pandas as pd

real = experiment.real()["all"]
enlarged = resize(data.images, p.autoencoder.image_size)
rows = {
    "enlarged and shrunk": resize(enlarged, side, antialias=False),
    "decoded from the mean": from_mean,
    "decoded from a draw": from_draw,
}


def error(images):
    squares = np.square(images.astype(float) - data.images)
    return np.sqrt(squares.mean())


losses = {
    name: {
        "error (grey levels)": error(images),
        "FID": real.distance(experiment.metric_features(images)),
    }
    for name, images in rows.items()
}
floor = experiment.floor()["fid"]
losses["real half against real half"] = {"FID": floor}
pd.DataFrame(losses).T.round(2)

# %% tags=["remove-cell"]
price = losses["decoded from a draw"]["FID"]
glue(
    "la",
    price=price,
    floor=floor,
    half=floor / 2,
    which="That is less than chance alone does, but it comes on top of it."
    if price < floor / 2
    else "That is more than chance alone does: no model here can come as near to the real images "
    "as they come to each other.",
)

# %% [markdown]
# The reconstructions are {glue:text}`la_price:.2f` away from the very images
# that they were made from; two halves of the real images are
# {glue:text}`la_floor:.2f` apart. A half is half as many images, and FID of
# fewer images is larger; at their full number chance alone would make about
# {glue:text}`la_half:.2f`. {glue:text}`la_which:s`
#
# ## The scaled latents
#
# Diffusion ends in noise of deviation one, so what it starts from should have
# about that deviation too. One number for all channels, the **scaling factor**,
# sees to it. It is measured when the autoencoder is trained; the published one
# of Stable Diffusion is 0.18215. Look at how far the channels are from each
# other, and from the dashed line: nothing makes them normal.

# %%
figures.latent_histogram(drawn.numpy())

# %%
channels = {
    "mean": drawn.mean(dim=(0, 2, 3)),
    "deviation": drawn.std(dim=(0, 2, 3)),
}
pd.DataFrame(channels).rename_axis("channel").T.round(2)

# %% tags=["remove-cell"]
glue("la", factor=float(network.config.scaling_factor), all=float(drawn.std()))

# %% [markdown]
# The factor is {glue:text}`la_factor:.3f` here, and the deviation of all the
# scaled latents together {glue:text}`la_all:.2f`.
#
# ## What changes: what the loss sees
#
# The loss is still the squared error of the noise, averaged over all numbers.
# But a number is now an element of a latent. Below, latents on their way into
# noise, decoded at five moments. In pixels (chapter [Train](05_train)) an
# image drowns in grain. Look at the last row: even of pure noise the decoder
# makes blobs on a dark ground, for it has learned to make nothing else.

# %%
model = experiment.build_model()
clean = drawn[first]
generator = torch_generator(seed, "noise to look at")
noise = torch.randn(clean.shape, generator=generator)
moments = [0, 100, 300, 500, 999]
frames = []
for t in moments:
    t = torch.tensor([t])
    signal, deviation = model.schedule(t, "signal", "deviation")
    noisy = signal * clean + deviation * noise
    frames.append(autoencoder.decode(network, noisy, size=side))
figures.image_rows(frames, [f"t = {t}" for t in moments])

# %% [markdown]
# The loss counts all channels alike. The decoder does not. Here noise of
# deviation 0.3 is added to one channel alone; the table says what that does to
# the pixels.

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

# %% tags=["remove-cell"]
glue("la", ratio=float(errors.max() / errors.min()))

# %% [markdown]
# The channel that matters most moves the pixels {glue:text}`la_ratio:.1f`
# times as far as the one that matters least. So the loss of a latent model,
# and with it the excess loss that moves the class weights, is not quite the
# loss that an eye would choose.
#
# ## Flips are encoded, not mirrored
#
# Where mirrored images are used for training, as for photographs, their
# latents have to be made from them: a latent is not a small picture, and
# mirroring it is something else. Middle: the mirrored image encoded and
# decoded; below: the latent mirrored, then decoded.

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

# %% tags=["remove-cell"]
def distance(images):
    return float(np.sqrt(np.square(images.astype(float) - mirrored).mean()))


glue("la", by_image=distance(by_image), by_latent=distance(by_latent))
glue("la", flip=str(p.train.flip).lower())

# %% [markdown]
# {glue:text}`la_by_image:.0f` grey levels from the mirrored image against
# {glue:text}`la_by_latent:.0f`. So with `train.flip = true` in a profile both
# views of every image are encoded. (Here it is {glue:text}`la_flip:s`,
# because a mirrored digit is another digit, or none.)
#
# ## On disk
#
# Images are encoded once. What is kept is an array per **shard** of up to ten
# thousand images: float16, with axes for the image, its views, mean and
# deviation, channels, height and width. It is *memory-mapped*: training
# reads the rows of its batch and nothing else, however many there are.

# %%
shard = source.shards[0]
type(shard).__name__, str(shard.dtype), shard.shape

# %% [markdown]
# What ImageNet takes at the paper's size, with both views, in gigabytes; the
# last line is what has to fit into memory while it is encoded.

# %%
from dedt_lib.config.profile import load_profile
from dedt_lib.stages.models import latent_shape

imagenet, images = load_profile("imagenet"), 1_281_167
size = imagenet.autoencoder.image_size
channels, wide, _ = latent_shape(imagenet.autoencoder)
per_image = 2 * channels * wide**2 * shard.itemsize
per_image *= 1 + imagenet.train.flip
gigabytes = {
    "pixels, one byte each": images * imagenet.data.channels * size**2,
    "latents": images * per_image,
    "one shard": source.shard_size * per_image,
}
pd.Series(gigabytes).div(1e9).round(2).to_frame("GB")

# %% [markdown]
# ## Selection stays where it was
#
# A coreset is chosen in the features of the surrogate encoder, which looks at
# pixels, as in chapter [Select](03_select). The model that will be trained has
# no say in it. So a coreset for the transformer is the coreset for the U-Net:

# %%
choice = {"method": "moderate", "ratio": 0.1, "seed": seed}
coresets = [
    Experiment(profile, model=name, **choice).select().indices
    for name in ("unet", "mdt", "stable-diffusion")
]
all((coresets[0] == other).all() for other in coresets[1:])

# %% [markdown]
# And FID is measured on the decoded images, in the same features as before, so
# that the numbers of all models on these images can be laid side by side.
#
# ## Try it
#
# - In a profile of your own, set `autoencoder.channels = [16, 32]`, for latents that
#   are half as wide as the enlarged image. What happens to the FID of the
#   reconstructions, and what would it cost the transformer?
# - Halve and double the scaling factor: `draw` from
#   `dedt_lib.latents.Latents(..., scaling_factor=...)`. How noisy is a latent
#   at $t=300$ then?
# - Next: [a transformer that learns from gaps](15_mdt).
