# The grid of runs behind the tables. Each cell is one papermill run whose executed notebook is its log.
#   snakemake --workflow-profile profiles/local --config profile=digits
from pathlib import Path

from dedt_lib.recipes import load_profile
from dedt_lib.tables import ROWS, all_cells, cell_name

GIVEN = str(config.get("profile", "digits"))
PROFILE = load_profile(GIVEN).name
GIVEN = str(Path(GIVEN).resolve()) if GIVEN.endswith(".toml") else GIVEN
CELLS = [cell_name(*cell) for cell in all_cells(GIVEN)]
NEEDS_REFERENCE = [row for row, values in ROWS.items() if {"reweighting", "early_stopping"} & set(values)]


wildcard_constraints:
    percent=r"[\d.]+",
    seed=r"\d+",


rule tables:
    input:
        [f"results/{PROFILE}/cells/{name}.json" for name in CELLS],


def reference(wildcards):
    if wildcards.row not in NEEDS_REFERENCE:
        return []
    full = {"mdt": "mdt-full", "stable-diffusion": "sd-full"}.get(ROWS[wildcards.row].get("model"), "full")
    return [f"results/{PROFILE}/cells/{full}-100-{wildcards.seed}.json"]


rule cell:
    input:
        reference,
    output:
        f"results/{PROFILE}/cells/{{row}}-{{percent}}-{{seed}}.json",
    log:
        f"_build/{PROFILE}/logs/{{row}}-{{percent}}-{{seed}}.ipynb",
    threads: 1
    priority: lambda wildcards: int(wildcards.row.endswith("full"))
    resources:
        gpu=1,
    shell:
        'DEDT_RESULTS="$(realpath -m "$(dirname {output})/../..")" TQDM_DISABLE=1'
        " papermill notebooks/cell.ipynb {log} --cwd notebooks --no-progress-bar"
        " -p profile {GIVEN} -p row {wildcards.row} -p percent {wildcards.percent} -p seed {wildcards.seed}"
