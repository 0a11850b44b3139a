# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions: start here
#
# Worked solutions of the exercises of [Quick start](00_quickstart.ipynb) and
# [Your own images](19_own_images.ipynb). Try an exercise before you read its
# solution. Numbers are computed on this page.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "compute")

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown

from dedt_lib.book import figures, results
from dedt_lib.experiment import Experiment
from dedt_lib.selection import moderate_distances, select

# %% [markdown]
# ## Quick start
#
# **Do the distances explain the change in FID?**
# ([Exercise](00_quickstart.ipynb))
#
# The strips of the three methods, side by side:

# %%
experiment = Experiment(profile, ratio=ratio)
methods = ("random", "gaussian", "moderate")
coresets = {m: experiment.change(method=m).select() for m in methods}
data = experiment.data
distances = moderate_distances(experiment.embed(), data.labels)
figures.distance_strips(distances, coresets, data.class_names)

# %% [markdown]
# The strips differ in the range of distances that they cover. The table has
# the part of all images that lies farther from the centre than any kept image
# of its class. It also has the mean FID over the committed seeds.

# %%
if compute:
    results.compute_missing(profile, "table1")
frame = results.read_cells(profile)
frame = frame[frame.ratio == ratio]
fid = frame.groupby("row").fid.mean()


def beyond(coreset):
    kept = np.where(coreset.kept, distances, 0)
    farthest = np.array(
        [kept[data.labels == k].max() for k in range(len(data.class_names))]
    )
    return 100 * (distances > farthest[data.labels]).mean()


pd.DataFrame(
    {
        "beyond the kept images (%)": pd.Series(coresets).map(beyond),
        "FID": fid.reindex(methods),
    }
).round(2)

# %% [markdown]
# FID compares the samples with *all* the images, the atypical ones included. A
# model that never saw an atypical image seldom draws one, and FID counts what
# is missing. That speaks against the methods that leave out the far end. But
# the far end alone does not explain the order: compare the two columns. The
# method that leaves out most of it need not have the highest FID. What is left
# out at the near end, and how alike the kept images are, matter as well. The
# FIDs are of committed coresets, whose feature extractor may be another one
# than that of the strips, because machines round differently. A test would keep
# the other properties of the coreset and add the far images alone.
#
# **Which models can be compared without asking about steps?**
# ([Exercise](00_quickstart.ipynb))
#
# The optimiser steps of each model:

# %%
plain = experiment.change(method="moderate")
steps = {
    "all data": plain.steps_at(1.0),
    "coreset": plain.steps_at(ratio),
    "weighted": plain.change(reweighting=True).steps_at(ratio),
    "all data, equal steps": plain.steps_at(ratio),
}
pd.Series(steps, name="steps").to_frame()

# %% [markdown]
# The coreset and the weighted coreset have the same images and the same
# number of steps. Only the class weights differ, so their difference in FID
# belongs to the weights. The coreset and the early-stopping control have the
# same steps but other images, so their difference belongs to the images. The
# run on all the data differs from the coreset in both, and its difference
# cannot be assigned to either. The two runs on all the data have the same
# images and differ in their steps alone, so their difference belongs to the
# steps. The weighted coreset and the early-stopping control differ in images
# and in weights.

# %% [markdown]
# ## Your own images
#
# **Which groups are merged with two clusters?**
# ([Exercise](19_own_images.ipynb))
#
# Each row of the table is a group of the chapter, and each column is one of
# the two clusters.

# %%
from dedt_lib.config import load_profile
from dedt_lib.data import detect
from dedt_lib.data.example import sample_photographs
from dedt_lib.store import Store

path = str(sample_photographs(Store()))
settings = {
    "data.source": detect(path),
    "data.path": path,
    "data.skip_bad": True,
}


def groups(**more):
    photos = load_profile("photos", **settings, **more)
    chosen = Experiment(photos, ratio=0.2, scope="class").select()
    return np.array(chosen.class_names)[chosen.labels]


many, two = groups(), groups(**{"select.clusters": 2})
pd.crosstab(pd.Series(many, name="group"), pd.Series(two, name="of two"))

# %%
shares = pd.crosstab(many, two, normalize="index").max(axis=1)
Markdown(
    f"{(shares > 0.9).sum()} of the {len(shares)} groups go to one of the "
    "two clusters with more than nine tenths of their images."
)

# %% [markdown]
# K-means with two centres does not merge groups; it divides all images anew by
# their nearest centre. Where a group lies on one side as a whole, it looks
# merged. Where its images are divided, it was not a group of its own at this
# scale.
#
# **What do the selectors keep if every photograph is there twice?**
# ([Exercise](19_own_images.ipynb))
#
# Here is such a folder in numbers: sixty feature vectors and a copy of each.
# `originals` tells a selector which image is a copy of which.

# %%
z = np.random.default_rng(0).normal(size=(60, 8))
twice = np.concatenate([z, z])
originals = np.tile(np.arange(60), 2)
kept = {
    method: select(
        twice,
        np.zeros(120, int),
        method=method,
        ratio=0.4,
        originals=originals,
    ).indices
    for method in methods
}
pd.DataFrame(
    {
        method: {
            "images kept": len(indices),
            "different images": len(set(originals[indices])),
        }
        for method, indices in kept.items()
    }
).T

# %% [markdown]
# The Gaussian and Moderate-DS rank copies last, so they keep no image twice as
# long as enough different images are left. Uniform random is the published
# baseline. It looks at no image and draws some of them twice. Without
# `originals` a copy has the same score as its original, and both are kept or
# removed together, except at the border.
