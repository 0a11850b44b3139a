# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reweight: which classes to stress
#
# Pruning does not hurt all classes alike. The paper asks a second model how
# much: where is a **proxy**, trained on the coreset, worse than a
# **reference** that has seen everything? The answer becomes one weight per
# class, by **group DRO** {cite:p}`sagawa2020distributionally,xie2023doremi`.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# This is the recipe: a coreset by Moderate-DS, and class weights for it.

# %%
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(
    profile, method="moderate", ratio=ratio, seed=seed, reweighting=True
)
names = experiment.data.class_names

# %% [markdown]
# ## The game
#
# The proxy's parameters $\theta$ minimise what the weights $\alpha$ maximise,
#
# $$\min_\theta\max_{\alpha\in\Delta}\sum_{i=1}^K
#   \alpha_i\left(\ell_i(\theta)-\ell_{\mathrm{ref}}(\theta_0)\right).$$
#
# The difference is the **excess loss**: what the reference knows and the
# proxy does not. Excess below zero is clipped, sample by sample. At each step
# the clipped class means $\lambda_i$ move the weights,
#
# $$\alpha_i' \propto \alpha_i\,e^{\eta\lambda_i},\qquad
#   \alpha_i = (1-c)\,\alpha_i' + c/K .$$
#
# In code that is one pure function. A class whose excess stands out gains:

# %%
import numpy as np

from dedt_lib.reweighting import update_weights

update_weights(np.full(4, 0.25), [0.0, 0.0, 0.1, 0.5])

# %% [markdown]
# ## The same draw for both
#
# A diffusion loss depends mostly on the timestep and the noise that were
# drawn. If the two networks drew their own, the excess would measure the
# draw. Here both look at the same noisy image. The spread of the excess over
# the samples of a batch shows the difference.

# %%
import torch

from dedt_lib.training import draw_batch

chosen = torch.from_numpy(experiment.select().indices)
reference = experiment.reference()
pruned = experiment.change(reweighting=False).train()


def losses(model, step):
    batch = draw_batch(
        experiment.data, chosen, experiment.settings, seed, step
    )
    with torch.no_grad():
        return model.losses(batch)


same = losses(pruned, 0) - losses(reference, 0)
own = losses(pruned, 0) - losses(reference, 1)
spread = {"same draw": same.std().item(), "own draw": own.std().item()}
spread

# %% tags=["remove-cell"]
glue("dro", same=spread["same draw"], own=spread["own draw"])

# %% [markdown]
# With the same draw the excess has a spread of {glue:text}`dro_same:.3f`,
# with draws of their own {glue:text}`dro_own:.3f`.
#
# ## Two readings of the same algorithm
#
# The algorithm starts with an *untrained* proxy. Its excess is huge at first,
# for reasons that have nothing to do with the coreset, and weights forget
# slowly: the time constant is $1/c$, a thousand steps. In the paper's tens of
# thousands of steps the start fades. Here it would be most of the run. So the
# digits wait: the weights stay uniform during a **burn-in** and are averaged
# only after it. The literal reading is on the right.

# %%
reading = experiment.reweight()
literal = experiment.change(burn_in=0.0).reweight()
figures.weight_trajectories(
    {"with burn-in": reading, "literal": literal}, names
)

# %% [markdown]
# What drives the weights: the excess loss, the share of samples where it was
# clipped, and how many classes the weights effectively speak of (ten when
# they are uniform). The grey part is the burn-in. Note the scale of the
# first panel: the first steps are another world.

# %%
figures.reweighting_signal(reading)

# %% [markdown]
# ## The weights
#
# The average of $\alpha$ over the steps is the result. Times $K$, so that
# one means "as before":

# %%
import pandas as pd

K = len(names)
pd.DataFrame(
    {
        "with burn-in": K * reading["weights"],
        "literal": K * literal["weights"],
    },
    index=pd.Index(names, name="class"),
).round(2).T

# %% tags=["remove-cell"]
from dedt_lib.reweighting import effective_classes

glue(
    "dro",
    effective=float(effective_classes(reading["weights"])),
    effective_literal=float(effective_classes(literal["weights"])),
    agree=float(np.corrcoef(reading["weights"], literal["weights"])[0, 1]),
    clipped=100 * float(reading["clipped"][reading["burn_in"] :].mean()),
)

# %% [markdown]
# The weights count {glue:text}`dro_effective:.1f` effective classes with
# burn-in and {glue:text}`dro_effective_literal:.1f` without, and the two
# readings correlate at {glue:text}`dro_agree:.2f`. After the burn-in
# {glue:text}`dro_clipped:.0f` % of the samples had their excess clipped.
#
# ## How much the options matter
#
# Group DRO has options that no paper fixes for a diffusion model: how fast the
# weights move and forget, at which level the excess is clipped, what an absent
# class brings, when the weights begin to move, and over which steps they are
# averaged. `tools/dro_options.py` changes one at a time and trains a proxy for
# each setting and seed. There is no right answer to compare with. What can be
# measured is how many classes the weights effectively stress, and how the
# logarithms of the weights correlate: between two seeds of one setting (the
# mean, and the lowest pair), and with the default's weights of the same seed.
# A setting whose seeds do not agree has learned the seed, not the classes.

# %%
from dedt_lib.book import findings, tables

measured = tables.dro_options(profile)
measured.round(3)

# %% tags=["remove-cell"]
glue("dro", options=findings.options(measured))

# %% [markdown]
# {glue:text}`dro_options:s` (Differences of up to 0.02 are not named.)
#
# What was measured on the digits speaks for the defaults. A shorter average, a
# late start, steps of another size and clipping by pixel all make the seeds
# agree less. Clipping by sample or by class gives the same weights. The
# smoothing hardly changes the weights' logarithms beside each other, but how
# many classes they stress. Without a burn-in the seeds agree as well, and the
# excess is larger.
#
# ## From class weights to sample weights
#
# A sample of class $i$ counts $w_i = \alpha_i / p_i$, where $p_i$ is the
# class's share of the coreset. Over the coreset these weights have mean one,
# and the loss of a batch of $b$ samples is $\sum_j w_j\ell_j / b$. With
# uniform weights on a balanced coreset every $w$ is exactly one, and training
# is the unweighted one bit for bit.
#
# The proxy alone divides by $\sum_j w_j$ instead, as the code of DoReMi does.
# On a long tail that takes back a part of what the weights ask: a batch
# without a rare class is divided by little, a batch with one by much. Fixed
# weights are therefore used as they stand. Where classes are unequal,
# uniform $\alpha$ alone changes the training already: it lets every class
# count the same. A row of Table I shows that effect by itself
# (`balancing=True`).
#
# One more choice is in the scores. With dropout in the network, the proxy's
# losses carry it while the reference's do not, so every excess is too large.
# The digits' network has none; for others the profile's
# `reweight.scores = "eval"` compares without dropout, at the price of one more
# forward pass.

# %%
weighted = experiment.weighted_coreset()
np.unique(weighted.sample_weights[weighted.indices]).round(3)

# %% [markdown]
# ## Try it
#
# - Set `burn_in=0.5`. Which classes keep a weight above one in all three
#   readings? Those are the ones to believe.
# - In a profile of your own, make `reweight.smoothing` ten times larger. The weights
#   then forget ten times faster.
# - Next: [training on the weighted coreset](05_train).
