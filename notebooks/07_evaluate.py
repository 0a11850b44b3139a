# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evaluate: how good, and how new
#
# A generated image can look real and still be worthless, because it may be a
# copy of a training image. This chapter measures both: the quality of the
# samples, and the share of copies among them.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# Two models are measured, one trained on a coreset and one trained on all the
# data.

# %%
import numpy as np
from IPython.display import Markdown

from dedt_lib import evaluation
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(profile, method="moderate", ratio=ratio, seed=seed)
full = experiment.change(method="random", ratio=1.0)
data, names = experiment.data, experiment.data.class_names

# %% [markdown]
# ## The feature extractor
#
# FID compares features of images, usually those of an Inception network that
# was trained on photographs. Images of a few pixels are far from photographs,
# so a small classifier of digits takes its place. It serves no other purpose.
# **FID values of this book compare with each other, never with those of the
# paper.**

# %%
from dedt_lib.stages.evaluate import extractor

manifest = extractor(experiment.lab).manifest()
accuracies = ("train_accuracy", "test_accuracy")
{k: round(manifest[k], 3) for k in accuracies if k in manifest}

# %% [markdown]
# ## FID
#
# FID ([Heusel et al., 2017](https://arxiv.org/abs/1706.08500)) fits a Gaussian
# to the features of the real images and another one to those of the generated
# images, and takes the Fréchet distance between the two:
#
# $$|\mu_r-\mu_g|^2 + \mathrm{tr}\left(\Sigma_r+\Sigma_g
#   - 2(\Sigma_r\Sigma_g)^{1/2}\right).$$
#
# The trace of the matrix square root is the sum of the square roots of the
# eigenvalues of $\Sigma_r\Sigma_g$, so the formula takes a few lines.

# %%
real = experiment.real()["features"].astype(float)
generated = experiment.metric_features(full.sample()).astype(float)

mean_r, mean_g = real.mean(axis=0), generated.mean(axis=0)
cov_r = np.cov(real, rowvar=False)
cov_g = np.cov(generated, rowvar=False)
eigenvalues = np.linalg.eigvals(cov_r @ cov_g).real.clip(0)
fid = (
    np.square(mean_r - mean_g).sum()
    + np.trace(cov_r + cov_g)
    - 2 * np.sqrt(eigenvalues).sum()
)

# %% [markdown]
# The library factorises the real side once, because one set of real images is
# compared with many models. It arrives at the same number.

# %%
bool(np.isclose(fid, evaluation.frechet_distance(real, generated)))

# %% [markdown]
# A second check comes from outside: `torch-fidelity`, a widely used
# implementation of FID. Its value for the same features equals ours up to the
# rounding of its arithmetic.

# %%
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics
from torch_fidelity.metric_fid import fid_statistics_to_metric

sides = map(torch.tensor, (generated, real))
statistics = [fid_features_to_statistics(side) for side in sides]
theirs = fid_statistics_to_metric(*statistics, verbose=False)
theirs = theirs["frechet_inception_distance"]
float(round(theirs, 6)), round(full.evaluate()["fid"], 6)

# %% [markdown]
# ## Real-vs-real FID
#
# Two random halves of the *real* images do not have a distance of zero
# either, because each half is a small sample. This real-vs-real FID is the
# scale for all values of the book. FID has a bias that grows as the number
# of images shrinks. For the digits a half holds half as many images as a
# model draws, so this value is about twice as high as it would be at the
# models' number of images, and a model may score below it. The settings of
# the measurement:

# %%
import textwrap

floor = experiment.floor()
of_coreset, of_full = experiment.evaluate(), full.evaluate()
print(*textwrap.wrap(of_coreset["protocol"], 70), sep="\n")

# %%
Markdown(
    f"Real-vs-real FID is {floor['fid']:.2f}. The model trained on all the "
    f"data scores {of_full['fid']:.2f}, and the model trained on the coreset "
    f"{of_coreset['fid']:.2f}."
)

# %% [markdown]
# ## Class by class
#
# One number hides much. The figure shows the FID of each class against its own
# real images, with the real-vs-real FID of the class as a short line. Some
# classes lose far more than others, and reweighting is meant to repair this.

# %%
figures.classwise_bars(
    {"all data": of_full["classwise"], "coreset": of_coreset["classwise"]},
    names,
    floor["classwise"],
)

# %% [markdown]
# A class has a tenth of the images, so the bias of its FID is larger. Compare
# classes with each other and with their real-vs-real FID, and never with the
# FID of all the images.
#
# ## Copies
#
# The coreset is small, and the model has seen each of its images many times.
# Does the model reproduce them? For each sample we look for the nearest
# training image *of this run*. The figure shows the ten samples nearest to a
# training image, with these training images below. The numbers are
# root-mean-square differences in grey levels.

# %%
images, seen = experiment.sample(), experiment.select().indices
distances, nearest = evaluation.nearest_distances(
    images, data.images, among=seen, mirrored=experiment.profile.train.flip
)
order = distances.argsort()[:10]
figures.nearest_pairs(
    images[order], data.images[nearest[order]], distances[order]
)

# %% [markdown]
# Which distance is too small? Held-out real digits give the answer, because no
# model has copied them. The threshold is the first percentile of their
# distances to the training images, the dashed line below. A sample at or below
# the threshold counts as a **near-copy**. Held-out images that also occur among
# the training images would move the threshold to zero, so they are left out.
# Where training mirrors images, the mirror images are compared too.

# %%
held_out = experiment.held_out()
without = "There are no held-out images, so near-copies are not counted."
if held_out:
    shown = figures.nearest_histogram(
        {
            "held-out real images": held_out["pixels"],
            "samples, to the coreset": distances,
        },
        held_out["pixels_threshold"],
    )
shown if held_out else Markdown(without)

# %%
if held_out:
    told = (
        f"The threshold is {held_out['pixels_threshold']:.1f} grey levels, "
        f"from {held_out['held_out']} held-out images; {held_out['leaks']} "
        "more were training images. Near-copies are "
        f"{100 * of_coreset['copies']:.1f} % of the samples of the model "
        f"trained on the coreset, and {100 * of_full['copies']:.1f} % of "
        "those of the model trained on all the data."
    )
Markdown(told if held_out else without)

# %% [markdown]
# A copy that is shifted by one pixel is far from its original in grey levels.
# So the distances are also taken in the features of FID, with a threshold of
# their own from the same held-out images.

# %%
if held_out:
    told = (
        "In features the shares of near-copies are "
        f"{100 * of_coreset['copies_features']:.1f} % and "
        f"{100 * of_full['copies_features']:.1f} %."
    )
Markdown(told if held_out else without)

# %% [markdown]
# One per cent is the share among real images, by definition of the threshold,
# as long as there are as many training images to be near to. The coreset has
# far fewer images, so its share may be lower without the model copying less.
#
# ## In short
#
# FID is the distance of two Gaussians in the features of a fixed network, and
# only values from the same network, images and counts can be compared. The
# real-vs-real FID and the near-copies give the values a scale: how low FID can
# get by chance, and whether a low FID was bought by copying. FID class by
# class shows where a coreset loses quality.
#
# ## Try it
#
# - Compute the FID of the training images against themselves, and of the
#   held-out images against the training images. ([Solution](solutions_method.ipynb#Evaluate))
# - A model that returns its training images has a perfect FID. Which of the
#   measures on this page would detect it, and would precision and recall
#   ([Table IV](16_table4.ipynb))? ([Solution](solutions_method.ipynb#Evaluate))
# - Next: [all coresets in one table](08_table1.ipynb).
