# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions: Stable Diffusion
#
# Worked solutions of the exercises of
# [fine-tuning](17_stable_diffusion.ipynb), [guidance](17b_guidance.ipynb) and
# [margins](17c_margins.ipynb). Try an exercise before you read its solution.
# Numbers are computed on this page.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.2
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %%
import tempfile
from dataclasses import replace

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline

from dedt_lib import evaluation
from dedt_lib.book import figures, grid, tables
from dedt_lib.experiment import Experiment
from dedt_lib.sampling import initial_noise, sample
from dedt_lib.training import draw_batch

recipe = grid.cell_recipe("sd-moderate", ratio, seed)
experiment = Experiment(profile, **recipe)
full = experiment.change(**grid.cell_recipe("sd-full", 1.0, seed))
data, p = experiment.data, experiment.profile
models = {
    "pre-trained": experiment.build_model().eval(),
    tables.percent(ratio): experiment.train(),
    "all data": full.train(),
}
steps, s = p.stable_diffusion.steps, p.stable_diffusion.guidance
decode = experiment.samples.decode

# %% [markdown]
# ## Fine-tuning
#
# **What does the U-Net draw for captions that it has not seen?**
# ([Exercise](17_stable_diffusion.ipynb))

# %%
temporary = tempfile.TemporaryDirectory()
folder = temporary.name
full.save_pipeline(folder)
opened = StableDiffusionPipeline.from_pretrained(folder)
opened.set_progress_bar_config(disable=True)
noise = initial_noise(range(8), models["all data"].sample_shape, seed)
captions = ("a photo of a 5", "a picture of a 5", "5", "")
frames = [
    decode(
        opened(
            [caption] * 8, latents=noise, guidance_scale=s,
            num_inference_steps=steps, output_type="latent",
        ).images
    ).numpy()
    for caption in captions
]
figures.image_rows(frames, [caption or "(empty)" for caption in captions])

# %% [markdown]
# The text encoder is untrained, so a caption is a code and not a meaning. But the
# captions of the training differ in one token only, the digit, and the U-Net has
# little reason to look at anything else: where this token is there, the words
# around it hardly change the sample. The empty caption has no such token, and any
# digit comes out, or none. A text encoder that was trained on captions would also
# understand "five".
#
# **How much larger is the loss with the empty caption, and at which
# timesteps?** ([Exercise](17_stable_diffusion.ipynb))

# %%
def by_quarter(batches, **columns):
    table = pd.DataFrame(columns)
    quarter = [f"t from {250 * int(t // 250)}" for t in batches]
    return table.groupby(quarter).mean().T


def batches(chosen, count=8):
    settings, chosen = experiment.settings, torch.as_tensor(chosen)
    return [
        draw_batch(experiment.latents, chosen, settings, seed, step)
        for step in range(count)
    ]


@torch.no_grad()
def losses(model, drawn, hide=False):
    found = []
    for batch in drawn:
        drop = torch.full_like(batch.drop, hide)
        found.append(model.losses(replace(batch, drop=drop)))
    return torch.cat(found).numpy()


drawn = batches(range(len(data)))
timesteps = torch.cat([batch.t for batch in drawn])
by_quarter(
    timesteps,
    caption=losses(models["all data"], drawn),
    empty=losses(models["all data"], drawn, hide=True),
).round(3)

# %% [markdown]
# Compare the two lines. Near the data, at small timesteps, the latent itself
# shows the digit, and the caption adds little. In nearly pure noise there is
# little to predict from but the noise itself. The caption helps most between
# them, where the noise hides which digit it is but not that there is one.
#
# ## Guidance
#
# **Does the order of the models change at $s=2$ and $s=8$?**
# ([Exercise](17b_guidance.ipynb))

# %%
real = experiment.real()["all"]
few = experiment.sample_labels()[:200]


def fid(model, scale):
    images = sample(
        model, few, seed=seed, steps=steps, guidance=scale - 1,
        batch_size=p.sample.batch_size, decode=decode,
    )
    return evaluation.frechet_distance(
        real, experiment.metric_features(images)
    )


scales = sorted({1.0, 2.0, s, 8.0})
order = pd.DataFrame({
    f"s = {scale:g}": {name: fid(m, scale) for name, m in models.items()}
    for scale in scales
})
order.round(2)

# %% [markdown]
# Rank the models in each column:

# %%
order.rank().astype(int)

# %% [markdown]
# Where the ranks differ between columns, a statement about the models without
# its scale is a statement about nothing. Where they agree, 200 samples of one
# seed still leave open whether they would with the next seed.
#
# **What do samples look like that are guided by the pre-trained model?**
# ([Exercise](17b_guidance.ipynb))
#
# The unconditional estimate of the sampler now comes from the pre-trained
# model:

# %%
beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
alpha_bar = torch.cumprod(1 - beta, dim=0)
classes = torch.arange(10) % len(data.class_names)
null = torch.full_like(classes, models["all data"].null_label)
stride = 1000 // steps


@torch.no_grad()
def draw(model, guide):
    x = initial_noise(range(10), model.sample_shape, seed)
    for t in range((steps - 1) * stride + 1, 0, -stride):
        when = torch.full((10,), t)
        now, after = alpha_bar[t], alpha_bar[max(t - stride, 0)]
        eps_u = guide.predict(x, when, null)
        eps = eps_u + s * (model.predict(x, when, classes) - eps_u)
        x_0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = after.sqrt() * x_0 + (1 - after).sqrt() * eps
    return decode(x).numpy()


tuned = models[tables.percent(ratio)]
rows = {
    "own guide": draw(tuned, tuned),
    "pre-trained guide": draw(tuned, models["pre-trained"]),
}
figures.image_rows(list(rows.values()), list(rows))

# %% [markdown]
# The difference of the two estimates now holds two things: the caption, and
# what fine-tuning has changed. The samples are pushed along both. Here
# fine-tuning has changed little, because the small pipeline had seen the same
# images before, so the rows are alike; where it changes much, the second row
# exaggerates it.
#
# ## Margins
#
# **At which timesteps do the two models differ?**
# ([Exercise](17c_margins.ipynb))

# %%
kept = experiment.select().kept.nonzero()[0]
drawn = batches(kept, count=20)
timesteps = torch.cat([batch.t for batch in drawn])
margin = losses(tuned, drawn) - losses(models["all data"], drawn)
by_quarter(
    timesteps, margin=margin, clipped=(margin <= 0).astype(float)
).round(4)

# %% [markdown]
# The mean margin of a class is an average over timesteps, and the timesteps
# with large errors decide it. The clipped share counts every sample alike. So
# the two lines need not have their extremes at the same timesteps, and most
# margins can be clipped while the mean is positive.
#
# **Do the clipped shares add up to one when the two models change places?**
# ([Exercise](17c_margins.ipynb))

# %%
pd.Series({
    "clipped": (margin <= 0).mean(),
    "clipped with the models swapped": (-margin <= 0).mean(),
    "ties": (margin == 0).mean(),
}).round(3).to_frame("share of the samples")

# %% [markdown]
# They do, but for ties, which are clipped both ways. A share of one half
# therefore means that neither model is better on most samples, and it is what
# two equally good models have by chance.
