"""How the verbs of ``dedt`` print: recipes, metrics, plans, tables of numbers, and a sheet of samples."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ..data import Reading
    from ..experiment import Experiment
    from ..selection import Coreset
    from ..stages import Cost

Result = dict[str, Any]
Speed = dict[tuple[str, str], float]
Speedups = dict[tuple[str, float], tuple[float, float]]

OTHERS = "other networks"
FEW_CLASSES = 20
"""The largest number of classes that are named in one line."""


def describe(experiment: "Experiment") -> str:
    """One line that describes a recipe; most values appear only where they differ from the default."""
    from ..reweighting import USUAL
    from ..selection import REGISTRY, options_of

    r = experiment.recipe
    flags = ["annealing"] * r.annealing + [f"plan {r.plan}"] * bool(r.plan) + ["unguided"] * r.unguided
    flags += [f"model {r.model}"] * (r.model != "unet") + [f"seed {r.seed}"]
    if r.early_stopping:
        return ", ".join([f"all data, as many steps as at ratio {r.ratio:.4g}", *flags])
    if r.infobatch:
        what = "the well-learned" if r.infobatch == "ratio" else "all"
        return ", ".join([f"InfoBatch that keeps {r.ratio:.4g} of {what} samples", *flags])
    encoder = f"encoder {r.encoder or experiment.profile.encoders.default}"
    parts = [f"{r.method} at ratio {r.ratio:.4g}", *[encoder] * bool(experiment.coreset.embedding)]
    parts.append(f"scope {experiment.scope}")
    usual = options_of(REGISTRY[r.method])
    parts += [
        f"{name} {value}"
        for name, value in experiment.coreset.options
        if name != "seed" and (name == "centre" or value != usual[name])
    ]
    parts += ["balancing"] * r.balancing
    if r.reweighting:
        parts.append("reweighting" if r.weighting == "loss" else f"reweighting by {r.weighting}")
        parts += [f"rule {r.rule}"] * (r.rule != USUAL)
        parts += [f"burn-in {r.burn_in:g}"] if r.burn_in is not None else []
    return ", ".join([*parts, *flags])


def print_reading(reading: "Reading | None") -> None:
    """Print how many image files were read and left out; nothing for None."""
    from ..data.names import one_line

    if reading:
        print(one_line(reading.line))


def print_doubts(coreset: "Coreset") -> None:
    """Print doubts about a coreset: exact copies, conflicting labels, empty classes, and equal scores."""
    from ..selection import REGISTRY

    if coreset.copies:
        what = amount(coreset.copies, "exact copy of another image", "exact copies of other images")
        how = "ranked last" if REGISTRY[coreset.method].needs_features else "drawn like any image"
        print(f"{what}, {how}; {coreset.copies_kept:,} of them kept")
    if coreset.conflicts:
        what = amount(coreset.conflicts, "image has", "images have")
        print(f"warning: {what} the same pixels as an image of another class")
    if coreset.empty:
        from ..data.names import few
        from ..stages.needs import advice

        how = advice(coreset.totals, coreset.scope, coreset.ratio, REGISTRY[coreset.method].fewest)
        print(
            f"warning: no image of {few(coreset.empty, FEW_CLASSES)} is kept, so no model can be trained on "
            f"this coreset: {how}"
        )
    if coreset.tied:
        where = "" if coreset.tied == ("all",) else f" of {', '.join(coreset.tied)}"
        doubt = "have equal scores, so their position decides; check the encoder"
        print(f"warning: most images{where} {doubt}")


def print_metrics(metrics: Result, floor: Result) -> None:
    """Print FID and the other metrics with their protocols; ``floor`` holds the FID of two real halves."""
    from ..evaluation import METRICS

    halves = f"between halves of the real images: {floor['fid']:.3g}, too high because a half has few images"
    print(f"FID: {metrics['fid']:.3g} ({halves})")
    print(f"  {metrics['protocol']}")
    if metrics.get("classwise_left_out"):
        from ..data.names import few

        print(f"class-wise FID left out for: {few(metrics['classwise_left_out'], FEW_CLASSES)}")
    if metrics.get("cmmd") is not None:
        print(f"CMMD: {metrics['cmmd']:.3g} (unbiased: {metrics['cmmd_unbiased']:.3g})")
    if "kid" in metrics:
        shares = [f"{name}: {number(metrics[name], '.3f')}" for name in ("precision", "recall")]
        print(f"KID: {metrics['kid']:.3g}, {', '.join(shares)}")
    for name in filter(metrics.__contains__, METRICS):
        print(f"{name}: {metrics[name]:.3g}")
    if "comparison_protocol" in metrics:
        print(f"  {metrics['comparison_protocol']}")
    print_copies(metrics)


def print_copies(metrics: Result) -> None:
    """Print the share of near-copies in pixels and in features, with the thresholds, or why it is missing."""
    if metrics["copies"] is None:
        leaks = metrics.get("leaks")
        why = f"all {leaks} held-out images are training images" if leaks else "there are no held-out images"
        print(f"near-copies of training images: not counted, because {why}")
        return
    print(f"near-copies of training images: {metrics['copies']:.2%} of the samples")
    if metrics.get("copies_threshold") is None:
        return
    print(f"  in the features of FID: {metrics['copies_features']:.2%}")
    pixels, features = metrics["copies_threshold"], metrics["copies_features_threshold"]
    held_out = f"which 1 % of {metrics['held_out']} held-out images fall below"
    print(f"  threshold: {pixels:.3g} grey levels (features: {features:.3g}), {held_out}")
    if metrics["leaks"]:
        print(f"  left out: {amount(metrics['leaks'], 'held-out image')} found among the training images")


def number(value: float | None, digits: str = ".3g") -> str:
    """A number in the format ``digits``; a dash for None."""
    return "–" if value is None else f"{value:{digits}}"


def print_cell(cell: Result) -> None:
    """Print the main numbers of ``Experiment.cell()``."""
    print_metrics(cell, cell["floor"])
    recipe = cell["recipe"]
    what = "all data" if recipe["early_stopping"] or recipe["infobatch"] else "coreset"
    print(f"{what}: {sum(cell['class_counts'])} images, {cell['steps']} steps")
    if recipe["annealing"] or recipe["infobatch"]:
        print(f"images seen: {cell['realised']:.1%} of those in the run on all the data")
    if cell["class_weights"]:
        weights = [len(cell["class_weights"]) * weight for weight in cell["class_weights"]]
        shown = ", ".join(f"{name}: {w:.2f}" for name, w in zip(cell["class_names"], weights))
        if len(weights) > FEW_CLASSES:
            shown = f"{min(weights):.2f} to {max(weights):.2f}"
        print(f"class weights: {shown}")
    rows = []
    for name, cost in cell["costs"].items():
        times = [f"{cost[clock]:.1f}" for clock in ("seconds", "cpu_seconds")]
        rows.append((name, *times, scaled(cost["images"]), scaled(cost["evaluations"])))
    print_table(("cost", "seconds", "CPU seconds", "images", "evaluations"), rows)


def wrote(out: Path, *names: str) -> None:
    """Print which files were written."""
    print(f"wrote {', '.join(names)} to {out}")


def contact_sheet(
    images: "np.ndarray", labels: "np.ndarray", num_classes: int, rows: int = 10
) -> "Image.Image":
    """A Pillow image of the first samples, with a column for each class if there are at most FEW_CLASSES."""
    from PIL import Image

    from ..book.figures import class_columns, tile

    columns = num_classes if num_classes <= FEW_CLASSES else 10
    shown = class_columns(images, labels, columns, rows) if columns == num_classes else images[: rows * 10]
    sheet = Image.fromarray(tile(shown, columns))
    scale = max(1, 32 // images.shape[2])
    return sheet.resize((scale * sheet.width, scale * sheet.height), Image.Resampling.NEAREST)


def print_works(works: "list[Cost]", least: "list[Cost]", speed: Speed) -> None:
    """Print the table of ``dedt plan``; ``least`` is the work if InfoBatch prunes as much as it can."""
    from ..plan import seconds
    from ..stages.models import MODELS

    diffusion = dict.fromkeys(spec.label for spec in MODELS.values())
    columns: dict[str, tuple[Callable, Callable]] = {
        "runs": (lambda work: work.runs, whole),
        "steps": (lambda work: work.steps, whole),
        "images": (lambda work: work.images, scaled),
        "evaluations": (lambda work: work.evaluations, scaled),
        "pairs": (lambda work: work.pairs, scaled),
        "disk": (lambda work: work.bytes, lambda value: scaled(value, "B")),
    }
    if speed:
        columns["time"] = (lambda work: seconds(work, speed), duration)

    pairs = list(zip(least, works))
    several = len({work.network for work in works} & {*diffusion}) > 1

    def line(name: str, what: str, pairs: "Iterable[tuple[Cost, Cost]]") -> tuple[str, ...]:
        sides = list(zip(*pairs))
        ends = [[text(sum(map(value, side))) for side in sides] for value, text in columns.values()]
        return name, *(" .. ".join(dict.fromkeys(pair)) for pair in ends), what

    rows = []
    for pair in pairs:
        work = pair[1]
        model = f" ({work.network})" if several and work.network in diffusion else ""
        rows.append(line(work.kind, work.what + model, [pair]))
    for what in (*diffusion, OTHERS):
        chosen = [(a, b) for a, b in pairs if what == (b.network if b.network in diffusion else OTHERS)]
        rows += [line("total", what, chosen)] if chosen else []
    print_table(("work", *columns, "of"), rows, text=(0, -1))
    print(
        "evaluations: forward passes of one image, a backward pass counts as two; pairs: distances between "
        "two images"
    )
    if works != least:
        print("a .. b: from the most that InfoBatch can prune to nothing, depending on the losses")
    kept, room = sum(work.bytes for work in works), 2 * max((work.scratch for work in works), default=0)
    more = f", and up to {scaled(room, 'B')} more for each run in progress" if room else ""
    print(f"disk: {scaled(kept, 'B')} kept{more}")


def print_speedups(speedups: Speedups, most: Speedups) -> None:
    """Print (row, ratio) -> (speed-up of the final training, of the whole recipe), a column for each ratio.

    ``most`` is the same if InfoBatch prunes as much as it can.
    """
    from ..book.tables import percent

    def entry(cell: tuple[str, float]) -> str:
        if cell not in speedups:
            return ""
        (final, whole), (best, _) = speedups[cell], most[cell]
        shown = f"{final:.2f}" if final == best else f"{final:.2f} .. {best:.2f}"
        return shown if final == whole else f"{shown} ({whole:.2f})"

    rows = dict.fromkeys(row for row, ratio in speedups if ratio < 1)
    if not rows:
        return
    ratios = sorted({ratio for _, ratio in speedups if ratio < 1})
    print("ideal speed-up over the run on all the data, in evaluations of the diffusion model: of the final")
    print("training, and in brackets of the whole recipe if it trains more than that")
    lines = [(row, *(entry((row, ratio)) for ratio in ratios)) for row in rows]
    print_table(("row", *map(percent, ratios)), lines)


def print_speed(speed: Speed, total: float, device: str) -> None:
    """Print the time of all runs on a device (at most ``total`` seconds) and what the probe measured."""
    from ..plan import UNITS
    from ..stages.embed import LABELS

    device = "this CPU" if device == "cpu" else device
    print(f"in total {duration(total)} on {device}, one run after another")
    kinds: dict[tuple[str, str], list[str]] = {}
    for (kind, network), value in speed.items():
        what = f"{UNITS.get(kind, 'steps').removesuffix('s')} of the {LABELS.get(network, network)}"
        kinds.setdefault((f"{1000 * value:.3g} ms", what), []).append(kind)
    rows = [(value, what, ", ".join(names)) for (value, what), names in kinds.items()]
    print_table(("measured", "per", "work"), rows, text=(1, 2))


def print_table(header: Iterable[str], rows: Iterable[Iterable[Any]], text: Iterable[int] = (0,)) -> None:
    """Print aligned columns: those with an index in ``text`` (negative: from the end) left, others right."""
    from ..data.names import one_line

    lines = [tuple(one_line(str(entry)) for entry in line) for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = {k % len(widths) for k in text}
    pads = [str.ljust if k in left else str.rjust for k in range(len(widths))]
    for line in lines:
        print("".join("  " + pad(entry, width) for pad, entry, width in zip(pads, line, widths)).rstrip())


def amount(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: ``1 cell``, ``1,200 cells``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def whole(count: int) -> str:
    """A count with thousands separators; "" for zero."""
    return f"{count:,}" if count else ""


def scaled(value: float, unit: str = "") -> str:
    """A number with three digits and a prefix: ``782 k``, ``1.20 GB``; "" for zero."""
    value = float(f"{value:.3g}")  # so 999,999 is 1.00 M
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            digits = max(0, 2 - len(str(int(value / size))) + 1)
            return f"{value / size:.{digits}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip() if value else ""


def duration(seconds: float) -> str:
    """A time as text: ``12 s``, ``34 min`` or ``56.7 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
