# The grid of runs behind the tables. Each cell is one papermill run whose executed notebook is its log.
#   snakemake --workflow-profile profiles/local --config profile=digits
import os
from pathlib import Path

from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError

from dedt_lib.config import load_profile
from dedt_lib.errors import DedtError
from dedt_lib.extensions import load_extensions
from dedt_lib.book.grid import FULL, all_cells, cell_before, cell_name
from dedt_lib.book.results import collect, done

GIVEN = str(config.get("profile", "digits"))
try:
    load_extensions()
    PROFILE = load_profile(GIVEN).name
except DedtError as error:
    raise WorkflowError(str(error)) from None
if set("{}\n") & set(PROFILE):
    raise WorkflowError(
        f"Rename the profile {PROFILE!r}: Snakemake gives braces and line breaks in paths another meaning."
    )
GIVEN = str(Path(GIVEN).resolve()) if GIVEN.endswith(".toml") else GIVEN
RESULTS = Path(workflow.storage_settings.default_storage_prefix or "") / "results"
if workflow.is_main_process:
    if os.environ.get("DEDT_RESULTS"):
        raise WorkflowError("The grid writes into results/ and would not read $DEDT_RESULTS: unset it.")
    if not workflow.dryrun:
        Path(f"_build/{PROFILE}").mkdir(parents=True, exist_ok=True)
        GRID = FileLock(f"_build/{PROFILE}/grid.lock")  # held to the end of this process
        try:
            GRID.acquire(timeout=0)
        except Timeout:
            raise WorkflowError(f"Another grid of profile {PROFILE} is running here: wait for it, or stop it.") from None
try:
    DONE = done(GIVEN, root=RESULTS)
except DedtError as error:
    raise WorkflowError(str(error)) from None


def pending(cells):
    """What is still to be made of the cells; what is done is not asked for, wherever it lies."""
    names = [cell_name(*cell) for cell in cells]
    return [f"results/{PROFILE}/pending/{name}.json" for name in names if name not in DONE]


def before(wildcards):
    cell = cell_before(wildcards.row, round(float(wildcards.percent) / 100, 10), int(wildcards.seed), GIVEN)
    return pending([cell] if cell else [])


wildcard_constraints:
    percent=r"[\d.]+",
    seed=r"\d+",


rule tables:
    input:
        pending(all_cells(GIVEN)),


rule cell:
    input:
        before,
    output:
        f"results/{PROFILE}/pending/{{row}}-{{percent}}-{{seed}}.json",
        f"results/{PROFILE}/pending/{{row}}-{{percent}}-{{seed}}.png",
    log:
        f"_build/{PROFILE}/logs/{{row}}-{{percent}}-{{seed}}.ipynb",
    threads: 1
    # Seed by seed, so that a grid that is stopped leaves whole tables of fewer seeds.
    priority: lambda wildcards: max(0, 1000 - 2 * int(wildcards.seed)) + int(wildcards.row in FULL.values())
    resources:
        gpu=1,
    shell:
        'DEDT_RESULTS="$(CDPATH= cd -- "$(dirname -- {output[0]:q})/../.." && pwd)" TQDM_DISABLE=1'
        " papermill notebooks/cell.ipynb {log:q} --cwd notebooks --no-progress-bar"
        " -r profile {GIVEN:q} -r row {wildcards.row:q} -p percent {wildcards.percent:q} -p seed {wildcards.seed:q}"


onsuccess:
    collect(GIVEN, root=RESULTS)


onerror:
    collect(GIVEN, root=RESULTS)
