# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Figure 2: class by class, before and after reweighting
#
# The paper shows the FID of each class before and after reweighting, with the
# class weights, and reads from it that the classes with the *heavier* weights
# are the ones that were easy already, and that *all* classes gain. Both can
# be checked here, over several seeds.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "ratio", "compute")

# %% [markdown]
# Two rows of Table I at one ratio; `compute = True` makes missing results.

# %%
from dedt_lib.book import figures, findings, tables

if compute:
    tables.compute_missing(profile, "figure2")
frame = tables.read_cells(profile)
classes = findings.by_class(frame, ratio)
floor = frame.result.iloc[0]["floor"]["classwise"]

# %% [markdown]
# Bars are means over the seeds, thin lines are their 95 % intervals. Red lines
# are the real images, half against half: half as many images, which makes them
# about twice too high. Look first at how long the thin lines are.

# %%
figures.figure_2(
    classes.before, classes.after, classes.weights, classes.names, floor
)

# %% tags=["remove-cell"]
from dedt_lib.evaluation import rank_correlation

gain = (classes.before - classes.after).mean(axis=0)
rank_gain, p_gain = rank_correlation(classes.weights.mean(axis=0), gain)
glue(
    "f2",
    percent=100 * ratio,
    seeds=len(classes.seeds),
    gains=findings.gains_in_words(classes),
    claim=findings.heaviness_in_words(classes),
    rank_gain=rank_gain,
    p_gain=findings.p_in_words(p_gain),
)

# %% [markdown]
# ## What it says
#
# Class by class at {glue:text}`f2_percent:.0f` %, over {glue:text}`f2_seeds:d`
# seeds: FID with weights minus without, the mean over the seeds and its 95 %
# interval (paired t test); below zero is better. A verdict takes five seeds
# and a p below 0.05 after Holm's correction for all classes.

# %%
gains = findings.class_gains(classes).drop(columns="deviation")
gains.round(3)

# %% [markdown]
# {glue:text}`f2_gains:s` The paper has all classes gain.
#
# ## Heavy and easy?
#
# A circle per class. The paper's claim would put the heavy classes, above the
# horizontal line, into the left half, where the easy ones are.

# %%
figures.weight_and_difficulty(
    classes.weights, classes.before, classes.names
)

# %% [markdown]
# *Are the heavier classes the easy ones?* {glue:text}`f2_claim:s` Between
# weight and gain the rank correlation is {glue:text}`f2_rank_gain:.2f`
# (p {glue:text}`f2_p_gain:s`); a positive one would mean that the heavier
# classes gain more. Each p is the share of all orders of the classes that give
# a correlation as large.

# %% [markdown]
# ## How steady are the weights?
#
# One line per seed. If the lines cross freely, the weights say more about the
# draw than about the classes.

# %%
figures.weights_by_seed(classes.weights, classes.names)

# %% [markdown]
# ## Try it
#
# - Set `ratio` to 0.4. Is the excess still large enough to say anything?
# - The burn-in changes the weights. Compare with the row
#   `moderate-literal-dro` at the smallest ratio.
# - Next: [what it all comes to](12_shape).
