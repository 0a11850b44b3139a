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
compute = False

# %% tags=["remove-cell"]
from dedt_lib.notebook import check_parameters

check_parameters("profile", "compute")

# %% [markdown]
# The runs were made by the grid; `compute = True` makes those that are
# missing.

# %%
from dedt_lib import figures, paper, tables

if compute:
    tables.compute_missing(profile, "table2")
frame = tables.read_cells(profile)

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
# To watch it, a short run notes what each epoch keeps. (It is a run of its
# own, of 16 epochs; the runs of the table are longer.)

# %%
import tempfile
from dataclasses import replace

from dedt_lib.experiment import Experiment
from dedt_lib.training import EpochPlan, InfoBatchPlan, train

experiment = Experiment(profile, method="random", ratio=0.1)
data = experiment.data
short = replace(experiment.settings, epochs=16)


class Watched(InfoBatchPlan):
    """InfoBatch that notes how many images each epoch keeps."""

    def epoch(self, e):
        indices, weights = super().epoch(e)
        self.sizes = {**getattr(self, "sizes", {}), e: len(indices)}
        return indices, weights


def kept(**how):
    plan = Watched(len(data), epochs=16, **how)
    train(
        experiment.build_model(), data, plan, short, seed=0,
        folder=tempfile.mkdtemp(),
    )
    return list(plan.sizes.values())

# %% [markdown]
# At the ratio 10 % in two readings: InfoBatch *as it comes*, which draws one
# in ten of the well-learned images, and InfoBatch *to budget*, which keeps
# one image in ten, well learned or not. Beside them the annealed coreset.

# %%
everything = range(len(data))
annealed = EpochPlan(
    everything[: len(data) // 10], total=len(data), epochs=16,
    annealing_start=0.875,
)
sizes = {
    "InfoBatch": kept(prune_ratio=0.9),
    "InfoBatch to budget": kept(budget=0.1),
    "coreset + annealing": [len(annealed.epoch(e)[0]) for e in range(16)],
}
figures.epoch_sizes(sizes, len(data))

# %% tags=["remove-cell"]
import numpy as np
from myst_nb import glue

pruned = np.array(sizes["InfoBatch"][1:14]) / len(data)
glue("t2_kept", 100 * float(pruned.mean()), display=False)
glue("t2_below", 100 * float((1 - pruned.mean()) / 0.9), display=False)

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

images = torch.from_numpy(data.images)
labels = torch.from_numpy(data.labels)
chosen = torch.arange(len(data))


def one_draw(step):
    batch = draw_batch(
        images, labels, chosen, experiment.settings, seed=0, step=step
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
glue("t2_share", 100 * share, display=False)
glue("t2_rank_t", float(spearmanr(t, losses).statistic), display=False)
glue("t2_rank_again", float(spearmanr(losses, again).statistic), display=False)
glue("t2_stays", 100 * stays, display=False)
glue("t2_chance", 100 * chance, display=False)

# %% [markdown]
# {glue:text}`t2_share:.0f` % of the images lie below the mean. The rank
# correlation of the loss with the timestep is {glue:text}`t2_rank_t:.2f`;
# with the loss of the same image in a second draw it is
# {glue:text}`t2_rank_again:.2f`. {glue:text}`t2_stays:.0f` % of the images
# are on the same side of the mean in both draws, and
# {glue:text}`t2_chance:.0f` % would be by chance alone. So "well learned"
# mostly means "drew much noise", and InfoBatch is close to skipping at
# random here.

# %% [markdown]
# ## The table
#
# FID, mean and standard deviation over the seeds, and in brackets the images
# seen, as a share of what a run on all the data sees. The first two rows are
# the paper's; the others are controls. *Equal steps* is all the data, stopped
# after as many steps as the annealed coreset takes.

# %%
annealed_rows = [row for row in tables.TABLES["table2"] if row != "full"]
seen = frame.pivot_table(index="row", columns="ratio", values="realised")


def with_share(column):
    ratio = float(column.name.split()[0]) / 100
    share = [seen[ratio].get(row) for row in rows]
    return [
        f"{fid} ({100 * s:.0f} %)" if fid != "–" else fid
        for fid, s in zip(column, share)
    ]


rows = [row for row in annealed_rows if row in set(frame.row)]
table = tables.layout(frame[frame.row.isin(rows)], "table2")
table.apply(with_share)
