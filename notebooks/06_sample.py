# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sample: from noise to images
#
# Sampling runs the forward process backwards. DDIM
# ([Song et al., 2021](https://arxiv.org/abs/2010.02502)) takes a few long
# steps instead of a thousand short ones, and classifier-free guidance
# ([Ho and Salimans, 2022](https://arxiv.org/abs/2207.12598)) pushes the image
# towards its class.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# Two trained models are sampled, one trained on a coreset and one trained on
# all the data.

# %%
import numpy as np
import torch

from dedt_lib.book import figures
from dedt_lib.experiment import Experiment
from dedt_lib.pixels import to_uint8
from dedt_lib.sampling import balanced_labels, ddim, initial_noise

experiment = Experiment(profile, method="moderate", ratio=ratio, seed=seed)
full = experiment.change(method="random", ratio=1.0)
p, K = experiment.profile, len(experiment.data.class_names)

model, classes = full.train(), torch.from_numpy(balanced_labels(10, K))
noise = initial_noise(range(10), model.sample_shape, seed)

# %% [markdown]
# ## Guidance
#
# The network predicts the noise twice, with the class and without it, and
# guidance extrapolates from the second prediction to the first:
#
# $$\epsilon^w_\theta = (1+w)\,\epsilon_\theta(x_t,c,t)
#   - w\,\epsilon_\theta(x_t,t).$$

# %%
def guided(x, t, w):
    t = torch.full((len(x),), t)
    null = torch.full_like(classes, model.null_label)
    conditional = model.predict(x, t, classes)
    return (1 + w) * conditional - w * model.predict(x, t, null)


# %% [markdown]
# ## DDIM
#
# One step of DDIM estimates the clean image from the predicted noise,
#
# $$\hat x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\epsilon}
#   {\sqrt{\bar\alpha_t}},$$
#
# clips it to the range of pixels, recomputes the noise from it, and adds as
# much of this noise as belongs to the next timestep. Nothing random is drawn
# on the way.

# %%
steps, w = p.unet.steps, p.unet.guidance
stride = 1000 // steps
alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)

x = noise
for t in range((steps - 1) * stride, -1, -stride):
    now, after = alpha_bar[t], alpha_bar[max(t - stride, 0)]
    with torch.no_grad():
        eps = guided(x, t, w)
    x_0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
    eps = (x - now.sqrt() * x_0) / (1 - now).sqrt()
    x = after.sqrt() * x_0 + (1 - after).sqrt() * eps

# %% [markdown]
# The library's `ddim` takes the timesteps from `diffusers`. Does it draw the
# same images?

# %%
images = ddim(model, noise, classes, steps=steps, guidance=w)
torch.allclose(x.clamp(-1, 1), images, atol=1e-3)

# %% [markdown]
# The last timestep is $t=0$. A public code whose settings agree with the
# paper's ([FutureXiang/Diffusion](https://github.com/FutureXiang/Diffusion))
# takes every timestep one higher, and its last step leads from $t=1$ to
# $t=0$.
#
# ## Step by step
#
# Ten images of different classes on their way from noise to digits. Halfway
# the images still look like pure noise; the digits appear towards the end. The
# last step changes nothing, because at $t=0$ the noise level is already at its
# minimum.

# %%
keep = [0, steps // 4, steps // 2, steps - 2]
_, frames = ddim(
    model, noise, classes, steps=steps, guidance=w, keep=keep
)
titles = [f"step {k}" for k in keep] + ["done"]
figures.image_rows(
    [to_uint8(x.clamp(-1, 1)).numpy() for x in frames], titles
)

# %% [markdown]
# ## The effect of guidance
#
# The same noise with growing $w$. Look for strokes that become clearer, and
# for digits that change their shape. The paper uses 0.3. In JupyterLab the
# slider shows one guidance scale at a time.

# %%
from dedt_lib.book.notebook import dial

drawn = {}
for scale in (0.0, 0.3, 1.0, 2.0, 3.0, 5.0):
    x = ddim(model, noise, classes, steps=steps, guidance=scale)
    drawn[f"w = {scale:g}"] = to_uint8(x).numpy()
dial(
    "guidance",
    drawn,
    lambda rows: figures.image_rows(list(rows.values()), list(rows)),
)

# %% [markdown]
# ## Samples of two models
#
# The classes have the same shares as among the training images; each column
# below is one class. The first figure comes from the model trained on all the
# data, the second one from the model trained on the coreset. Look for broken
# strokes, and for variety inside a column.

# %%
labels = experiment.sample_labels()
sheet = figures.class_columns(full.sample(), labels, K)
figures.image_grid(sheet, columns=K, title="all data")

# %%
sheet = figures.class_columns(experiment.sample(), labels, K)
figures.image_grid(sheet, columns=K, title="coreset")

# %% [markdown]
# ## The batch size does not matter
#
# The noise of an image depends on the seed and on the number of the image
# alone. So the batch size does not change the images, apart from sums in
# another order, which may move a pixel by one grey level. The largest
# difference between two batch sizes:

# %%
from dedt_lib.sampling import sample

how = {"seed": seed, "steps": p.unet.steps, "guidance": p.unet.guidance}
small = sample(model, labels[:12], batch_size=5, **how)
large = sample(model, labels[:12], batch_size=12, **how)
int(np.abs(small.astype(int) - large.astype(int)).max())

# %% [markdown]
# ## In short
#
# DDIM alternates between an estimate of the clean image and a less noisy
# version of the current one, in a few deterministic steps. Guidance
# extrapolates from the prediction without a class to the prediction with it.
# The images depend on the seed and on their numbers, and on nothing about how
# they were batched.
#
# ## Try it
#
# - Use 5 steps instead of the profile's number. Which details are lost first?
#   ([Solution](solutions_method.ipynb#Sample))
# - Use a guidance weight of 10. Are the results still digits, and what is lost?
#   ([Solution](solutions_method.ipynb#Sample))
# - Next: [how good are they?](07_evaluate.ipynb)
