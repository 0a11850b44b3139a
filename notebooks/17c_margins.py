# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why is Stable Diffusion not reweighted?
#
# The paper's Table V has no reweighted row. The stated reason: the model
# fine-tuned on a coreset "has surpassed the one on the entire dataset, and thus
# majority of margin loss [...] is clipped to 0". The **margin** of a sample is
# its excess loss, that of the proxy less that of the reference. This chapter
# measures it.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.2
seed = 0
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed", "compute")

# %% [markdown]
# The example is a coreset by Moderate-DS, selected as for any other model. Its
# model is compared with the one that is fine-tuned on all the images. The
# proxies come from the results of the tables (`compute = True` computes those
# of Table V that are missing).

# %%
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures, grid, results
from dedt_lib.experiment import Experiment

if compute:
    results.compute_missing(profile, "table5")
frame = results.read_cells(profile)
recipe = grid.cell_recipe("sd-moderate", ratio, seed)
experiment = Experiment(profile, **recipe)
full = experiment.change(**grid.cell_recipe("sd-full", 1.0, seed))
data, p = experiment.data, experiment.profile

# %% [markdown]
# ## The margins of one batch
#
# Both models see the same batch: the same latents, timesteps and noise. The
# margin is the difference of their losses. Group DRO sets negative margins to
# zero and takes the mean of each class
# ([Reweight](04_reweight.ipynb)).

# %%
from dedt_lib.training import draw_batch

coreset, few_images, all_images = (
    experiment.select(), experiment.train(), full.train()
)
K = len(data.class_names)
kept = torch.from_numpy(coreset.kept.nonzero()[0])
batch = draw_batch(experiment.latents, kept, experiment.settings, seed, 0)
with torch.no_grad():
    margin = few_images.losses(batch) - all_images.losses(batch)

clipped = (margin <= 0).double().mean()
by_class = torch.stack([
    margin.clamp(min=0)[batch.labels == k].double().sum()
    / (batch.labels == k).sum().clamp(min=1)
    for k in range(K)
])

# %% [markdown]
# The library's `class_excess` returns the same two, for a class that is absent
# from the batch the value that it is given (here zero):

# %%
from dedt_lib.reweighting import class_excess

with torch.no_grad():
    theirs = class_excess(
        few_images.losses(batch), all_images.losses(batch), batch.labels,
        torch.zeros(K),
    )
torch.allclose(theirs[0], by_class, atol=1e-6), bool(theirs[1] == clipped)

# %% [markdown]
# ## During the proxy's training
#
# The figure shows the share of samples whose margin is clipped, during the
# proxy's training, for all three models of this book at the same ratio. A
# proxy as good as its reference has about half of its samples clipped by chance
# (dashed line).

# %%
proxies = {
    "Stable Diffusion": "sd-moderate-reweighted",
    "MDT": "mdt-moderate-reweighted",
    "U-Net": "moderate-reweighted",
}
here = frame[(frame.ratio == ratio) & (frame.seed == seed)]
here = here.set_index("row").result
readings = {
    name: results.reading(here[row])
    for name, row in proxies.items()
    if row in here
}
figures.clipped_share(readings)

# %% [markdown]
# Look at the first steps. A proxy trained from scratch is far behind its
# reference, while that of Stable Diffusion starts from the pre-trained weights.
# The table covers the steps after the burn-in: the share of clipped samples,
# the mean excess, and the effective number of classes.

# %%
columns = ["clipped", "mean_excess", "effective_classes"]
signal = pd.DataFrame(
    {
        name: {key: here[proxies[name]]["dro"][key] for key in columns}
        for name in readings
    },
    index=columns,
).T
signal.round(4)

# %% [markdown]
# ## The paper's sentence
#
# The paper's sentence has two parts. These are the numbers of this seed for both,
# by the results of the tables.

# %%
fids = frame[frame.seed == seed].set_index(["row", "ratio"]).fid
pair = ("sd-moderate", ratio), ("sd-full", 1.0)
ours, theirs = (fids.get(cell, float("nan")) for cell in pair)
clipped = signal.clipped.get("Stable Diffusion", float("nan"))
Markdown(
    f"For this seed the model fine-tuned on {100 * ratio:g} % has an FID of "
    f"{ours:.2f}, and the one on all the data {theirs:.2f}; "
    "[Table V](18_table5.ipynb) has the interval over the seeds. "
    f"Of the margins {100 * clipped:.0f} % are clipped."
    if readings and {*pair} <= {*fids.index}
    else "There are no results yet."
)

# %% [markdown]
# ## The kept and the removed images
#
# One effect works against clipping in all three models: the reference has EMA
# weights and the proxy has raw weights, and EMA weights give a lower loss by
# themselves. The two models of this page both have EMA weights. The table
# measures their margins on ten batches of the images that were kept, which are
# the only ones that group DRO sees, and of the images that were removed.

# %%
@torch.no_grad()
def margins(chosen):
    chosen, found = torch.from_numpy(chosen.nonzero()[0]), []
    for step in range(10):
        batch = draw_batch(
            experiment.latents, chosen, experiment.settings, seed, step
        )
        found.append(few_images.losses(batch) - all_images.losses(batch))
    return torch.cat(found)


sides = {"kept": margins(coreset.kept), "removed": margins(~coreset.kept)}
margin = pd.DataFrame(
    {
        name: {
            "mean margin": values.mean().item(),
            "at or below zero (%)": 100 * (values <= 0).float().mean().item(),
        }
        for name, values in sides.items()
    }
).T
margin.round(4)

# %%
behind = margin["mean margin"] > 0
Markdown(
    "The model fine-tuned on the coreset is "
    f"{'behind' if behind['kept'] else 'ahead'} on average on the kept "
    f"images, and {'behind' if behind['removed'] else 'ahead'} on the "
    "removed ones."
)

# %% [markdown]
# Group DRO sees the kept images only, so a loss of quality elsewhere stays
# invisible to it. Nor does the margin have to agree with the FID of the tables:
# the margin is a loss without guidance, and FID is measured on guided samples.
# The column $s=1$ in the last table of [the chapter before](17b_guidance.ipynb)
# is the FID that belongs to it.
#
# Even where most margins are clipped, the weights still move by the
# *differences* between the mean excess of the classes. The effective number of
# classes shows how far they moved. So the row can be trained, and
# [Table V](18_table5.ipynb) has it at the smallest ratio.
#
# ## In short
#
# The margin of a sample is the loss of the proxy less that of the reference, and
# whether most margins are clipped can be measured. Group DRO sees them on the
# kept images alone, and without guidance. Clipped margins still leave
# differences between classes, and these move the weights.
#
# ## Try it
#
# - Measure the margins by quarters of the timesteps. Where do the two models
#   differ?
#   ([Solution](solutions_stable_diffusion.ipynb#Margins))
# - Let the two models change places. Which share of the margins is clipped
#   then, and do the two shares add up to one?
#   ([Solution](solutions_stable_diffusion.ipynb#Margins))
# - Next: [Table V](18_table5.ipynb).
