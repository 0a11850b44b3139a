# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Controls: do the class weights carry information?
#
# A row that does better than another may do so for a reason that nobody
# meant. This chapter takes the reasons away one by one. Each of its rows is
# a run that lacks exactly one thing: the *order* of the learned weights, the
# *seed* that learned them, the *full training* of the reference, the DRO, or
# the *short run* that a small coreset gets.

# %% tags=["parameters"]
profile = "digits5"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "compute")

# %% [markdown]
# With `compute = True` missing cells are computed here, one after the other.

# %%
from IPython.display import Markdown

from dedt_lib.book import figures, findings, tables

if compute:
    tables.compute_missing(profile, "controls")
frame = tables.read_cells(profile)

# %% [markdown]
# All comparisons of this page, named before any of them is read.

# %%
weighted = "moderate-reweighted"
nulls = [
    (weighted, "moderate"),
    (weighted, "moderate-reweighted-shuffled"),
    (weighted, "moderate-reweighted-another-seed"),
    (weighted, "moderate-reweighted-equal-steps"),
]
band = [
    ("moderate-global-reweighted", "moderate-global"),
    ("moderate-global-balanced", "moderate-global"),
    ("moderate-global-reweighted", "moderate-global-balanced"),
]
length = [
    ("random-full-length", "random"),
    ("moderate-full-length", "moderate"),
    ("random-full-length", "full"),
    ("moderate-full-length", "random-full-length"),
]
page = findings.Page(frame, [*nulls, *band, *length])
Markdown(page.summary())

# %% [markdown]
# ## The table
#
# FID: the mean over the seeds, and after ± half the width of its 95 %
# interval.

# %%
tables.layout(frame, "controls")

# %% [markdown]
# ## The answer
#
# Weights that say something about the classes have to pass two tests. They
# must come out *alike when another seed learns them*, and a run that uses
# them must be *better than one with the same weights on other classes*. The
# first test needs no training run at all.

# %%
Markdown(findings.steady_in_words(frame))

# %% [markdown]
# The second test is the shuffled null: the same ten numbers, handed to other
# classes by a permutation that the seed draws.

# %%
Markdown(page.answer(weighted, "moderate-reweighted-shuffled"))

# %% [markdown]
# And all nulls side by side. *Another seed's weights* were learned by a
# proxy, a reference and an encoder that share nothing with this run but the
# images. *Reference at equal steps* compares the proxy with a reference that
# is as young as itself, so that what is left of the excess loss is about the
# images and not about the training.

# %%
page.say(*nulls)

# %% [markdown]
# ## Balance without DRO
#
# Moderate-DS with one band for all classes keeps unequal numbers of them.
# Weights of $1/K$ for each class undo that without any learning: a sample of
# a class then weighs in inverse proportion to how often its class was kept,
# which is also what *inverse frequency* means. Is DRO better than that?

# %%
page.say(*band)

# %% [markdown]
# ## Few images or few steps?
#
# A coreset of a tenth trains for a tenth of the steps. The rows *as many
# steps as all data* take that away: the same few images, as many steps as
# the run on all of them.

# %%
page.say(*length)

# %% [markdown]
# FID on the way. A line that still falls at its right end would fall further
# with more steps; where two lines are level and apart, the images make the
# difference.

# %%
steps = tables.fid_over_steps(profile)
if len(steps):
    shown = figures.fid_over_steps(steps)
else:
    shown = Markdown("It was not measured for this profile.")
shown

# %% [markdown]
# ## Does it depend on the network that measures?
#
# FID compares features, and the features are those of a small classifier
# with a seed of its own.

# %%
Markdown(findings.networks_in_words(frame))

# %% [markdown]
# Held-out images answer another question: is a model near the images that
# nobody trained on? Here is FID against them, with what it is for the
# training images themselves.

# %%
held_out = [result.get("held_out_fid") for result in frame.result]
known = next((value for value in held_out if value), None)
if known:
    print(f"training images against held-out ones: {known:.2f}")
tables.layout(frame, "controls", "fid_held_out")

# %% [markdown]
# ## Try it
#
# - `dedt run controls --row moderate-reweighted-shuffled --ratio 0.1 --seed 0`
#   computes one cell. Which of its stages were there already?
# - The nulls shuffle ten weights. How many of the $10!$ permutations move no
#   weight by more than one place, and why does that matter for a single seed?
# - Next: [choosing from real CIFAR-10](13_cifar10).
