"""Choose coresets of the real CIFAR-10 with ``dedt select`` and save what the book shows of them.

``python tools/cifar10.py --path FOLDER`` calls ``dedt select`` under profile ``cifar10-cpu`` for every
selector and ratio, and writes ``results/cifar10-cpu/selection.json`` (timings, peak memory, images per
class, overlaps) and pictures of kept and removed images.  FOLDER holds CIFAR-10, as the archive or as
Parquet (default: fetch the archive).
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np

from dedt_lib.book import figures
from dedt_lib.book.results import results_folder
from dedt_lib.config.profile import load_profile
from dedt_lib.experiment import Experiment
from dedt_lib.files import write_json
from dedt_lib.store import provenance

PROFILE = "cifar10-cpu"
SELECTORS = {
    "random": {"method": "random"},
    "gaussian": {"method": "gaussian"},
    "moderate-global": {"method": "moderate", "scope": "global"},
    "moderate-class": {"method": "moderate", "scope": "class"},
}


def dedt(*arguments):
    """Run a command of ``dedt`` and return its wall-clock seconds and peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dedt_lib", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"dedt {' '.join(arguments)} failed")
    gib = usage.ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
    return {"seconds": round(time.perf_counter() - start, 2), "peak_gib": round(gib, 2)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", default="", help="folder with CIFAR-10 (default: fetch the archive)")
    args = parser.parse_args()
    profile = load_profile(PROFILE, **{"data.path": args.path})
    common = ["--profile", PROFILE, *([f"--set=data.path={args.path}"] if args.path else [])]
    # All commands run before this process loads data: a child's peak memory starts at that of its parent.
    commands = {"embed": dedt("embed", *common)}
    for name, recipe in SELECTORS.items():
        for ratio in profile.unet.ratios:
            options = [f"--{key}={value}" for key, value in recipe.items()]
            commands[name, ratio] = dedt("select", *common, *options, f"--ratio={ratio}")
            print(name, ratio, commands[name, ratio])
    base = Experiment(profile)
    coresets, selections = {}, []
    for name, recipe in SELECTORS.items():
        for ratio in profile.unet.ratios:
            experiment = base.change(**recipe, ratio=ratio)
            coresets[name, ratio] = coreset = experiment.select()
            manifest = experiment.coreset.manifest()
            selections.append(
                {
                    "selector": name,
                    "ratio": ratio,
                    "kept": len(coreset.indices),
                    "class_counts": coreset.counts.tolist(),
                    "coreset": manifest["key"],
                    "computing_seconds": manifest["seconds"],
                    **commands[name, ratio],
                }
            )
    encoder = base.encoder[1]
    smallest = min(profile.unet.ratios)
    first = {name: coresets[name, smallest] for name in SELECTORS}
    folder = results_folder(profile)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("gaussian", "moderate-class"):
        picture = figures.kept_and_removed(base.data.images, {name: first[name]})
        picture.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
    write_json(
        folder / "selection.json",
        {
            "images": len(base.data),
            "fingerprint": base.data.fingerprint,
            "class_names": list(base.data.class_names),
            "features": list(base.embed().shape),
            "encoder": {
                key: encoder[key]
                for key in (
                    "key",
                    "identity",
                    "losses",
                    "train_accuracy",
                    "test_accuracy",
                    "seconds",
                    "cpu_seconds",
                )
            },
            "embed_command": commands["embed"],
            "selections": selections,
            "overlap": {
                a: {b: float(np.mean(first[b].kept[first[a].indices])) for b in SELECTORS} for a in SELECTORS
            },
            **provenance(),
        },
    )


if __name__ == "__main__":
    main()
