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
# can read. Nobody has to label the images, and no encoder is trained. Give
# the path of your folder as `data`, from `/` on; without one, a small set of
# real photographs is used, so that you can first see how it goes.

# %% tags=["parameters"]
profile = "photos"
data = ""
ratio = 0.2

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "data", "ratio")

# %% [markdown]
# `data` may be a folder, flat or with a subfolder for each class, or what
# `dedt select --help` names besides. If it is empty, the images of `profile`
# are taken, where these are files. Failing that, the two sample photographs
# of scikit-learn are cut into pieces of mixed sizes. Among the pieces are a
# few faults, for the next section to find.

# %%
from dedt_lib.config import load_profile
from dedt_lib.data import detect
from dedt_lib.data.sample import sample_photographs
from dedt_lib.store import Store

path = data or load_profile(profile).data.path
path = path or str(sample_photographs(Store()))

# %% [markdown]
# All settings are those of the profile `photos`. Its encoder is an
# EfficientNet-Lite0 {cite:p}`tan2019efficientnet`, which has learned from a
# million photographs. Its weights come with a dependency: nothing is
# downloaded. With the scope `class`, each class keeps the same share.

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
# A selector sees features, and not what went wrong on the way to them. So
# look first. The *exact copies* are found by their pixels, the *near copies*
# by a **perceptual hash**: 64 bits that say where an image is bright, and
# hardly change when it is made smaller. *Blank*, *dark* and *blurry* are
# judged by the pixels of each image alone.

# %%
import pandas as pd

from dedt_lib.pages.look import findings

found = findings(experiment.lab)
rows = [row for row in found.rows if row[0] not in ("select", "run")]
pd.DataFrame(rows, columns=["what", "how many", "remark"])

# %% [markdown]
# Here are some images of each kind, below some without any fault. An
# *outlier* is far from its neighbours in the space of the features. It may be
# a mistake, or the one image of its kind: that is for you to say.

# %%
from dedt_lib.book import figures

figures.faults(found)

# %% [markdown]
# ## Choose
#
# Moderate-DS wants classes ([Select](03_select)). Where there are none,
# **clusters** stand in for them: k-means on the features puts images
# together that look alike. One cluster for twenty images, and at most ten.
# Copies rank last, so a coreset holds an image once.

# %%
coreset = experiment.select()
images = experiment.lab.photos
counts = {"images": images.class_counts, "kept": coreset.counts}
pd.DataFrame(counts, index=coreset.class_names)

# %% tags=["remove-cell"]
glue("own", kept=len(coreset.indices), all=len(images), classes=len(coreset.class_names))

# %% [markdown]
# {glue:text}`own_kept:d` of {glue:text}`own_all:d` images are kept, out of
# {glue:text}`own_classes:d` groups. Below, a row for each: what is kept first
# beside what is removed first. Read along a row. Do the images belong
# together? Then look at the right side: the plainest and the oddest images
# are there, and the copies.

# %%
thumbnails = images.look.thumbnails
figures.kept_and_removed(
    thumbnails, {"Moderate-DS": coreset}, per_side=8
)

# %% [markdown]
# ## The map of the features
#
# The features have more than a thousand numbers each. The map shows the two
# directions in which they differ most. Images that look alike lie close
# together. Red dots are kept. Look for a part of the map without any red:
# what lies there the model will never see.

# %%
from dedt_lib.clusters import principal

points = principal(experiment.embed(), 32)
figures.feature_map(points, coreset, thumbnails)

# %% [markdown]
# ## Which ratio?
#
# Take any image. How far is it to the nearest one that is kept? The curve
# shows the mean of that distance, for growing coresets; 100 % is the distance
# to the mean of all images. Where the curve bends, at its **knee**, more
# images begin to add little that is new. The curve speaks of coverage alone.
# Whether a model needs more than that, only training tells.

# %%
from dedt_lib.pages.report import knee

curve = knee(points, coreset)
figures.knee(curve, ratio)

# %% [markdown]
# ## Which encoder?
#
# All of this is as good as the features are. On CIFAR-10, where the classes
# are known, they can be put to a test: give each held-out image the class of
# most of its 20 nearest neighbours among the training images, and count how
# often that is right. Beside the encoder of this page stands a ResNet-18,
# trained for five epochs on the training images and their labels.

# %%
from dedt_lib.files import project_root, read_json

measured = read_json(project_root() / "benchmarks" / "encoders.json")
table = {
    name: {
        "right (%)": 100 * facts["neighbours_accuracy"]["value"],
        "from": 100 * facts["neighbours_accuracy"]["95 %"][0],
        "to": 100 * facts["neighbours_accuracy"]["95 %"][1],
        "features: ms": facts["cpu_ms_an_image"],
        "training: ms": facts.get("training_cpu_ms_an_image", 0),
    }
    for name, facts in measured["encoders"].items()
}
pd.DataFrame(table).T.round(1)

# %% tags=["remove-cell"]
glue(
    "enc",
    **measured["settings"],
    own=100 * measured["encoders"]["resnet18"]["own_accuracy"]["value"],
    **{name: 100 * both["value"] for name, both in measured["overlap"].items()},
)

# %% [markdown]
# The encoder that never saw CIFAR-10 tells its classes apart better, for the
# same time an image. {glue:text}`enc_train:,d` training and
# {glue:text}`enc_test:,d` held-out images were used, and the time is that of a
# CPU. The ResNet-18 itself names {glue:text}`enc_own:.1f` % of the held-out
# images rightly; more epochs would make it better, and take longer.
#
# Do the two choose the same tenth? By Moderate-DS
# {glue:text}`enc_moderate:.0f` % of it are in both, which is what two random
# tenths share. By the Gaussian it is {glue:text}`enc_gaussian:.0f` %. So
# another encoder means another coreset.

# %% [markdown]
# ## Files for a trainer
#
# The coreset is a table with a row for each image. `export` reads it and
# writes the kept images in a layout that other programs know. The images are
# copied byte for byte, with their captions and weights beside them.

# %%
import tempfile
from pathlib import Path

from dedt_lib.data.export import export

folder = Path(tempfile.mkdtemp())
coreset.save(folder / "coreset")
export(folder / "coreset", "imagefolder", folder / "for-training")
pd.read_json(
    folder / "for-training" / "train" / "metadata.jsonl", lines=True
).head()

# %% [markdown]
# `datasets.load_dataset("imagefolder", data_dir=...)` reads this folder, and
# so do the training scripts of `diffusers`.
#
# ## The same in a shell
#
# The first line writes `look.html` and a list without the faults, which the
# second line chooses from. The second also writes `report.html`, with this
# page's pictures of your images. The last one trains a small model on what
# is kept, draws samples and measures them. How many steps that takes is said
# by `dedt look`, and how long by the command that it names.
#
# ```text
# dedt look photos --drop bad,duplicates,blank --out checked
# dedt select checked/photos.dedt.json --ratio 0.2 --scope class --out coreset
# dedt export coreset --to imagefolder --out for-training
# dedt run checked/photos.dedt.json --ratio 0.2 --scope class --out everything
# ```
#
# ## Try it
#
# - Give a folder of yours as `data`. Which of its faults did you not know of?
# - Pass `encoder="clip"` or `"dinov2"` to `Experiment`: larger networks, whose
#   weights are fetched on first use. Which images change sides?
# - Set `select.clusters` to 2 in `load_profile`. Which rows are merged?
# - Read on: [the data](01_data), and then how each step works.
