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
# A row can beat another for a reason that has nothing to do with its method.
# Each row of this page removes one possible reason, or a few that belong
# together: the *order* of the learned weights, the *seed* that learned them,
# the *full training* of the reference, group DRO itself, or the *short
# training* of a small coreset. The decisive control is the shuffled null: the
# same $K$ weights, assigned to other classes by a random permutation. `compute
# = True` computes missing cells.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "compute")

# %%
from IPython.display import Markdown

from dedt_lib.book import figures, findings, grid, results, runs, tables

if compute:
    results.compute_missing(profile, "controls")
frame = results.read_cells(profile)

weighted = "moderate-reweighted"
nulls = [
    (weighted, "moderate"),
    (weighted, "moderate-reweighted-shuffled"),
    (weighted, "moderate-reweighted-another-seed"),
    (weighted, "moderate-reweighted-equal-steps"),
]
band = [
    ("moderate-global-balanced", "moderate-global"),
    ("moderate-global-reweighted", "moderate-global-balanced"),
]
length = [
    ("random-full-length", "random"),
    ("random-full-length", "full"),
]
pairs = [*nulls, *band, *length]
restored = [("moderate-full-length", "random-full-length")]
page = findings.Page(frame, pairs, profile=profile)
Markdown(
    f"{page.answer(weighted, 'moderate-reweighted-shuffled')} "
    f"{findings.information_in_words(frame, page, 0.1)}"
)

# %% [markdown]
# ## The table
#
# FID: the mean over the seeds, and after ± half the width of its 95 %
# interval.

# %%
runs.linked(tables.layout(frame, "controls"), "controls")

# %% [markdown]
# ## Do the seeds learn the same weights?
#
# Weights that describe the classes have to pass two tests. Two seeds must learn
# *similar weights*, and a model trained with them must be *better than one with
# the same weights on other classes*. The first test needs no training run.

# %%
Markdown(findings.steady_in_words(frame))

# %% [markdown]
# ## Do the weights help?
#
# The second test is the second line below. The other lines are three more
# comparisons of the learned weights. *Another seed's weights* were learned by a
# proxy, a reference and a feature extractor that share nothing with this run
# but the images. Seed $s$ takes those of seed $s+1$, so a vector of weights can
# stand in two of the differences, with opposite signs: one unusual vector
# widens the interval.
# *Reference at equal steps* compares the proxy with a reference after the same
# number of steps, so that the excess loss measures the images and not the
# length of training.

# %%
runs.linked(page.shown(*nulls), "controls")

# %% [markdown]
# The same as a picture. Lines are 95 % intervals, without correction.

# %%
figures.differences(
    {grid.LABELS[row]: page.compare(weighted, row) for _, row in nulls}
)

# %%
made = findings.shared_in_words(frame[frame.row.isin(page.rows)])
Markdown(f"{page.summary()} {made}")

# %% [markdown]
# ## Is group DRO better than balance?
#
# Moderate-DS with one band for all classes keeps unequal numbers of them.
# Equal class weights $1/K$ undo the imbalance without any learning: a sample
# then has a weight inversely proportional to the frequency of its class in the
# coreset. The first line asks whether balance helps, and the second whether
# group DRO adds anything to it.

# %%
runs.linked(page.shown(*band), "controls")

# %% [markdown]
# ## Few images or few steps?
#
# A coreset of a tenth trains for a tenth of the steps. The row *as many steps
# as all data* removes that: the same few images, trained for as many steps as
# all the data. The first line is the gain from the additional steps. The second
# line is what the missing images cost.

# %%
runs.linked(page.shown(*length), "controls")

# %% [markdown]
# Does selection help where steps are not short? The comparison below tests
# that: Moderate-DS and a random coreset, both with as many steps as all the
# data. It stood in the first version of this page, of 28 November 2026, and was
# dropped with two others on the same day, before it had any results. It was
# added again after the results had been read, so it gets no verdict, and Holm's
# correction for the others stays as it was.

# %%
alone = findings.Page(frame, restored, added=True)
runs.linked(alone.shown(), "controls")

# %% [markdown]
# FID during training, where it was measured. A line that still falls at its
# right end would fall further with more steps, and one that rises has passed
# its best. Where two lines are apart at the same number of steps, the images
# make the difference.

# %%
steps = results.fid_over_steps(profile)
if len(steps):
    shown = figures.fid_over_steps(steps)
else:
    shown = Markdown("FID during training was not measured for this profile.")
shown

# %%
Markdown(findings.steps_in_words(steps) or "There is nothing to say of it.")

# %% [markdown]
# ## Does the result depend on the feature network, or on the metric?
#
# FID compares features, and the features are those of a small classifier with a
# seed of its own. Rows that differ much are in the same order with any network, so
# this is about the learned weights and their nulls alone.

# %%
shuffled = "moderate-reweighted-shuffled"
alike = frame[frame.row.isin({row for pair in nulls for row in pair})]
Markdown(findings.networks_in_words(alike, weighted, shuffled))

# %% [markdown]
# The comparisons of this page by KID, and below by FID to held-out images. They
# were added after the results had been read, so they get no verdict.

# %%
values = ("kid", "fid_held_out")
others = [
    (*pair, value) for value in values for pair in [*pairs, *restored]
]
others = findings.Page(frame, others, added=True)
runs.linked(others.shown(value="kid"), "controls")

# %%
runs.linked(others.shown(value="fid_held_out"), "controls")

# %% [markdown]
# FID against the training images rewards a model that reproduces them. FID
# against held-out images does not.

# %%
known = [
    result["held_out_fid"]
    for result in frame.result
    if result.get("held_out_fid") is not None
]
of_real = f"{known[0]:.2f}" if known else "not measured for this profile"
Markdown(
    "The FID of the training images themselves against the held-out ones: "
    f"{of_real}. The table has the same for the models' samples."
)

# %%
held_out = tables.layout(frame, "controls", "fid_held_out")
runs.linked(held_out, "controls")

# %% [markdown]
# ## What follows
#
# The method needs weights that are better than shuffled ones and, within a
# stated interval, as good as another seed's. A gain over balance matters only
# for a coreset that is unbalanced. What was found:

# %%
meaning = {
    (weighted, shuffled): {
        "better": "what group DRO learned about the classes helps",
        "worse": "what group DRO learned about the classes harms",
        "inconclusive": "nothing shows that what group DRO learned matters",
    },
    band[1]: {
        "better": "group DRO is better than balance",
        "worse": "group DRO is worse than balance",
        "inconclusive": "nothing shows that group DRO adds to balance",
    },
    length[0]: {
        "better": "a random coreset gains from more steps",
        "worse": "a random coreset loses by more steps",
        "inconclusive": "nothing shows that more steps help",
    },
    restored[0]: {
        "better": "with enough steps, selection beats a random coreset",
        "worse": "with enough steps, selection loses to a random coreset",
        "inconclusive": "with enough steps, no gain by selection is shown",
    },
}
told = [
    findings.concluded(alone if pair in restored else page, *pair, said)
    for pair, said in meaning.items()
]
Markdown("\n".join(f"- {line}" for line in told))

# %% [markdown]
# Each of these statements is about weights near those of this profile: weights
# close to $1/K$ leave any null little to change.

# %% [markdown]
# ## The runs behind this page
#
# A number of a table leads to its line here, and the figures and sentences were
# made from the same runs. A line has the FID of each seed, the commit of the
# code, where it was noted, and the command that computes the cell of the first
# seed.

# %%
runs.behind(frame, "controls")

# %% [markdown]
# ## In short
#
# The shuffled null keeps the weights and destroys their meaning, so it
# separates information from imbalance. Kendall's W says how far the seeds agree
# on the order of the classes, at no cost. Full-length training and other metrics
# test two further explanations, too few steps and the choice of the metric.
#
# ## Try it
#
# - The nulls shuffle ten weights. How many of the $10!$ permutations move no
#   weight by more than one place, and why does that matter for a single seed?
#   ([Solution](solutions_results.ipynb#Controls))
# - Which Kendall's W do seeds have that agree on nothing?
#   ([Solution](solutions_results.ipynb#Controls))
# - Next: [choosing from real CIFAR-10](13_cifar10.ipynb).
