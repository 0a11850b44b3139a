# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does a transformer learn from masked tokens?
#
# The Masked Diffusion Transformer ([Gao et al.,
# 2023](https://arxiv.org/abs/2303.14389)) cuts a latent into **tokens** and
# trains on every image twice: once with all tokens, and once with 30 to 50 % of
# them masked. It thereby learns to infer parts of an image from their context.
# (The paper says "mask ratio 0.3" and the optimiser Adan. Adan belongs to the
# second version of MDT, which draws the share from 0.3 to 0.5; that version is
# taken here.) The paper prunes the data of the small version, MDT-S. This
# chapter writes its loss out and looks at what the network infers.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.2
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# The example is trained on a fifth of the images, drawn uniformly at random.
# [The next chapter](15b_mdt_sampling.ipynb) draws samples from it, and
# [Table IV](16_table4.ipynb) shows the effect of selection.

# %%
import math

import pandas as pd
import torch
from IPython.display import Markdown

from dedt_lib.book import figures, grid
from dedt_lib.experiment import Experiment
from dedt_lib.randomness import torch_generator

recipe = grid.cell_recipe("mdt-random", ratio, seed)
experiment = Experiment(profile, **recipe)
data, p = experiment.data, experiment.profile
model = experiment.train()

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
# ## The loss
#
# The loss of an image is the sum of two terms, one with all tokens and one with
# masked tokens, each with noise of its own. Each term is a squared error with
# the **weight** $\min(\mathrm{SNR},5)/\mathrm{SNR}$
# ([Hang et al., 2023](https://arxiv.org/abs/2303.09556)), where the
# signal-to-noise ratio is $\bar\alpha_t/(1-\bar\alpha_t)$. The network also
# predicts the variance of the step back to $t-1$; the **variational bound**
# trains this output, and nothing else. Here are all random draws of a batch:

# %%
generator = torch.manual_seed(seed)
rows = torch.randint(0, len(data), (32,), generator=generator)
z = experiment.latents.draw(rows, None, generator)
labels = torch.from_numpy(data.labels)[rows]
t = torch.randint(0, 1000, (32,), generator=generator)
noises = torch.randn(2, *z.shape, generator=generator)
drops = torch.rand(2, 32, generator=generator) < 0.1

share = torch.rand((), generator=generator).item()
masked = p.mdt.mask_ratio + p.mdt.mask_range * share
order = torch.rand(32, model.tokens, generator=generator).argsort(dim=1)
kept = order[:, : int(model.tokens * (1 - masked))]

# %% [markdown]
# And the loss, of one pass and of both:

# %%
from dedt_lib.models.mdt import variational_bits

beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
alpha_bar = torch.cumprod(1 - beta, dim=0).float()
a = alpha_bar[t].view(-1, 1, 1, 1)
weight = (5 * (1 - a) / a).clamp(max=1).flatten()


def pass_losses(noise, drop, kept=None):
    given = torch.where(drop, model.null_label, labels)
    output = model(a.sqrt() * z + (1 - a).sqrt() * noise, t, given, kept)
    predicted, variance = output.chunk(2, dim=1)
    error = predicted - noise
    bits = variational_bits(model.schedule, z, t, error.detach(), variance)
    return weight * error.square().mean(dim=(1, 2, 3)) + bits


with torch.no_grad():
    losses = pass_losses(noises[0], drops[0])
    losses += pass_losses(noises[1], drops[1], kept)

# %% [markdown]
# The library's model takes the draws of the masked pass as extras of the batch.
# Are its losses equal to ours?

# %%
from dedt_lib.training import Batch

extra = {"masked_noise": noises[1], "masked_drop": drops[1], "kept": kept}
batch = Batch(z, labels, t, noises[0], drops[0], extra)
with torch.no_grad():
    same = torch.allclose(model.losses(batch), losses, rtol=1e-3)
same

# %% [markdown]
# At timesteps with a signal-to-noise ratio above five little is left to
# restore in the image, and they count less. The left panel shows the weight.
# The predicted variance lies between two known ones (right panel): the noise
# variance $\beta_t$ of the step (solid), and the variance of the posterior, which is
# that of the step back if $x_0$ were known (dashed).

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
# ## What the network infers
#
# How good is the prediction at a masked token? The trained model receives the
# same noisy latents twice, once with all tokens and once masked. The table
# shows the squared error of the predicted noise, by quarters of the timesteps.

# %%
from torch.nn import functional

from dedt_lib.training import draw_batch

everything = torch.arange(len(data))
batch = draw_batch(
    experiment.latents, everything, experiment.settings, seed, 0, model
)
when, visible = batch.t, batch.extra["kept"]
signal, deviation = model.schedule(when, "signal", "deviation")
noisy = signal * batch.images + deviation * batch.noise


def token_errors(kept=None):
    channels = batch.noise.shape[1]
    with torch.no_grad():
        estimate = model(noisy, when, batch.labels, kept)[:, :channels]
    error = (estimate - batch.noise).square().mean(dim=1)
    return functional.avg_pool2d(error, p.mdt.patch_size).flatten(1)


whole, gaps = token_errors(), token_errors(visible)
seen = torch.zeros_like(gaps, dtype=torch.bool).scatter(1, visible, True)
quarters = {}
for start in range(0, 1000, 250):
    inside = ((when >= start) & (when < start + 250))[:, None]
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
# ## In short
#
# MDT is a latent diffusion transformer that is trained with and without masked
# tokens, and weighs its loss by timestep. The masked pass makes it predict a
# token from its context. Two losses a batch, a share of masked tokens and a
# learned variance are all that it adds to the training step.
#
# ## Try it
#
# - Mask 20, 40, 60 and 80 % of the tokens, without training again. How do the
#   errors at masked and at visible tokens change?
#   ([Solution](solutions_mdt.ipynb#Masked-tokens))
# - Leave the weight out of `pass_losses`. Which timesteps then make up most of
#   the squared error, and which with the weight?
#   ([Solution](solutions_mdt.ipynb#Masked-tokens))
# - Next: [how MDT draws an image](15b_mdt_sampling.ipynb).
