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
# Sampling runs the forward process backwards. DDIM {cite:p}`song2021ddim`
# takes a few long steps instead of a thousand short ones, and guidance
# {cite:p}`ho2022classifier` pushes the image towards its class.
#
# The timesteps are those of `diffusers`, the last of them $t=0$. The code that
# the paper builds on takes every timestep one higher, and its last evaluation
# leads from $t=1$ to $t=0$.

# %% tags=["parameters"]
profile = "digits"
ratio = 0.1
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "ratio", "seed")

# %% [markdown]
# Two trained models, one on a coreset and one on all the data.

# %%
from dedt_lib.book import figures
from dedt_lib.experiment import Experiment

experiment = Experiment(profile, method="moderate", ratio=ratio, seed=seed)
full = experiment.change(method="random", ratio=1.0)
p, K = experiment.profile, len(experiment.data.class_names)

# %% [markdown]
# ## Step by step
#
# Ten images, the classes in turn, on their way from noise. Halfway the eye
# still sees nothing but noise; the digits appear towards the end. The last
# of the steps changes nothing: on this grid it begins where the noise is
# already at its least.

# %%
import torch

from dedt_lib.pixels import to_uint8
from dedt_lib.sampling import balanced_labels, ddim, initial_noise

model, classes = full.train(), torch.from_numpy(balanced_labels(10, K))
noise = initial_noise(range(10), model.sample_shape, seed)
keep = [0, p.unet.steps // 4, p.unet.steps // 2, p.unet.steps - 2]
_, frames = ddim(
    model, noise, classes, steps=p.unet.steps,
    guidance=p.unet.guidance, keep=keep,
)
titles = [f"step {k}" for k in keep] + ["done"]
figures.image_rows(
    [to_uint8(x.clamp(-1, 1)).numpy() for x in frames], titles
)

# %% [markdown]
# ## Guidance
#
# The network answers twice, once knowing the class and once not, and the
# difference is exaggerated:
#
# $$\epsilon^w_\theta = (1+w)\,\epsilon_\theta(x_t,c,t)
#   - w\,\epsilon_\theta(x_t,t).$$
#
# From the same noise with growing $w$. Look for strokes that become clearer,
# and for digits that change their shape. The paper uses 0.3.

# %%
rows, strengths = [], (0.0, 0.3, 1.0, 3.0)
for w in strengths:
    x = ddim(
        model, noise, classes, steps=p.unet.steps, guidance=w
    )
    rows.append(to_uint8(x).numpy())
figures.image_rows(rows, [f"w = {w}" for w in strengths])

# %% [markdown]
# ## Samples by the models of this book
#
# Every class as often as among the training images, so of the digits equally
# often; a column each. First the model that has seen all the data, then the
# one that has seen the coreset. Look for strokes that break off, and for
# variety inside a column.

# %%
labels = experiment.sample_labels()
sheet = figures.class_columns(full.sample(), labels, K)
figures.image_grid(sheet, columns=K, title="all data")

# %%
sheet = figures.class_columns(experiment.sample(), labels, K)
figures.image_grid(sheet, columns=K, title="coreset")

# %% [markdown]
# ## One image, one number
#
# The noise of each image depends on the seed and on the image's number, and
# on nothing else. So the size of a batch does not change the images, apart
# from sums that are taken in another order: at most one grey level.

# %%
import numpy as np

from dedt_lib.sampling import sample

how = {"seed": seed, "steps": p.unet.steps, "guidance": p.unet.guidance}
small = sample(model, labels[:12], batch_size=5, **how)
large = sample(model, labels[:12], batch_size=12, **how)
int(np.abs(small.astype(int) - large.astype(int)).max())

# %% [markdown]
# ## Try it
#
# - Use 5 steps instead of the profile's number. What is lost first?
# - Ask for guidance 10. Is the result still a digit?
# - Next: [how good are they?](07_evaluate)
