# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Real CIFAR-10: choosing from fifty thousand images
#
# The digits fit into a glance; CIFAR-10 does not {cite:p}`krizhevsky2009learning`.
# This chapter chooses coresets of all its 50,000 training images, on a CPU, with
# the commands that you would use. No diffusion model is trained on them here:
# that takes a GPU (`dedt plan --profile short` says how long).
#
# It reads what `tools/cifar10.py` measured and computes nothing.

# %% tags=["parameters"]
profile = "digits"

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile")

# %%
from dedt_lib.book.tables import percent
from dedt_lib.files import project_root, read_json

folder = project_root() / "results" / "cifar10-cpu"
found = read_json(folder / "selection.json")

# %% tags=["remove-cell"]
import numpy as np
encoder = found["encoder"]
select = found["selections"]
glue(
    "c10",
    epochs=encoder["identity"]["epochs"],
    width=encoder["identity"]["width"],
    train=100 * encoder["train_accuracy"],
    test=100 * encoder["test_accuracy"],
    minutes=encoder["cpu_seconds"] / 60,
    features=found["features"][1],
    machine=found["machine"],
    date=found["date"],
    peak=max(s["peak_gib"] for s in select),
    longest=max(s["seconds"] for s in select),
)
bands = [s for s in select if s["selector"] == "moderate-global"]
spread = [max(s["class_counts"]) / min(s["class_counts"]) for s in bands]
glue("c10", spread=max(spread))

# %% [markdown]
# ## The surrogate
#
# A ResNet-18 of a quarter of the paper's width ({glue:text}`c10_width:d`
# instead of 64), trained for {glue:text}`c10_epochs:d` epochs instead of 200:
# as much as {glue:text}`c10_minutes:.0f` minutes of one core allow. It names
# {glue:text}`c10_train:.1f` % of the training images and
# {glue:text}`c10_test:.1f` % of the test images rightly. What it prefers is
# therefore not what the paper's encoder prefers.

# %%
import matplotlib.pyplot as plt

losses = found["encoder"]["losses"]
figure, axes = plt.subplots(figsize=(7, 2.4))
axes.plot(range(1, len(losses) + 1), losses, "o-")
axes.set(xlabel="epoch", ylabel="cross-entropy", ylim=(0, None));

# %% [markdown]
# ## What is kept, what goes
#
# Each row is a class. Left, the six images that Moderate-DS ranks first at
# 10 %: those whose distance to the centre of their class is *middling*. Right,
# the six it would drop first. Look for what the removed ones have in common.

# %%
from IPython.display import Image

Image(folder / "moderate-class.png")

# %% [markdown]
# The same for the Gaussian score, which keeps what is most typical.

# %%
Image(folder / "gaussian.png")

# %% [markdown]
# ## One band for all classes is unfair
#
# The code of Moderate-DS sorts the distances of all images in one list. A
# tight class then falls below the band and a loose one above it. Images kept
# per class, at each ratio; in a balanced coreset all bars of a colour
# would be level.

# %%
from dedt_lib.book import figures

names = found["class_names"]
figures.class_counts(
    {
        percent(s["ratio"]): s["class_counts"]
        for s in found["selections"]
        if s["selector"] == "moderate-global"
    },
    names,
)

# %% [markdown]
# The largest class of a coreset is up to {glue:text}`c10_spread:.1f` times the
# smallest. Two remedies are here: the band in each class
# (`scope = "class"`), and class weights that count a sample of a rare class more.

# %% [markdown]
# ## How much the selectors agree
#
# Share of the row's coreset that the column's also keeps, at 10 %. By chance
# it would be 0.10.

# %%
import pandas as pd

pd.DataFrame(found["overlap"]).T.round(2)

# %% [markdown]
# ## What it takes
#
# Seconds of each command (`dedt select`, from the start of Python to the end)
# and of the scoring alone, and the peak memory of the process, on
# {glue:text}`c10_machine:s`, on {glue:text}`c10_date:s`, with other work
# running beside it.

# %%
table = pd.DataFrame(found["selections"])
table["data"] = table.ratio.map(percent)
columns = {
    "computing_seconds": "scoring, s",
    "seconds": "command, s",
    "peak_gib": "peak, GiB",
}
table = table.set_index(["selector", "data"])[list(columns)]
table.rename(columns=columns).rename_axis([None, None])

# %% [markdown]
# At most {glue:text}`c10_longest:.0f` seconds and
# {glue:text}`c10_peak:.1f` GiB, once the features are there.
#
# ## The published network runs here too
#
# Forty steps of the full-size U-Net on 160 real images, on the CPU, to see
# that the path is real: run straight through, killed and started again, and
# shared by two processes.

# %%
full = read_json(project_root() / "benchmarks" / "full_size.json")
figure, axes = plt.subplots(figsize=(7, 2.4))
axes.plot(range(1, len(full["losses"]) + 1), full["losses"], ".-")
axes.set(xlabel="step", ylabel="loss", ylim=(0, None));

# %% tags=["remove-cell"]
two = full["two_processes"]
glue(
    "fs",
    parameters=full["parameters"],
    first=float(np.mean(full["losses"][:5])),
    last=float(np.mean(full["losses"][-5:])),
    step=full["seconds_per_step"],
    resumed="the same weights bit for bit"
    if full["resumed_equals_uninterrupted"]
    else "OTHER weights than the uninterrupted run",
    two=f"{two['largest_difference_of_a_loss']:.1e}",
)

# %% [markdown]
# {glue:text}`fs_parameters:,d` parameters, {glue:text}`fs_step:.1f` seconds a
# step of eight images. The loss falls from {glue:text}`fs_first:.2f` (first
# five steps) to {glue:text}`fs_last:.2f` (last five). The run that was killed
# and started again ends with {glue:text}`fs_resumed:s`. With two processes
# (`accelerate launch`), no loss of the forty differs by more than
# {glue:text}`fs_two:s`: the sums are taken in another order, nothing else.

# %% [markdown]
# ## Try it
#
# - `dedt select --profile cifar10-cpu --ratio 0.1 --out coreset` fetches
#   CIFAR-10, trains the surrogate and writes the coreset as Parquet.
# - Add `--band nearest`: the easiest images instead of the middling ones. How
#   many of the 5,000 are the same?
# - `dedt plan table1 --profile paper` says what the paper's Table I costs.
