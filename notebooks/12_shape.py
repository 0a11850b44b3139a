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
# What do Tables I to III come to? One page in plain words. (The latent models
# have theirs at the end of [Table IV](16_table4) and [Table V](18_table5).)
# Absolute numbers of digits and of CIFAR-10 cannot be compared, but the
# *shape* can: which row is below which, what helps, what it costs. Every
# sentence that depends on a result was put together by the page from the
# committed results. Where the seeds do not tell two rows apart, the question
# is open, however large the mean.

# %% tags=["parameters"]
profile = "digits"
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "compute")

# %% [markdown]
# All results of the U-Net on pixels; `compute = True` makes those that are
# missing.

# %%
from dedt_lib.book import figures, findings, paper, tables

shown = ("table1", "table2", "table3")
if compute:
    for table in shown:
        tables.compute_missing(profile, table)
frame = tables.read_cells(profile)
rows = {row for table in shown for row in tables.TABLES[table]}
frame = frame[frame.row.isin(rows)]

# %% [markdown]
# All comparisons that this page makes, named once: each row against drawing
# blindly, and those behind the questions.

# %%
ours, annealed = "moderate-reweighted", "moderate-reweighted-annealed"
pairs = {
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
}
blindly = [(row, "random") for row in paper.TABLE_1 if row != "random"]
page = findings.Page(frame, [*blindly, *pairs.values()])

# %% tags=["remove-cell"]
from dedt_lib.experiment import Experiment

absent = [tables.LABELS[row] for row in paper.TABLE_1 if row not in set(frame.row)]
glue(
    "sh",
    order=findings.order_in_words(frame, paper.TABLE_1),
    absent=f" (Not there yet: {'; '.join(absent)}.)" if absent else "",
    summary=page.summary(),
    **{name: page.answer(*pair) for name, pair in pairs.items()},
)

# %% [markdown]
# {glue:text}`sh_summary:s`
#
# ## Do the rows come in the paper's order?
#
# {glue:text}`sh_order:s`{glue:text}`sh_absent:s`
#
# A line per row, from its rank in the paper to its rank here. Lines that
# cross are pairs that the two put the other way round.

# %%
order = findings.same_order(frame, paper.TABLE_1)
figures.rank_slopes(order, tables.LABELS)

# %% [markdown]
# The question behind every row: is it better than drawing blindly? Each entry
# has the difference *here / in the paper*, where one run of each is all there is.

# %%
import pandas as pd

verdicts = {}
blind = paper.by_ratio(paper.TABLE_1, "random")
for row, _ in blindly:
    theirs = paper.by_ratio(paper.TABLE_1, row)
    for here in page.compare(row, "random").itertuples():
        ratio = here.Index
        word = "better" if theirs[ratio] < blind[ratio] else "worse"
        entry = f"{findings.entry(here)} / {word}"
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
classes = findings.by_class(frame, smallest)
glue(
    "sh",
    gains=findings.gains_in_words(classes) if classes else "No results yet.",
    claim=findings.heaviness_in_words(classes) if classes else "No results yet.",
    percent=tables.percent(smallest),
)

# %% [markdown]
# ## Which class gains?
#
# At {glue:text}`sh_percent:s`. {glue:text}`sh_gains:s` The paper has all
# classes gain; [Figure 2](11_figure2) shows them one by one.
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
recipe = ["moderate", "moderate-reweighted", "moderate-reweighted-annealed"]
recipe = [row for row in recipe if row in set(frame.row)]
alone, everything = (
    tables.speedups(frame, recipe, whole=whole)["CPU time"] for whole in (False, True)
)
lines = []
for row in recipe:
    place = (tables.LABELS[row], tables.percent(smallest))
    if place in everything:
        fast, whole = alone[place], everything[place]
        lines.append(f"{place[0]}: {fast:.1f} times as fast in training, {whole:.2f} in all")
experiment = Experiment(profile)
data, model, seeds = experiment.data, experiment.build_model(), int(frame.seed.nunique())
glue(
    "sh",
    cost=f"At {tables.percent(smallest)}: {'; '.join(lines) or findings.NO_RESULTS}.",
    slower=f"{(everything < 1).sum()} of {len(everything)}",
    copies=findings.copies_in_words(frame),
    images=len(data),
    side=experiment.profile.data.image_size,
    each=int(smallest * len(data) / len(data.class_names)),
    steps=experiment.steps_at(smallest),
    weights=sum(p.numel() for p in model.parameters()) / 1000,
    seeds=seeds,
)

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
# - **The seeds.** {glue:text}`sh_seeds:d`. What they could have shown stands at
#   the top of this page; smaller differences may be there, and were not seen.
# - **The settings.** One guidance, one learning rate and one step size of
#   group DRO for all rows. Others may rank the rows differently.
#
# So a "no" on this page says that something is not *always* so, and "the seeds
# do not tell" says nothing on whether it is. Whether it is
# so on CIFAR-10 takes the paper's own sizes; the profiles `short` and `paper`
# hold them.
#
# ## Try it
#
# - Which of the answers above would you bet on for CIFAR-10, and which limit
#   makes you doubt the others?
# - Change `unet.guidance` or `reweight.step_size` in a profile of your own, run
#   `make tables PROFILE=mine.toml`, and open this page with `profile` set to
#   that file. Which answers change?
# - Next: [do the weights carry information?](20_controls).
