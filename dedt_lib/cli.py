"""The verbs of the library for the shell: ``dedt embed | select | reweight | train | ...``.

Every verb computes what is missing, takes the rest from the store, and prints a short result.  Torch is
imported only by the verbs that compute, so that ``dedt --help`` stays quick.
"""

import argparse
import shlex
import sys
import tomllib
from pathlib import Path

from . import __version__
from .errors import DedtError

ABOUT = """\
Choose a coreset of labelled images, weight its classes, train a diffusion model on it, and measure it.
The verbs follow each other; each computes what is missing and takes the rest from the store:

  embed -> select -> reweight -> train -> sample -> evaluate        (run: all of them)
"""
START = """\
examples:
  dedt select --ratio 0.1                       a coreset of the digits: Moderate-DS, 10 %
  dedt select --data photos --set image_size=32 --set channels=3 --out coreset
                                                the same of your own images, one folder per class
  dedt run --profile smoke                      everything, in seconds, to see that it works
  dedt VERB --help                              what a verb prints and writes
"""
RECIPE = ("method", "ratio", "scope", "reweighting", "burn_in", "annealing", "early_stopping", "seed")


# ---- what each verb prints and writes --------------------------------------------------------------


def embed(experiment, out):
    """Train the encoder, embed every training image, print their number and the encoder's accuracy."""
    import numpy as np

    features, (_, manifest) = experiment.embed(), experiment.encoder
    print(f"{len(features)} images, {features.shape[1]} features each, by {manifest['recipe']['network']}")
    for split in ("train", "test"):
        if f"{split}_accuracy" in manifest:
            print(f"encoder accuracy, {split}: {manifest[f'{split}_accuracy']:.1%}")
    if out:
        np.save(out / "features.npy", features)
        np.save(out / "labels.npy", experiment.data.labels)
        wrote(out, "features.npy", "labels.npy")


def select(experiment, out):
    """Choose the coreset and print its images per class."""
    coreset = experiment.select()
    print(f"{len(coreset.indices)} of {len(coreset.labels)} images kept")
    counts = zip(coreset.class_names, experiment.data.class_counts, coreset.counts)
    print_table(("class", "images", "kept"), counts)
    if out:
        coreset.save(out)
        wrote(out, "coreset.parquet", "coreset.json")


def reweight(experiment, out):
    """Run group DRO on the coreset and print the weight of each class; 1 is uniform."""
    from .reweighting import effective_classes
    from .store import write_json

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
    """Train the diffusion model of the recipe and print what the run took."""
    from .encoders import save_weights

    model, training = experiment.train(), experiment.training()
    steps, recipe = training["steps"], experiment.recipe
    losses = training["losses"]
    if recipe.early_stopping:
        steps = experiment.steps_at(recipe.ratio)
        losses = losses[:steps]
        print(f"the weights after {steps} of the {training['steps']} steps of the run on all the data")
    print(f"steps: {steps}, final loss: {losses[-100:].mean():.4f} (mean of the last {len(losses[-100:])})")
    print(f"parameters: {sum(p.numel() for p in model.parameters()):,}")
    print(f"run: {training['key']}, {training['training_seconds']:.0f} s on {training['device']}")
    if out:
        save_weights(model, out / "model.safetensors")
        wrote(out, "model.safetensors")


def sample(experiment, out):
    """Draw class-balanced samples from the trained model."""
    import numpy as np

    images, names = experiment.sample(), experiment.data.class_names
    print(f"{len(images)} samples of shape {' x '.join(map(str, images.shape[1:]))}")
    print(f"sample number i is of class i mod {len(names)}, the classes being {', '.join(names)}")
    if out:
        np.save(out / "samples.npy", images)
        contact_sheet(images, len(names)).save(out / "samples.png")
        wrote(out, "samples.npy", "samples.png")


def evaluate(experiment, out):
    """Measure FID, class-wise FID and near-copies of the samples."""
    from .store import write_json

    metrics, floor = experiment.evaluate(), experiment.floor()
    print_metrics(metrics, floor)
    rows = [
        (name, f"{value:.3g}", f"{real:.3g}")
        for name, value, real in zip(experiment.data.class_names, metrics["classwise"], floor["classwise"])
    ]
    print_table(("class", "FID", "real halves"), rows)
    print(metrics["protocol"])
    if out:
        write_json(out / "metrics.json", {**metrics, "floor": floor})
        wrote(out, "metrics.json")


def run(experiment, out):
    """All stages; prints the main numbers and, with --out, writes the files of every stage."""
    from .store import write_json

    cell, recipe = experiment.cell(), experiment.recipe
    print_cell(cell)
    if out:
        needed = {
            embed: recipe.method != "random" and not recipe.early_stopping,
            select: not recipe.early_stopping,
            reweight: recipe.reweighting,
        }
        for stage in (embed, select, reweight, train, sample, evaluate):
            if needed.get(stage, True):
                print(f"\n{stage.__name__}")
                stage(experiment, out)
        write_json(out / "cell.json", cell)
        wrote(out, "cell.json")


# ---- the verbs that are not a stage ----------------------------------------------------------------


def run_stages(args):
    """``dedt run``: a recipe, or with a table's name one of its cells."""
    if args.table:
        return run_table_cell(args)
    if args.row:
        raise DedtError("--row belongs to a table: dedt run table1 --row NAME --ratio R --seed S")
    return run_verb(args)


def run_table_cell(args):
    """``dedt run TABLE --row ROW``: compute a cell and write it under results/PROFILE/cells."""
    from . import tables
    from .recipes import Recipe

    given = recipe_values(args)
    extra = sorted(set(given) - {"ratio", "seed"})
    if extra or args.set or args.data:
        what = ", ".join(f"--{name.replace('_', '-')}" for name in extra) or "--set or --data"
        raise DedtError(
            f"A table's row says what to run, so {what} cannot be combined with it. Leave it out, or put "
            "profile changes into a .toml file of another name and give that as --profile."
        )
    if not args.row:
        raise DedtError(
            f"Say which row: --row NAME. All cells are listed by: dedt cells --table {args.table}"
        )
    defaults = Recipe()
    cell = args.row, given.get("ratio", defaults.ratio), given.get("seed", defaults.seed)
    tables.cell_recipe(*cell)
    if cell not in tables.cells(args.table, args.profile):
        raise DedtError(
            f"{args.table} has no cell {tables.cell_name(*cell)} under this profile. "
            f"All its cells are listed by: dedt cells --table {args.table} --profile {args.profile}"
        )
    out = output_folder(args.out)
    experiment, _ = tables.run_cell(args.profile, *cell, store=open_store(args))
    print(f"{tables.LABELS[args.row]}: {describe(experiment)}")
    run(experiment, out)
    print(f"wrote {tables.results_folder(args.profile) / 'cells' / tables.cell_name(*cell)}.json")


def cells(args):
    """The cells of a table, whether their result is there, and the command for each."""
    from . import tables

    folder = tables.results_folder(args.profile) / "cells"
    listed = tables.cells(args.table, args.profile)
    done = [(folder / f"{tables.cell_name(*cell)}.json").exists() for cell in listed]
    print(f"{args.table}, profile {args.profile}: {sum(done)} of {len(listed)} cells done")
    rows = []
    for (row, ratio, seed), there in zip(listed, done):
        command = f"dedt run {args.table} --row {row} --ratio {ratio:g} --seed {seed}"
        rows.append(("done" if there else "to do", f"{command} --profile {shlex.quote(args.profile)}"))
    print_table(("", "command"), rows, left=2)


def show(args):
    """What is in the store, oldest first within each stage."""
    store = open_store(args)
    rows = [stage_line(path) for path in sorted(store.root.glob("*/*/manifest.json"), key=stage_and_age)]
    if not rows:
        print(f"The store {store.root} is empty.")
        return
    print_table(("stage", "key", "date", "seconds", "recipe"), rows, left=3)


def stage_and_age(manifest):
    return manifest.parent.parent.name, manifest.stat().st_mtime


def stage_line(path):
    """One row of ``dedt show``; a damaged manifest is shown as such, so that the others stay visible."""
    from .store import read_json

    stage, key = path.parts[-3:-1]
    try:
        manifest = read_json(path)
        values = [
            f"{name}={value}"
            for name, value in manifest["recipe"].items()
            if name != "version" and isinstance(value, str | int | float)
        ]
        return stage, key, manifest["date"], f"{manifest['seconds']:.1f}", " ".join(values)
    except (DedtError, KeyError, TypeError, AttributeError, ValueError):
        return stage, key, "", "", "damaged, or not a result of dedt"


# ---- printing --------------------------------------------------------------------------------------


def print_table(header, rows, left=1):
    """Aligned columns: ``left`` columns of text first; with two or more of them the last is text too."""
    lines = [tuple(map(str, line)) for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        cells = [
            text.ljust(width) if k < left or (left > 1 and k == len(line) - 1) else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths))
        ]
        print(("  " + "  ".join(cells)).rstrip())


def print_metrics(metrics, floor):
    print(f"FID: {metrics['fid']:.3g} (real images, half against half: {floor['fid']:.3g})")
    if metrics["copies"] is not None:
        print(f"near-copies of training images: {metrics['copies']:.2%} of the samples")


def print_cell(cell):
    """The main numbers of ``Experiment.cell()``."""
    print_metrics(cell, cell["floor"])
    what = "all data" if cell["recipe"]["early_stopping"] else "coreset"
    print(f"{what}: {sum(cell['class_counts'])} images, {cell['steps']} steps")
    if cell["class_weights"]:
        weights = [len(cell["class_weights"]) * weight for weight in cell["class_weights"]]
        shown = ", ".join(f"{name}: {w:.2f}" for name, w in zip(cell["class_names"], weights))
        print(f"class weights: {shown}")
    rows = [(name, f"{cost['seconds']:.1f}", f"{cost['images']:.0f}") for name, cost in cell["costs"].items()]
    print_table(("cost", "seconds", "image passes"), rows)


def wrote(out, *names):
    print(f"wrote {', '.join(names)} to {out}")


def contact_sheet(images, num_classes, rows=10):
    """A Pillow image of the first samples; up to twenty classes get a column each."""
    from PIL import Image

    from .figures import tile

    columns = num_classes if num_classes <= 20 else 10
    sheet = Image.fromarray(tile(images[: rows * columns], columns))
    scale = max(1, 32 // images.shape[2])
    return sheet.resize((scale * sheet.width, scale * sheet.height), Image.Resampling.NEAREST)


# ---- from arguments to an experiment ---------------------------------------------------------------


def toml_value(text):
    """The value of ``KEY=VALUE``: TOML, or else plain text, so that a path needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def profile_changes(args):
    """What --set and --data change in the profile."""
    changes = {"data": "folder", "path": str(args.data)} if args.data else {}
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise DedtError(f"--set takes KEY=VALUE; got '{item}'.")
        changes[key.strip()] = toml_value(value.strip())
    return changes


def recipe_values(args):
    """The recipe options that were given; the others keep the defaults of Recipe."""
    return {name: getattr(args, name) for name in RECIPE if getattr(args, name) is not None}


def open_store(args):
    from .store import Store

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
    from .recipes import Recipe, checked, load_profile

    changes = profile_changes(args)
    profile = load_profile(args.profile, **changes)
    checked(Recipe, recipe_values(args))
    if args.stage is select and args.reweighting:
        raise DedtError("select makes no class weights; dedt reweight makes them, with the same options.")
    out, store = output_folder(args.out), open_store(args)

    from .experiment import Experiment

    experiment = Experiment(profile, store=store, **recipe_values(args))
    changed = f" with {', '.join(changes)} changed" if changes else ""
    print(f"{experiment.data.name}, profile {profile.name}{changed}: {describe(experiment)}")
    args.stage(experiment, out)
    if not out:
        print(f"kept in {store.root}; --out FOLDER copies the files")


def describe(experiment):
    recipe = experiment.recipe
    if recipe.early_stopping:
        return f"all data, steps of {recipe.ratio:.4g}, seed {recipe.seed}"
    flags = [name for name in ("reweighting", "annealing") if getattr(recipe, name)]
    parts = [
        f"{recipe.method} at ratio {recipe.ratio:.4g}",
        f"scope {experiment.scope}",
        *flags,
        f"seed {recipe.seed}",
    ]
    return ", ".join(parts)


# ---- the parser ------------------------------------------------------------------------------------

STAGES = {
    embed: ("train the encoder and embed the images", "dedt embed --out features"),
    select: ("choose the coreset", "dedt select --method moderate --ratio 0.1 --out coreset"),
    reweight: (
        "learn the class weights by group DRO",
        "dedt reweight --data photos --set image_size=32 --set channels=3 --out coreset",
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
        "  dedt run table1 --row moderate --ratio 0.1 --seed 0      also writes results/digits/cells",
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
            name, help=help, description=description, epilog=epilog, formatter_class=plain
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

    listing = add("cells", "list the cells of a table", cells.__doc__, "dedt cells --table table1", cells)
    listing.add_argument("--table", default="table1", help="default: table1")
    listing.add_argument(
        "--profile", default="digits", help="a profile's name or .toml file (default: digits)"
    )
    add_store_option(add("show", "list what is in the store", show.__doc__, "dedt show", show))
    return parser


def add_profile_options(verb):
    group = verb.add_argument_group("how large, and on what")
    group.add_argument(
        "--profile",
        default="digits",
        help="the budget: smoke, digits, or a .toml file (default: digits)",
    )
    group.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="your images, one subfolder per class; brought to the profile's image_size and "
        "channels (digits: 8 pixels, grey; for others: --set image_size=32 --set channels=3)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value of the profile, such as epochs=50; may be repeated",
    )


def add_recipe_options(verb):
    group = verb.add_argument_group("which run")
    group.add_argument("--method", help="random, gaussian or moderate (default: moderate)")
    group.add_argument("--ratio", type=float, help="share of the data to keep, in (0, 1] (default: 0.1)")
    group.add_argument("--scope", help="choose within each 'class', or in one 'global' order")
    group.add_argument("--reweighting", action="store_true", default=None, help="class weights by group DRO")
    group.add_argument("--burn-in", type=float, help="share of the proxy's steps with uniform weights")
    group.add_argument(
        "--annealing", action="store_true", default=None, help="all the data in the last epochs"
    )
    group.add_argument(
        "--early-stopping",
        action="store_true",
        default=None,
        help="the control: all the data, but only as many steps as the coreset takes",
    )
    group.add_argument("--seed", type=int, help="of everything but the encoder and the metric (default: 0)")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="copy the resulting files there")


def add_store_option(verb):
    verb.add_argument(
        "--store", type=Path, metavar="FOLDER", help="the store (default: $DEDT_STORE, else runs/)"
    )


def main(argv=None):
    """Run the command line; returns the exit status: 0, 2 for unusable input, 130 when interrupted."""
    args = make_parser().parse_args(argv)
    try:
        args.action(args)
    except DedtError as error:
        print(f"dedt: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"dedt: {error.strerror or error}: {error.filename}; stored results are kept",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0
