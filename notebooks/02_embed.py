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
# Which images are typical? Pixels are a poor guide: shift a digit by one pixel
# and nearly every number changes. A **surrogate encoder** is a feature
# extractor: it maps an image to a vector in which a small distance means a
# similar digit. The paper tries four encoders. This chapter compares what
# their features represent, and asks whether the choice matters.

# %% tags=["parameters"]
profile = "digits"
encoders = "resnet18 clip-rn50"
ratio = 0.1

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "encoders", "ratio")

# %% [markdown]
# ## Four encoders
#
# - **ResNet-18** ([He et al., 2016](https://arxiv.org/abs/1512.03385)) is a
#   classifier, trained on the images that are to be pruned. It gives the best
#   results in the paper's Table I.
# - **Inception-v3** ([Szegedy et al., 2016](https://arxiv.org/abs/1512.00567))
#   is a larger classifier, trained on a million photographs. Instance
#   selection for GANs
#   ([DeVries et al., 2020](https://arxiv.org/abs/2007.15255)) uses it.
# - **CLIP** ([Radford et al., 2021](https://arxiv.org/abs/2103.00020)) learned
#   to match images with captions, from hundreds of millions of pairs. Its
#   image encoder is another ResNet.
# - **DDAE** ([Xiang et al., 2023](https://arxiv.org/abs/2303.09769)) is a
#   diffusion model trained without labels. It receives a slightly noisy image,
#   and the activations of a decoder layer are the features.
#
# The library has all four in their published sizes. But weights for
# photographs of 299 pixels do not transfer to digits of eight. So under the
# profile `digits` all four encoders are trained on the digits, in sizes that
# suit them:
#
# | encoder | in the paper | here, on the digits |
# |---|---|---|
# | ResNet-18 | CIFAR-10, 512 features | an eighth of its width |
# | Inception-v3 | ImageNet, 299 pixels, 2048 features | the same network, 75 pixels |
# | CLIP | OpenAI's RN50, 224 pixels, 1024 features | a small one; "a photo of the 3" |
# | DDAE | CIFAR-10, 256 features | the U-Net of this book, without labels |
#
# One difference between the encoders is lost thereby: in the paper some of
# them saw only the data to be pruned, and others saw millions of other images.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.store import Store

label = {
    "resnet18": "ResNet-18",
    "inceptionv3": "Inception-v3",
    "clip-rn50": "CLIP",
    "ddae": "DDAE",
}

# %% [markdown]
# An encoder is trained on first use and then stored. On one core of a laptop
# the ResNet-18 takes seconds and CLIP about a minute; Inception-v3 and the
# DDAE take minutes. So the page trains the encoders that its parameter
# `encoders` names, and adds those that are in the store already. `make tables`
# leaves all four there. [Table I](08_table1.ipynb) has the results of all
# four in any case.

# %%
def is_stored(name):
    """Whether this encoder needs no training and no download."""
    run = Experiment(profile, store=Store(compute=False), encoder=name)
    values = getattr(run.profile.encoders, name.split("-")[0])
    if getattr(values, "weights", ""):
        return False
    try:
        return bool(run.encoder)
    except DedtError:
        return False


shown = [*encoders.split(), *filter(is_stored, label)]
runs = {
    label.get(name, name): Experiment(profile, encoder=name, ratio=ratio)
    for name in dict.fromkeys(shown)
}
manifests = {name: run.encoder[1] for name, run in runs.items()}
list(runs)

# %% [markdown]
# The figure shows their training losses by epoch. The losses differ in kind
# (cross-entropy over classes, cross-entropy over captions, error of the
# predicted noise), so their values do not compare. Check only that each curve
# has flattened. A published encoder was trained elsewhere and has no curve.

# %%
trained = {n: m["losses"] for n, m in manifests.items() if "losses" in m}
figures.epoch_losses(trained) if trained else Markdown("None was trained.")

# %% [markdown]
# The features are those of all training images, without augmentation and
# without normalisation.

# %%
data = next(iter(runs.values())).data
features = {name: run.embed() for name, run in runs.items()}
{name: (z.shape, str(z.dtype)) for name, z in features.items()}

# %% [markdown]
# ## The features of each encoder
#
# Each panel shows the first two principal components of the features of an
# encoder, coloured by class. Look for classes that form a cluster of their
# own, for classes that overlap, and for images between clusters. Two
# components hide the others: classes that overlap here may be separate along a
# third one.

# %%
figures.feature_planes(features, data.labels, data.class_names)

# %% [markdown]
# ## Nearest neighbours
#
# In good features the nearest neighbours of an image (first column) show the
# same digit. Neighbours of another class are framed.

# %%
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
# The table measures this over many images, in per cent: the share of the ten
# nearest neighbours that have the class of the image, and the encoder's own
# accuracy. CLIP classifies by the nearest caption; a DDAE has no classifier
# head. With ten balanced classes, neighbours drawn uniformly at random would
# agree in ten per cent.

# %%
some = np.arange(0, len(data), max(1, len(data) // 200))
rows = {}
for name, z in features.items():
    around = nearest(z, some, 10)[:, 1:]
    same = data.labels[around] == data.labels[some, None]
    m = manifests[name]
    rows[name] = {
        "features": z.shape[1],
        "neighbours of its class": 100 * same.mean(),
        "training accuracy": 100 * m.get("train_accuracy", np.nan),
        "held-out accuracy": 100 * m.get("test_accuracy", np.nan),
        "CPU seconds": m.get("cpu_seconds", np.nan),
    }
about = pd.DataFrame(rows).T.round(1).astype({"features": int})
about.astype(object).where(about.notna(), "–")

# %% [markdown]
# ## Do the encoders lead to the same coreset?
#
# Moderate-DS, from the [next chapter](03_select.ipynb), keeps the images at a
# middling distance from the centre of their class. If two encoders measured
# the same distances, their coresets would be equal. The map shows the share of
# each coreset that another coreset also keeps.

# %%
coresets = {
    name: run.change(method="moderate").select()
    for name, run in runs.items()
}
figures.overlap_map(coresets)

# %%
from itertools import combinations

shared = [
    100 * np.isin(a.indices, b.indices).mean()
    for a, b in combinations(coresets.values(), 2)
]
Markdown(
    f"Two independent coresets overlap by {100 * ratio:.0f} %. The coresets "
    f"of two encoders overlap by {np.mean(shared):.0f} % on average and by "
    f"{max(shared):.0f} % at most."
    if shared
    else "With one encoder there is nothing to compare."
)

# %% [markdown]
# ## Two questions to keep in mind
#
# - A classifier with perfect training accuracy may collapse each class until
#   little structure is left inside it. Selection needs structure *inside*
#   classes.
# - The encoder has a cost as well. The [cost ledger](10_table3.ipynb) includes
#   it.
#
# ## In short
#
# A surrogate encoder turns images into features in which distances mean
# something. Encoders with a similar accuracy can still disagree about which
# images are typical, so the choice of the encoder is part of the method.
# Whether it changes the trained model is a question for
# [Table I](08_table1.ipynb).
#
# ## Try it
#
# - Train the encoder for one epoch: with `load_profile` of `dedt_lib.config`,
#   `load_profile(profile, **{"encoders.resnet18.epochs": 1})` gives a profile
#   that `Experiment` takes. How do the neighbours change, and how the coreset?
#   ([Solution](solutions_method.ipynb#Embed))
# - Multiply one feature by 1000. Which selector of the next chapter notices,
#   the Gaussian or Moderate-DS, and why? ([Solution](solutions_method.ipynb#Embed))
# - Next: [which images to keep](03_select.ipynb).
