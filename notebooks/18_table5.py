# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table V: fewer images, better pictures?
#
# The paper's most surprising table: fine-tuned on fewer images, Stable
# Diffusion draws better ones. The paper calls it data redundancy. But with
# the epochs fixed, fewer images are also fewer steps, and all the samples are
# drawn with strong guidance; the table alone cannot tell what did it. So this
# page adds two controls: all the data, stopped after as many steps, and all
# the models once more without guidance.

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
    tables.compute_missing(profile, "table5")
    tables.compute_missing(profile, "table5-unguided")
everything = tables.read_cells(profile)
frame = everything[everything.row.isin(tables.TABLES["table5"])]

# %% [markdown]
# All comparisons that this page makes, named once: against all the data and
# against equal steps, with guidance and without, the selectors, and the row that
# the paper leaves out.

# %%
coresets = ["sd-random", "sd-clip-moderate", "sd-moderate"]
control, full = "sd-early-stopping", "sd-full"
against_full = [(row, full) for row in coresets]
stopped = [(control, full), *((row, control) for row in coresets)]
selectors = [
    ("sd-clip-moderate", "sd-random"),
    ("sd-moderate", "sd-random"),
    ("sd-moderate", "sd-clip-moderate"),
]
left_out = [
    ("sd-moderate-reweighted", other)
    for other in ("sd-moderate", control, full)
]


def unguided(pairs):
    return [(f"{a}-unguided", f"{b}-unguided") for a, b in pairs]


both = [*against_full, *stopped, *selectors]
more = [
    (*pair, value) for pair in against_full for value in ("cmmd", "recall")
]
page = findings.Page(
    everything, [*both, *unguided(both), *left_out, *more]
)

# %% tags=["remove-cell"]
made = findings.made(frame, "table5", profile)
fid = frame[frame.row == full].fid
theirs = {
    (row, ratio): fid for row, fids in paper.TABLE_5.items() for ratio, fid in fids.items()
}
best_row, best_ratio = min(theirs, key=theirs.get)
glue(
    "t5",
    **made,
    summary=page.summary(),
    full=f"{fid.mean():.2f}" if len(fid) else "not there yet",
    paper_full=theirs["sd-full", 1.0],
    paper_best=theirs[best_row, best_ratio],
    paper_best_at=f"{tables.LABELS[best_row]} at {tables.percent(best_ratio)}",
    paper_worst=max(fid for (row, _), fid in theirs.items() if row != "sd-full"),
)

# %% [markdown]
# ## The table
#
# FID by share of the images: the mean over {glue:text}`t5_seeds:d` seeds, and
# half the width of its 95 % interval. The columns on the right are the
# paper's own: **ImageNette at 256 pixels, the published pipeline, features of
# Inception. They cannot be compared with those on the left**; only the order
# inside a row or a column can. All the data has {glue:text}`t5_full:s` here,
# and {glue:text}`t5_paper_full:.2f` there.

# %%
published = tables.layout(frame, "table5", published=paper.TABLE_5)
published.columns = [
    column.replace("paper", "ImageNette") for column in published.columns
]
in_paper = [tables.LABELS[row] for row in paper.TABLE_5]
published = published[published.index.isin(in_paper[:-1])]
published[[column for column in published if "100 %" not in column]]

# %% [markdown]
# And the rows that the paper does not have: the coreset with class weights,
# which the paper leaves out, and all the data at equal steps.

# %%
table = tables.layout(frame, "table5")
table[~table.index.isin(in_paper)].drop(columns="100 %", errors="ignore")

# %% [markdown]
# {glue:text}`t5_real:s`
# {glue:text}`t5_cells:d` runs{glue:text}`t5_missing:s`, made on
# {glue:text}`t5_dates:s` on {glue:text}`t5_machine:s` with PyTorch
# {glue:text}`t5_torch:s`. Every run starts from the same pre-trained pipeline;
# the seed decides the order, the noise and the samples.

# %% [markdown]
# ## The same as a picture
#
# Bars are 95 % intervals, and the band is that of all the data; the real images
# are far below. In the paper all lines lie under that of all the data. Look at
# where they lie here, and at the dashed line: equal steps.

# %%
figures.fid_by_ratio(
    frame,
    [*coresets, "sd-moderate-reweighted", control],
    tables.LABELS,
    dashed=[control],
    full=full,
)

# %% [markdown]
# ## Does less beat all?
#
# In the paper yes, always: {glue:text}`t5_paper_full:.2f` for all the data,
# and at most {glue:text}`t5_paper_worst:.2f` for a part of it. The lowest is
# {glue:text}`t5_paper_best:.2f`, {glue:text}`t5_paper_best_at:s`.
#
# Here each run is compared with the run on all the data of the same seed.
# {glue:text}`t5_summary:s`

# %%
page.say(*against_full)

# %% [markdown]
# ## And without guidance?
#
# All these are samples at the paper's guidance.
# [The chapter before](17_stable_diffusion) shows what it does to samples and
# to FID. Perhaps it does more to a model that was fine-tuned for longer, and
# so the table measures the guidance and not the images. Here are *the same
# models*, sampled once more without guidance; nothing was trained again.

# %%
table = tables.layout(everything, "table5-unguided")
table.rename(index=lambda name: name.removesuffix(", unguided"))

# %% [markdown]
# Both tables as a picture. Look at where the level line lies, which is all
# the data, and at the numbers on the two axes.

# %%
same = everything[everything.row.isin(tables.TABLES["table5-unguided"])]
same = same.assign(row=same.row.str.removesuffix("-unguided"))
same = same[["row", "ratio", "seed", "fid"]]
both = frame.merge(
    same, on=["row", "ratio", "seed"], suffixes=("", "_unguided")
)
figures.metrics_by_ratio(
    both,
    [*coresets, control],
    tables.LABELS,
    {"fid": "FID, guided", "fid_unguided": "FID, no guidance"},
    dashed=[control],
    full=full,
)

# %% [markdown]
# Does less still beat all?

# %%
page.say(*unguided(against_full))

# %% tags=["remove-cell"]
glue("t5", guidance=findings.guidance_in_words(page, coresets, full))

# %% [markdown]
# {glue:text}`t5_guidance:s`
#
# ## Fewer images, or fewer steps?
#
# What a coreset gains or loses against all the data is the sum of two
# differences: all the data stopped early against all the data to the end,
# which is *fewer steps* and nothing else; and the coreset against all the
# data stopped at the same step, which is *fewer images* and nothing else. If
# the images were redundant, the second would be zero or below. Lines are 95 %
# intervals.

# %%
parts = {
    "fewer steps": (control, full),
    "fewer images (Moderate-DS)": ("sd-moderate", control),
    "fewer images (random)": ("sd-random", control),
}
figures.differences(
    {name: page.compare(*pair) for name, pair in parts.items()}
)

# %% [markdown]
# The same in words: first the steps, then the images.

# %%
page.say(*stopped)

# %% [markdown]
# And the same two differences without guidance:

# %%
without = dict(zip(parts, unguided(parts.values())))
figures.differences(
    {name: page.compare(*pair) for name, pair in without.items()}
)

# %% [markdown]
# In words, once more first the steps and then the images:

# %%
page.say(*unguided(stopped))

# %% tags=["remove-cell"]
for row in coresets:
    said = findings.steps_or_images(page, row, control=control, full=full)
    glue("t5", **{f"explains_{row}": said})

# %% [markdown]
# Put together, for the guided samples:
#
# - {glue:text}`t5_explains_sd-random:s`
# - {glue:text}`t5_explains_sd-clip-moderate:s`
# - {glue:text}`t5_explains_sd-moderate:s`
#
# The paper has no such control, so its table does not say which of the two it
# saw. That even images drawn blindly beat all of them there is what one would
# see if it were the steps, or the guidance; it is not a proof of either.
#
# What differs here, and may matter: the pre-trained U-Net has already seen
# these very images ([the chapter before](17_stable_diffusion)), the published
# one had not been made for ImageNette; and ten digits are not ten kinds of
# photographs.
#
# ## Does it matter which images?
#
# The selectors against drawing blindly, and against each other.

# %%
page.say(*selectors)

# %% [markdown]
# The same without guidance:

# %%
page.say(*unguided(selectors))

# %% tags=["remove-cell"]
three = {row: paper.TABLE_5[row] for row in coresets}
glue("t5", order=findings.order_in_words(frame, three))

# %% [markdown]
# *Are the three, with guidance, in the paper's order?*
# {glue:text}`t5_order:s`
#
# ## The row that the paper leaves out
#
# Reweighting, at the smallest ratio, where there should be most to mend.

# %%
page.say(*left_out)

# %% [markdown]
# The paper's reason for leaving it out is that most margins would be clipped.
# Over all seeds, after the burn-in, and beside the other two models at the
# same ratio ([the chapter before](17_stable_diffusion) draws these as
# curves):

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

# %% tags=["remove-cell"]
clipped = proxies["clipped (%)"]
clipped = clipped[clipped.index.get_level_values("row") == "sd-moderate-reweighted"]
glue("t5", says_clipped=findings.clipped_in_words(clipped))

# %% [markdown]
# {glue:text}`t5_says_clipped:s`
#
# ## What FID does not say
#
# Means with half the width of their 95 % intervals. CMMD
# {cite:p}`jayasumana2024rethinking` is measured in the embeddings of the
# small CLIP of this book; precision is the share of samples that look real,
# recall the share of the real images that are covered; near-copies are
# counted against the images that the run has seen. A model fine-tuned on few
# images for many epochs might draw those: look at the last column at the
# smallest ratio.

# %%
measures = ["fid", "cmmd", "cmmd_unbiased", "precision", "recall"]
frame = frame.assign(copies_percent=100 * frame.copies.astype(float))
tables.metrics(
    frame, tables.TABLES["table5"], [*measures, "copies_percent"]
)

# %% tags=["remove-cell"]
copies = frame.groupby(["row", "ratio"]).copies_percent.mean()
few = copies[copies.index.get_level_values("ratio") == smallest]
listing = "; ".join(f"{tables.LABELS[row]} {share:.1f} %" for (row, _), share in few.items())
everyone = copies.get(("sd-full", 1.0), float("nan"))
glue("t5", copied=listing or findings.NO_RESULTS, copied_full=f"{everyone:.1f} %")

# %% [markdown]
# Near-copies at the smallest ratio: {glue:text}`t5_copied:s`; all the data:
# {glue:text}`t5_copied_full:s`. About one per cent is what held-out real
# images have by chance, where there are as many images to be near to.
#
# Does CMMD agree with FID on less against all?

# %%
page.say(*against_full, value="cmmd")

# %% [markdown]
# And is it paid for in variety? The difference in recall to all the data,
# where higher is better, as a picture and in words.

# %%
figures.differences(
    {
        tables.LABELS[row]: page.compare(row, full, "recall")
        for row in coresets
    },
    label="difference in recall (above 0 is better)",
)

# %%
page.say(*against_full, value="recall")

# %% [markdown]
# ## What it costs
#
# Times as fast as fine-tuning on all the data. Then the same with the encoder
# and the selection, and for the reweighted row reference and proxy, counted
# in. Below one is slower than simply using all the data. The pre-trained
# pipeline and its autoencoder are counted nowhere: one has them before one
# begins.

# %%
rows = [row for row in tables.TABLES["table5"] if row in set(frame.row)]
rows = [row for row in rows if row not in (full, control)]
tables.speedups(frame, rows, full=full).round(2)

# %% [markdown]
# And the whole recipe:

# %%
tables.speedups(frame, rows, whole=True, full=full).round(2)

# %% tags=["remove-cell"]
glue("t5", whole=findings.slower_and_faster(frame, rows, full=full))

# %% [markdown]
# By CPU time, with 95 % intervals: {glue:text}`t5_whole:s`
#
# ## Try it
#
# - The pre-trained pipeline is row "0 %": the chapter before prints its FID.
#   Which rows of this table lie below it?
# - In a profile of your own set `stable_diffusion.epochs` to a fifth. Is all the data then
#   as good as the coreset of 20 % is here?
# - `dedt plan table5 --profile imagenette` says what the paper's own sizes
#   would take.
