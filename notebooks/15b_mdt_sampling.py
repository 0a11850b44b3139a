# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How does MDT draw an image, from less and from more data?
#
# The U-Net is sampled by DDIM with a constant guidance weight
# ([Sample](06_sample.ipynb)). MDT is sampled differently: guidance grows along
# the path, and every step draws new noise. This chapter writes the sampler
# out, and then looks at what fewer training images do to the samples.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.2
seed = 0
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed", "compute")

# %% [markdown]
# The example is the MDT of [the chapter before](15_mdt.ipynb), trained on a
# fifth of the images. Other models on this page come from the results of the
# tables (`compute = True` computes those that are missing).

# %%
import math

import numpy as np
import torch

from dedt_lib.book import figures, grid, results, tables
from dedt_lib.experiment import Experiment
from dedt_lib.sampling import (
    initial_noise,
    respaced_ddpm,
    sample_generators,
)

if compute:
    results.compute_missing(profile, "table4")
recipe = grid.cell_recipe("mdt-random", ratio, seed)
experiment = Experiment(profile, **recipe)
p, K = experiment.profile, len(experiment.data.class_names)
model = experiment.train()
steps, g = p.mdt.steps, p.mdt.guidance

# %% [markdown]
# ## Guidance that grows
#
# MDT starts without guidance, while the layout forms, and ends with the full
# scale $g$. A scale of one means no guidance; at the timestep $t$ it is
#
# $$1 + \tfrac12(g-1)\Bigl(1-\cos\bigl(\pi(1-t/1000)^4\bigr)\Bigr).$$
#
# Sampling runs from left to right in the figure. The power decides how late
# the scale rises; the published power is four.

# %%
def scale(t, power=4):
    progress = (1 - t / 1000) ** power
    return 1 + (g - 1) * (1 - math.cos(math.pi * progress)) / 2


curves = {
    f"power {power}": torch.tensor([scale(t, power) for t in range(1000)])
    for power in (4, 2, 1)
}
figures.guidance_schedule(curves)

# %% [markdown]
# The published code applies guidance to three of the four channels of a
# latent, because it had been written for the three colours of a pixel. The
# published results were made with it, so it is kept here.

# %%
classes = torch.arange(K)
null = torch.full_like(classes, model.null_label)


def guided(x, t):
    when = torch.full((K,), t)
    with torch.no_grad():
        noise, variance = model(x, when, classes).chunk(2, dim=1)
        without = model(x, when, null)[:, : len(noise[0])]
    estimate = without + scale(t) * (noise - without)
    return torch.cat([estimate[:, :3], noise[:, 3:]], dim=1), variance


# %% [markdown]
# ## The sampler
#
# A step goes from the timestep $t$ to an earlier one. The clean latent is
# estimated as in DDIM. The step then draws from a normal distribution between
# the estimate and $x_t$, with the variance that the network predicts: on a
# logarithmic scale it lies between that of the posterior and that of the noise
# added between the two timesteps. The last step is the mean.

# %%
alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)
timesteps = [*np.linspace(0, 999, steps).round().astype(int)[::-1]]
generators = sample_generators(range(K), seed)

x, frames = initial_noise(range(K), model.sample_shape, seed), []
for t, before in zip(map(int, timesteps), [*timesteps[1:], None]):
    frames.append(x)
    now = alpha_bar[t]
    then = torch.tensor(1.0) if before is None else alpha_bar[before]
    beta = 1 - now / then
    eps, fraction = guided(x, t)
    x_0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
    x = beta * then.sqrt() * x_0 + (1 - then) * (1 - beta).sqrt() * x
    x = x / (1 - now)
    if before is not None:
        posterior = beta * (1 - then) / (1 - now)
        deviation = (
            torch.lerp(posterior.log(), beta.log(), (fraction + 1) / 2) / 2
        ).exp()
        noise = [torch.randn(x[0].shape, generator=r) for r in generators]
        x = x + deviation * torch.stack(noise)

# %% [markdown]
# The library's sampler has one random generator per sample, so that a sample
# does not depend on its batch. Does it arrive at the same latents?

# %%
theirs = respaced_ddpm(
    model, initial_noise(range(K), model.sample_shape, seed), classes,
    steps=steps, guidance=g, generators=sample_generators(range(K), seed),
)
torch.allclose(x, theirs, atol=1e-2)

# %% [markdown]
# The figure shows the decoded latents at several steps, one class per column.
# MDT's code truncates the decoded images to 8-bit integers; this book rounds,
# as everywhere.

# %%
shown = sorted({steps * k // 5 for k in range(5)})
decode = experiment.samples.decode
figures.image_rows(
    [decode(z).numpy() for z in (*(frames[k] for k in shown), x)],
    [f"step {k}" for k in shown] + ["done"],
)

# %% [markdown]
# ## Samples, from less and from more data
#
# The figure shows samples of the same classes from the same noise, from models
# trained on more and more of the data. They were stored with the results of
# the tables. The row is the paper's best one: Gaussian selection in the
# features of Inception-v3, with class weights. Look for broken strokes at small
# ratios, and for variety down a column.

# %%
row = "mdt-gaussian-reweighted"
sheets = {
    tables.percent(r): results.read_samples(profile, row, r, seed)
    for r in p.mdt.ratios
}
sheets["all the data"] = results.read_samples(profile, "mdt-full", 1.0, seed)
labels = experiment.sample_labels()
sheets = {
    name: figures.class_columns(s, labels[: len(s)], K) if K <= 10 else s
    for name, s in sheets.items()
    if s is not None
}
if sheets:
    shown = figures.image_sheets(sheets, columns=min(K, 10))
else:
    shown = "No results yet."
shown

# %% [markdown]
# Whether the samples of a coreset are better or worse in the end is a question
# for many samples and several seeds: [Table IV](16_table4.ipynb).
#
# ## In short
#
# MDT is sampled by ancestral steps whose variance the network predicts, and
# with guidance that grows along the path. The randomness of a sample is its
# own, so that samples of different models compare one by one. Fewer training
# images leave the sampler as it is and change what it draws.
#
# ## Try it
#
# - Let the guidance be constant: `scale` returns `g`. What happens to the first
#   steps, and to the samples?
#   ([Solution](solutions_mdt.ipynb#Sampling-MDT))
# - Set the deviation to zero, so that every step is the mean. Which of the
#   samples become smoother?
#   ([Solution](solutions_mdt.ipynb#Sampling-MDT))
# - Next: [class weights for a thousand classes](15c_many_classes.ipynb).
