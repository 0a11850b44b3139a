"""The grid of runs: the rows of each table, their recipes, and the cells (row, ratio, seed) of a table."""

import shlex
from typing import Any, NamedTuple

from ..arrays import check_choice
from ..config.profile import TABLES as NAMES
from ..config.profile import Profile, checked, load_profile
from ..config.recipe import Recipe
from ..errors import DedtError

Named = str | Profile
"""A profile, its name, or its file."""

Cell = tuple[str, float, int]
"""Row, ratio and seed."""

RANDOM, RESNET = {"method": "random"}, {"encoder": "resnet18"}
LITE = {"encoder": "efficientnet-lite0"}
INCEPTION, CLIP = {"encoder": "inceptionv3"}, {"encoder": "clip-rn50"}
GAUSSIAN, MODERATE = {"method": "gaussian"}, {"method": "moderate"}
REWEIGHTED, ANNEALED, STOPPED = {"reweighting": True}, {"annealing": True}, {"early_stopping": True}
MDT, SD = {"model": "mdt"}, {"model": "stable-diffusion"}
OURS = RESNET | MODERATE
WEIGHTED = OURS | REWEIGHTED
ONE_BAND, OWN_BANDS = OURS | {"scope": "global"}, OURS | {"scope": "class"}
BALANCED = ONE_BAND | {"balancing": True}
SHUFFLED, BORROWED = WEIGHTED | {"null": "shuffled"}, WEIGHTED | {"null": "another-seed"}
EQUAL_STEPS, FULL_LENGTH = WEIGHTED | {"reference": "equal-steps"}, {"full_length": True}
BY_RATIO, TO_BUDGET = (RANDOM | {"infobatch": prune} | ANNEALED for prune in ("ratio", "budget"))
ENDS = (0.1, 0.4)
FULL = {"unet": "full", "mdt": "mdt-full", "stable-diffusion": "sd-full"}
"""Model of a recipe -> row of that model's run on all the data."""


class Row(NamedTuple):
    """A row of the tables: its label in the book, the recipe values of its runs, and the tables it is in."""

    label: str
    recipe: dict[str, Any]
    tables: str
    ratios: tuple[float, ...] | None = None
    """Ratios in these tables; None: all that the profile has for the row's model, none for a new model."""


# The rows of the paper's Tables I to III and their controls, then Table IV (MDT) and V (Stable Diffusion).
_ROWS = {
    "random": Row("Uniform random", RANDOM, "table1"),
    "inceptionv3-gaussian": Row("Inception-v3, Gaussian", INCEPTION | GAUSSIAN, "table1"),
    "lite0-gaussian": Row("EfficientNet-Lite0, Gaussian", LITE | GAUSSIAN, ""),
    "lite0-moderate": Row("EfficientNet-Lite0, Moderate-DS", LITE | MODERATE, ""),
    "ddae-moderate": Row("DDAE, Moderate-DS", {"encoder": "ddae"} | MODERATE, "table1"),
    "clip-moderate": Row("CLIP, Moderate-DS", CLIP | MODERATE, "table1"),
    "moderate": Row("ResNet-18, Moderate-DS", OURS, "table1 table3"),
    "moderate-reweighted": Row("ResNet-18, Moderate-DS + reweighting", WEIGHTED, "table1 table3"),
    "gaussian": Row("ResNet-18, Gaussian", RESNET | GAUSSIAN, "table1"),
    "moderate-global": Row("ResNet-18, Moderate-DS, one band", ONE_BAND, "table1"),
    "moderate-class": Row("ResNet-18, Moderate-DS, a band in each class", OWN_BANDS, "table1"),
    "moderate-literal-dro": Row(
        "ResNet-18, Moderate-DS + literal DRO", WEIGHTED | {"burn_in": 0.0}, "table1", (0.1,)
    ),
    "infobatch-annealed": Row("InfoBatch + annealing", BY_RATIO, "table2"),
    "moderate-reweighted-annealed": Row(
        "Moderate-DS + reweighting + annealing", WEIGHTED | ANNEALED, "table2 table3"
    ),
    "infobatch-budget-annealed": Row("InfoBatch to budget + annealing", TO_BUDGET, "table2", (0.1, 0.2)),
    "random-annealed": Row("Uniform random + annealing", RANDOM | ANNEALED, "table2"),
    "early-stopping": Row("All data, equal steps", RANDOM | STOPPED, "table1"),
    "early-stopping-annealed": Row(
        "All data, steps of an annealed run", RANDOM | STOPPED | ANNEALED, "table2"
    ),
    "full": Row("All data", RANDOM, "table1 table2 table3", (1.0,)),
    "moderate-reweighted-shuffled": Row(
        "ResNet-18, Moderate-DS + shuffled weights", SHUFFLED, "controls", ENDS
    ),
    "moderate-reweighted-another-seed": Row(
        "ResNet-18, Moderate-DS + another seed's weights", BORROWED, "controls", ENDS
    ),
    "moderate-reweighted-equal-steps": Row(
        "ResNet-18, Moderate-DS + reweighting, reference at equal steps", EQUAL_STEPS, "controls", ENDS
    ),
    "moderate-global-reweighted": Row(
        "ResNet-18, Moderate-DS, one band + reweighting", ONE_BAND | REWEIGHTED, "controls", ENDS
    ),
    "moderate-global-balanced": Row(
        "ResNet-18, Moderate-DS, one band, balanced without DRO", BALANCED, "controls", ENDS
    ),
    "moderate-full-length": Row(
        "ResNet-18, Moderate-DS, as many steps as all data", OURS | FULL_LENGTH, "controls", (0.1,)
    ),
    "random-full-length": Row(
        "Uniform random, as many steps as all data", RANDOM | FULL_LENGTH, "controls", ENDS
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
    "sd-moderate-reweighted": Row("ResNet-18, Moderate-DS + reweighting", SD | WEIGHTED, "table5", (0.2,)),
    "sd-early-stopping": Row("All data, equal steps", SD | RANDOM | STOPPED, "table5"),
    "sd-full": Row("All data", SD | RANDOM, "table5", (1.0,)),
}

# The Stable Diffusion models without reweighting are sampled once more without guidance, as separate rows.
_ROWS |= {
    f"{name}-unguided": Row(
        f"{row.label}, unguided", row.recipe | {"unguided": True}, "table5-unguided", row.ratios
    )
    for name, row in _ROWS.items()
    if row.tables == "table5" and not row.recipe.get("reweighting")
}

ROWS: dict[str, dict[str, Any]] = {}
"""Row name -> recipe values of its runs."""

LABELS: dict[str, str] = {}
"""Row name -> label in the book."""

TABLES: dict[str, dict[str, tuple[float, ...] | None]] = {name: {} for name in NAMES}
"""Table -> its rows and their ratios (None: all ratios that the profile has for the row's model)."""


def add_row(name: str, row: Row) -> None:
    """Add a row to its tables.

    Raises:
        DedtError: another row has that name, a table does not exist, or the recipe is invalid.
    """
    if name in ROWS and (ROWS[name], LABELS[name]) != (row.recipe, row.label):
        raise DedtError(f"The row '{name}' already exists. Choose another name.")
    for table in row.tables.split():
        check_choice("table", table, TABLES)
    for ratio in row.ratios or (1.0,):
        checked(Recipe, row.recipe | {"ratio": ratio})
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
    **dict.fromkeys(("random-full-length", "moderate-full-length"), (0.1,)),
    "full": (1.0,),
}


def cells(table: str, profile: Named) -> list[Cell]:
    """All cells of a table under a profile, the largest ratios first.

    Raises:
        DedtError: the table does not exist.
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
    """The rows of a table under a profile, without "moderate-SCOPE" if "moderate" has that scope anyway."""
    check_choice("table", table, TABLES)
    own = load_profile(profile).select.moderate_scope
    return [row for row in TABLES[table] if row != f"moderate-{own}"]


def cell_before(row: str, ratio: float, seed: int, profile: Named) -> Cell | None:
    """The cell that computes stages which this one also needs, or None.

    For an unguided cell it is the guided one, for a null control of reweighting the reweighted one (of the
    seed whose weights it takes), and for any other cell with reweighting or early stopping the run on all the
    data.
    """
    recipe, profile = ROWS[row], load_profile(profile)
    if control := "unguided" if recipe.get("unguided") else recipe.get("null"):
        controlled = row.removesuffix(f"-{control}")
        seed = profile.seed_after(seed) if control == "another-seed" else seed
        there = controlled != row and controlled in ROWS and seed in profile.seeds
        return (controlled, ratio, seed) if there else None
    if recipe.get("reweighting") or recipe.get("early_stopping"):
        full = FULL.get(recipe.get("model", "unet"))
        return (full, 1.0, seed) if full else None
    return None


def row_ratios(row: str, profile: Named) -> tuple[float, ...]:
    """The ratios of a profile for the model of a row."""
    section = ROWS[row].get("model", "unet").replace("-", "_")
    return getattr(getattr(load_profile(profile), section, None), "ratios", ())


def all_cells(profile: Named) -> list[Cell]:
    """The cells of all tables of a profile, each once."""
    profile = load_profile(profile)
    return list(dict.fromkeys(cell for table in profile.tables for cell in cells(table, profile)))


def cell_recipe(row: str, ratio: float, seed: int) -> dict[str, Any]:
    """The recipe values of a cell.

    Raises:
        DedtError: the row does not exist, or the ratio is outside (0, 1].
    """
    check_choice("row", row, ROWS)
    return checked(Recipe, {**ROWS[row], "ratio": ratio, "seed": seed}).model_dump()


def cell_name(row: str, ratio: float, seed: int) -> str:
    """``ROW-PERCENT-SEED``, the name of a cell in file names and in ``cells.jsonl``."""
    return f"{row}-{ratio * 100:.10g}-{seed}"


def command(cell: Cell, profile: str, table: str = "") -> str:
    """The shell command that computes a cell; ``table`` is a table with it (default: the first one)."""
    row, ratio, seed = cell
    table = table or next(
        name for name, rows in TABLES.items() if row in rows and ratio in (rows[row] or (ratio,))
    )
    return f"dedt run {table} --row {row} --ratio {ratio:g} --seed {seed} --profile {shlex.quote(profile)}"
