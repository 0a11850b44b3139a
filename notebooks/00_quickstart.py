# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quick start: the whole method on one page
#
# A diffusion model visits all its training images, again and again. Does it
# need all of them? [Li et al. (2025)](https://arxiv.org/abs/2409.19128) keep a
# small **coreset**, give every class a **weight**, and train on the weighted
# coreset. This page follows the method from the first image to the last
# number; each of the chapters after it explains one step.
#
# Everything here is computed. The images are scans of handwritten digits that
# come with scikit-learn; the networks are trained when the page is made, and all
# numbers are computed then.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# An `Experiment` holds one recipe: which images to keep, whether to weight the
# classes, and a seed. It computes a stage on first use and stores the result.

# %%
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.selection import moderate_distances

plain = Experiment(profile, method="moderate", ratio=ratio, seed=seed)

# %% [markdown]
# ## Look at the data
#
# The training images, one class per column:

# %%
figures.example_images(plain.data, per_class=4)

# %%
Markdown(
    f"There are {len(plain.data)} training images in "
    f"{len(plain.data.class_names)} classes."
)

# %% [markdown]
# ## Embed and select
#
# A **surrogate encoder**, a small classifier, turns each image into a vector
# of features. Moderate-DS then keeps the images at a middling distance from
# the centre of their class. It keeps this many images per class:

# %%
features = plain.embed()
coreset = plain.select()
coreset.counts

# %% [markdown]
# Each row is a class, and each dot is an image, placed by its distance to the
# centre of the class. Red images are kept. The most typical images are removed,
# and so are the outliers.

# %%
figures.distance_strips(
    moderate_distances(features, plain.data.labels),
    {f"kept: {coreset.method}": coreset},
    plain.data.class_names,
)

# %% [markdown]
# ## Reweight
#
# A **reference** model is trained on all the data, a **proxy** on the coreset
# only. Where the loss of the proxy stays above the loss of the reference, the
# class gains weight: the coreset may lack information about it, or the proxy has
# not trained for long enough. Each line is a class. The vertical axis is its
# weight times the number of classes, so 1 means no change.

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
# The same network is now trained three times: on all the data (this model is
# the reference), on the coreset, and on the weighted coreset. The number of
# epochs is the same for all, so a small coreset means few steps. The speed-up
# comes from there. Shorter lines of the figure are runs of fewer steps. The
# first time, this page takes about ten minutes of one
# core; then everything is in the store.

# %%
full = plain.change(method="random", ratio=1.0)
names = {"all data": full, "coreset": plain, "weighted": weighted}
figures.loss_curves(
    {name: run.training()["losses"] for name, run in names.items()}
)

# %% [markdown]
# ## Sample
#
# Images are drawn from pure noise with classifier-free guidance, one class per
# column. The first figure comes from the model trained on all the data, the
# second one from the model trained on the weighted coreset.

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
# FID measures the distance between generated and real images in the features
# of a classifier that serves no other purpose; lower is better. The fourth row
# is the control that a fair comparison needs: training on *all* the data that
# stops early, after as many steps as the coreset run takes.

# %%
import pandas as pd

names["all data, equal steps"] = plain.change(early_stopping=True)
cells = {name: run.cell() for name, run in names.items()}
table = pd.DataFrame(cells).T[["fid", "steps"]]
table.columns = ["FID", "steps"]
table.astype(float).round(3).astype({"steps": int})

# %%
fid = table["FID"]
speed = table["steps"]["all data"] / table["steps"]["coreset"]
Markdown(
    f"With {100 * ratio:.0f} % of the images and {speed:.1f} times fewer "
    f"steps, FID changes from {fid['all data']:.2f} to "
    f"{fid['coreset']:.2f}. With class weights it is {fid['weighted']:.2f}. "
    "The control at equal steps scores "
    f"{fid['all data, equal steps']:.2f}."
)

# %% [markdown]
# Even two random halves of the real images are not at distance zero, because
# each is a small sample. Where each model draws as many images as there are
# real ones, as for the digits, a half holds half as many, and the value is
# about twice as large as at the models' number of images.

# %%
Markdown(
    "Two halves of the real images have an FID of "
    f"{plain.floor()['fid']:.2f}."
)

# %% [markdown]
# This is one seed. [Table I](08_table1.ipynb) has several seeds, and what they
# say about the method.
#
# ## The method in one picture
#
# The coreset, samples of the model trained on the weighted coreset, the class
# weights, and the effect of the weights on each class.

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
# ## In short
#
# The method embeds the images, selects a coreset, learns class weights and
# trains on the weighted coreset. The coreset saves steps, because the number
# of epochs is fixed. Whether it also saves quality has to be judged against
# uniform random selection and all the data at equal steps, over several seeds.
#
# ## Try it
#
# - Change `method` to `"gaussian"` or `"random"` where `plain` is made. Does the
#   figure of the distances explain the change in FID?
#   ([Solution](solutions_start.ipynb#Quick-start))
# - Four models are trained above. Which of them differ in one thing only, and
#   which differences in FID can therefore be assigned to a cause?
#   ([Solution](solutions_start.ipynb#Quick-start))
# - Next: [your own photographs](19_own_images.ipynb), or
#   [the data](01_data.ipynb) of the digits.
