"""Fill README.md from the committed results, and with ``--cifar10 FOLDER`` draw its picture.

Run ``python tools/readme.py`` after the results have changed; a test compares the numbers.  The picture uses
profile cifar10-latent and trains what is not in the store.  FOLDER holds CIFAR-10, or is where it is saved.
"""

import argparse
import json
import math
import re
from pathlib import Path

from dedt_lib.book import claims, comparisons, grid, results, tables
from dedt_lib.config.profile import load_profile
from dedt_lib.sampling import proportional_labels

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- (expected|measured|found):start -->\n).*?(<!-- \2:end -->)", re.DOTALL)
OURS = "moderate-reweighted"
SHOWN = [("full", 1.0), ("moderate", 0.1), ("moderate-reweighted", 0.1), ("early-stopping", 0.1)]


def expected():
    """The table of the numbers that the quick start should give, as Markdown."""
    frame = results.read_cells("digits", root=ROOT / "results").set_index(["row", "ratio", "seed"])
    found = [frame.result[row, ratio, 0] for row, ratio in SHOWN]
    lines = ["| trained on | steps | FID |", "|---|---|---|"]
    for (row, ratio), cell in zip(SHOWN, found):
        data = "" if row in ("full", "early-stopping") else f" ({tables.percent(ratio)})"
        lines.append(f"| {grid.LABELS[row]}{data} | {cell['steps']:,} | {cell['fid']:.2f} |")
    lines.append(
        f"| *two halves of the real digits (half as many images, so about twice too high)* | | "
        f"{found[0]['floor']['fid']:.2f} |"
    )
    return "\n".join(lines) + "\n"


def measured():
    """Time and memory of choosing a coreset of photographs, and accuracy of encoders, in two sentences."""
    photos, encoders = (
        json.loads((ROOT / "benchmarks" / f"{name}.json").read_text()) for name in ("photos", "encoders")
    )
    chosen = {name: row for name, row in photos["results"].items() if name.startswith("dedt select")}
    took = [f"{row['cpu_seconds']:.0f} s for {name.partition(' of ')[2]}" for name, row in chosen.items()]
    gib = max(row["gib"] for row in chosen.values())
    right = [seen["neighbours_accuracy"]["value"] for seen in encoders["encoders"].values()]
    given, trained = (f"{100 * share:.0f} %" for share in right)
    epochs, images = encoders["resnet18"]["epochs"], encoders["settings"]["train"]
    return (
        f"`dedt select` takes {' and '.join(took)}\n"
        f"(CPU time on one thread), and at most {math.ceil(10 * gib) / 10} GiB of memory "
        "([measured](benchmarks/photos.json)).\nWith the default encoder's features, nearest neighbours "
        f"classify {given} of held-out CIFAR-10 images correctly;\nwith those of a ResNet-18 of a quarter of "
        "the usual width, trained for "
        f"{epochs} epochs on {images:,} CIFAR-10 images, {trained}\n([measured](benchmarks/encoders.json)).\n"
    )


QUESTIONS = {
    "the recipe against a random coreset": (OURS, "random"),
    "selection alone against a random coreset": ("moderate", "random"),
    "class weights against none": (OURS, "moderate"),
    "the recipe against all the data at equal steps": (OURS, "early-stopping"),
    "a random coreset against all the data at equal steps": ("random", "early-stopping"),
}
"""The comparisons of Table I that get a verdict."""


def found():
    """What was found of the paper's comparisons at 10 %, as a table in Markdown, and the verdicts."""
    frames = {
        "scikit-learn's digits": results.read_cells("digits", root=ROOT / "results"),
        "CIFAR-10 in a latent space": results.read_cells("cifar10-latent", root=ROOT / "results"),
    }
    table = claims.changes(frames).query("ratio == 0.1")
    seeds = table[table.source != claims.PAPER].groupby("source").seeds.max()
    titles = [claims.PAPER, *(f"{name} ({comparisons.seeds_in_words(seeds[name])})" for name in frames)]
    lines = [f"| FID with 10 % of the images: change | {' | '.join(titles)} |", "|---" * 4 + "|"]
    for (said, _, _), own in claims.shown(table).iterrows():
        lines.append(f"| {said} | {' | '.join(own)} |")
    longer = comparisons.Page(frames["scikit-learn's digits"], [("random-full-length", "random")])
    short_of_steps = (
        "- A random tenth of the digits, trained for as many steps as all the data, minus the same tenth at the "
        f"usual length: {comparisons.entry(longer.table.assign(verdict=comparisons.OPEN).iloc[0])}. So at 10 % "
        "of the digits part of the difference to all the data, trained to the end, is one of steps."
    )
    return "\n".join([*lines, "", *verdicts(frames), short_of_steps]) + "\n"


def verdicts(frames):
    """For each set of images a sentence with its verdicts, and with the difference that five seeds detect."""
    questions = {pair: question for question, pair in QUESTIONS.items()}
    for name, frame in frames.items():
        page, by_kid = (
            comparisons.Page(frame, QUESTIONS.values(), value, profile=frame.profile[0], added=value == "kid")
            for value in ("fid", "kid")
        )
        enough = page.table.query("seeds >= @comparisons.ENOUGH")
        shares = ", ".join(map(tables.percent, sorted(enough.index.unique("ratio"))))
        told = []
        for verdict in (comparisons.BETTER, comparisons.WORSE):
            those = [
                f"{questions[row, other]}, at {tables.percent(ratio)}, "
                f"{comparisons.entry(line.replace(verdict, comparisons.OPEN), usual=line.seeds)}, by KID "
                + comparisons.entry(by_kid.compare(row, other).loc[ratio], 3, line.seeds)
                for (row, other, _, ratio), line in enough[enough.verdict == verdict].iterrows()
            ]
            told.append(f"{len(those) or 'none'} *{verdict}*" + f" ({'; '.join(those)})" * bool(those))
        least, usual, largest = (f"{number:.2f}" for number in page.detectable())
        yield (
            f"- On {name}, of {len(enough)} comparisons with five seeds (at {shares}): {', '.join(told)}. Five seeds "
            f"detect a true difference in FID of {usual} ({least} to {largest}) with a power of 80 %."
        )


FILLED = {"expected": expected, "measured": measured, "found": found}


def filled(text):
    """The text of the README with its numbers updated."""
    return BLOCK.sub(lambda match: match[1] + FILLED[match[2]]() + match[3], text)


def draw(path, cifar10):
    """Draw the front page's picture: kept and removed images, and samples of the model on all the data."""
    from dedt_lib.book import figures
    from dedt_lib.experiment import Experiment

    profile = load_profile("cifar10-latent", **{"data.path": cifar10})
    chosen = Experiment(profile, method="moderate", ratio=0.1, seed=0)
    full = chosen.change(method="random", ratio=1.0)
    labels = proportional_labels(profile.sample.count, chosen.data.class_counts)
    coresets = {"Moderate-DS, 10 %": chosen.select()}
    figure = figures.kept_and_removed(chosen.data.images, coresets, 7, drawn=(full.sample(), labels))
    figure.savefig(path, dpi=130, bbox_inches="tight", pil_kwargs={"quality": 90})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar10", help="also draw the picture, from CIFAR-10 in this folder")
    readme, cifar10 = ROOT / "README.md", parser.parse_args().cifar10
    readme.write_text(filled(readme.read_text()))
    if cifar10:
        draw(ROOT / "book" / "_static" / "front.jpg", cifar10)
