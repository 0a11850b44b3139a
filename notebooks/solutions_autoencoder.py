# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions: autoencoders and latents
#
# Worked solutions of the exercises of
# [the chapter on autoencoders](14_latents.ipynb) and of
# [diffusion on latents](14b_latent_diffusion.ipynb). Try an exercise before you
# read its solution. Numbers are computed on this page.

# %% tags=["parameters"]
profile = "digits"
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "seed")

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.config import load_profile
from dedt_lib.experiment import Experiment
from dedt_lib.models import autoencoder
from dedt_lib.randomness import torch_generator
from dedt_lib.stages import latents

experiment = Experiment(profile, model="mdt", seed=seed)
data, source = experiment.data, experiment.latents
n, K, side = len(data), len(data.class_names), data.images.shape[2]
network = latents.autoencoder(experiment.lab).result()

# %% [markdown]
# ## Autoencoders
#
# **How does the FID of the reconstructions change, and how many numbers does a
# latent then have?** ([Exercise](14_latents.ipynb))
#
# A profile of your own is a file; single values can also be given to
# `load_profile`. To save time both autoencoders are trained for five epochs, and
# compared with each other.

# %%
def reconstruction(channels):
    change = {"autoencoder.channels": channels, "autoencoder.epochs": 5}
    shorter = load_profile(profile, **change)
    trial = Experiment(shorter, model="mdt", seed=seed)
    coder = latents.autoencoder(trial.lab).result()
    generator = torch_generator(seed, "draw of the latents")
    drawn = trial.latents.draw(torch.arange(n), None, generator)
    images = autoencoder.decode(coder, drawn, size=side)
    features = trial.metric_features(images)
    return {
        "numbers of a latent": np.prod(trial.latents.shape),
        "FID": trial.real()["all"].distance(features),
    }


found = {
    "three levels": reconstruction([16, 32, 32]),
    "two levels": reconstruction([16, 32]),
}
pd.DataFrame(found).T.round(2)

# %% [markdown]
# With two levels a latent is twice as wide and twice as high, so it has four
# times as many numbers, and the decoder has to guess less. The price is paid by
# the diffusion model. A token is a square of the latent, so a transformer
# reads four times as many tokens, and its attention compares sixteen times as
# many pairs of them.
#
# **When does the decoded digit become another one?**
# ([Exercise](14_latents.ipynb))
#
# Here is the same noise with a growing deviation:

# %%
first = [int((data.labels == k).argmax()) for k in range(K)]
mean = source.mean(first)
generator = torch_generator(seed, "draw of the latents")
noise = source.draw(torch.tensor(first), None, generator) - mean
frames = {
    f"deviation x {by}": autoencoder.decode(
        network, mean + by * noise, size=side
    )
    for by in (1, 3, 10, 30)
}
figures.image_rows(list(frames.values()), list(frames))

# %% [markdown]
# In training the decoder has seen latents at one deviation from their mean, and
# these decode to the same digit. Farther away it meets the latents of other
# digits, or latents of no digit at all, and draws strokes that belong to
# nothing. The deviation says how certain the encoder is; where the digit
# changes says how far the digits lie apart in these units.
#
# ## Diffusion on latents
#
# **How noisy is a latent at $t=300$ with half and with twice the scaling
# factor?** ([Exercise](14b_latent_diffusion.ipynb))
#
# The table shows the signal-to-noise ratio: the variance of the scaled latents
# times $\bar\alpha_t/(1-\bar\alpha_t)$.

# %%
from dedt_lib.latents import Latents

folder, factor = (
    latents.encoded(experiment.lab).folder, network.config.scaling_factor
)
alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)
snr = alpha_bar / (1 - alpha_bar)
ratios = {}
for by in (0.5, 1, 2):
    scaled = Latents(folder, data.labels, scaling_factor=by * factor)
    generator = torch_generator(seed, "draw of the latents")
    variance = scaled.draw(torch.arange(n), None, generator).var()
    ratios[f"factor x {by}"] = float(variance * snr[300])
pd.Series(ratios, name="signal-to-noise ratio").round(2).to_frame()

# %%
equal = {
    by: int((by**2 * snr - snr[300]).abs().argmin()) for by in (0.5, 2)
}
Markdown(
    "The latents of half the factor are as noisy at "
    f"$t={equal[0.5]}$ as those of the measured one at $t=300$, and the "
    f"latents of twice the factor are so at $t={equal[2]}$."
)

# %% [markdown]
# A factor acts squared on the ratio. A wrong factor therefore shifts the
# schedule: with too small a factor most timesteps are nearly pure noise and
# teach little, and with too large a factor the last timestep still holds
# signal, which sampling, starting from pure noise, never sees.
#
# **Which channel is less noisy than before, with a factor of its own?**
# ([Exercise](14b_latent_diffusion.ipynb))

# %%
generator = torch_generator(seed, "draw of the latents")
drawn = source.draw(torch.arange(n), None, generator)
before = drawn.var(dim=(0, 2, 3)) * snr[300]
pd.DataFrame(
    {"one factor": before, "own factors": torch.full_like(before, snr[300])}
).rename_axis("channel").T.round(2)

# %% [markdown]
# With factors of their own all channels have the same signal-to-noise ratio.
# So the channels that spread less than the others become less noisy at every
# timestep, and the network learns more of their detail. Whether this is good
# depends on the decoder: it helps if these channels matter for the image, and
# the chapter's table of errors says which do.
