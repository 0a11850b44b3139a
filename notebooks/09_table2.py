# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table II: is a coreset worth its place when all the data is seen at the end?
#
# In the last eighth of the epochs the paper trains on all the data, and calls
# this **annealing**. It compares the annealed coreset with **InfoBatch**
# ([Qin et al., 2024](https://arxiv.org/abs/2303.04947)), which has no coreset
# and skips other images in every epoch. Both see more data than the ratio says.
# This page therefore asks whether the annealed coreset is better than all the
# data from the start, stopped after as many steps. It reads committed results;
# `compute = True` computes missing ones, and `epochs` is the length of a short
# run of InfoBatch further below.

# %% tags=["parameters"]
profile = "digits"
epochs = 16
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "epochs", "compute")

# %%
from IPython.display import Markdown

from dedt_lib.book import figures, findings, paper
from dedt_lib.book import grid, results, runs, tables

if compute:
    results.compute_missing(profile, "table2")
frame = results.read_cells(profile)

ours = "moderate-reweighted-annealed"
pairs = [
    (ours, "early-stopping-annealed"),
    (ours, "random-annealed"),
    (ours, "infobatch-annealed"),
    (ours, "infobatch-budget-annealed"),
    (ours, "moderate-reweighted"),
]
page = findings.Page(frame, pairs, profile=profile)
Markdown(page.answer(ours, "early-stopping-annealed"))

# %% [markdown]
# ## The table
#
# FID, the mean over the seeds and half the width of its 95 % interval. In
# brackets are the images that were really seen, as a share of those that a run
# on all the data sees. The first two rows are the paper's, and the others are
# controls. All rows see all the data in the last eighth of the epochs, in which
# all class weights are one (the paper does not say), except *All data, steps of
# an annealed run*, which sees all the data from the start and stops after as
# many steps as the annealed coreset takes.

# %%
frame["seen"] = 100 * frame.realised
means = frame.groupby(["row", "ratio"], as_index=False)[["seen"]].mean()
fid = tables.layout(frame, "table2")
seen = tables.layout(means, "table2", value="seen")
table = (fid + " (" + seen + " %)").replace("– (– %)", "–")
table = table.drop(index="All data", columns="100 %", errors="ignore")
runs.linked(table, "table2")

# %% [markdown]
# The paper's two rows on **CIFAR-10, in the features of Inception. These
# numbers cannot be compared with those above**; only their order can. The paper
# does not say how much data its InfoBatch saw. Its column of 30 % is left out,
# because no run of this book has that ratio.

# %%
theirs = tables.layout(frame, "table2", published=paper.TABLE_2)
theirs.columns = [c.replace("paper", "CIFAR-10") for c in theirs.columns]
in_paper = [grid.LABELS[row] for row in paper.TABLE_2]
columns = [f"CIFAR-10, {tables.percent(ratio)}" for ratio in paper.RATIOS]
theirs.loc[theirs.index.isin(in_paper), theirs.columns.isin(columns)]

# %%
full = frame[frame.row == "full"].fid.mean()
Markdown(
    f"The FID of the run on all the data is {full:.2f}. "
    f"{findings.floor_in_words(frame.result.iloc[0])} "
    f"{findings.shared_in_words(frame[frame.row.isin(page.rows)])}"
)

# %% [markdown]
# ## The picture: FID at equal data
#
# The horizontal axis is the share of images that were really seen, because a
# row that saw more data may be better for that reason alone. The dashed line is
# all the data, stopped there. A method is useful where its line lies *below*
# the dashed one. Bars are 95 % intervals.

# %%
stopped = ["early-stopping", "early-stopping-annealed", "full"]
lines = {
    grid.LABELS[row]: [row]
    for row in grid.TABLES["table2"]
    if row not in stopped
}
lines["ResNet-18, Moderate-DS + reweighting"] = ["moderate-reweighted"]
lines["Uniform random"] = ["random"]
lines["All data, stopped there"] = stopped
figures.fid_by_images(
    frame,
    lines,
    dashed=["All data, stopped there"],
    floor=frame.result.iloc[0]["floor"]["fid"],
)

# %% [markdown]
# ## The comparisons
#
# The first line is the question of this page. The second replaces the coreset
# by one drawn uniformly at random. The third and fourth are InfoBatch in two
# readings, explained below. The last line is what annealing adds, with its
# additional steps.

# %%
runs.linked(page.shown(), page.rows)

# %%
Markdown(page.summary())

# %% [markdown]
# ## What follows
#
# The last line of the comparisons is not evidence for annealing as a method. An
# epoch of all the data has as many steps as ten epochs of a coreset of 10 %, so
# the annealed run is longer, and most so at the smallest ratio. The first line
# is the fair question, since both of its rows take the same number of steps. Its
# answer:

# %%
meaning = {
    "better": "the coreset of the first seven eighths beats all the data",
    "worse": "the coreset of the first seven eighths loses to all the data",
    "inconclusive": "nothing shows that the coreset contributes anything",
}
control = "early-stopping-annealed"
Markdown(findings.concluded(page, ours, control, meaning))

# %% [markdown]
# InfoBatch *to budget* and the annealed coreset of the same ratio see almost
# the same number of images, so the fourth line compares them directly. InfoBatch
# *as published* sees more. Its FID belongs to the share in brackets, and not to
# the head of its column.
#
# ## What InfoBatch does
#
# The score of an image is its last training loss. An image whose score is below
# the mean of all scores is *well learned*. At the start of an epoch InfoBatch
# draws a share $1-r$ of the well-learned images and skips the others. A drawn
# image gets the weight $1/(1-r)$, which keeps the loss unbiased. From arrays,
# and compared with the library's plan:

# %%
import numpy as np

from dedt_lib.plans import EpochPlan, InfoBatchPlan

rng = np.random.default_rng(0)
scores, keep = rng.gamma(2, size=1000), 0.1  # keep is 1 - r

well_learned = np.flatnonzero(scores < scores.mean())
number = int(keep * len(well_learned))
drawn = rng.choice(well_learned, number, replace=False)
weights = np.where(scores < scores.mean(), 0.0, 1.0)
weights[drawn] = 1 / keep

plan = InfoBatchPlan(len(scores), prune_ratio=1 - keep, epochs=8)
plan.record(np.arange(len(scores)), scores)
indices, of_plan = plan.epoch(1)
np.allclose(np.sort(weights[weights > 0]), np.sort(of_plan))

# %% [markdown]
# Only the random draw differs. The next cell trains a short run and notes how
# many images each epoch keeps.

# %%
import tempfile
from dataclasses import replace

from dedt_lib.experiment import Experiment
from dedt_lib.training import train

experiment = Experiment(profile, method="random", ratio=0.1)
data = experiment.data
short = replace(experiment.settings, epochs=epochs)


class Watched(InfoBatchPlan):
    """InfoBatch that notes how many images each epoch keeps."""

    def epoch(self, e):
        indices, weights = super().epoch(e)
        self.visited = {**getattr(self, "visited", {}), e: len(indices)}
        return indices, weights


def kept(**how):
    plan = Watched(len(data), epochs=epochs, **how)
    train(
        experiment.build_model(), data, plan, short, seed=0,
        folder=tempfile.mkdtemp(),
    )
    return list(plan.visited.values())

# %% [markdown]
# A ratio of 10 % has two readings. InfoBatch *as published* draws a tenth of
# the well-learned images. InfoBatch *to budget* keeps a tenth of all images:
# all that are not well learned and a few of the others, or, where more than a
# tenth are not well learned, a tenth drawn from all images alike. The figure
# compares both with the annealed coreset.

# %%
everything = range(len(data))
annealed = EpochPlan(
    everything[: len(data) // 10], total=len(data), epochs=epochs,
    annealing_start=0.875,
)
sizes = {
    "InfoBatch": kept(prune_ratio=0.9),
    "InfoBatch to budget": kept(budget=0.1),
    "coreset + annealing": [
        len(annealed.epoch(e)[0]) for e in range(epochs)
    ],
}
figures.epoch_sizes(sizes, len(data))

# %%
pruning = sizes["InfoBatch"][1 : int(0.875 * epochs)]
share = np.mean(pruning) / len(data)
Markdown(f"""
With $r=0.9$ an epoch of InfoBatch keeps {100 * share:.0f} % of the images on
average, and not 10 %. If a share $p$ of the images is well learned, an epoch
keeps $1-pr$; here $p$ was about {100 * (1 - share) / 0.9:.0f} %. No $r$
reduces the share below $1-p$.
""")

# %% [markdown]
# The paper does not say what its "InfoBatch at 10 %" is. The row *InfoBatch*
# skips well-learned images at a rate of one minus the ratio, and *to budget* is
# the fair comparison at equal data. The first epoch keeps every image, because
# no image has a loss yet.
#
# ## Does a low loss describe the image or the noise?
#
# The loss of a classifier belongs to the image. The loss of a diffusion model
# depends mostly on the timestep, which is drawn anew. Below, each dot is an
# image with one timestep and one noise, under the model trained on all the
# data.

# %%
import torch

from dedt_lib.training import draw_batch

chosen = torch.arange(len(data))
model = experiment.reference()


def one_draw(step):
    batch = draw_batch(
        data, chosen, experiment.settings, seed=0, step=step
    )
    with torch.no_grad():
        return batch.t.numpy(), model.losses(batch).numpy()


t, losses = one_draw(0)
figures.losses_by_timestep(t, losses)

# %% [markdown]
# The same images with a second draw tell the two apart.

# %%
from scipy.stats import spearmanr

_, again = one_draw(1)
low, low_again = losses < losses.mean(), again < again.mean()
p, p_again = low.mean(), low_again.mean()
by_chance = p * p_again + (1 - p) * (1 - p_again)
rank_t, rank_again = (spearmanr(losses, x)[0] for x in (t, again))
Markdown(f"""
The rank correlation of the loss with the timestep is {rank_t:.2f}. With the
loss of the same image in a second draw it is {rank_again:.2f}. "Well learned"
agrees between the two draws for {100 * (low == low_again).mean():.0f} % of
the images; independent draws would agree for {100 * by_chance:.0f} %.
""")

# %% [markdown]
# A correlation near zero between the draws means that "well learned" describes
# the noise and not the image. InfoBatch then skips images almost uniformly at
# random, and its advantage over a random subset can only come from drawing anew
# in every epoch.

# %% [markdown]
# ## The runs behind this page
#
# A number of a table leads to its line here, and the figures and sentences were
# made from the same runs. A line has the FID of each seed, the commit of the
# code, where it was noted, and the command that computes the cell of the first
# seed.

# %%
runs.behind(frame, [*grid.TABLES["table2"], *page.rows, "random"])

# %% [markdown]
# ## In short
#
# Annealed rows see more data than their ratio says, so this page compares at
# equal steps and at equal data. The control is all the data from the start,
# stopped after as many steps. InfoBatch at a ratio of 10 % sees far more than a
# tenth of the data, and its score depends on the drawn timestep as well as on
# the image.
#
# ## Try it
#
# - Give InfoBatch a `prune_ratio` of 0.5, its own default. What share of the
#   data does it skip? ([Solution](solutions_results.ipynb#Table-II))
# - Why do the weights $1/(1-r)$ keep the loss unbiased, and what do they cost?
#   ([Solution](solutions_results.ipynb#Table-II))
# - Next: [what the recipe costs](10_table3.ipynb).
