# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table IV: pruning for MDT
#
# The paper's most striking claim: of ImageNet, a fifth, well chosen and
# reweighted, trains a better MDT than all of it. Here are the same rows on the
# digits: two selectors in the features of Inception-v3, each with and without
# class weights, beside a blind draw, and two controls. Every cell is a training
# run of its own; the runs are made by the grid, and this chapter only reads
# their results.

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
    tables.compute_missing(profile, "table4")
frame = tables.read_cells(profile)
frame = frame[frame.row.isin(tables.TABLES["table4"])]
rows = [row for row in tables.TABLES["table4"] if row in set(frame.row)]

# %% [markdown]
# All comparisons that this page makes, named once; each of them by FID and by
# CMMD.

# %%
full, control = "mdt-full", "mdt-early-stopping"
controls = [control, full]
coresets = [row for row in tables.TABLES["table4"] if row not in controls]
selectors = [
    ("mdt-gaussian", "mdt-random"),
    ("mdt-moderate", "mdt-random"),
    ("mdt-gaussian", "mdt-moderate"),
]
reweighted = [
    (f"mdt-{selector}-reweighted", f"mdt-{selector}")
    for selector in ("gaussian", "moderate")
]
against_control = [(row, control) for row in coresets]
against_full = [(row, full) for row in (*coresets, control)]
pairs = [*selectors, *reweighted, *against_control, *against_full]
both = [(*pair, value) for pair in pairs for value in ("fid", "cmmd")]
page = findings.Page(frame, both)

# %% tags=["remove-cell"]
made = findings.made(frame, "table4", profile)
bias = float((frame.cmmd - frame.cmmd_unbiased).astype(float).mean())
glue("t4", **made, bias=bias, summary=page.summary())

# %% [markdown]
# ## FID
#
# The mean over {glue:text}`t4_seeds:d` seeds, and half the width of its 95 %
# interval; read down a column, lower is better. *Equal steps* is the control for
# pruning itself: all the data, stopped after as many steps as a coreset of that
# size takes.
#
# The columns on the right are the paper's: **ImageNet at 256 pixels, in the
# features of Inception. They cannot be compared with those on the left**; only
# the order inside a column can.

# %%
def table(value, published=None, **how):
    made = tables.layout(frame, "table4", value, published=published, **how)
    made.columns = [c.replace("paper", "ImageNet") for c in made.columns]
    return made


table("fid", paper.TABLE_4_FID)

# %% [markdown]
# {glue:text}`t4_real:s` What the autoencoder alone costs is in
# [Into latent space](14_latents).
# {glue:text}`t4_cells:d` runs{glue:text}`t4_missing:s`, made on
# {glue:text}`t4_dates:s`.
#
# ## CMMD
#
# FID fits a Gaussian and trusts the Inception features. **CMMD**
# {cite:p}`jayasumana2024rethinking` does neither: it compares the two sets of
# CLIP embeddings by a kernel. The published code counts the pairs of an image
# with itself, which makes the value too large, the more so the fewer images
# there are. That biased value is the one to lay beside the paper's: beside it by
# meaning, not by size, for the embeddings here are those of the small CLIP that
# was trained on the digits.

# %%
table("cmmd", paper.TABLE_4_CMMD, digits=4)

# %% [markdown]
# The bias here is {glue:text}`t4_bias:.4f`. Without it, two sets from the same
# source would have zero on average, and may have less.

# %%
table("cmmd_unbiased", digits=4)

# %% [markdown]
# ## Both as a picture
#
# Bars are 95 % intervals. Look for the dashed line, all the data at equal steps:
# a row above it would have been beaten by simply stopping early. The level line
# and its band are all the data to the end.

# %%
figures.metrics_by_ratio(
    frame,
    [row for row in rows if row != "mdt-full"],
    tables.LABELS,
    {"fid": "FID (classifier features)", "cmmd": "CMMD (small CLIP)"},
    dashed=["mdt-early-stopping"],
    full="mdt-full",
)

# %% [markdown]
# ## What it says
#
# Made from the results. {glue:text}`t4_summary:s`
#
# By FID, the selectors against drawing blindly and against each other:

# %%
page.say(*selectors)

# %% [markdown]
# The same by CMMD:

# %%
page.say(*selectors, value="cmmd")

# %% [markdown]
# Reweighted against not, by FID and by CMMD. In the paper the class weights
# help in each of these comparisons.

# %%
page.say(*reweighted)

# %%
page.say(*reweighted, value="cmmd")

# %% [markdown]
# And against all the data at equal steps, by FID and by CMMD. The paper has no
# such row. A tenth of ImageNet is a tenth of the steps too, so its numbers
# cannot tell whether it was images that were missing or steps.

# %%
page.say(*against_control)

# %%
page.say(*against_control, value="cmmd")

# %% tags=["remove-cell"]
glue("t4", steps=page.words(control, full))

# %% [markdown]
# What stopping early costs, with all the images at hand:
# {glue:text}`t4_steps:s` That much of what a coreset loses is steps and not
# images.
#
# ## Is the shape the paper's?
#
# Only the order inside a column can be compared. A line per row, from its rank
# in the paper to its rank here, by FID; lines that cross are pairs that the two
# put the other way round.

# %%
order = findings.same_order(frame, paper.TABLE_4_FID)
if len(order):
    shown = figures.rank_slopes(order, tables.LABELS)
else:
    shown = "No results yet."
shown

# %% tags=["remove-cell"]
glue(
    "t4",
    order_fid=findings.order_in_words(frame, paper.TABLE_4_FID),
    order_cmmd=findings.order_in_words(frame, paper.TABLE_4_CMMD, "cmmd"),
)

# %% [markdown]
# - By FID: {glue:text}`t4_order_fid:s`
# - By CMMD: {glue:text}`t4_order_cmmd:s`
#
# ## Does a part beat the whole?
#
# In the paper the reweighted Gaussian coreset of 20 % has
# {glue:text}`t4_paper_few:.2f` where all the data has
# {glue:text}`t4_paper_full:.2f`. Here each run is compared with the run on all
# the data of the same seed: the mean difference in FID, below zero where the
# part is better, its 95 % interval, and the verdict; last the difference in CMMD.

# %% tags=["remove-cell"]
best = "mdt-gaussian-reweighted"
glue("t4", paper_few=paper.TABLE_4_FID[best][0.2], paper_full=paper.TABLE_4_FID[full][1.0])

# %%
part = page.compare_all(coresets, full)
cmmd = page.compare_all(coresets, full, "cmmd").difference
shown = part[["difference", "low", "high", "seeds", "verdict"]].round(2)
tables.named(shown.assign(CMMD=cmmd.round(4)), rows)

# %% tags=["remove-cell"]
said = findings.part_against_whole(page, coresets, full)
if part.verdict.get((best, 0.2), "better") != "better":
    said += " So the paper's claim does not show on the digits."
glue("t4", beats=said)

# %% [markdown]
# {glue:text}`t4_beats:s`
#
# ## What the class weights did
#
# From the proxies: the effective number of classes (as many as there are when
# all weigh alike), the lightest and the heaviest class times $K$, the share of
# samples whose excess was clipped to zero, and the mean excess.

# %%
proxies = findings.proxies(frame).groupby(["row", "ratio"]).mean().round(3)
tables.named(proxies, rows)

# %% [markdown]
# The proxy is short (chapter [MDT](15_mdt)). Where next to nothing is clipped,
# it was worse than the reference at nearly every sample: what its weights
# measure is a network in the middle of its training.
#
# ## Near, or varied?
#
# One number cannot say whether samples are unlike the real images, or too much
# like each other. **Precision** is the share of samples that lie among the
# real images, **recall** the share of real images that lie among the samples.
# **KID** is an unbiased companion of FID. Means with half the width of their
# 95 % intervals; low KID, high precision and recall are good. Look for rows that
# buy precision with recall.

# %%
tables.metrics(frame, rows, ["kid", "precision", "recall"])

# %% [markdown]
# ## What it costs
#
# Times as fast as training on all the data: first the final training alone, as
# the paper counts, then the whole recipe with encoder, selection, reference
# and proxy. **Below one means slower than simply training on all the data.**

# %%
tables.speedups(frame, coresets, full=full).round(2)

# %%
tables.speedups(frame, coresets, whole=True, full=full).round(2)

# %% tags=["remove-cell"]
glue("t4", slower=findings.slower_and_faster(frame, coresets, full=full))

# %% [markdown]
# The whole recipes by CPU time, with 95 % intervals: {glue:text}`t4_slower:s`
#
# The proxy is short here, but the reference is a whole run on all the data: what
# the class weights need has then been paid for.
#
# ## Does the model copy its few images?
#
# Near-copies in per cent of the samples (chapter [Evaluate](07_evaluate) says
# how they are counted).

# %%
frame = frame.assign(copies_percent=100 * frame.copies.astype(float))
table("copies_percent")

# %% [markdown]
# ## Try it
#
# - By FID and by CMMD: would the two choose the same coreset?
# - The guidance of 3.8 was chosen for ImageNet. Set `mdt.guidance = 1` in a
#   profile of your own: what happens to precision, what to recall?
# - Next: [fine-tuning Stable Diffusion](17_stable_diffusion).
