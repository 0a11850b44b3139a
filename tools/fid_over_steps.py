"""Measure what more steps bring: FID in the course of training on few and on all images.

``python tools/fid_over_steps.py`` takes the runs of the rows "random-full-length" and "full" for every seed
of the profile, trains those that are not in the store, and writes ``results/PROFILE/fid-over-steps.json``.
An interrupted run can be continued, and the rows of seeds that are not asked for stay in the file.
"""

import argparse

from tqdm import tqdm

from dedt_lib.book.grid import all_cells, cell_recipe
from dedt_lib.book.results import results_folder
from dedt_lib.config.profile import load_profile
from dedt_lib.experiment import Experiment
from dedt_lib.files import commit, read_json, write_json
from dedt_lib.stages import Lab
from dedt_lib.stages.evaluate import Evaluate
from dedt_lib.stages.sample import Sample
from dedt_lib.stages.train import Snapshot
from dedt_lib.store import Store, provenance

ROWS = ("full", "random-full-length")


def measure(lab, seeds):
    """A row for each ratio, seed and number of steps: a list of dicts, ready for JSON."""
    runs = [cell for cell in all_cells(lab.profile) if cell[0] in ROWS and cell[2] in seeds]
    rows = []
    for row, ratio, seed in tqdm(sorted(runs, key=lambda cell: cell[2]), unit="run"):
        run = Experiment(lab, **cell_recipe(row, ratio, seed)).model
        for step in sorted({*run.kept_steps, run.steps}):
            metrics = Evaluate(lab, Sample(lab, Snapshot(lab, run, step)), None).result()
            rows.append({"ratio": ratio, "seed": seed, "steps": step, "fid": metrics["fid"]})
    return rows


def add(file, rows, made):
    """Write the rows of some seeds, and how they were ``made``, into a file, in place of earlier ones."""
    facts = read_json(file) if file.exists() else {"provenance": {}, "rows": []}
    seeds = {row["seed"] for row in rows}
    rows = [*(row for row in facts["rows"] if row["seed"] not in seeds), *rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    provenances = facts["provenance"] | {str(seed): made for seed in seeds}
    write_json(file, {"provenance": provenances, "rows": sorted(rows, key=lambda row: row["seed"])})


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="digits")
    parser.add_argument("--path", default="", help="folder of the images, if the profile names none")
    parser.add_argument("--seeds", type=int, nargs="*", help="seeds (default: all of the profile)")
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile, **({"data.path": arguments.path} if arguments.path else {}))
    seeds = arguments.seeds or profile.seeds
    rows = measure(Lab(profile, store=Store()), seeds)
    add(results_folder(profile) / "fid-over-steps.json", rows, {**provenance(), "commit": commit()})


if __name__ == "__main__":
    main()
