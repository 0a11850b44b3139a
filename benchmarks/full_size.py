"""Train the published network on real CIFAR-10 for 40 steps: falling loss, kill and resume, two processes.

``python benchmarks/full_size.py --path FOLDER`` runs ``dedt train`` with the U-Net of 35.7 M parameters three
times (straight through; killed and started again; by ``accelerate launch`` with two processes), then ``dedt
sample``, and writes ``benchmarks/full_size.json``.  This takes about half an hour on two cores.  FOLDER holds
CIFAR-10, as the archive or as Parquet (default: fetch the archive).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dedt_lib.files import read_json, write_json
from dedt_lib.store import provenance
from dedt_lib.training.checkpoint import CHECKPOINT
from dedt_lib.weights import read_tensors

RESULT = Path(__file__).with_name("full_size.json")
SIZES = {
    "data.per_class": 16,
    "unet.epochs": 2,
    "unet.batch_size": 8,
    "train.warmup_steps": 10,
    "train.checkpoint_every": 10,
    "train.precision": '"float32"',
    "train.channels_last": "false",
    "sample.count": 10,
    "sample.batch_size": 5,
    "unet.steps": 10,
}
"""Changes to the profile: 160 images, 40 steps with batches of 8, and float32 as on any CPU."""


def command(verb, path, store, launcher=()):
    """The command ``dedt VERB`` on all 160 images, with the network of profile ``paper``."""
    sizes = [f"--set={name}={value}" for name, value in SIZES.items()]
    where = [f"--set=data.path={path}"] if path else []
    what = ["--profile", "paper", "--method", "random", "--ratio", "1.0", "--store", str(store)]
    return [sys.executable, *launcher, "-m", "dedt_lib", verb, *what, *sizes, *where]


def run(*given, threads, **more):
    """Run a command to its end and return its wall-clock seconds."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    subprocess.run(command(*given, **more), env=environment, check=True)
    return time.perf_counter() - start


def run_and_kill(path, store, threads):
    """Start training, kill it after the second checkpoint, and return the number of steps saved."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    process = subprocess.Popen(command("train", path, store), env=environment, start_new_session=True)
    seen = set()
    while len(seen) < 2:
        if process.poll() is not None:
            raise SystemExit("The run ended before it could be killed.")
        time.sleep(0.5)
        seen |= {file.stat().st_mtime_ns for file in Path(store).glob(f"training/*.work/{CHECKPOINT}")}
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return SIZES["train.checkpoint_every"] * len(seen)


def trained(store):
    """(tensors, losses, manifest) of the one training run in a store."""
    (folder,) = [path.parent for path in Path(store).glob("training/*/manifest.json")]
    return (
        read_tensors(folder / "model.safetensors"),
        np.load(folder / "losses.npy"),
        read_json(folder / "manifest.json"),
    )


def largest_difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", default="", help="folder with CIFAR-10 (default: fetch the archive)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        stores = {name: Path(root) / name for name in ("whole", "killed", "two")}
        seconds = run("train", args.path, stores["whole"], threads=args.threads)
        saved = run_and_kill(args.path, stores["killed"], args.threads)
        run("train", args.path, stores["killed"], threads=args.threads)
        # With --cpu accelerate starts one process; with --multi_gpu it starts all, even without a GPU.
        launcher = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
        launcher += " --mixed_precision no --dynamo_backend no --main_process_port 0 --module"
        launcher = launcher.split()
        two = command("train", args.path, stores["two"])
        two = [sys.executable, *launcher, *two[two.index("-m") + 1 :]]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "TQDM_DISABLE": "1"}
        environment["ACCELERATE_USE_CPU"] = "true"
        subprocess.run(two, env=environment, check=True)
        weights, losses, manifest = trained(stores["whole"])
        resumed, parted = trained(stores["killed"]), trained(stores["two"])
        sampling = run("sample", args.path, stores["whole"], threads=args.threads)
        (samples,) = stores["whole"].glob("samples/*/samples.npy")
        shutil.copy(samples, RESULT.with_suffix(".npy"))
        result = {
            "parameters": sum(value.numel() for value in weights.values()),
            "settings": SIZES,
            "losses": [round(float(loss), 5) for loss in losses],
            "seconds": round(seconds, 1),
            "seconds_per_step": round(manifest["training_seconds"] / manifest["steps"], 3),
            "killed_after_checkpoint_at": saved,
            "resumed_equals_uninterrupted": largest_difference(weights, resumed[0]) == 0
            and bool((losses == resumed[1]).all()),
            "two_processes": {
                "processes": parted[2]["processes"],
                "largest_difference_of_a_loss": float(np.abs(losses - parted[1]).max()),
            },
            "sampling_seconds": round(sampling, 1),
            **provenance(),
        }
    write_json(RESULT, result)
    print(json.dumps({name: value for name, value in result.items() if name != "losses"}, indent=1))


if __name__ == "__main__":
    main()
