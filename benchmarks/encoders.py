"""Compare encoders for photographs: how well neighbours share a class, which images they choose, what they take.

``python benchmarks/encoders.py DATA`` with labelled images that ``dedt`` reads, such as a folder of Parquet files, with a
held-out split.  Disjoint parts of both splits are written as image files; the two encoders see the same ones.  ResNet-18 is
trained as the profile ``photos`` says: few images give it few steps.  What was computed stays in the store, so a run
that was stopped goes on.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.neighbors import KNeighborsClassifier

from dedt_lib import data, encoders
from dedt_lib.config import load_profile
from dedt_lib.devices import keep_freed_memory
from dedt_lib.experiment import Experiment
from dedt_lib.stages.data import Photographs
from dedt_lib.store import Store, provenance

RESULTS = Path(__file__).with_name("encoders.json")
LITE0, TRAINED = "efficientnet-lite0", "resnet18"
METHODS, RATIO, NEIGHBOURS = ("moderate", "gaussian"), 0.1, 20


def write_part(source, path, folder, part, counts):
    """The images of one part as ``folder``/SPLIT/CLASS/NUMBER.jpg, as many of every class."""
    for split, count in counts.items():
        found = data.find(source, path, split)
        each, wanted = count // len(found.class_names), set()
        for k in range(len(found.class_names)):
            wanted |= set(np.flatnonzero(found.labels == k)[part * each : (part + 1) * each].tolist())
        for place, (_, file) in enumerate(found.encoded()):
            if place in wanted:
                at = folder / split / found.class_names[found.labels[place]] / f"{place:06d}.jpg"
                at.parent.mkdir(parents=True, exist_ok=True)
                at.write_bytes(file.read_bytes() if isinstance(file, Path) else file.read())


def held_out(experiment, name, path):
    """Features and labels of the held-out images, by an encoder; the features are kept in a file."""
    network, _ = experiment.encoder
    photos = Photographs(experiment.lab, "test").result()
    images = photos.at(getattr(network, "size", experiment.lab.shape[-1]))
    if not path.exists():
        encoders.embed(network, images, batch_size=8 if name == LITE0 else 256, path=path)
    return np.load(path), photos.labels


def see(folder, store, name):
    """What one encoder gives on one part: hits among the held-out images, times, and the chosen images."""
    profile = load_profile("photos", **{"data.path": str(folder)})
    x = Experiment(profile, store=store, encoder=name, ratio=RATIO, device="cpu")
    features, n = x.embed(), x.lab.n
    neighbours = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(features, x.lab.photos.labels)
    tested, labels = held_out(x, name, folder / f"{name}.npy")
    facts = {
        "hits": int((neighbours.predict(tested) == labels).sum()),
        "held_out": len(labels),
        "features": features.shape[1],
        "cpu_ms_an_image": 1000 * x.embedding.manifest()["cpu_seconds"] / n,
    }
    if name != LITE0:
        facts["training_cpu_ms_an_image"] = 1000 * x.embedding.encoder.manifest()["cpu_seconds"] / n
    return facts, {method: set(x.change(method=method).select().indices.tolist()) for method in METHODS}


def spread(values):
    """Mean, lowest and highest of one value for each part."""
    return {"mean": float(np.mean(values)), "lowest": float(min(values)), "highest": float(max(values))}


def summary(parts, random):
    """The facts of all parts, put together: accuracies with intervals, times, and the shares that sets have in common."""
    names, found = list(parts[0]), {"encoders": {}, "overlap": {}}
    for name in names:
        facts = [part[name][0] for part in parts]
        hits, total = (sum(fact[key] for fact in facts) for key in ("hits", "held_out"))
        low, high = binomtest(hits, total).proportion_ci(method="wilson")
        found["encoders"][name] = {
            "accuracy": {"value": hits / total, "95 %": [float(low), float(high)], "held_out": total},
            "accuracy_by_part": spread([fact["hits"] / fact["held_out"] for fact in facts]),
            **{key: spread([fact[key] for fact in facts]) for key in facts[0] if key.endswith("ms_an_image")},
            "features": facts[0]["features"],
        }
    for method in METHODS:
        sets = [
            {**{name: part[name][1][method] for name in names}, "random": r} for part, r in zip(parts, random)
        ]
        for a, b in [(names[0], other) for other in (*names[1:], "random")]:
            shares = [len(chosen[a] & chosen[b]) / len(chosen[a]) for chosen in sets]
            found["overlap"][f"{method}: {a} and {b}"] = spread(shares)
    return found


def main():
    """Read the arguments, compare, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/encoders"), help="files and store (default: there)"
    )
    parser.add_argument("--parts", type=int, default=3)
    parser.add_argument("--train", type=int, default=1000, help="training images of a part")
    parser.add_argument("--test", type=int, default=500, help="held-out images of a part")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    source, store, parts, random = data.detect(args.data), Store(args.work / "store"), [], []
    for part in range(args.parts):
        folder = args.work / f"part-{part}"
        if not (folder / "whole").exists():
            write_part(source, args.data, folder, part, {"train": args.train, "test": args.test})
            (folder / "whole").touch()
        parts.append({name: see(folder, store, name) for name in (LITE0, TRAINED)})
        random.append(
            set(np.random.default_rng(part).permutation(args.train)[: round(RATIO * args.train)].tolist())
        )
        write(args, parts, random)


def write(args, parts, random):
    """The JSON file on the parts that are done, of which each adds to what is known."""
    settings = load_profile("photos").encoders.resnet18.model_dump()
    how = {
        "data": args.data.name,
        "parts": len(parts),
        "train": args.train,
        "test": args.test,
        "ratio": RATIO,
        "neighbours": NEIGHBOURS,
    }
    made = {"machine": provenance(), "sizes": how, "resnet18": settings, **summary(parts, random)}
    args.out.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {args.out}, of {len(parts)} parts", flush=True)


if __name__ == "__main__":
    main()
