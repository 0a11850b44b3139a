"""Results of cells on disk.

The result of a cell is a line of ``results/PROFILE/cells.jsonl``, and its first samples are a column of
``results/PROFILE/samples/ROW.png``.  Both files are committed, and the book reads everything it shows from
them.  Many processes compute cells at once, so each writes its result to files of its own under ``pending``;
:func:`collect` moves them into the common files.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import thin
from ..config.profile import Profile, defaults, flat, load_profile
from ..errors import DedtError
from ..files import atomic, chosen_folder, locked, make_folder, read_json, write_json
from .grid import Named, cell_name, cell_recipe, cells

if TYPE_CHECKING:
    import pandas as pd

    from ..experiment import Experiment

Root = str | os.PathLike | None
"""The folder of all results, or None for the default one (:func:`results_folder`)."""

MODEL = ("data", "embed", "select", "latents", "reference", "reweight", "train")
"""The stages of a ledger that make up the cost of a trained model, in order; others sample and evaluate."""

GIVEN = {("latents", "images"), ("latents", "evaluations")}
"""What a ledger has of the pre-training of a pipeline.  Table V takes the pipeline as given."""

UNITS = {
    "images": "images",
    "evaluations": "network evaluations",
    "cpu_seconds": "CPU time",
    "seconds": "wall clock",
}
"""The units of cost: key in a result's ledger -> how the book prints it."""

SAMPLES_KEPT, THUMBNAIL = 50, 64
"""How many samples are kept as a picture beside a result, and their largest side in pixels."""

MORE_METRICS = ("cmmd", "cmmd_unbiased", "kid", "precision", "recall")
"""Metrics besides FID (:meth:`dedt_lib.experiment.Experiment.compare`), which not every cell has."""


def results_folder(profile: Named, root: Root = None) -> Path:
    """``results/PROFILE`` under ``root``, ``$DEDT_RESULTS`` or the project."""
    return Path(root or chosen_folder("DEDT_RESULTS", "results")) / load_profile(profile).name


FREE = re.compile(
    r"name|seeds|tables|device|threads|data\.(path|skip_bad)|.*\.ratios"
    r"|train\.(checkpoint_every|channels_last|compile)"
)
"""Keys of a profile that may change without making its results invalid: what is computed, where, how fast."""


def check_settings(profile: Named, *, root: Root = None, keep: bool = False, images: str = "") -> None:
    """Refuse a profile whose values differ from those that its results were made with (``profile.json``).

    Args:
        profile: a name, a file or a Profile.
        root: the folder of all results, see :func:`results_folder`.
        keep: write ``profile.json`` if it does not exist yet.
        images: fingerprint of the training images, compared too if it is known.

    Raises:
        DedtError: values differ, with their keys; the images do; or ``keep`` is set and ``profile.json`` is
            missing although there are results.
    """
    profile, file = load_profile(profile), results_folder(profile, root) / "profile.json"
    now = _deciding(flat(profile.model_dump()))
    restore = "restore it with git checkout or from a copy, or move its folder away to recompute the results."
    found = read_json(file, restore) if file.exists() else now
    made = _deciding(defaults(Profile)) | found  # a key that is newer than the results had its default
    if images and made.get("images", images) != images:
        raise DedtError(
            f"The results in {file.parent} were made with other images. Use those again, set DEDT_RESULTS to "
            "another folder, or give the profile another name."
        )
    changed = sorted(key for key in made.keys() & now if made[key] != now[key])
    if changed:
        few = "; ".join(f"{key} = {made[key]!r}, now {now[key]!r}" for key in changed[:5])
        more = f" and {len(changed) - 5} more" * (len(changed) > 5)
        raise DedtError(
            f"The results in {file.parent} were computed with other values of the profile: {few}{more}. "
            "Undo the change, rename the profile, or move the folder away to recompute the results."
        )
    if keep and not file.exists():
        if (file.parent / "cells.jsonl").exists():
            raise DedtError(
                f"{file} is missing, so the settings of the results in {file.parent} are unknown: {restore}"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
    if keep and (noted := made | ({"images": images} if images else {})) != (
        found if file.exists() else None
    ):
        write_json(file, noted)


def _deciding(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a profile that decide its results, by dotted key, as JSON has them."""
    return {key: value for key, value in json.loads(json.dumps(values)).items() if not FREE.fullmatch(key)}


def run_cell(
    profile: Named, row: str, ratio: float, seed: int, *, pending: bool = False, root: Root = None, **how: Any
) -> "tuple[Experiment, dict[str, Any]]":
    """Compute a cell, or take its stages from the store, and save its result in place of an earlier one.

    Args:
        profile: a name, a file or a Profile.
        row: name of the row in ROWS.
        ratio: share of the images that is kept.
        seed: seed of the run.
        pending: leave the result under ``pending`` for a later :func:`collect`, as workers of the grid do.
        root: the folder of all results, see :func:`results_folder`.
        how: ``store`` and ``report`` of the Experiment.

    Returns:
        The Experiment, and the result as saved.
    """
    from ..experiment import Experiment

    profile = load_profile(profile)  # once: its file may change meanwhile
    check_settings(profile, root=root)
    name, folder = cell_name(row, ratio, seed), results_folder(profile, root) / "pending"
    experiment = Experiment(profile, **how, **cell_recipe(row, ratio, seed))
    experiment.check()
    images = experiment.lab.images.address
    check_settings(profile, root=root, images=images)
    make_folder(folder, "Set DEDT_RESULTS to")
    result = {"row": row, "images": images, **experiment.cell()}
    samples = experiment.sample()[:SAMPLES_KEPT]
    if experiment.processes.main:
        check_settings(profile, root=root, keep=True, images=images)
        _write_sheet(folder / f"{name}.png", {name: samples})
        write_json(folder / f"{name}.json", result)
        if not pending:
            collect(profile, [name], root=root)
    return experiment, result


def compute_missing(profile: Named, table: str = "table1") -> int:
    """Compute the cells of a table that have no result yet, one after the other, and return their number.

    This suits a small profile on a single machine; the grid (``make tables``) does the same on all cores.
    """
    profile = load_profile(profile)
    there = done(profile)
    missing = [cell for cell in cells(table, profile) if cell_name(*cell) not in there]
    for cell in missing:
        run_cell(profile, *cell)
    return len(missing)


def done(profile: Named, *, root: Root = None) -> set[str]:
    """Names of the cells that have a result; raises DedtError as :func:`check_settings` does."""
    check_settings(profile, root=root)
    folder = results_folder(profile, root)
    return set(_pending(folder)) | set(_collected(folder))


def collect(profile: Named, names: Iterable[str] = (), *, root: Root = None) -> int:
    """Move pending results into the files that the book reads; killing the process loses none.

    Args:
        profile: a name, a file or a Profile.
        names: names of the cells, see :func:`cell_name` (default: all pending ones).
        root: the folder of all results, see :func:`results_folder`.

    Returns:
        The number of results that were moved.

    Raises:
        DedtError: a file is damaged, the message names it; or results are of other settings or images.
            Nothing is then moved.
    """
    folder = results_folder(profile, root)
    if not any(folder.glob("pending/*.json")):
        return 0
    with locked(folder / "pending" / "collect", "the results of another process"):
        found = _pending(folder, names)
        for images in {result.get("images", "") for result in found.values()}:
            check_settings(profile, root=root, keep=True, images=images)
        sheets: dict[Path, dict[str, np.ndarray]] = {}
        for name, result in found.items():
            sheet = _sheet_of(folder, result["row"])
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
    """Results that are not collected yet, by the names of their cells: all, or those of ``names``."""
    found: dict[str, dict[str, Any]] = {}
    for path in [folder / "pending" / f"{name}.json" for name in names] or folder.glob("pending/*.json"):
        with contextlib.suppress(FileNotFoundError):  # it was collected just now
            found |= _parsed(path.read_bytes(), path, folder, path.stem)
    return found


def _collected(folder: Path) -> dict[str, dict[str, Any]]:
    """Collected results, by the names of their cells."""
    path, found = folder / "cells.jsonl", dict[str, dict[str, Any]]()
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        where = f"line {number} of {path}"
        ((name, result),) = _parsed(line, where, folder).items()
        if found.setdefault(name, result) is not result:
            raise DedtError(f"{where} is a second result of {name}. Delete one of the two lines.")
    return found


def _parsed(text: bytes, where: str | Path, folder: Path, expected: str | None = None) -> dict[str, dict]:
    """The result of a cell from its JSON, as {name: result}; raises DedtError if it is not valid."""
    try:
        result = json.loads(text)
        _columns(result)
        name = cell_name(result["row"], result["recipe"]["ratio"], result["recipe"]["seed"])
        if name != (expected or result.pop("cell")):
            raise ValueError(f"it belongs to {name}")
        if result["profile"] != folder.name:
            raise ValueError(f"it belongs to profile {result['profile']}")
        return {name: result}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DedtError(
            f"{where} is not a valid result of a cell ({error!r}). Delete it, and run make tables with this "
            "profile again."
        ) from error


def _order(name: str) -> tuple[str, float, int]:
    """The key that sorts names of cells: (row, percent, seed)."""
    row, percent, seed = name.rsplit("-", 2)
    return row, float(percent), int(seed)


def _sheet_of(folder: Path, row: str) -> Path:
    """The file with the samples of a row's models, drawn with and without guidance."""
    return folder / "samples" / f"{row.removesuffix('-unguided')}.png"


def _write_sheet(path: Path, samples: dict[str, np.ndarray]) -> None:
    """Write the samples uint8 [n, C, H, W] of several cells as a PNG with a column for each cell.

    Samples larger than THUMBNAIL are shrunk.  The PNG's text "cells" names the cell of each column.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    names, note = sorted(samples, key=_order), PngInfo()
    note.add_text("cells", " ".join(names))
    if len({samples[name].shape for name in names}) > 1:
        raise DedtError(
            f"The samples in {path} differ in size from the new ones. Delete the file and run again."
        )
    n, _, side, _ = samples[names[0]].shape
    columns = [np.concatenate(list(samples[name]), axis=1) for name in names]
    picture = Image.fromarray(np.concatenate(columns, axis=2).transpose(1, 2, 0).squeeze())
    side = min(side, THUMBNAIL)
    with atomic(path) as partial:
        picture = picture.resize((side * len(names), side * n), Image.Resampling.BOX)
        picture.save(partial, format="PNG", pnginfo=note)


def _read_sheet(path: Path) -> dict[str, np.ndarray]:
    """Samples by cell, from a file of :func:`_write_sheet`; without the text "cells" it holds one cell."""
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
            f"{path} is not a readable picture of samples ({error}). Delete it to go without these samples, "
            f"or also delete the lines of its cells in {path.parent.parent / 'cells.jsonl'} and run: make "
            f"tables PROFILE={path.parent.parent.name}"
        ) from error


def read_samples(
    profile: Named, row: str, ratio: float, seed: int, *, root: Root = None
) -> np.ndarray | None:
    """The first samples of a cell, as kept beside its result.

    Returns:
        uint8 [n, C, H, W], or None if none were kept.

    Raises:
        DedtError: the picture is damaged.
    """
    name, folder = cell_name(row, ratio, seed), results_folder(profile, root)
    pending = _read_sheet(folder / "pending" / f"{name}.png")
    return (pending or _read_sheet(_sheet_of(folder, row))).get(name)


def read_cells(profile: Named, *, root: Root = None) -> "pd.DataFrame":
    """All results of a profile, collected or pending, one line for each cell.

    Returns:
        Columns: profile (as commands name it), row, ratio, seed, fid, worst (largest class-wise FID), copies,
        copies_features, steps, and realised (images seen, as a share of those of a run on all the data).
        Cost of the final training run: images, evaluations (of the network), seconds, cpu_seconds; with the
        prefix ``whole_``, the same for all stages that lead to the trained model (MODEL).  With held-out
        images: fid_held_out.  For latent models, and where the profile asks for them: MORE_METRICS.
        Every other number of the result under its own name, such as a metric of one's own.
        "result" is the whole JSON.

    Raises:
        DedtError: there are no results, one is damaged (the message names it), or they were made with other
            values of the profile.
    """
    import pandas as pd

    check_settings(profile, root=root)
    profile, folder = load_profile(profile), results_folder(profile, root)
    pending = _pending(folder)  # first: what is collected in between is then found twice, not never
    found = _collected(folder) | pending
    if not found:
        raise DedtError(f"No results in {folder}. Run: make tables PROFILE={profile.called}")
    made = pd.DataFrame([_columns(found[name]) for name in sorted(found, key=_order)])
    return made.assign(profile=profile.called)


def _columns(result: dict[str, Any]) -> dict[str, Any]:
    """The columns of :func:`read_cells` for the result of a cell, without the profile."""
    costs, same = result["costs"], ("row", "fid", "copies", "steps", "realised")
    whole = {
        unit: sum(costs[part][unit] for part in MODEL if part in costs and (part, unit) not in GIVEN)
        for unit in UNITS
    }
    columns = {
        **{name: result[name] for name in same},
        **{name: result["recipe"][name] for name in ("ratio", "seed")},
        "worst": max((v for v in result["classwise"] if v is not None), default=math.nan),
        **{name: result.get(name) for name in (*MORE_METRICS, "copies_features", "fid_held_out")},
        **{unit: costs["train"][unit] for unit in UNITS},
        **{f"whole_{unit}": sum_ for unit, sum_ in whole.items()},
    }
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    return {**numbers, **columns, "result": result}


def reading(result: dict[str, Any]) -> dict[str, Any]:
    """The course of group DRO in a cell: what ``Experiment.reweight`` returns, at T <= 100 of its steps.

    Args:
        result: the result of a reweighted cell.

    Returns:
        weights [K], trajectory [T, K], clipped [T], excess [T] (mean over the classes), step [T] (the proxy's
        step number) and burn_in (in steps).
    """
    dro = result["dro"]
    paths = {"trajectory": dro["trajectory"], "clipped": dro["clipped_path"], "excess": dro["excess_path"]}
    arrays = {name: np.array(path) for name, path in (paths | {"weights": result["class_weights"]}).items()}
    return {**arrays, "step": thin(np.arange(dro["steps"]), 100), "burn_in": dro["burn_in"]}


def dro_options(profile: Named, *, root: Root = None) -> "pd.DataFrame":
    """Effects of the options of group DRO, measured by ``tools/dro_options.py``: one line for each setting.

    Returns:
        Columns: effective_classes, clipped and mean_excess (means over the seeds); between_seeds and
        with_default (mean correlation of log weights, between two seeds, and with the default setting at the
        same seed); lowest (correlation of the two seeds that agree least); classes.  Empty for a profile
        without a measurement.
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
    """FID in the course of training, measured by ``tools/fid_over_steps.py``: a line for each run and step.

    Returns:
        Columns: ratio, seed, steps, fid.  Empty for a profile without a measurement.
    """
    import pandas as pd

    file = results_folder(profile, root) / "fid-over-steps.json"
    rows = read_json(file)["rows"] if file.exists() else []
    return pd.DataFrame(rows, columns=["ratio", "seed", "steps", "fid"])


def reconstruction(profile: Named, *, root: Root = None) -> dict[str, Any]:
    """What the autoencoder costs, measured by ``tools/reconstruction.py``: fid and error; {} if it was not."""
    file = results_folder(profile, root) / "reconstruction.json"
    return read_json(file) if file.exists() else {}
