"""Measure peak memory and time of ``dedt select`` on photographs, and of its steps after the features.

``python benchmarks/photos.py DATA`` takes labelled images that ``dedt`` reads, such as CIFAR-10 as Parquet
files, and writes equally many of each class as image files.  A second set of images are JPEG files of 120 to
300 pixels: crops of scikit-learn's two sample photographs, each slightly rotated and changed in brightness.
The steps after the features run on random features in a memory-mapped file.  Every measurement runs in a
separate process that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).with_name("photos.json")
LIMIT = 2  # GiB beyond what importing PyTorch needs
WIDTH, CLASSES, LARGEST = 1280, 10, 300
STEPS = {
    "moderate": "from dedt_lib.selection import select; select(X, y, method='moderate', ratio=0.1)",
    "gaussian": "from dedt_lib.selection import select; select(X, y, method='gaussian', ratio=0.1)",
    "gaussian, all images one class": (
        "from dedt_lib.selection import select; select(X, y, method='gaussian', ratio=0.1, scope='global')"
    ),
    "clusters": "from dedt_lib.clusters import cluster; cluster(X, 10)",
    "principal components of the report": "from dedt_lib.clusters import principal; principal(X, 32)",
}


def write_photographs(folder, n):
    """Write n different JPEG files into a flat folder: crops of mixed sizes, rotation and brightness."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        image = whole[i % len(whole)]
        width, height = rng.integers(120, LARGEST + 1, 2).tolist()
        x, y = (int(rng.integers(0, whole - part)) for whole, part in zip(image.size, (width, height)))
        part = image.crop((x, y, x + width, y + height)).rotate(float(rng.uniform(-8, 8)))
        light = np.minimum(255, np.asarray(part) * rng.uniform(0.6, 1.2)).astype(np.uint8)
        Image.fromarray(light).save(folder / f"{i:06d}.jpg")


def write_classes(path, folder, n):
    """Write n images of a data set, equally many of each class, into a folder for each class."""
    from encoders import write_images

    write_images(path, folder, {"train": n})


def write_features(path, n):
    """Write random features float32 [n, WIDTH]."""
    features = np.lib.format.open_memmap(path, "w+", np.float32, (n, WIDTH))
    for i in range(0, n, 5000):
        part = features[i : i + 5000]
        part[:] = np.random.default_rng(i).standard_normal(part.shape, np.float32)
    features.flush()


def apart(work, *arguments):
    """Call a function in another process, as a child's peak memory starts at what this process has held."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def measured(*arguments):
    """Run Python with some arguments and return its peak memory in GiB, seconds and CPU seconds."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments} exited with status {child.returncode}")
    return {
        "gib": usage.ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def main():
    """Measure everything and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--name", default="CIFAR-10", help="name of DATA in the results")
    parser.add_argument("--images", type=int, default=2000, help="number of images from DATA")
    parser.add_argument("--photographs", type=int, default=500, help="number of crops of photographs")
    parser.add_argument("--features", type=int, default=50_000, help="number of rows of features")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    base = measured("-c", "import torch")
    rows = {"import torch": base}
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        apart(write_photographs, root / "crops", args.photographs)
        apart(write_classes, args.data, root / "classes", args.images)
        for name, folder in {
            f"dedt select of {args.photographs:,} photographs of 120 to {LARGEST} pixels": root / "crops",
            f"dedt select of {args.images:,} images of {args.name}": root / "classes" / "train",
        }.items():
            out = ("--store", f"{folder}-store", "--out", f"{folder}-coreset")
            rows[name] = measured("-m", "dedt_lib", "select", folder, "--ratio", 0.1, *out)
            print(name, rows[name], flush=True)
        path = root / "features.npy"
        apart(write_features, path, args.features)
        read = f"import numpy as np; X = np.load({str(path)!r}, mmap_mode='r'); y = np.arange(len(X)) % {CLASSES}; "
        for name, step in STEPS.items():
            rows[f"{name}, {args.features} x {WIDTH} features"] = measured("-c", read + step)
            print(name, list(rows.values())[-1], flush=True)
    for row in rows.values():
        row["gib_beyond_torch"] = row["gib"] - base["gib"]
    from dedt_lib.store import provenance

    met = all(row["gib_beyond_torch"] <= LIMIT for row in rows.values())
    made = {"machine": apart(provenance), "limit_gib_beyond_torch": LIMIT, "met": met, "results": rows}
    args.out.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {args.out}; the limit is {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
