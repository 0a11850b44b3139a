# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions: the method, step by step
#
# Worked solutions of the exercises of the chapters [Data](01_data.ipynb) to
# [Evaluate](07_evaluate.ipynb). Try an exercise before you read its solution.
# Numbers are computed on this page.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib import evaluation
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.selection import select

experiment = Experiment(profile, method="moderate", ratio=ratio, seed=seed)
data, features = experiment.data, experiment.embed()
names, K = data.class_names, len(data.class_names)

# %% [markdown]
# ## Data
#
# **What happens to a file that is cut in half?**
# ([Exercise](01_data.ipynb))

# %%
import tempfile
from pathlib import Path

from PIL import Image

from dedt_lib.data import load
from dedt_lib.errors import DedtError

folder = Path(tempfile.mkdtemp())
for i in range(20):
    of_class = folder / names[data.labels[i]]
    of_class.mkdir(exist_ok=True)
    Image.fromarray(data.images[i, 0]).save(of_class / f"{i}.png")
first = next(folder.rglob("0.png"))
first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])

try:
    load("folder", path=folder, image_size=8, channels=1)
except DedtError as error:
    print(str(error).replace(str(folder), "FOLDER"))

# %% [markdown]
# Loading stops before anything is computed. A file that is left out in silence
# would change the data, and with it every result, without a trace.
#
# **Which two classes have the most similar mean image?**
# ([Exercise](01_data.ipynb))
#
# The distance between two mean images answers it for pixels. The same distance
# between two mean feature vectors answers it for the encoder of the next
# chapter.

# %%
from scipy.spatial.distance import pdist


def nearest_pairs(vectors, count=3):
    means = [vectors[data.labels == k].mean(axis=0) for k in range(K)]
    order = pdist(means).argsort(kind="stable")[:count]
    rows, columns = (side[order] for side in np.triu_indices(K, 1))
    return [f"{names[i]} and {names[j]}" for i, j in zip(rows, columns)]


pixels = data.images.reshape(len(data), -1).astype(float)
pairs = {"in pixels": pixels, "in features": features}
pd.DataFrame({k: nearest_pairs(v) for k, v in pairs.items()})

# %% [markdown]
# The two columns need not agree. Pixels count ink in the same place, while the
# encoder was trained to tell the classes apart, whatever they share in ink.

# %% [markdown]
# ## Embed
#
# **What does an encoder know after one epoch?**
# ([Exercise](02_embed.ipynb))

# %%
from dedt_lib.config import load_profile
from scipy.spatial.distance import cdist

short = load_profile(profile, **{"encoders.resnet18.epochs": 1})
short = Experiment(short, method="moderate", ratio=ratio, seed=seed)
some = np.arange(0, len(data), max(1, len(data) // 200))


def of_own_class(z):
    around = cdist(z[some], z).argsort(axis=1)[:, 1:11]
    return 100 * (data.labels[around] == data.labels[some, None]).mean()


overlap = np.isin(experiment.select().indices, short.select().indices)
Markdown(
    "Of the ten nearest neighbours of an image, "
    f"{of_own_class(short.embed()):.0f} % have its class after one epoch, "
    f"and {of_own_class(features):.0f} % after the whole training. In pixels "
    f"it is {of_own_class(pixels):.0f} %. The two coresets by Moderate-DS "
    f"share {100 * overlap.mean():.0f} % of their images; two independent "
    f"ones would share {100 * ratio:.0f} %."
)

# %% [markdown]
# Neighbours of the right class are a weak test of an encoder. They can be
# nearly as good for another encoder, while the coreset is another one, because
# selection depends on the order of distances *inside* a class.
#
# **One feature is multiplied by 1000. Which selector notices?**
# ([Exercise](02_embed.ipynb))

# %%
scaled = features.astype(float)
scaled[:, features.std(axis=0).argmax()] *= 1000


def chosen(z, method):
    made = select(z, data.labels, method=method, ratio=ratio, scope="class")
    return made.indices


same = {
    method: 100 * np.isin(chosen(features, method), chosen(scaled, method))
    for method in ("gaussian", "moderate")
}
pd.Series({m: s.mean() for m, s in same.items()}).round(1).rename(
    "images kept in both (%)"
).to_frame()

# %% [markdown]
# The Gaussian divides by the covariance of its class. A scaled feature has a
# scaled covariance, and the two cancel: the Mahalanobis distance stays, and
# $\ln|\Sigma|$ changes by the same number for all images of a class. Only the
# small ridge breaks the equality. Moderate-DS measures Euclidean distances,
# and after the scaling a single feature decides them.

# %% [markdown]
# ## Select
#
# **Is the overlap larger than the ratio at 0.4?**
# ([Exercise](03_select.ipynb))

# %%
at_40 = {
    m: experiment.change(method=m, ratio=0.4).select()
    for m in ("random", "gaussian", "moderate")
}
figures.overlap_map(at_40)

# %% [markdown]
# Independent coresets would share 40 %. Uniform random is independent of the
# other two, so what it shares with them differs from 40 % by chance alone. The
# Gaussian and Moderate-DS read the same features, so they may share more or
# less than that.
#
# **Is `band="nearest"` the Gaussian?** ([Exercise](03_select.ipynb))

# %%
how = {"ratio": ratio, "scope": "class"}
gaussian = select(features, data.labels, method="gaussian", **how)
nearest = select(
    features, data.labels, method="moderate", band="nearest", **how
)
shared = np.isin(nearest.indices, gaussian.indices).mean()
Markdown(
    f"They share {100 * shared:.0f} % of their images; "
    f"{100 * ratio:.0f} % would be chance."
)

# %% [markdown]
# Both keep images near the centre of the class, so they share far more than
# chance. They are not equal, because they measure "near" differently: the one
# by the Euclidean distance to the median, and the other by the Mahalanobis
# distance to the mean, which allows more along directions in which the class
# varies.
#
# **At which ratio does Moderate-DS first keep the most typical image?**
# ([Exercise](03_select.ipynb))
#
# The band starts at position $(n-m)/2$, rounded down, where $m$ is the number
# of kept images of a class of $n$. It reaches position 0, the image nearest to
# the centre, only where $n-m\le 1$.

# %%
from dedt_lib.selection import moderate_distances

mine = data.labels == 0
n = int(mine.sum())
distance = moderate_distances(features, data.labels)[mine]
typical = np.flatnonzero(mine)[distance.argmin()]


def keeps_it(m):
    made = select(
        features[mine], data.labels[mine], method="moderate", ratio=m / n,
        scope="class",
    )
    return typical in np.flatnonzero(mine)[made.indices]


smallest = next(m for m in range(1, n + 1) if keeps_it(m))
Markdown(
    f"Class {names[0]} has {n} images. The most typical one is kept first "
    f"when {smallest} of them are kept, a ratio of {smallest / n:.3f}."
)

# %% [markdown]
# The outlier at the other end is kept only when all images are. But for this
# rounding Moderate-DS is symmetric in ranks, and it avoids both ends at
# nearly every ratio.

# %% [markdown]
# ## Reweight
#
# **What does ten times the smoothing do to the average?**
# ([Exercise](04_reweight.ipynb))
#
# The toy of the chapter, with `update_weights` as its step:

# %%
from dedt_lib.reweighting import update_weights

steps, of_class = 500, np.tile(np.arange(3), 8)
rng = np.random.default_rng(seed)
reference = rng.exponential(0.1, (steps, 24))
worse = rng.normal(0.05 * of_class, 0.1, (steps, 24))


def average(smoothing=1e-3, shift=0.0, clip=0.0):
    alpha, seen = np.full(3, 1 / 3), []
    for gap in np.maximum(worse + shift, clip):
        by_class = [gap[of_class == k].mean() for k in range(3)]
        alpha = update_weights(alpha, by_class, smoothing=smoothing)
        seen.append(alpha)
    return np.mean(seen, axis=0).round(3)


pd.DataFrame(
    {f"c = {c:g}": average(smoothing=c) for c in (1e-3, 1e-2, 1e-1)},
    index=pd.Index(range(3), name="class"),
).T

# %% [markdown]
# Each step pulls the weights a share $c$ of the way back to $1/K$. A larger
# $c$ shortens their memory, so the weights stop nearer to uniform, in the same
# order.
#
# **The proxy is worse by 0.3 on every image of every class. Do the weights
# change?** ([Exercise](04_reweight.ipynb))

# %%
pd.DataFrame(
    {
        "clipped at zero": average(),
        "clipped at zero, 0.3 worse": average(shift=0.3),
        "never clipped": average(clip=-np.inf),
        "never clipped, 0.3 worse": average(shift=0.3, clip=-np.inf),
    },
    index=pd.Index(range(3), name="class"),
).T

# %% [markdown]
# Without clipping nothing changes. A constant that is added to the excess of
# all classes multiplies all $\alpha_i'$ by the same number, and normalising
# divides it out. With clipping the weights change. A class whose excess is
# near zero has its negative half removed, which raises its mean; 0.3 higher,
# almost nothing is clipped any more. So the *level* of the losses matters only
# because of the clipping.

# %% [markdown]
# ## Train
#
# **How many steps does annealing from the middle cost?**
# ([Exercise](05_train.ipynb))
#
# All the data takes $S$ steps. If the last share $a$ of the epochs visits all
# the data, a coreset of ratio $R$ takes $S\,(R(1-a)+a)$ steps.

# %%
half = load_profile(profile, **{"train.annealing_start": 0.5})
longer = Experiment(half, method="moderate", ratio=ratio, seed=seed)
runs = {1 / 8: experiment, 1 / 2: longer}
S = experiment.steps_at(1.0)
pd.DataFrame(
    {
        f"a = {a:g}": {
            "by the formula": S * (ratio * (1 - a) + a),
            "by the library": run.steps_at(ratio, annealing=True),
            "times the plain run": run.steps_at(ratio, annealing=True)
            / run.steps_at(ratio),
        }
        for a, run in runs.items()
    }
).round(1)

# %% [markdown]
# At $R=0.1$ and $a=1/2$ the run takes 5.5 times the steps of the plain one
# (whole epochs and batches move the number a little). A lower FID after such a
# run is no evidence for annealing before it has been compared with all the
# data at as many steps.
#
# **Why is the loss of the first step near one?** ([Exercise](05_train.ipynb))

# %%
from dedt_lib.models.schedule import pixel_scheduler
from dedt_lib.training import draw_batch

untrained = experiment.build_model()
batch = draw_batch(
    data, torch.arange(len(data)), experiment.settings, seed, step=0
)
x_t = pixel_scheduler().add_noise(batch.images, batch.noise, batch.t)
given = torch.where(batch.drop, untrained.null_label, batch.labels)
with torch.no_grad():
    loss = untrained.losses(batch).mean()
    predicted = untrained.predict(x_t, batch.t, given)

parts = {
    "noise, squared": batch.noise.square().mean(),
    "prediction, squared": predicted.square().mean(),
    "minus twice their product": -2 * (predicted * batch.noise).mean(),
}
parts |= {"sum": sum(parts.values()), "loss": loss}
pd.Series({name: float(x) for name, x in parts.items()}).round(
    3
).to_frame("mean over pixels")

# %% [markdown]
# The loss is the mean of $(\hat\epsilon-\epsilon)^2$, and its square can be
# multiplied out. $\epsilon$ has unit variance, so the first part is one in
# expectation; a network that always predicts zero has no other. An untrained
# network predicts something small, and the other two parts are small as well.
# Everything clearly below one has been learned.

# %% [markdown]
# ## Sample
#
# **Five steps instead of the profile's number: what is lost?**
# ([Exercise](06_sample.ipynb))

# %%
from dedt_lib.pixels import to_uint8
from dedt_lib.sampling import balanced_labels, ddim, initial_noise

full = experiment.change(method="random", ratio=1.0)
model, unet = full.train(), experiment.profile.unet
classes = torch.from_numpy(balanced_labels(10, K))
noise = initial_noise(range(10), model.sample_shape, seed)
drawn = {
    steps: ddim(model, noise, classes, steps=steps, guidance=unet.guidance)
    for steps in sorted({2, 5, 10, unet.steps})
}
figures.image_rows(
    [to_uint8(x).numpy() for x in drawn.values()],
    [f"{steps} steps" for steps in drawn],
)

# %%
best = drawn[unet.steps]
pd.Series(
    {
        steps: float(127.5 * (x - best).square().mean().sqrt())
        for steps, x in drawn.items()
    },
    name="root-mean-square difference, grey levels",
).rename_axis("steps").round(1).to_frame()

# %% [markdown]
# The difference is taken from the images at the profile's own number of steps.
# All rows start from the same noise and follow the same path from noise to
# image, in longer or shorter straight pieces. Few pieces cut the corners of the
# path. The rough shape is decided early and survives. What the late steps would
# have refined is what differs.
#
# **Are digits at a guidance weight of 10 still digits, and what is lost?**
# ([Exercise](06_sample.ipynb))

# %%
scales = (0.0, 1.0, 3.0, 10.0)
strong = {
    f"w = {w:g}": to_uint8(
        ddim(model, noise, classes, steps=unet.steps, guidance=w)
    ).numpy()
    for w in scales
}
figures.image_rows(list(strong.values()), list(strong))

# %% [markdown]
# Two distances say what happens, in grey levels: that between two samples of
# the same class, and that from a sample to the nearest training image. Six
# samples of each class are drawn from other noise, the same at each $w$.

# %%
of_class = torch.from_numpy(balanced_labels(6 * K, K))
more = initial_noise(range(10, 10 + 6 * K), model.sample_shape, seed)
found = {}
for w in scales:
    x = ddim(model, more, of_class, steps=unet.steps, guidance=w)
    x = to_uint8(x).numpy()
    flat = [x[of_class == k].reshape(6, -1).astype(float) for k in range(K)]
    apart = np.mean([pdist(z).mean() for z in flat])
    found[f"w = {w:g}"] = {
        "between samples": apart / flat[0].shape[1] ** 0.5,
        "to the nearest image": evaluation.nearest_distances(
            x, data.images
        )[0].mean(),
    }
pd.DataFrame(found).T.round(1)

# %% [markdown]
# Guidance adds $w$ times the difference of two predictions, and pulls every
# sample to where its class is told apart best, whatever noise it began with.
# Where the first column falls, variety is lost. A large $w$ extrapolates far
# beyond both predictions. The sampler clips the estimate $\hat x_0$ to the
# range of pixels in each step, and the path leaves the images that the model
# has seen. Where the second column rises, the samples move away from real
# digits.

# %% [markdown]
# ## Evaluate
#
# **FID of the training images against themselves, and of held-out images**
# ([Exercise](07_evaluate.ipynb))

# %%
real = experiment.real()["features"].astype(float)
held_out = experiment.metric_features(experiment.test.images).astype(float)
fid = evaluation.frechet_distance
generated = experiment.metric_features(full.sample()).astype(float)
rng = np.random.default_rng(seed)
fewer = rng.choice(len(real), min(len(held_out), len(real)), replace=False)
pd.Series(
    {
        "the training images": abs(fid(real, real)),
        "held-out images": fid(real, held_out),
        "as many training images": fid(real, real[fewer]),
        "samples of the model of all the data": fid(real, generated),
    },
    name="FID against the training images",
).round(3).to_frame()

# %% [markdown]
# A set has distance zero to itself. Held-out images are as real, and yet their
# distance is not zero. They are fewer than the training images, which raises
# FID by its bias, and they are other images. The third line has equally few
# images, but they are a part of the training set and share its noise: its bias is
# roughly proportional to $1/m-1/n$ instead of $1/m+1/n$. So it shows only a part
# of what small numbers alone add.
#
# **A model returns its training images. What detects it?**
# ([Exercise](07_evaluate.ipynb))
#
# Such a "model", put through the measures of the chapter:

# %%
distances, _ = evaluation.nearest_distances(data.images, data.images)
threshold = experiment.held_out()["pixels_threshold"]
precision, recall = evaluation.precision_recall(real, real)[:2]
pd.Series(
    {
        "FID": abs(fid(real, real)),
        "precision (%)": 100 * precision,
        "recall (%)": 100 * recall,
        "near-copies (%)": 100 * (distances <= threshold).mean(),
        "FID against held-out images": fid(held_out, real),
    }
).round(2).to_frame("the copying model")

# %% [markdown]
# FID, precision and recall are perfect. They ask whether the samples look like
# the training images, and copies do. Only the near-copies detect the fraud. FID
# against held-out images is not perfect any more, but it is as low as real
# images can make it, so it does not detect copying either.
