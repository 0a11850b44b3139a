# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quick start: the whole story on one page
#
# A diffusion model learns from all its images, again and again. Does it need
# all of them? {cite:t}`li2025pruning` keep a small **coreset**, give every
# class a **weight**, and train on that. This page does so from the first
# image to the last number; the chapters after it take one step each.
#
# Nothing here is a mock-up. The images are scans of handwritten digits that
# come with scikit-learn, the networks are trained while the page is made, and
# every number below was computed by it.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# An `Experiment` is one recipe: which images to keep, whether to weight the
# classes, and a seed. It computes a stage when it is asked for it, and finds
# it in the store the next time.

# %%
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.selection import moderate_distances

plain = Experiment(profile, method="moderate", ratio=ratio, seed=seed)

# %% tags=["remove-cell"]
glue("qs", images=len(plain.data), classes=len(plain.data.class_names), percent=100 * ratio)

# %% [markdown]
# ## Look at the data
#
# There are {glue:text}`qs_images:d` training images in
# {glue:text}`qs_classes:d` classes, one class per column.

# %%
figures.example_images(plain.data, per_class=4)

# %% [markdown]
# ## Embed and select
#
# A small network that can tell the classes apart (the **surrogate encoder**)
# turns each image into a vector of features. Moderate-DS then keeps the images
# whose distance to the centre of their class is neither small nor large.

# %%
features = plain.embed()
coreset = plain.select()
coreset.counts

# %% [markdown]
# One row per class, one dot per image, placed by its distance to the centre of
# the class; red is kept. Neither the plainest images nor the oddest are.

# %%
figures.distance_strips(
    moderate_distances(features, plain.data.labels),
    {"Moderate-DS": coreset},
    plain.data.class_names,
)

# %% [markdown]
# ## Reweight
#
# A **reference** model has seen all the data, a **proxy** sees the coreset
# only. Where the proxy's loss stays above the reference's, the coreset left
# something out, and the class gets more weight. Each line is a class; one is
# the weight it would have without reweighting.

# %%
weighted = plain.change(reweighting=True)
reading = weighted.reweight()
figures.weight_trajectories(
    {"class weights while the proxy learns": reading},
    plain.data.class_names,
)

# %% [markdown]
# ## Train
#
# The same network is now trained three times: on all the data (this is the
# reference), on the coreset, and on the weighted coreset. The number of epochs
# is the same, so a small coreset means few steps: that is where the speed
# comes from.

# %%
full = plain.change(method="random", ratio=1.0)
names = {"all data": full, "coreset": plain, "weighted": weighted}
figures.loss_curves(
    {name: run.training()["losses"] for name, run in names.items()}
)

# %% [markdown]
# ## Sample
#
# From pure noise, with classifier-free guidance; a class per column. The
# first picture is by the model that has seen everything, the second by the
# one that has seen the weighted coreset.

# %%
labels, K = plain.sample_labels(), len(plain.data.class_names)
sheet = figures.class_columns(full.sample(), labels, K, rows=6)
figures.image_grid(sheet, columns=K, title="all data")

# %%
sheet = figures.class_columns(weighted.sample(), labels, K, rows=6)
figures.image_grid(sheet, columns=K, title="weighted")

# %% [markdown]
# ## Evaluate
#
# FID measures how far the generated images are from the real ones, in the
# features of a classifier that is used for nothing else. Lower is better, and
# two random halves of the real images have a distance too, about twice as large
# as at the models' number of images. The fourth row is the
# control that a fair reader asks for: train on *all* the data, but stop after
# as many steps as the coreset run takes.

# %%
import pandas as pd

names["all data, equal steps"] = plain.change(early_stopping=True)
cells = {name: run.cell() for name, run in names.items()}
fid = {name: cell["fid"] for name, cell in cells.items()}
pd.DataFrame(
    {
        "FID": fid,
        "steps": {name: cell["steps"] for name, cell in cells.items()},
        "near-copies": {name: cell["copies"] for name, cell in cells.items()},
    }
).round(3)

# %% tags=["remove-cell"]
glue(
    "qs",
    floor=plain.floor()["fid"],
    fid_full=fid["all data"],
    fid_coreset=fid["coreset"],
    fid_weighted=fid["weighted"],
    fid_early=fid["all data, equal steps"],
    speed=cells["all data"]["steps"] / cells["coreset"]["steps"],
)

# %% [markdown]
# With {glue:text}`qs_percent:.0f` % of the images, and
# {glue:text}`qs_speed:.1f` times fewer steps, FID goes from
# {glue:text}`qs_fid_full:.2f` to {glue:text}`qs_fid_coreset:.2f`; with class
# weights it is {glue:text}`qs_fid_weighted:.2f`. The control that stops early
# stands at {glue:text}`qs_fid_early:.2f`, and two halves of the real images
# at {glue:text}`qs_floor:.2f`, from half as many images. This is one seed: what
# several seeds say, and what it says about the method, is in
# [Table I](08_table1).

# %% [markdown]
# ## The story in one picture
#
# What is kept, what the model draws from it, the weights of the classes, and
# what the weights did to each class.

# %%
figures.front_page(
    plain.data,
    coreset,
    reading["weights"],
    weighted.sample(),
    cells["coreset"]["classwise"],
    cells["weighted"]["classwise"],
)

# %% [markdown]
# ## Try it
#
# - Change `method` to `"gaussian"` or `"random"` in the second cell. Does the
#   picture of the distances explain what happens to FID?
# - Choose among your own photographs:
#   `dedt select FOLDER --ratio 0.1 --out coreset`, and open `report.html`.
# - Read on: [the data](01_data).
