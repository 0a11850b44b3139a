"""Score a memory-mapped feature file in every scope; print the peak memory and the seconds as JSON."""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from dedt_lib.selection import gaussian_scores, moderate_distances


def peak_gib():
    """Peak resident memory of this process in GiB, mapped pages of files included."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def main():
    features = np.load(sys.argv[1], mmap_mode="r")
    classes = np.arange(len(features)) % (len(features) // 300)
    few = np.arange(len(features)) % 10
    facts = {}
    for name, score in (
        ("seconds_classes", lambda: gaussian_scores(features, classes)),
        ("seconds_global", lambda: gaussian_scores(features, classes, scope="global")),
        ("seconds_moderate", lambda: moderate_distances(features, classes)),
        ("seconds_moderate_few_classes", lambda: moderate_distances(features, few)),
    ):
        start = time.perf_counter()
        score()
        facts[name] = time.perf_counter() - start
    print(json.dumps({"gib": peak_gib(), **facts}))


if __name__ == "__main__":
    main()
