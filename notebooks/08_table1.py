# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table I: which coreset, and does reweighting help?
#
# The six rows of the paper's Table I, in its order, and below them rows that
# it does not have: other readings of the same method, and all the data at
# equal steps. Every cell is a training run of its own; the runs are made by
# the grid (`make tables`), and this chapter only reads their results.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "compute")

# %% [markdown]
# With `compute = True` missing cells are computed here, one after the other.

# %%
from dedt_lib.book import figures, findings, paper, tables

if compute:
    tables.compute_missing(profile, "table1")
frame = tables.read_cells(profile)

# %% [markdown]
# All comparisons that this page makes, named once, so that none of them can
# be picked afterwards.

# %%
blindly = [(row, "random") for row in paper.TABLE_1 if row != "random"]
choices = [
    ("moderate", "gaussian"),
    ("inceptionv3-gaussian", "gaussian"),
    ("moderate", "ddae-moderate"),
    ("moderate", "clip-moderate"),
    ("moderate-reweighted", "moderate"),
    ("moderate-global", "moderate"),
    ("moderate-class", "moderate"),
]
stopping = [
    (row, "early-stopping")
    for row in ("random", "moderate", "moderate-reweighted")
]
page = findings.Page(frame, [*blindly, *choices, *stopping])

# %% tags=["remove-cell"]
made = findings.made(frame, "table1", profile)
full = frame[frame.row == "full"]
glue("t1", **made, full=float(full.fid.mean()), paper_full=paper.FULL, summary=page.summary())

# %% [markdown]
# ## The table
#
# FID by share of the images kept: the mean over {glue:text}`t1_seeds:d` seeds,
# and after ± half the width of its 95 % interval (Student's t). Read down a
# column; lower is better. A row names its encoder, then its selector.
#
# The columns on the right are the paper's own numbers: **CIFAR-10, in the
# features of Inception, after two thousand epochs. They cannot be compared
# with those on the left**; only the order inside a column can.

# %%
theirs = tables.layout(frame, "table1", published=paper.TABLE_1)
theirs.columns = [c.replace("paper", "CIFAR-10") for c in theirs.columns]
in_paper = [tables.LABELS[row] for row in paper.TABLE_1]
theirs = theirs[theirs.index.isin(in_paper)]
theirs = theirs.rename(index={in_paper[-1]: "the same + reweighting"})
theirs[[column for column in theirs if "100 %" not in column]]

# %% [markdown]
# And the rows that the paper does not have. *One band* is Moderate-DS as the
# cited code has it, *literal DRO* the reweighting to the letter (both below);
# *equal steps* is the control for pruning itself: all the data, but training
# stops after as many steps as a coreset of that size takes. (The paper has
# {glue:text}`t1_paper_full:.2f` for all the data.)

# %%
table = tables.layout(frame, "table1")
table[~table.index.isin(in_paper)]

# %% [markdown]
# {glue:text}`t1_real:s`
# {glue:text}`t1_cells:d` runs{glue:text}`t1_missing:s`, made on
# {glue:text}`t1_dates:s` on {glue:text}`t1_machine:s` with PyTorch
# {glue:text}`t1_torch:s`.

# %% [markdown]
# ## The same as a picture
#
# Bars are 95 % intervals of the means. Look at the distance between the lines
# beside the length of the bars, and at the dashed line: all the data, equal
# steps. The band is all the data; the dotted line is two halves of the real
# images, which are half as many images, and so lies about twice too high.

# %%
rows = [row for row in paper.TABLE_1 if row in set(frame.row)]
figures.fid_by_ratio(
    frame,
    [*rows, "early-stopping"],
    tables.LABELS,
    dashed=["early-stopping"],
    floor=made["floor"],
    full="full",
)

# %% [markdown]
# ## What it says
#
# The sentences below are made from the results. {glue:text}`t1_summary:s`
#
# First the encoders and the selectors, each against drawing blindly.

# %%
page.say(*blindly)

# %% [markdown]
# Then one choice at a time: the selector with the same encoder, the encoder
# with the same selector, the weights, and the band.

# %%
page.say(*choices)

# %% [markdown]
# And against the same number of steps on all the data.

# %%
page.say(*stopping)

# %% tags=["remove-cell"]
glue(
    "t1",
    says_select=page.words("moderate", "random"),
    says_reweight=page.words("moderate-reweighted", "moderate"),
    says_early=page.words("moderate-reweighted", "early-stopping"),
)

# %% [markdown]
# ## The order of the rows
#
# Only the *order* inside a column can be compared with the paper's. Ranks
# among the rows that are there, one is best:

# %%
import pandas as pd

numbers = pd.DataFrame(paper.TABLE_1, index=paper.RATIOS).T.loc[rows]
ours = frame.pivot_table(index="row", columns="ratio", values="fid")
ours = ours.loc[rows, [r for r in numbers if r in ours.columns]]
common = ours.dropna().index
ranks = {
    "paper": numbers.loc[common, ours.columns].rank().astype(int),
    "here": ours.loc[common].rank().astype(int),
}
beside = pd.concat(ranks, axis=1).rename(index=tables.LABELS)
beside.columns = [f"{who}, {tables.percent(r)}" for who, r in beside.columns]
beside.rename_axis(None)

# %% tags=["remove-cell"]
glue("t1", order=findings.order_in_words(frame, paper.TABLE_1))

# %% [markdown]
# *Are they in the paper's order?* {glue:text}`t1_order:s`
#
# Where the two disagree, four differences may matter, and none of them has
# been tested here. Digits are few and plain beside the images of CIFAR-10. A
# coreset run here takes a thousand steps, there tens of thousands. The
# paper's Inception and CLIP had seen millions of other images, ours only
# these digits (chapter [Embed](02_embed)). And a band around the median
# distance leaves out the odd images, which FID against *all* the images asks
# for.
#
# ## Two readings of the reweighting
#
# At the smallest ratio both readings of chapter [Reweight](04_reweight) were
# run to the end: with a burn-in, and to the letter. Means with their 95 %
# intervals.

# %%
readings = ["moderate", "moderate-reweighted", "moderate-literal-dro"]
smallest = frame.ratio.min()
both = frame[frame.row.isin(readings) & (frame.ratio == smallest)]
tables.metrics(both, readings, ["fid", "worst"])

# %% [markdown]
# ## Does the model copy its few images?
#
# Near-copies, in per cent of the samples (chapter
# [Evaluate](07_evaluate) says how they are counted).

# %%
frame["copies_percent"] = 100 * frame.copies.astype(float)
tables.layout(frame, value="copies_percent")

# %% [markdown]
# ## Try it
#
# - `dedt cells --table table1` prints the command of every cell. Run one with
#   `--store` and an empty folder, so that it is computed and not looked up:
#   does `git diff results` show another number?
# - The dashed line asks the question that decides: is pruning better than
#   stopping early? At which ratio would you change your mind?
# - Next: [all the data at the end](09_table2).
