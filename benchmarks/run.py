"""Time the library against straightforward code for the same tasks (see README.md)."""

# ruff: noqa: E402
import os

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported

import argparse
import dataclasses
import functools
import json
import multiprocessing
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
from peak_memory import peak_gib
from scipy.linalg import sqrtm
from sklearn.mixture import GaussianMixture
from torch import nn

from dedt_lib import evaluation, sampling
from dedt_lib.config.profile import load_profile
from dedt_lib.evaluation import classwise_frechet, classwise_references, frechet_distance
from dedt_lib.experiment import Experiment
from dedt_lib.models import autoencoder
from dedt_lib.models.mdt import MDTv2
from dedt_lib.models.schedule import NOISE_SCHEDULE
from dedt_lib.plans import EpochPlan
from dedt_lib.reweighting import GroupDRO
from dedt_lib.selection import gaussian_scores
from dedt_lib.stages import latents
from dedt_lib.store import Store, provenance
from dedt_lib.training import train

RESULTS = Path(__file__).with_name("results.json")
EPOCHS = 9  # 540 steps at batch 25, so that a run writes one checkpoint as long runs do


def seconds(work):
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(first, second, repeats):
    """Seconds of two functions, [repeats] each, measured in turns after one warm-up: A B, B A, A B, .."""
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
    target = (
        f">= {at_least:.3g}" if at_least is not None else f"<= {at_most:.3g}" if at_most is not None else ""
    )
    row = {"name": name, "value": median, "lowest": min(values), "highest": max(values), "unit": unit}
    return {**row, "target": target, "met": met, "repeats": len(values), **facts}


# ---- training ------------------------------------------------------------------------------------


class Setting:
    """Network and data of the digits profile, and training runs on them.

    The autoencoder or pipeline below a latent model is trained for one epoch, since its quality does not
    affect the time.
    """

    def __init__(self, epochs, model="unet"):
        self.epochs, self.folder = epochs, tempfile.TemporaryDirectory()
        profile = load_profile(
            "digits", **{"autoencoder.epochs": 1, "stable_diffusion.pretraining_epochs": 1}
        )
        choice = {"model": model, "method": "random", "ratio": 1.0}
        self.experiment = Experiment(profile, store=Store(self.folder.name), **choice)
        self.data, self.settings = self.experiment.data, self.experiment.settings
        self.source = latents.source(self.experiment.lab, self.experiment.spec).result()
        self.images = epochs * len(self.data)

    def train(self, weights=None, weighting=None):
        """Train with the library's loop, from the fresh network to the weights on disk."""
        plan = EpochPlan(np.arange(len(self.data)), total=len(self.data), epochs=self.epochs, weights=weights)
        with tempfile.TemporaryDirectory() as folder:
            model = self.experiment.build_model()
            return train(model, self.source, plan, self.settings, seed=0, folder=folder, weighting=weighting)

    def bare(self):
        bare_loop(self.experiment.build_model(), self.data, self.settings, self.epochs)

    def dro(self):
        self.train(weighting=GroupDRO(self.experiment.build_model(seed=1), self.data.class_counts))


def bare_loop(model, data, settings, epochs):
    """The same training as a plain loop: no plan, no checkpoints, torch's default random generator."""
    torch.manual_seed(0)
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    ema = EMAModel(
        parameters, decay=settings.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=2 / 3, foreach=True
    )
    steps = NOISE_SCHEDULE["num_train_timesteps"]
    betas = torch.linspace(NOISE_SCHEDULE["beta_start"], NOISE_SCHEDULE["beta_end"], steps)
    signal = torch.cumprod(1 - betas, dim=0)
    signal_scale, noise_scale = (signal.sqrt()[:, None, None, None], (1 - signal).sqrt()[:, None, None, None])
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    warmup = settings.warmup_steps + settings.warmup_epochs * -(-len(data) // settings.batch_size)
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
                group["lr"] = settings.learning_rate * min(1.0, (len(losses) + 1) / max(warmup, 1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
            optimizer.step()
            ema.step(parameters)
            losses.append(loss.item())
    return losses


def training(quick):
    setting = Setting(1 if quick else EPOCHS)
    ours, bare = paired(setting.train, setting.bare, 1 if quick else 5)
    return [
        result("training, ours over bare", list(bare / ours), "ratio", at_least=0.97),
        result("training, ours", list(setting.images / ours), "images/s"),
        result("training, bare loop", list(setting.images / bare), "images/s"),
    ]


def weighted(quick):
    setting = Setting(1 if quick else EPOCHS)
    weights = np.linspace(0.5, 1.5, len(setting.data))
    with_weights, without = paired(lambda: setting.train(weights), setting.train, 1 if quick else 5)
    return [result("weighted over unweighted run", list(with_weights / without), "ratio", at_most=1.01)]


def dro(quick):
    setting = Setting(1 if quick else EPOCHS)
    with_dro, plain = paired(setting.dro, setting.train, 1 if quick else 3)
    return [result("DRO step over plain step", list(with_dro / plain), "ratio", at_most=1.4)]


class NoiseLatents:
    """A source for training that draws noise instead of n images' latents; the time is nearly the same."""

    def __init__(self, n):
        self.labels = np.arange(n) % 1000

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return self

    def draw(self, indices, flip, generator):
        return torch.randn(len(indices), 4, 32, 32, generator=generator)


def train_full_size(settings, steps):
    """Train a fresh MDT-S/2 of the published size for ``steps`` steps of two images each."""
    n = 2 * steps
    plan, settings = EpochPlan(np.arange(n), total=n, epochs=1), dataclasses.replace(settings, batch_size=2)
    with tempfile.TemporaryDirectory() as folder:
        return train(MDTv2(), NoiseLatents(n), plan, settings, seed=0, folder=folder)


def step_seconds(run, repeats):
    """Seconds per step of a training run, [repeats], as recorded by the library, after a warm-up."""
    run()
    return [clocked.seconds / clocked.steps for clocked in (run() for _ in range(repeats))]


def mdt(quick):
    repeats, setting = 1 if quick else 3, Setting(1 if quick else EPOCHS, "mdt")
    full_size = functools.partial(train_full_size, setting.settings, 1 if quick else 10)
    return [
        result("MDT of the digits, step", step_seconds(setting.train, repeats), "s"),
        result("MDT-S/2, step of two images", step_seconds(full_size, repeats), "s"),
    ]


def stable_diffusion(quick):
    setting = Setting(1 if quick else EPOCHS, "stable-diffusion")
    return [result("Stable Diffusion, step", step_seconds(setting.train, 1 if quick else 3), "s")]


# ---- the rest ------------------------------------------------------------------------------------


def encode(quick):
    """Images per second that a fresh autoencoder of the profile encodes, from small images to files."""
    experiment = Setting(1).experiment
    profile, images = experiment.profile, experiment.data.images[: 200 if quick else None]
    network = autoencoder.small_autoencoder(profile.data.channels, profile.autoencoder.channels)

    def write():
        with tempfile.TemporaryDirectory() as folder:
            autoencoder.encode(
                network, images, folder, image_size=profile.autoencoder.image_size, flip=profile.train.flip
            )

    write()
    rates = [len(images) / seconds(write) for _ in range(1 if quick else 5)]
    return [result("encode", rates, "images/s", image_size=profile.autoencoder.image_size)]


def sampling_speed(quick):
    rows = []
    for name, model, count in (
        ("sampling", "unet", 1500),
        ("sampling of MDT", "mdt", 250),
        ("sampling of Stable Diffusion", "stable-diffusion", 250),
    ):
        experiment = Setting(1, model).experiment
        spec, network = experiment.spec, experiment.build_model()
        how = {"sampler": spec.sampler, "decode": experiment.samples.decode, **spec.sampling()}
        labels = sampling.balanced_labels(50 if quick else count, 10)
        batch_size = experiment.profile.sample.batch_size
        draw = functools.partial(sampling.sample, network, labels, seed=0, batch_size=batch_size, **how)
        draw()
        rates = [len(labels) / seconds(draw) for _ in range(1 if quick else 2)]
        rows.append(result(name, rates, "images/s", **spec.sampling()))
    return rows


def frechet_by_sqrtm(real, generated):
    """The published formula as usually implemented, with the matrix square root of the product."""
    mean_r, mean_g = real.mean(axis=0), generated.mean(axis=0)
    covariance_r, covariance_g = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    overlap = np.trace(sqrtm(covariance_r @ covariance_g)).real
    difference = mean_r - mean_g
    return difference @ difference + np.trace(covariance_r) + np.trace(covariance_g) - 2 * overlap


def frechet(quick):
    """One Frechet distance; the baseline is the formula with SciPy's matrix square root."""
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


def frechet_by_eigenvalues(real, generated):
    """The formula in its symmetric form, computed from two feature matrices without cached statistics."""
    mean_r, mean_g = real.mean(axis=0, dtype=np.float64), generated.mean(axis=0, dtype=np.float64)
    covariance_r, covariance_g = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    values, vectors = np.linalg.eigh(covariance_r)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance_g @ root), 0)).sum()
    difference = mean_r - mean_g
    return difference @ difference + np.trace(covariance_r) + np.trace(covariance_g) - 2 * overlap


def features_like(n, width, classes, seed):
    """Correlated float32 features [n, width], and balanced labels [n] of ``classes`` classes."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((n, width), dtype=np.float32)
    features *= np.linspace(0.1, 1, width, dtype=np.float32)
    features += features.mean(axis=1, keepdims=True)
    return features, np.arange(n) % classes


def classwise(quick):
    """Class-wise FID of samples in ten classes, with the statistics of the real images cached.

    The baseline computes every class from scratch in the symmetric form, which is already fast: statistics of
    both sides, an eigendecomposition, three products and the eigenvalues of the last.
    """
    width, per_class = (256, 600) if quick else (2048, 5000)
    real, labels = features_like(10 * per_class, width, 10, seed=0)
    generated, _ = features_like(10 * per_class, width, 10, seed=1)
    references = classwise_references(real, labels)

    times = np.empty((10, 2))
    for k in range(10):
        one, zeros = generated[labels == k], np.zeros(per_class, dtype=np.int64)
        side = real[labels == k]
        start, kept = time.perf_counter(), classwise_frechet(references[k : k + 1], None, one, zeros)[0]
        middle, independent = time.perf_counter(), frechet_by_eigenvalues(side, one)
        times[k] = middle - start, time.perf_counter() - middle
        assert abs(kept - independent) < 1e-6 * independent
    facts = {"seconds": times[:, 0].sum(), "seconds_independent": times[:, 1].sum()}
    return [
        result(
            "class-wise FID, kept reference", list(times[:, 0] / times[:, 1]), "ratio", at_most=0.6, **facts
        )
    ]


def cmmd_by_full_matrices(real, generated):
    """The published formula in PyTorch: float32, full matrices, norms from two further products."""

    def mean_kernel(x, x_norms, y, y_norms):
        return torch.exp(-gamma * (-2 * torch.matmul(x, y.T) + x_norms[:, None] + y_norms)).mean()

    real, generated, gamma = torch.from_numpy(real), torch.from_numpy(generated), 1 / (2 * 10**2)
    norms_r, norms_g = (torch.diag(torch.matmul(x, x.T)) for x in (real, generated))
    within = mean_kernel(real, norms_r, real, norms_r) + mean_kernel(generated, norms_g, generated, norms_g)
    return 1000 * float(within - 2 * mean_kernel(real, norms_r, generated, norms_g))


def extra_memory(function, path):
    """GiB that a fresh process needs for ``function`` beyond its two arrays, loaded from ``path``."""
    real, generated = np.load(path)
    function(real[:100], generated[:100])
    before = peak_gib()
    function(real, generated)
    return peak_gib() - before


def cmmd(quick):
    """CMMD of 768-dimensional embeddings; the baseline is the published formula."""
    n, width = 2000 if quick else 10_000, 768
    random = np.random.default_rng(0)
    sides = random.standard_normal((2, n, width), dtype=np.float32)
    sides[1] += 0.1 * random.standard_normal(width, dtype=np.float32)
    sides /= np.linalg.norm(sides, axis=2, keepdims=True)
    library = functools.partial(evaluation.cmmd, *sides)
    formula = functools.partial(cmmd_by_full_matrices, *sides)
    # The tolerance is large because the baseline subtracts float32 means near one, times 1000.
    assert abs(library() - formula()) < 1e-2
    ours, theirs = paired(library, formula, 1 if quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npy"
        np.save(path, sides)
        # A new process for each task, because a second task would start at the peak of the first.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
            gib, gib_formula = (
                fresh.apply(extra_memory, (function, path))
                for function in (evaluation.cmmd, cmmd_by_full_matrices)
            )
    times = {"seconds": statistics.median(ours), "seconds_formula": statistics.median(theirs)}
    memory = {"gib": gib, "gib_formula": gib_formula}
    return [
        result("CMMD over formula, time", list(ours / theirs), "ratio", at_most=0.5, **times),
        result("CMMD over formula, extra memory", [gib / gib_formula], "ratio", at_most=0.1, **memory),
    ]


def gaussian(quick):
    """Gaussian scores of ten classes; the baseline is scikit-learn's mixture of one component (cited code).

    Both compute in float64, because float32 loses the ranking of a class with few images.
    """
    n, width = (6000, 256) if quick else (50_000, 2048)
    features, labels = features_like(n, width, 10, seed=0)

    def scikit_learn():
        scores = np.empty(n)
        for k in range(10):
            members = features[labels == k].astype(np.float64)
            scores[labels == k] = GaussianMixture(1, reg_covar=1e-5).fit(members).score_samples(members)
        return scores

    gaussian_scores(features[:1000], labels[:1000])
    start, ours = time.perf_counter(), gaussian_scores(features, labels)
    middle, theirs = time.perf_counter(), scikit_learn()
    times = {"seconds": middle - start, "seconds_scikit_learn": time.perf_counter() - middle}
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    ratio = times["seconds"] / times["seconds_scikit_learn"]
    return [result("Gaussian scores over scikit-learn", [ratio], "ratio", at_most=1 / 3, **times)]


def memory(quick):
    """Peak resident memory of a process that scores a memory-mapped float32 file (``peak_memory.py``)."""
    n, width = (20_000, 256) if quick else (300_000, 2048)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        features = np.lib.format.open_memmap(path, "w+", np.float32, (n, width))
        for i in range(0, n, 10_000):
            features[i : i + 10_000] = features_like(10_000, width, 1, seed=i)[0]
        features.flush()
        script = Path(__file__).with_name("peak_memory.py")
        answer = subprocess.run([sys.executable, script, path], check=True, capture_output=True, text=True)
    facts = json.loads(answer.stdout)
    facts["file_gib"] = n * width * 4 / 2**30
    return [result("scores of a mapped file, peak memory", [facts.pop("gib")], "GiB", at_most=3, **facts)]


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
    "mdt": mdt,
    "stable_diffusion": stable_diffusion,
    "encode": encode,
    "sampling": sampling_speed,
    "frechet": frechet,
    "classwise": classwise,
    "cmmd": cmmd,
    "gaussian": gaussian,
    "memory": memory,
    "start": start,
}


def machine():
    """The machine and the versions that the numbers were measured with."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            (line.partition(":")[2].strip() for line in lines if "model name" in line), processor
        )
    facts = provenance()
    facts["versions"]["scipy"] = scipy.__version__
    # The benchmarks run on the CPU even if there is a GPU.
    return {**facts, "device": "cpu", "processor": processor}


def print_row(row):
    spread = f"{row['lowest']:.4g} .. {row['highest']:.4g}"
    verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
    print(
        f"{row['name']:38}{row['value']:>10.4g} {row['unit']:9}{spread:>22}  {row['target']:8}{verdict}",
        flush=True,
    )


def merged(earlier, rows):
    """The rows of an earlier run, with those named as one of ``rows`` replaced and new ones appended."""
    new = {row["name"]: row for row in rows}
    return [new.pop(row["name"], row) for row in earlier] + list(new.values())


def write(out, rows, merge):
    """Write rows and machine; ``merge`` keeps the other rows of the file, which must be of this machine."""
    facts = machine()
    if merge:
        earlier = json.loads(out.read_text())
        if {**earlier["machine"], "date": ""} != {**facts, "date": ""}:
            sys.exit(f"{out} is from another machine or other versions. Run all benchmarks, or change --out.")
        rows = merged(earlier["results"], rows)
    out.write_text(json.dumps({"machine": facts, "results": rows}, indent=1) + "\n")
    print(f"wrote {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        metavar="NAME",
        help="run only these and keep the other results",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small and few runs, only to check that they work"
    )
    parser.add_argument(
        "--out", type=Path, help="output file (default: benchmarks/results.json, or none with --quick)"
    )
    args = parser.parse_args()
    print(f"{'':38}{'median':>10} {'':9}{'range':>22}  target")
    rows = []
    for name in args.only or BENCHMARKS:
        for row in BENCHMARKS[name](args.quick):
            print_row(row)
            rows.append(row)
    out = args.out or (None if args.quick else RESULTS)
    if out:
        write(out, rows, merge=bool(args.only) and out.exists())


if __name__ == "__main__":
    main()
