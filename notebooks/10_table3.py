# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table III: is the whole recipe faster than training on all the data?
#
# A coreset of a tenth takes a tenth of the steps. The paper's Table III counts
# this speed-up of the final training. But before the final training can start,
# a feature extractor is trained, images are selected, and the class weights
# need a reference and a proxy. This page counts both the final training and the
# whole recipe. The costs are part of every committed result; `compute = True`
# computes missing results.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "compute")

# %%
import pandas as pd
from IPython.display import Markdown

from dedt_lib.book import figures, findings, paper
from dedt_lib.book import grid, results, runs, tables

if compute:
    results.compute_missing(profile, "table3")
frame = results.read_cells(profile)
rows = [row for row in paper.TABLE_3 if row in set(frame.row)]
training = tables.speedups(frame, rows)
whole = tables.speedups(frame, rows, whole=True)
unit = "network evaluations"
slower = (whole[unit] < 1).sum()
Markdown(
    f"**{slower} of {len(whole)} whole recipes (rows and ratios) cost more "
    "than one run on all the data**, by evaluations of diffusion networks. "
    f"Of the final trainings, {(training[unit] < 1).sum()} of "
    f"{len(training)} do."
)

# %% [markdown]
# ## The whole recipe
#
# The table says how many times as fast the whole recipe is as one run on all the
# data. The reference on all the data and the proxy are counted. **Below one means
# more work than training on all the data.** The unit is a *network evaluation*:
# one image through a diffusion network once; a training step counts three for
# each image. The count is the same on every machine and for every seed. The
# other feature extractors are networks of another kind. Their CPU time is listed
# below; it can be more than half of that of a run on all the data.

# %%
runs.linked(tables.whole_speedups(frame, rows), rows)

# %% [markdown]
# ## The final training alone
#
# Means over the seeds, counted in four ways. The last column is the paper's,
# **on CIFAR-10**, in wall-clock time on its own machine.

# %%
numbers = {
    (grid.LABELS[row], tables.percent(ratio)): speed
    for row in rows
    for ratio, speed in zip(paper.RATIOS, paper.TABLE_3[row])
}
training["paper (CIFAR-10)"] = [numbers.get(cell) for cell in training.index]
runs.linked(training.round(2), rows)

# %% [markdown]
# The rows were made on different machines and beside other work, and an
# evaluation of the same network did not take equally long in each. So the times of
# different rows do not compare; images and network evaluations do. The table
# shows how long an evaluation took.

# %%
own = frame[frame.row.isin([*rows, "full"])]
milliseconds = {
    "CPU time": 1000 * own.cpu_seconds / own.evaluations,
    "wall clock": 1000 * own.seconds / own.evaluations,
}
milliseconds = {
    f"{clock} of an evaluation (ms)": taken.groupby(own.row).mean()
    for clock, taken in milliseconds.items()
}
pd.DataFrame(milliseconds).rename(grid.LABELS).rename_axis(None).round(2)

# %% [markdown]
# ## The picture
#
# One panel for each recipe. Compare the final training with the whole recipe,
# and both with the solid line, one run on all the data.

# %%
ratios = sorted(frame[frame.row.isin(rows)].ratio.unique())
plain, with_tail = "moderate-reweighted", "moderate-reweighted-annealed"


def annealed(s):
    return 1 / (0.875 / s + 0.125)


def at_ratios(table, row):
    found = table[unit].xs(grid.LABELS[row])
    return found.reindex(map(tables.percent, ratios)).to_numpy()


panels = {}
for row in rows:
    theirs = paper.by_ratio(paper.TABLE_3, row)
    panels[grid.LABELS[row].replace(" + ", "\n+ ")] = {
        "ideal": [
            annealed(1 / r) if row == with_tail else 1 / r for r in ratios
        ],
        "paper, training": [theirs.get(r, float("nan")) for r in ratios],
        "here, training": at_ratios(training, row),
        "here, whole recipe": at_ratios(whole, row),
    }
if rows:
    shown = figures.speedup_by_ratio(panels, ratios)
else:
    shown = Markdown("No results yet.")
shown

# %% [markdown]
# ## Where the work goes
#
# The network evaluations of each recipe at the smallest ratio, stage by stage,
# in units of one run on all the data. The dashed line is that run. A DDAE is a
# diffusion network too, so its training counts where it is the feature
# extractor.

# %%
full = frame[frame.row == "full"].sort_values("seed")
seed = full.seed.iloc[0] if len(full) else 0
smallest = frame.ratio.min()
first = frame[(frame.ratio == smallest) & (frame.seed == seed)]
costs = {result["row"]: result["costs"] for result in first.result}
ledgers = {
    grid.LABELS[row]: {
        stage: cost["evaluations"] for stage, cost in costs[row].items()
    }
    for row in dict.fromkeys([*paper.TABLE_1, *rows])
    if row in costs
}
if len(full) and ledgers:
    shown = figures.cost_bars(ledgers, full.evaluations.iloc[0])
else:
    shown = Markdown("No results yet.")
shown

# %%
own = frame[(frame.ratio == smallest) & frame.row.isin(paper.TABLE_1)]
embeds = pd.DataFrame(
    [
        (r["recipe"]["encoder"], r["costs"]["embed"]["cpu_seconds"])
        for r in own.result
        if "embed" in r["costs"]
    ],
    columns=["encoder", "seconds"],
)
embeds = embeds.groupby("encoder").seconds.mean().sort_values()
listed = ", ".join(f"`{name}` {took:.0f}" for name, took in embeds.items())
of_full = f"{full.cpu_seconds.mean():.0f}" if len(full) else "no results yet"
Markdown(
    "CPU seconds to train a feature extractor and to embed all images, the "
    f"mean over the seeds of Table I: {listed or 'no results yet'}; of one "
    f"run on all the data: {of_full}."
)

# %% [markdown]
# ## How the annealed row is counted
#
# With a share $R$ of the images and the same epochs the ideal speed-up is
# $1/R$. If the last eighth of the *epochs* visits all the data, a speed-up of
# $s$ becomes
#
# $$\frac{1}{0.875/s+0.125}.$$
#
# The paper's numbers can check this reading. The formula, applied to the
# paper's $s$ without annealing, should give its annealed speed-ups.

# %%
check = {
    "ideal, 1/R": [1 / ratio for ratio in paper.RATIOS],
    "paper, s": paper.TABLE_3[plain],
    "paper, by the formula": [annealed(s) for s in paper.TABLE_3[plain]],
    "paper, annealed": paper.TABLE_3[with_tail],
}
check = pd.DataFrame(check, index=map(tables.percent, paper.RATIOS))
for name, row in (("s", plain), ("annealed", with_tail)):
    if row in rows:
        found = training.xs(grid.LABELS[row])["images"]
        check[f"here, {name}"] = found.reindex(check.index)
check.astype(float).round(2).astype(object).fillna("–")

# %% [markdown]
# The two columns of the paper agree within the accuracy of a clock. Annealing
# therefore takes an eighth of the epochs, and not of the steps, and this is how
# the library implements it.
#
# ## What follows
#
# The speed-up of the final training is arithmetic: fewer images, fewer steps.
# What it is worth depends on the stages before it. The reference *is* one run
# on all the data, so a recipe that has to train it cannot be faster than that
# run. Such a recipe pays off only if the reference exists already, or if
# several coresets share it. Selection alone needs a feature extractor, which
# serves all ratios, although the ledger counts it in full each time. A DDAE
# is a diffusion model that was trained on all the data, so a recipe that
# trains one first has spent what it wants to save. The whole recipes, by
# network evaluations:

# %%
Markdown(findings.faster_in_words(whole[unit]))

# %% [markdown]
# ## The runs behind this page
#
# A number of a table leads to its line here, and the figures and sentences were
# made from the same runs. A line has the FID of each seed, the commit of the
# code, where it was noted, and the command that computes the cell of the first
# seed.

# %%
runs.behind(frame, [*rows, "full"])

# %% [markdown]
# ## In short
#
# A coreset shortens the final training almost in proportion to its size. Class
# weights need a reference that was trained on all the data, and its cost belongs
# to the recipe. A speed-up is a saving only after everything that the trained
# model needed has been counted.
#
# ## Try it
#
# - How many coresets must share one reference before the whole recipe is
#   faster than training on all the data for each of them?
#   ([Solution](solutions_results.ipynb#Table-III))
# - If the final training took no time at all, how fast would the whole recipe
#   be? ([Solution](solutions_results.ipynb#Table-III))
# - Next: [class by class](11_figure2.ipynb).
