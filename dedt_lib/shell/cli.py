"""Choose a coreset of labelled images, weight its classes, train a diffusion model on it, and measure it.

The verbs run in this order; each computes what is missing and reads the rest from the store:

  embed -> select -> reweight -> train -> sample -> evaluate        (run: all of them)

examples:
  dedt select --ratio 0.1                       choose 10 % of the digits with Moderate-DS
  dedt look photos                              inspect your own images first
  dedt select photos --ratio 0.1 --out coreset  choose a coreset of them and write a report
  dedt run --profile smoke                      run all stages in seconds, as a test
  dedt run --profile smoke --model mdt          the same in the latent space of an autoencoder
  dedt run photos --ratio 0.1 --dry-run         estimate runs, steps, disk space and hours
  dedt plan table1 --probe                      the same for a table
  dedt profile short                            print all settings and where each comes from
  dedt VERB --help                              what a verb prints and writes, and its options
"""

# --help prints the docstrings of this module and of the verbs.  A verb's options are the parameters of its
# function, and for verbs that compute a recipe the fields of Recipe too.  Torch and pydantic are imported
# inside functions, so that ``dedt --help`` stays quick.

import argparse
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import signal
import sys
import tomllib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from .. import __version__, interruption
from ..errors import DedtError
from ..extensions import load_extensions
from ..files import HUB, at_home, lies_in, make_folder, say
from . import photos, verbs
from .printing import amount, describe, print_reading, print_speed, print_speedups, print_table, print_works

if TYPE_CHECKING:
    from ..config import Profile, Recipe
    from ..plan import Runs
    from ..processes import Processes
    from ..stages import Lab
    from ..store import Store

# Read from the folder, because importing config.profile would make --help slow.
PROFILES = sorted(file.stem for file in (Path(__file__).parents[1] / "config" / "profiles").glob("*.toml"))
# Options: type, help text, and the placeholder for the value.
ANY = f"all sizes and rates of a run: {', '.join(PROFILES)} or a .toml file"
Named = Annotated[str, f"{ANY} (default: photos for your own images, else digits)"]
Images = Annotated[Path | None, get_args(photos.Where)[1], "PATH"]
Changes = Annotated[
    Sequence[str], "change one value of the profile, such as unet.epochs=50; may be repeated", "KEY=VALUE"
]
Skip = Annotated[
    bool,
    "leave out images that cannot be read, and list them in unreadable.dedt.txt (in --out, else the store)",
]
Out = Annotated[Path | None, "write the resulting files to this folder as well", "FOLDER"]


# ---- the verbs that compute ------------------------------------------------------------------------


def compute(
    stage: Callable,
    images: Images = None,
    *,
    profile: Named = "",
    data: Images = None,
    label: photos.Column = "",
    caption: photos.Caption = "",
    set: Changes = (),
    skip_bad: Skip = False,
    store: photos.Kept = None,
    out: Out = None,
    dry_run: Annotated[
        bool, "compute nothing; measure this device and estimate steps, disk space and hours"
    ] = False,
    **recipe: Any,
) -> None:
    """Compute one stage and print its result, below a line with the data, the profile and the recipe."""
    from ..config import Recipe, checked, load_profile
    from ..data.listing import UNREADABLE
    from ..store import Store

    if data and images:
        raise DedtError(f"The images are given twice: {images} and --data {data}. Leave one of them out.")
    data = data or images
    changes = profile_changes(data, set, skip_bad, label, caption)
    budget = load_profile(profile or own_profile(data), **changes)
    chosen = checked(Recipe, recipe)
    check_stage(stage, chosen)
    until = "evaluate" if stage is verbs.run else stage.__name__
    if dry_run:
        return plan_recipe(budget, chosen, until, store)
    if stage in (verbs.run, verbs.sample):
        check_beside(out, budget)
    out, kept = out and make_folder(out, "Give --out"), Store(store)
    check_data(budget)
    for listed in UNREADABLE.values():  # left by an earlier call
        with contextlib.suppress(OSError):  # a store may be read-only
            ((out or kept.root) / listed).unlink(missing_ok=True)

    from ..experiment import Experiment

    experiment = Experiment(budget, store=kept, report=out, **recipe)
    experiment.check_weights(until)
    with printing_once(experiment.lab.processes):
        verbs.say_how_long(experiment)
        changed = f" with {', '.join(changes)} changed" if changes else ""
        print(f"{experiment.lab.pool.name}, profile {budget.name}{changed}: {describe(experiment)}")
        print_reading(experiment.lab.pool.reading)
        stage(experiment, out if experiment.lab.processes.main else None)
        if not out:
            print(f"stored in {kept.root}; use --out FOLDER to write the files")


def check_stage(stage: Callable, recipe: "Recipe") -> None:
    """Raise DedtError if a recipe leaves a stage nothing to do."""
    if stage is verbs.select and recipe.reweighting:
        raise DedtError("dedt select computes no class weights. Use dedt reweight with the same options.")
    if stage in (verbs.select, verbs.reweight) and recipe.balancing:
        raise DedtError("--balancing only affects training. Use it with dedt train, sample, evaluate or run.")
    if stage in (verbs.select, verbs.reweight) and not recipe.has_coreset:
        raise DedtError("--infobatch and --early-stopping use no coreset. Use them with dedt train or run.")


def run(
    table: Annotated[
        str, "a table, such as table1, to compute one of its cells; or your images", "TABLE|DATA"
    ] = "",
    *,
    row: Annotated[str, "row of the cell; --ratio is its column"] = "",
    **options: Any,
) -> None:
    """Run all stages, or compute one cell of a table.

    Prints the main numbers and, with --out, writes the files of every stage.

    example:
      dedt run --ratio 0.1 --out everything
      dedt run photos --ratio 0.1                              your images, with the profile photos
      dedt run photos --ratio 0.1 --dry-run                    estimate what that takes
      dedt run table1 --row moderate --ratio 0.1 --seed 0      also writes to results/digits
    """
    from ..config.profile import TABLES

    if table in TABLES:
        return run_cell(table, row, **options)
    if table and not (Path(table).exists() or table.startswith(HUB)):
        raise DedtError(
            f"'{table}' is neither a table nor an existing path of images. "
            f"The tables are: {', '.join(TABLES)}."
        )
    if row:
        raise DedtError("--row needs a table: dedt run table1 --row NAME --ratio R --seed S")
    compute(verbs.run, Path(table) if table else None, **options)


def run_cell(
    table: str,
    row: str,
    *,
    profile: str = "",
    data: Path | None = None,
    set: Sequence[str] = (),
    skip_bad: bool = False,
    store: Path | None = None,
    out: Path | None = None,
    dry_run: bool = False,
    **recipe: Any,
) -> None:
    """``dedt run TABLE --row ROW``: compute a cell and write its result to results/PROFILE/cells.jsonl."""
    from ..book import grid, results
    from ..config import Recipe, checked, load_profile
    from ..store import Store

    if dry_run:
        raise DedtError(
            "--dry-run does not work with a table. "
            f"To estimate a cell: dedt plan {table} --row ROW --ratio R --probe"
        )
    budget = load_profile(profile or own_profile(data))
    extra = sorted(recipe.keys() - {"ratio", "seed"})
    if extra or set or (data and not leaves_path_open(budget)):
        what = ", ".join(map(flag, extra)) or "--set or --data"
        raise DedtError(
            f"A table's row decides what to run, so {what} cannot be combined with it. Leave it out, or "
            "write changes of the profile to a .toml file with another name and pass it as --profile."
        )
    if not row:
        raise DedtError(f"Choose a row with --row NAME. To list all cells: dedt cells --table {table}")
    budget = load_profile(budget, **profile_changes(data, set, skip_bad))
    listed, given = grid.cells(table, budget), checked(Recipe, recipe)
    grid.cell_recipe(row, 1.0, 0)
    ratios = grid.TABLES[table].get(row) or grid.row_ratios(row, budget) or (given.ratio,)
    cell = row, given.ratio if "ratio" in recipe else ratios[0], given.seed
    if cell not in listed:
        raise DedtError(
            f"{table} has no cell {grid.cell_name(*cell)} with this profile. "
            f"To list its cells: dedt cells --table {table} --profile {profile or budget.name}"
        )
    check_beside(out, budget)
    check_data(budget)
    out = out and make_folder(out, "Give --out")
    name, there = grid.cell_name(*cell), results.results_folder(budget) / "cells.jsonl"
    kept = Store(store)
    if name in results.done(budget):
        from ..experiment import Experiment

        experiment = Experiment(budget, store=kept, report=out, **grid.cell_recipe(*cell))
        told = f"{there} has a result of {name}, which stays: to record this one, delete its line first"
    else:
        experiment, _ = results.run_cell(budget, *cell, store=kept, report=out)
        told = f"wrote {name} to {there}"
    with printing_once(experiment.lab.processes):
        print(f"{grid.LABELS[row]}: {describe(experiment)}")
        print_reading(experiment.lab.pool.reading)
        verbs.run(experiment, out if experiment.lab.processes.main else None)
        print(told)


# ---- the verbs that only report --------------------------------------------------------------------


def cells(
    *,
    table: Annotated[str, "only this table, such as table1 (default: all)"] = "",
    profile: Annotated[str, ANY] = "digits",
) -> None:
    """List the cells of one or all tables, whether each is done, and the command that computes it.

    example:
      dedt cells --table table1
    """
    from ..book import grid, results
    from ..config import load_profile

    listed = grid.cells(table, profile) if table else grid.all_cells(profile)
    there = results.done(profile)
    done = [grid.cell_name(*cell) in there for cell in listed]
    print(f"{table or 'all tables'}, profile {profile}: {sum(done)} of {len(listed)} cells done")
    where = " --data PATH" if leaves_path_open(load_profile(profile)) else ""
    commands = [grid.command(cell, profile, table) + where for cell in listed]
    print_table(("", "command"), zip([("to do", "done")[there] for there in done], commands), text=(0, 1))


def plan(
    table: Annotated[str, "a table, such as table1 (default: the cells of all tables, each once)"] = "",
    *,
    row: Annotated[Sequence[str], "only this row; may be repeated"] = (),
    ratio: Annotated[Sequence[float], "only this ratio; may be repeated"] = (),
    seed: Annotated[Sequence[int], "only this seed; may be repeated"] = (),
    probe: Annotated[bool, "measure this device, for a minute or a few, and estimate the hours"] = False,
    profile: Named = "",
    data: Images = None,
    set: Changes = (),
    skip_bad: Skip = False,
) -> None:
    """Estimate what the cells of one or all tables take: runs, steps, network evaluations, disk and hours.

    A run that several cells share counts once.  Nothing is trained and no data is downloaded; --probe
    measures this device with random images and untrained networks.

    example:
      dedt plan table1 --profile paper --probe
      dedt plan --row moderate --ratio 0.1 --set unet.epochs=50
      dedt run photos --ratio 0.1 --dry-run          the same for one recipe, here on your images
    """
    from ..book import grid, results
    from ..config import load_profile
    from ..experiment import Experiment

    budget = load_profile(profile or own_profile(data), **profile_changes(data, set, skip_bad))
    listed = grid.cells(table, budget) if table else grid.all_cells(budget)
    for name in row:
        grid.cell_recipe(name, 1.0, 0)
    asked = (row, ratio, seed)
    chosen = [cell for cell in listed if all(not some or own in some for own, some in zip(cell, asked))]
    if not chosen:
        of = f"--table {table} " if table else ""
        raise DedtError(
            "No cell has this row, ratio and seed. To list all cells: "
            f"dedt cells {of}--profile {shlex.quote(profile or budget.name)}"
        )
    lab = imagined_lab(budget)
    there = () if set or data else results.done(budget)
    done = sum(grid.cell_name(*cell) in there for cell in chosen)
    note = f"; {done:,} of them done, but counted as well" if done else ""
    print(f"{table or 'all tables'}, profile {budget.name}: {amount(len(chosen), 'cell')}{note}")
    if table and table not in budget.tables:
        made_for = ", ".join(budget.tables)
        print(f"the profile is made for {made_for}; settings for other tables are the published ones")
    print_plan({cell: Experiment(lab, **grid.cell_recipe(*cell)) for cell in chosen}, probe)


def plan_recipe(budget: "Profile", recipe: "Recipe", until: str, store: Path | None) -> None:
    """``--dry-run``: print what a recipe takes up to the stage ``until``, measured on this device."""
    from ..experiment import Experiment

    run = Experiment(imagined_lab(budget, store), **recipe.model_dump())
    run.check_counts(until)
    print(f"profile {budget.name}: {describe(run)}; stored results are counted as well")
    print_plan({("this recipe", recipe.ratio, recipe.seed): run}, True, until)


def imagined_lab(budget: "Profile", store: Path | None = None) -> "Lab":
    """A lab of the profile's images, which are counted and not read; prints how many there are."""
    from .. import plan as planning
    from ..processes import Processes
    from ..stages import Lab

    if Processes.from_environment().count > 1:
        raise DedtError("An estimate takes one process: run the same command without accelerate launch.")
    known = planning.known_data(budget)
    if known in (None, budget.data.source):
        check_data(budget)
    counts, names, reading = planning.survey(budget)
    images, classes = amount(sum(counts), "image"), amount(len(counts), "class", "classes")
    print(f"{known or budget.data.source}: {images} in {classes}")
    print_reading(reading)
    if not known:
        found = "left out" if budget.data.skip_bad else "refused"
        print(f"counted without opening them: an image that cannot be read will be {found}")
    return Lab(budget, store=store, counts=counts, names=names)


def print_plan(runs: "Runs", probe: bool, until: str = "evaluate") -> None:
    """Print what runs take up to the stage ``until``; with ``probe`` also the hours on this device."""
    from .. import plan as planning

    works, least = (planning.plan(runs, least, until) for least in (False, True))
    speed = planning.probe(runs, until) if probe else {}
    print_works(works, least, speed)
    if until in ("train", "sample", "evaluate"):
        print_speedups(*(planning.speedups(runs, least) for least in (False, True)))
    if speed:
        device = next(iter(runs.values())).lab.device_name
        print_speed(speed, sum(planning.seconds(work, speed) for work in works), device)
    else:
        print("hours: add --probe to measure this device, which takes a minute or a few")
    print("not counted: decoding image files, selection, held-out images, downloads")


def profile(name: Annotated[str, ANY] = "digits", *, set: Changes = ()) -> None:
    """Print all values of a profile as TOML, each with its origin: a file, --set, or the default.

    example:
      dedt profile short --set unet.epochs=50
    """
    from ..config.profile import find_profile, flat, load_profile, read_profile

    changes = profile_changes(None, set, False)
    values = flat(load_profile(name, **changes).model_dump(mode="json"))
    origin = {key: file for key, (_, file) in read_profile(find_profile(name)).items()}
    origin |= dict.fromkeys(changes, "--set")
    above = ""
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section != above:
            print(f"\n[{section}]")
        above, line = section, f"{name} = {json.dumps(value, ensure_ascii=False)}"
        print(f"{line:48}  # {origin.get(key, 'default')}")


def show(*, store: photos.Kept = None) -> None:
    """List the results in the store, oldest first within each stage.

    example:
      dedt show
    """
    from ..store import Store

    kept = Store(store)
    folders = [*(path.parent for path in kept.root.glob("*/*/manifest.json")), *kept.root.glob("*/*.work")]
    if not folders:
        print(f"The store {kept.root} is empty.")
        return
    folders.sort(key=lambda folder: (folder.parent.name, folder.suffix, os.path.getmtime(folder)))
    rows = [stage_line(kept, folder) for folder in folders]
    print_table(("stage", "key", "date", "seconds", "MB", "identity"), rows, text=(0, 1, 2, -1))


def stage_line(store: "Store", folder: Path) -> tuple[str, ...]:
    """One row of ``dedt show``; a damaged or unfinished result is shown as such instead of ending the list."""
    stage, key = folder.parts[-2:]
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    if folder.suffix == ".work":
        return stage, folder.stem, "", "", f"{size:.1f}", "unfinished; the same command continues it"
    try:
        manifest = store.manifest(folder)
        plain = {k: v for k, v in manifest["identity"].items() if isinstance(v, str | int | float)}
        values = [f"{name}={value}" for name, value in plain.items() if name != "version"]
        return stage, key, manifest["date"], f"{manifest['seconds']:.1f}", f"{size:.1f}", " ".join(values)
    except (DedtError, KeyError, TypeError, AttributeError, ValueError, OSError):
        return stage, key, "", "", f"{size:.1f}", "damaged, or not written by dedt"


# ---- checking and translating options --------------------------------------------------------------


def toml_value(text: str) -> Any:
    """The value in ``KEY=VALUE``, read as TOML or else as plain text, so that a path needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def profile_changes(
    data: Path | None, set: Sequence[str], skip_bad: bool, label: str = "", caption: str = ""
) -> dict[str, Any]:
    """Changes to the profile by the options on data, --set and --skip-bad: dotted key -> value."""
    from ..data import detect

    path = str(data or "")
    changes = {"data.source": detect(path), "data.path": path} if data else {}
    changes |= {f"data.{name}": column for name, column in (("label", label), ("caption", caption)) if column}
    for item in set:
        key, equals, value = item.partition("=")
        if not equals:
            raise DedtError(f"--set takes KEY=VALUE; got '{item}'.")
        changes[key.strip()] = toml_value(value.strip())
    return {**changes, "data.skip_bad": True} if skip_bad else changes


def own_profile(data: Path | None) -> str:
    """The default profile: photos for the user's images, else digits."""
    return "photos" if data else "digits"


def check_beside(out: Path | None, profile: "Profile") -> None:
    """Refuse an --out among the training images, because a later run would read the samples as images."""
    from ..data import lists, reads_files

    given = profile.data.path if reads_files(profile.data.source) else ""
    root = Path(lists.where_of(given)) if given else Path()
    if out and given and lies_in(out, root):
        raise DedtError(
            f"--out {out} is inside {root}, the folder of the training images, so a later run would read the "
            "samples as images. Choose a folder outside it."
        )


def check_data(profile: "Profile") -> None:
    """Raise DedtError for missing data, before the seconds that importing PyTorch takes."""
    from ..data import check_source

    if leaves_path_open(profile):
        raise DedtError(f"The profile {profile.name} has no path to its images. Give one with --data PATH.")
    asked = {"source", "path", "image_size", "channels", "label", "caption"}
    check_source(**profile.data.model_dump(include=asked))


def leaves_path_open(profile: "Profile") -> bool:
    """Whether a profile needs --data to know where its images are."""
    from ..data import reads_files

    return reads_files(profile.data.source) and not profile.data.path


def printing_once(processes: "Processes") -> contextlib.AbstractContextManager:
    """A context in which only the main process of ``accelerate launch`` prints."""
    return contextlib.nullcontext() if processes.main else contextlib.redirect_stdout(io.StringIO())


# ---- the parser ------------------------------------------------------------------------------------

STAGES = (verbs.embed, verbs.select, verbs.reweight, verbs.train, verbs.sample, verbs.evaluate)
OTHERS = (run, photos.look, photos.export, cells, plan, profile, show)
CONCERNS = {
    "embed": ("encoder", "seed"),
    "select": ("method", "ratio", "encoder", "scope", "centre", "band", "seed"),
}
"""Verb -> the fields of a recipe that concern it, if not all do; the others are accepted all the same."""
VERBS: dict[str, Callable] = {function.__name__: function for function in (*STAGES, *OTHERS)}


def make_parser(chosen: str = "") -> argparse.ArgumentParser:
    """The parser of ``dedt``; only the ``chosen`` verb gets its options, because Recipe imports pydantic."""
    plain = argparse.RawDescriptionHelpFormatter
    how: dict[str, Any] = {"formatter_class": plain, "argument_default": argparse.SUPPRESS}
    parser = argparse.ArgumentParser("dedt", description=__doc__, **how)
    parser.add_argument("--version", action="version", version=f"dedt {__version__}")
    choices = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, function in VERBS.items():
        text, stage = inspect.getdoc(function) or name, hasattr(verbs, name)
        verb = choices.add_parser(name, help=text.partition("\n")[0], description=text, **how)
        computes = function.__module__ == verbs.__name__
        verb.set_defaults(action=partial(compute, function) if computes else function)
        if name == chosen:
            for described in dict.fromkeys((function, compute) if stage else (function,)):
                add_parameters(verb, described, but="images" if function is run else "")
            if stage:
                add_fields(verb.add_argument_group("recipe of the run"), CONCERNS.get(name))
    return parser


def add_parameters(verb: argparse.ArgumentParser, function: Callable, but: str = "") -> None:
    """Add the annotated parameters of a function except ``but``, as options if they are keyword-only."""
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(parameter.annotation) is Annotated and name != but:
            keyword = parameter.kind is parameter.KEYWORD_ONLY
            kind, *words = get_args(parameter.annotation)
            add_option(verb, flag(name) if keyword else name, kind, parameter.default, *words)


def add_fields(group: Any, shown: Collection[str] | None = None) -> None:
    """Add the fields of Recipe as options, of which the help names those ``shown`` (default: all)."""
    from ..config import Recipe

    for name, field in Recipe.model_fields.items():
        told = " ".join((field.description or name).split())
        hidden = shown is not None and name not in shown
        add_option(group, flag(name), field.annotation, field.default, argparse.SUPPRESS if hidden else told)


def add_option(group: Any, name: str, kind: Any, default: Any, help: str, metavar: str | None = None) -> None:
    """Add an option, or a positional argument if ``name`` has no dashes; an absent option sets nothing."""
    parts = get_args(kind)
    how: dict[str, Any] = {"metavar": metavar}
    hidden = help == argparse.SUPPRESS
    if get_origin(kind) is Literal:
        help += "" if hidden else f": {', '.join(filter(None, parts))}"
    elif kind is bool:
        how = {"action": "store_true"}
    else:
        inner = next((part for part in parts if part is not NoneType), kind)
        how["type"] = {Path: given_path, float: given_number}.get(inner, inner)
    if get_origin(kind) is Sequence:
        how["action"] = "append"
    if not name.startswith("-"):
        how |= {"nargs": "?", "default": default}  # argparse would convert SUPPRESS to a path
    if default is not False and default not in (None, "", ()) and not hidden:
        help += f" (default: {default})"
    group.add_argument(name, help=help, **how)


def given_number(text: str) -> float:
    """An option's number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number; 10 % is written 0.1") from None


def given_path(text: str) -> Path:
    """An option's path.  An empty one, as from an unset variable, is an error and not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return at_home(text)


def flag(name: str) -> str:
    """The option of a parameter or field: ``skip_bad`` becomes ``--skip-bad``."""
    return f"--{name.replace('_', '-')}"


# ---- the entry point -------------------------------------------------------------------------------


def write_any_name() -> None:
    """Escape letters that the output's encoding lacks, so that printing a name cannot stop a run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def out_of_reach(error: Exception) -> str:
    """The message for an error that the machine and not the code has caused, else ""."""
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error)):
        return "out of memory: close other programs, or lower the batch size"
    if re.search("Connection (reset|closed) by peer", str(error)):
        return "another of the processes has ended"
    return (
        f"a file of weights cannot be written ({error})" if type(error).__name__ == "SafetensorError" else ""
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 2 for unusable input or too little memory or disk; 128 plus the number of the
        signal that stopped it: 129 (closed terminal), 130 (Ctrl-C), 141 (closed pipe), 143 (SIGTERM).
    """
    write_any_name()
    if sys.platform == "win32":
        say("it does not run on Windows itself: use it in WSL")
        return 2
    argv, options = sys.argv[1:] if argv is None else argv, {}
    try:
        with interruption.handled():
            load_extensions()
            options = vars(make_parser(*argv[:1]).parse_args(argv))
            action, _ = options.pop("action"), options.pop("verb")
            action(**options)
    except DedtError as error:
        say(str(error))
        return 2
    except BrokenPipeError:
        # The reader, such as head, has closed the pipe; the interpreter must not flush into it again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if options.get("out"):
            say("stopped because the pipe was closed; run without a pipe to continue")
        return 128 + 13  # as by SIGPIPE
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        say(f"{error.strerror or error}{where}; stored results are kept")
        return 2
    except Exception as error:
        if not (told := out_of_reach(error)):
            raise
        say(f"{told}; stored results are kept. Run the same command again to continue")
        return 2
    except KeyboardInterrupt as error:
        signum = int(getattr(error, "signum", signal.SIGINT))
        print(f"stopped by signal {signum}; run the same command again to continue", file=sys.stderr)
        return 128 + signum
    return 0
