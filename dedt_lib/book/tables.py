"""Cells of tables: their names, their results on disk, and the tables made from them.

A cell is (row, ratio, seed).  Its result is a line of ``results/PROFILE/cells.jsonl``, and its first samples are
a column of ``results/PROFILE/samples/ROW.png``; both are committed, and everything that the book shows is read
from there.  Many processes compute cells at once, so each first writes its own under ``pending``, from where
:func:`collect` moves them.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config.profile import TABLES as NAMES
from ..config.profile import Profile, checked, flat, load_profile
from ..config.recipe import Recipe
from ..errors import DedtError
from ..files import atomic, locked, project_root, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

    from ..experiment import Experiment

Named = str | Profile
"""A profile, or its name or file."""

Root = str | os.PathLike | None
"""The folder of all results, or None for the usual one (:func:`results_folder`)."""

Cell = tuple[str, float, int]
"""Row, ratio and seed."""

RANDOM, RESNET = {"method": "random"}, {"encoder": "resnet18"}
LITE = {"encoder": "efficientnet-lite0"}
INCEPTION, CLIP = {"encoder": "inceptionv3"}, {"encoder": "clip-rn50"}
GAUSSIAN, MODERATE = {"method": "gaussian"}, {"method": "moderate"}
REWEIGHTED, ANNEALED, STOPPED = {"reweighting": True}, {"annealing": True}, {"early_stopping": True}
MDT, SD = {"model": "mdt"}, {"model": "stable-diffusion"}
OURS = RESNET | MODERATE
ONE_BAND = OURS | {"scope": "global"}
ENDS = (0.1, 0.4)


class Row(NamedTuple):
    """A row of the tables: how the book prints it, the recipe values that make it, and where it stands."""

    label: str
    recipe: dict[str, Any]
    tables: str
    ratios: tuple[float, ...] | None = None
    """In these tables; None: all that the profile has for the row's model, which one of your own has not."""


_ROWS: dict[str, Row] = {
    "random": Row("Uniform random", RANDOM, "table1"),
    "inceptionv3-gaussian": Row("Inception-v3, Gaussian", INCEPTION | GAUSSIAN, "table1"),
    "lite0-gaussian": Row("EfficientNet-Lite0, Gaussian", LITE | GAUSSIAN, ""),
    "lite0-moderate": Row("EfficientNet-Lite0, Moderate-DS", LITE | MODERATE, ""),
    "ddae-moderate": Row("DDAE, Moderate-DS", {"encoder": "ddae"} | MODERATE, "table1"),
    "clip-moderate": Row("CLIP, Moderate-DS", CLIP | MODERATE, "table1"),
    "moderate": Row("ResNet-18, Moderate-DS", OURS, "table1 table3"),
    "moderate-reweighted": Row("ResNet-18, Moderate-DS + reweighting", OURS | REWEIGHTED, "table1 table3"),
    "gaussian": Row("ResNet-18, Gaussian", RESNET | GAUSSIAN, "table1"),
    "moderate-global": Row("ResNet-18, Moderate-DS, one band", ONE_BAND, "table1"),
    "moderate-class": Row(
        "ResNet-18, Moderate-DS, a band in each class", OURS | {"scope": "class"}, "table1"
    ),
    "moderate-literal-dro": Row(
        "ResNet-18, Moderate-DS + literal DRO", OURS | REWEIGHTED | {"burn_in": 0.0}, "table1", (0.1,)
    ),
    "infobatch-annealed": Row("InfoBatch + annealing", RANDOM | {"infobatch": "ratio"} | ANNEALED, "table2"),
    "moderate-reweighted-annealed": Row(
        "Moderate-DS + reweighting + annealing", OURS | REWEIGHTED | ANNEALED, "table2 table3"
    ),
    "infobatch-budget-annealed": Row(
        "InfoBatch to budget + annealing", RANDOM | {"infobatch": "budget"} | ANNEALED, "table2", (0.1, 0.2)
    ),
    "random-annealed": Row("Uniform random + annealing", RANDOM | ANNEALED, "table2"),
    "early-stopping": Row("All data, equal steps", RANDOM | STOPPED, "table1"),
    "early-stopping-annealed": Row("All data, equal steps", RANDOM | STOPPED | ANNEALED, "table2"),
    "full": Row("All data", RANDOM, "table1 table2 table3", (1.0,)),
    "moderate-reweighted-shuffled": Row(
        "ResNet-18, Moderate-DS + shuffled weights",
        OURS | REWEIGHTED | {"null": "shuffled"},
        "controls",
        ENDS,
    ),
    "moderate-reweighted-another-seed": Row(
        "ResNet-18, Moderate-DS + another seed's weights",
        OURS | REWEIGHTED | {"null": "another-seed"},
        "controls",
        ENDS,
    ),
    "moderate-reweighted-equal-steps": Row(
        "ResNet-18, Moderate-DS + reweighting, reference at equal steps",
        OURS | REWEIGHTED | {"reference": "equal-steps"},
        "controls",
        ENDS,
    ),
    "moderate-global-reweighted": Row(
        "ResNet-18, Moderate-DS, one band + reweighting", ONE_BAND | REWEIGHTED, "controls", ENDS
    ),
    "moderate-global-balanced": Row(
        "ResNet-18, Moderate-DS, one band, balanced without DRO",
        ONE_BAND | {"balancing": True},
        "controls",
        ENDS,
    ),
    "moderate-full-length": Row(
        "ResNet-18, Moderate-DS, as many steps as all data", OURS | {"full_length": True}, "controls", (0.1,)
    ),
    "random-full-length": Row(
        "Uniform random, as many steps as all data", RANDOM | {"full_length": True}, "controls", ENDS
    ),
    "mdt-random": Row("Uniform random", MDT | RANDOM, "table4"),
    "mdt-gaussian": Row("Inception-v3, Gaussian", MDT | INCEPTION | GAUSSIAN, "table4"),
    "mdt-gaussian-reweighted": Row(
        "Inception-v3, Gaussian + reweighting", MDT | INCEPTION | GAUSSIAN | REWEIGHTED, "table4"
    ),
    "mdt-moderate": Row("Inception-v3, Moderate-DS", MDT | INCEPTION | MODERATE, "table4"),
    "mdt-moderate-reweighted": Row(
        "Inception-v3, Moderate-DS + reweighting", MDT | INCEPTION | MODERATE | REWEIGHTED, "table4"
    ),
    "mdt-early-stopping": Row("All data, equal steps", MDT | RANDOM | STOPPED, "table4"),
    "mdt-full": Row("All data", MDT | RANDOM, "table4", (1.0,)),
    "sd-random": Row("Uniform random", SD | RANDOM, "table5"),
    "sd-clip-moderate": Row("CLIP, Moderate-DS", SD | CLIP | MODERATE, "table5"),
    "sd-moderate": Row("ResNet-18, Moderate-DS", SD | OURS, "table5"),
    "sd-moderate-reweighted": Row(
        "ResNet-18, Moderate-DS + reweighting", SD | OURS | REWEIGHTED, "table5", (0.2,)
    ),
    "sd-early-stopping": Row("All data, equal steps", SD | RANDOM | STOPPED, "table5"),
    "sd-full": Row("All data", SD | RANDOM, "table5", (1.0,)),
}
"""Each row once, in the order of its tables: the paper's first, then controls and other readings."""

# Those models of Stable Diffusion are sampled once more without guidance, as rows of their own.
_ROWS |= {
    f"{name}-unguided": Row(
        f"{row.label}, unguided", row.recipe | {"unguided": True}, "table5-unguided", row.ratios
    )
    for name, row in _ROWS.items()
    if row.tables == "table5" and not row.recipe.get("reweighting")
}

ROWS: dict[str, dict[str, Any]] = {}
"""Row name -> the recipe values that make it."""

LABELS: dict[str, str] = {}
"""Row name -> how the book prints it."""

TABLES: dict[str, dict[str, tuple[float, ...] | None]] = {name: {} for name in NAMES}
"""Table -> its rows and their ratios (None: all ratios that the profile has for the row's model)."""


def add_row(name: str, row: Row) -> None:
    """Enter a row into its tables."""
    ROWS[name], LABELS[name] = row.recipe, row.label
    for table in row.tables.split():
        TABLES[table][name] = row.ratios


for _name, _row in _ROWS.items():
    add_row(_name, _row)

TABLES["controls"] = dict.fromkeys(("random", "moderate", "moderate-reweighted"), ENDS) | TABLES["controls"]
TABLES["controls"] |= {"moderate-global": ENDS, "early-stopping": ENDS, "full": (1.0,)}
TABLES["figure2"] = dict.fromkeys(("moderate", "moderate-reweighted"), (0.1,))
TABLES["table1-latent"] = {
    **dict.fromkeys(("random", "lite0-gaussian", "early-stopping"), (0.1, 0.4)),
    **dict.fromkeys(("lite0-moderate", "moderate", "moderate-reweighted"), (0.1,)),
    **dict.fromkeys(("infobatch-budget-annealed", "moderate-reweighted-annealed", "random-annealed"), (0.1,)),
    "full": (1.0,),
}

FULL = {"unet": "full", "mdt": "mdt-full", "stable-diffusion": "sd-full"}
"""Model of a recipe -> the row of its run on all the data."""

MODEL = ("data", "embed", "select", "latents", "reference", "reweight", "train")
"""The parts of a cost ledger that a trained model costs, in order; its samples and their measuring are the others."""

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


class Metric(NamedTuple):
    """A column of :func:`read_cells`: how the book prints it, with how many digits, and if higher is better."""

    label: str
    digits: int = 2
    higher: bool = False


METRICS = {
    "fid": Metric("FID"),
    "worst": Metric("FID of the worst class"),
    "cmmd": Metric("CMMD", 4),
    "cmmd_unbiased": Metric("CMMD, unbiased", 4),
    "kid": Metric("KID", 4),
    "fid_held_out": Metric("FID to held-out images"),
    "precision": Metric("precision", 3, higher=True),
    "recall": Metric("recall", 3, higher=True),
    "copies_percent": Metric("near-copies (%)", 1),
}
"""What the book compares."""


def metric(value: str) -> Metric:
    """The entry of METRICS, or that of a column of your own, by its name."""
    return METRICS.get(value, Metric(value))


# ---- which cells there are -------------------------------------------------------------------------


def cells(table: str, profile: Named) -> list[Cell]:
    """All cells of a table under a profile, the largest ratios first.

    Raises:
        DedtError: there is no such table.
    """
    profile = load_profile(profile)
    found = [
        (row, ratio, seed)
        for seed in profile.seeds
        for row in table_rows(table, profile)
        for ratio in (TABLES[table][row] or row_ratios(row, profile))
    ]
    return sorted(found, key=lambda cell: -cell[1])


def table_rows(table: str, profile: Named) -> list[str]:
    """The rows of a table under a profile, without the one that only names its own scope once more."""
    if table not in TABLES:
        raise DedtError(f"Unknown table '{table}'. Choose one of: {', '.join(TABLES)}.")
    own = load_profile(profile).select.moderate_scope
    return [row for row in TABLES[table] if row != f"moderate-{own}"]


def cell_before(row: str, ratio: float, seed: int) -> Cell | None:
    """The cell that makes on its way what this one needs as well, or None.

    Of an unguided cell it is the guided one, of a null of reweighting the reweighted one, of one that needs a
    reference the run on all the data.
    """
    recipe = ROWS[row]
    if recipe.get("unguided"):
        return row.removesuffix("-unguided"), ratio, seed
    if recipe.get("null"):
        return row.removesuffix(f"-{recipe['null']}"), ratio, seed
    if recipe.get("reweighting") or recipe.get("early_stopping"):
        full = FULL.get(recipe.get("model", "unet"))
        return (full, 1.0, seed) if full else None
    return None


def row_ratios(row: str, profile: Named) -> tuple[float, ...]:
    """The ratios that a profile has for the model of a row."""
    section = ROWS[row].get("model", "unet").replace("-", "_")
    return getattr(load_profile(profile), section).ratios


def all_cells(profile: Named) -> list[Cell]:
    """The cells of all tables that a profile is made for, each once."""
    profile = load_profile(profile)
    return list(dict.fromkeys(cell for table in profile.tables for cell in cells(table, profile)))


def cell_recipe(row: str, ratio: float, seed: int) -> dict[str, Any]:
    """The recipe values of a cell.

    Raises:
        DedtError: there is no such row, or the ratio is outside (0, 1].
    """
    if row not in ROWS:
        raise DedtError(f"Unknown row '{row}'. Choose one of: {', '.join(ROWS)}.")
    return checked(Recipe, {**ROWS[row], "ratio": ratio, "seed": seed}).model_dump()


def cell_name(row: str, ratio: float, seed: int) -> str:
    """``ROW-PERCENT-SEED``, what a cell is called in file names and in ``cells.jsonl``."""
    return f"{row}-{ratio * 100:g}-{seed}"


def _order(name: str) -> tuple[str, float, int]:
    """What names of cells are sorted by: row, percent, seed."""
    row, percent, seed = name.rsplit("-", 2)
    return row, float(percent), int(seed)


# ---- their results on disk -------------------------------------------------------------------------


def results_folder(profile: Named, root: Root = None) -> Path:
    """``results/PROFILE`` under ``root``, ``$DEDT_RESULTS`` or the project."""
    root = root or os.environ.get("DEDT_RESULTS") or project_root() / "results"
    return Path(root) / load_profile(profile).name


FREE = re.compile(
    r"name|seeds|tables|threads|data\.(path|skip_bad)|train\.(checkpoint_every|channels_last|compile)|.*\.ratios"
)
"""Keys of a profile that may change while its results stay: what is computed, where, and how fast."""


def check_settings(profile: Named, *, root: Root = None, keep: bool = False) -> None:
    """Refuse a profile whose values are no longer those that its results were made with.

    Args:
        profile: a name, a file or a Profile.
        root: as in :func:`results_folder`.
        keep: note the values beside the results where nothing is noted yet.

    Raises:
        DedtError: they differ, with the keys.
    """
    profile, file = load_profile(profile), results_folder(profile, root) / "profile.json"
    values = json.loads(json.dumps(flat(profile.model_dump())))
    now = {key: value for key, value in values.items() if not FREE.fullmatch(key)}
    made = read_json(file) if file.exists() else now
    changed = sorted(key for key in made.keys() & now if made[key] != now[key])
    if changed:
        few = "; ".join(f"{key} = {made[key]!r}, now {now[key]!r}" for key in changed[:5])
        more = f" and {len(changed) - 5} more" * (len(changed) > 5)
        raise DedtError(
            f"The results in {file.parent} were made with other values of the profile: {few}{more}. "
            "Undo the change, give the profile another name, or move that folder away to compute them anew."
        )
    if keep and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, now)


def run_cell(
    profile: Named, row: str, ratio: float, seed: int, *, pending: bool = False, root: Root = None, **how: Any
) -> "tuple[Experiment, dict[str, Any]]":
    """Compute a cell, or find its stages in the store, and collect its result, in place of an earlier one.

    Args:
        profile: a name, a file or a Profile.
        row: its name in ROWS.
        ratio: the share of the images that is kept.
        seed: of the run.
        pending: leave the result where :func:`collect` finds it, as a worker of the grid does.
        root: as in :func:`results_folder`.
        how: ``store`` and ``report`` of the Experiment.

    Returns:
        The Experiment, and the result as it is kept.
    """
    from ..experiment import Experiment

    check_settings(profile, root=root)
    experiment = Experiment(profile, **how, **cell_recipe(row, ratio, seed))
    result = {"row": row, **experiment.cell()}
    name, folder = cell_name(row, ratio, seed), results_folder(profile, root) / "pending"
    samples = experiment.sample()[:SAMPLES_KEPT]
    if experiment.processes.main:
        check_settings(profile, root=root, keep=True)
        folder.mkdir(parents=True, exist_ok=True)
        _write_sheet(folder / f"{name}.png", {name: samples})
        write_json(folder / f"{name}.json", result)
        if not pending:
            collect(profile, [name], root=root)
    return experiment, result


def compute_missing(profile: Named, table: str = "table1") -> int:
    """Compute the cells of a table that have no result yet, one after the other; returns how many there were.

    For a small profile or a single machine; the grid (``make tables``) does the same on all cores.
    """
    there = done(profile)
    missing = [cell for cell in cells(table, profile) if cell_name(*cell) not in there]
    for cell in missing:
        run_cell(profile, *cell)
    return len(missing)


def done(profile: Named, *, root: Root = None) -> set[str]:
    """Names of the cells that have a result, collected or pending; raises DedtError as :func:`check_settings`."""
    check_settings(profile, root=root)
    folder = results_folder(profile, root)
    return {path.stem for path in folder.glob("pending/*.json")} | set(_collected(folder))


def collect(profile: Named, names: Iterable[str] = (), *, root: Root = None) -> int:
    """Move pending cells to where the book reads them; a process killed meanwhile loses none.

    Args:
        profile: a name, a file or a Profile.
        names: of the cells (:func:`cell_name`); without them all that are pending.
        root: as in :func:`results_folder`.

    Returns:
        How many there were.

    Raises:
        DedtError: a file is damaged, and is named; then nothing has moved.
    """
    folder = results_folder(profile, root)
    if not any(folder.glob("pending/*.json")):
        return 0
    with locked(folder / "pending" / "collect", "the results of another process"):
        found = _pending(folder, names)
        sheets: dict[Path, dict[str, np.ndarray]] = {}
        for name, result in found.items():
            sheet = folder / "samples" / f"{result['row']}.png"
            sheets.setdefault(sheet, _read_sheet(sheet)).update(
                _read_sheet(folder / "pending" / f"{name}.png")
            )
        lines = [{"cell": name, **result} for name, result in (_collected(folder) | found).items()]
        for path, samples in sheets.items():
            if samples:
                path.parent.mkdir(exist_ok=True)
                _write_sheet(path, samples)
        with atomic(folder / "cells.jsonl") as partial:
            with open(partial, "w") as file:
                for line in sorted(lines, key=lambda line: _order(line["cell"])):
                    text = json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False)
                    file.write(text + "\n")
        for name in found:
            for kind in ("png", "json"):
                (folder / "pending" / f"{name}.{kind}").unlink(missing_ok=True)
    return len(found)


def _pending(folder: Path, names: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Results that wait to be collected, all or those of ``names``, by the names of their cells."""
    found: dict[str, dict[str, Any]] = {}
    for path in [folder / "pending" / f"{name}.json" for name in names] or folder.glob("pending/*.json"):
        with contextlib.suppress(FileNotFoundError):  # it was collected just now
            found |= _parsed(path.read_bytes(), path, folder, path.stem)
    return found


def _collected(folder: Path) -> dict[str, dict[str, Any]]:
    """Results that are collected, by the names of their cells."""
    path, found = folder / "cells.jsonl", dict[str, dict[str, Any]]()
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        found |= _parsed(line, f"line {number} of {path}", folder)
    return found


def _parsed(text: bytes, where: str | Path, folder: Path, expected: str | None = None) -> dict[str, dict]:
    """The result of a cell, from JSON, by its name; raises DedtError when it is none."""
    try:
        result = json.loads(text)
        _columns(result)
        name = cell_name(result["row"], result["recipe"]["ratio"], result["recipe"]["seed"])
        if name != (expected or result.pop("cell")):
            raise ValueError(f"it is of {name}")
        return {name: result}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DedtError(
            f"{where} is no result of a cell ({error!r}); delete it and run: make tables PROFILE={folder.name}"
        ) from error


def _write_sheet(path: Path, samples: dict[str, np.ndarray]) -> None:
    """Samples uint8 [n, C, H, W] of each cell, below one another and shrunk to THUMBNAIL, in a lossless picture.

    The PNG's text "cells" names the cell of each column.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    names, note = sorted(samples, key=_order), PngInfo()
    note.add_text("cells", " ".join(names))
    if len({samples[name].shape for name in names}) > 1:
        raise DedtError(
            f"The samples in {path} have another size than the new ones. Delete it and run again."
        )
    n, _, side, _ = samples[names[0]].shape
    columns = [np.concatenate(list(samples[name]), axis=1) for name in names]
    picture = Image.fromarray(np.concatenate(columns, axis=2).transpose(1, 2, 0).squeeze())
    side = min(side, THUMBNAIL)
    with atomic(path) as partial:
        picture = picture.resize((side * len(names), side * n), Image.Resampling.BOX)
        picture.save(partial, format="PNG", pnginfo=note)


def _read_sheet(path: Path) -> dict[str, np.ndarray]:
    """What :func:`_write_sheet` wrote, nothing where there is no file; without the text it is of one cell."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.atleast_3d(np.asarray(picture))
            names = picture.info.get("cells", path.stem).split()
        columns = np.split(pixels, len(names), axis=1)
        side = columns[0].shape[1]
        return {
            name: column.reshape(-1, side, side, column.shape[2]).transpose(0, 3, 1, 2)
            for name, column in zip(names, columns)
        }
    except FileNotFoundError:
        return {}
    except Exception as error:  # Pillow raises errors of many kinds
        raise DedtError(
            f"{path} is no picture of samples ({error}). Delete it to do without, or delete its cells' lines in "
            f"{path.parent.parent / 'cells.jsonl'} as well and run: make tables PROFILE={path.parent.parent.name}"
        ) from error


def read_samples(
    profile: Named, row: str, ratio: float, seed: int, *, root: Root = None
) -> np.ndarray | None:
    """The first samples of a cell, kept beside its result.

    Returns:
        uint8 [n, C, H, W], or None where none were kept.

    Raises:
        DedtError: the picture is damaged.
    """
    name, folder = cell_name(row, ratio, seed), results_folder(profile, root)
    pending = _read_sheet(folder / "pending" / f"{name}.png")
    return (pending or _read_sheet(folder / "samples" / f"{row}.png")).get(name)


def read_cells(profile: Named, *, root: Root = None) -> "pd.DataFrame":
    """All results of a profile, collected or pending, one row a cell.

    Returns:
        Columns: row, ratio, seed, fid, worst (largest class-wise FID), copies, copies_features, steps, realised
        (images seen, as a share of those that a run on all the data sees), and what the final run cost: images,
        evaluations (of the network), seconds, cpu_seconds; the same with "whole_" in front counts all that the
        trained model costs (MODEL).  Where there are held-out images, fid_held_out; where the profile asks for
        them, kid, precision and recall, cmmd and cmmd_unbiased.  "result" is the whole JSON.

    Raises:
        DedtError: there are no results, one is damaged, and is named, or they are of other values of the profile.
    """
    import pandas as pd

    check_settings(profile, root=root)
    folder = results_folder(profile, root)
    pending = _pending(folder)  # first: what is collected in between is then found twice, not never
    found = _collected(folder) | pending
    if not found:
        raise DedtError(f"No results in {folder}. Run: make tables PROFILE={folder.name}")
    return pd.DataFrame([_columns(found[name]) for name in sorted(found, key=_order)])


def _columns(result: dict[str, Any]) -> dict[str, Any]:
    """The columns of :func:`read_cells` from the result of a cell."""
    costs, train = result["costs"], result["costs"]["train"]
    same = ("row", "fid", "copies", "steps", "realised")
    return {
        **{name: result[name] for name in same},
        **{name: result["recipe"][name] for name in ("ratio", "seed")},
        "worst": max((v for v in result["classwise"] if v is not None), default=math.nan),
        **{name: result.get(name) for name in (*MORE_METRICS, "copies_features", "fid_held_out")},
        **{unit: train[unit] for unit in UNITS},
        **{
            f"whole_{unit}": sum(cost[unit] for part, cost in costs.items() if part in MODEL)
            for unit in UNITS
        },
        "result": result,
    }


def reading(result: dict[str, Any]) -> dict[str, Any]:
    """What group DRO learned in a cell: ``Experiment.reweight`` for fewer steps.

    Args:
        result: of a reweighted cell.

    Returns:
        weights [K], trajectory [T, K], clipped [T], excess [T] (its mean over the classes), step [T] (of the
        proxy), and burn_in (steps), with T at most 100.
    """
    dro = result["dro"]
    return {
        "weights": np.array(result["class_weights"]),
        "trajectory": np.array(dro["trajectory"]),
        "clipped": np.array(dro["clipped_path"]),
        "excess": np.array(dro["excess_path"]),
        "step": np.unique(np.linspace(0, dro["steps"] - 1, min(100, dro["steps"])).round()),
        "burn_in": dro["burn_in"],
    }


def dro_options(profile: Named, *, root: Root = None) -> "pd.DataFrame":
    """What each option of group DRO changes, measured by ``tools/dro_options.py``: a row a setting.

    Returns:
        Columns: effective_classes, clipped, mean_excess (means over the seeds), between_seeds and with_default
        (mean correlation of the logarithms of the weights: of two seeds, and with the default's of the same
        seed), lowest (that of the two seeds which agree least), classes.  Empty for a profile without a
        measurement.
    """
    import pandas as pd

    file = results_folder(profile, root) / "dro-options.json"
    rows = read_json(file)["rows"] if file.exists() else []
    table = [
        {
            **{name: row[name] for name in ("setting", "effective_classes", "clipped", "mean_excess")},
            "between_seeds": float(np.mean(row["between_seeds"])) if row["between_seeds"] else math.nan,
            "lowest": min(row["between_seeds"], default=math.nan),
            "classes": len(row["weights"][0]),
            "with_default": float(np.mean(row["with_default"])),
        }
        for row in rows
    ]
    return pd.DataFrame(table).set_index("setting") if table else pd.DataFrame()


def fid_over_steps(profile: Named, *, root: Root = None) -> "pd.DataFrame":
    """What more steps bring, measured by ``tools/fid_over_steps.py``: a row a run and number of steps.

    Returns:
        Columns: ratio, seed, steps, fid.  Empty for a profile without a measurement.
    """
    import pandas as pd

    file = results_folder(profile, root) / "fid-over-steps.json"
    return pd.DataFrame(
        read_json(file)["rows"] if file.exists() else [], columns=["ratio", "seed", "steps", "fid"]
    )


# ---- the tables as the book prints them ------------------------------------------------------------


def percent(ratio: float) -> str:
    """A ratio as the book prints it: 0.1 is "10 %"."""
    return f"{100 * ratio:g} %"


def named(table: "pd.DataFrame", rows: Iterable[str]) -> "pd.DataFrame":
    """A table by (row, ratio) as the book prints it: ``rows`` in their order and by label, ratios in %."""
    table = table.reindex(list(rows), level=0).rename_axis([None, None])
    return table.rename(index=LABELS, level=0).rename(index=percent, level=1)


def intervals(frame: "pd.DataFrame", by: str | list[str], value: str = "fid") -> "pd.DataFrame":
    """Means over the seeds with their 95 % intervals (:func:`~dedt_lib.evaluation.mean_interval`).

    Args:
        frame: of :func:`read_cells`.
        by: the columns that name a group of seeds.
        value: the column that is averaged; cells without it are left out.

    Returns:
        A row for each group.  Columns: mean, low, high, seeds; low and high are NaN for one seed.
    """
    import pandas as pd

    from ..evaluation import mean_interval

    groups = frame.set_index(by)[value].astype(float).dropna().groupby(level=by)
    found = {group: (*map(float, mean_interval(values)), len(values)) for group, values in groups}
    index = groups.size().index
    return pd.DataFrame(list(found.values()), index, columns=["mean", "low", "high", "seeds"])


def layout(
    frame: "pd.DataFrame",
    table: str = "table1",
    value: str = "fid",
    digits: int = 2,
    published: dict[str, Any] | None = None,
) -> "pd.DataFrame":
    """A table as the paper prints it: rows by name, columns by ratio, "mean ± half of its 95 % interval".

    Entries of fewer seeds than the others say of how many they are.

    Args:
        frame: of :func:`read_cells`.
        table: its name in TABLES.
        value: the column of ``frame`` that is shown.
        digits: how many are printed after the point.
        published: a table of :mod:`dedt_lib.book.paper`, for columns of its own.

    Returns:
        Strings, with a dash where there is no number.
    """
    import pandas as pd

    from . import paper

    rows = [row for row in TABLES[table] if row in set(frame.row)]
    ours = intervals(frame[frame.row.isin(rows)], ["row", "ratio"], value)
    entries = _printed(ours, digits)
    ratios = sorted(ours.index.unique("ratio"))
    columns = {percent(ratio): [entries.get((row, ratio), "–") for row in rows] for ratio in ratios}
    if published:
        for ratio in ratios:
            theirs = [paper.by_ratio(published, row).get(ratio) for row in rows]
            columns[f"paper, {percent(ratio)}"] = [f"{number:.2f}" if number else "–" for number in theirs]
    return pd.DataFrame(columns, index=[LABELS[row] for row in rows])


def metrics(frame: "pd.DataFrame", rows: Iterable[str], values: Iterable[str]) -> "pd.DataFrame":
    """Several metrics beside each other, by row and ratio, as "mean ± half of its 95 % interval".

    Args:
        frame: of :func:`read_cells`.
        rows: those of the table, in their order.
        values: the columns of ``frame`` that are shown, mostly of METRICS.

    Returns:
        Strings, with a dash where there is no number.
    """
    import pandas as pd

    own = frame[frame.row.isin(rows := list(rows))]
    columns = {
        metric(value).label: _printed(intervals(own, ["row", "ratio"], value), metric(value).digits)
        for value in values
    }
    index = pd.MultiIndex.from_frame(own[["row", "ratio"]].drop_duplicates().sort_values(["row", "ratio"]))
    return named(pd.DataFrame(columns, index).fillna("–"), rows)


def _printed(found: "pd.DataFrame", digits: int) -> dict[Any, str]:
    """Entries of :func:`intervals` as the book prints them; those of fewer seeds than the others say so."""
    most = found.seeds.max()
    return {
        cell: f"{mean:.{digits}f}"
        + (f" ± {high - mean:.{digits}f}" if seeds > 1 else "")
        + (f" (n = {seeds})" if seeds < most else "")
        for cell, mean, _, high, seeds in found.itertuples()
    }


def speedups_by_seed(
    frame: "pd.DataFrame", rows: Iterable[str], whole: bool = False, full: str = "full"
) -> "pd.DataFrame":
    """Speed-up over the run on all the data with the same seed, as in the paper's Table III.

    Args:
        frame: of :func:`read_cells`.
        rows: those of the table, in their order.
        whole: count all that the trained model costs (MODEL), and not the final training alone.
        full: the row of that run; a seed without it is left out.

    Returns:
        A line for each cell, by (row, ratio).  Columns: images, network evaluations, CPU time, wall clock.
    """
    import pandas as pd

    columns = [f"{'whole_' if whole else ''}{unit}" for unit in UNITS]
    base = frame[frame.row == full].set_index("seed")[columns]
    own = frame[frame.row.isin(rows) & frame.seed.isin(base.index)]
    times = base.loc[own.seed].to_numpy() / own[columns].to_numpy()
    return pd.DataFrame(times, pd.MultiIndex.from_frame(own[["row", "ratio"]]), UNITS.values())


def speedups(
    frame: "pd.DataFrame", rows: Iterable[str], whole: bool = False, full: str = "full"
) -> "pd.DataFrame":
    """Means over the seeds of :func:`speedups_by_seed`, as the book prints them."""
    rows = list(rows)
    return named(speedups_by_seed(frame, rows, whole, full).groupby(level=[0, 1]).mean(), rows)
