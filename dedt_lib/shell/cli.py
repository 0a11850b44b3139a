"""The verbs of the library for the shell: ``dedt embed | select | reweight | train | ...``.

Every verb computes what is missing, takes the rest from the store, and prints a short result.  Torch is
imported only by the verbs that compute, so that ``dedt --help`` stays quick.
"""

import argparse
import contextlib
import inspect
import io
import os
import shlex
import signal
import sys
import tomllib
from pathlib import Path

from .. import __version__, interruption
from ..errors import DedtError
from .printing import (
    FEW_CLASSES,
    amount,
    contact_sheet,
    describe,
    number,
    print_cell,
    print_doubts,
    print_metrics,
    print_reading,
    print_speed,
    print_speedups,
    print_table,
    print_works,
    wrote,
)

ABOUT = """\
Choose a coreset of labelled images, weight its classes, train a diffusion model on it, and measure it.
The verbs follow each other; each computes what is missing and takes the rest from the store:

  embed -> select -> reweight -> train -> sample -> evaluate        (run: all of them)
"""
START = """\
examples:
  dedt select --ratio 0.1                       a coreset of the digits: Moderate-DS, 10 %
  dedt select --data photos --set data.image_size=32 --set data.channels=3 --out coreset
                                                the same of your own images, one folder per class
  dedt run --profile smoke                      everything, in seconds, to see that it works
  dedt run --profile smoke --model mdt          the same in the latent space of an autoencoder
  dedt plan table1 --probe                      what a table takes: runs, steps, disk, hours
  dedt VERB --help                              what a verb prints and writes
"""
RECIPE = (
    "model",
    "method",
    "ratio",
    "encoder",
    "scope",
    "centre",
    "band",
    "reweighting",
    "balancing",
    "burn_in",
    "weighting",
    "annealing",
    "infobatch",
    "early_stopping",
    "unguided",
    "seed",
)
"""The fields of Recipe, each an option of the same name; here as well, so that --help needs no pydantic."""


# ---- what each verb prints and writes --------------------------------------------------------------


def embed(experiment, out):
    """Train the encoder, embed every training image, print their number and the encoder's accuracy."""
    features, (_, manifest) = experiment.embed(), experiment.encoder
    print(f"{len(features)} images, {features.shape[1]} features each, by {manifest['recipe']['network']}")
    for split in ("train", "test"):
        if f"{split}_accuracy" in manifest:
            print(f"encoder accuracy, {split}: {manifest[f'{split}_accuracy']:.1%}")
    if out:
        save_array(out / "features.npy", features)
        save_array(out / "labels.npy", experiment.data.labels)
        wrote(out, "features.npy", "labels.npy")


def select(experiment, out):
    """Choose the coreset and print its images per class."""
    coreset = experiment.select()
    print(f"{len(coreset.indices)} of {len(coreset.labels)} images kept")
    counts = zip(coreset.class_names, experiment.data.class_counts, coreset.counts)
    print_table(("class", "images", "kept"), counts)
    print_doubts(coreset)
    if out:
        coreset.save(out)
        wrote(out, "coreset.parquet", "coreset.json")


def reweight(experiment, out):
    """Run group DRO on the coreset and print the weight of each class; 1 is uniform."""
    from ..files import write_json
    from ..reweighting import effective_classes

    coreset, dro = experiment.select(), experiment.reweight()
    weights, burn_in = dro["weights"], dro["burn_in"]
    effective = float(effective_classes(weights))
    rows = [
        (name, count, f"{len(weights) * weight:.3f}")
        for name, count, weight in zip(coreset.class_names, coreset.counts, weights)
    ]
    print_table(("class", "kept", "weight"), rows)
    print(f"effective classes: {effective:.2f} of {len(weights)}")
    print(f"proxy: {len(dro['trajectory'])} steps, the first {burn_in} with uniform weights")
    if out:
        facts = {
            "class_names": list(coreset.class_names),
            "class_counts": coreset.counts.tolist(),
            "class_weights": weights.tolist(),
            "effective_classes": effective,
            "burn_in": burn_in,
        }
        write_json(out / "weights.json", facts)
        coreset.with_weights(weights).save(out)
        wrote(out, "weights.json", "coreset.parquet", "coreset.json")


def train(experiment, out):
    """Train the diffusion model of the recipe and print what the run took.

    Of Stable Diffusion --out holds the whole pipeline, which diffusers opens by from_pretrained.
    """
    from ..weights import save_weights

    model, training = experiment.train(), experiment.training()
    steps, recipe = training["steps"], experiment.recipe
    losses = training["losses"]
    if recipe.early_stopping:
        steps = experiment.steps_at(recipe.ratio, recipe.annealing)
        losses = losses[:steps]
        print(f"the weights after {steps} of the {training['steps']} steps of the run on all the data")
    print(f"steps: {steps}, final loss: {losses[-100:].mean():.4f} (mean of the last {len(losses[-100:])})")
    print(f"parameters: {sum(p.numel() for p in model.parameters()):,}")
    print(f"run: {training['key']}, {training['training_seconds']:.0f} s on {training['device']}")
    if out and recipe.model == "stable-diffusion":
        experiment.save_pipeline(out / "pipeline")
        wrote(out, "pipeline")
    elif out:
        save_weights(model, out / "model.safetensors")
        wrote(out, "model.safetensors")


def sample(experiment, out):
    """Draw samples from the trained model, of each class in its share of the training images."""
    import numpy as np

    from ..files import atomic

    images, names = experiment.sample(), experiment.data.class_names
    labels = experiment.sample_labels()
    print(f"{len(images)} samples of shape {' x '.join(map(str, images.shape[1:]))}")
    counts = zip(names, np.bincount(labels, minlength=len(names)))
    known = (
        f": {', '.join(f'{name} ({count})' for name, count in counts)}" if len(names) <= FEW_CLASSES else ""
    )
    print(f"classes in the shares of the training images{known}")
    if out:
        save_array(out / "samples.npy", images)
        save_array(out / "sample_labels.npy", labels)
        with atomic(out / "samples.png") as partial:
            contact_sheet(images, labels, len(names)).save(partial, format="PNG")
        wrote(out, "samples.npy", "sample_labels.npy", "samples.png")


def evaluate(experiment, out):
    """Measure FID, class-wise FID and near-copies; of latent models CMMD, KID, precision and recall too."""
    from ..files import write_json

    metrics, floor = experiment.evaluate(), experiment.floor()
    if experiment.recipe.model != "unet":
        metrics |= experiment.compare()
    print_metrics(metrics, floor)
    rows = [
        (name, number(value), number(real))
        for name, value, real in zip(experiment.data.class_names, metrics["classwise"], floor["classwise"])
    ]
    if rows:
        print_table(("class", "FID", "real halves"), rows)
    if out:
        write_json(out / "metrics.json", {**metrics, "floor": floor})
        wrote(out, "metrics.json")


def run(experiment, out):
    """All stages; prints the main numbers and, with --out, writes the files of every stage."""
    from ..files import write_json

    cell, recipe = experiment.cell(), experiment.recipe
    print_cell(cell)
    if out:
        coreset = not (recipe.early_stopping or recipe.infobatch)
        needed = {
            embed: coreset and recipe.method != "random",
            select: coreset,
            reweight: recipe.reweighting,
        }
        for stage in (embed, select, reweight, train, sample, evaluate):
            if needed.get(stage, True):
                print(f"\n{stage.__name__}")
                stage(experiment, out)
        write_json(out / "cell.json", cell)
        wrote(out, "cell.json")


def save_array(path, array):
    """Write an array as ``.npy``, complete or not at all."""
    import numpy as np

    from ..files import atomic

    with atomic(path) as partial, open(partial, "wb") as file:
        np.save(file, array)


NEEDS = {select: "select", evaluate: "evaluate", run: "evaluate"}
"""Verb -> what of its needs is looked at first (see ``Experiment.check``); of the others those of training."""


# ---- the verbs that are not a stage ----------------------------------------------------------------


def run_stages(args):
    """``dedt run``: a recipe, or with a table's name one of its cells."""
    if args.table:
        return run_table_cell(args)
    if args.row:
        raise DedtError("--row belongs to a table: dedt run table1 --row NAME --ratio R --seed S")
    return run_verb(args)


def run_table_cell(args):
    """``dedt run TABLE --row ROW``: compute a cell and write it into results/PROFILE/cells.jsonl."""
    from ..book import tables
    from ..config.profile import load_profile
    from ..config.recipe import Recipe

    given, profile = recipe_values(args), load_profile(args.profile)
    extra = sorted(set(given) - {"ratio", "seed"})
    if extra or args.set or (args.data and not leaves_path_open(profile)):
        what = ", ".join(f"--{name.replace('_', '-')}" for name in extra) or "--set or --data"
        raise DedtError(
            f"A table's row says what to run, so {what} cannot be combined with it. Leave it out, or put "
            "profile changes into a .toml file of another name and give that as --profile."
        )
    if not args.row:
        raise DedtError(
            f"Say which row: --row NAME. All cells are listed by: dedt cells --table {args.table}"
        )
    profile = load_profile(profile, **profile_changes(args))
    listed = tables.cells(args.table, profile)
    tables.cell_recipe(args.row, **{"ratio": 1.0, "seed": 0, **given})
    ratios = tables.TABLES[args.table].get(args.row) or tables.row_ratios(args.row, profile)
    cell = args.row, given.get("ratio", ratios[0]), given.get("seed", Recipe().seed)
    if cell not in listed:
        raise DedtError(
            f"{args.table} has no cell {tables.cell_name(*cell)} under this profile. "
            f"All its cells are listed by: dedt cells --table {args.table} --profile {args.profile}"
        )
    check_data(profile)
    out = output_folder(args.out)
    report = {"report": out} if out else {}
    experiment, _ = tables.run_cell(profile, *cell, store=open_store(args), **report)
    with printing_once(experiment.processes):
        print(f"{tables.LABELS[args.row]}: {describe(experiment)}")
        print_reading(experiment.data.reading)
        run(experiment, out if experiment.processes.main else None)
        print(f"wrote {tables.cell_name(*cell)} into {tables.results_folder(profile) / 'cells.jsonl'}")


def cells(args):
    """The cells of a table or of all tables, whether their result is there, and the command for each."""
    from ..book import tables
    from ..config.profile import load_profile

    listed = tables.cells(args.table, args.profile) if args.table else tables.all_cells(args.profile)
    there = done_cells(args.profile, listed)
    title = args.table or "all tables"
    print(f"{title}, profile {args.profile}: {len(there)} of {len(listed)} cells done")
    where = " --data PATH" if leaves_path_open(load_profile(args.profile)) else ""
    rows = []
    for cell in listed:
        row, ratio, seed = cell
        table = args.table or next(name for name in tables.TABLES if cell in tables.cells(name, args.profile))
        command = f"dedt run {table} --row {row} --ratio {ratio:g} --seed {seed}"
        rows.append(
            ("done" if cell in there else "to do", f"{command} --profile {shlex.quote(args.profile)}{where}")
        )
    print_table(("", "command"), rows, text=(0, 1))


def done_cells(profile, listed):
    """Those of the cells whose result lies under results/."""
    from ..book import tables

    there = tables.done(profile)
    return {cell for cell in listed if tables.cell_name(*cell) in there}


def plan(args):
    """What the cells of a table, or of all tables, take: runs, steps, network evaluations, disk and hours.

    A run that several cells share counts once.  Nothing is trained and no data is fetched; --probe measures
    this device with random images and untrained networks.
    """
    from .. import planning, probing
    from ..config.profile import load_profile

    profile = load_profile(args.profile, **profile_changes(args))
    listed = chosen_cells(args, profile)
    known = planning.known_data(profile)
    if known in (None, profile.data.source):
        check_data(profile)
    counts, reading = planning.survey(profile)
    works, least = (planning.plan(profile, listed, counts, least) for least in (False, True))
    done = 0 if args.set or args.data else len(done_cells(profile, listed))
    note = f"; {done:,} of them done, which are counted all the same" if done else ""
    print(f"{args.table or 'all tables'}, profile {profile.name}: {amount(len(listed), 'cell')}{note}")
    images, classes = amount(sum(counts), "image"), amount(len(counts), "class", "classes")
    print(f"{known or profile.data.source}: {images} in {classes}")
    print_reading(reading)
    if args.table and args.table not in profile.tables:
        made_for = ", ".join(profile.tables)
        print(f"the profile is made for {made_for}; what else this takes has the published settings")
    speed = probing.probe(profile, works, counts) if args.probe else {}
    print_works(works, least, speed)
    print_speedups(*(planning.speedups(profile, listed, counts, least) for least in (False, True)))
    if speed:
        print_speed(speed, sum(probing.seconds(work, speed) for work in works))
    else:
        print("hours: the same command with --probe measures this device, in a minute or a few")
    print("not counted: decoding image files, selection, held-out images, what is downloaded")


def chosen_cells(args, profile):
    """The cells of ``dedt plan``: of a table or of all, kept to the rows, ratios and seeds given."""
    from ..book import tables

    listed = tables.cells(args.table, profile) if args.table else tables.all_cells(profile)
    for row in args.row:
        tables.cell_recipe(row, 1.0, 0)
    wanted = (args.row, args.ratio, args.seed)
    found = [cell for cell in listed if all(not some or part in some for part, some in zip(cell, wanted))]
    if not found:
        table = f"--table {args.table} " if args.table else ""
        raise DedtError(
            "No cell has that row, ratio and seed. All cells are listed by: "
            f"dedt cells {table}--profile {shlex.quote(args.profile)}"
        )
    return found


def show(args):
    """What is in the store, oldest first within each stage."""
    store = open_store(args)
    rows = [
        stage_line(store, path) for path in sorted(store.root.glob("*/*/manifest.json"), key=stage_and_age)
    ]
    if not rows:
        print(f"The store {store.root} is empty.")
        return
    print_table(("stage", "key", "date", "seconds", "recipe"), rows, text=(0, 1, 2, -1))


def stage_and_age(manifest):
    return manifest.parent.parent.name, manifest.stat().st_mtime


def stage_line(store, path):
    """One row of ``dedt show``; a damaged manifest is shown as such, so that the others stay visible."""
    stage, key = path.parts[-3:-1]
    try:
        manifest = store.manifest(path.parent)
        values = [
            f"{name}={value}"
            for name, value in manifest["recipe"].items()
            if name != "version" and isinstance(value, str | int | float)
        ]
        return stage, key, manifest["date"], f"{manifest['seconds']:.1f}", " ".join(values)
    except (DedtError, KeyError, TypeError, AttributeError, ValueError):
        return stage, key, "", "", "damaged, or not a result of dedt"


# ---- from arguments to an experiment ---------------------------------------------------------------


def toml_value(text):
    """The value of ``KEY=VALUE``: TOML, or else plain text, so that a path needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def profile_changes(args):
    """What --set and --data change in the profile."""
    changes = {"data.source": kind_of_data(args.data), "data.path": str(args.data)} if args.data else {}
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise DedtError(f"--set takes KEY=VALUE; got '{item}'.")
        changes[key.strip()] = toml_value(value.strip())
    return {**changes, "data.skip_bad": True} if args.skip_bad else changes


def kind_of_data(path):
    """What --data is given: "parquet" for such a file or a folder of them, else "folder"."""
    from ..data import parquet

    if path.is_dir():
        return "parquet" if parquet.find_files(path, "train") or parquet.holds_splits(path) else "folder"
    return "parquet" if path.suffix == ".parquet" else "folder"


def recipe_values(args):
    """The recipe options that were given; the others keep the defaults of Recipe."""
    return {name: getattr(args, name) for name in RECIPE if getattr(args, name) is not None}


def open_store(args):
    from ..store import Store

    return Store(args.store)


def output_folder(path):
    """The folder of --out, made before anything is computed; None when it was not given."""
    if path:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DedtError(
                f"Cannot write to {path} ({error.strerror}). Give --out a folder that can be written."
            ) from error
    return path


def run_verb(args):
    """Compute and print one stage, under a line that says of what."""
    from ..config.profile import checked, load_profile
    from ..config.recipe import Recipe

    changes = profile_changes(args)
    profile = load_profile(args.profile, **changes)
    checked(Recipe, recipe_values(args))
    if args.stage is select and args.reweighting:
        raise DedtError("select makes no class weights; dedt reweight makes them, with the same options.")
    if args.stage in (select, reweight) and args.balancing:
        raise DedtError("--balancing takes no stage of its own: it belongs to dedt train, evaluate or run.")
    if args.stage in (select, reweight) and (args.infobatch or args.early_stopping):
        raise DedtError("--infobatch and --early-stopping have no coreset; see dedt train or dedt run.")
    out, store = output_folder(args.out), open_store(args)

    check_data(profile)

    from ..experiment import Experiment

    experiment = Experiment(profile, store=store, report=out, **recipe_values(args))
    experiment.check_weights({"run": "compare", "evaluate": "compare"}.get(args.verb, args.verb))
    with printing_once(experiment.processes):
        changed = f" with {', '.join(changes)} changed" if changes else ""
        print(f"{experiment.data.name}, profile {profile.name}{changed}: {describe(experiment)}")
        print_reading(experiment.data.reading)
        if args.stage is not embed:
            experiment.check(NEEDS.get(args.stage, "train"))
        args.stage(experiment, out if experiment.processes.main else None)
        if not out:
            print(f"kept in {store.root}; --out FOLDER copies the files")


def check_data(profile):
    """Complain about data that is not there, before the seconds that PyTorch takes to load."""
    from ..data import check_source

    if leaves_path_open(profile):
        raise DedtError(f"The profile {profile.name} leaves open where its images are: give --data PATH.")
    check_source(
        profile.data.source,
        profile.data.path,
        image_size=profile.data.image_size,
        channels=profile.data.channels,
    )


def leaves_path_open(profile):
    """Whether --data has to say where a profile's images are."""
    return profile.data.source in ("folder", "parquet") and not profile.data.path


def printing_once(processes):
    """A context in which only the main one of the processes of ``accelerate launch`` prints."""
    return contextlib.nullcontext() if processes.main else contextlib.redirect_stdout(io.StringIO())


# ---- the parser ------------------------------------------------------------------------------------

STAGES = {
    embed: ("train the encoder and embed the images", "dedt embed --out features"),
    select: ("choose the coreset", "dedt select --method moderate --ratio 0.1 --out coreset"),
    reweight: (
        "learn the class weights by group DRO",
        "dedt reweight --data photos --set data.image_size=32 --set data.channels=3 --out coreset",
    ),
    train: ("train the diffusion model", "dedt train --ratio 0.1 --reweighting --out model"),
    sample: ("draw samples from the model", "dedt sample --ratio 0.1 --out samples"),
    evaluate: (
        "FID and class-wise FID of the samples",
        "dedt evaluate --method random --ratio 0.1 --seed 1",
    ),
    run: (
        "all stages, or one cell of a table",
        "dedt run --ratio 0.1 --out everything\n"
        "  dedt run table1 --row moderate --ratio 0.1 --seed 0      also writes results/digits",
    ),
}


def make_parser():
    """The argparse parser of ``dedt``."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("dedt", description=ABOUT, epilog=START, formatter_class=plain)
    parser.add_argument("--version", action="version", version=f"dedt {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def add(name, help, description, example, action, **defaults):
        epilog = f"example:\n  {example}"
        verb = verbs.add_parser(
            name, help=help, description=inspect.cleandoc(description), epilog=epilog, formatter_class=plain
        )
        verb.set_defaults(action=action, **defaults)
        return verb

    for stage, (help, example) in STAGES.items():
        verb = add(stage.__name__, help, stage.__doc__, example, run_verb, stage=stage)
        if stage is run:
            verb.set_defaults(action=run_stages)
            verb.add_argument("table", nargs="?", help="compute a cell of this table, such as table1")
            verb.add_argument("--row", help="the cell's row; the cell's column is --ratio")
        add_profile_options(verb)
        add_recipe_options(verb)
        add_store_option(verb)

    listing = add("cells", "list the cells of the tables", cells.__doc__, "dedt cells --table table1", cells)
    listing.add_argument("--table", help="only this one, such as table1 (default: all)")
    listing.add_argument(
        "--profile", default="digits", help="a profile's name or .toml file (default: digits)"
    )
    example = "dedt plan table1 --profile paper --probe\n  dedt plan --row moderate --ratio 0.1 --set unet.epochs=50"
    planned = add("plan", "what the cells of tables take, before they run", plan.__doc__, example, plan)
    add_plan_options(planned)
    add_profile_options(planned)
    add_store_option(add("show", "list what is in the store", show.__doc__, "dedt show", show))
    return parser


def add_plan_options(verb):
    verb.add_argument("table", nargs="?", help="such as table1 (default: the cells of all tables, each once)")
    verb.add_argument("--row", action="append", default=[], help="only this row; may be repeated")
    verb.add_argument(
        "--ratio", type=float, action="append", default=[], help="only this ratio; may be repeated"
    )
    verb.add_argument("--seed", type=int, action="append", default=[], help="only this seed; may be repeated")
    verb.add_argument(
        "--probe", action="store_true", help="measure this device for a minute or a few, and say the hours"
    )


def add_profile_options(verb):
    group = verb.add_argument_group("how large, and on what")
    group.add_argument(
        "--profile",
        default="digits",
        help="smoke, digits, short, paper, imagenet, imagenette or a .toml file (default: digits)",
    )
    group.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="your images: a folder with a subfolder per class, or Parquet files in the Hugging Face schema; "
        "brought to the profile's image_size and channels (digits: 8 pixels, grey; for others: "
        "--set data.image_size=32 --set data.channels=3)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value of the profile, such as unet.epochs=50; may be repeated",
    )
    group.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out images that cannot be read; they are listed in unreadable.txt (in --out, else the store)",
    )


def add_recipe_options(verb):
    group = verb.add_argument_group("which run")
    group.add_argument(
        "--model", help="what is trained: unet (on pixels), mdt or stable-diffusion (default: unet)"
    )
    group.add_argument("--method", help="random, gaussian or moderate (default: moderate)")
    group.add_argument("--ratio", type=float, help="share of the data to keep, in (0, 1] (default: 0.1)")
    group.add_argument(
        "--encoder",
        help="whose features decide: resnet18, inceptionv3, clip-rn50 or ddae (default: the profile's)",
    )
    group.add_argument("--scope", help="choose within each 'class', or in one 'global' order")
    group.add_argument(
        "--centre", help="moderate: distances to the 'median' or the 'mean' (default: the profile's)"
    )
    group.add_argument(
        "--band",
        help="moderate: keep the 'center', 'nearest' or 'farthest' of the distances (default: center)",
    )
    group.add_argument("--reweighting", action="store_true", default=None, help="class weights by group DRO")
    group.add_argument(
        "--balancing",
        action="store_true",
        default=None,
        help="the control: class weights that let every class count the same, without DRO",
    )
    group.add_argument("--burn-in", type=float, help="share of the proxy's steps with uniform weights")
    group.add_argument("--weighting", help="class weights in the 'loss' or as a 'sampler' (default: loss)")
    group.add_argument(
        "--annealing", action="store_true", default=None, help="all the data in the last epochs"
    )
    group.add_argument(
        "--infobatch",
        help="no coreset but InfoBatch: in each epoch --ratio of the well-learned samples ('ratio'), or of "
        "all samples ('budget')",
    )
    group.add_argument(
        "--early-stopping",
        action="store_true",
        default=None,
        help="the control: all the data, but only as many steps as the coreset takes",
    )
    group.add_argument(
        "--unguided", action="store_true", default=None, help="the control: samples without guidance"
    )
    group.add_argument("--seed", type=int, help="of everything but the encoder and the metric (default: 0)")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="copy the resulting files there")


def add_store_option(verb):
    verb.add_argument(
        "--store", type=Path, metavar="FOLDER", help="the store (default: $DEDT_STORE, else runs/)"
    )


def write_any_name():
    """Letters that the output's encoding lacks are escaped; a name must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main(argv=None):
    """Run the command line; returns the exit status.

    0; 2 for unusable input; 128 and the number of the signal that stopped it: 130 (Ctrl-C), 143 (SIGTERM).
    """
    write_any_name()
    args = make_parser().parse_args(argv)
    try:
        with interruption.handled():
            args.action(args)
    except DedtError as error:
        print(f"dedt: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as head, has enough; the interpreter must not flush into the pipe again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(
            f"dedt: {error.strerror or error}: {error.filename}; stored results are kept",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as error:
        signum = int(getattr(error, "signum", signal.SIGINT))
        print(f"stopped by signal {signum}; run the same command again to go on", file=sys.stderr)
        return 128 + signum
    return 0
