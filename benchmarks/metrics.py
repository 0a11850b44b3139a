"""Time the metrics of one cell at the size of ImageNet; writes metrics.json beside itself.

    .venv/bin/python benchmarks/metrics.py        # about ten minutes of one core, 6 GiB of memory

Features are random, since their values do not affect the time.  Each metric is measured at full size except
near-copies, whose cost is proportional to the numbers of training images and of samples: it is extrapolated
from a few samples against 200,000 rows.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from peak_memory import peak_gib

from dedt_lib import evaluation
from dedt_lib.files import write_json

IMAGENET, ROWS, SAMPLES = 1_281_167, 200_000, 50_000
WIDTH, EMBEDDING = 2048, 768
FEW = 500


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    real = random.random((ROWS, WIDTH), dtype=np.float32)
    generated = random.random((SAMPLES, WIDTH), dtype=np.float32)
    unit = [_unit(random.standard_normal((SAMPLES, EMBEDDING), dtype=np.float32)) for _ in range(2)]
    some, drawn = real[:: ROWS // 10_000][:10_000], generated[:10_000]
    once = {
        "kid_within": lambda: evaluation.kid_within(real, SAMPLES),
        "cmmd_within": lambda: evaluation.within_real(unit[0]),
        "neighbour_radii": lambda: evaluation.neighbour_radii(some),
    }
    seconds = {}
    known = {name: _timed(work, seconds, name) for name, work in once.items()}
    radii = known["neighbour_radii"]
    cell = {
        "kid": lambda: evaluation.kid(real, generated, within=known["kid_within"]),
        "cmmd": lambda: evaluation.both_cmmds(*unit, within=known["cmmd_within"]),
        "precision_recall": lambda: evaluation.precision_recall(some, drawn, radii=radii),
        "near_copies_features": lambda: evaluation.nearest_features([drawn[:FEW]], real),
    }
    for name, work in cell.items():
        _timed(work, seconds, name)
    # Extrapolate to 10,000 samples and their mirror images against all the training images.
    seconds["near_copies_features"] *= 2 * 10_000 / FEW * IMAGENET / ROWS
    result = {
        "rows": ROWS,
        "samples": SAMPLES,
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "cell_without_near_copies_minutes_on_two_cores": round(
            sum(seconds[name] for name in ("kid", "cmmd", "precision_recall")) / 2 / 60, 2
        ),
        "peak_gib": round(peak_gib(), 2),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(result, indent=1))
    write_json(Path(__file__).with_suffix(".json"), result)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _timed(work, seconds, name):
    start = time.process_time()
    found = work()
    seconds[name] = time.process_time() - start
    return found


if __name__ == "__main__":
    main()
