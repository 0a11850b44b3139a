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
# The reference, the proxy and the plain, weighted and annealed runs share one
# training loop. They differ in two things only: which samples an epoch visits,
# and with what weights. This chapter writes the training step out, compares
# the runs, and interrupts one of them.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# The example is a coreset by Moderate-DS, without class weights.

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.pixels import to_float, to_uint8

experiment = Experiment(profile, method="moderate", ratio=ratio, seed=seed)
data, settings = experiment.data, experiment.settings
model = experiment.build_model()

# %% [markdown]
# ## The forward process
#
# The forward process adds noise in a thousand small steps until nothing is
# left of the image
# ([Ho et al., 2020](https://arxiv.org/abs/2006.11239)). The noisy image at the
# timestep $t$ has a closed form,
#
# $$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon .$$
#
# Here $x_0$ is the image and $\epsilon$ is noise of variance one. Step $s$ adds
# noise of variance $\beta_s$, which rises linearly from $10^{-4}$ to 0.02, and
# $\bar\alpha_t=\prod_{s\le t}(1-\beta_s)$ is the share of the image's variance that
# is left. (It is no class weight.) The figure shows one image per class at five
# timesteps.

# %%
K = len(data.class_names)
first = [int((data.labels == k).argmax()) for k in range(K)]
clean = to_float(torch.from_numpy(data.images[first]))
noise = torch.randn(clean.shape, generator=torch.manual_seed(seed))

beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
alpha_bar = torch.cumprod(1 - beta, dim=0).float()


def add_noise(x, noise, t):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * noise


timesteps = [0, 100, 300, 500, 999]
frames = [add_noise(clean, noise, torch.tensor([t])) for t in timesteps]
figures.image_rows(
    [to_uint8(x.clamp(-1, 1)).numpy() for x in frames],
    [f"t = {t}" for t in timesteps],
)

# %% [markdown]
# ## The training step
#
# The network $\epsilon_\theta$ sees the noisy image $x_t$, the timestep $t$
# and the class $c$, and predicts the noise. Its loss is
#
# $$\mathbb E\left[\|\epsilon_\theta(x_t, c, t)-\epsilon\|^2\right].$$
#
# In one sample of ten the class is replaced by a null label. The same network
# thereby learns to predict without a class, which guidance needs. Here is the
# loss of one batch, with every random draw in sight. The mean over all pixels
# stands for the sum. For the gradient that is a factor; for group DRO it is
# part of the step size, since the weights move by $e^{\eta\lambda}$.

# %%
generator = torch.manual_seed(seed)
rows = torch.randint(0, len(data), (32,), generator=generator)
images = to_float(torch.from_numpy(data.images)[rows])
labels = torch.from_numpy(data.labels)[rows]
t = torch.randint(0, 1000, (32,), generator=generator)
noise = torch.randn(images.shape, generator=generator)
drop = torch.rand(32, generator=generator) < 0.1

x_t = add_noise(images, noise, t)
given = torch.where(drop, model.null_label, labels)
with torch.no_grad():
    predicted = model.predict(x_t, t, given)
losses = (predicted - noise).square().mean(dim=(1, 2, 3))

# %% [markdown]
# The library keeps the draws of a step in a `Batch`, so that two networks can
# see the same draw ([Reweight](04_reweight.ipynb)), and its models return one
# loss per sample. Are these losses equal to ours?

# %%
from dedt_lib.training import Batch

batch = Batch(images, labels, t, noise, drop)
with torch.no_grad():
    same = torch.allclose(model.losses(batch), losses, atol=1e-6)
same

# %% [markdown]
# The rest of a step is that of any network: the weighted mean of these losses,
# its gradient, and one step of the optimiser. An exponential moving average of
# the weights (**EMA**) follows the raw weights, and samples are drawn with the
# EMA weights.
#
# ## The network
#
# The network is a small U-Net from `diffusers`. The embedding of the class is
# added to the embedding of the timestep. These are its size and the settings
# of its training:

# %%
print(f"{sum(w.numel() for w in model.parameters()):,} weights")
pd.Series(vars(settings), name="value").to_frame()

# %% [markdown]
# ## The number of steps
#
# The number of *epochs* is fixed, as in the paper. A tenth of the images
# therefore means a tenth of the steps.

# %%
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
# Three runs are compared: one on all the data, one on the coreset, and one on
# the coreset that visits all the data in the last eighth of the epochs, which
# the paper calls **annealing**. An epoch of all the data has ten times the
# steps of an epoch of a 10 % coreset. At that ratio the last eighth of the
# epochs is more than half of the annealed run's steps.

# %%
full = experiment.change(method="random", ratio=1.0)
annealed = experiment.change(annealing=True)
runs = {"all data": full, "coreset": experiment, "annealed": annealed}
figures.loss_curves(
    {name: run.training()["losses"] for name, run in runs.items()}
)

# %% [markdown]
# A run on less data ends earlier, because it takes fewer steps. A low training
# loss on the coreset says only that the model fits these images; FID compares the
# models. The table gives the steps and the time that this machine took. The speed-up
# covers the final training alone, as in the paper's Table III;
# [Table III of this book](10_table3.ipynb) adds the cost of everything else.

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
ledger.round(1).astype({"steps": int, "images seen": int})

# %% [markdown]
# ## Classes drawn by their weights
#
# Class weights can act in two places. The tables of this book weight the
# *loss* ([Reweight](04_reweight.ipynb)). DoReMi
# ([Xie et al., 2023](https://arxiv.org/abs/2305.10429)), the source of this
# kind of weights, *samples* by them: it draws a class with probability
# $\alpha_i$, then one of its images. The bars below are one epoch of such
# draws, and the short lines are the expected counts. The paper does not say
# which of the two it uses.

# %%
weighted = experiment.change(reweighting=True)
by_draw = weighted.change(weighting="draw")
coreset = by_draw.weighted_coreset()
drawn, _ = by_draw.plan().epoch(0)
figures.class_draws(
    np.bincount(data.labels[drawn], minlength=len(data.class_names)),
    len(drawn) * coreset.weights,
    data.class_names,
)

# %%
Markdown(
    f"The {len(drawn)} draws of this epoch hold {len(np.unique(drawn))} "
    "different images of the coreset. The weighted loss shows every image "
    "once per epoch."
)

# %% [markdown]
# Both have the same gradient on average; they differ in how often an image is
# repeated. `dedt run --reweighting --weighting draw` trains with
# them. No row of the tables does.
#
# ## InfoBatch: a new subset in every epoch
#
# InfoBatch ([Qin et al., 2024](https://arxiv.org/abs/2303.04947)) needs no
# coreset. It keeps the last loss of every image and calls an image *well
# learned* where this loss is below the mean. In the next epoch it skips most
# of the well-learned images and gives the remaining ones a larger weight. To
# show one such epoch, the plan below receives the losses of the model trained
# on all the data.

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

# %%
Markdown(
    f"The epoch visits {len(kept)} of {len(data)} images. Their weights sum "
    f"to {kept_weights.sum():.0f}, about the number of all images."
)

# %% [markdown]
# The larger weights keep the loss unbiased: on average it is still the loss
# over all images. [Table II](09_table2.ipynb) shows whether the loss of a
# diffusion model can tell which images are well learned.
#
# ## Interrupting a run
#
# The order of the samples, the timesteps, the noise and the dropped labels are
# functions of the seed and the step, and not of the state of a generator. A
# run that is killed and resumed should therefore end with the same bits as one
# that was not. The next cell tests it: one run is left alone, the other one is
# interrupted in the middle of an epoch and resumed.

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

from dedt_lib.plans import EpochPlan
from dedt_lib.training import train

short = replace(settings, epochs=3, checkpoint_every=1)
plan = EpochPlan(experiment.select().indices, total=len(data), epochs=3)


class Interrupted(Exception):
    pass


class InterruptAt:
    """A weighting of ones that stops the run at one step."""

    def __init__(self, step):
        self.step, self.calls = step, 0

    def __call__(self, losses, batch, model):
        self.calls += 1
        if self.calls > self.step:
            raise Interrupted
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
    run(broken, InterruptAt(plan.steps(short.batch_size) - 2))
except Interrupted:
    print("interrupted; left behind:", [p.name for p in broken.iterdir()])
run(broken)

# %% [markdown]
# Are the weights of both runs equal, byte for byte?

# %%
weights = [(f / "model.safetensors").read_bytes() for f in (whole, broken)]
weights[0] == weights[1]

# %% [markdown]
# ## In short
#
# A training step draws timesteps, noise and dropped labels, predicts the noise
# and averages the squared errors with one weight per sample. Selection,
# reweighting, annealing and InfoBatch change only which samples an epoch
# visits and with what weights. At a fixed number of epochs a smaller coreset
# means fewer steps, and the speed-up comes from there.
#
# ## Try it
#
# - Let annealing begin in the middle of the epochs (`train.annealing_start`
#   is then 0.5). How many more steps does the run take? Write down the formula
#   first. ([Solution](solutions_method.ipynb#Train))
# - The loss of the first step is near one, although the smoothed curves begin
#   lower. Why one? ([Solution](solutions_method.ipynb#Train))
# - Next: [drawing samples](06_sample.ipynb).
