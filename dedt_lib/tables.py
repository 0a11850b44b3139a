"""Cells of tables: their names, their results on disk, and the tables made from them.

A cell is (row, ratio, seed).  Its result is ``results/PROFILE/cells/ROW-PERCENT-SEED.json``, written
once and committed; everything that the book shows is read from there.
"""

import os
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
    "moderate-global": "Moderate-DS, one band",
    "moderate-reweighted": "Moderate-DS + reweighting",
    "moderate-literal-dro": "Moderate-DS + literal DRO",
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
    """All (row, ratio, seed) of a table under a profile (name or Profile), the largest ratios first."""
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
    """``results/PROFILE`` under ``root``, ``$DEDT_RESULTS`` or the project."""
    root = root or os.environ.get("DEDT_RESULTS") or project_root() / "results"
    return Path(root) / load_profile(profile).name


def run_cell(profile, row, ratio, seed, *, root=None, store=None):
    """Compute a cell, or find its stages in the store, and write its result; returns (Experiment, result)."""
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


def compute_missing(profile, table="table1"):
    """Compute the cells of a table that have no result yet, one after the other; returns how many there were.

    For a small profile or a single machine; the grid (``make tables``) does the same on all cores.
    """
    folder = results_folder(profile) / "cells"
    missing = [cell for cell in cells(table, profile) if not (folder / f"{cell_name(*cell)}.json").exists()]
    for cell in missing:
        run_cell(profile, *cell)
    return len(missing)


def layout(frame, table="table1", value="fid", digits=2):
    """A table as the paper prints it: rows by name, columns by ratio, "mean ± standard deviation".

    frame: of :func:`read_cells`.  Returns a DataFrame of strings; a dash where a cell was not run.
    """
    import pandas as pd

    statistics = summary(frame, value).set_index(["row", "ratio"])
    ratios = sorted(frame.ratio.unique())

    def entry(row, ratio):
        if (row, ratio) not in statistics.index:
            return "–"
        mean, std, count = statistics.loc[(row, ratio)]
        return f"{mean:.{digits}f} ± {std:.{digits}f}" if count > 1 else f"{mean:.{digits}f}"

    return pd.DataFrame(
        {percent(ratio): [entry(row, ratio) for row in TABLES[table]] for ratio in ratios},
        index=[LABELS[row] for row in TABLES[table]],
    )


def percent(ratio):
    """A ratio as the book prints it: 0.1 is "10 %"."""
    return f"{100 * ratio:g} %"


def compare(frame, row, other, value="fid"):
    """Row against another row at each ratio, seed by seed: a DataFrame.

    Columns: difference (mean over seeds of ``row`` minus ``other``; negative is better for FID), lower (seeds in
    which ``row`` is lower), seeds, verdict: "lower" or "higher" when every one of several seeds agrees, else "undecided".
    """
    import pandas as pd

    pair = frame[frame.row.isin([row, other])].pivot(index=["ratio", "seed"], columns="row", values=value)
    pair = pair.dropna()
    difference = (pair[row] - pair[other]).groupby("ratio")
    lower, higher = difference.apply(lambda d: (d < 0).sum()), difference.apply(lambda d: (d > 0).sum())
    seeds = difference.size()
    verdict = [
        "lower" if a == n > 1 else "higher" if b == n > 1 else "undecided"
        for a, b, n in zip(lower, higher, seeds)
    ]
    return pd.DataFrame({"difference": difference.mean(), "lower": lower, "seeds": seeds, "verdict": verdict})


def in_words(frame, row, other):
    """One sentence on :func:`compare`: at which ratios ``row`` is lower or higher in every seed."""
    table = compare(frame, row, other)
    parts = []
    for verdict, words in (
        ("lower", "lower (better) in every seed"),
        ("higher", "higher (worse) in every seed"),
    ):
        ratios = [percent(ratio) for ratio in table.index[table.verdict == verdict]]
        if ratios:
            parts.append(f"{words} at {', '.join(ratios)}")
    undecided = [percent(ratio) for ratio in table.index[table.verdict == "undecided"]]
    if undecided:
        parts.append(f"undecided between seeds at {', '.join(undecided)}")
    return f"{LABELS[row]} against {LABELS[other]}: {'; '.join(parts) or 'no common results'}."


def speedups(frame, rows):
    """Speed-up over the run on all the data, by seconds of CPU, by wall clock and by images seen.

    The first three columns count the final training only, as the paper's Table III does; "whole recipe" adds
    embedding, selection, reference and proxy, counted in CPU seconds.  Means over the seeds.
    """
    import pandas as pd

    full = frame[frame.row == "full"].set_index("seed")
    table = []
    for row in rows:
        for ratio, part in frame[frame.row == row].groupby("ratio"):
            base = full.loc[part.seed]
            table.append(
                {
                    "row": LABELS[row],
                    "data": percent(ratio),
                    "images seen": (base["images"].to_numpy() / part["images"].to_numpy()).mean(),
                    "CPU time": (base["cpu_seconds"].to_numpy() / part["cpu_seconds"].to_numpy()).mean(),
                    "wall clock": (base["seconds"].to_numpy() / part["seconds"].to_numpy()).mean(),
                    "whole recipe": (
                        base["cpu_seconds"].to_numpy() / part["whole_cpu_seconds"].to_numpy()
                    ).mean(),
                }
            )
    return pd.DataFrame(table).set_index(["row", "data"]).rename_axis([None, None])
