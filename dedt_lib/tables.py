"""Cells of tables: their names, their results on disk, and the tables made from them.

A cell is (row, ratio, seed).  Its result is ``results/PROFILE/cells/ROW-PERCENT-SEED.json``, written
once and committed; everything that the book shows is read from there.
"""

import math
import os
from pathlib import Path

import numpy as np

from .errors import DedtError
from .recipes import Recipe, checked, load_profile
from .store import atomic, project_root, read_json, write_json

RESNET, INCEPTION, CLIP, DDAE = (
    {"encoder": name} for name in ("resnet18", "inceptionv3", "clip-rn50", "ddae")
)
MODERATE = {**RESNET, "method": "moderate"}
REWEIGHTED = {**MODERATE, "reweighting": True}
MDT, SD = {"model": "mdt"}, {"model": "stable-diffusion"}
ROWS = {
    "random": {"method": "random"},
    "inceptionv3-gaussian": {**INCEPTION, "method": "gaussian"},
    "ddae-moderate": {**DDAE, "method": "moderate"},
    "clip-moderate": {**CLIP, "method": "moderate"},
    "moderate": MODERATE,
    "moderate-reweighted": REWEIGHTED,
    "gaussian": {**RESNET, "method": "gaussian"},
    "moderate-global": {**MODERATE, "scope": "global"},
    "moderate-global-balanced": {**MODERATE, "scope": "global", "balancing": True},
    "moderate-class": {**MODERATE, "scope": "class"},
    "moderate-literal-dro": {**REWEIGHTED, "burn_in": 0.0},
    "infobatch-annealed": {"method": "random", "infobatch": "ratio", "annealing": True},
    "infobatch-budget-annealed": {"method": "random", "infobatch": "budget", "annealing": True},
    "moderate-reweighted-annealed": {**REWEIGHTED, "annealing": True},
    "random-annealed": {"method": "random", "annealing": True},
    "early-stopping": {"method": "random", "early_stopping": True},
    "early-stopping-annealed": {"method": "random", "early_stopping": True, "annealing": True},
    "full": {"method": "random"},
    "mdt-random": {**MDT, "method": "random"},
    "mdt-gaussian": {**MDT, **INCEPTION, "method": "gaussian"},
    "mdt-gaussian-reweighted": {**MDT, **INCEPTION, "method": "gaussian", "reweighting": True},
    "mdt-moderate": {**MDT, **INCEPTION, "method": "moderate"},
    "mdt-moderate-reweighted": {**MDT, **INCEPTION, "method": "moderate", "reweighting": True},
    "mdt-early-stopping": {**MDT, "method": "random", "early_stopping": True},
    "mdt-full": {**MDT, "method": "random"},
    "sd-random": {**SD, "method": "random"},
    "sd-clip-moderate": {**SD, **CLIP, "method": "moderate"},
    "sd-moderate": {**SD, **MODERATE},
    "sd-moderate-reweighted": {**SD, **REWEIGHTED},
    "sd-early-stopping": {**SD, "method": "random", "early_stopping": True},
    "sd-full": {**SD, "method": "random"},
}
"""Row name -> the recipe values that make it."""

UNGUIDED = ("sd-random", "sd-clip-moderate", "sd-moderate", "sd-early-stopping", "sd-full")
"""Rows whose models are sampled once more without guidance, as rows of their own."""

ROWS |= {f"{row}-unguided": {**ROWS[row], "unguided": True} for row in UNGUIDED}

FULL = {"unet": "full", "mdt": "mdt-full", "stable-diffusion": "sd-full"}
"""Model of a recipe -> the row of its run on all the data."""

LABELS = {
    "random": "Uniform random",
    "inceptionv3-gaussian": "Inception-v3, Gaussian",
    "ddae-moderate": "DDAE, Moderate-DS",
    "clip-moderate": "CLIP, Moderate-DS",
    "moderate": "ResNet-18, Moderate-DS",
    "moderate-reweighted": "ResNet-18, Moderate-DS + reweighting",
    "gaussian": "ResNet-18, Gaussian",
    "moderate-global": "ResNet-18, Moderate-DS, one band",
    "moderate-global-balanced": "ResNet-18, Moderate-DS, one band, balanced without DRO",
    "moderate-class": "ResNet-18, Moderate-DS, a band in each class",
    "moderate-literal-dro": "ResNet-18, Moderate-DS + literal DRO",
    "infobatch-annealed": "InfoBatch + annealing",
    "infobatch-budget-annealed": "InfoBatch to budget + annealing",
    "moderate-reweighted-annealed": "Moderate-DS + reweighting + annealing",
    "random-annealed": "Uniform random + annealing",
    "early-stopping": "All data, equal steps",
    "early-stopping-annealed": "All data, equal steps",
    "full": "All data",
    "mdt-random": "Uniform random",
    "mdt-gaussian": "Inception-v3, Gaussian",
    "mdt-gaussian-reweighted": "Inception-v3, Gaussian + reweighting",
    "mdt-moderate": "Inception-v3, Moderate-DS",
    "mdt-moderate-reweighted": "Inception-v3, Moderate-DS + reweighting",
    "mdt-early-stopping": "All data, equal steps",
    "mdt-full": "All data",
    "sd-random": "Uniform random",
    "sd-clip-moderate": "CLIP, Moderate-DS",
    "sd-moderate": "ResNet-18, Moderate-DS",
    "sd-moderate-reweighted": "ResNet-18, Moderate-DS + reweighting",
    "sd-early-stopping": "All data, equal steps",
    "sd-full": "All data",
}
"""Row name -> how the book prints it."""

LABELS |= {f"{row}-unguided": f"{LABELS[row]}, unguided" for row in UNGUIDED}

TABLES = {
    "table1": {
        "random": None,
        "inceptionv3-gaussian": None,
        "ddae-moderate": None,
        "clip-moderate": None,
        "moderate": None,
        "moderate-reweighted": None,
        "gaussian": None,
        "moderate-global": None,
        "moderate-global-balanced": (0.1,),
        "moderate-class": None,
        "moderate-literal-dro": (0.1,),
        "early-stopping": None,
        "full": (1.0,),
    },
    "table2": {
        "infobatch-annealed": None,
        "moderate-reweighted-annealed": None,
        "infobatch-budget-annealed": (0.1, 0.2),
        "random-annealed": None,
        "early-stopping-annealed": None,
        "full": (1.0,),
    },
    "table3": {
        "moderate": None,
        "moderate-reweighted": None,
        "moderate-reweighted-annealed": None,
        "full": (1.0,),
    },
    "figure2": {"moderate": (0.1,), "moderate-reweighted": (0.1,)},
    "table4": {
        "mdt-random": None,
        "mdt-gaussian": None,
        "mdt-gaussian-reweighted": None,
        "mdt-moderate": None,
        "mdt-moderate-reweighted": None,
        "mdt-early-stopping": None,
        "mdt-full": (1.0,),
    },
    "table5": {
        "sd-random": None,
        "sd-clip-moderate": None,
        "sd-moderate": None,
        "sd-moderate-reweighted": (0.2,),
        "sd-early-stopping": None,
        "sd-full": (1.0,),
    },
    "table5-unguided": {f"{row}-unguided": (1.0,) if row == "sd-full" else None for row in UNGUIDED},
}
"""Table -> its rows and their ratios (None: all ratios that the profile has for the row's model).  The
paper's rows come first; the others are controls and other readings."""


UNITS = {
    "images": "images",
    "evaluations": "network evaluations",
    "cpu_seconds": "CPU time",
    "seconds": "wall clock",
}
"""What a run costs: key in a result's ledger -> how the book prints it."""


SAMPLES_KEPT, THUMBNAIL = 50, 64
"""How many samples are kept as a picture beside a result, and their pixels along a side at most."""

MORE_METRICS = ("cmmd", "cmmd_unbiased", "kid", "precision", "recall")
"""What the cells of the latent models hold beside FID (:meth:`dedt_lib.experiment.Experiment.compare`)."""


def cells(table, profile):
    """All (row, ratio, seed) of a table under a profile (name or Profile), the largest ratios first.

    Raises DedtError for an unknown table.
    """
    profile = load_profile(profile)
    found = [
        (row, ratio, seed)
        for seed in profile.seeds
        for row in table_rows(table, profile)
        for ratio in (TABLES[table][row] or row_ratios(row, profile))
    ]
    return sorted(found, key=lambda cell: -cell[1])


def table_rows(table, profile):
    """The rows of a table under a profile, without the one that only names its own scope once more."""
    if table not in TABLES:
        raise DedtError(f"Unknown table '{table}'. Choose one of: {', '.join(TABLES)}.")
    own = load_profile(profile).moderate_scope
    return [row for row in TABLES[table] if row != f"moderate-{own}"]


def cell_before(row, ratio, seed):
    """The cell (row, ratio, seed) that makes on its way what this one needs as well, or None.

    Of an unguided cell it is the guided one, of one that needs a reference the run on all the data.
    """
    recipe = ROWS[row]
    if recipe.get("unguided"):
        return row.removesuffix("-unguided"), ratio, seed
    if recipe.get("reweighting") or recipe.get("early_stopping"):
        return FULL[recipe.get("model", "unet")], 1.0, seed
    return None


def row_ratios(row, profile):
    """The ratios that a profile has for the model of a row."""
    prefix = {"mdt": "mdt_", "stable-diffusion": "sd_"}.get(ROWS[row].get("model"), "")
    return getattr(load_profile(profile), f"{prefix}ratios")


def all_cells(profile):
    """The cells of all tables that a profile is made for, each once."""
    profile = load_profile(profile)
    return list(dict.fromkeys(cell for table in profile.tables for cell in cells(table, profile)))


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


def run_cell(profile, row, ratio, seed, *, root=None, store=None, report=None):
    """Compute a cell, or find its stages in the store, and write its result; returns (Experiment, result).

    Beside the result goes a picture of its first samples (:func:`read_samples`).
    """
    from .experiment import Experiment

    experiment = Experiment(profile, store=store, report=report, **cell_recipe(row, ratio, seed))
    result = {"row": row, **experiment.cell()}
    name, folder = cell_name(row, ratio, seed), results_folder(profile, root)
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    (folder / "samples").mkdir(exist_ok=True)
    _write_samples(experiment.sample()[:SAMPLES_KEPT], folder / "samples" / f"{name}.png")
    write_json(folder / "cells" / f"{name}.json", result)
    return experiment, result


def _write_samples(images, path):
    """Images uint8 [n, C, H, W] below one another in one file, shrunk to THUMBNAIL pixels if larger."""
    from PIL import Image

    strip = np.concatenate(list(images), axis=1).transpose(1, 2, 0).squeeze()
    picture, side = Image.fromarray(strip), min(images.shape[-1], THUMBNAIL)
    with atomic(path) as partial:
        picture.resize((side, side * len(images)), Image.Resampling.BOX).save(partial, format="PNG")


def read_samples(profile, row, ratio, seed, *, root=None):
    """The first samples of a cell, kept beside its result: uint8 [n, C, H, W], or None without a picture.

    Their classes are :func:`sample_labels` of the result.  Raises DedtError for a damaged picture.
    """
    from PIL import Image

    name, folder = cell_name(row, ratio, seed), results_folder(profile, root)
    path = folder / "samples" / f"{name}.png"
    if not path.exists():
        return None
    try:
        with Image.open(path) as picture:
            strip = np.atleast_3d(np.asarray(picture))
        side = strip.shape[1]
        return strip.reshape(-1, side, side, strip.shape[2]).transpose(0, 3, 1, 2)
    except Exception as error:  # Pillow raises errors of many kinds
        raise DedtError(
            f"{path} is no picture of samples ({error}). Delete it to do without, or delete "
            f"{folder / 'cells' / name}.json as well and run: make tables PROFILE={folder.name}"
        ) from error


def sample_labels(result, n=SAMPLES_KEPT):
    """Classes of the first n samples of a cell, from its result (JSON): int64 [n]."""
    from .sampling import proportional_labels

    # Without the counts it is older than samples of other shares than equal ones.
    return proportional_labels(n, result.get("real_class_counts") or [1] * len(result["class_names"]))


def read_cells(profile, *, root=None):
    """All results of a profile as a pandas DataFrame, one row per cell.

    Columns: row, ratio, seed, fid, worst (largest class-wise FID), copies, copies_features, steps, realised
    (images seen, as a share of those that a run on all the data sees), and what the final run cost: images,
    evaluations (of the network), seconds, cpu_seconds; the same with "whole_" in front counts embedding,
    selection, reference and proxy too.  Of the latent models also cmmd, cmmd_unbiased, kid, precision and
    recall.  "result" is the whole JSON.  Raises DedtError when there are no results, and names one that is
    damaged.
    """
    import pandas as pd

    folder = results_folder(profile, root) / "cells"
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DedtError(f"No results in {folder}. Run: make tables PROFILE={load_profile(profile).name}")
    mend = f"delete it and run: make tables PROFILE={load_profile(profile).name}"
    rows = []
    for file in files:
        result = read_json(file, mend)
        try:
            rows.append(_row(result))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DedtError(f"{file} is no result of a cell ({error!r}); {mend}") from error
    return pd.DataFrame(rows)


def _row(result):
    """The columns of :func:`read_cells` from the JSON of a cell."""
    costs, train = result["costs"], result["costs"]["train"]
    return {
        "row": result["row"],
        "ratio": result["recipe"]["ratio"],
        "seed": result["recipe"]["seed"],
        "fid": result["fid"],
        "worst": max((v for v in result["classwise"] if v is not None), default=math.nan),
        **{name: result.get(name) for name in MORE_METRICS},
        "copies": result["copies"],
        "copies_features": result.get("copies_features"),
        "steps": result["steps"],
        "realised": result["realised"],
        "images": train["images"],
        "evaluations": train["evaluations"],
        "seconds": train["seconds"],
        "cpu_seconds": train["cpu_seconds"],
        **{f"whole_{unit}": sum(cost[unit] for cost in costs.values()) for unit in UNITS},
        "result": result,
    }


def reading(result):
    """What group DRO learned in a cell, from its result: ``Experiment.reweight`` for fewer steps.

    result: the JSON of a reweighted cell.  Returns weights [K], trajectory [T, K], clipped [T], excess [T]
    (its mean over the classes), step [T] (of the proxy), and burn_in (steps), with T at most 100.
    """
    dro = result["dro"]
    paths = {name: np.array(dro[name]) for name in ("trajectory", "clipped_path", "excess_path")}
    step = np.unique(np.linspace(0, dro["steps"] - 1, min(100, dro["steps"])).round())
    return {
        "weights": np.array(result["class_weights"]),
        "trajectory": paths["trajectory"],
        "clipped": paths["clipped_path"],
        "excess": paths["excess_path"],
        "step": step,
        "burn_in": dro["burn_in"],
    }


def dro_options(profile, *, root=None):
    """What each option of group DRO changes, as ``tools/dro_options.py`` measured it: a row a setting.

    Columns: effective_classes, clipped, mean_excess (means over the seeds), between_seeds and with_default
    (mean correlation of the logarithms of the weights: of two seeds, and with the default's of the same
    seed), lowest (that of the two seeds which agree least).  Empty for a profile without such a measurement.
    """
    import pandas as pd

    file = results_folder(profile, root) / "dro-options.json"
    rows = read_json(file)["rows"] if file.exists() else []
    table = [
        {
            "setting": row["setting"],
            **{name: row[name] for name in ("effective_classes", "clipped", "mean_excess")},
            "between_seeds": float(np.mean(row["between_seeds"])) if row["between_seeds"] else math.nan,
            "lowest": min(row["between_seeds"], default=math.nan),
            "with_default": float(np.mean(row["with_default"])),
        }
        for row in rows
    ]
    return pd.DataFrame(table).set_index("setting") if table else pd.DataFrame()


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


def layout(frame, table="table1", value="fid", digits=2, published=None):
    """A table as the paper prints it: rows by name, columns by ratio, "mean ± standard deviation".

    frame: of :func:`read_cells`.  published: a table of :mod:`dedt_lib.paper`, for columns of its own.
    Returns a DataFrame of strings; a dash where there is no number.
    """
    import pandas as pd

    from . import paper

    statistics = summary(frame, value).set_index(["row", "ratio"])
    rows = [row for row in TABLES[table] if row in set(frame.row)]
    ratios = sorted(frame[frame.row.isin(rows)].ratio.unique())

    def entry(row, ratio):
        if (row, ratio) not in statistics.index:
            return "–"
        mean, std, count = statistics.loc[(row, ratio)]
        return f"{mean:.{digits}f} ± {std:.{digits}f}" if count > 1 else f"{mean:.{digits}f}"

    def theirs(row, ratio):
        numbers = paper.by_ratio(published, row)
        return f"{numbers[ratio]:.2f}" if ratio in numbers else "–"

    columns = {percent(ratio): [entry(row, ratio) for row in rows] for ratio in ratios}
    if published:
        columns |= {f"paper, {percent(r)}": [theirs(row, r) for row in rows] for r in ratios}
    return pd.DataFrame(columns, index=[LABELS[row] for row in rows])


def named(table, rows):
    """A table by (row, ratio) as the book prints it: ``rows`` in their order and by label, ratios in %."""
    table = table.reindex(rows, level=0).rename_axis([None, None])
    return table.rename(index=LABELS, level=0).rename(index=percent, level=1)


def percent(ratio):
    """A ratio as the book prints it: 0.1 is "10 %"."""
    return f"{100 * ratio:g} %"


def speedups(frame, rows, whole=False, full="full"):
    """Speed-up over the run on all the data with the same seed: mean over seeds, a DataFrame.

    full: the row of that run; a seed without it is left out.
    Columns: images, network evaluations, CPU time, wall clock.  As in the paper's Table III only the final
    training counts; with ``whole`` embedding, selection, reference and proxy count as well.
    """
    import pandas as pd

    full = frame[frame.row == full].set_index("seed")
    frame, table = frame[frame.seed.isin(full.index)], []
    for row in rows:
        for ratio, part in frame[frame.row == row].groupby("ratio"):
            base = full.loc[part.seed]
            prefix = "whole_" if whole else ""
            ratios = {
                name: (base[unit].to_numpy() / part[prefix + unit].to_numpy()).mean()
                for unit, name in UNITS.items()
            }
            table.append({"row": LABELS[row], "data": percent(ratio), **ratios})
    table = pd.DataFrame(table, columns=["row", "data", *UNITS.values()])
    return table.set_index(["row", "data"]).rename_axis([None, None])
