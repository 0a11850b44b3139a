# The grid of runs behind the tables. Each cell is one papermill run whose executed notebook is its log.
#   snakemake --workflow-profile profiles/local --config profile=digits
from dedt_lib.tables import TABLES, cell_name, cells

PROFILE = config.get("profile", "digits")
CELLS = {table: [cell_name(*cell) for cell in cells(table, PROFILE)] for table in TABLES}
NEEDS_REFERENCE = ("early-stopping", "moderate-reweighted", "moderate-literal-dro")


wildcard_constraints:
    percent=r"[\d.]+",
    seed=r"\d+",


rule tables:
    input:
        [f"results/{PROFILE}/cells/{name}.json" for names in CELLS.values() for name in names],


def reference(wildcards):
    needed = wildcards.row in NEEDS_REFERENCE
    return [f"results/{PROFILE}/cells/full-100-{wildcards.seed}.json"] if needed else []


rule cell:
    input:
        reference,
    output:
        f"results/{PROFILE}/cells/{{row}}-{{percent}}-{{seed}}.json",
    log:
        f"_build/{PROFILE}/logs/{{row}}-{{percent}}-{{seed}}.ipynb",
    threads: 1
    priority: lambda wildcards: int(wildcards.row == "full")
    resources:
        gpu=1,
    shell:
        'DEDT_RESULTS="$(realpath -m "$(dirname {output})/../..")" TQDM_DISABLE=1'
        " papermill notebooks/cell.ipynb {log} --cwd notebooks --no-progress-bar"
        " -p profile {PROFILE} -p row {wildcards.row} -p percent {wildcards.percent} -p seed {wildcards.seed}"
