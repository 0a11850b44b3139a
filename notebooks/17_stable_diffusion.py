# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does fine-tuning change in Stable Diffusion?
#
# Stable Diffusion ([Rombach et al., 2022](https://arxiv.org/abs/2112.10752)) is
# not trained from scratch to draw ten classes; it is fine-tuned. The paper
# fine-tunes the published model on images of ImageNette with captions, and
# finds that a part of the images gives better results than all of them. This
# chapter shows the parts of such a model, writes its loss out, and compares
# samples before and after.

# %% tags=["parameters"]
profile = "digits"
seed = 0
compute = False

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "seed", "compute")

# %% [markdown]
# The example is the model that is fine-tuned on all the images. Other models on
# this page come from the results of the tables (`compute = True` computes those
# of Table V that are missing).

# %%
import pandas as pd
import torch

from dedt_lib.book import figures, grid, results, tables
from dedt_lib.experiment import Experiment

if compute:
    results.compute_missing(profile, "table5")
frame = results.read_cells(profile)
recipe = grid.cell_recipe("sd-full", 1.0, seed)
experiment = Experiment(profile, **recipe)
data, p = experiment.data, experiment.profile

# %% [markdown]
# ## The parts
#
# A pipeline of `diffusers` has five parts in five folders. The tokenizer cuts
# a caption into tokens, and the text encoder turns them into vectors. The U-Net
# removes noise from a latent, conditioned on these vectors. The autoencoder
# decodes the latent into an image, and the scheduler holds the noise levels.

# %%
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

# %% [markdown]
# Under the profile `digits` these parts are small and made here. The tokens are
# bytes. The text encoder is untrained: random weights suffice to tell captions
# apart, but no caption has a meaning. The U-Net was trained on all the digits
# and their captions, which stands for pre-training. Classes, files and code are
# those of the published pipeline. With its name as `stable_diffusion.weights`
# in a profile, this notebook fine-tunes the published model.
#
# One difference matters for the results. The published model was trained on
# billions of other images and has to learn what ImageNette looks like. The
# small one has already seen every image that it will be fine-tuned on.
#
# ## From a class to a caption
#
# All images of a class have the same caption, a template with the name of the
# class in it. These are the tokens that the text encoder reads; the rest is
# padding.

# %%
model = experiment.build_model().eval()
caption = model.prompts[3]
caption, pipeline.tokenizer.tokenize(caption)

# %% [markdown]
# There is one caption per class, and the empty caption, which stands for "no
# class" in guidance. The text encoder is frozen, so each caption is encoded
# once. The vectors of two captions have to differ, or the U-Net could not tell
# the classes apart. The smallest and the largest distance of two captions, in
# units of the mean norm of a caption's vectors:

# %%
vectors = model.captions.flatten(1)
length = vectors.norm(dim=1).mean()
apart = torch.cdist(vectors[:-1], vectors[:-1]) / length
pairs = apart[~torch.eye(len(apart), dtype=bool)]
print(f"{pairs.min():.2f} to {pairs.max():.2f}")

# %% [markdown]
# ## The loss
#
# The loss is that of [diffusion on latents](14b_latent_diffusion.ipynb), with
# two differences. The noise levels are those of the published pipeline, and
# the U-Net is given the vectors of a caption in place of a class.
# Pre-training gave it the empty caption in one sample of ten, as the batch
# below does; fine-tuning shows it every caption.

# %%
generator = torch.manual_seed(seed)
rows = torch.randint(0, len(data), (32,), generator=generator)
z = experiment.latents.draw(rows, None, generator)
labels = torch.from_numpy(data.labels)[rows]
t = torch.randint(0, 1000, (32,), generator=generator)
noise = torch.randn(z.shape, generator=generator)
drop = torch.rand(32, generator=generator) < 0.1

beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
alpha_bar = torch.cumprod(1 - beta, dim=0)
a = alpha_bar[t].view(-1, 1, 1, 1)
x_t = a.sqrt() * z + (1 - a).sqrt() * noise
given = model.captions[torch.where(drop, model.null_label, labels)]
with torch.no_grad():
    predicted = pipeline.unet(x_t, t, encoder_hidden_states=given).sample
losses = (predicted - noise).square().mean(dim=(1, 2, 3))

# %% [markdown]
# Are these the losses of the library's model?

# %%
from dedt_lib.training import Batch

with torch.no_grad():
    theirs = model.losses(Batch(z, labels, t, noise, drop))
torch.allclose(theirs, losses, atol=1e-4)

# %% [markdown]
# ## Before and after fine-tuning
#
# Fine-tuning changes the U-Net only, in a few epochs at a small learning rate.
# The figure shows samples from the same noise: the pre-trained pipeline in the
# first row, then models fine-tuned on more and more of the images. Look down a
# column for digits that fine-tuning did not change.

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
    kept = results.read_samples(profile, row, r, seed)
    pictures |= {} if kept is None else {name: kept}
rows = [images[:10] for images in pictures.values()]
figures.image_rows(rows, list(pictures))

# %% [markdown]
# The table measures these models, for this seed alone. **Precision** is the
# share of the samples that lie near real images, and **recall** is the share of
# the real images that lie near samples
# ([Kynkäänniemi et al., 2019](https://arxiv.org/abs/1904.06991)). The first row
# is the control that is easily forgotten: no fine-tuning at all.
# [Table V](18_table5.ipynb) has the fine-tuned rows over all seeds.

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

# %%
from IPython.display import Markdown

lower = found.index[found.fid < found.fid["pre-trained"]]
Markdown(
    f"The lowest FID in this table: {found.fid.idxmin()}. Fine-tuned models "
    "with a lower FID than the pre-trained one: "
    f"{', '.join(lower) or 'none'}."
)

# %% [markdown]
# ## An ordinary pipeline
#
# The fine-tuned model is saved as a pipeline of `diffusers` and opens without
# this library. It draws by prompt, here at the autoencoder's own size.

# %%
import tempfile

from diffusers import StableDiffusionPipeline

from dedt_lib.sampling import initial_noise

temporary = tempfile.TemporaryDirectory()
folder = temporary.name
experiment.save_pipeline(folder)
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
# ## In short
#
# Stable Diffusion is fine-tuned by training its U-Net on latents and captions,
# with the squared error of the noise that all models of this book have.
# Selection and evaluation stay as they were. The pre-trained model belongs in
# the comparison on this page, because fine-tuning need not make it better.
#
# ## Try it
#
# - Prompt the pipeline with "a picture of a 5", or with "5". An untrained text
#   encoder has no synonyms; what does the U-Net draw?
#   ([Solution](solutions_stable_diffusion.ipynb#Fine-tuning))
# - Give the U-Net the empty caption for every sample of the batch. How much
#   larger is the loss, and at which timesteps?
#   ([Solution](solutions_stable_diffusion.ipynb#Fine-tuning))
# - Next: [guidance](17b_guidance.ipynb).
