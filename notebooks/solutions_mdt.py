# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions: MDT
#
# Worked solutions of the exercises of [masked tokens](15_mdt.ipynb),
# [sampling MDT](15b_mdt_sampling.ipynb) and
# [absent classes](15c_many_classes.ipynb). Try an exercise before you read its
# solution. Numbers are computed on this page.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.2
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %%
import numpy as np
import pandas as pd
import torch

from dedt_lib.book import figures, grid
from dedt_lib.experiment import Experiment

recipe = grid.cell_recipe("mdt-random", ratio, seed)
experiment = Experiment(profile, **recipe)
data, p = experiment.data, experiment.profile
n, K = len(data), len(data.class_names)
model = experiment.train()

# %% [markdown]
# ## Masked tokens
#
# **How do the errors at masked and at visible tokens change?**
# ([Exercise](15_mdt.ipynb))
#
# The noisy latents of the chapter, with a growing share of masked tokens:

# %%
from torch.nn import functional

from dedt_lib.training import draw_batch

batch = draw_batch(
    experiment.latents, torch.arange(n), experiment.settings, seed, 0, model
)
signal, deviation = model.schedule(batch.t, "signal", "deviation")
noisy = signal * batch.images + deviation * batch.noise
order = torch.rand(
    len(batch.t), model.tokens, generator=torch.manual_seed(seed)
).argsort(dim=1)


@torch.no_grad()
def squared_errors(kept=None):
    output = model(noisy, batch.t, batch.labels, kept)
    errors = output[:, : batch.noise.shape[1]] - batch.noise
    return errors.square().mean(dim=1)


errors = {}
for share in (0.2, 0.4, 0.6, 0.8):
    kept = order[:, : int(model.tokens * (1 - share))]
    by_token = functional.avg_pool2d(
        squared_errors(kept), p.mdt.patch_size
    ).flatten(1)
    seen = torch.zeros_like(by_token, dtype=torch.bool).scatter(1, kept, True)
    errors[f"{100 * share:.0f} % masked"] = {
        "at visible tokens": by_token[seen].mean().item(),
        "at masked tokens": by_token[~seen].mean().item(),
    }
pd.DataFrame(errors).round(3)

# %% [markdown]
# Compare the two lines, and the ends of each. The more tokens are masked, the
# less context is left to infer a token from, and the visible tokens have fewer
# others to attend to. Yet no token is ever fully unknown: the decoder receives
# all noisy tokens by skip connections around the encoder. So the errors change
# little, even for shares that the training never drew.
#
# **Which timesteps make up most of the loss, with and without the weight?**
# ([Exercise](15_mdt.ipynb))

# %%
loss = squared_errors().mean(dim=(1, 2))
weight = model.schedule.weight[batch.t]
quarter = pd.Series(batch.t.numpy() // 250).map(
    lambda k: f"t from {250 * k}"
)
parts = pd.DataFrame({"without": loss, "with": weight * loss})
parts = parts.groupby(quarter).sum()
(100 * parts / parts.sum()).round(0).rename_axis("share (%)").T

# %% [markdown]
# Near the data the noise is small beside the signal, and hard to tell from
# it: the squared error of the noise is largest there. Yet an error there
# hardly changes the image. The weight moves a part of the loss to the
# timesteps at which the image takes shape; without it the timesteps near the
# data would count for still more.
#
# ## Sampling MDT
#
# **What happens to the samples with constant guidance?**
# ([Exercise](15b_mdt_sampling.ipynb)) **And without noise on the way?**
# ([Exercise](15b_mdt_sampling.ipynb))
#
# This is the sampler of the chapter, with both as arguments. The first row of
# the figure is as published.

# %%
from dedt_lib.models.schedule import power_cosine
from dedt_lib.sampling import initial_noise, sample_generators

alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)
steps, g, classes = p.mdt.steps, p.mdt.guidance, torch.arange(K)
null = torch.full_like(classes, model.null_label)
timesteps = [*np.linspace(0, 999, steps).round().astype(int)[::-1]]


@torch.no_grad()
def draw(constant=False, temperature=1.0):
    x = initial_noise(range(K), model.sample_shape, seed)
    generators = sample_generators(range(K), seed)
    for t, before in zip(map(int, timesteps), [*timesteps[1:], None]):
        when, now = torch.full((K,), t), alpha_bar[t]
        then = torch.tensor(1.0) if before is None else alpha_bar[before]
        beta = 1 - now / then
        eps, fraction = model(x, when, classes).chunk(2, dim=1)
        without = model(x, when, null)[:, : eps.shape[1]]
        scale = g if constant else power_cosine(when, g)[0]
        guided = without + scale * (eps - without)
        eps = torch.cat([guided[:, :3], eps[:, 3:]], dim=1)
        x_0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = beta * then.sqrt() * x_0 + (1 - then) * (1 - beta).sqrt() * x
        x = x / (1 - now)
        if before is not None:
            low, high = (beta * (1 - then) / (1 - now)).log(), beta.log()
            sd = (torch.lerp(low, high, (fraction + 1) / 2) / 2).exp()
            noise = [torch.randn(x[0].shape, generator=r) for r in generators]
            x = x + temperature * sd * torch.stack(noise)
    return experiment.samples.decode(x).numpy()


rows = {
    "published": draw(),
    "constant guidance": draw(constant=True),
    "no noise": draw(temperature=0.0),
}
figures.image_rows(list(rows.values()), list(rows))

# %% [markdown]
# With constant guidance the class is pushed from the first step on, when the
# layout forms: look for digits whose place or slant differs from the row above,
# and for thicker strokes. Without noise on the way every step is the mean of
# its distribution, and the first noise alone decides the sample: look for
# smoother strokes. Digits that are alike in all rows had their layout from the
# first noise.
#
# ## Absent classes
#
# **Which rule still separates the hard classes with ten times the excess?**
# ([Exercise](15c_many_classes.ipynb)) **What is left of the difference with ten
# times the batch?** ([Exercise](15c_many_classes.ipynb))
#
# This is the simulation of the chapter, with both as arguments:

# %%
from dedt_lib.config.profile import load_profile
from dedt_lib.reweighting import (
    average_weights,
    class_excess,
    update_weights,
)

imagenet, count, images = load_profile("imagenet"), 1000, 128_117
how = {
    "step_size": imagenet.reweight.step_size,
    "smoothing": imagenet.reweight.smoothing,
}
hard = np.arange(count) < count // 10


def simulate(absent, size=imagenet.mdt.batch_size, times=1):
    rng = np.random.default_rng(seed)
    expected = times * np.where(hard, 0.004, 0.002)
    excess, weights = np.zeros(count), np.full(count, 1 / count)
    trajectory = []
    for _ in range(imagenet.mdt.proxy_epochs * images // size):
        labels = rng.integers(0, count, size)
        losses = rng.exponential(expected[labels])
        before = excess if absent == "previous" else np.zeros(count)
        excess, _ = class_excess(losses, np.zeros(size), labels, before)
        weights = update_weights(weights, excess, **how)
        trajectory.append(weights)
    relative = count * average_weights(np.array(trajectory))
    gain = relative[hard].mean() - relative[~hard].mean()
    return {"gain": gain, "spread / gain": relative[hard].std() / gain}


runs = {
    "as in the chapter": {},
    "ten times the excess": {"times": 10},
    "ten times the batch": {"size": 10 * imagenet.mdt.batch_size},
}
outcome = {
    (name, rule): simulate(rule, **change)
    for name, change in runs.items()
    for rule in ("previous", "zero")
}
pd.DataFrame(outcome).T.round(2)

# %% [markdown]
# The gain is the mean weight of the hard classes less that of the others, and
# the spread is the standard deviation among the hard classes. A rule
# separates the hard classes while its spread is small beside its gain. With
# ten times the excess neither does: the spread is about as large as the gain
# with zero, and larger with the previous excess. A large excess acts
# exponentially: with the previous excess a class that had one large sample
# rises at every step until it is seen again, and a few classes take the
# weight of all. With a batch of ten times the size nearly every class is in
# every batch, so that the two rules come to almost the same.
