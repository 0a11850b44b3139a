# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Real CIFAR-10: selecting from fifty thousand images
#
# The digits fit into one figure; CIFAR-10 ([Krizhevsky,
# 2009](https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf)) does
# not. This chapter selects coresets of all its 50,000 training images on a
# CPU, with the commands that you would use. To train the published model on
# them takes a GPU (`dedt plan table1 --profile short --probe` estimates the
# time); a small one is trained on [the next page](13b_photographs.ipynb).
#
# The page reads what `tools/cifar10.py` measured and computes nothing.

# %% tags=["parameters"]
profile = "digits"  # of the other pages; this one reads cifar10-cpu

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile")

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, Markdown

from dedt_lib.book import figures
from dedt_lib.book.tables import percent
from dedt_lib.files import project_root, read_json

folder = project_root() / "results" / "cifar10-cpu"
found = read_json(folder / "selection.json")
encoder, selections = found["encoder"], found["selections"]
selectors = {
    "random": "Uniform random",
    "gaussian": "Gaussian",
    "moderate-global": "Moderate-DS, one band",
    "moderate-class": "Moderate-DS, a band in each class",
}

# %% [markdown]
# ## The surrogate encoder
#
# The encoder is a narrow ResNet-18 with a short training, as much as one core
# allows in minutes. It is less accurate than the paper's encoder, and it may
# prefer other images.

# %%
recipe = encoder["identity"]
Markdown(
    f"The first layer has {recipe['width']} channels instead of 64, and the "
    f"training takes {recipe['epochs']} epochs instead of 200, or "
    f"{encoder['cpu_seconds'] / 60:.0f} minutes of one core. The accuracy is "
    f"{100 * encoder['train_accuracy']:.1f} % on the training images and "
    f"{100 * encoder['test_accuracy']:.1f} % on the test images."
)

# %%
losses = encoder["losses"]
figure, axes = plt.subplots(figsize=(7, 2.4))
epochs = range(1, len(losses) + 1)
axes.plot(epochs, losses, "o-")
axes.set(xlabel="epoch", ylabel="cross-entropy", xticks=epochs)
axes.set_ylim(0);

# %% [markdown]
# ## Kept and removed images
#
# Each row is a class. On the left are the six images with the best rank under
# Moderate-DS at 10 %: their distance to the centre of the class is closest to
# the median distance. On the right are the six images with the worst rank. What
# do the removed images have in common?

# %%
kept = "six kept and six removed images of each class"
Image(folder / "moderate-class.png", alt=f"Moderate-DS: {kept}")

# %% [markdown]
# The same for the Gaussian, which keeps the most typical images:

# %%
Image(folder / "gaussian.png", alt=f"Gaussian: {kept}")

# %% [markdown]
# ## One band for all classes unbalances the coreset
#
# The code of Moderate-DS sorts the distances of all images in one list. A
# compact class then falls below the band, and a loose one lies above it. The
# bars are the kept images per class at each ratio. In a balanced coreset all
# bars of a colour would have the same height.

# %%
names = found["class_names"]
bands = [s for s in selections if s["selector"] == "moderate-global"]
figures.class_counts(
    {percent(s["ratio"]): s["class_counts"] for s in bands}, names
)

# %%
spread = max(max(s["class_counts"]) / min(s["class_counts"]) for s in bands)
Markdown(
    f"The largest class of a coreset is up to {spread:.1f} times as large as "
    "the smallest."
)

# %% [markdown]
# There are two remedies: one band per class (`scope = "class"`), and class
# weights that give more weight to a sample of a rare class.
#
# ## Overlap of the coresets
#
# Each entry is the share of the row's coreset that the column's coreset also
# keeps, at 10 %. Two independent coresets overlap by 0.10.

# %%
overlap = pd.DataFrame(found["overlap"]).T.round(2)
overlap = overlap.loc[[*selectors], [*selectors]]
overlap.rename(index=selectors, columns=selectors)

# %% [markdown]
# ## Time and memory
#
# The table shows the seconds of each command (`dedt select`, from the start of
# Python to the end), the seconds of the scoring alone, and the peak memory of
# the process, once the features are stored.

# %%
table = pd.DataFrame(selections)
table["data"] = table.ratio.map(percent)
table["selector"] = table.selector.map(selectors)
columns = {
    "computing_seconds": "scoring, s",
    "seconds": "command, s",
    "peak_gib": "peak, GiB",
}
table = table.set_index(["selector", "data"])[list(columns)]
table.rename(columns=columns).rename_axis([None, None])

# %%
Markdown(
    f"Measured on {found['machine']}, on {found['date']}, with other work "
    f"running beside it: at most {table['seconds'].max():.0f} seconds and "
    f"{table['peak_gib'].max():.1f} GiB."
)

# %% [markdown]
# ## The full-size network runs on a CPU too
#
# The full-size U-Net was trained for forty steps on 160 real images. The run
# was done three times: without interruption, killed and resumed, and shared by
# two processes (`accelerate launch`).

# %%
full = read_json(project_root() / "benchmarks" / "full_size.json")
losses = full["losses"]
figure, axes = plt.subplots(figsize=(7, 2.4))
axes.plot(range(1, len(losses) + 1), losses, ".-")
axes.set(xlabel="step", ylabel="loss", ylim=(0, None));

# %%
same = full["resumed_equals_uninterrupted"]
difference = full["two_processes"]["largest_difference_of_a_loss"]
Markdown(
    f"The network has {full['parameters']:,} weights, and a step of eight "
    f"images takes {full['seconds_per_step']:.1f} seconds. The mean loss "
    f"falls from {np.mean(losses[:5]):.2f} in the first five steps to "
    f"{np.mean(losses[-5:]):.2f} in the last five. The resumed run ends with "
    f"{'the same' if same else 'OTHER'} weights. With two processes no loss "
    f"differs by more than {difference:.1e}, from sums in another order."
)

# %% [markdown]
# ## In short
#
# Selecting from the real CIFAR-10 takes seconds and little memory once the
# features exist; the cost is in the encoder. One band for all classes
# unbalances the coreset, as it does on the digits. The full-size network
# trains, resumes and runs in two processes with this code, but a useful model
# needs a GPU.
#
# ## Try it
#
# `dedt select --profile cifar10-cpu --ratio 0.1 --out coreset` downloads
# CIFAR-10, trains the surrogate encoder and writes the coreset.
#
# - Which entries of the table of overlaps differ from what independent coresets
#   would have by chance? ([Solution](solutions_results.ipynb#CIFAR-10))
# - Which weight would each class need to balance the single band at 10 %, and
#   what can no weight repair? ([Solution](solutions_results.ipynb#CIFAR-10))
# - Next: [a model trained on these photographs](13b_photographs.ipynb).
