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
# the epochs fixed, fewer images are also fewer steps, and the table alone
# cannot tell which of the two it was. So this page adds the control that can:
# all the data, stopped after as many steps.

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
    tables.compute_missing(profile, "table5")
everything = tables.read_cells(profile)
frame = everything[everything.row.isin(tables.TABLES["table5"])]

# %% tags=["remove-cell"]
from myst_nb import glue

wanted = tables.cells("table5", profile)
present = set(zip(frame.row, frame.ratio, frame.seed))
missing = len(set(wanted) - present)
made = [result["provenance"] for result in frame.result]
torches = sorted({one["versions"]["torch"] for one in made})
dates = sorted({one["date"] for one in made})
full = frame[frame.row == "sd-full"]
floor = everything.result.iloc[0]["floor"]["fid"]
paper_full = paper.TABLE_5["sd-full"][1.0]
best_row, best_ratio = min(
    ((row, ratio) for row in paper.TABLE_5 for ratio in paper.TABLE_5[row]),
    key=lambda cell: paper.TABLE_5[cell[0]][cell[1]],
)
seeds = int(frame.seed.nunique())
glue("t5_seeds", seeds, display=False)
glue("t5_chance", 100 * 2.0 ** (1 - max(1, seeds)), display=False)
glue("t5_cells", len(frame), display=False)
glue("t5_missing", f" ({missing} more are not there yet)" if missing else "", display=False)
glue("t5_floor", floor, display=False)
glue("t5_full", f"{full.fid.mean():.2f}" if len(full) else "not there yet", display=False)
glue("t5_machine", " and ".join(sorted({one["machine"] for one in made})), display=False)
glue("t5_torch", " and ".join(torches), display=False)
glue("t5_dates", " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])), display=False)
glue("t5_paper_full", paper_full, display=False)
glue("t5_paper_best", paper.TABLE_5[best_row][best_ratio], display=False)
best_at = f"{tables.LABELS[best_row]} at {tables.percent(best_ratio)}"
glue("t5_paper_best_at", best_at, display=False)
highest = max(max(paper.TABLE_5[row].values()) for row in paper.TABLE_5 if row != "sd-full")
glue("t5_paper_worst", highest, display=False)

# %% [markdown]
# ## The table
#
# FID by share of the images; mean and standard deviation over
# {glue:text}`t5_seeds:d` seeds. The columns on the right are the paper's own:
# **ImageNette at 256 pixels, the published pipeline, features of Inception.
# They cannot be compared with those on the left**; only the order inside a
# row or a column can.

# %%
published = tables.layout(frame, "table5", published=paper.TABLE_5)
published.columns = [
    column.replace("paper", "ImageNette") for column in published.columns
]
in_paper = [tables.LABELS[row] for row in paper.TABLE_5]
published[published.index.isin(in_paper)]

# %% [markdown]
# And the rows that the paper does not have: the coreset with class weights,
# which the paper leaves out, and all the data at equal steps.

# %%
table = tables.layout(frame, "table5")
table[~table.index.isin(in_paper)]

# %% [markdown]
# Two random halves of the real images are {glue:text}`t5_floor:.2f` apart.
# {glue:text}`t5_cells:d` runs{glue:text}`t5_missing:s`, made on
# {glue:text}`t5_dates:s` on {glue:text}`t5_machine:s` with PyTorch
# {glue:text}`t5_torch:s`. Every run starts from the same pre-trained
# pipeline; the seed decides the order, the noise and the samples.

# %% [markdown]
# ## The same as a picture
#
# One dot per seed; the floor is far below. In the paper all lines lie under
# that of all the data. Look at where they lie here, and at the dashed line:
# equal steps.

# %%
plain = frame.assign(row=frame.row.str.removeprefix("sd-"))
shown = ["random", "clip-moderate", "moderate", "moderate-reweighted"]
shown = [row for row in [*shown, "early-stopping"] if row in set(plain.row)]
mean = full.fid.mean() if len(full) else None
figures.fid_by_ratio(plain, shown, tables.LABELS, full=mean)

# %% [markdown]
# ## Does less beat all?
#
# In the paper yes, always: {glue:text}`t5_paper_full:.2f` for all the data,
# and at most {glue:text}`t5_paper_worst:.2f` for a part of it. The lowest is
# {glue:text}`t5_paper_best:.2f`, {glue:text}`t5_paper_best_at:s`. Here, seed
# by seed:

# %%
import pandas as pd
from IPython.display import Markdown

ratios = sorted(frame[frame.ratio < 1].ratio.unique())
beside = pd.concat([frame, *(full.assign(ratio=r) for r in ratios)])


def say(pairs, value="fid"):
    there = [pair for pair in pairs if set(pair) <= set(frame.row)]
    lines = [f"- {tables.in_words(beside, *pair, value)}" for pair in there]
    return Markdown("\n".join(lines) or "No results yet.")


coresets = ["sd-random", "sd-clip-moderate", "sd-moderate"]
say((row, "sd-full") for row in coresets)

# %% [markdown]
# All these are samples at the paper's guidance.
# [The chapter before](17_stable_diffusion) measures how much of the FID comes
# from that, and asks models without it, the pre-trained one among them: look
# there before you believe that less is more.
#
# ## Fewer images, or fewer steps?
#
# What a coreset gains or loses against all the data is the sum of two
# differences: all the data stopped early against all the data to the end,
# which is *fewer steps* and nothing else; and the coreset against all the
# data stopped at the same step, which is *fewer images* and nothing else. If
# the images were redundant, the second would be zero or below.

# %%
parts = {
    "fewer steps": ("sd-early-stopping", "sd-full"),
    "fewer images (Moderate-DS)": ("sd-moderate", "sd-early-stopping"),
    "fewer images (random)": ("sd-random", "sd-early-stopping"),
}
figures.differences(beside, parts)

# %% [markdown]
# The same in words: first the steps, then the images.

# %%
say([
    ("sd-early-stopping", "sd-full"),
    *((row, "sd-early-stopping") for row in coresets),
])

# %% tags=["remove-cell"]
def verdicts(row, other):
    if not {row, other} <= set(frame.row):
        return pd.Series(dtype=str)
    return tables.compare(beside, row, other).verdict


def listed(ratios):
    return ", ".join(map(tables.percent, ratios))


def explained(row):
    """What the control says about the row's advantage over all the data."""
    whole, images = verdicts(row, "sd-full"), verdicts(row, "sd-early-stopping")
    steps = verdicts("sd-early-stopping", "sd-full")
    name = tables.LABELS[row]
    if whole.empty or images.empty:
        return f"{name}: no results yet."
    beats = list(whole.index[whole == "lower"])
    by_images = [r for r in beats if images.get(r) == "lower"]
    by_steps = [r for r in beats if r not in by_images and steps.get(r) == "lower"]
    unclear = [r for r in beats if r not in (*by_images, *by_steps)]
    said = []
    if not beats:
        said.append("at no ratio lower than all the data in every seed: no gain to explain")
    if by_steps:
        said.append(
            f"lower than all the data at {listed(by_steps)}, where stopping early is lower as well "
            "and the coreset not in every seed lower still: fewer steps are enough to explain it"
        )
    if unclear:
        said.append(f"lower than all the data at {listed(unclear)}: the control leaves open why")
    if by_images:
        said.append(
            f"lower than all the data at {listed(by_images)}, and than all the data at equal steps "
            "too: there fewer images help by themselves"
        )
    return f"{name}: {'; '.join(said)}."


for row in coresets:
    glue(f"t5_explains_{row}", explained(row), display=False)

# %% [markdown]
# Put together (and with a grain of salt: {glue:text}`t5_seeds:d` seeds of two
# equal rows agree on the sign in {glue:text}`t5_chance:.0f` % of comparisons, by
# chance):
#
# - {glue:text}`t5_explains_sd-random:s`
# - {glue:text}`t5_explains_sd-clip-moderate:s`
# - {glue:text}`t5_explains_sd-moderate:s`
#
# The paper has no such control, so its table does not say which of the two it
# saw. That even images drawn blindly beat all of them there is what one would
# see if it were the steps; it is not a proof.
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
say([
    ("sd-clip-moderate", "sd-random"),
    ("sd-moderate", "sd-random"),
    ("sd-moderate", "sd-clip-moderate"),
])

# %% tags=["remove-cell"]
order = tables.same_order(frame, {row: paper.TABLE_5[row] for row in coresets})
glue("t5_same", int(order.same.sum()) if len(order) else 0, display=False)
glue("t5_orders", len(order), display=False)
agree = float(order.agree.astype(float).mean()) if len(order) else 0.0
glue("t5_pairs", 100 * agree, display=False)

# %% [markdown]
# The three stand in the paper's order at {glue:text}`t5_same:d` of
# {glue:text}`t5_orders:d` ratios; of all pairs,
# {glue:text}`t5_pairs:.0f` % do.
#
# ## The row that the paper leaves out
#
# Reweighting, at the smallest ratio, where there should be most to mend.

# %%
say([
    ("sd-moderate-reweighted", "sd-moderate"),
    ("sd-moderate-reweighted", "sd-early-stopping"),
    ("sd-moderate-reweighted", "sd-full"),
])

# %% [markdown]
# The paper's reason for leaving it out is that most margins would be clipped.
# Over all seeds, after the burn-in, and beside the other two models at the
# same ratio ([the chapter before](17_stable_diffusion) draws these as
# curves):

# %%
proxies = {
    "sd-moderate-reweighted": "Stable Diffusion",
    "mdt-moderate-reweighted": "MDT",
    "moderate-reweighted": "U-Net",
}
smallest = min(ratios, default=None)
used = everything.row.isin(proxies) & (everything.ratio == smallest)
columns = ["proxy of", "seed"]
columns += ["clipped (%)", "mean excess", "effective classes"]
signal = pd.DataFrame(
    [
        (
            proxies[result["row"]],
            result["recipe"]["seed"],
            100 * result["dro"]["clipped"],
            result["dro"]["mean_excess"],
            result["dro"]["effective_classes"],
        )
        for result in everything[used].result
    ],
    columns=columns,
).set_index(["proxy of", "seed"])
signal.round(4)

# %% tags=["remove-cell"]
def clipped_in_words():
    name = "Stable Diffusion"
    if name not in signal.index.get_level_values(0):
        return "No results yet."
    shares = signal["clipped (%)"].xs(name)
    ends = dict.fromkeys([f"{shares.min():.0f}", f"{shares.max():.0f}"])
    spread = f"{' to '.join(ends)} %"
    if shares.min() > 50:
        verdict = "In every seed more than half are clipped, as the paper says."
    elif shares.max() <= 50:
        verdict = "In no seed is it the majority that the paper speaks of."
    else:
        verdict = "The seeds do not agree on whether it is a majority."
    return f"Of Stable Diffusion's margins {spread} are clipped. {verdict}"


glue("t5_says_clipped", clipped_in_words(), display=False)

# %% [markdown]
# {glue:text}`t5_says_clipped:s`
#
# ## What FID does not say
#
# Means over the seeds. CMMD {cite:p}`jayasumana2024rethinking` is measured in
# the embeddings of the small CLIP of this book; precision is the share of
# samples that look real, recall the share of the real images that are
# covered; near-copies are counted against the images that the run has seen.
# A model fine-tuned on few images for many epochs might draw those: look at
# the last column at the smallest ratio.

# %%
measures = {
    "fid": "FID",
    "cmmd": "CMMD",
    "cmmd_unbiased": "CMMD, unbiased",
    "precision": "precision",
    "recall": "recall",
    "copies": "near-copies (%)",
}
values = frame.assign(copies=100 * frame.copies.astype(float))
values[[*measures]] = values[[*measures]].astype(float)
means = values.groupby(["row", "ratio"])[[*measures]].mean()
means = means.reindex(list(tables.TABLES["table5"]), level="row")
means = means.rename(index=tables.LABELS, level="row")
means = means.rename(index=tables.percent, level="ratio")
means = means.round({name: 3 if "cmmd" in name else 2 for name in measures})
means.rename(columns=measures)

# %% tags=["remove-cell"]
def mean_of(value, row, ratio):
    chosen = values[(values.row == row) & (values.ratio == ratio)]
    return float(chosen[value].mean())


copied = {row: mean_of("copies", row, smallest) for row in (*coresets, "sd-early-stopping")}
copied = pd.Series(copied).dropna().rename(tables.LABELS)
listing = "; ".join(f"{name} {share:.1f} %" for name, share in copied.items())
glue("t5_copied", listing or "no results yet", display=False)
glue("t5_copied_full", f"{mean_of('copies', 'sd-full', 1.0):.1f} %", display=False)

# %% [markdown]
# Near-copies at the smallest ratio: {glue:text}`t5_copied:s`; all the data:
# {glue:text}`t5_copied_full:s`. About one per cent is what held-out real
# images have by chance, where there are as many images to be near to.
#
# Does CMMD agree with FID on less against all?

# %%
say([(row, "sd-full") for row in coresets], "cmmd")

# %% [markdown]
# And is it paid for in variety? The difference in recall to all the data,
# where higher is better.

# %%
pairs = {tables.LABELS[row]: (row, "sd-full") for row in coresets}
figures.differences(
    beside, pairs, value="recall",
    label="difference in recall (above 0 is better)",
)

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
rows = [row for row in rows if row not in ("sd-full", "sd-early-stopping")]
tables.speedups(frame, rows, full="sd-full").round(2)

# %% [markdown]
# And the whole recipe:

# %%
tables.speedups(frame, rows, whole=True, full="sd-full").round(2)

# %% [markdown]
# ## Try it
#
# - The pre-trained pipeline is row "0 %": the chapter before prints its FID.
#   Which rows of this table are better than not fine-tuning at all?
# - In a profile of your own set `sd_epochs` to a fifth. Is all the data then
#   as good as the coreset of 20 % is here?
# - `dedt plan table5 --profile imagenette` says what the paper's own sizes
#   would take.
