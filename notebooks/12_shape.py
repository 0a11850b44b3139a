# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The shape of the results
#
# What do the tables come to? One page in plain words. Absolute numbers of
# digits and of CIFAR-10 cannot be compared, but the *shape* can: which row is
# below which, what helps, what it costs. Every sentence that depends on a
# result was put together by the page from the committed results. "In every
# seed" means that all seeds agree on the sign of a difference; where they do
# not, the question is open, however large the mean.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.notebook import check_parameters

check_parameters("profile", "compute")

# %% [markdown]
# All results of the profile; `compute = True` makes those that are missing.

# %%
from dedt_lib import figures, paper, tables

if compute:
    for table in tables.TABLES:
        tables.compute_missing(profile, table)
frame = tables.read_cells(profile)

# %% tags=["remove-cell"]
import numpy as np
from myst_nb import glue
from scipy.stats import spearmanr

from dedt_lib.experiment import Experiment

WORDS = {
    "lower": "better in every seed",
    "higher": "worse in every seed",
    "undecided": "undecided between seeds",
}


def compared(row, other, value="fid"):
    """tables.compare, or None where a row has no results."""
    if not {row, other} <= set(frame.row):
        return None
    table = tables.compare(frame, row, other, value)
    return table if len(table) else None


def answer(row, other, value="fid"):
    """Yes, no or open; then where; then by how much."""
    table = compared(row, other, value)
    if table is None:
        return "No results yet."
    verdicts = set(table.verdict)
    head = (
        "Yes"
        if verdicts == {"lower"}
        else "Open"
        if verdicts == {"undecided"}
        else "No"
        if "lower" not in verdicts
        else "At some ratios, and nowhere is it worse"
        if "higher" not in verdicts
        else "At some ratios, and at others it is worse"
    )
    parts = []
    for verdict, words in WORDS.items():
        ratios = [tables.percent(r) for r in table.index[table.verdict == verdict]]
        if ratios:
            parts.append(f"{words} at {', '.join(ratios)}")
    by = ", ".join(f"{d:+.2f}" for d in table.difference)
    return (
        f"{head}: {'; '.join(parts)}. Mean difference, ratio by ratio: {by} "
        "(below zero is better)."
    )


def listed(names):
    return ", ".join(names) or "none"


order = tables.same_order(frame, paper.TABLE_1)
if len(order):
    same = int(order.same.sum())
    agree = ", ".join(f"{100 * share:.0f} % at {ratio}" for ratio, share in order.agree.items())
    head = "Yes" if same == len(order) else "Partly" if same else "No"
    ordered = (
        f"{head}. The rows come in the paper's order at {same} of {len(order)} ratios. "
        f"Of all pairs of rows, these shares stand as in the paper: {agree} (half is chance)."
    )
else:
    ordered = "No results yet."
absent = [tables.LABELS[row] for row in paper.TABLE_1 if row not in set(frame.row)]
glue("sh_order", ordered, display=False)
glue("sh_absent", f" (Not there yet: {'; '.join(absent)}.)" if absent else "", display=False)

ours, annealed = "moderate-reweighted", "moderate-reweighted-annealed"
for key, pair in {
    "select": ("moderate", "random"),
    "reweight": (ours, "moderate"),
    "worst": (ours, "moderate", "worst"),
    "early": (ours, "early-stopping"),
    "early_random": ("random", "early-stopping"),
    "anneal": (annealed, ours),
    "anneal_early": (annealed, "early-stopping-annealed"),
    "anneal_random": (annealed, "random-annealed"),
    "infobatch": (annealed, "infobatch-annealed"),
    "budget": (annealed, "infobatch-budget-annealed"),
}.items():
    glue(f"sh_{key}", answer(*pair), display=False)

# %% [markdown]
# ## Do the rows come in the paper's order?
#
# {glue:text}`sh_order:s`{glue:text}`sh_absent:s`
#
# A line per row, from its rank in the paper to its rank here. Lines that
# cross are pairs that the two put the other way round.

# %%
order = tables.same_order(frame, paper.TABLE_1)
figures.rank_slopes(order, tables.LABELS)

# %% [markdown]
# The question behind every row: is it better than drawing blindly? Each entry
# says what happened *here / in the paper*.

# %%
import pandas as pd

words = {"lower": "better", "higher": "worse", "undecided": "open"}
verdicts = {}
for row in [row for row in paper.TABLE_1 if row in set(frame.row)][1:]:
    here = tables.compare(frame, row, "random").verdict
    for ratio, ours, blind in zip(
        paper.RATIOS, paper.TABLE_1[row], paper.TABLE_1["random"]
    ):
        if ratio in here:
            theirs = "better" if ours < blind else "worse"
            entry = f"{words[here[ratio]]} / {theirs}"
            column = verdicts.setdefault(tables.percent(ratio), {})
            column[tables.LABELS[row]] = entry
pd.DataFrame(verdicts).fillna("–")

# %% [markdown]
# ## Does selection help?
#
# *ResNet-18, Moderate-DS against uniform random.*
# {glue:text}`sh_select:s`
#
# ## Does reweighting help?
#
# *Moderate-DS with class weights against without, FID.*
# {glue:text}`sh_reweight:s`
#
# *The same for the class that is worst.* {glue:text}`sh_worst:s`

# %% tags=["remove-cell"]
smallest = float(frame.ratio.min())
chosen = frame[(frame.ratio == smallest) & frame.row.isin(["moderate", "moderate-reweighted"])]
wide = chosen.pivot(index="seed", columns="row", values="result")
wide = wide.dropna() if len(wide.columns) == 2 else wide[:0]
if len(wide):
    before = np.array([r["classwise"] for r in wide["moderate"]])
    after = np.array([r["classwise"] for r in wide["moderate-reweighted"]])
    weights = np.array([r["class_weights"] for r in wide["moderate-reweighted"]])
    names = np.array(wide["moderate"].iloc[0]["class_names"])
    gain = (before - after).mean(axis=0)
    always, never = (before > after).all(axis=0), (before < after).all(axis=0)
    seeds = f"{len(wide)} seed" + "s" * (len(wide) > 1)
    gains = (
        f"At {tables.percent(smallest)}, over {seeds}, these classes have a lower FID in every "
        f"seed: {listed(names[always])}. A higher one in every seed: {listed(names[never])}. "
        f"On average class {names[gain.argmax()]} gains most ({-gain.max():+.2f}) and class "
        f"{names[gain.argmin()]} least ({-gain.min():+.2f})."
    )
    difficulty, heaviness = before.mean(axis=0), weights.mean(axis=0)
    heavy, easy = heaviness > 1 / len(names), difficulty < np.median(difficulty)
    rank = spearmanr(heaviness, difficulty).statistic
    verdict = (
        "Yes"
        if rank < -0.3 and (heavy & easy).sum() > heavy.sum() / 2
        else "No, rather the hard ones"
        if rank > 0.3
        else "Neither they nor the hard ones"
    )
    claim = (
        f"{verdict}: of the {heavy.sum()} classes that are heavier than average "
        f"({listed(names[heavy])}), {(heavy & easy).sum()} have a class-wise FID below the "
        f"median before reweighting. The rank correlation of weight and FID is {rank:.2f}; "
        "the paper's claim would make it negative."
    )
else:
    gains = claim = "No results yet."
glue("sh_gains", gains, display=False)
glue("sh_claim", claim, display=False)

# %% [markdown]
# ## Which class gains?
#
# {glue:text}`sh_gains:s` The paper has all classes gain;
# [Figure 2](11_figure2) shows them one by one.
#
# ## Are the heavier classes the easy ones?
#
# The paper says so of its Figure 2. {glue:text}`sh_claim:s`
#
# ## Is pruning better than stopping early?
#
# The control that decides. All the data, for as many steps as the coreset
# takes, costs the same and needs no encoder, no reference and no proxy.
#
# *Moderate-DS with class weights against it.* {glue:text}`sh_early:s`
#
# *Uniform random against it.* {glue:text}`sh_early_random:s`
#
# ## Does annealing help?
#
# *With all the data in the last eighth of the epochs, against without.*
# {glue:text}`sh_anneal:s` The annealed runs see more data, so the fairer
# questions are these.
#
# *Against all the data at equal steps.* {glue:text}`sh_anneal_early:s`
#
# *Against uniform random, annealed too.* {glue:text}`sh_anneal_random:s`
#
# *Against InfoBatch, which sees more at the same ratio.*
# {glue:text}`sh_infobatch:s`
#
# *Against InfoBatch to budget, which sees as much.*
# {glue:text}`sh_budget:s`

# %% tags=["remove-cell"]
def speeds(rows, whole):
    there = [row for row in rows if row in set(frame.row)]
    return tables.speedups(frame, there, whole=whole)["CPU time"] if there else {}


recipe = ["moderate", "moderate-reweighted", "moderate-reweighted-annealed"]
alone, everything = speeds(recipe, False), speeds(recipe, True)
lines = []
for row in recipe:
    place = (tables.LABELS[row], tables.percent(smallest))
    if place in everything:
        fast, whole = alone[place], everything[place]
        lines.append(f"{place[0]}: {fast:.1f} times as fast in training, {whole:.2f} in all")
slower = [cell for cell, speed in dict(everything).items() if speed < 1]
cost = f"At {tables.percent(smallest)}: {'; '.join(lines) or 'no results yet'}."
glue("sh_cost", cost, display=False)
glue("sh_slower", f"{len(slower)} of {len(everything)}", display=False)

frame["share_copied"] = 100 * frame.copies.astype(float)
copies = frame.groupby(["row", "ratio"]).share_copied.mean().dropna()
if len(copies):
    (row, ratio), most = copies.idxmax(), copies.max()
    everyone = copies.get(("full", 1.0), float("nan"))
    said = (
        f"{'No' if most < 1 else 'A little' if most < 5 else 'Yes'}. The most near-copies are "
        f"{most:.1f} % of the samples ({tables.LABELS[row]}, {tables.percent(ratio)}); for all "
        f"the data it is {everyone:.1f} %, and one per cent is what new real images show by "
        "chance."
    )
else:
    said = "It was not counted: there are no held-out images."
glue("sh_copies", said, display=False)

experiment = Experiment(profile)
data, model = experiment.data, experiment.build_model()
glue("sh_images", len(data), display=False)
glue("sh_side", experiment.profile.image_size, display=False)
glue("sh_each", int(smallest * len(data) / len(data.class_names)), display=False)
glue("sh_steps", experiment.steps_at(smallest), display=False)
glue("sh_weights", sum(p.numel() for p in model.parameters()) / 1000, display=False)
glue("sh_seeds", int(frame.seed.nunique()), display=False)
glue("sh_chance", 200 * 0.5 ** int(frame.seed.nunique()), display=False)
glue("sh_percent", tables.percent(smallest), display=False)

# %% [markdown]
# ## What does the whole recipe cost?
#
# {glue:text}`sh_cost:s` Counted whole, {glue:text}`sh_slower:s` of these
# recipes and ratios are slower than one run on all the data
# ([Table III](10_table3)).
#
# ## Does the model copy its few images?
#
# {glue:text}`sh_copies:s` The measure is blind to one thing: with few
# training images there are few to be near to.
#
# ## How far this goes
#
# - **The images.** {glue:text}`sh_images:d` digits of
#   {glue:text}`sh_side:d` pixels on a side. A coreset of
#   {glue:text}`sh_percent:s` holds about {glue:text}`sh_each:d` of a class.
#   The paper's holds 500, of photographs.
# - **The network.** {glue:text}`sh_weights:.0f` thousand weights and
#   {glue:text}`sh_steps:d` steps on the smallest coreset. A network for
#   CIFAR-10 has tens of millions of weights, and the paper trains it for 2000
#   epochs.
# - **The encoders.** All four were trained on these digits. What the paper
#   says of encoders that have seen other, larger images is not tested.
# - **The yardstick.** FID in the features of a small classifier of digits.
#   It asks for the odd digits as well as for the plain ones, and a selector
#   that leaves the odd ones out may pay for it.
# - **The seeds.** {glue:text}`sh_seeds:d`. If a row made no difference at all,
#   so few would still agree by chance {glue:text}`sh_chance:.0f` % of the time.
# - **The settings.** One guidance, one learning rate and one step size of
#   group DRO for all rows. Others may rank the rows differently.
#
# So a "no" on this page says that something is not *always* so. Whether it is
# so on CIFAR-10 takes the paper's own sizes; the profiles `short` and `paper`
# hold them.
#
# ## Try it
#
# - Which of the answers above would you bet on for CIFAR-10, and which limit
#   makes you doubt the others?
# - Change `guidance` or `dro_step_size` in a profile of your own, run
#   `make tables PROFILE=mine.toml`, and open this page with `profile` set to
#   that file. Which answers change?
# - Next: [choosing from real CIFAR-10](13_cifar10).
