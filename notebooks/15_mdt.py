# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # MDT: a transformer trained with masked tokens
#
# The Masked Diffusion Transformer
# ([Gao et al., 2023](https://arxiv.org/abs/2303.14389)) cuts a latent into
# **tokens** and trains on every image twice: once with all tokens, and once
# with a third or more of them masked. It thereby learns to infer parts of an
# image from their context. The paper prunes the data of the small version,
# MDT-S. Selection, class weights and annealing stay the same; only the model
# and its sampler are new.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.2
seed = 0
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed", "compute")

# %% [markdown]
# The example is trained on a fifth of the images, drawn uniformly at random.
# This page is about the model, and [the next one](16_table4.ipynb) about the
# effect of selection on it. Other models on this page come from the results of
# the tables (`compute = True` computes those that are missing).

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures, grid, results, tables
from dedt_lib.experiment import Experiment

if compute:
    results.compute_missing(profile, "table4")
frame = results.read_cells(profile)
recipe = grid.cell_recipe("mdt-random", ratio, seed)
experiment = Experiment(profile, **recipe)
data, p = experiment.data, experiment.profile
model = experiment.build_model()

# %% [markdown]
# ## Tokens and masks
#
# A token is a square of the latent. Each batch draws a share of tokens to
# mask, and each image draws which tokens are masked.

# %%
from dedt_lib.models import build_model

published = build_model("mdt")


def weights_of(network):
    return sum(w.numel() for w in network.parameters())


Markdown(
    f"The published MDT-S has {published.tokens} tokens and "
    f"{weights_of(published) / 1e6:.1f} million weights. Here it has "
    f"{model.tokens} tokens and {weights_of(model) / 1000:.0f} thousand "
    f"weights. Between {100 * p.mdt.mask_ratio:.0f} and "
    f"{100 * (p.mdt.mask_ratio + p.mdt.mask_range):.0f} % of the tokens are "
    "masked."
)

# %% [markdown]
# The figure shows the masks of five batches. Each token lies over the part of
# the image that it comes from, and masked tokens are coloured. The network
# sees noisy latents and not pixels, and a token also holds some information
# about the pixels of its neighbours.

# %%
import math

from dedt_lib.randomness import torch_generator

K = len(data.class_names)
first = [int((data.labels == k).argmax()) for k in range(K)]
kept = {}
for batch in range(5):
    generator = torch_generator(seed, "masks to look at", batch)
    tokens = model.draws(K, generator, "cpu")["kept"]
    hidden = 1 - tokens.shape[1] / model.tokens
    kept[f"batch {batch}: {100 * hidden:.0f} %"] = tokens
side = math.isqrt(model.tokens)
figures.masked_tokens(data.images[first], kept, side)

# %% [markdown]
# The encoder, the first part of the network, receives the visible tokens only.
# Before the decoder a learned token fills each gap, and one more block, the
# **side interpolater**, predicts what belongs there from the visible tokens.
# The visible tokens bypass this block. It is used in training only; no token
# is masked when samples are drawn.
#
# How good is the prediction? The trained model receives the same noisy latents
# twice, once with all tokens and once masked. The table shows the squared error
# of the predicted noise, by quarters of the timesteps.

# %%
from torch.nn import functional

from dedt_lib.training import draw_batch

trained = experiment.train()
settings, source = experiment.settings, experiment.latents
everything = torch.arange(len(data))
batch = draw_batch(source, everything, settings, seed, 0, trained)
t, labels, kept = batch.t, batch.labels, batch.extra["kept"]
signal, deviation = trained.schedule(t, "signal", "deviation")
noisy = signal * batch.images + deviation * batch.noise


def token_errors(kept=None):
    channels = batch.noise.shape[1]
    with torch.no_grad():
        estimate = trained(noisy, t, labels, kept)[:, :channels]
    error = (estimate - batch.noise).square().mean(dim=1)
    return functional.avg_pool2d(error, p.mdt.patch_size).flatten(1)


whole, gaps = token_errors(), token_errors(kept)
seen = torch.zeros_like(gaps, dtype=torch.bool).scatter(1, kept, True)
quarters = {}
for start in range(0, 1000, 250):
    inside = ((t >= start) & (t < start + 250))[:, None]
    quarters[f"t from {start}"] = {
        "no token masked": whole[inside[:, 0]].mean(),
        "masked, at visible tokens": gaps[inside & seen].mean(),
        "masked, at masked tokens": gaps[inside & ~seen].mean(),
    }
pd.DataFrame(quarters).astype(float).round(3)

# %%
base = whole.mean()
at_seen = 100 * (gaps[seen].mean() / base - 1)
at_masked = 100 * (gaps[~seen].mean() / base - 1)
Markdown(
    "Over all timesteps masking changes the error by "
    f"{at_seen:+.1f} % at the visible tokens and by {at_masked:+.1f} % at "
    "the masked tokens."
)

# %% [markdown]
# A masked token is not fully unknown to the network: in this second version of
# MDT the decoder also receives all the noisy tokens, through skip connections
# around the encoder.
#
# ## The loss
#
# The loss of an image is the sum of two terms, one with all tokens and one with
# masked tokens, each with noise of its own. Each term is a squared error with
# the **weight** $\min(\mathrm{SNR},5)/\mathrm{SNR}$
# ([Hang et al., 2023](https://arxiv.org/abs/2303.09556)). Timesteps with a
# signal-to-noise ratio above five are easy, and they count less. The left panel
# shows the weight.
#
# The network also predicts the variance of the step back to $t-1$. It
# interpolates between two known bounds (right panel). Only a second term of the
# loss, the variational bound, trains this output.

# %%
schedule = model.schedule
figures.loss_by_timestep(
    schedule.weight, schedule.log_posterior, schedule.log_beta
)

# %%
easy = int((schedule.weight < 1).sum())
Markdown(
    f"The weight is below one for the first {easy} timesteps. At t = 100 it "
    f"is {schedule.weight[100]:.2f}."
)

# %% [markdown]
# ## Guidance that grows
#
# The U-Net is sampled with a constant guidance weight. MDT starts without
# guidance, while the layout forms, and ends with the full scale. A scale of
# one means no guidance. Sampling runs from left to right in the figure. The
# power decides how late the scale rises; the published power is four.

# %%
from dedt_lib.models.schedule import power_cosine

timesteps, g = torch.arange(1000), p.mdt.guidance
figures.guidance_schedule({
    f"power {power}": power_cosine(timesteps, g, power)
    for power in (4, 2, 1)
})

# %% [markdown]
# The published code applies guidance to three of the four channels of a
# latent, because it had been written for the three colours of a pixel. The
# published results were made with it, so it is kept here.
#
# ## Along the sampling path
#
# The sampler is ancestral: each step draws new noise with the variance that the
# model predicts. MDT's code truncates the decoded images to 8-bit integers;
# this book rounds, as everywhere. The figure shows the decoded latents at
# several steps.

# %%
from dedt_lib.sampling import (
    initial_noise,
    respaced_ddpm,
    sample_generators,
)

steps = p.mdt.steps
keep = sorted({steps * k // 5 for k in range(5)})
_, frames = respaced_ddpm(
    trained,
    initial_noise(range(K), trained.sample_shape, seed),
    torch.arange(K),
    steps=steps,
    guidance=g,
    generators=sample_generators(range(K), seed),
    keep=keep,
)
decode = experiment.samples.decode
figures.image_rows(
    [decode(x).numpy() for x in frames],
    [f"step {k}" for k in keep] + ["done"],
)

# %% [markdown]
# ## Samples, from less and from more data
#
# The figure shows samples of the same classes from the same noise, from models
# trained on more and more of the data. They were stored with the results of
# the tables. The row is the paper's best one: Gaussian selection in the
# features of Inception-v3, with class weights. Look for broken strokes at small
# ratios, and for variety down a column.

# %%
row = "mdt-gaussian-reweighted"
sheets = {
    tables.percent(r): results.read_samples(profile, row, r, seed)
    for r in p.mdt.ratios
}
sheets["all the data"] = results.read_samples(profile, "mdt-full", 1.0, seed)
labels = experiment.sample_labels()
sheets = {
    name: figures.class_columns(s, labels[: len(s)], K) if K <= 10 else s
    for name, s in sheets.items()
    if s is not None
}
if sheets:
    shown = figures.image_sheets(sheets, columns=min(K, 10))
else:
    shown = "No results yet."
shown

# %% [markdown]
# ## Class weights for MDT
#
# Group DRO applies unchanged, except for one question: which loss should be
# compared? MDT's own loss weighs timesteps, masks tokens and trains the
# variance. So proxy and reference are compared by the plain squared error with
# all tokens, and the class weights then act on the full loss. The proxy is
# short, a tenth of the epochs as in the paper. Look at how far the weights
# move in so few steps.

# %%
cells = frame[(frame.row == row) & (frame.seed == seed)].sort_values("ratio")
readings = {
    tables.percent(r): results.reading(result)
    for r, result in zip(cells.ratio, cells.result)
}
if readings:
    shown = figures.weight_trajectories(readings, data.class_names)
else:
    shown = "No results yet."
shown

# %% [markdown]
# The table shows the range of the averaged weights (times $K$), the mean excess
# after the burn-in, and the share of samples whose excess was clipped. A
# clipped sample is one where the proxy is as good as the reference. If almost
# none is clipped, the short proxy is still worse everywhere, and all samples
# push the weights.

# %%
summary = {}
for name, result in zip(readings, cells.result):
    dro, weights = result["dro"], K * readings[name]["weights"]
    summary[name] = {
        "proxy steps": dro["steps"],
        "smallest weight": weights.min(),
        "largest weight": weights.max(),
        "mean excess": dro["mean_excess"],
        "clipped (%)": 100 * dro["clipped"],
    }
pd.DataFrame(summary).T.round(3)

# %% [markdown]
# [Table IV](16_table4.ipynb) shows whether such weights help.
#
# ## A thousand classes
#
# With ten classes a batch contains every class. ImageNet has a thousand
# classes, and a batch of 256 contains only some of them. What does group DRO
# use for an absent class? The code of DoReMi uses its **previous** excess,
# however old. The alternative is **zero**, so that only the classes in the
# batch gain weight.
#
# A simulation without networks shows the difference, over as many steps as the
# paper's proxy takes on a tenth of ImageNet. The excess of a sample is drawn
# at random. In one class of ten it is twice as large on average: these hard
# classes ought to gain weight.

# %%
from dedt_lib.config.profile import load_profile
from dedt_lib.reweighting import class_excess, update_weights

imagenet, classes, images = load_profile("imagenet"), 1000, 128_117
size = imagenet.mdt.batch_size
steps = imagenet.mdt.proxy_epochs * images // size
how = {
    "step_size": imagenet.reweight.step_size,
    "smoothing": imagenet.reweight.smoothing,
}
hard = np.arange(classes) < classes // 10
expected = np.where(hard, 0.004, 0.002)


def simulate(absent):
    rng = np.random.default_rng(seed)
    excess, weights = np.zeros(classes), np.full(classes, 1 / classes)
    trajectory, missing = [], []
    for _ in range(steps):
        drawn = rng.integers(0, classes, size)
        losses = rng.exponential(expected[drawn])
        before = excess if absent == "previous" else np.zeros(classes)
        excess, _ = class_excess(losses, np.zeros(size), drawn, before)
        weights = update_weights(weights, excess, **how)
        trajectory.append(weights)
        missing.append(1 - len(set(drawn)) / classes)
    return np.array(trajectory), np.mean(missing)


runs = {rule: simulate(rule) for rule in ("previous", "zero")}
figures.group_weights(
    {f"absent: {rule}": path for rule, (path, _) in runs.items()},
    {"hard": hard, "others": ~hard},
)

# %%
expected_absent = 100 * (1 - 1 / classes) ** size
Markdown(
    f"In these {steps:,} steps {100 * runs['previous'][1]:.1f} % of the "
    f"classes are absent from a batch on average; the expected share for a "
    f"batch of {size} is {expected_absent:.1f} %."
)

# %% [markdown]
# The line is the median class of a group, and the band holds nine classes of
# ten. The table shows the average weights over the steps, times $K$.

# %%
from dedt_lib.reweighting import average_weights, effective_classes

outcome = {}
for rule, (path, _) in runs.items():
    average = average_weights(path)
    relative = classes * average
    outcome[f"absent: {rule}"] = {
        "hard classes, mean": relative[hard].mean(),
        "hard classes, standard deviation": relative[hard].std(),
        "other classes, mean": relative[~hard].mean(),
        "effective classes": effective_classes(average),
    }
pd.DataFrame(outcome).T.round(2)

# %%
gain, spread = {}, {}
for rule, row in outcome.items():
    gain[rule] = row["hard classes, mean"] - row["other classes, mean"]
    spread[rule] = row["hard classes, standard deviation"] / gain[rule]
ratio_of_gains = gain["absent: previous"] / gain["absent: zero"]
Markdown(
    "With the previous excess the hard classes stand out "
    f"{ratio_of_gains:.1f} times as far. The spread among the hard classes "
    f"is {100 * spread['absent: previous']:.0f} % of this gain, against "
    f"{100 * spread['absent: zero']:.0f} % with zero."
)

# %% [markdown]
# The previous excess acts at every step until the class is seen again, so the
# hard classes gain more. The same rule adds noise: one large sample stands for
# its class until the next one comes, and the hard classes differ from each
# other by chance. The profile `imagenet` uses the previous excess, as the cited
# code does; `reweight.absent` chooses.
#
# ## In short
#
# MDT is a latent diffusion transformer that is trained with and without masked
# tokens, weighs its loss by timestep, and is sampled with growing guidance.
# Selection and reweighting apply unchanged, once the plain squared error is
# compared. With many classes the treatment of absent classes decides how
# strongly, and how reliably, hard classes gain weight.
#
# ## Try it
#
# - Set `mdt.mask_ratio = 0.6` in a profile of your own. How do the errors at
#   masked and at visible tokens change?
# - Run the simulation with ten times the excess. Which rule still separates the
#   hard classes from the others?
# - Next: [Table IV](16_table4.ipynb).
