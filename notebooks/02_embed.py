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
# four. This chapter asks what each of them sees, and whether it matters.

# %% tags=["parameters"]
profile = "digits"
encoders = "resnet18 clip-rn50"
ratio = 0.1

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "encoders", "ratio")

# %% [markdown]
# ## Four ways to look at an image
#
# - **ResNet-18** {cite:p}`he2016deep` is a classifier, trained on the very
#   images that are to be pruned. It wins in the paper's Table I.
# - **Inception-v3** {cite:p}`szegedy2016rethinking` is a classifier too, a
#   larger one, that has learned from a million photographs. Instance
#   selection for GANs {cite:p}`devries2020instance` uses it.
# - **CLIP** {cite:p}`radford2021learning` has learned which caption belongs to
#   which image, from hundreds of millions of pairs. Its image half is
#   another ResNet.
# - **DDAE** {cite:p}`xiang2023denoising` is a diffusion model that has never
#   seen a label. It gets a slightly noisy image, and what a layer of its
#   decoder holds at that moment are the features.
#
# All of them are built in here with the published settings. But weights that
# were made for photographs of 299 pixels say little about digits of eight, so
# under the profile `digits` all four are trained on the digits, with networks
# and times to match:
#
# | encoder | in the paper | here, on the digits |
# |---|---|---|
# | ResNet-18 | CIFAR-10, 512 features | an eighth of its width |
# | Inception-v3 | ImageNet, 299 pixels, 2048 features | the same network, 75 pixels |
# | CLIP | OpenAI's RN50, 224 pixels, 1024 features | a small one; "a photo of the 3" |
# | DDAE | CIFAR-10, 256 features | the U-Net of this book, without labels |
#
# That removes a difference which the paper makes much of: that some encoders
# know only the data, and others the wide world.

# %% tags=["remove-cell"]
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.store import Store


def is_stored(name):
    """Whether showing this encoder costs no training (and no download)."""
    experiment = Experiment(profile, store=Store(compute=False), encoder=name)
    if getattr(getattr(experiment.profile.encoders, name.split("-")[0]), "weights", ""):
        return False
    try:
        return bool(experiment.encoder)
    except DedtError:
        return False


# %% [markdown]
# An encoder is trained when it is first needed, and stored. On one core of a
# laptop the ResNet-18 takes seconds and CLIP about a minute; Inception-v3 and
# the DDAE take two to five minutes each. So the page trains those that its
# parameter `encoders` names, and shows of the others what is in the store
# already; `make tables` leaves them there. What all four lead to is in
# [Table I](08_table1) in any case, from the committed results.

# %%
from dedt_lib.book import figures

label = {
    "resnet18": "ResNet-18",
    "inceptionv3": "Inception-v3",
    "clip-rn50": "CLIP",
    "ddae": "DDAE",
}
shown = [*encoders.split(), *filter(is_stored, label)]
runs = {
    label.get(name, name): Experiment(profile, encoder=name, ratio=ratio)
    for name in dict.fromkeys(shown)
}
manifests = {name: run.encoder[1] for name, run in runs.items()}
list(runs)

# %% [markdown]
# Their training losses, epoch by epoch. Each has a loss of its own:
# cross-entropy over classes or over captions, or the error of a noise
# estimate. Look only at whether a curve has flattened.

# %%
figures.epoch_losses({n: m["losses"] for n, m in manifests.items()})

# %% [markdown]
# The features are those of all training images, without augmentation and
# without normalisation.

# %%
data = next(iter(runs.values())).data
features = {name: run.embed() for name, run in runs.items()}
{name: (z.shape, str(z.dtype)) for name, z in features.items()}

# %% [markdown]
# ## What the encoders see
#
# For each encoder the two directions in which its features vary most,
# coloured by class. Look for clouds that are one class, for points between
# clouds, and for classes that lie on top of each other. (Two directions hide
# all others: what overlaps here may be far apart in a third.)

# %%
figures.feature_planes(features, data.labels, data.class_names)

# %% [markdown]
# ## Neighbours
#
# If the features are any good, the nearest neighbours of an image (first
# column) show the same digit. Another digit is framed.

# %%
import numpy as np
from scipy.spatial.distance import cdist

K = len(data.class_names)
first = [np.flatnonzero(data.labels == k)[0] for k in range(K)]


def nearest(z, rows, count):
    distance = cdist(z[rows], z)
    return distance.argsort(axis=1, kind="stable")[:, : count + 1]


figures.neighbours(
    data, {name: nearest(z, first, 5) for name, z in features.items()}
)

# %% [markdown]
# Over many images, in per cent: how many of the ten nearest neighbours have
# the class of the image, and how many images the encoder itself names rightly
# (for CLIP, by the nearest caption; a DDAE names nothing). Ten classes drawn
# at random would give ten per cent.

# %%
import pandas as pd

some = np.arange(0, len(data), max(1, len(data) // 200))
rows = {}
for name, z in features.items():
    around = nearest(z, some, 10)[:, 1:]
    same = data.labels[around] == data.labels[some, None]
    m = manifests[name]
    rows[name] = {
        "features": z.shape[1],
        "neighbours of its class": 100 * same.mean(),
        "named rightly, training": 100 * m.get("train_accuracy", np.nan),
        "named rightly, held out": 100 * m.get("test_accuracy", np.nan),
        "CPU seconds": m["cpu_seconds"],
    }
about = pd.DataFrame(rows).T.round(1).astype({"features": int})
about.astype(object).where(about.notna(), "–")

# %% [markdown]
# ## Do they choose the same images?
#
# Moderate-DS, from the [next chapter](03_select), keeps the images at a
# middling distance from the centre of their class. If two encoders measured
# the same thing, they would keep the same images. The map shows how much of
# each coreset another one keeps too.

# %%
coresets = {
    name: run.change(method="moderate").select()
    for name, run in runs.items()
}
figures.overlap_map(coresets)

# %% tags=["remove-cell"]
from itertools import combinations

shares = {
    pair: np.isin(coresets[pair[0]].indices, coresets[pair[1]].indices).mean()
    for pair in combinations(coresets, 2)
}
if shares:
    most = max(shares, key=shares.get)
    mean = np.mean(list(shares.values()))
    said = (
        f"Two coresets drawn at random would share {100 * ratio:.0f} %; two of these share "
        f"{100 * mean:.0f} % on average, and at most {100 * shares[most]:.0f} % ({most[0]} and "
        f"{most[1]}). "
    )
    said += (
        "So the encoders agree no more than chance"
        if mean < 1.3 * ratio
        else "So the encoders hardly agree"
        if mean < 2 * ratio
        else "So the encoders agree in part"
        if mean < 5 * ratio
        else "So the encoders largely agree"
    ) + " on which images are of middling distance."
else:
    said = "With one encoder there is nothing to compare."
glue("embed", overlap=said)

# %% [markdown]
# {glue:text}`embed_overlap:s`
#
# ## Two questions to keep in mind
#
# - An encoder that is right about every training image may pull each class
#   together until little structure is left inside it. Selection works *inside*
#   classes.
# - The encoder costs time as well. The [cost ledger](10_table3) adds it up.
#
# ## Try it
#
# - Show all four: set `encoders` to
#   `"resnet18 inceptionv3 clip-rn50 ddae"`, and have a coffee.
# - Train the encoder for one epoch: `load_profile(profile, **{"encoders.resnet18.epochs": 1})`
#   gives a profile that `Experiment` takes. Are the neighbours worse?
# - Next: [which images to keep](03_select).
