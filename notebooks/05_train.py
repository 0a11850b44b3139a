# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train: one loop for every run
#
# Reference, proxy, plain, weighted and annealed runs are the same loop. They
# differ in two things only: which samples an epoch visits, and with what
# weights. This chapter looks at what is learned, at what is drawn, and at
# what happens when the plug is pulled.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# The example is a coreset by Moderate-DS, without class weights.

# %%
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(profile, method="moderate", ratio=ratio, seed=seed)
data, settings = experiment.data, experiment.settings

# %% [markdown]
# ## The forward process
#
# Noise is added in a thousand small steps until nothing is left of the image.
# Below, one image per class at five moments. The network is shown such an
# image, the moment $t$ and the class $c$, and has to say what the noise was:
#
# $$\mathbb E\left[\|\epsilon_\theta(x_t, c, t)-\epsilon\|^2\right].$$

# %%
import torch

from dedt_lib.pixels import to_float, to_uint8
from dedt_lib.randomness import torch_generator

K = len(data.class_names)
first = [int((data.labels == k).argmax()) for k in range(K)]
clean = to_float(torch.from_numpy(data.images[first]))
noise = torch.randn(clean.shape, generator=torch_generator(seed, "look"))
model = experiment.build_model()
moments = [0, 100, 300, 500, 999]
frames = [
    model.schedule.add_noise(clean, noise, torch.tensor([t])).clamp(-1, 1)
    for t in moments
]
figures.image_rows(
    [to_uint8(x).numpy() for x in frames], [f"t = {t}" for t in moments]
)

# %% [markdown]
# ## The network
#
# A small U-Net from `diffusers`; the class is an embedding added to that of
# the moment. In one sample of ten the class is hidden, so that the same
# network also learns to work without: guidance needs both. The number of its
# weights, and how they are trained:

# %%
sum(p.numel() for p in model.parameters()), vars(settings)

# %% [markdown]
# ## How many steps
#
# The number of *epochs* is fixed, as in the paper. A tenth of the images
# therefore means a tenth of the steps.

# %%
import pandas as pd

pd.Series(
    {
        f"{100 * r:.0f} %": experiment.steps_at(r)
        for r in (*experiment.profile.unet.ratios, 1.0)
    },
    name="optimiser steps",
).to_frame()

# %% [markdown]
# ## The loss
#
# Three runs: all data, coreset, and the coreset with all the data in the last
# eighth of the epochs, which the paper calls **annealing**. An epoch of all the
# data is ten epochs of the coreset, so that last eighth is more than half of
# the annealed run's steps.

# %%
full = experiment.change(method="random", ratio=1.0)
annealed = experiment.change(annealing=True)
runs = {"all data": full, "coreset": experiment, "annealed": annealed}
figures.loss_curves(
    {name: run.training()["losses"] for name, run in runs.items()}
)

# %% [markdown]
# The same in numbers, with the time that this machine took. The speed-up is
# that of the final training alone, which is what the paper's Table III
# reports; [the chapter on costs](10_table3) adds everything else.

# %%
manifests = {name: run.training() for name, run in runs.items()}
ledger = pd.DataFrame(
    {
        name: {
            "steps": m["steps"],
            "images seen": m["images_seen"],
            "seconds": m["training_seconds"],
        }
        for name, m in manifests.items()
    }
).T
for unit in ("images seen", "seconds"):
    ledger[f"speed-up ({unit})"] = ledger.loc["all data", unit] / ledger[unit]
ledger = ledger.round(1).astype({"steps": int, "images seen": int})
ledger

# %% [markdown]
# ## Class weights in the draw
#
# Class weights can be used in two ways. The tables of this book weigh the
# *loss* (chapter [Reweight](04_reweight)). DoReMi {cite:p}`xie2023doremi`,
# where the weights come from, *draws* by them: first a class, with probability
# $\alpha_i$, then one of its images. Here is one epoch of such draws.
# Look at the bars beside the short lines, which are what the weights ask for.

# %%
import numpy as np

weighted = experiment.change(reweighting=True)
by_draw = weighted.change(weighting="draw")
coreset = by_draw.weighted_coreset()
drawn, _ = by_draw.plan().epoch(0)
figures.class_draws(
    np.bincount(data.labels[drawn], minlength=len(data.class_names)),
    len(drawn) * coreset.weights,
    data.class_names,
)

# %% tags=["remove-cell"]
glue("train", drawn=len(drawn), different=len(np.unique(drawn)))

# %% [markdown]
# On average the gradient is the same as that of the weighted loss; what
# differs is the repetition. {glue:text}`train_drawn:d` draws show
# {glue:text}`train_different:d` different images of the coreset, where the
# weighted loss shows each of them once an epoch. `dedt run --reweighting
# --weighting draw` trains with it; no row of the tables does.
#
# ## InfoBatch: a new choice in every epoch
#
# InfoBatch {cite:p}`qin2024infobatch` needs no coreset. It looks at the last
# loss of every image, calls an image *well learned* where that is below the
# mean, and skips most of those in the next epoch. Those that stay count more.
# To see one such choice, the plan is told a loss for each image, those of the
# model that has seen everything, and is then asked for its second epoch.

# %%
from dedt_lib.training import draw_batch

dynamic = experiment.change(infobatch="ratio", annealing=True)
plan = dynamic.plan()
batch = draw_batch(
    data, torch.arange(len(data)), settings, seed, step=0
)
with torch.no_grad():
    plan.record(range(len(data)), full.train().losses(batch).numpy())
kept, kept_weights = plan.epoch(1)
pd.Series(kept_weights.round(2)).value_counts().rename_axis("weight")

# %% tags=["remove-cell"]
glue("train", kept=len(kept), all=len(data), sum=float(kept_weights.sum()))

# %% [markdown]
# {glue:text}`train_kept:d` of {glue:text}`train_all:d` images stay. Their
# weights add up to {glue:text}`train_sum:.0f`, so the loss is still that of all
# the images on average, from fewer of them. Whether a
# diffusion model's loss can tell which image is well learned, and what comes
# of it, is in [Table II](09_table2).
#
# ## Pulling the plug
#
# Order of samples, timesteps, noise and hidden labels are functions of the
# seed and the step, never of a generator's past. So a run that is stopped and
# taken up again should end with the same bits. Here it is tried: one run is
# left alone, the other is interrupted in the middle of an epoch and resumed.

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

from dedt_lib.plans import EpochPlan
from dedt_lib.training import train

short = replace(settings, epochs=3, checkpoint_every=4)
plan = EpochPlan(experiment.select().indices, total=len(data), epochs=3)


class PlugPulled(Exception):
    pass


class Pull:
    """A weighting that changes nothing and stops the run at one step."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self, losses, batch, model):
        self.calls += 1
        if self.calls > self.at:
            raise PlugPulled
        return torch.ones_like(losses)

    def state(self):
        return {}


def run(folder, weighting=None):
    train(
        experiment.build_model(), data, plan, short, seed=seed,
        folder=folder, weighting=weighting,
    )


whole, broken = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
run(whole)
try:
    run(broken, weighting=Pull(at=plan.steps(short.batch_size) - 2))
except PlugPulled:
    print("stopped; left behind:", [p.name for p in broken.iterdir()])
run(broken)

# %% [markdown]
# Byte for byte the same weights?

# %%
weights = [(f / "model.safetensors").read_bytes() for f in (whole, broken)]
weights[0] == weights[1]

# %% [markdown]
# ## Try it
#
# - Interrupt the kernel while a longer run trains, and run the cell again: the
#   progress bar starts where it stopped.
# - Make `train.annealing_start` 0.5 in a profile of your own. What is gained, and
#   what does it cost?
# - Next: [drawing samples](06_sample).
