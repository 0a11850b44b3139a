# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One cell of a table
#
# The grid runs this notebook once for every row, ratio and seed; the executed
# copy is the run's log. To run one yourself:
#
# ```
# papermill notebooks/cell.ipynb log.ipynb --cwd notebooks \
#     -p profile smoke -p row moderate -p percent 10 -p seed 0
# ```

# %% tags=["parameters"]
profile = "digits"
row = "moderate"
percent = 10
seed = 0

# %% tags=["remove-cell"]
from dedt_lib.book.notebook import check_parameters

check_parameters("profile", "row", "percent", "seed")

# %% [markdown]
# Every stage that is already in the store is taken from there.

# %%
from dedt_lib.book import figures, grid, results

experiment, result = results.run_cell(
    profile, row, round(percent / 100, 10), seed, pending=True
)

# %% [markdown]
# The result waits to be collected with those of other cells; these are its
# main numbers.

# %%
shown = ("fid", "copies", "steps", "class_counts", "run")
{name: result[name] for name in shown}

# %% [markdown]
# What each stage cost.

# %%
result["costs"]

# %% [markdown]
# The training loss, smoothed; it should fall and flatten.

# %%
figures.loss_curves({grid.LABELS[row]: experiment.training()["losses"]})

# %% [markdown]
# Samples, one class per column, of up to twenty classes.

# %%
K = min(20, len(experiment.data.class_names))
sheet = figures.class_columns(
    experiment.sample(), experiment.sample_labels(), K
)
figures.image_grid(sheet, columns=K)
