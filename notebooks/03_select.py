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
# A selector gives every image a score, and the scores decide which images are
# kept. The kept images are the **coreset**. This chapter compares three
# selectors.
#
# - **Uniform random** draws the same share of each class uniformly at random.
#   It costs nothing, and it is the baseline that the others have to beat.
# - **Gaussian** ([DeVries et al., 2020](https://arxiv.org/abs/2007.15255))
#   keeps the images where the density of their class is highest.
# - **Moderate-DS** ([Xia et al., 2023](https://openreview.net/forum?id=7D5EECbOaf9))
#   keeps the images at a middling distance from the centre of their class.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# Selectors work on features, not on pixels. The features here come from the
# profile's default feature extractor, a ResNet-18; [Embed](02_embed.ipynb)
# shows the others.

# %%
import numpy as np
from IPython.display import Markdown

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
# covariance $\Sigma$. (The paper writes one mean and one covariance; the method
# that it cites fits a Gaussian to each class, as here.) The score of an image
# is its log-density,
#
# $$S(z) = -\tfrac12\left[(z-\mu)^\top\Sigma^{-1}(z-\mu)
#   + \ln|\Sigma| + d\ln 2\pi\right],$$
#
# and the images with the highest scores are kept. Here is the formula for one
# class. A small ridge on the diagonal keeps $\Sigma$ invertible where a class
# has fewer images than features.

# %%
z = features[data.labels == shown].astype(float)
n, d = z.shape

centred = z - z.mean(axis=0)
covariance = centred.T @ centred / n + 1e-5 * np.eye(d)
solved = np.linalg.solve(covariance, centred.T).T
mahalanobis = (centred * solved).sum(axis=1)
log_determinant = np.linalg.slogdet(covariance)[1]
scores = -0.5 * (mahalanobis + log_determinant + d * np.log(2 * np.pi))

# %% [markdown]
# The library computes the same scores for all classes, by a Cholesky factor
# and in blocks of rows. Are they equal?

# %%
gaussian = experiment.change(method="gaussian").select()
np.allclose(scores, gaussian.scores[data.labels == shown])

# %% [markdown]
# The histogram shows these scores. The kept images are the upper tail.

# %%
figures.score_histogram(gaussian, f"log-density, class {name}", shown)

# %% [markdown]
# ## Moderate-DS
#
# The score is the distance to the centre of the class, which is the
# coordinate-wise median of its features. Sort the distances and keep the
# quantiles from $\tfrac12-\tfrac R2$ to $\tfrac12+\tfrac R2$, where $R$ is the
# ratio. The kept images form a *band* around the median distance. (The paper's
# "within R/2 from the median" is read as ranks, because $R$ is no distance.)

# %%
centre = np.median(z, axis=0)
distances = np.linalg.norm(z - centre, axis=1)

count = round(ratio * n)
low = (n - count) // 2
band = np.argsort(distances, kind="stable")[low : low + count]

# %% [markdown]
# Again the library agrees, on the distances and on the images that are kept.

# %%
by_distance = experiment.change(method="moderate", scope="class")
moderate = by_distance.select()
kept = np.flatnonzero(moderate.kept[data.labels == shown])
same_distances = np.allclose(
    distances, moderate.scores[data.labels == shown]
)
same_distances, set(kept) == set(band)

# %% [markdown]
# The histogram of the distances has the band in its middle. Images on both
# sides are removed: the most typical ones and the outliers.

# %%
figures.score_histogram(
    moderate, f"distance to the median, class {name}", shown
)

# %% [markdown]
# ## The three selectors side by side
#
# Each row is a class, and each dot is an image, placed by its distance to the
# centre of the class. Uniform random keeps images anywhere in a row.
# Moderate-DS keeps the middle of each row. The Gaussian keeps images mostly
# near the centre.

# %%
from dedt_lib.selection import moderate_distances

random = experiment.change(method="random").select()
coresets = {
    "uniform random": random,
    "Gaussian": gaussian,
    "Moderate-DS": moderate,
}
figures.distance_strips(
    moderate_distances(features, data.labels), coresets, data.class_names
)

# %% [markdown]
# The next figure shows one class in the plane of its first two principal
# components. Brighter dots have a better rank, and ringed dots are kept. Two
# components hide the rest of the features: an image that looks central here
# may be far from the centre along a third one.

# %%
figures.score_plane(features, coresets, of_class=shown)

# %% [markdown]
# Now the images themselves, one class per row. The images with the best rank
# are on the left, those with the worst rank on the right. The Gaussian removes
# the unusual images, and some of them may be the only examples of a
# handwriting style. Moderate-DS removes the unusual images and the most
# typical ones.

# %%
figures.kept_and_removed(
    data.images, {"Gaussian": gaussian, "Moderate-DS": moderate}
)

# %% [markdown]
# ## Turn the ratio
#
# The images of one class stand in the order of their scores; those that are
# removed are faded. The histogram above them has the scores of the whole class:
# log-densities on the left, distances on the right. The Gaussian gives up its
# images from the low end of the score, and Moderate-DS from both ends. In
# JupyterLab the slider shows one ratio at a time.

# %%
from functools import partial

from dedt_lib.book.notebook import dial

fewest = data.class_counts.min()
by_ratio = {
    R: {
        "Gaussian": experiment.change(method="gaussian", ratio=R).select(),
        "Moderate-DS": by_distance.change(ratio=R).select(),
    }
    for R in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    if round(R * fewest)
}
printed = [R for R in (0.1, 0.2, 0.4, 0.8) if R in by_ratio]
draw = partial(figures.kept_by_ratio, data.images, of_class=shown)
dial("ratio", by_ratio, draw, printed=printed)

# %% [markdown]
# ## Overlap of the coresets
#
# Each entry is the share of one coreset that another coreset also keeps. Two
# independent coresets overlap by the ratio.

# %%
figures.overlap_map(coresets)

# %% [markdown]
# ## One band for all classes, or one per class?
#
# The code that the paper cites sorts the distances of *all* classes in one
# list. Compact classes then fall below the band, loose classes lie above it,
# and the coreset is no longer balanced. A class-conditional model needs
# examples of every class. Our profile `digits` therefore takes one band per
# class, and [Table I](08_table1.ipynb) has a row for the single band.

# %%
one_band = by_distance.change(scope="global").select()
figures.class_counts(
    {"a band in each class": moderate.counts, "one band": one_band.counts},
    data.class_names,
)

# %%
shares = 100 * one_band.counts / data.class_counts
Markdown(
    "With one band the share that a class keeps lies between "
    f"{shares.min():.1f} % and {shares.max():.1f} %. With a band in each "
    f"class every class keeps {100 * ratio:.0f} %, as nearly as whole "
    "images allow."
)

# %% [markdown]
# ## A coreset is a file
#
# `moderate.save(folder)` writes a Parquet table with one row per image: its
# score, its rank, whether it is kept, and its training weight. A JSON file
# beside the table records how the coreset was made.

# %%
import tempfile

import pandas as pd

folder = tempfile.mkdtemp()
moderate.save(folder)
pd.read_parquet(f"{folder}/coreset.parquet").head()

# %% [markdown]
# ## In short
#
# The Gaussian keeps the densest part of each class, and Moderate-DS keeps a
# band around the median distance. Both are a few lines of linear algebra on
# features, and each is a hypothesis about which images a generative model
# needs. Uniform random is the baseline that both have to beat.
#
# ## Try it
#
# - Raise `ratio` to 0.4. Is the overlap larger than the ratio?
#   ([Solution](solutions_method.ipynb#Select))
# - `dedt_lib.selection.select` takes `band="nearest"`, which keeps the images
#   nearest to the centre (give `scope="class"` too); the paper's wording allows
#   this reading. Is the coreset that of the Gaussian?
#   ([Solution](solutions_method.ipynb#Select))
# - At which ratio does Moderate-DS first keep the most typical image of a
#   class? ([Solution](solutions_method.ipynb#Select))
# - Next: [which classes to up-weight](04_reweight.ipynb).
