# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Claims of the paper: which are found here?
#
# This page puts the paper's main comparisons beside those of this book, on
# scikit-learn's digits and on photographs, with the cost and the limits. The
# pages of the tables have the rest. `compute = True` computes missing results
# of Tables I to III.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "compute")

# %%
from IPython.display import Markdown

from dedt_lib.book import claims, figures, findings, paper
from dedt_lib.book import grid, results, runs, tables
from dedt_lib.files import project_root

shown = ("table1", "table2", "table3")
if compute:
    for table in shown:
        results.compute_missing(profile, table)
everything = frame = results.read_cells(profile)
rows = {row for table in shown for row in grid.TABLES[table]}
frame = frame[frame.row.isin(rows)]

ours, annealed = "moderate-reweighted", "moderate-reweighted-annealed"
pairs = {
    "the recipe - random": (ours, "random"),
    "the recipe - equal steps": (ours, "early-stopping"),
    "selection alone": ("moderate", "random"),
    "reweighting alone": (ours, "moderate"),
    "annealed - equal steps": (annealed, "early-stopping-annealed"),
}
page = findings.Page(frame, pairs.values(), profile=profile)
Markdown(f"""
Is the recipe better than a coreset drawn uniformly at random?
{page.answer(ours, "random")}

Is it better than all the data, stopped after as many steps?
{page.answer(ours, "early-stopping")}
""")

# %% [markdown]
# ## The paper's comparisons
#
# Absolute FIDs of the digits, of CIFAR-10 in a latent space, and of the paper
# cannot be compared, because each is measured in other features. A *change* of
# FID can: 50 % more is half as much again, whatever the scale. The table has the
# change of the geometric mean over the seeds, with the 95 % interval of the
# paired *t* test on logarithms, without correction. Below zero is better. The
# paper has one run of each, so no interval. The last rows are the controls that
# the paper lacks.
#
# On CIFAR-10, EfficientNet-Lite0 stands for CLIP and Inception, and InfoBatch
# keeps to the budget. All extractors of the digits were trained on the digits.
# Verdicts are on the pages of the tables, each with its own correction: this
# table was made after the results.

# %%
photographs = results.read_cells(
    "cifar10-latent", root=project_root() / "results"
)
frames = {"digits": everything, "CIFAR-10": photographs}
changed = claims.changes(frames)
claims.shown(changed)

# %% [markdown]
# The same as a picture. A point of the digits or of CIFAR-10 agrees with the
# paper where it lies on the same side of the vertical line.

# %%
figures.changes(changed)

# %%
Markdown(claims.agreement_in_words(changed))

# %% [markdown]
# ## The comparisons of Tables I to III, on the digits
#
# The first two lines are the questions above. The next two split the recipe
# into its steps. The last line asks the second question of the annealed
# recipe of [Table II](09_table2.ipynb).

# %%
runs.linked(page.shown(), page.rows)

# %%
made = findings.shared_in_words(frame[frame.row.isin(page.rows)])
Markdown(f"{page.summary()} {made}")

# %% [markdown]
# The same as a picture. Lines are 95 % intervals, without correction.

# %%
figures.differences(
    {name: page.compare(*pair) for name, pair in pairs.items()}
)

# %% [markdown]
# ## Are the rows in the paper's order?
#
# One line per row, from its rank in the paper to its rank here. Two lines that
# cross are two rows whose order differs.

# %%
order = findings.same_order(frame, paper.TABLE_1)
if len(order):
    shown = figures.rank_slopes(order, grid.LABELS)
else:
    shown = Markdown("No results yet.")
shown

# %%
Markdown(findings.order_in_words(frame, paper.TABLE_1))

# %% [markdown]
# ## Which classes gain?
#
# At the smallest ratio; [Figure 2](11_figure2.ipynb) shows all classes. The
# paper claims that all classes gain, and that the heavier classes are the easy
# ones.

# %%
smallest = float(frame.ratio.min())
classes = findings.by_class(frame, smallest)
Markdown(
    f"{findings.gains_in_words(classes)}\n\n"
    "Are the heavier classes the easy ones? "
    f"{findings.heaviness_in_words(classes)}"
)

# %% [markdown]
# ## What does the whole recipe cost?
#
# One run on all the data over the recipe, in network evaluations, at the
# smallest ratio: the final training alone, and with reference and proxy. Below
# one means more work. [Table III](10_table3.ipynb) has all ratios.

# %%
import pandas as pd

recipes = [r for r in ("moderate", ours, annealed) if r in set(frame.row)]
few = frame[frame.ratio.isin([smallest, 1.0])]
cost = {
    name: tables.speedups(few, recipes, whole=whole)["network evaluations"]
    for name, whole in {"training": False, "whole recipe": True}.items()
}
pd.DataFrame(cost).round(2)

# %% [markdown]
# ## Does the model copy its few images?
#
# A near-copy is a sample that is nearer to a training image than 99 % of the
# held-out images are ([Evaluate](07_evaluate.ipynb)). The measure has a blind
# spot: with few training images there are few to be near to.

# %%
Markdown(findings.copies_in_words(frame))

# %% [markdown]
# ## How far this goes
#
# All of the above is about small images, small networks and short runs. On the
# digits:

# %%
from dedt_lib.experiment import Experiment

experiment = Experiment(profile)
data, side = experiment.data, experiment.profile.data.image_size
each = smallest * len(data) / len(data.class_names)
weights = sum(p.numel() for p in experiment.build_model().parameters())
Markdown(f"""
The training set has {len(data)} images of {side} × {side} pixels. A coreset
of {tables.percent(smallest)} holds about {each:.0f} images of a class. The
U-Net has {weights / 1000:.0f} thousand weights and takes
{experiment.steps_at(smallest)} steps on that coreset.
""")

# %% [markdown]
# - **The images.** A coreset of a tenth of CIFAR-10 holds 500 photographs of a
#   class, and one of the 10,000 images of the profile `cifar10-latent` holds 100.
# - **The network.** A network for CIFAR-10 has tens of millions of weights, and
#   the paper trains it for 2000 epochs.
# - **The feature extractors.** All four were trained on these digits. The
#   paper's claims about extractors that were trained on other, larger image
#   sets are not tested.
# - **The metric.** FID is measured in the features of a small classifier of
#   digits. It asks for atypical digits as well as for typical ones, so a
#   selector that excludes the atypical ones may be penalised.
# - **The seeds.** With five seeds or more the summary under the table says which
#   differences they can detect; with fewer the page makes no verdict. Smaller
#   differences may exist.
# - **The settings.** All rows share one guidance scale, one learning rate and
#   one step size of group DRO. Other settings may change the order of the rows.
#
# ## What follows
#
# An interval that contains zero says nothing about whether a claim holds, and
# one that excludes it speaks of these images, networks and lengths. Whether a
# claim holds on all of CIFAR-10 takes the paper's own sizes, which the profiles
# `short` and `paper` contain. What transfers is the method of asking: paired
# seeds, a control at equal steps, and the whole cost beside the speed-up of the
# final training. *Worse* than equal steps is a question of this book: the paper
# has no such control.

# %% [markdown]
# ## The runs behind this page
#
# A number of a table leads to its line here, and the figures and sentences were
# made from the same runs. A line has the FID of each seed, the commit of the
# code, where it was noted, and the command that computes the cell of the first
# seed.

# %%
runs.behind(frame, page.rows)

# %% [markdown]
# ## In short
#
# The recipe has to pass two tests, against a random coreset and against
# stopping early, and the second decides whether pruning is useful. Its steps
# are tested separately, because a gain of one can hide a loss of the other. The
# cost of the reference on all the data belongs to the recipe, so a speed-up of
# the final training alone overstates it.
#
# ## Try it
#
# - Do the differences of selection and reweighting add up to that of the
#   recipe? Do their intervals? ([Solution](solutions_results.ipynb#Claims-of-the-paper))
# - How many seeds would halve the width of the intervals of five seeds?
#   ([Solution](solutions_results.ipynb#Claims-of-the-paper))
# - Next: [do the class weights carry information?](20_controls.ipynb).
