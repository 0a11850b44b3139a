# The grid of runs behind the tables. Each cell is one papermill run whose executed notebook is its log.
#   snakemake --workflow-profile profiles/local --config profile=digits
from pathlib import Path

from snakemake.exceptions import WorkflowError

from dedt_lib.config import load_profile
from dedt_lib.book.tables import FULL, all_cells, cell_before, cell_name

GIVEN = str(config.get("profile", "digits"))
PROFILE = load_profile(GIVEN).name
if set("{}\n") & set(PROFILE):
    raise WorkflowError(f"Rename the profile {PROFILE!r}: braces and line breaks mean something else in a path here.")
GIVEN = str(Path(GIVEN).resolve()) if GIVEN.endswith(".toml") else GIVEN
CELLS = [cell_name(*cell) for cell in all_cells(GIVEN)]


wildcard_constraints:
    percent=r"[\d.]+",
    seed=r"\d+",


rule tables:
    input:
        [f"results/{PROFILE}/cells/{name}.json" for name in CELLS],


def before(wildcards):
    cell = cell_before(wildcards.row, float(wildcards.percent) / 100, wildcards.seed)
    return [f"results/{PROFILE}/cells/{cell_name(*cell)}.json"] if cell else []


rule cell:
    input:
        before,
    output:
        f"results/{PROFILE}/cells/{{row}}-{{percent}}-{{seed}}.json",
    log:
        f"_build/{PROFILE}/logs/{{row}}-{{percent}}-{{seed}}.ipynb",
    threads: 1
    priority: lambda wildcards: int(wildcards.row in FULL.values())
    resources:
        gpu=1,
    shell:
        'DEDT_RESULTS="$(realpath -m -- "$(dirname -- {output:q})/../..")" TQDM_DISABLE=1'
        " papermill notebooks/cell.ipynb {log:q} --cwd notebooks --no-progress-bar"
        " -r profile {GIVEN:q} -r row {wildcards.row:q} -p percent {wildcards.percent:q} -p seed {wildcards.seed:q}"
