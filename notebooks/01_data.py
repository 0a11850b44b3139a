# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data: images with one label each
#
# Everything that follows needs only this: images, a class for each, and names
# for both. One type holds them, whatever they come from.

# %% tags=["parameters"]
profile = "digits"

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile")

# %% [markdown]
# A **profile** says how large everything is, and which images are used. It is
# a file of values in sections, which may extend another.

# %%
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.config.profile import profile_names

experiment = Experiment(profile)
data, test = experiment.data, experiment.test
profile_names()

# %% [markdown]
# `images` are whole numbers from 0 to 255 in the order image, channel, row,
# column; `labels` are numbers of classes.

# %%
data.images.shape, data.images.dtype, data.labels.shape

# %% tags=["remove-cell"]
glue("data", train=len(data), test=len(test) if test else 0, side=data.images.shape[2])

# %% [markdown]
# The digits are tiny, {glue:text}`data_side:d` pixels on a side, but they are
# real scans, and they come inside scikit-learn: no download, no account.
# {glue:text}`data_train:d` of them are for training. The other
# {glue:text}`data_test:d` are never trained on; they tell later whether a
# generated image is *new*.

# %%
figures.example_images(data)

# %% [markdown]
# Look down a column: some digits are written like most others, some are
# not. Selection is about that difference.
#
# ## Balanced, and why it matters
#
# The training images are balanced, as CIFAR-10 is. A coreset need not be.

# %%
figures.class_counts({"training images": data.class_counts}, data.class_names)

# %% [markdown]
# ## The average digit
#
# The mean of a class is blurred where its members differ. Where a mean is
# sharp, few images say as much as many.

# %%
import numpy as np

K = len(data.class_names)
means = [data.images[data.labels == k].mean(axis=0) for k in range(K)]
figures.image_grid(np.stack(means).round().astype(np.uint8), columns=K)

# %% [markdown]
# ## Same data, same name
#
# The **fingerprint** is computed from the images, the labels and the class
# names. Stored results carry it, so that a result of other data is never
# taken by mistake.

# %%
data.fingerprint

# %% [markdown]
# ## Your own images
#
# One folder per class is enough. Images are cropped to a square and brought
# to the profile's size; a file that cannot be read is named before anything
# is computed. Here are some digits written to such a folder, and read back.

# %%
import tempfile
from pathlib import Path

from PIL import Image

from dedt_lib.data import load

folder = Path(tempfile.mkdtemp())
for i in range(40):
    of_class = folder / data.class_names[data.labels[i]]
    of_class.mkdir(exist_ok=True)
    Image.fromarray(data.images[i, 0]).save(of_class / f"{i}.png")

mine = load("folder", path=folder, image_size=8, channels=1)
len(mine), mine.class_names, mine.ids[:3]

# %% [markdown]
# ## Try it
#
# - Open one of the PNG files in an editor, delete its second half, and load
#   the folder again.
# - Which two classes have the most similar average image? Keep your guess for
#   the [next chapter](02_embed).
