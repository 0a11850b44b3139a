# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Figure 2: which classes does reweighting help?
#
# The paper's Figure 2 shows the FID of each class before and after reweighting,
# together with the class weights. The paper reads two claims from it: *all*
# classes gain, and the *heavier* classes are those that were easy before. This
# page checks both over five seeds. It compares two rows of Table I at one
# `ratio`; `compute = True` computes missing results.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "compute")

# %%
from IPython.display import Markdown

from dedt_lib.book import figures, findings, results, runs

if compute:
    results.compute_missing(profile, "figure2")
frame = results.read_cells(profile)
classes = findings.by_class(frame, ratio)
Markdown(findings.gains_in_words(classes))

# %% [markdown]
# ## The table
#
# Class-wise FID with class weights minus without: the mean over the seeds and
# its 95 % interval (paired t test). Below zero is better. A verdict takes five
# seeds and a p below 0.05 after Holm's correction for all classes.

# %%
after_holm = {"p_holm": "p (Holm)"}
gains = findings.class_gains(classes).drop(columns="deviation")
gains.rename(columns=after_holm).round(3)

# %% [markdown]
# The same by KID, the squared distance between the means of the two sets under
# a cubic kernel of the same features. It needs no covariance, which the samples
# of one class estimate poorly. This table was added after results had been
# read, so it gives no verdicts.

# %%
by_kernel = findings.by_class(frame, ratio, "kid_classwise")
if by_kernel:
    of_kernel = findings.class_gains(by_kernel)
    of_kernel = of_kernel.drop(columns=["deviation", "verdict"])
    shown = of_kernel.rename(columns=after_holm).round(3)
else:
    shown = Markdown("KID of each class was not measured for this profile.")
shown

# %% [markdown]
# ## The picture
#
# Bars are means over the seeds, and thin lines are their 95 % intervals. Red
# lines are the real-vs-real FID of a class. It compares two halves of the real
# images, which are half as many, and is therefore about twice as high. A thin
# line is the interval of one mean by itself; whether two bars differ is in the
# table above, whose intervals are paired.

# %%
if classes:
    floor = frame.result.iloc[0]["floor"]["classwise"]
    shown = figures.figure_2(
        classes.before, classes.after, classes.weights, classes.names, floor
    )
else:
    shown = Markdown("No results yet.")
shown

# %% [markdown]
# ## Are the heavier classes the easy ones?
#
# The figure has one circle per class. The vertical line is the median
# class-wise FID before reweighting, and the horizontal line is the uniform
# weight $1/K$. The paper's claim would put the heavy classes, above the
# horizontal line, into the left half.

# %%
if classes:
    shown = figures.weight_and_difficulty(
        classes.weights, classes.before, classes.names
    )
shown

# %%
Markdown(findings.heaviness_in_words(classes))

# %% [markdown]
# A second correlation asks whether weight buys quality: do the classes with the
# larger weights have the larger gains? Its p, like that of the first, is
# two-sided: how often 99,999 random orders of the classes have a correlation at
# least as far from zero.

# %%
from dedt_lib.evaluation import rank_correlation

rank, p = float("nan"), 1.0
if classes:
    gain = (classes.before - classes.after).mean(axis=0)
    rank, p = rank_correlation(classes.weights.mean(axis=0), gain)
Markdown(
    "The rank correlation between class weight and gain is "
    f"{rank:.2f} (p {findings.p_in_words(p)}). A positive one would mean "
    "that the heavier classes gain more."
)

# %% [markdown]
# ## Do the seeds agree on the weights?
#
# The figure has one marker per seed. Where the markers of a class lie close
# together, it has nearly the same weight with every seed. Seeds may differ in
# many classes and still share an order; Kendall's W below the figure measures
# how far they do.

# %%
if classes:
    shown = figures.weights_by_seed(
        classes.weights, classes.names, classes.seeds
    )
shown

# %%
Markdown(findings.steady_in_words(frame[frame.ratio == ratio]))

# %% [markdown]
# The table has what moved the weights: the mean excess loss of each seed's proxy
# after the burn-in.

# %%
learned = frame[(frame.row == "moderate-reweighted") & (frame.ratio == ratio)]
findings.proxies(learned).droplevel(["row", "ratio"]).round(3)

# %% [markdown]
# ## What follows
#
# A class weight has a purpose only if it is stable from seed to seed and if the
# class with the larger weight gains. A mean FID can fall while single classes
# get worse, because group DRO moves weight between classes. The
# class-wise FID is noisy, because only the samples of one class estimate its
# covariance. A claim such as "all classes gain" therefore needs a test per
# class, over several seeds. The paper's two claims, so tested:

# %%
Markdown(findings.claims_in_words(classes))

# %% [markdown]
# ## The runs behind this page
#
# A number of a table leads to its line here, and the figures and sentences were
# made from the same runs. A line has the FID of each seed, the commit of the
# code, where it was noted, and the command that computes the cell of the first
# seed.

# %%
runs.behind(frame, "figure2")

# %% [markdown]
# ## In short
#
# The paper's two claims about classes are tests over classes and seeds, and not
# a reading of one bar chart. The first cell says for how many classes
# reweighting helps, after correction for testing all of them. The weights
# themselves need the same scrutiny, since a weight that changes with the seed
# says little about a class.
#
# ## Try it
#
# - Set `ratio` to 0.4. Is the excess loss still large enough to move the
#   weights away from $1/K$? ([Solution](solutions_results.ipynb#Figure-2))
# - Suppose reweighting did nothing. How often would at least one of ten classes
#   seem to change, at a level of 0.05? ([Solution](solutions_results.ipynb#Figure-2))
# - Next: [which of the paper's claims are found here](12_shape.ipynb).
