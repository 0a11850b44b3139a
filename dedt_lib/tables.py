"""Cells of tables: their names, their results on disk, and the tables made from them.

A cell is (row, ratio, seed).  Its result is ``results/PROFILE/cells/ROW-PERCENT-SEED.json``, written
once and committed; everything that the book shows is read from there.
"""

from pathlib import Path

from .errors import DedtError
from .recipes import Recipe, checked, load_profile
from .store import project_root, read_json, write_json

ROWS = {
    "random": {"method": "random"},
    "gaussian": {"method": "gaussian"},
    "moderate": {"method": "moderate"},
    "moderate-global": {"method": "moderate", "scope": "global"},
    "moderate-reweighted": {"method": "moderate", "reweighting": True},
    "moderate-literal-dro": {"method": "moderate", "reweighting": True, "burn_in": 0.0},
    "early-stopping": {"method": "random", "early_stopping": True},
    "full": {"method": "random"},
}
"""Row name -> the recipe values that make it."""

LABELS = {
    "random": "Uniform random",
    "gaussian": "Gaussian",
    "moderate": "Moderate-DS",
    "moderate-global": "Moderate-DS, one band for all classes",
    "moderate-reweighted": "Moderate-DS + reweighting",
    "moderate-literal-dro": "Moderate-DS + reweighting, no burn-in",
    "early-stopping": "All data, equal steps",
    "full": "All data",
}
"""Row name -> how the book prints it."""

TABLES = {
    "table1": {
        "random": None,
        "gaussian": None,
        "moderate": None,
        "moderate-global": None,
        "moderate-reweighted": None,
        "moderate-literal-dro": (0.1,),
        "early-stopping": None,
        "full": (1.0,),
    },
}
"""Table -> its rows and their ratios (None: all ratios of the profile)."""


def cells(table, profile):
    """All (row, ratio, seed) of a table under a profile (name or Profile), the longest runs first."""
    if table not in TABLES:
        raise DedtError(f"Unknown table '{table}'. Choose one of: {', '.join(TABLES)}.")
    profile = load_profile(profile)
    found = [
        (row, ratio, seed)
        for seed in profile.seeds
        for row, ratios in TABLES[table].items()
        for ratio in (ratios or profile.ratios)
    ]
    return sorted(found, key=lambda cell: -cell[1])


def cell_recipe(row, ratio, seed):
    """The recipe values of a cell; raises DedtError for an unknown row or a ratio outside (0, 1]."""
    if row not in ROWS:
        raise DedtError(f"Unknown row '{row}'. Choose one of: {', '.join(ROWS)}.")
    return checked(Recipe, {**ROWS[row], "ratio": ratio, "seed": seed}).model_dump()


def cell_name(row, ratio, seed):
    """``ROW-PERCENT-SEED``, the file name of a cell's result."""
    return f"{row}-{ratio * 100:g}-{seed}"


def results_folder(profile, root=None):
    """``results/PROFILE`` in the project, or under ``root``."""
    return Path(root or project_root() / "results") / load_profile(profile).name


def run_cell(profile, row, ratio, seed, *, root=None, store=None):
    """Compute a cell (or find its stages in the store), write its result, and return the Experiment and the result."""
    from .experiment import Experiment

    experiment = Experiment(profile, store=store, **cell_recipe(row, ratio, seed))
    result = {"row": row, **experiment.cell()}
    folder = results_folder(profile, root) / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{cell_name(row, ratio, seed)}.json", result)
    return experiment, result


def read_cells(profile, *, root=None):
    """All results of a profile as a pandas DataFrame, one row per cell.

    Columns: row, ratio, seed, fid, worst (largest class-wise FID), copies, steps, images (of the final run),
    seconds and cpu_seconds (of the final run), whole_images and whole_cpu_seconds (with embedding,
    selection, reference and proxy), and "result", the whole JSON.  Raises DedtError when there are none.
    """
    import pandas as pd

    folder = results_folder(profile, root) / "cells"
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DedtError(f"No results in {folder}. Run: make tables PROFILE={load_profile(profile).name}")
    rows = []
    for file in files:
        result = read_json(file)
        costs, train = result["costs"], result["costs"]["train"]
        rows.append(
            {
                "row": result["row"],
                "ratio": result["recipe"]["ratio"],
                "seed": result["recipe"]["seed"],
                "fid": result["fid"],
                "worst": max(result["classwise"]),
                "copies": result["copies"],
                "steps": result["steps"],
                "images": train["images"],
                "seconds": train["seconds"],
                "cpu_seconds": train["cpu_seconds"],
                "whole_images": sum(cost["images"] for cost in costs.values()),
                "whole_cpu_seconds": sum(cost["cpu_seconds"] for cost in costs.values()),
                "result": result,
            }
        )
    return pd.DataFrame(rows)


def summary(frame, value="fid"):
    """Mean, standard deviation and number of seeds of ``value`` for each (row, ratio): a DataFrame."""
    return frame.groupby(["row", "ratio"])[value].agg(["mean", "std", "count"]).reset_index()
