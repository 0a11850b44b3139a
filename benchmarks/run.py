"""Time the library against what a competent person would write without it (see README.md)."""

# ruff: noqa: E402
import os

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported

import argparse
import functools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy
import torch
from diffusers.training_utils import EMAModel
from scipy.linalg import sqrtm
from torch import nn

from dedt_lib import sampling
from dedt_lib.evaluation import frechet_distance
from dedt_lib.experiment import Experiment
from dedt_lib.models.unet import NOISE_SCHEDULE
from dedt_lib.reweighting import GroupDRO
from dedt_lib.store import Store, provenance
from dedt_lib.training import EpochPlan, train

RESULTS = Path(__file__).with_name("results.json")
EPOCHS = 9  # 540 steps at batch 25, so that a run writes one checkpoint as long runs do


def seconds(work):
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(first, second, repeats):
    """Seconds of A and of B, each [repeats], taken in turns after one warm-up: A B, B A, A B, .."""
    first(), second()
    times = np.empty((repeats, 2))
    for k in range(repeats):
        for which in (0, 1) if k % 2 == 0 else (1, 0):
            times[k, which] = seconds((first, second)[which])
    return times[:, 0], times[:, 1]


def result(name, values, unit, *, at_least=None, at_most=None, **facts):
    """One row of the table: the median of ``values``, its range, and whether it meets its target."""
    median = statistics.median(values)
    met = None
    if at_least is not None or at_most is not None:
        met = bool(median >= at_least if at_most is None else median <= at_most)
    target = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}" if at_most is not None else ""
    row = {"name": name, "value": median, "lowest": min(values), "highest": max(values), "unit": unit}
    return {**row, "target": target, "met": met, "repeats": len(values), **facts}


# ---- training ------------------------------------------------------------------------------------


class Setting:
    """The digits profile's network and data, and runs over them."""

    def __init__(self, epochs):
        self.epochs, self.folder = epochs, tempfile.TemporaryDirectory()
        self.experiment = Experiment("digits", store=Store(self.folder.name), method="random", ratio=1.0)
        self.data, self.settings = self.experiment.data, self.experiment.settings
        self.images = epochs * len(self.data)

    def train(self, weights=None, weighting=None):
        """A run of the library's loop, from the fresh network to its weights on disk."""
        plan = EpochPlan(np.arange(len(self.data)), total=len(self.data), epochs=self.epochs, weights=weights)
        with tempfile.TemporaryDirectory() as folder:
            model = self.experiment.build_model()
            train(model, self.data, plan, self.settings, seed=0, folder=folder, weighting=weighting)

    def bare(self):
        bare_loop(self.experiment.build_model(), self.data, self.settings, self.epochs)

    def dro(self):
        self.train(weighting=GroupDRO(self.experiment.build_model(seed=1), self.data.class_counts))


def bare_loop(model, data, settings, epochs):
    """The same training written out: no plan, no checkpoints, draws from torch's default generator."""
    torch.manual_seed(0)
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    ema = EMAModel(
        parameters,
        decay=settings.ema_decay,
        use_ema_warmup=True,
        inv_gamma=1.0,
        power=2 / 3,
        foreach=True,
    )
    steps = NOISE_SCHEDULE["num_train_timesteps"]
    betas = torch.linspace(NOISE_SCHEDULE["beta_start"], NOISE_SCHEDULE["beta_end"], steps)
    signal = torch.cumprod(1 - betas, dim=0)
    signal_scale, noise_scale = (
        signal.sqrt()[:, None, None, None],
        (1 - signal).sqrt()[:, None, None, None],
    )
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    warmup_steps = settings.warmup_epochs * -(-len(data) // settings.batch_size)
    losses = []
    for _ in range(epochs):
        for batch in torch.randperm(len(data)).split(settings.batch_size):
            clean = images[batch].float() / 127.5 - 1
            t, noise = torch.randint(0, steps, (len(batch),)), torch.randn_like(clean)
            hidden = torch.rand(len(batch)) < settings.label_dropout
            classes = torch.where(hidden, model.null_label, labels[batch])
            estimate = model.predict(signal_scale[t] * clean + noise_scale[t] * noise, t, classes)
            loss = nn.functional.mse_loss(estimate, noise)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * min(1.0, (len(losses) + 1) / warmup_steps)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
            optimizer.step()
            ema.step(parameters)
            losses.append(loss.item())
    return losses


def training(quick):
    setting = Setting(1 if quick else EPOCHS)
    ours, bare = paired(setting.train, setting.bare, 1 if quick else 7)
    return [
        result("training, ours over bare", list(bare / ours), "ratio", at_least=0.97),
        result("training, ours", list(setting.images / ours), "images/s"),
        result("training, bare loop", list(setting.images / bare), "images/s"),
    ]


def weighted(quick):
    setting = Setting(1 if quick else EPOCHS)
    weights = np.linspace(0.5, 1.5, len(setting.data))
    with_weights, without = paired(lambda: setting.train(weights), setting.train, 1 if quick else 7)
    return [result("weighted over unweighted run", list(with_weights / without), "ratio", at_most=1.01)]


def dro(quick):
    setting = Setting(1 if quick else EPOCHS)
    with_dro, plain = paired(setting.dro, setting.train, 1 if quick else 5)
    return [result("DRO step over plain step", list(with_dro / plain), "ratio", at_most=1.4)]


# ---- the rest ------------------------------------------------------------------------------------


def sampling_speed(quick):
    experiment = Setting(1).experiment
    profile, model = experiment.profile, experiment.build_model()
    labels = sampling.balanced_labels(50 if quick else 1500, 10)
    settings = {"steps": profile.sampler_steps, "guidance": profile.guidance}

    def draw():
        sampling.sample(model, labels, seed=0, batch_size=profile.sample_batch_size, **settings)

    draw()
    rates = [len(labels) / seconds(draw) for _ in range(1 if quick else 3)]
    return [result("sampling", rates, "images/s", **settings)]


def frechet_by_sqrtm(real, generated):
    """The published formula as it is usually coded, with the matrix square root of the product."""
    mean_r, mean_g = real.mean(axis=0), generated.mean(axis=0)
    covariance_r, covariance_g = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    overlap = np.trace(sqrtm(covariance_r @ covariance_g)).real
    difference = mean_r - mean_g
    return difference @ difference + np.trace(covariance_r) + np.trace(covariance_g) - 2 * overlap


def frechet(quick):
    rows = []
    for width, repeats in ((64, 21), (512, 5)) if quick else ((64, 51), (512, 11), (2048, 3)):
        random = np.random.default_rng(0)
        real, generated = random.normal(size=(2, 2 * width, width)) @ np.diag(np.linspace(0.1, 1, width))
        generated += 0.1
        library = functools.partial(frechet_distance, real, generated)
        formula = functools.partial(frechet_by_sqrtm, real, generated)
        assert abs(library() - formula()) < 1e-6 * formula()
        ours, theirs = paired(library, formula, repeats)
        facts = {"seconds": statistics.median(ours), "seconds_sqrtm": statistics.median(theirs)}
        target = {"at_least": 4} if width == 2048 else {}
        rows.append(
            result(f"Frechet distance, {width} features", list(theirs / ours), "x", **target, **facts)
        )
    return rows


def start(quick):
    def process(*arguments):
        return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    commands = (
        ("import dedt_lib", 0.5, ("-c", "import dedt_lib")),
        ("dedt --help", 1.0, ("-m", "dedt_lib", "--help")),
    )
    rows = []
    for name, limit, arguments in commands:
        run = process(*arguments)
        run()
        times = [seconds(run) for _ in range(3 if quick else 11)]
        rows.append(result(name, times, "s", at_most=limit))
    return rows


BENCHMARKS = {
    "training": training,
    "weighted": weighted,
    "dro": dro,
    "sampling": sampling_speed,
    "frechet": frechet,
    "start": start,
}


def machine():
    """What the numbers were taken on."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            (line.partition(":")[2].strip() for line in lines if "model name" in line), processor
        )
    facts = provenance()
    facts["versions"]["scipy"] = scipy.__version__
    # These run on the CPU, also where there is a GPU.
    return {**facts, "device": "cpu", "processor": processor}


def print_row(row):
    spread = f"{row['lowest']:.4g} .. {row['highest']:.4g}"
    verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
    print(
        f"{row['name']:34}{row['value']:>10.4g} {row['unit']:9}{spread:>22}  {row['target']:8}{verdict}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, help="run one of them")
    parser.add_argument("--quick", action="store_true", help="few repetitions: shows only that it works")
    parser.add_argument(
        "--out", type=Path, help="where to write (default: results.json here, if all are run)"
    )
    args = parser.parse_args()
    print(f"{'':34}{'median':>10} {'':9}{'range':>22}  target")
    rows = []
    for name in [args.only] if args.only else BENCHMARKS:
        for row in BENCHMARKS[name](args.quick):
            print_row(row)
            rows.append(row)
    out = args.out or (None if args.only or args.quick else RESULTS)
    if out:
        out.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
