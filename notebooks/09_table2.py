# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table II: all the data at the end, and InfoBatch
#
# A coreset need not be the last word. In the last eighth of the epochs the
# paper lets the model see everything, and calls it **annealing**. It then
# compares with **InfoBatch** {cite:p}`qin2024infobatch`, which needs no
# coreset: it skips images anew in every epoch. Both see more than the ratio
# says. So on this page the share of the data that was *really* seen stands
# beside every FID.

# %% tags=["parameters"]
profile = "digits"
epochs = 16
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "epochs", "compute")

# %% [markdown]
# The runs were made by the grid; `compute = True` makes those that are
# missing.

# %%
from dedt_lib.book import figures, findings, paper, tables

if compute:
    tables.compute_missing(profile, "table2")
frame = tables.read_cells(profile)

# %% [markdown]
# All comparisons that this page makes, named once: what annealing adds, and
# what is left of the coreset.

# %%
ours = "moderate-reweighted-annealed"
adds = [(ours, "moderate-reweighted"), ("random-annealed", "random")]
left = [
    (ours, "early-stopping-annealed"),
    (ours, "random-annealed"),
    (ours, "infobatch-annealed"),
    (ours, "infobatch-budget-annealed"),
    ("infobatch-budget-annealed", "early-stopping-annealed"),
]
page = findings.Page(frame, [*adds, *left])

# %% [markdown]
# ## What InfoBatch does
#
# Every image has a score: the last training loss it had. An image whose score
# is below the mean of all scores is *well learned*. At the start of an epoch
# InfoBatch draws a share of those, here as many as the ratio says, and skips
# the others. Whoever was drawn counts more, by one over that share, so that
# the loss still speaks for all images. The last eighth of the epochs visits
# everything.
#
# To watch it, a run of a few `epochs` notes what each of them keeps. (It is a
# run of its own; those of the table are longer.)

# %%
import tempfile
from dataclasses import replace

from dedt_lib.experiment import Experiment
from dedt_lib.plans import EpochPlan, InfoBatchPlan
from dedt_lib.training import train

experiment = Experiment(profile, method="random", ratio=0.1)
data = experiment.data
short = replace(experiment.settings, epochs=epochs)


class Watched(InfoBatchPlan):
    """InfoBatch that notes how many images each epoch keeps."""

    def epoch(self, e):
        indices, weights = super().epoch(e)
        self.sizes = {**getattr(self, "sizes", {}), e: len(indices)}
        return indices, weights


def kept(**how):
    plan = Watched(len(data), epochs=epochs, **how)
    train(
        experiment.build_model(), data, plan, short, seed=0,
        folder=tempfile.mkdtemp(),
    )
    return list(plan.sizes.values())

# %% [markdown]
# At the ratio 10 % in two readings: InfoBatch *as it comes*, which draws one
# in ten of the well-learned images, and InfoBatch *to budget*, which keeps one
# image in ten. That is so few that it has to draw from all images alike; at
# larger ratios it keeps those that are not well learned, and fills up. Beside
# them the annealed coreset.

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

# %% tags=["remove-cell"]
import numpy as np

pruned = np.array(sizes["InfoBatch"][1 : int(0.875 * epochs)]) / len(data)
ratios = tables.TABLES["table2"]["infobatch-budget-annealed"]
ratios = [tables.percent(ratio) for ratio in ratios or paper.RATIOS]
full = frame[frame.row == "full"]
glue(
    "t2",
    full=float(full.fid.mean()),
    summary=page.summary(),
    real=findings.floor_in_words(frame.result.iloc[0]),
    budget=" and ".join(ratios),
    kept=100 * float(pruned.mean()),
    below=100 * float((1 - pruned.mean()) / 0.9),
)

# %% [markdown]
# Look at the first line: the ratio is 10 %, but an epoch of InfoBatch keeps
# {glue:text}`t2_kept:.0f` % on average. It has to. If a share $p$ of the
# images is well learned and a share $R$ of those is drawn, an epoch keeps
# $1-p(1-R)$; here $p$ was about {glue:text}`t2_below:.0f` %. No $R$ can bring
# that below $1-p$. The paper does not say what its "InfoBatch at 10 %" is;
# the row *InfoBatch* is the one knob that InfoBatch has, turned to the ratio,
# and *to budget* is the fair comparison at equal data.
#
# The first epoch keeps everything, because no image has a loss yet. In a run
# of the table that is one epoch of very many.
#
# ## Well learned, or lucky?
#
# A classifier's loss belongs to the image. A diffusion model's loss belongs
# mostly to the draw: how much noise was added? Below, each dot is an image
# with one draw, under the model that was trained on all the data.

# %%
import torch

from dedt_lib.training import draw_batch

chosen = torch.arange(len(data))


def one_draw(step):
    batch = draw_batch(
        data, chosen, experiment.settings, seed=0, step=step
    )
    with torch.no_grad():
        return batch.t.numpy(), model.losses(batch).numpy()


model = experiment.reference()
t, losses = one_draw(0)
figures.losses_by_timestep(t, losses)

# %% tags=["remove-cell"]
from scipy.stats import spearmanr

_, again = one_draw(1)
share = float((losses < losses.mean()).mean())
stays = float(np.mean((losses < losses.mean()) == (again < again.mean())))
chance = share**2 + (1 - share) ** 2
(rank_t, p_t), (rank_again, p_again) = (spearmanr(losses, other) for other in (t, again))
lucky = (
    'So here "well learned" says next to nothing about the image: it means "drew much noise", and '
    "InfoBatch skips almost at random."
    if abs(rank_again) < 0.3 and abs(rank_t) > 0.7
    else 'So "well learned" depends on the draw, but not on the draw alone.'
)
glue(
    "t2",
    share=100 * share,
    rank_t=float(rank_t),
    p_t=findings.p_in_words(p_t),
    rank_again=float(rank_again),
    p_again=findings.p_in_words(p_again),
    lucky=lucky,
    stays=100 * stays,
    chance=100 * chance,
)

# %% [markdown]
# {glue:text}`t2_share:.0f` % of the images lie below the mean. The rank
# correlation of the loss with the timestep is {glue:text}`t2_rank_t:.2f`
# (p {glue:text}`t2_p_t:s`); with the loss of the same image in a second draw it
# is {glue:text}`t2_rank_again:.2f` (p {glue:text}`t2_p_again:s`).
# {glue:text}`t2_stays:.0f` % of the images
# are on the same side of the mean in both draws, and
# {glue:text}`t2_chance:.0f` % would be by chance alone.
# {glue:text}`t2_lucky:s`

# %% [markdown]
# ## The table
#
# FID, mean over the seeds and half the width of its 95 % interval, and in
# brackets the images seen, as a share of what a run on all the data sees.
# (That run has an FID of {glue:text}`t2_full:.2f`.) The first two rows are
# the paper's, the others are controls; InfoBatch to budget is run at
# {glue:text}`t2_budget:s`. All these see everything in the last eighth of the
# epochs. *Equal steps* is all the data from the start, stopped after as many
# steps as the annealed coreset takes.

# %%
frame["seen"] = 100 * frame.realised
means = frame.groupby(["row", "ratio"], as_index=False)[["seen"]].mean()
fid = tables.layout(frame, "table2")
seen = tables.layout(means, "table2", value="seen", digits=0)
table = (fid + " (" + seen + " %)").replace("– (– %)", "–")
table = table.drop(index="All data", columns="100 %", errors="ignore")
table.rename(index=lambda name: name.removesuffix(" + annealing"))

# %% [markdown]
# The paper's two rows. **CIFAR-10, in the features of Inception: these
# numbers cannot be compared with those above**, only their order can. How
# much data the paper's InfoBatch saw is not said.

# %%
theirs = tables.layout(frame, "table2", published=paper.TABLE_2)
theirs.columns = [c.replace("paper", "CIFAR-10") for c in theirs.columns]
in_paper = [tables.LABELS[row] for row in paper.TABLE_2]
columns = [f"CIFAR-10, {tables.percent(ratio)}" for ratio in paper.RATIOS]
theirs.loc[theirs.index.isin(in_paper), theirs.columns.isin(columns)]

# %% [markdown]
# ## At equal data
#
# The same as a picture, with the images really seen on the axis: a row that
# saw more may be lower for that alone. Look for a line that lies *under* the
# dashed one, which is training on all the data, stopped there. Bars are 95 %
# intervals.

# %%
stopped = ["early-stopping", "early-stopping-annealed", "full"]
lines = {
    tables.LABELS[row]: [row]
    for row in tables.TABLES["table2"]
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
# {glue:text}`t2_real:s`
#
# ## What annealing adds
#
# {glue:text}`t2_summary:s`
#
# The same coreset with and without an eighth of the epochs on all the data.
# An epoch of all the data is ten epochs of a coreset of 10 %, so the annealed
# runs are longer, and most so where the coreset is smallest.

# %%
page.say(*adds)

# %% [markdown]
# And how much more data the annealed runs saw, in per cent of a run on all the
# data:

# %%
import pandas as pd

seen = frame.pivot_table(index="ratio", columns="row", values="seen")
added = {
    tables.LABELS[annealed]: seen[annealed] - seen[plain]
    for annealed, plain in adds
    if {annealed, plain} <= set(seen)
}
added = pd.DataFrame(added).dropna().rename(index=tables.percent)
added.rename_axis(None).round(1)

# %% [markdown]
# ## What is left of the coreset
#
# Is the annealed coreset better than the same number of steps on all the
# data, than an annealed coreset drawn blindly, and than InfoBatch?

# %%
page.say(*left)

# %% tags=["remove-cell"]
glue(
    "t2",
    says_anneal=page.words(ours, "moderate-reweighted"),
    says_early=page.words(ours, "early-stopping-annealed"),
    says_infobatch=page.words(ours, "infobatch-annealed"),
)

# %% [markdown]
# InfoBatch to budget and the annealed coreset of the same ratio see almost
# the same number of images, so these two can be compared as they stand.
# InfoBatch as it comes sees more: its FID belongs to the share in the
# brackets, not to the head of its column.
#
# ## Try it
#
# - Give `kept` a `prune_ratio` of 0.5, which is InfoBatch's own default. What
#   share of the data is saved?
# - In a profile of your own, set `train.annealing_start` to 0.5. Does FID still
#   fall, or was an eighth enough?
# - Next: [what it costs](10_table3).
