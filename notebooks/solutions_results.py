# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions: results
#
# Worked solutions of the exercises of the pages from
# [Table I](08_table1.ipynb) to [Photographs](13b_photographs.ipynb). Try an
# exercise before you read its solution. The page reads committed results;
# `compute = True` computes missing ones.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "compute")

# %%
from math import factorial

import numpy as np
import pandas as pd
from IPython.display import Markdown

from dedt_lib.book import figures, findings, grid, paper, results, tables
from dedt_lib.files import project_root

if compute:
    for table in ("table1", "table2", "table3"):
        results.compute_missing(profile, table)
frame = results.read_cells(profile)
ours, control = "moderate-reweighted", "early-stopping"
smallest = frame.ratio.min()

# %% [markdown]
# ## Table I
#
# **Does the dashed line cross the lines of the coresets?**
# ([Exercise](08_table1.ipynb))
#
# FID of each row minus that of all the data at equal steps and the same seed,
# as a mean over the seeds. Below zero the coreset is better than stopping
# early.

# %%
rows = [row for row in paper.TABLE_1 if row != "full"]
wide = frame.pivot(index=["ratio", "seed"], columns="row", values="fid")
wide = wide.reindex(columns=[*rows, control])
gap = wide[rows].sub(wide[control], axis=0).groupby("ratio").mean().T
gap.columns = map(tables.percent, gap.columns)
gap.rename(index=grid.LABELS).dropna(axis=1, how="all").round(2)

# %%
won = [ratio for ratio in gap if (gap[ratio] < 0).any()]
Markdown(
    "By its mean, some coreset is below the dashed line at: "
    f"{', '.join(won) or 'no ratio'}."
)

# %% [markdown]
# A change of sign along a row is a crossing. At a ratio where all rows are
# above zero, stop early: it costs the same number of steps and needs neither
# encoder nor proxy. A single negative mean is not yet a gain, which the next
# exercise shows.
#
# **The lowest of several equal rows: how low is it by luck?**
# ([Exercise](08_table1.ipynb))
#
# Suppose that all rows of a column have the same true FID, and their means
# differ by the seeds alone. How far below the truth is the best of them? The
# noise of a mean is the standard deviation over the seeds, divided by the
# square root of their number.

# %%
column = frame[frame.row.isin(rows) & (frame.ratio == smallest)]
seeds, number = column.seed.nunique(), column.row.nunique()
error = column.groupby("row").fid.std().mean() / seeds**0.5
draws = np.random.default_rng(0).normal(size=(100_000, number))
luck = -draws.min(axis=1).mean()
Markdown(
    f"The best of {number} equal rows lies {luck:.2f} standard errors below "
    "the truth on average. "
    + (f"Here that is an FID of {luck * error:.3f}." if seeds > 1 else "")
)

# %% [markdown]
# So the row that wins a column looks better than it is, the more so the more
# rows there are. A comparison that is named before the results are read has
# no such bias, and Holm's correction pays for naming several.

# %% [markdown]
# ## Table II
#
# **What does InfoBatch skip at its own default of 0.5?**
# ([Exercise](09_table2.ipynb))
#
# If a share $p$ of the images is well learned, an epoch skips $p\,r$ of all
# images. The scores are the losses of the model trained on all the data, with
# one draw of timesteps and noise.

# %%
import torch

from dedt_lib.experiment import Experiment
from dedt_lib.plans import InfoBatchPlan
from dedt_lib.training import draw_batch

experiment = Experiment(profile, method="random", ratio=0.1)
data = experiment.data
n = len(data)
batch = draw_batch(data, torch.arange(n), experiment.settings, seed=0, step=0)
with torch.no_grad():
    losses = experiment.reference().losses(batch).numpy()
p = (losses < losses.mean()).mean()

skipped = {}
for r in (0.5, 0.9):
    plan = InfoBatchPlan(n, prune_ratio=r, epochs=8)
    plan.record(np.arange(n), losses)
    by_plan = 1 - len(plan.epoch(1)[0]) / n
    skipped[f"r = {r}"] = {"p r": p * r, "by the plan": by_plan}
(100 * pd.DataFrame(skipped).T).round(1)

# %% [markdown]
# The table is in per cent. With $r=1/2$ less than half of the images can be
# skipped, whatever the losses are. Where more than half of the losses lie below
# their mean, a few large ones have raised it.
#
# **Why do the weights $1/(1-r)$ keep the loss unbiased, and what do they
# cost?** ([Exercise](09_table2.ipynb))
#
# A well-learned image is drawn with probability $1-r$ and then counts
# $1/(1-r)$ times. On average it counts once. Here are a thousand epochs of each
# $r$ on the same losses:

# %%
estimates = {}
for r in (0.1, 0.5, 0.9):
    plan = InfoBatchPlan(n, prune_ratio=r, epochs=10_000)
    plan.record(np.arange(n), losses)
    made = [plan.epoch(e) for e in range(1, 1001)]
    estimates[f"r = {r}"] = [(w @ losses[i]) / n for i, w in made]
estimates = pd.DataFrame(estimates)
pd.DataFrame(
    {
        "all images": losses.mean(),
        "mean of the epochs": estimates.mean(),
        "their standard deviation": estimates.std(),
    }
).round(4)

# %% [markdown]
# The mean is right for every $r$, and the standard deviation grows with $r$.
# Few images with large weights stand for all that were skipped. The price of
# skipping is noise in the gradient, not bias.

# %% [markdown]
# ## Table III
#
# **How many coresets must share a reference?**
# ([Exercise](10_table3.ipynb))
#
# Let $F$ be the cost of a run on all the data, in network evaluations, and $c$
# that of proxy and final training. The reference costs $F$ again. $m$ coresets
# that share a reference take less than $m$ runs on all the data where
# $F+mc < mF$.

# %%
own = frame[(frame.row == ours) & (frame.ratio < 1)]
own = own.drop_duplicates("ratio").set_index("ratio").sort_index()
costs = own.result.map(lambda result: result["costs"])
work = pd.DataFrame(
    [{k: v["evaluations"] for k, v in cost.items()} for cost in costs],
    index=own.index,
    columns=["reference", "reweight", "train"],
)
F = frame[frame.row == "full"].evaluations.mean()
each = work[["reweight", "train"]].sum(axis=1)
once = work.reference
answer = pd.DataFrame(
    {
        "each coreset, in full runs": each / F,
        "shared, in full runs": once / F,
        "coresets needed": np.floor(once / (F - each)) + 1,
    }
)
answer["coresets needed"] = answer["coresets needed"].where(each < F)
answer.rename(tables.percent).round(2)

# %% [markdown]
# The larger the coreset, the less each of them saves, and the more of them it
# takes. Where a coreset alone costs as much as a full run, no number is enough,
# and the last column is empty (NaN).
#
# **What if the final training took no time at all?**
# ([Exercise](10_table3.ipynb))

# %%
rest = work[["reference", "reweight"]].sum(axis=1)
pd.DataFrame(
    {
        "whole recipe": F / work.sum(axis=1),
        "final training free": F / rest,
    }
).rename(tables.percent).round(2)

# %% [markdown]
# This is Amdahl's law. The stages before the final training hold the reference,
# which is a run on all the data itself. So even with a free final training the
# recipe cannot be faster than that one run. A shorter reference would change
# that; a smaller coreset cannot.

# %% [markdown]
# ## Figure 2
#
# **Are the weights nearer to $1/K$ at larger ratios?**
# ([Exercise](11_figure2.ipynb))

# %%
proxies = findings.proxies(frame[(frame.row == ours) & (frame.ratio < 1)])
columns = ["clipped (%)", "mean excess", "effective classes"]
by_ratio = proxies.groupby("ratio")[columns].mean()
by_ratio.rename(tables.percent).round(3)

# %% [markdown]
# The means over the seeds. The effective number of classes is $K$ for uniform
# weights. A proxy that has seen
# more images is less behind the reference, so its excess loss has less to move
# the weights with. Where the effective number of classes is below $K$, the excess
# still moves the weights.

# %%
ends = by_ratio.iloc[[0, -1]]
excess, classes = ends["mean excess"], ends["effective classes"]
Markdown(
    f"From {' to '.join(map(tables.percent, ends.index))} the mean excess "
    f"goes from {' to '.join(f'{x:.3f}' for x in excess)}, and the effective "
    f"number of classes from {' to '.join(f'{x:.2f}' for x in classes)}."
)

# %% [markdown]
# **Ten true nulls at a level of 0.05: how often is one of them
# "significant"?** ([Exercise](11_figure2.ipynb))
#
# If reweighting did nothing and the classes were independent, the probability
# that no test is below 0.05 would be $0.95^{10}$. Holm's correction asks the
# smallest p to be below $0.05/10$.

# %%
p_values = np.random.default_rng(0).uniform(size=(100_000, 10))
least = p_values.min(axis=1)
Markdown(
    f"Without correction: {100 * (1 - 0.95**10):.1f} % by the formula and "
    f"{100 * (least < 0.05).mean():.1f} % in a simulation. With it: "
    f"{100 * (least < 0.05 / 10).mean():.1f} %."
)

# %% [markdown]
# So a bar chart of ten classes shows some "effect" in four of ten experiments
# in which there is none.

# %% [markdown]
# ## Claims of the paper
#
# **Do the two steps add up to the recipe?** ([Exercise](12_shape.ipynb))

# %%
pairs = [("moderate", "random"), (ours, "moderate"), (ours, "random")]
page = findings.Page(frame, pairs)
steps = ["selection", "reweighting", "recipe"]
found = {s: page.compare(*pair) for s, pair in zip(steps, pairs)}
table = pd.DataFrame({s: found[s].difference for s in steps})
table["sum of the steps"] = table.selection + table.reweighting
table.rename(tables.percent, level="ratio").round(3)

# %%
figures.differences(found)

# %% [markdown]
# The differences add up, because every row has the same seeds and a mean is
# linear: $(b-a)+(c-b)=c-a$. The intervals do not. Their widths come from the
# deviations of each difference over the seeds, and "moderate" is in two of
# them with opposite signs. Two inconclusive steps can make a conclusive recipe,
# and the other way round.
#
# **How many seeds does a smaller effect need?** ([Exercise](12_shape.ipynb))
#
# Half the width of the interval of a paired difference is
# $t_{n-1}\,s/\sqrt n$, where $s$ is the deviation of the difference over
# the seeds.

# %%
from scipy.stats import t

s = found["recipe"].deviation.mean()
half = {
    n: {
        "t": t.ppf(0.975, n - 1),
        "half width (FID)": t.ppf(0.975, n - 1) * s / n**0.5,
    }
    for n in (2, 3, 5, 10, 20)
}
pd.DataFrame(half).T.rename_axis("seeds").round(3)

# %% [markdown]
# From two seeds to five the width falls mostly because $t$ does. From three
# seeds to five it halves, and from five it takes thirteen to halve it again.
# With many seeds, where $t$ hardly changes, it takes four times as many. An
# effect smaller than the half width is likely to stay inconclusive.

# %% [markdown]
# ## Controls
#
# **How many permutations move no weight by more than one place?**
# ([Exercise](20_controls.ipynb))
#
# Either the last element stays, and the first $K-1$ do the same, or it changes
# places with the one before it, and the first $K-2$ do the same. So
# $f(K)=f(K-1)+f(K-2)$: the Fibonacci numbers. For small $K$ one can count.

# %%
from itertools import permutations

counted = [
    sum(
        all(abs(i - j) <= 1 for i, j in enumerate(order))
        for order in permutations(range(K))
    )
    for K in range(1, 8)
]
f = [1, 2]
while len(f) < 10:
    f.append(f[-1] + f[-2])
Markdown(
    f"Counted for K = 1 to 7: {counted}. The recurrence: {f}. For ten "
    f"classes that is {f[9]} of {factorial(10):,}. Yet {100 / np.e:.0f} % of "
    "all permutations leave no class where it was, so "
    f"{100 - 100 / np.e:.0f} % leave one or more."
)

# %% [markdown]
# A shuffle that leaves nearly everything in its place is so rare that it can be
# forgotten. But one that leaves the *heaviest* class in its place has a
# probability of 1/10, and for one seed that may be the shuffle at hand.

# %%
def heaviest(row):
    own = frame[(frame.row == row) & (frame.ratio == smallest)]
    weights = own.set_index("seed").result.map(lambda r: r["class_weights"])
    return weights.map(np.argmax)


shuffled, learned = heaviest(f"{ours}-shuffled"), heaviest(ours)
stayed = shuffled.index[shuffled == learned.reindex(shuffled.index)]
Markdown(
    f"At {tables.percent(smallest)} the heaviest class stayed in its place "
    f"for {len(stayed)} of {len(shuffled)} seeds "
    f"({', '.join(map(str, stayed)) or 'none'})."
)

# %% [markdown]
# Each seed has its own permutation, the same at every ratio. Over many seeds
# such accidents average out; over five they do so only in part.
#
# **Which Kendall's W do seeds have that agree on nothing?**
# ([Exercise](20_controls.ipynb))

# %%
from dedt_lib.evaluation import concordance

rng = np.random.default_rng(0)
chance = {
    seeds: np.mean(
        [concordance(rng.normal(size=(seeds, 10)))[0] for _ in range(200)]
    )
    for seeds in (2, 3, 5, 10)
}
expected = {seeds: 1 / seeds for seeds in chance}
pd.DataFrame({"simulated": chance, "1 / seeds": expected}).rename_axis(
    "seeds"
).round(2)

# %% [markdown]
# W is 1 where all seeds have the same order, and its mean for independent
# orders is not 0 but one over the number of seeds. A W of 0.4 from three seeds
# says almost nothing, while from ten it is far above chance. This is why the
# page gives a p beside it.

# %% [markdown]
# ## CIFAR-10
#
# **Which overlaps differ from chance?** ([Exercise](13_cifar10.ipynb))
#
# Of 50,000 images two coresets keep 5,000 each. If they were independent, the
# number that both keep would have a hypergeometric distribution.

# %%
from scipy.stats import hypergeom

from dedt_lib.files import read_json

folder = project_root() / "results" / "cifar10-cpu"
measured = read_json(folder / "selection.json")
overlap = pd.DataFrame(measured["overlap"])
law = hypergeom(50_000, 5_000, 5_000)
apart = (5_000 * overlap - law.mean()) / law.std()
apart.where(overlap < 1).round(1).astype(object).where(overlap < 1, "")

# %% [markdown]
# The table has the distance from chance in standard deviations. A standard
# deviation is less than half a per cent of the coreset, since the coresets are
# large. The two bands share far more than chance. For the other pairs a small
# distance does not prove independence: two selectors can disagree in opposite
# ways on two halves of the images and still overlap by the ratio.
#
# **Which weights would balance the single band?**
# ([Exercise](13_cifar10.ipynb))
#
# Uniform class weights $\alpha_i=1/K$ give a sample of class $i$ the weight
# $\alpha_i/p_i$, where $p_i$ is the share of its class in the coreset.

# %%
band = next(
    s
    for s in measured["selections"]
    if s["selector"] == "moderate-global" and s["ratio"] == 0.1
)
counts = pd.Series(band["class_counts"], measured["class_names"])
weights = counts.sum() / len(counts) / counts
effective = counts.sum() ** 2 / (weights**2 * counts).sum()
pd.DataFrame({"images": counts, "sample weight": weights.round(2)}).T

# %%
Markdown(
    f"The weights lie between {weights.min():.2f} and {weights.max():.2f}. "
    f"Their effective sample size is {effective:.0f} of {counts.sum()} "
    "images."
)

# %% [markdown]
# The weights balance the classes, but they do not bring back images. A class
# with few images is shown as often as the others, with fewer different
# examples. The effective sample size, $(\sum w)^2/\sum w^2$, says how many
# equally weighted images have the same variance.

# %% [markdown]
# ## Photographs
#
# **Which share of the FID do even real images have?**
# ([Exercise](13b_photographs.ipynb))
#
# Two halves of the real images have an FID above zero because each half is a
# sample. The table has this distance as a share of each row's FID.

# %%
committed = project_root() / "results"
latent = results.read_cells("cifar10-latent", root=committed)
floor = latent.result.iloc[0]["floor"]["fid"]
by_row = latent.pivot_table(index="row", columns="ratio", values="fid")
share = (100 * floor / by_row).rename(index=grid.LABELS).rename_axis(None)
share.rename(columns=tables.percent).round(1)

# %% [markdown]
# The entries are per cent, and a third too large: the bias of FID is roughly
# proportional to $1/m+1/n$, which for two halves of 5,000 is 4/3 of what it is
# for 5,000 samples and 10,000 images. The rest has several causes, which do not
# add up: the autoencoder, the short training and the missing images. The
# autoencoder is the only one that is the same for all coresets.
#
# **What can explain that the factor between the Gaussian and a random coreset
# is another one here?** ([Exercise](13b_photographs.ipynb))

# %%
means = by_row.rename(columns=tables.percent)["10 %"]
factor = means["lite0-gaussian"] / means["random"]
gaussian, random = (
    paper.TABLE_1[row][0] for row in ("inceptionv3-gaussian", "random")
)
theirs = gaussian / random
Markdown(f"The factor is {factor:.2f} here and {theirs:.2f} in the paper.")

# %% [markdown]
# FID is a squared distance of means plus a term of covariances. An error that
# all models share, such as blurred texture, adds a large part to every row
# and pulls a factor towards one. It cannot carry it beyond one: a factor
# below one means that the order of the two rows is the reverse of the
# paper's. That needs another reason, such as the short training, the other
# encoder or the stronger guidance, and an interval over several seeds.
# Factors compare only between models of similar quality; differences, with
# their intervals, compare better.
