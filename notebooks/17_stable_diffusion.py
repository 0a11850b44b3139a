# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning Stable Diffusion
#
# Nobody trains Stable Diffusion {cite:p}`rombach2022high` to draw ten
# classes; one fine-tunes it. The paper takes the published model, shows it
# images of ImageNette with captions, and finds that a part of them does
# better than all. This chapter takes such a model apart, fine-tunes it, and
# looks at the reason why the paper did not reweight it.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.2
seed = 0
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters, glue

check_parameters("profile", "ratio", "seed", "compute")

# %% [markdown]
# The example is a coreset by Moderate-DS, chosen as for any other model:
# selection sees features of images, and no model. Beside it stands the model
# that has seen all the images. What is shown of others comes from the results
# of the tables (`compute = True` makes those of Table V that are missing).

# %%
from dedt_lib.book import figures, tables
from dedt_lib.experiment import Experiment

if compute:
    tables.compute_missing(profile, "table5")
frame = tables.read_cells(profile)
recipe = tables.cell_recipe("sd-moderate", ratio, seed)
experiment = Experiment(profile, **recipe)
full = experiment.change(**tables.cell_recipe("sd-full", 1.0, seed))
data, p = experiment.data, experiment.profile

# %% [markdown]
# ## The parts
#
# A pipeline of `diffusers` is five parts in five folders. The tokenizer cuts
# a caption into tokens, the text encoder makes vectors of them, the U-Net
# takes noise from a latent while it looks at these vectors, the autoencoder
# makes an image of the latent, and the scheduler keeps the noise levels.

# %%
import pandas as pd

from dedt_lib.stages import latents

pipeline = latents.pipeline(experiment.lab).result()
parts = ["tokenizer", "text_encoder", "unet", "vae", "scheduler"]
parts = {name: getattr(pipeline, name) for name in parts}


def size(part):
    weights = part.parameters() if hasattr(part, "parameters") else ()
    return f"{sum(w.numel() for w in weights):,}"


pd.DataFrame(
    {
        name: {"class": type(part).__name__, "weights": size(part)}
        for name, part in parts.items()
    }
).T

# %% tags=["remove-cell"]
own = not p.stable_diffusion.weights
origin = (
    "These parts are small and were made here. The tokenizer knows bytes. The text encoder is "
    "untrained: its weights are as they were drawn, which is enough to tell captions apart, and "
    "no caption means anything to it. The U-Net was trained on all these images and their captions "
    f"for {p.stable_diffusion.pretraining_epochs} epochs, and this stands for pre-training."
    if own
    else f"These parts are those of {p.stable_diffusion.weights}."
)
glue("sd", origin=origin, epochs=p.stable_diffusion.epochs)
seen = "has already seen all the images" if own else "has not been made for the images"
glue("sd", seen=seen)

# %% [markdown]
# {glue:text}`sd_origin:s` The classes, the files and the code are those of
# the published pipeline: give a profile its name as `stable_diffusion.weights`, and the
# same notebook fine-tunes that.
#
# One difference matters when the results are read. The published model comes
# from billions of other images and has to learn what ImageNette looks like.
# The one above {glue:text}`sd_seen:s` that it will be fine-tuned on.
#
# ## From a class to a caption
#
# Every image of a class has the same caption, a template with the name in it.
# Its tokens, as the text encoder reads them; the rest is padding.

# %%
model = experiment.build_model().eval()
caption = model.prompts[3]
caption, pipeline.tokenizer.tokenize(caption)

# %% [markdown]
# So there are only as many captions as classes, and one more: the empty one,
# which stands for "no class" in guidance. The text encoder is frozen, so it
# is asked once for each and never again. The vectors of two captions have to
# differ, or the U-Net could not tell the classes apart; here is the distance
# of each pair, where one is the length of an average caption's vectors.

# %%
import torch

vectors = model.captions.flatten(1)
length = vectors.norm(dim=1).mean()
apart = torch.cdist(vectors[:-1], vectors[:-1]) / length
pairs = apart[~torch.eye(len(apart), dtype=bool)]
print(f"{pairs.min():.2f} to {pairs.max():.2f}")

# %% [markdown]
# ## Before and after
#
# Fine-tuning moves the U-Net and nothing else, for
# {glue:text}`sd_epochs:d` epochs at a small learning rate. Below are samples
# from the same noise: the pre-trained pipeline above, then fine-tuned on more
# and more of the images. Look down a column. Where a digit stays what it was,
# fine-tuning had nothing to add.

# %%
from dedt_lib.randomness import derive
from dedt_lib.sampling import sample

decode = experiment.samples.decode
untuned = sample(
    model, experiment.sample_labels(), seed=derive(seed, "sampling"),
    batch_size=p.sample.batch_size, decode=decode,
    **experiment.spec.sampling(),
)
ratios = p.stable_diffusion.ratios
cells = {tables.percent(r): ("sd-moderate", r) for r in ratios}
cells["all data"] = ("sd-full", 1.0)
pictures = {"pre-trained": untuned}
for name, (row, r) in cells.items():
    kept = tables.read_samples(profile, row, r, seed)
    pictures |= {} if kept is None else {name: kept}
rows = [images[:10] for images in pictures.values()]
figures.image_rows(rows, list(pictures))

# %% [markdown]
# And in numbers, for this seed alone: FID, and precision and recall
# {cite:p}`kynkaanniemi2019improved`, the share of the samples that look like
# real images and the share of the real images that the samples reach. The
# first row is the control that one forgets easily: no fine-tuning at all.
# ([Table V](18_table5) has all rows and seeds.)

# %%
from dedt_lib import evaluation

real = experiment.real()


def measures(images):
    features = experiment.metric_features(images)
    pair = evaluation.precision_recall(real["features"], features)
    fid = evaluation.frechet_distance(real["all"], features)
    return dict(zip(("fid", "precision", "recall"), (fid, *pair)))


found = pd.DataFrame({"pre-trained": measures(untuned)}).T
own = frame[frame.seed == seed].set_index(["row", "ratio"])[found.columns]
for name, cell in cells.items():
    if cell in own.index:
        found.loc[name] = own.loc[cell].astype(float)
found.round(2)

# %% tags=["remove-cell"]
tuned = found.fid.drop("pre-trained")
better = tuned.index[tuned < found.fid["pre-trained"]]
helps = (
    "Every fine-tuned model has a lower FID than the pre-trained one."
    if len(better) == len(tuned) > 0
    else f"Lower than the pre-trained model, of those fine-tuned: {', '.join(better)}."
    if len(better)
    else "No fine-tuned model has a lower FID than the pre-trained one."
)
glue("sd", lowest=f"The lowest FID in this table: {found.fid.idxmin()}. {helps}")

# %% [markdown]
# {glue:text}`sd_lowest:s`
#
# ## Guidance
#
# `diffusers` counts guidance as a scale $s$, the paper as a weight $w$:
#
# $$\epsilon_u + s\,(\epsilon_c-\epsilon_u)
#   = (1+w)\,\epsilon_c - w\,\epsilon_u,\qquad w = s-1.$$
#
# So "guidance 5" is $w=4$ where the library's scale is meant, as here. Same
# noise, growing scale; $s=1$ is no guidance. Look for greys that become black
# or white, and for digits that change their shape.

# %%
import functools

models = {
    "pre-trained": model,
    tables.percent(ratio): experiment.train(),
    "all data": full.train(),
}
few = experiment.sample_labels()[:300]


@functools.cache
def draw(name, s):
    return sample(
        models[name], few, seed=seed, steps=p.stable_diffusion.steps,
        guidance=s - 1, batch_size=p.sample.batch_size, decode=decode,
    )


scales = (1.0, 2.0, 5.0, 8.0)
rows = [draw("all data", s)[:10] for s in scales]
figures.image_rows(rows, [f"s = {s:g}" for s in scales])

# %% [markdown]
# What the pictures suggest can be measured. A few hundred samples are enough
# to compare scales with each other (not with the table above: all three
# numbers depend on the number of samples).

# %%
by_scale = {f"s = {s:g}": measures(draw("all data", s)) for s in scales}
by_scale = pd.DataFrame(by_scale).T
by_scale.round(2)

# %% tags=["remove-cell"]
glue(
    "sd",
    guided=f"Precision is highest at {by_scale.precision.idxmax()}, "
    f"recall at {by_scale.recall.idxmax()}; "
    f"FID is lowest at {by_scale.fid.idxmin()}, and {by_scale.fid.max() / by_scale.fid.min():.1f} "
    f"times as high at {by_scale.fid.idxmax()}.",
)

# %% [markdown]
# {glue:text}`sd_guided:s` Does the scale also decide which model wins? The
# FID of three models without guidance, beside that at the scale of the tables:

# %%
winners = pd.DataFrame({
    f"s = {s:g}": {name: measures(draw(name, s))["fid"] for name in models}
    for s in (1.0, p.stable_diffusion.guidance)
})
winners.round(2)

# %% tags=["remove-cell"]
first = {column: winners[column].idxmin() for column in winners}
orders = {tuple(winners[column].sort_values().index) for column in winners}
glue(
    "sd",
    winners="The lowest FID: "
    f"{', '.join(f'{name} at {column}' for column, name in first.items())}. "
    + (
        "The order of the models is the same at both scales."
        if len(orders) == 1
        else "The winner is the same at both scales, the order of the others is not."
        if len(set(first.values())) == 1
        else "Which model wins depends on the scale at which one asks."
    ),
)

# %% [markdown]
# {glue:text}`sd_winners:s` One seed and few samples are a question and not an
# answer; [Table V](18_table5) asks it again, with all of both. Everything else
# uses the paper's scale.
#
# ## Are the margins clipped?
#
# Table V has no reweighted row. The paper's reason: the model fine-tuned on a
# coreset "has surpassed the one on the entire dataset, and thus majority of
# margin loss [...] is clipped to 0". Whether that is so can be measured. Here
# is the share of samples whose excess over the reference is clipped, over the
# proxy's run, for all three models of this book with the same ratio. A proxy
# that is just as good as its reference has half of its samples clipped, by
# chance; the dashed line is there.

# %%
proxies = {
    "Stable Diffusion": "sd-moderate-reweighted",
    "MDT": "mdt-moderate-reweighted",
    "U-Net": "moderate-reweighted",
}
here = frame[(frame.ratio == ratio) & (frame.seed == seed)]
here = here.set_index("row").result
readings = {
    name: tables.reading(here[row])
    for name, row in proxies.items()
    if row in here
}
figures.clipped_share(readings)

# %% [markdown]
# Look at how the lines begin: a proxy from scratch is far behind its
# reference and has to catch up, while that of Stable Diffusion starts from
# the pre-trained weights. After the burn-in, in numbers (the weights count
# as many effective classes as there are where they are uniform):

# %%
columns = ["clipped", "mean_excess", "effective_classes"]
signal = pd.DataFrame(
    {
        name: {key: here[proxies[name]]["dro"][key] for key in columns}
        for name in readings
    },
    index=columns,
).T
signal.round(4)

# %% [markdown]
# One thing speaks against clipping in all three: the reference answers with
# the average of its weights, the proxy with those of the moment, and an average
# is better by itself. So here is the same margin between two averages, the
# finished model on the coreset and the one on all the data, with the same
# draws for both: once on the images that were kept, which are all that group
# DRO ever sees, and once on those that were removed.

# %%
from dedt_lib.training import draw_batch

few_images, all_images = models[tables.percent(ratio)], models["all data"]
kept = experiment.select().kept


@torch.no_grad()
def margins(chosen, draws=10):
    chosen = torch.from_numpy(chosen.nonzero()[0])
    found = []
    for step in range(draws):
        batch = draw_batch(
            experiment.latents, chosen, experiment.settings, seed, step
        )
        found.append(few_images.losses(batch) - all_images.losses(batch))
    return torch.cat(found)


sides = {"kept": margins(kept), "removed": margins(~kept)}
margin = pd.DataFrame(
    {
        name: {
            "mean margin": values.mean().item(),
            "at or below zero (%)": 100 * (values <= 0).float().mean().item(),
        }
        for name, values in sides.items()
    }
).T
margin.round(4)

# %% tags=["remove-cell"]
def paper_or_not(clipped):
    """The paper's sentence, half by half, from this seed's numbers."""
    ours, theirs = experiment.evaluate()["fid"], full.evaluate()["fid"]
    most, surpassed = clipped["Stable Diffusion"] > 0.5, ours < theirs
    shares = ", ".join(f"{100 * share:.0f} % for {name}" for name, share in clipped.items())
    verdict = {
        (True, True): "Both halves of the paper's sentence hold.",
        (True, False): "So the first half of the paper's sentence holds, and the second does not.",
        (False, True): "So the margins are clipped although the model has surpassed nothing.",
        (False, False): "So neither half of the paper's sentence holds here.",
    }[surpassed, most]
    lower = "a lower" if surpassed else "no lower"
    return (
        f"Clipped are {shares}: for Stable Diffusion {'a' if most else 'no'} majority. With this "
        f"seed, fine-tuned on {100 * ratio:g} %, it has {lower} FID than on all the data: "
        f"{ours:.2f} against {theirs:.2f}. {verdict}"
    )


name = "Stable Diffusion"
there = name in readings
fids = winners["s = 1"].round(2)
few_fid, all_fid = fids[tables.percent(ratio)], fids["all data"]
behind = margin["mean margin"]["removed"] > 0
glue(
    "sd",
    unguided=f"Without guidance the FID is {few_fid:.2f} on {100 * ratio:g} % and {all_fid:.2f} on "
    "all the "
    "data (the table of three models above); on what was removed the mean margin is "
    f"{'above' if behind else 'below'} zero. The two "
    f"{'agree' if behind == (few_fid > all_fid) else 'do not agree'}.",
)
claim = paper_or_not(signal.clipped) if there else "There are no results yet."
glue("sd", claim=claim)
effective = signal.effective_classes.get(name, float("nan"))
glue("sd", effective=float(effective), classes=len(data.class_names))
below = margin["at or below zero (%)"]
glue(
    "sd",
    sides=f"The finished model is ahead of the reference on {below['kept']:.0f} % of the draws of "
    "images "
    f"that were kept, and on {below['removed']:.0f} % of those that were removed.",
)

# %% [markdown]
# {glue:text}`sd_claim:s`
#
# {glue:text}`sd_sides:s` Group DRO asks on the coreset only, and what was lost
# elsewhere it cannot see.
#
# Nor is the margin the FID of the tables: one is a loss without guidance, the
# other is measured on guided samples, and a model can win one and lose the
# other. {glue:text}`sd_unguided:s`
#
# And where most margins are clipped something is left: the weights move by the
# *differences* between the classes' mean excess. Here they came to
# {glue:text}`sd_effective:.2f` of {glue:text}`sd_classes:d` effective classes.
# So the row can be trained, and [Table V](18_table5) has it at the smallest
# ratio.
#
# ## An ordinary pipeline
#
# What was fine-tuned is saved as `diffusers` saves its pipelines, and opens
# without this library. It draws by prompt, here at the autoencoder's own
# size.

# %%
import tempfile

from diffusers import StableDiffusionPipeline

from dedt_lib.sampling import initial_noise

folder = tempfile.mkdtemp()
full.save_pipeline(folder)
opened = StableDiffusionPipeline.from_pretrained(folder)
opened.set_progress_bar_config(disable=True)
noise = initial_noise(range(10), model.sample_shape, seed)
settings = {
    "num_inference_steps": p.stable_diffusion.steps,
    "guidance_scale": p.stable_diffusion.guidance,
}
image = opened("a photo of a 5", latents=noise[:1], **settings).images[0]
image.resize((128, 128))

# %% [markdown]
# Is it the same model? From the same noise and with scale $s$ the pipeline
# should arrive at the latents of our own sampler with $w=s-1$. The largest
# difference between the two:

# %%
labels = torch.arange(10) % len(data.class_names)
prompts = [model.prompts[k] for k in labels]
theirs = opened(
    prompts, latents=noise, output_type="latent", **settings
).images
ours = experiment.spec.sampler(
    models["all data"], noise, labels, steps=p.stable_diffusion.steps,
    guidance=p.stable_diffusion.guidance - 1,
)
(theirs - ours).abs().max().item()

# %% [markdown]
# ## Try it
#
# - Ask the pipeline for "a picture of a 5", or for "5". An untrained text
#   encoder knows nothing of synonyms; does the U-Net?
# - Set `ratio` to 0.4 and look at the margins again. Are more of them
#   clipped?
# - Next: [Table V](18_table5).
