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
# Bars are means over the seeds, thin lines reach from the smallest to the
# largest seed, red lines are the real-against-real floor. Look first at how
# long the thin lines are: that is how much a difference has to be.

# %%
figures.figure_2(classes.before, classes.after, classes.weights, classes.names, floor)

# %% tags=["remove-cell"]
from scipy.stats import spearmanr

gain = classes.before - classes.after
rank_gain = spearmanr(classes.weights.mean(axis=0), gain.mean(axis=0)).statistic
worst = classes.before.mean(axis=0).argmax()
glue(
    "f2",
    percent=100 * ratio,
    seeds=len(classes.seeds),
    gain_all=int((gain > 0).all(axis=0).sum()),
    lose_all=int((gain < 0).all(axis=0).sum()),
    gain_mean=int((gain.mean(axis=0) > 0).sum()),
    classes=len(classes.names),
    claim=findings.heaviness_in_words(classes),
    rank_gain=float(rank_gain),
    worst=str(classes.names[worst]),
    worst_before=float(classes.before.mean(axis=0)[worst]),
    worst_after=float(classes.after.mean(axis=0)[worst]),
)

# %% [markdown]
# ## What it says
#
# At {glue:text}`f2_percent:.0f` % and over {glue:text}`f2_seeds:d` seeds,
# {glue:text}`f2_gain_mean:d` of {glue:text}`f2_classes:d` classes have a lower
# FID on average after reweighting; {glue:text}`f2_gain_all:d` of them do in
# every seed, and {glue:text}`f2_lose_all:d` have a higher one in every seed.
#
# The hardest class, {glue:text}`f2_worst:s`, goes from
# {glue:text}`f2_worst_before:.2f` to {glue:text}`f2_worst_after:.2f`.
#
# ## Heavy and easy?
#
# A circle per class. The paper's claim would put the heavy classes, above the
# horizontal line, into the left half, where the easy ones are.

# %%
figures.weight_and_difficulty(classes.weights, classes.before, classes.names)

# %% [markdown]
# *Are the heavier classes the easy ones?* {glue:text}`f2_claim:s` Between
# weight and gain the rank correlation is {glue:text}`f2_rank_gain:.2f`;
# positive means that the heavier classes gain more.

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
