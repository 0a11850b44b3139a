# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Select: which images to keep
#
# Selection turns features into a score for each image, and a score into a
# decision. Three ways are compared here.
#
# - **Uniform random**: the same share of each class, drawn at random. It costs
#   nothing, and many clever methods do not beat it.
# - **Gaussian** {cite:p}`devries2020instance`: keep the *most likely* images.
# - **Moderate-DS** {cite:p}`xia2023moderate`: keep the *moderately far* ones.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# The features are those of the profile's own encoder, a ResNet-18
# ([Embed](02_embed) shows the others).

# %%
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(profile, ratio=ratio, seed=seed)
data, features = experiment.data, experiment.embed()
shown = min(3, len(data.class_names) - 1)
name = data.class_names[shown]

# %% [markdown]
# ## Gaussian
#
# Fit a Gaussian to the features $z$ of each class, with mean $\mu$ and
# covariance $\Sigma$. The score is its log-density,
#
# $$S(z) = -\tfrac12\left[(z-\mu)^\top\Sigma^{-1}(z-\mu)
#   + \ln|\Sigma| + d\ln 2\pi\right],$$
#
# and the highest scores are kept. Below are the scores of one class.

# %%
gaussian = experiment.change(method="gaussian").select()
figures.score_histogram(gaussian, f"log-density, class {name}", shown)

# %% [markdown]
# ## Moderate-DS
#
# The score is the distance to the coordinate-wise median of the class. Sort
# the distances and keep the middle of the list, the quantiles from
# $\tfrac12-\tfrac R2$ to $\tfrac12+\tfrac R2$: neither the easiest images nor
# the oddest. The kept part is a *band*.

# %%
moderate = experiment.change(method="moderate").select()
figures.score_histogram(
    moderate, f"distance to the median, class {name}", shown
)

# %% [markdown]
# ## The three side by side
#
# One row per class, one dot per image, placed by its distance to the centre of
# the class. Random keeps images anywhere, Moderate-DS those in the middle of
# each row. The Gaussian's are mostly near the centre.

# %%
from dedt_lib.selection import moderate_distances

random = experiment.change(method="random").select()
coresets = {
    "uniform random": random,
    "Gaussian": gaussian,
    "Moderate-DS": moderate,
}
distances = moderate_distances(features, data.labels)
figures.distance_strips(distances, coresets, data.class_names)

# %% [markdown]
# The same for a single class, seen in the plane in which its features vary
# most. Brighter dots are ranked earlier, ringed ones are kept. Two directions
# out of many hide most of the distances: what looks central here may be far
# away in a third direction.

# %%
figures.score_plane(features, coresets, of_class=shown)

# %% [markdown]
# Now look at the images themselves, a class per row: those that are kept
# first beside those that are removed first. Compare the removed images: those
# of the Gaussian are the odd ones, and some may be the only witnesses of a way
# to write. Moderate-DS removes the odd ones and the plainest ones.

# %%
figures.kept_and_removed(
    data.images, {"Gaussian": gaussian, "Moderate-DS": moderate}
)

# %% [markdown]
# ## How far the coresets agree
#
# The share of one coreset that another one keeps too. Two that know nothing of
# each other share as much as the ratio says.

# %%
figures.overlap_map(coresets)

# %% [markdown]
# ## One band for all classes, or one for each?
#
# The code that the paper cites sorts *all* distances in one list. Compact
# classes then fall below the band and loose ones above it, and the coreset is
# no longer balanced. A model that is asked for every class had better see
# every class: our `digits` profile takes the band inside each
# class, and Table I has a row for the other reading.

# %%
by_distance = experiment.change(method="moderate")
banded = by_distance.change(scope="class").select()
one_band = by_distance.change(scope="global").select()
figures.class_counts(
    {"a band in each class": banded.counts, "one band": one_band.counts},
    data.class_names,
)

# %% tags=["remove-cell"]
shares = 100 * one_band.counts / data.class_counts
glue("select", least=shares.min(), most=shares.max(), each=100 * ratio)

# %% [markdown]
# With one band the share that a class keeps lies between
# {glue:text}`select_least:.1f` % and {glue:text}`select_most:.1f` %. With a band
# in each, every class keeps {glue:text}`select_each:.0f` %, as nearly as whole
# images allow.
#
# ## A coreset is a file
#
# One row per image: what it scored, where it ranks, whether it is kept, and
# with what weight it will be trained on. `moderate.save(folder)` writes it as
# Parquet with a JSON file beside it that says what it is.

# %%
import tempfile

import pandas as pd

folder = tempfile.mkdtemp()
moderate.save(folder)
pd.read_parquet(f"{folder}/coreset.parquet").head()

# %% [markdown]
# ## Try it
#
# - Raise `ratio` to 0.4. Do the coresets agree more than chance would have it?
# - `dedt_lib.selection.select` takes `band="nearest"`, which keeps the images
#   nearest to the centre: one may read the paper so. Compare it with the
#   Gaussian.
# - Next: [which classes to stress](04_reweight).
