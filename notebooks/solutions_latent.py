# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions: in latent space
#
# Worked solutions of the exercises of [Table IV](16_table4.ipynb) and
# [Table V](18_table5.ipynb). Try an exercise before you read its solution. The
# page reads committed results; `compute = True` computes missing ones.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "compute")

# %%
import numpy as np
import pandas as pd

from dedt_lib.book import figures, findings, grid, results, tables

if compute:
    for table in ("table4", "table5", "table5-unguided"):
        results.compute_missing(profile, table)
frame = results.read_cells(profile)

# %% [markdown]
# ## Table IV
#
# **Would you choose the same coreset by FID and by CMMD?**
# ([Exercise](16_table4.ipynb))
#
# The row with the lowest mean at each ratio, by either measure, and the rank
# correlation of all rows of that ratio:

# %%
whole = ("mdt-full", "mdt-early-stopping")
rows = [row for row in grid.TABLES["table4"] if row not in whole]
of_mdt = frame[frame.row.isin(rows)]
means = of_mdt.groupby(["ratio", "row"])[["fid", "cmmd_unbiased"]].mean()
best = {
    tables.percent(ratio): {
        "by FID": grid.LABELS[own.fid.idxmin()[1]],
        "by CMMD": grid.LABELS[own.cmmd_unbiased.idxmin()[1]],
        "rank correlation": own.corr("spearman").fid.cmmd_unbiased.round(2),
    }
    for ratio, own in means.groupby("ratio")
}
pd.DataFrame(best).T

# %% [markdown]
# Where the two columns differ, the choice depends on what the images are for.
# FID compares means and covariances in the features of a classifier, and CMMD
# compares whole distributions in the embeddings of a CLIP. A choice that only
# one of them supports should wait for more seeds or another measure. A choice
# of the lowest mean is also lucky by construction
# ([Table I's solutions](solutions_results.ipynb#Table-I) show by how much).
#
# **How much of a biased CMMD is bias?** ([Exercise](16_table4.ipynb))
#
# The biased value pairs every image with itself, and the kernel of an image
# with itself is 1. Against the mean kernel $k$ of two different images, $n$
# images on each side add about $1000\cdot2(1-k)/n$. Here both sides are samples
# of one distribution on the unit sphere, so the truth is zero.

# %%
from dedt_lib.evaluation import both_cmmds

rng = np.random.default_rng(0)


def on_the_sphere(n, d=32):
    z = rng.normal(size=(n, d))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def over_runs(n):
    runs = [both_cmmds(on_the_sphere(n), on_the_sphere(n)) for _ in range(50)]
    return np.mean(runs, axis=0)


cosine = (on_the_sphere(10_000) * on_the_sphere(10_000)).sum(axis=1)
k = np.exp(-(2 - 2 * cosine) / (2 * 10.0**2)).mean()  # a width of 10
found = {n: [*over_runs(n), 1000 * 2 * (1 - k) / n] for n in (50, 200, 800)}
columns = ["biased", "unbiased", "bias by the formula"]
pd.DataFrame(found, columns).T.rename_axis("images").round(4)

# %% [markdown]
# The bias falls as $1/n$ and depends on how far apart the images are. Biased
# values of equally many images have about the same bias and can be compared.
# Biased values of different numbers of images cannot.

# %% [markdown]
# ## Table V
#
# **What does guidance do to each row?** ([Exercise](18_table5.ipynb))
#
# Mean FID with guidance minus mean FID of the same models without it:

# %%
means = frame.groupby(["row", "ratio"]).fid.mean()
plain = [row for row in means.index.levels[0] if f"{row}-unguided" in means]
change = pd.DataFrame(
    {row: means[row] - means[f"{row}-unguided"] for row in plain}
).T
change = change.rename(index=grid.LABELS, columns=tables.percent)
change.round(2).astype(object).where(change.notna(), "–")

# %% [markdown]
# If guidance harmed all rows by the same amount, it would cancel in every
# difference of the page, and the claim could not come from it. Where all the
# data has a larger number than the coresets, guidance harms the longest run
# most, and a part of the coresets' advantage belongs to the sampler. Read the
# numbers beside the intervals of [Table V](18_table5.ipynb).
#
# **The coreset in all: do steps and images add up, and what does their order
# change?** ([Exercise](18_table5.ipynb))

# %%
best, control, full = "sd-moderate", "sd-early-stopping", "sd-full"
pairs = {
    "the coreset in all": (best, full),
    "fewer steps": (control, full),
    "fewer images": (best, control),
}
page = findings.Page(frame, pairs.values())
found = {name: page.compare(*pair) for name, pair in pairs.items()}
effects = pd.DataFrame({name: own.difference for name, own in found.items()})
effects["steps + images"] = effects.iloc[:, 1] + effects.iloc[:, 2]
effects.rename(tables.percent, level="ratio").round(3)

# %%
figures.differences(found)

# %% [markdown]
# They add up exactly, because the control stands between the two rows: it has
# the steps of the one and the images of the other. The way over the control
# changes the steps first and the images second. The other way would need
# another control, the coreset trained for as many steps as all the data. If
# steps and images interact, the two ways give different shares to each, and a
# table with one control has measured one of them.
