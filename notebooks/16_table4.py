# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table IV: does a part of the data beat all of it for MDT?
#
# The paper's strongest claim is about MDT on ImageNet: a fifth of the images,
# selected by the Gaussian score and reweighted, trains a better model than all
# of them. This page asks the same of the digits. It has the paper's rows, with
# two selectors in the features of Inception-v3, and one control that the paper
# does not have: all the data, stopped after as many steps, which is the run on
# all the data at an earlier step. Every other cell is a training run of its own;
# `compute = True` computes missing ones.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "compute")

# %%
from IPython.display import Markdown

from dedt_lib.book import figures, findings, paper
from dedt_lib.book import grid, results, runs, tables

if compute:
    results.compute_missing(profile, "table4")
frame = results.read_cells(profile)
frame = frame[frame.row.isin(grid.TABLES["table4"])]
rows = [row for row in grid.TABLES["table4"] if row in set(frame.row)]

full, control = "mdt-full", "mdt-early-stopping"
best = "mdt-gaussian-reweighted"
by_fid = [
    (best, full),
    (best, control),
    (control, full),
    ("mdt-gaussian", "mdt-random"),
    (best, "mdt-gaussian"),
    ("mdt-moderate-reweighted", "mdt-moderate"),
]
by_cmmd = [(best, full), (best, "mdt-gaussian")]
page = findings.Page(
    frame,
    [*by_fid, *((*pair, "cmmd") for pair in by_cmmd)],
    profile=profile,
    added=True,
)
Markdown(page.answer(best, full))

# %% [markdown]
# ## The table: FID
#
# The mean over the seeds, and half the width of its 95 % interval; lower is
# better. *Equal steps* is the control: all the data, stopped after as many
# steps as a coreset of that size takes.
#
# The columns on the right are the paper's: **ImageNet at 256 pixels, in the
# features of Inception. They cannot be compared with the columns on the left**;
# only the order inside a column can.

# %%
fid = tables.layout(frame, "table4", published=paper.TABLE_4_FID)
runs.linked(fid, "table4")

# %%
means = frame.groupby(["ratio", "row"]).fid.mean()
ends = means.groupby(level="ratio").agg(["min", "max"]).map("{:.2f}".format)
columns = [
    f"{' to '.join(dict.fromkeys(pair))} at {tables.percent(ratio)}"
    for ratio, *pair in ends.itertuples()
]
Markdown(
    f"{findings.made_in_words(frame, 'table4', profile)} "
    + (findings.floor_in_words(frame.result.iloc[0]) if len(frame) else "")
    + f" {findings.shared_in_words(frame[frame.row.isin(page.rows)])}"
    + f" The mean FIDs of the rows are {', '.join(columns) or 'not there'}."
)

# %% [markdown]
# FID against the real images includes the error of the autoencoder, which
# [the chapter on autoencoders](14_latents.ipynb) measures alone.
#
# ## The table: CMMD
#
# FID fits a Gaussian to the features of one network. **CMMD**
# ([Jayasumana et al., 2024](https://arxiv.org/abs/2401.09603)) compares two
# sets of CLIP embeddings by a kernel, without a Gaussian. The published code
# counts the pairs of an image with itself, which biases the value upwards, the
# more so the fewer images there are. The biased value is the one to compare
# with the paper's in its order. Its size cannot be compared, because the
# embeddings here are those of a small CLIP trained on the digits. By CMMD the
# paper's own claim does not hold: its best fifth has 0.91, and all the data 0.86.

# %%
cmmd = tables.layout(frame, "table4", "cmmd", published=paper.TABLE_4_CMMD)
runs.linked(cmmd, "table4")

# %% [markdown]
# Without the bias, two samples of the same distribution have a CMMD of zero on
# average, and single values can be negative.

# %%
unbiased = tables.layout(frame, "table4", "cmmd_unbiased")
runs.linked(unbiased, "table4")

# %% [markdown]
# ## The picture
#
# Vertical bars are 95 % intervals. The dashed line is all the data at equal
# steps; a coreset above it is worse than stopping early. The horizontal line
# with its band is all the data, trained to the end.
# Points of the same ratio are moved apart so that their bars do not overlap.

# %%
figures.metrics_by_ratio(
    frame,
    [row for row in rows if row != full],
    grid.LABELS,
    {"fid": "FID (classifier features)", "cmmd": "CMMD (small CLIP)"},
    dashed=[control],
    full=full,
)

# %% [markdown]
# ## The comparisons
#
# By FID. The first three lines split the question. What a coreset gains or
# loses against all the data is the sum of *fewer steps* (the third line) and
# *fewer images* (the second line). The last three lines ask whether the
# selector and the class weights help.

# %%
runs.linked(page.shown(*by_fid), "table4")

# %% [markdown]
# By CMMD, the claim itself and the class weights:

# %%
runs.linked(page.shown(*by_cmmd, value="cmmd"), "table4")

# %%
Markdown(page.summary())

# %% [markdown]
# ## Are the rows in the paper's order?
#
# One line per row, from its rank in the paper to its rank here, by FID. Two
# lines that cross are two rows whose order differs. Like the comparisons above,
# these orders were chosen after the results had been read.

# %%
order = findings.same_order(frame, paper.TABLE_4_FID)
if len(order):
    shown = figures.rank_slopes(order, grid.LABELS)
else:
    shown = Markdown("No results yet.")
shown

# %%
published = {"fid": paper.TABLE_4_FID, "cmmd": paper.TABLE_4_CMMD}
by_fid_and_cmmd = {
    tables.metric(value).label: findings.order_in_words(
        frame, theirs, value, family=published, added=True
    )
    for value, theirs in published.items()
}
Markdown("\n".join(f"- By {by}: {a}" for by, a in by_fid_and_cmmd.items()))

# %% [markdown]
# ## What follows
#
# A tenth of ImageNet is also a tenth of the steps, and the paper has no row that
# separates the two. The third line of the comparisons does: it is what stopping
# early costs with all the images available. Only the second line measures the
# images.

# %%
by_steps = {
    "better": "fewer steps alone lower FID",
    "worse": "fewer steps alone raise FID",
    "inconclusive": "no effect of fewer steps is shown",
}
by_images = {
    "better": "the chosen images beat all of them at equal steps",
    "worse": "the chosen images lose to all of them at equal steps",
    "inconclusive": "the chosen images and all of them are not told apart",
}
said = [
    findings.concluded(page, control, full, by_steps),
    findings.concluded(page, best, control, by_images),
]
Markdown(f"- **Steps.** {said[0]}\n- **Images.** {said[1]}")

# %% [markdown]
# A column is of interest where its models are good. The next cell divides the
# mean FID of the control by that of all the data.

# %%
factors = means.unstack("ratio").reindex([control, full])
factors = factors.loc[control] / factors.loc[full].mean()
listed = ", ".join(
    f"{factor:.1f} at {tables.percent(ratio)}"
    for ratio, factor in factors.dropna().items()
)
Markdown(f"The factor is {listed or 'not there yet'}.")

# %% [markdown]
# The larger the factor, the more the differences in a column are differences
# between poor models, which had too few steps.
# Images of 8 pixels, 16 tokens and a network of 4 blocks are far from ImageNet.
# Each seed trains its own feature extractor, so the intervals include how much
# the choice of the images varies.
#
# FID and CMMD need not agree. They use different features, and FID follows the
# covariance while CMMD follows the whole distribution. A claim that holds by
# only one of them is a claim about that metric.
#
# ## What did the class weights do?
#
# The table reads the proxies. The effective number of classes is $K$ for uniform
# weights. Lightest and heaviest are class weights times $K$. The clipped share is
# the share of samples whose excess loss was set to zero.

# %%
proxies = findings.proxies(frame).groupby(["row", "ratio"]).mean().round(3)
tables.named(proxies, rows)

# %% [markdown]
# The proxy of MDT is short ([class weights](15c_many_classes.ipynb)). Where
# almost nothing is clipped, it was worse than the reference on nearly every
# sample. Its class weights then measure how far a network has come in the middle
# of its training.
#
# ## Fidelity or variety?
#
# **Precision** is the share of samples that lie among the real images, and
# **recall** is the share of real images that lie among the samples. **KID** is
# an unbiased relative of FID. Means with half the width of their 95 % intervals;
# a low KID, a high precision and a high recall are good. A row can gain
# precision by losing recall.

# %%
more = tables.metrics(frame, rows, ["kid", "precision", "recall"])
runs.linked(more, rows)

# %% [markdown]
# ## What does it cost?
#
# The table says how many times as fast the final training alone is as training on
# all the data, as the paper counts.

# %%
coresets = [row for row in rows if row not in (full, control)]
tables.speedups(frame, coresets, full=full).round(2)

# %% [markdown]
# The whole recipe, with the reference and the proxy, by evaluations of diffusion
# networks, which are the same on every machine. **Below one means more work than
# training on all the data.** The proxy is short, but the reference is a whole
# run on all the data. The rows were made on different days, so their times
# compare less well than their evaluations.

# %%
tables.whole_speedups(frame, coresets, full=full)

# %% [markdown]
# ## Does the model copy its few images?
#
# Near-copies in per cent of the samples ([Evaluate](07_evaluate.ipynb) defines
# a near-copy).

# %%
frame = frame.assign(copies_percent=100 * frame.copies.astype(float))
copies = tables.layout(frame, "table4", "copies_percent")
runs.linked(copies, "table4")

# %% [markdown]
# ## The runs behind this page
#
# A number of a table leads to its line here, and the figures and sentences were
# made from the same runs. A line has the FID of each seed, the commit of the
# code, where it was noted, and the command that computes the cell of the first
# seed.

# %%
runs.behind(frame, "table4")

# %% [markdown]
# ## In short
#
# The claim that a part beats the whole is a difference to the run on all the
# data, and it has two sources, steps and images. The control at equal steps
# separates them, by FID and by CMMD. Class weights need a comparison with the
# same coreset without weights, and their reference costs as much as the run on
# all the data that they are meant to replace.
#
# ## Try it
#
# - Would you choose the same coreset by FID and by CMMD?
#   ([Solution](solutions_latent.ipynb#Table-IV))
# - By how much does pairing each image with itself raise the biased CMMD of $n$
#   images? ([Solution](solutions_latent.ipynb#Table-IV))
# - Next: [fine-tuning Stable Diffusion](17_stable_diffusion.ipynb).
