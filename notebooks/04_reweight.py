# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reweight: which classes to up-weight
#
# Pruning does not hurt all classes alike. The paper trains a second model to
# find out where it hurts: the **proxy** is trained on the coreset and is
# compared with a **reference**, which was trained on all the data. The
# comparison gives one weight per class, by **group DRO** (distributionally robust
# optimisation over groups; a group is a class here;
# [Sagawa et al., 2020](https://arxiv.org/abs/1911.08731);
# [Xie et al., 2023](https://arxiv.org/abs/2305.10429)).

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# The example is a coreset by Moderate-DS, with class weights for it.

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(
    profile, method="moderate", ratio=ratio, seed=seed, reweighting=True
)
names = experiment.data.class_names

# %% [markdown]
# ## The min-max problem
#
# The proxy's parameters $\theta$ minimise what the class weights $\alpha$
# maximise,
#
# $$\min_\theta\max_{\alpha\in\Delta}\sum_{i=1}^K
#   \alpha_i\left(\ell(\theta;D_{s_i})
#   -\ell_{\mathrm{ref}}(\theta_0;D_{s_i})\right),$$
#
# with $D_{s_i}$ the images of class $i$ in the coreset, $\ell$ the mean loss over
# them, $\theta_0$ the parameters of the reference, which stay fixed, and $\Delta$
# the set of all weights that are not negative and sum to one. The difference in
# brackets is the **excess loss** of class $i$: the loss of the proxy minus the
# loss of the reference. A negative excess is clipped to zero, sample by sample;
# the clip acts on the weights only, and the proxy is trained on the weighted
# losses as they are. At each step the clipped class means $\lambda_i$ move the
# weights by exponentiated gradient ascent, and a little smoothing pulls them
# back towards uniform,
#
# $$\alpha_i' \propto \alpha_i\,e^{\eta\lambda_i},\qquad
#   \alpha_i = (1-c)\,\alpha_i' + c/K .$$
#
# ## The algorithm on a toy
#
# Here is a whole run of group DRO without networks. The losses of three
# classes are drawn at random, and the proxy is worse than the reference on
# class 1 and twice as much on class 2.

# %%
K, steps = 3, 500
labels = np.tile(np.arange(K), 8)  # a batch of 24
rng = np.random.default_rng(seed)
reference_losses = rng.exponential(0.1, (steps, len(labels)))
worse = rng.normal(0.05 * labels, 0.1, (steps, len(labels)))
proxy_losses = reference_losses + worse

# %% [markdown]
# Each step takes the excess, averages it by class, exponentiates and smooths.
# The result of group DRO is the average of $\alpha$ over the steps.

# %%
eta, c = 1.0, 1e-3
alpha, trajectory = np.full(K, 1 / K), []
for loss, reference_loss in zip(proxy_losses, reference_losses):
    excess = np.maximum(loss - reference_loss, 0)
    by_class = np.array([excess[labels == k].mean() for k in range(K)])
    alpha = alpha * np.exp(eta * by_class)
    alpha = alpha / alpha.sum()
    alpha = (1 - c) * alpha + c / K
    trajectory.append(alpha)
average = np.mean(trajectory, axis=0)
average.round(3)

# %% [markdown]
# The library's `GroupDRO` is called by the training loop with the losses of a
# batch, and asks the reference for its own. Fed with the same losses, it
# arrives at the same weights.

# %%
from dedt_lib.reweighting import GroupDRO
from dedt_lib.training import Batch


class Recorded(torch.nn.Module):
    """A reference whose losses come with the batch."""

    def losses(self, batch):
        return batch.extra["reference losses"]


dro = GroupDRO(Recorded(), np.bincount(labels), step_size=eta, smoothing=c)
of_class, empty = torch.from_numpy(labels), torch.zeros(len(labels))
for loss, reference_loss in zip(
    torch.from_numpy(proxy_losses), torch.from_numpy(reference_losses)
):
    batch = Batch(
        images=empty, labels=of_class, t=empty, noise=empty, drop=empty,
        extra={"reference losses": reference_loss},
    )
    dro(loss, batch)
np.allclose(dro.average, average)

# %% [markdown]
# One step of the weights is also a pure function. A class with a large excess
# gains weight:

# %%
from dedt_lib.reweighting import update_weights

update_weights(np.full(4, 0.25), [0.0, 0.0, 0.1, 0.5]).round(3)

# %% [markdown]
# ## One draw for both networks
#
# A diffusion loss depends mostly on the timestep and the noise that were
# drawn. If each network drew its own, the excess would measure the difference
# between the draws. So proxy and reference see the same noisy images. The
# next cell computes the excess both ways, with a model trained on the coreset
# in the place of the proxy.

# %%
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
separate = losses(pruned, 0) - losses(reference, 1)

# %%
Markdown(
    "The standard deviation of the excess over the coreset is "
    f"{same.std():.3f} with the same draw for both networks, and "
    f"{separate.std():.3f} with separate draws."
)

# %% [markdown]
# ## Two readings of the algorithm
#
# The paper's algorithm starts with an *untrained* proxy. Its excess is huge at
# first, for reasons that have nothing to do with the coreset, and the weights
# forget slowly: the time constant is $1/c$, a thousand steps. The start fades
# in the paper's tens of thousands of steps. On the digits the run itself has
# hardly more than a thousand. So the weights stay uniform here during a
# **burn-in** and are averaged only after it. The literal reading, without a
# burn-in, is on the right.

# %%
burn_in = experiment.profile.reweight.burn_in or 0.25
reading = experiment.change(burn_in=burn_in).reweight()
literal = experiment.change(burn_in=0.0).reweight()
figures.weight_trajectories(
    {"with burn-in": reading, "literal": literal}, names
)

# %% [markdown]
# Three quantities explain the trajectories: the excess loss, the share of
# samples whose excess was clipped, and the effective number of classes, which
# is $K$ where the weights are uniform. The burn-in is grey. Note the scale of
# the first panel: the excess of the first steps dwarfs all that follow.

# %%
figures.reweighting_signal(reading)

# %% [markdown]
# ## The weights
#
# The result is the average of $\alpha$ over the steps. The table shows it
# times $K$, so that one means no change.

# %%
pd.DataFrame(
    {
        "with burn-in": len(names) * reading["weights"],
        "literal": len(names) * literal["weights"],
    },
    index=pd.Index(names, name="class"),
).round(2).T

# %%
from dedt_lib.reweighting import effective_classes

both = np.stack([reading["weights"], literal["weights"]])
with_burn_in, without = effective_classes(both)
clipped = reading["clipped"][reading["burn_in"] :].mean()
Markdown(
    f"The effective number of classes is {with_burn_in:.1f} with burn-in and "
    f"{without:.1f} without. The two readings have a correlation of "
    f"{np.corrcoef(both)[0, 1]:.2f}. After the burn-in "
    f"{100 * clipped:.0f} % of the samples had their excess clipped."
)

# %% [markdown]
# ## Sensitivity to the options
#
# Group DRO has options that no paper fixes for a diffusion model: the step
# size, the smoothing, the level at which the excess is clipped, the treatment
# of a class that is absent from a batch, the burn-in, and the steps that are
# averaged. `tools/dro_options.py` changes one option at a time and trains a
# proxy for each setting and seed. There is no ground truth to compare with.
# What can be measured is how uneven the weights are (the effective number of
# classes) and how reproducible they are: the correlation of the logarithms of
# the weights between two seeds of a setting (the mean and the lowest pair),
# and with the default's weights of the same seed. A setting whose seeds
# disagree has learned the seed and not the classes. Each seed trains its own
# feature extractor, so the seeds differ in their coreset too. The table also has
# the share of samples whose excess was clipped, and the mean excess.

# %%
from dedt_lib.book import findings, results

measured = results.dro_options(profile)
columns = {
    "between_seeds": "correlation of seeds, mean",
    "lowest": "lowest",
    "with_default": "with the default",
    "effective_classes": "effective classes",
    "clipped": "share clipped",
    "mean_excess": "mean excess",
}
shown = measured.drop(columns="classes", errors="ignore")
shown.rename(columns=columns).round(3)

# %%
Markdown(findings.options(measured))

# %% [markdown]
# ## From class weights to sample weights
#
# A sample of class $i$ gets the weight $w_i = \alpha_i / p_i$, where $p_i$ is
# the share of the class in the coreset. Over the coreset these weights have
# mean one, and the loss of a batch of $b$ samples is $\sum_j w_j\ell_j / b$.
# With uniform weights on a balanced coreset every $w$ is exactly one, and
# training is the unweighted training bit for bit.

# %%
weighted = experiment.weighted_coreset()
shares = weighted.counts / weighted.counts.sum()
by_hand = (reading["weights"] / shares)[weighted.labels[weighted.indices]]
np.allclose(weighted.sample_weights[weighted.indices], by_hand)

# %% [markdown]
# Three details matter beyond this formula.
#
# - The proxy divides by $\sum_j w_j$ instead of $b$, as the code of Xie et al. (2023)
#   does, whose method is called DoReMi. Where a few classes are frequent and many
#   are rare, the division takes back a part of the weights: a batch
#   without a rare class is divided by little, and a batch with one by much.
#   The final training therefore divides by $b$.
# - Where classes are unequal, uniform $\alpha$ already changes the training,
#   because every class then counts the same. A row of the
#   [controls](20_controls.ipynb) isolates this effect (`balancing=True`).
# - Dropout raises the proxy's losses but not the reference's, so it inflates
#   every excess. The digits' network has no dropout. For others,
#   `reweight.scores = "eval"` in a profile compares the losses without
#   dropout, at the cost of one more forward pass.
#
# ## In short
#
# Group DRO compares a proxy on the coreset with a reference on all the data
# and shifts weight to the classes where the proxy is worse. A step of it
# clips, averages by class, exponentiates and smooths. A burn-in keeps the
# untrained proxy out of the weights; whether that changes FID is asked on the
# page of [Table I](08_table1.ipynb). Only weights on which the seeds agree tell
# something about the classes.
#
# ## Try it
#
# - Make `c` ten times larger in the toy. How does the average change?
#   ([Solution](solutions_method.ipynb#Reweight))
# - Make the proxy of the toy worse by 0.3 on all classes alike. Do the weights
#   change? Would they without the clipping? ([Solution](solutions_method.ipynb#Reweight))
# - Next: [training on the weighted coreset](05_train.ipynb).
