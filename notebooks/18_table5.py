# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table V: do fewer images make Stable Diffusion better?
#
# In the paper's Table V, Stable Diffusion has a lower FID when it is fine-tuned
# on fewer images. The paper explains this by redundant data. There are two other
# explanations. With the epochs fixed, fewer images are also fewer steps; and all
# samples are drawn with strong guidance, which changes FID by itself. This page
# adds a control for each: all the data, stopped after as many steps, and every
# model sampled once more without guidance. `compute = True` computes missing
# cells.

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
    results.compute_missing(profile, "table5")
    results.compute_missing(profile, "table5-unguided")
everything = results.read_cells(profile)
frame = everything[everything.row.isin(grid.TABLES["table5"])]

best, control, full = "sd-moderate", "sd-early-stopping", "sd-full"
guided = [(best, full), (control, full), (best, control)]
unguided = [
    (f"{row}-unguided", f"{other}-unguided") for row, other in guided
]
weights = ("sd-moderate-reweighted", best)
page = findings.Page(
    everything, [*guided, *unguided, weights], profile=profile, added=True
)
told = [
    f"- {page.answer(*pair)}"
    for pair in (guided[0], unguided[0], guided[2], unguided[2])
]
Markdown("\n".join(told))

# %% [markdown]
# ## The table
#
# FID by share of the images: the mean over the seeds, and half the width of its
# 95 % interval. The columns on the right are the paper's: **ImageNette at 256
# pixels, the published pipeline, features of Inception. They cannot be compared
# with the columns on the left**; only the order inside a row or a column can.

# %%
fid = tables.layout(frame, "table5", published=paper.TABLE_5)
runs.linked(fid, "table5")

# %%
Markdown(
    f"{findings.made_in_words(frame, 'table5', profile)} "
    + (findings.floor_in_words(frame.result.iloc[0]) if len(frame) else "")
    + f" {findings.shared_in_words(frame[frame.row.isin(page.rows)])}"
)

# %% [markdown]
# Every run starts from the same pre-trained pipeline. The seed decides the
# feature extractor, and with it the coreset, the order of the images, the noise
# and the samples. Without guidance, *the same models* have these FIDs; nothing
# was trained again.

# %%
table = tables.layout(everything, "table5-unguided")
runs.linked(table, "table5-unguided", without=", unguided")

# %% [markdown]
# ## The picture
#
# Vertical bars are 95 % intervals. The horizontal line with its band is all the
# data, trained to the end, and the dashed line is all the data at equal steps.
# In the paper all coresets lie below the horizontal line. The two panels have
# different scales.
# Points of the same ratio are moved apart so that their bars do not overlap.

# %%
same = everything[everything.row.isin(grid.TABLES["table5-unguided"])]
same = same.assign(row=same.row.str.removesuffix("-unguided"))
same = same[["row", "ratio", "seed", "fid"]]
both = frame.merge(
    same, on=["row", "ratio", "seed"], suffixes=("", "_unguided")
)
figures.metrics_by_ratio(
    both,
    ["sd-random", "sd-clip-moderate", best, control],
    grid.LABELS,
    {"fid": "FID, guided", "fid_unguided": "FID, no guidance"},
    dashed=[control],
    full=full,
)

# %% [markdown]
# ## Fewer images or fewer steps?
#
# The difference between a coreset and all the data is the sum of two others.
# All the data stopped early, minus all the data to the end, is the effect of
# *fewer steps* alone. The coreset minus all the data stopped at the same step is
# the effect of *fewer images* alone. Redundant images would make the second
# difference zero or negative. Lines are 95 % intervals.

# %%
effects = ["the coreset in all", "fewer steps", "fewer images"]
figures.differences(
    {name: page.compare(*pair) for name, pair in zip(effects, guided)}
)

# %% [markdown]
# Without guidance, the same three:

# %%
figures.differences(
    {name: page.compare(*pair) for name, pair in zip(effects, unguided)}
)

# %% [markdown]
# ## The comparisons
#
# All comparisons of this page; the last line is the row that the paper leaves
# out (see below).

# %%
runs.linked(page.shown(), page.rows)

# %%
Markdown(page.summary())

# %% [markdown]
# ## What follows
#
# Fewer images improve a model only if its difference to the control is negative.
# If only the difference to the full run is negative, fewer steps are the
# explanation, and stopping early is the simpler method. If the advantage
# disappears without guidance, it belongs to the way of sampling: guidance can
# harm a model that was fine-tuned for longer more than one that was fine-tuned
# for a short time ([Guidance](17b_guidance.ipynb) shows its effect on samples
# and on FID). Here:

# %%
outcomes = {
    "better": "FID is lower",
    "worse": "FID is higher",
    "inconclusive": "no difference is shown",
}
asked = {
    "Fewer images, guided": guided[2],
    "Fewer images, unguided": unguided[2],
    "Fewer steps, guided": guided[1],
    "Fewer steps, unguided": unguided[1],
}
told = [
    f"- **{name}.** {findings.concluded(page, *pair, outcomes)}"
    for name, pair in asked.items()
]
Markdown("\n".join(told))

# %% [markdown]
# The paper has no such controls, so its table does not tell the explanations
# apart. In its table even images drawn uniformly at random beat all the data,
# which is what fewer steps or guidance would produce; it is not a proof of
# either. Two differences may matter here. The pre-trained U-Net has seen these
# digits already, while the published one was not made for ImageNette. And ten
# digits are less varied than ten classes of photographs.
#
# ## The row that the paper leaves out
#
# The paper does not reweight Stable Diffusion, because the model of the coreset
# "has surpassed the one on the entire dataset", and most margins are therefore
# clipped. Only a coreset that has surpassed all the data can test that reason.
# The table has the proxies of all seeds at the smallest ratio,
# after the burn-in, beside those of the other two models.

# %%
models = {
    "sd-moderate-reweighted": "Stable Diffusion",
    "mdt-moderate-reweighted": "MDT",
    "moderate-reweighted": "U-Net",
}
smallest = frame.ratio.min()
proxies = findings.proxies(everything[everything.ratio == smallest])
proxies = proxies.droplevel("ratio").reindex([*models], level="row")
columns = ["clipped (%)", "mean excess", "effective classes"]
proxies[columns].rename(index=models, level="row").round(4)

# %%
clipped = proxies["clipped (%)"]
of_sd = clipped.index.get_level_values("row") == "sd-moderate-reweighted"
surpassed = page.compare(best, full)
surpassed = surpassed[surpassed.index == smallest]
Markdown(findings.clipped_in_words(clipped[of_sd], surpassed))

# %% [markdown]
# The last line of the comparisons asks whether the class weights nevertheless
# change FID.
#
# ## What FID does not show
#
# Means with half the width of their 95 % intervals. CMMD ([Jayasumana et al.,
# 2024](https://arxiv.org/abs/2401.09603)) is measured in the embeddings of the
# small CLIP of this book. Precision is the share of samples that lie among the
# real images, and recall the share of real images that lie among the samples.
# Near-copies are counted against the images that the run has seen; held-out
# real images have about one per cent by chance against all the training images,
# and less against few of them. A model that is fine-tuned on few images for
# many epochs may copy them, which the last column would show at the smallest
# ratio.

# %%
measures = ["fid", "cmmd", "cmmd_unbiased", "precision", "recall"]
frame = frame.assign(copies_percent=100 * frame.copies.astype(float))
rows = grid.TABLES["table5"]
more = tables.metrics(frame, rows, [*measures, "copies_percent"])
runs.linked(more, rows)

# %% [markdown]
# ## What does it cost?
#
# The table says how many times as fast the final fine-tuning alone is as
# fine-tuning on all the data:

# %%
rows = [row for row in grid.TABLES["table5"] if row in set(frame.row)]
rows = [row for row in rows if row not in (full, control)]
tables.speedups(frame, rows, full=full).round(2)

# %% [markdown]
# The whole recipe, with the reference and the proxy of the reweighted row, by
# evaluations of diffusion networks. Below one means more work than using all the
# data. The pre-training is not counted, because every row starts from the same
# pipeline, as it would from a published one.

# %%
tables.whole_speedups(frame, rows, full=full)

# %% [markdown]
# ## The runs behind this page
#
# A number of a table leads to its line here, and the figures and sentences were
# made from the same runs. A line has the FID of each seed, the commit of the
# code, where it was noted, and the command that computes the cell of the first
# seed.

# %%
unguided = grid.TABLES["table5-unguided"]
runs.behind(everything, [*grid.TABLES["table5"], *unguided])

# %% [markdown]
# ## In short
#
# Table V has three explanations, fewer images, fewer steps and guidance, and a
# table of FIDs with guidance cannot tell them apart. The control at equal steps
# separates images from steps, and sampling without guidance separates the model
# from its sampler. Only a negative difference to the control supports the
# claim that the removed images were redundant or harmful.
#
# ## Try it
#
# - How much does guidance change the FID of each row? Could it explain why fewer
#   images do better with it? ([Solution](solutions_latent.ipynb#Table-V))
# - *Fewer steps* and *fewer images* add up to the coreset in all. Why, and which
#   second control would give other shares? ([Solution](solutions_latent.ipynb#Table-V))
# - `dedt plan table5 --profile imagenette` estimates what the paper's own sizes
#   would take.
