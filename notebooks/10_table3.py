# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table III: how much faster?
#
# A coreset of a tenth takes a tenth of the steps. That is where the paper's
# speed-up comes from, and its Table III counts no more than the final
# training. But before it can start, an encoder has to be trained, images have
# to be chosen, and for the class weights a reference and a proxy are needed.
# This page prints both: the training alone, and the whole recipe.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "compute")

# %% [markdown]
# The costs are part of every result; `compute = True` makes results that are
# missing.

# %%
from dedt_lib.book import figures, findings, paper, tables

if compute:
    tables.compute_missing(profile, "table3")
frame = tables.read_cells(profile)
rows = [row for row in paper.TABLE_3 if row in set(frame.row)]

# %% tags=["remove-cell"]
full = frame[frame.row == "full"]
smallest = float(frame.ratio.min())
few = frame[(frame.row == "moderate") & (frame.ratio == smallest)]
glue(
    "t3",
    seeds=int(frame.seed.nunique()),
    wall_full=float((full.seconds / full.cpu_seconds).mean()),
    wall_few=float((few.seconds / few.cpu_seconds).mean()),
    smallest=100 * smallest,
)

# %% [markdown]
# ## The final training alone
#
# Times as fast as training on all the data, the mean of
# {glue:text}`t3_seeds:d` seeds, counted in four ways. *Images* and *network
# evaluations* are the same on every machine; an evaluation is one image
# through the network once, and a training step counts three for each image.
# The last column is the paper's, **on CIFAR-10**, by the clock of its own
# machine.

# %%
training = tables.speedups(frame, rows)
numbers = {
    (tables.LABELS[row], tables.percent(ratio)): speed
    for row in rows
    for ratio, speed in zip(paper.RATIOS, paper.TABLE_3[row])
}
training["paper (CIFAR-10)"] = [numbers.get(cell) for cell in training.index]
training.round(2)

# %% [markdown]
# Read the wall clock with care. The runs shared the machine with others, and
# not always with the same ones: a second of CPU time took
# {glue:text}`t3_wall_full:.1f` seconds in the runs on all the data, and
# {glue:text}`t3_wall_few:.1f` in those on {glue:text}`t3_smallest:.0f` %.
# Where these two differ, CPU time is the fairer measure.
#
# ## How annealing is read
#
# With $R$ of the images and the same epochs the ideal speed-up is $1/R$. If
# the last eighth of the epochs visits everything, a speed-up of $s$ becomes
#
# $$\frac{1}{0.875/s+0.125}.$$
#
# That can be checked: put the paper's own $s$ of the reweighted runs into the
# formula, and see whether its annealed ones come out. They do, up to the
# noise of a clock; so annealing is an eighth of the *epochs*, not of the
# steps, and this is how it is built here.

# %%
import pandas as pd


def annealed(s):
    return 1 / (0.875 / s + 0.125)


plain, with_tail = "moderate-reweighted", "moderate-reweighted-annealed"
check = {
    "ideal, 1/R": [1 / ratio for ratio in paper.RATIOS],
    "paper, s": paper.TABLE_3[plain],
    "paper, by the formula": [annealed(s) for s in paper.TABLE_3[plain]],
    "paper, annealed": paper.TABLE_3[with_tail],
}
check = pd.DataFrame(check, index=map(tables.percent, paper.RATIOS))
for name, row in (("s", plain), ("annealed", with_tail)):
    if row in rows:
        found = training.xs(tables.LABELS[row])["images"]
        check[f"here, {name}"] = found.reindex(check.index)
if "here, s" in check:
    formula = annealed(check["here, s"])
    check.insert(5, "here, by the formula", formula)
check.round(2)

# %% [markdown]
# ## The whole recipe
#
# The same runs with everything counted: training the encoder, selecting, the
# reference on all the data, the proxy. **Below one means slower than simply
# training on all the data.** The reference *is* such a run, so a recipe that
# needs one can only pay when the reference is there already, or when several
# coresets share it.

# %%
whole = tables.speedups(frame, rows, whole=True)
whole.round(2)

# %% tags=["remove-cell"]
def cell(table, row, ratio, unit="CPU time"):
    place = (tables.LABELS[row], tables.percent(ratio))
    return float(table[unit].get(place, float("nan")))


glue(
    "t3",
    says_whole=findings.slower_and_faster(frame, rows),
    speed=cell(training, plain, smallest),
    whole=cell(whole, plain, smallest),
    select=cell(whole, "moderate", smallest),
)

# %% [markdown]
# By CPU time, with the 95 % interval over the seeds, and with a verdict where
# there are five seeds and p is below 0.05 after Holm's correction for all rows
# and ratios. {glue:text}`t3_says_whole:s`
#
# The same as a picture, a panel for each recipe. Look at the gap between the
# training alone and the whole recipe, and at the solid line: one run on all
# the data.

# %%
ratios = [r for r in paper.RATIOS if r in set(frame.ratio)]


def at_ratios(table, row):
    found = table["CPU time"].xs(tables.LABELS[row])
    return found.reindex(map(tables.percent, ratios)).to_numpy()


panels = {}
for row in rows:
    ideal = [annealed(1 / r) if row == with_tail else 1 / r for r in ratios]
    paper_at = dict(zip(paper.RATIOS, paper.TABLE_3[row]))
    panels[tables.LABELS[row].replace(" + ", "\n+ ")] = {
        "ideal": ideal,
        "paper, training": [paper_at[r] for r in ratios],
        "here, training": at_ratios(training, row),
        "here, whole recipe": at_ratios(whole, row),
    }
figures.speedup_by_ratio(panels, ratios)

# %% [markdown]
# ## Where the time goes
#
# The ledger of each recipe at the smallest ratio, in units of one run on all
# the data, in CPU time. The dashed line is that run.

# %%
first = frame[(frame.ratio == smallest) & (frame.seed == frame.seed.min())]
costs = {result["row"]: result["costs"] for result in first.result}
ledgers = {
    tables.LABELS[row]: {
        stage: cost["cpu_seconds"] for stage, cost in costs[row].items()
    }
    for row in dict.fromkeys([*paper.TABLE_1, *rows])
    if row in costs
}
base = full[full.seed == full.seed.min()].cpu_seconds.iloc[0]
figures.cost_bars(ledgers, base)

# %% tags=["remove-cell"]
embeds = {
    result["recipe"]["encoder"]: result["costs"]["embed"]["cpu_seconds"] / base
    for result in frame.result
    if "embed" in result["costs"] and result["recipe"]["encoder"]
}
dearest = sorted(embeds, key=embeds.get)
listed = ", ".join(f"{name} {embeds[name]:.2f}" for name in dearest) or "no results yet"
glue("t3", embeds=listed)

# %% [markdown]
# An encoder is trained once and serves all ratios and seeds; the ledger
# counts it in full each time. The training of the encoders, in runs on all the
# data: {glue:text}`t3_embeds:s`. At the paper's sizes a ResNet-18 takes little
# beside a diffusion model. But a DDAE *is* a diffusion model trained on all
# the data: a recipe that has to train one first has already spent what it
# wants to save.
#
# ## Try it
#
# - How many coresets must share one reference before the whole recipe is
#   faster than training on all the data for each of them?
# - `dedt plan --profile paper` measures a few steps on your machine and says
#   what the paper's own sizes would take.
# - Next: [class by class](11_figure2).
