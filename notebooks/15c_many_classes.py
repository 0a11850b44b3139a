# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does a class that is absent from a batch weigh?
#
# Group DRO moves the weight of a class by the excess loss of its samples in
# the batch ([Reweight](04_reweight.ipynb)). With ten classes a batch contains
# every class. ImageNet has a thousand, and a batch of 256 contains only some of
# them. This chapter looks at the class weights that MDT gets on the digits, and
# then simulates the thousand.

# %% tags=["parameters"]
profile = "digits"
seed = 0
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "seed", "compute")

# %% [markdown]
# The results of the tables are read (`compute = True` computes those that are
# missing); no network is trained here.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown

from dedt_lib.book import figures, results, tables
from dedt_lib.experiment import Experiment

if compute:
    results.compute_missing(profile, "table4")
names = Experiment(profile, seed=seed).data.class_names
frame, K = results.read_cells(profile), len(names)

# %% [markdown]
# ## Class weights for MDT
#
# Group DRO applies unchanged, except for one question: which loss should be
# compared? MDT's own loss weighs timesteps, masks tokens and trains the
# variance. So proxy and reference are compared by the plain squared error with
# all tokens, and the class weights then act on the full loss. The proxy is
# short, a tenth of the epochs as in the paper. Look at how far the weights
# move in so few steps.

# %%
row = "mdt-gaussian-reweighted"
cells = frame[(frame.row == row) & (frame.seed == seed)].sort_values("ratio")
readings = {
    tables.percent(r): results.reading(result)
    for r, result in zip(cells.ratio, cells.result)
}
if readings:
    shown = figures.weight_trajectories(readings, names)
else:
    shown = "No results yet."
shown

# %% [markdown]
# The table shows the range of the averaged weights (times $K$), the mean excess
# after the burn-in, and the share of samples whose excess was clipped. A
# clipped sample is one where the proxy is as good as the reference. If almost
# none is clipped, the short proxy is still worse everywhere, and all samples
# push the weights.

# %%
summary = {}
for name, result in zip(readings, cells.result):
    dro, weights = result["dro"], K * readings[name]["weights"]
    summary[name] = {
        "proxy steps": dro["steps"],
        "smallest weight": weights.min(),
        "largest weight": weights.max(),
        "mean excess": dro["mean_excess"],
        "clipped (%)": 100 * dro["clipped"],
    }
pd.DataFrame(summary).T.round(3)

# %% [markdown]
# [Table IV](16_table4.ipynb) shows whether such weights help.
#
# ## One step, and the absent
#
# What does group DRO use for the excess of an absent class? The code of DoReMi
# uses its **previous** excess, however old. The alternative is **zero**, so
# that only the classes in the batch gain weight. This is one step, with either
# rule:

# %%
def dro_step(weights, previous, losses, reference, labels, absent):
    K = len(weights)
    clipped = np.maximum(losses - reference, 0)
    counts = np.bincount(labels, minlength=K)
    means = np.bincount(labels, clipped, K) / np.maximum(counts, 1)
    old = previous if absent == "previous" else np.zeros(K)
    excess = np.where(counts > 0, means, old)
    raised = weights * np.exp(eta * excess)
    return (1 - c) * raised / raised.sum() + c / K, excess


# %% [markdown]
# The library's step is two functions, and the rule for absent classes is in
# what the first one is given. With the settings of ImageNet, for which the
# next section needs them, both come to the same weights:

# %%
from dedt_lib.config.profile import load_profile
from dedt_lib.reweighting import class_excess, update_weights

imagenet, classes, images = load_profile("imagenet"), 1000, 128_117
size = imagenet.mdt.batch_size
eta, c = imagenet.reweight.step_size, imagenet.reweight.smoothing

rng = np.random.default_rng(seed)
labels = rng.integers(0, classes, size)
losses, reference = rng.exponential(size=(2, size))
before = rng.exponential(size=classes)
uniform = np.full(classes, 1 / classes)
ours = dro_step(uniform, before, losses, reference, labels, "previous")

excess, _ = class_excess(losses, reference, labels, before)
weights = update_weights(uniform, excess, step_size=eta, smoothing=c)
np.allclose(ours[0], weights), np.allclose(ours[1], excess)

# %% [markdown]
# ## A thousand classes
#
# A simulation without networks shows the difference, over as many steps as the
# paper's proxy takes on a tenth of ImageNet. The excess of a sample is drawn
# at random. In one class of ten it is twice as large on average: these hard
# classes ought to gain weight.

# %%
steps = imagenet.mdt.proxy_epochs * images // size
hard = np.arange(classes) < classes // 10
expected = np.where(hard, 0.004, 0.002)


def simulate(absent):
    rng = np.random.default_rng(seed)
    excess, weights = np.zeros(classes), uniform
    trajectory, missing = [], []
    for _ in range(steps):
        labels = rng.integers(0, classes, size)
        losses = rng.exponential(expected[labels])
        weights, excess = dro_step(
            weights, excess, losses, np.zeros(size), labels, absent
        )
        trajectory.append(weights)
        missing.append(1 - len(set(labels)) / classes)
    return np.array(trajectory), np.mean(missing)


runs = {rule: simulate(rule) for rule in ("previous", "zero")}
figures.group_weights(
    {f"absent: {rule}": path for rule, (path, _) in runs.items()},
    {"hard": hard, "others": ~hard},
)

# %%
expected_absent = 100 * (1 - 1 / classes) ** size
Markdown(
    f"In these {steps:,} steps {100 * runs['previous'][1]:.1f} % of the "
    f"classes are absent from a batch on average; the expected share for a "
    f"batch of {size} is {expected_absent:.1f} %."
)

# %% [markdown]
# The line is the median class of a group, and the band holds nine classes of
# ten. The table shows the average weights over the steps, times $K$.

# %%
from dedt_lib.reweighting import average_weights, effective_classes

outcome = {}
for rule, (path, _) in runs.items():
    average = average_weights(path)
    relative = classes * average
    outcome[f"absent: {rule}"] = {
        "hard classes, mean": relative[hard].mean(),
        "hard classes, standard deviation": relative[hard].std(),
        "other classes, mean": relative[~hard].mean(),
        "effective classes": effective_classes(average),
    }
pd.DataFrame(outcome).T.round(2)

# %%
gain, spread = {}, {}
for rule, row in outcome.items():
    gain[rule] = row["hard classes, mean"] - row["other classes, mean"]
    spread[rule] = row["hard classes, standard deviation"] / gain[rule]
ratio_of_gains = gain["absent: previous"] / gain["absent: zero"]
Markdown(
    "With the previous excess the hard classes stand out "
    f"{ratio_of_gains:.1f} times as far. The spread among the hard classes "
    f"is {100 * spread['absent: previous']:.0f} % of this gain, against "
    f"{100 * spread['absent: zero']:.0f} % with zero."
)

# %% [markdown]
# The previous excess acts at every step until the class is seen again, so the
# hard classes gain more. The same rule adds noise: one large sample stands for
# its class until the next one comes, and the hard classes differ from each
# other by chance. The profile `imagenet` uses the previous excess, as the cited
# code does; `reweight.absent` chooses.
#
# ## In short
#
# MDT's class weights come from the plain squared error, since its own loss
# weighs timesteps and masks tokens. Where a batch holds few of the classes, the
# excess of an absent class decides how strongly hard classes gain weight. Its
# previous value lets them gain more and scatter more; zero is slower and
# steadier.
#
# ## Try it
#
# - Run the simulation with ten times the excess. Which rule still separates the
#   hard classes from the others?
#   ([Solution](solutions_mdt.ipynb#Absent-classes))
# - Let a batch hold 2,560 samples, with a tenth of the steps. What is left of
#   the difference between the two rules?
#   ([Solution](solutions_mdt.ipynb#Absent-classes))
# - Next: [Table IV](16_table4.ipynb).
