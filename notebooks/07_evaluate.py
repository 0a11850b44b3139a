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
# A generated image can be good and still be worthless: it may be a copy. This
# chapter measures both.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# Two models are measured, one trained on a coreset and one on all the data.

# %%
from dedt_lib import evaluation
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(profile, method="moderate", ratio=ratio, seed=seed)
full = experiment.change(method="random", ratio=1.0)
data, names = experiment.data, experiment.data.class_names

# %% [markdown]
# ## The yardstick
#
# FID {cite:p}`heusel2017gans` fits a Gaussian to the features of the real
# images and one to those of the generated ones, and takes the distance
# between the two:
#
# $$|\mu_r-\mu_g|^2 + \mathrm{tr}\left(\Sigma_r+\Sigma_g
#   - 2(\Sigma_r\Sigma_g)^{1/2}\right).$$
#
# Usually the features are those of an Inception network. For images of a few
# pixels that would be absurd, so a small classifier of digits takes its
# place, and is used for nothing else. **These values compare with each
# other, never with those of the paper.**

# %%
from dedt_lib.stages.evaluate import extractor, extractor_stage

manifest = extractor_stage(experiment.lab).manifest()
{k: round(manifest[k], 3) for k in ("train_accuracy", "test_accuracy")}

# %% [markdown]
# The classifier is registered with `torch-fidelity` under a name that carries
# the hash of its weights. Its own FID, on the same images, is ours up to the
# rounding of its means, which it keeps in single precision.

# %%
import torch
import torch_fidelity


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = torch.tensor(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


theirs = torch_fidelity.calculate_metrics(
    input1=Images(full.sample()),
    input2=Images(data.images),
    fid=True,
    feature_extractor=extractor(experiment.lab).extractor,
    feature_layer_fid="features",
    cuda=False,
    cache=False,
    save_cpu_ram=True,
    verbose=False,
)["frechet_inception_distance"]
ours = full.evaluate()["fid"]
round(theirs, 6), round(ours, 6)

# %% [markdown]
# ## The floor
#
# Two random halves of the *real* images do not have distance zero either:
# each is a small sample. A half is half as many images as a model draws here, and
# FID of fewer images is larger, so the value is about twice what as many images
# would have.

# %%
import textwrap

floor = experiment.floor()
coreset_fid = experiment.evaluate()
full_fid = full.evaluate()
glue(
    "eval",
    floor=floor["fid"],
    coreset=coreset_fid["fid"],
    full=full_fid["fid"],
)
print(*textwrap.wrap(coreset_fid["protocol"], 70), sep="\n")

# %% [markdown]
# Real against real: {glue:text}`eval_floor:.2f`. All data:
# {glue:text}`eval_full:.2f`. Coreset: {glue:text}`eval_coreset:.2f`. A model
# may lie below the floor as it is measured here, for it draws more images.
#
# ## Class by class
#
# One number hides much. Here is the distance of each class to its own real
# images, with the floor as a short line. Some classes lose far more than
# others: this is what reweighting sets out to mend.

# %%
figures.classwise_bars(
    {"all data": full_fid["classwise"], "coreset": coreset_fid["classwise"]},
    names,
    floor["classwise"],
)

# %% [markdown]
# A class has a tenth of the images, so its FID is biased upwards: compare
# classes with each other and with their floor, never with the FID of the
# whole.
#
# ## Copies
#
# The coreset is small and the model has seen it often. Does it draw those
# very images? For each sample we look for the nearest training image *of this
# run*. Samples in the top row, their nearest neighbours below, from nearest
# on; the numbers are root-mean-square differences in grey levels.

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
# How near is too near? Held-out real digits answer: no model has copied them,
# and one in a hundred of them lies at most as far from a training image as
# the dashed line. A sample that does so counts as a **near-copy**. Held-out
# images that are training images as well would put the line at zero, so they
# are left out; where training mirrors images, an image and its mirror image
# are both compared.

# %%
held_out = experiment.held_out()
figures.nearest_histogram(
    {
        "held-out real digits": held_out["pixels"],
        "samples, to the coreset": distances,
    },
    held_out["pixels_threshold"],
)

# %% [markdown]
# A copy that is shifted by one pixel is far from its original in grey levels.
# A second reading therefore takes the distances in the features of FID, with a
# line of its own from the same held-out images.

# %% tags=["remove-cell"]
glue(
    "eval",
    leaks=held_out["leaks"],
    held_out=held_out["held_out"],
    threshold=held_out["pixels_threshold"],
    copies=100 * coreset_fid["copies"],
    copies_full=100 * full_fid["copies"],
    features=100 * coreset_fid["copies_features"],
    features_full=100 * full_fid["copies_features"],
)

# %% [markdown]
# {glue:text}`eval_held_out:d` held-out images put the line at
# {glue:text}`eval_threshold:.1f` grey levels; {glue:text}`eval_leaks:d` more
# were training images. Near-copies: {glue:text}`eval_copies:.1f` % of the
# samples for the coreset, {glue:text}`eval_copies_full:.1f` % for all data;
# in features {glue:text}`eval_features:.1f` % and
# {glue:text}`eval_features_full:.1f` %. One per cent is what real images do by
# chance when there are as many to be near to; the coreset has far fewer, so
# its share may be lower without being more honest.
#
# ## Try it
#
# - Compute the FID of the training images against themselves, and of the
#   held-out ones against the training images.
# - A model that returns its training images has a perfect FID. Which of the
#   measures on this page would notice?
# - Next: [the whole table](08_table1).
