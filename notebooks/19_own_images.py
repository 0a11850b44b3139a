# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own images
#
# This chapter goes from a folder of photographs to a coreset that a trainer
# can read. The images need no labels, and no encoder is trained. Set `data` to
# the absolute path of your folder. Without a path, the chapter uses a small
# set of real photographs.

# %% tags=["parameters"]
profile = "photos"
data = ""
ratio = 0.2

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "data", "ratio")

# %% [markdown]
# `data` may be a folder, flat or with a subfolder per class, or any other
# source that `dedt select --help` lists. If it is empty, the chapter takes the
# images of `profile`, where these are files. Otherwise it cuts the two sample
# photographs of scikit-learn into pieces of mixed sizes. A few of the pieces
# have faults, for the next section to find.

# %%
import pandas as pd
from IPython.display import Markdown

from dedt_lib.book import figures
from dedt_lib.config import load_profile
from dedt_lib.data import detect
from dedt_lib.data.example import sample_photographs
from dedt_lib.store import Store

path = data or load_profile(profile).data.path
path = path or str(sample_photographs(Store()))

# %% [markdown]
# All settings are those of the profile `photos`. Its feature extractor is an
# EfficientNet-Lite0 ([Tan and Le, 2019](https://arxiv.org/abs/1905.11946)),
# trained on a million photographs. Its weights come with a dependency, so
# nothing is downloaded. With the scope `class`, each class keeps the same
# share of its images.

# %%
from dedt_lib.experiment import Experiment

photos = load_profile(
    "photos",
    **{
        "data.source": detect(path),
        "data.path": path,
        "data.skip_bad": True,
    },
)
experiment = Experiment(photos, ratio=ratio, scope="class")

# %% [markdown]
# ## Look before you choose
#
# A selector sees features only, and faults of the images are easy to miss
# there. So look at the images first. *Exact copies* have the same pixels.
# *Near copies* have almost the same **perceptual hash**: 64 bits that say
# which coarse patterns of light and dark are strong in an image and that
# hardly change when it is resized. *Blank*, *dark* and *blurry* images are
# found by their own pixels.

# %%
from dedt_lib.pages.look import findings

found = findings(experiment.lab)
rows = [row for row in found.rows if row[0] not in ("select", "run")]
pd.set_option("display.max_colwidth", None)
pd.DataFrame(rows, columns=["what", "how many", "remark"])

# %% [markdown]
# The figure shows some images of each kind, and some images without a fault.
# An *outlier* is far from its nearest neighbours in feature space. It may be a
# mistake, or a rare image that you want to keep; only you can tell.

# %%
figures.faults(found)

# %% [markdown]
# ## Choose
#
# Moderate-DS needs classes ([Select](03_select.ipynb)). Where there are none,
# **clusters** take their place: k-means on the features groups images that
# look alike, with one cluster per twenty images and at most ten clusters.
# Copies rank last, so a coreset holds an image only once.

# %%
coreset = experiment.select()
images = experiment.lab.photos
counts = {"images": images.class_counts, "kept": coreset.counts}
pd.DataFrame(counts, index=coreset.class_names)

# %%
Markdown(
    f"{len(coreset.indices)} of {len(images)} images are kept, from "
    f"{len(coreset.class_names)} groups."
)

# %% [markdown]
# Each row of the figure is a group, with the images of the best rank on the
# left and those of the worst rank on the right. Do the images of a row belong
# together? The right side holds the most typical images, the outliers, and the
# copies.

# %%
thumbnails = images.look.thumbnails
figures.kept_and_removed(
    thumbnails, {"Moderate-DS": coreset}, per_side=8
)

# %% [markdown]
# ## A map of the features
#
# A feature vector has more than a thousand numbers. The map shows the first
# two principal components, so images that look alike lie close together. Red
# dots are kept. Look for a region without red dots: the trained model will
# never see an image from there.

# %%
from dedt_lib.clusters import principal

points = principal(experiment.embed(), 32)
figures.feature_map(points, coreset, thumbnails)

# %% [markdown]
# ## Which encoder?
#
# The choice is as good as the features are. On CIFAR-10 the classes are known,
# so features can be tested: give each held-out image the class of most of its
# 20 nearest neighbours among the training images, and count how often that is
# right. Beside the encoder of this page stands a ResNet-18 of a quarter of the
# usual width that was trained for five epochs on the training images and their
# labels.

# %%
from dedt_lib.files import project_root, read_json

measured = read_json(project_root() / "benchmarks" / "encoders.json")
table = {
    name: {
        "accuracy (%)": 100 * facts["neighbours_accuracy"]["value"],
        "from": 100 * facts["neighbours_accuracy"]["95 %"][0],
        "to": 100 * facts["neighbours_accuracy"]["95 %"][1],
        "features: ms": facts["cpu_ms_an_image"],
        "training: ms": facts.get("training_cpu_ms_an_image"),
    }
    for name, facts in measured["encoders"].items()
}
pd.DataFrame(table, dtype=float).T.round(1).astype(object).fillna("–")

# %% [markdown]
# *From* and *to* are the ends of the 95 % interval of the accuracy. Milliseconds
# are CPU time per image; the first encoder was trained elsewhere.
# Do the two encoders choose the same tenth?

# %%
settings, shared = measured["settings"], measured["overlap"]
own = measured["encoders"]["resnet18"]["own_accuracy"]["value"]
Markdown(
    f"Measured on {settings['train']:,} training and {settings['test']:,} "
    f"held-out images. The ResNet-18's own accuracy is {100 * own:.1f} %. By "
    "Moderate-DS the two coresets share "
    f"{100 * shared['moderate']['value']:.0f} %, and by the Gaussian "
    f"{100 * shared['gaussian']['value']:.0f} %; two random tenths share "
    "10 % on average. "
    "Another encoder means another coreset."
)

# %% [markdown]
# ## Which ratio?
#
# How far is an image from the nearest kept image? The curve shows the mean of
# this distance for growing coresets, where 100 % is the mean distance to the
# mean of all images. Beyond the **knee** of the curve, more images add little
# coverage. The curve measures coverage alone. Only training can tell whether a
# model needs more.

# %%
from dedt_lib.pages.report import knee

curve = knee(points, coreset)
figures.knee(curve, ratio)

# %% [markdown]
# ## Files for a trainer
#
# The coreset is a table with one row per image. `export` reads the table and
# writes the kept images in a layout that other programs read. The images are
# copied byte for byte, with their captions and weights beside them.

# %%
import tempfile
from pathlib import Path

from dedt_lib.data.export import export

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
coreset.save(folder / "coreset")
export(folder / "coreset", "imagefolder", folder / "for-training")
pd.read_json(
    folder / "for-training" / "train" / "metadata.jsonl", lines=True
).head()

# %% [markdown]
# `datasets.load_dataset("imagefolder", data_dir=...)` reads this folder, and
# so do the training scripts of `diffusers` (which use no weights).
#
# ## The same in a shell
#
# The first command writes `look.html` and a list of the images without faults.
# The second command selects from this list and writes `report.html`, which has
# the figures of this page for your images. The third one exports the coreset.
# The last one trains a small model on the coreset, draws samples and measures
# them; `dedt look` says how many steps that takes, and names the command that
# measures how long.
#
# ```text
# dedt look photos --drop bad,duplicates,blank --out checked
# dedt select checked/photos.dedt.json --ratio 0.2 --scope class --out coreset
# dedt export coreset --to imagefolder --out for-training
# dedt run checked/photos.dedt.json --ratio 0.2 --scope class --out everything
# ```
#
# ## In short
#
# `look` finds faults before they reach a coreset, `select` keeps a share of
# every class or cluster, and `export` writes files that other trainers read.
# Features come from a published network, so a laptop is enough. The map and
# the knee show what the coreset covers; only training shows whether that is
# enough.
#
# ## Try it
#
# Set `data` to a folder of yours. Which of its faults did you not know of?
#
# - Set `select.clusters` to 2 in `load_profile`, and `data.label` to `"none"` if
#   your folder has classes. Which groups are merged?
#   ([Solution](solutions_start.ipynb#Your-own-images))
# - Every photograph of a folder is there twice, under two names. What do
#   uniform random, the Gaussian and Moderate-DS keep of it?
#   ([Solution](solutions_start.ipynb#Your-own-images))
# - Next: [the data](01_data.ipynb), and then how each step works.
