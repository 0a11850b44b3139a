# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Embed: from images to features
#
# Which images are typical? Pixels are a poor judge: shift a digit by one
# pixel and every number changes. A **surrogate encoder** maps an image to a
# vector of features in which "similar" means "similar digit". The paper tries
# four encoders; this chapter uses the one that wins in its Table I, a
# ResNet-18 trained on the very images to be pruned {cite:p}`he2016deep`.

# %% tags=["parameters"]
profile = "digits"

# %% tags=["remove-cell"]
from dedt_lib.notebook import check_parameters

check_parameters("profile")

# %% [markdown]
# The encoder is trained when it is first needed, and stored.

# %%
from dedt_lib import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(profile)
network, manifest = experiment.encoder
data = experiment.data

# %% [markdown]
# Its training loss, epoch by epoch.

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.6))
axes.plot(range(1, len(manifest["losses"]) + 1), manifest["losses"], "o-")
axes.set(xlabel="epoch", ylabel="cross-entropy", yscale="log");

# %% tags=["remove-cell"]
from myst_nb import glue

features = experiment.embed()
glue("embed_train", 100 * manifest["train_accuracy"], display=False)
glue("embed_test", 100 * manifest["test_accuracy"], display=False)
glue("embed_seconds", manifest["seconds"], display=False)
glue("embed_d", features.shape[1], display=False)

# %% [markdown]
# It names {glue:text}`embed_train:.1f` % of its training images and
# {glue:text}`embed_test:.1f` % of the held-out ones rightly, after
# {glue:text}`embed_seconds:.0f` seconds of training. The last layer before
# the class scores is what we want: {glue:text}`embed_d:d` features per image,
# without augmentation and without normalisation.

# %%
features = experiment.embed()
features.shape, features.dtype

# %% [markdown]
# ## What the encoder sees
#
# The two directions in which the features vary most, coloured by class. The
# classes are clouds; look for the points between clouds, and for clouds that
# fall into two parts.

# %%
figures.feature_plane(features, data.labels, data.class_names)

# %% [markdown]
# ## Neighbours
#
# If the features are any good, the nearest neighbours of an image (first
# column) show the same digit.

# %%
import numpy as np

first = np.array([np.flatnonzero(data.labels == k)[0] for k in range(10)])
distance = np.linalg.norm(features[first, None] - features[None], axis=2)
nearest = distance.argsort(axis=1)[:, :8]
figures.image_grid(data.images[nearest.ravel()], columns=8)

# %% [markdown]
# ## Two questions to keep in mind
#
# - An encoder that is right about every training image may pull each class
#   together until little structure is left inside it. Selection works *inside*
#   classes.
# - The encoder costs time as well. The [cost ledger](08_table1) adds it up.
#
# ## Try it
#
# - Train the encoder for one epoch: `load_profile(profile, resnet18_epochs=1)`
#   gives a profile that `Experiment` takes. Are the neighbours worse?
# - Next: [which images to keep](03_select).
