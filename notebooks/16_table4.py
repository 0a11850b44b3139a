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
from dedt_lib.notebook import check_parameters

check_parameters("profile", "compute")

# %% [markdown]
# With `compute = True` missing cells are computed here, one after the other.

# %%
from dedt_lib import figures, paper, tables

if compute:
    tables.compute_missing(profile, "table4")
frame = tables.read_cells(profile)
frame = frame[frame.row.isin(tables.TABLES["table4"])]
rows = [row for row in tables.TABLES["table4"] if row in set(frame.row)]

# %% tags=["remove-cell"]
from myst_nb import glue

wanted = tables.cells("table4", profile)
made = sorted({result["provenance"]["date"] for result in frame.result}) or ["–"]
missing = len(wanted) - len(frame)
floor = frame.result.iloc[0]["floor"]["fid"] if len(frame) else float("nan")
glue("t4_seeds", int(frame.seed.nunique()), display=False)
glue("t4_cells", len(frame), display=False)
glue("t4_missing", f" ({missing} more are not there yet)" if missing > 0 else "", display=False)
glue("t4_dates", " to ".join(dict.fromkeys([made[0], made[-1]])), display=False)
glue("t4_floor", float(floor), display=False)
glue("t4_bias", float((frame.cmmd - frame.cmmd_unbiased).astype(float).mean()), display=False)

# %% [markdown]
# ## FID
#
# Mean and standard deviation over {glue:text}`t4_seeds:d` seeds; read down a
# column, the lowest wins. *Equal steps* is the control for pruning itself: all
# the data, stopped after as many steps as a coreset of that size takes.
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
# Two random halves of the real images are {glue:text}`t4_floor:.2f` apart, and
# what the autoencoder alone costs is in [Into latent space](14_latents).
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
# One dot per seed. Look for the dashed line, all the data at equal steps: a row
# above it would have been beaten by simply stopping early. The level line is
# all the data to the end.

# %%
controls = ["mdt-early-stopping", "mdt-full"]
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
# Made from the results; "in every seed" means that all seeds agree on the sign
# of the difference. By FID, the selectors against drawing blindly and against
# each other:

# %%
from IPython.display import Markdown


def say(*pairs, value="fid"):
    there = [pair for pair in pairs if set(pair) <= set(rows)]
    lines = [f"- {tables.in_words(frame, *pair, value)}" for pair in there]
    return Markdown("\n".join(lines) or "No results yet.")


selectors = [
    ("mdt-gaussian", "mdt-random"),
    ("mdt-moderate", "mdt-random"),
    ("mdt-gaussian", "mdt-moderate"),
]
say(*selectors)

# %% [markdown]
# The same by CMMD:

# %%
say(*selectors, value="cmmd")

# %% [markdown]
# Reweighted against not, by FID and by CMMD. In the paper the class weights
# help in each of these comparisons.

# %%
reweighted = [
    (f"mdt-{selector}-reweighted", f"mdt-{selector}")
    for selector in ("gaussian", "moderate")
]
say(*reweighted)

# %%
say(*reweighted, value="cmmd")

# %% [markdown]
# And against all the data at equal steps, by FID and by CMMD. The paper has no
# such row. A tenth of ImageNet is a tenth of the steps too, so its numbers
# cannot tell whether it was images that were missing or steps.

# %%
control = "mdt-early-stopping"
coresets = [row for row in rows if row not in controls]
say(*[(row, control) for row in coresets])

# %%
say(*[(row, control) for row in coresets], value="cmmd")

# %% tags=["remove-cell"]
means = frame.pivot_table(index="row", columns="ratio", values="fid")
if set(controls) <= set(means.index):
    stopped = (means.loc[control] - means.loc["mdt-full", 1.0]).dropna()
    costs = " and ".join(f"{cost:.2f} at {tables.percent(r)}" for r, cost in stopped.items())
    said = f"costs this much in FID: {costs}"
else:
    said = "has no results yet"
glue("t4_steps", said, display=False)

# %% [markdown]
# Stopping early, with all the images at hand, {glue:text}`t4_steps:s`. That much
# of what a coreset loses is steps and not images.
#
# ## Is the shape the paper's?
#
# Only the order inside a column can be compared. A line per row, from its rank
# in the paper to its rank here, by FID; lines that cross are pairs that the two
# put the other way round.

# %%
order = tables.same_order(frame, paper.TABLE_4_FID)
if len(order):
    shown = figures.rank_slopes(order, tables.LABELS)
else:
    shown = "No results yet."
shown

# %% tags=["remove-cell"]
def ordered(published, value):
    order = tables.same_order(frame, published, value)
    if len(order) == 0:
        return "there are no results yet."
    same = int(order.same.sum())
    head = "yes" if same == len(order) else "partly" if same else "no"
    agree = ", ".join(f"{100 * share:.0f} % at {ratio}" for ratio, share in order.agree.items())
    lowest = "; ".join(
        f"at {ratio} {tables.LABELS[entry['ours'][0]]} (paper: {tables.LABELS[entry['paper'][0]]})"
        for ratio, entry in order.iterrows()
    )
    return (
        f"{head}, at {same} of {len(order)} ratios. Of the pairs of rows these shares stand as in "
        f"the paper: {agree} (half is chance). The lowest: {lowest}."
    )


glue("t4_order_fid", ordered(paper.TABLE_4_FID, "fid"), display=False)
glue("t4_order_cmmd", ordered(paper.TABLE_4_CMMD, "cmmd"), display=False)

# %% [markdown]
# - The paper's order of the rows by FID: {glue:text}`t4_order_fid:s`
# - The paper's order of the rows by CMMD: {glue:text}`t4_order_cmmd:s`
#
# ## Does a part beat the whole?
#
# In the paper the reweighted Gaussian coreset of 20 % has
# {glue:text}`t4_paper_few:.2f` where all the data has
# {glue:text}`t4_paper_full:.2f`. Here each run is compared with the run on all
# the data of the same seed: the mean difference, below zero where the part is
# better, and the number of seeds in which it is.

# %% tags=["remove-cell"]
best = "mdt-gaussian-reweighted"
glue("t4_paper_few", paper.TABLE_4_FID[best][0.2], display=False)
glue("t4_paper_full", paper.TABLE_4_FID["mdt-full"][1.0], display=False)

# %%
import pandas as pd

everything = frame[frame.row == "mdt-full"].set_index("seed")
part = frame[frame.row.isin(coresets) & frame.seed.isin(everything.index)]
part = part.assign(
    fid=part.fid - part.seed.map(everything.fid),
    cmmd=(part.cmmd - part.seed.map(everything.cmmd)).astype(float),
    beats=part.fid < part.seed.map(everything.fid),
)
beside = part.groupby(["row", "ratio"]).agg(
    FID=("fid", "mean"), CMMD=("cmmd", "mean"),
    better=("beats", "sum"), seeds=("beats", "size"),
)


def named(table):
    """Rows in the order of Table IV, and by their names."""
    table = table.reindex(rows, level=0).rename_axis([None, None])
    table = table.rename(index=tables.LABELS, level=0)
    return table.rename(index=tables.percent, level=1)


beside = beside.rename(columns={"better": "seeds with a lower FID"})
named(beside.round({"FID": 2, "CMMD": 4}))

# %% tags=["remove-cell"]
wins = part.groupby(["row", "ratio"]).beats
always, ever = wins.all(), wins.any()
winners = always[always].index
winners = [f"{tables.LABELS[row]} at {tables.percent(ratio)}" for row, ratio in winners]
if len(part) == 0:
    answer = "There are no results yet."
elif winners:
    answer = f"Better than all the data in every seed: {'; '.join(winners)}."
elif ever.any():
    answer = "No coreset is better than all the data in every seed; some are in some seeds."
else:
    answer = "No: no coreset is better than all the data, in any seed."
seeds = part.seed.nunique()
if winners and seeds == 1:
    answer += " (That is one seed, which says little.)"
if not always.get((best, 0.2), True):
    answer += " So the paper's claim does not show on the digits."
glue("t4_beats", answer, display=False)

# %% [markdown]
# {glue:text}`t4_beats:s`
#
# ## What the class weights did
#
# From the proxies: the effective number of classes (as many as there are when
# all weigh alike), the lightest and the heaviest class times $K$, the share of
# samples whose excess was clipped to zero, and the mean excess.

# %%
proxies = pd.DataFrame([
    {
        "row": r["row"],
        "ratio": r["recipe"]["ratio"],
        "effective classes": r["dro"]["effective_classes"],
        "lightest": len(r["class_names"]) * min(r["class_weights"]),
        "heaviest": len(r["class_names"]) * max(r["class_weights"]),
        "clipped (%)": 100 * r["dro"]["clipped"],
        "mean excess": r["dro"]["mean_excess"],
    }
    for r in frame.result
    if "dro" in r
])
if len(proxies):
    proxies = named(proxies.groupby(["row", "ratio"]).mean().round(3))
proxies

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
# **KID** is an unbiased companion of FID. Means over the seeds; low KID, high
# precision and recall are good. Look for rows that buy precision with recall.

# %%
names = ["kid", "precision", "recall"]
means = frame.groupby(["row", "ratio"])[names].mean().astype(float)
named(means.rename(columns={"kid": "KID"}).round(3))

# %% [markdown]
# ## What it costs
#
# Times as fast as training on all the data: first the final training alone, as
# the paper counts, then the whole recipe with encoder, selection, reference
# and proxy. **Below one means slower than simply training on all the data.**

# %%
full = "mdt-full"
tables.speedups(frame, coresets, full=full).round(2)

# %%
tables.speedups(frame, coresets, whole=True, full=full).round(2)

# %% tags=["remove-cell"]
whole = tables.speedups(frame, coresets, whole=True, full=full)["CPU time"]
slower = [f"{name} at {data}" for (name, data), speed in whole.items() if speed < 1]
said = f"Slower than one run on all the data, by CPU time: {'; '.join(slower) or 'none'}."
glue("t4_slower", said, display=False)

# %% [markdown]
# {glue:text}`t4_slower:s` The proxy is short here, but the reference is a whole
# run on all the data: what the class weights need has then been paid for.
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
# - The guidance of 3.8 was chosen for ImageNet. Set `mdt_guidance = 1` in a
#   profile of your own: what happens to precision, what to recall?
# - Next: [fine-tuning Stable Diffusion](17_stable_diffusion).
