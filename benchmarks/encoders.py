"""Compare encoders for photographs: accuracy of nearest neighbours, overlap of the coresets, and CPU time.

``python benchmarks/encoders.py DATA`` takes labelled images that ``dedt`` reads, such as a folder of Parquet
files, with a held-out split.  The first images of every class are written as image files, the same ones for
both encoders.  ResNet-18 is trained on them with the settings of the profile ``photos``, which are those of
``cifar10-cpu``.  Results stay in the store, so a stopped run can be continued; its times then cover only the
last part.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported

import numpy as np
import torch
from scipy.stats import binomtest, hypergeom
from sklearn.neighbors import KNeighborsClassifier

from dedt_lib import data, encoders
from dedt_lib.config import load_profile
from dedt_lib.data.photos import Pixels
from dedt_lib.devices import keep_freed_memory
from dedt_lib.experiment import Experiment
from dedt_lib.stages.data import Photographs
from dedt_lib.store import Store, provenance

RESULTS = Path(__file__).with_name("encoders.json")
LITE0, TRAINED = "efficientnet-lite0", "resnet18"
METHODS, RATIO, NEIGHBOURS = ("moderate", "gaussian"), 0.1, 20


def write_images(path, folder, counts):
    """Write the first images of every class, equally many of each, as ``folder``/SPLIT/CLASS/NUMBER.jpg."""
    for split, count in counts.items():
        found = data.find(data.detect(path), path, split)
        each = count // len(found.class_names)
        wanted = {i for k in range(len(found.class_names)) for i in np.flatnonzero(found.labels == k)[:each]}
        for place, (_, file) in enumerate(found.encoded()):
            if place in wanted:
                at = folder / split / found.class_names[found.labels[place]] / f"{place:06d}.jpg"
                at.parent.mkdir(parents=True, exist_ok=True)
                at.write_bytes(file.read_bytes() if isinstance(file, Path) else file.read())


def held_out(experiment, name, path):
    """Features of the held-out images, cached in the file ``path``, and their labels."""
    network, _ = experiment.encoder
    photos = Photographs(experiment.lab, "test").result()
    images = Pixels(photos, getattr(network, "size", experiment.lab.shape[-1]))
    if not path.exists():
        encoders.embed(network, images, batch_size=8 if name == LITE0 else 256, path=path)
    return np.load(path), photos.labels


def proportion(hits, total):
    """A share of the held-out images, with Wilson's 95 % interval."""
    low, high = binomtest(hits, total).proportion_ci(method="wilson")
    return {"value": hits / total, "95 %": [float(low), float(high)], "held_out": total}


def see(folder, store, name):
    """One encoder's accuracies on the held-out images and CPU times, and its coresets by method."""
    profile = load_profile("photos", **{"data.path": str(folder)})
    x = Experiment(profile, store=store, encoder=name, ratio=RATIO, device="cpu")
    features, n = x.embed(), x.lab.n
    neighbours = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(features, x.lab.photos.labels)
    tested, labels = held_out(x, name, folder / f"{name}.npy")
    facts = {
        "neighbours_accuracy": proportion(int((neighbours.predict(tested) == labels).sum()), len(labels)),
        "features": features.shape[1],
        "cpu_ms_an_image": 1000 * x.embedding.manifest()["cpu_seconds"] / n,
    }
    if name == TRAINED:
        training = x.embedding.encoder.manifest()
        facts["own_accuracy"] = proportion(round(training["test_accuracy"] * len(labels)), len(labels))
        facts["training_cpu_ms_an_image"] = 1000 * training["cpu_seconds"] / n
    print(name, facts, flush=True)
    return facts, {method: set(x.change(method=method).select().indices.tolist()) for method in METHODS}


def overlap(a, b, n):
    """The share that two coresets of n images have in common, and the 95 % range for random coresets."""
    low, high = hypergeom(n, len(a), len(b)).interval(0.95)
    return {"value": len(a & b) / len(a), "at random, 95 %": [float(low) / len(a), float(high) / len(a)]}


def main():
    """Compare the encoders and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/encoders"),
        help="folder for files and store (default: %(default)s)",
    )
    parser.add_argument("--train", type=int, default=20_000, help="number of training images")
    parser.add_argument("--test", type=int, default=4_000, help="number of held-out images")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    folder, store = args.work / f"{args.train}-{args.test}", Store(args.work / "store")
    if not (folder / "whole").exists():
        write_images(args.data, folder, {"train": args.train, "test": args.test})
        (folder / "whole").touch()
    (lite0, one), (trained, other) = (see(folder, store, name) for name in (LITE0, TRAINED))
    settings = {"train": args.train, "test": args.test, "ratio": RATIO, "neighbours": NEIGHBOURS}
    made = {
        "machine": provenance(),
        "settings": {"data": args.data.name, **settings},
        "resnet18": load_profile("photos").encoders.resnet18.model_dump(),
        "encoders": {LITE0: lite0, TRAINED: trained},
        "overlap": {method: overlap(one[method], other[method], args.train) for method in METHODS},
    }
    args.out.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
