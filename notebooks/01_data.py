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
# Everything that follows needs only images, a class label for each of them,
# and names for images and classes. One type holds them, wherever the images
# come from.

# %% tags=["parameters"]
profile = "digits"

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile")

# %% [markdown]
# A **profile** says which images are used and how large every part of the
# method is. It is a file of values in sections, and it may extend another
# profile. These profiles come with the library:

# %%
import numpy as np
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.config.profile import profile_names

experiment = Experiment(profile)
data, test = experiment.data, experiment.test
profile_names()

# %% [markdown]
# `images` are integers from 0 to 255 with the axes image, channel, row and
# column; `labels` are the indices of the classes.

# %%
data.images.shape, data.images.dtype, data.labels.shape

# %% [markdown]
# The digits ([Alpaydin and Kaynak, 1998](https://doi.org/10.24432/C50P49)) are
# real scans of handwriting. They come with scikit-learn: there is no download
# and no account.

# %%
figures.example_images(data)

# %%
Markdown(
    f"Each image has {data.images.shape[2]} pixels on a side. {len(data)} "
    f"images are used for training. Another {len(test) if test else 0} are "
    "held out; they tell later whether a generated image is *new*."
)

# %% [markdown]
# Look down a column: some digits are typical of their class, others are not.
# Selection acts on this difference.
#
# ## Class balance
#
# The digits are balanced, as the images of CIFAR-10 are. A folder of your own
# need not be, and neither need a coreset.

# %%
figures.class_counts(
    {"training images": data.class_counts}, data.class_names, "images"
)

# %% [markdown]
# ## The mean image of a class
#
# The mean is blurred where the images of a class differ. Where it is sharp,
# the images resemble each other, and a few of them represent the class.

# %%
K = len(data.class_names)
means = [data.images[data.labels == k].mean(axis=0) for k in range(K)]
figures.image_grid(np.stack(means).round().astype(np.uint8), columns=K)

# %% [markdown]
# ## Same data, same fingerprint
#
# The **fingerprint** is a hash of the images, the labels and the class names.
# Stored results carry it, so a result of other data is never used by mistake.

# %%
data.fingerprint

# %% [markdown]
# ## Your own images
#
# One folder per class is enough. Images are cropped to a square and resized
# to the profile's size. A file that cannot be read is reported before anything
# is computed. The next cell writes some of the images to such a folder, small and
# grey, and reads them back.

# %%
import tempfile
from pathlib import Path

from PIL import Image

from dedt_lib.data import load

folder = Path(tempfile.mkdtemp())
for i in range(0, len(data), max(1, len(data) // 40)):
    of_class = folder / data.class_names[data.labels[i]]
    of_class.mkdir(exist_ok=True)
    Image.fromarray(data.images[i, 0]).save(of_class / f"{i}.png")

mine = load("folder", path=folder, image_size=8, channels=1)
len(mine), mine.class_names, mine.ids[:3]

# %% [markdown]
# ## In short
#
# All data have one form: an array of images, an array of labels, and names.
# A profile says which data are used and how large everything is. Stored
# results belong to the fingerprint of their data.
#
# ## Try it
#
# - Cut one of the PNG files in half, by `file = next(folder.rglob("0.png"))` and
#   `file.write_bytes(file.read_bytes()[:60])`, and load the folder again.
#   ([Solution](solutions_method.ipynb#Data))
# - Which two classes have the most similar mean image? Would an encoder that
#   was trained on the classes name the same two? ([Solution](solutions_method.ipynb#Data))
# - Next: [features instead of pixels](02_embed.ipynb).
