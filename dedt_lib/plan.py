"""What recipes will cost, before they run: runs, steps, network evaluations, disk space, hours.

The costs come from the stages of an imagined lab.  A stage that several recipes share counts once, as in
the store.  ``probe`` measures the time of the stages on this device, on random images.
"""

import tempfile
import time
from collections.abc import Mapping

import numpy as np
import torch
from tqdm import tqdm

from . import data
from .config import Profile, load_profile
from .config.profile import flat
from .data import Reading
from .errors import DedtError
from .evaluation import THUMBNAIL, neighbour_radii
from .experiment import Experiment
from .stages import Cost, Lab, Stage, closure, evaluate
from .stages.embed import number_of_clusters
from .stages.sample import Sample
from .stages.select import Select
from .stages.train import Snapshot, Train, TrainInfoBatch
from .store import Store

Runs = Mapping[tuple[str, float, int], Experiment]  # (row, ratio, seed) -> its run
Speed = dict[tuple[str, str], float]  # (kind of work, network) -> seconds per unit

KNOWN = {
    "digits": [150] * 10,
    "cifar10": [5000] * 10,
    "imagenet": [1300] * 895 + [1121] * 67 + [1120] * 38,
    "imagenette": [963, 955, 993, 858, 941, 956, 961, 931, 951, 960],
}
"""Training images per class of data sets that can be counted without being present.  The smaller classes of
ImageNet (from 732 images on) are replaced by their mean."""

KINDS = (
    "images autoencoder latents pipeline encoder features reference proxy training sampling decoding "
    "measuring comparison"
).split()
"""Kinds of work in the order of the stages; "reference" is the plain run on all the data."""

UNITS = {
    **dict.fromkeys(("latents", "features", "decoding", "measuring"), "images"),
    "sampling": "evaluations",
    "comparison": "pairs",
}
"""Kind of work -> the count that its time is proportional to, if that is not its steps."""


def stages(runs: Runs, until: str = "evaluate") -> dict[str, Stage]:
    """Every stage that a verb of the runs needs, once each: address -> stage."""
    return closure(stage for run in runs.values() for stage in run.stages(until))


def costs(stage: Stage, least: bool = False) -> list[Cost]:
    """Costs of a stage, computed once per lab; with ``least``, InfoBatch prunes as much as it can."""
    how = {"least": least} if isinstance(stage, TrainInfoBatch) else {}
    return stage.lab.remember(("cost", stage.address, *how.values()), lambda: list(stage.cost(**how)))


def plan(runs: Runs, least: bool = False, until: str = "evaluate") -> list[Cost]:
    """The work that a verb of the runs needs on an imagined lab, in the order of KINDS.

    How much InfoBatch prunes depends on the losses.  Its runs are counted as if it pruned nothing, or with
    ``least`` as much as it can.

    Returns:
        One Cost per kind of work, description and network: the sum over its stages, but for ``scratch`` the
        maximum.
    """
    groups: dict[tuple[str, str, str], list[Cost]] = {}
    for stage in stages(runs, until).values():
        for cost in costs(stage, least):
            groups.setdefault((cost.kind, cost.what, cost.network), []).append(cost)
    works = []
    for group, found in groups.items():
        names = ("runs", "steps", "images", "evaluations", "pairs", "bytes")
        sums = {name: sum(getattr(cost, name) for cost in found) for name in names}
        works.append(Cost(*group, **sums, scratch=max(cost.scratch for cost in found)))
    return sorted(works, key=lambda work: KINDS.index(work.kind))


def speedups(runs: Runs, least: bool = False) -> dict[tuple[str, float], tuple[float, float]]:
    """Ideal speed-ups over the run on all the data, in evaluations of the diffusion network.

    (row, ratio) -> (of the final training alone, of the whole recipe with DDAE, reference and proxy).  Not
    included are other encoders, the stages that the run on all the data needs as well, and the lower
    efficiency of a device at small batches.
    """
    found = {}
    for (row, ratio, _), run in runs.items():
        (full,), model = costs(run.reference_run), run.model
        if isinstance(model, Snapshot):
            found[row, ratio] = (full.steps / model.steps,) * 2
            continue
        (final,) = costs(model, least)
        behind = [cost for stage in closure([model]).values() if stage is not model for cost in costs(stage)]
        counted = ("encoder", "proxy", "reference")
        own = sum(c.evaluations for c in behind if c.kind in counted and c.network == run.spec.label)
        taken = final.evaluations, final.evaluations + own
        found[row, ratio] = full.evaluations / taken[0], full.evaluations / taken[1]
    return found


# ---- the data --------------------------------------------------------------------------------------


def known_data(profile: Profile) -> str | None:
    """Key in KNOWN of a profile's images: the source or, if no path is set, the profile's name; else None."""
    source = profile.data.source
    name = source if source in KNOWN or profile.data.path else profile.name
    return name if name in KNOWN else None


def survey(profile: Profile) -> tuple[list[int], tuple[str, ...], Reading | None]:
    """Number of training images per class, the names of the classes, and what was left out (None if all are used).

    Data sets in KNOWN need not be present; of other data only the labels are read.

    Raises:
        DedtError: The labels cannot be read.
    """
    known, per_class = known_data(profile), profile.data.per_class
    names = tuple[str, ...]()
    if known:
        counts, reading = KNOWN[known], Reading.of(sum(KNOWN[known]), unit="images")
    else:
        p = profile.data
        found = data.find(p.source, p.path, label=p.label, caption=p.caption)
        # Only held-out images may be missing, and only CIFAR-10 is a folder.
        assert isinstance(found, data.Listing)
        names = found.named(p.class_names).class_names
        counts, reading = found.class_counts.tolist(), found.reading
        if not names:  # clusters replace them, here of equal size
            n, k = len(found), number_of_clusters(profile, len(found))
            counts = [n // k + (i < n % k) for i in range(k)]
            names = tuple(f"cluster {i + 1}" for i in range(k))
    if per_class:
        reading, counts = reading.first(per_class, counts), [min(count, per_class) for count in counts]
    return list(counts), names, reading if per_class or not known else None


# ---- hours -----------------------------------------------------------------------------------------

SMALL = {
    **{f"{name}.epochs": 1 for name in ("unet", "mdt", "stable_diffusion", "autoencoder", "evaluate")},
    **{f"encoders.{name}.epochs": 1 for name in ("resnet18", "inceptionv3", "clip", "ddae")},
    **{f"{name}.steps": 2 for name in ("unet", "mdt", "stable_diffusion")},
    "mdt.proxy_epochs": 1,
    "stable_diffusion.pretraining_epochs": 1,
    "train.checkpoint_every": 10**9,
    "reweight.window": 1.0,
    "data.per_class": 0,
}
"""Changes to a profile that keep its networks and shorten its stages to a few steps."""

ALIKE = {"reference": "training", "measuring": "features"}
"""Kind of work -> another kind whose units take the same time."""


def units(cost: Cost) -> int:
    """The count that the time of some work is proportional to: steps, images, evaluations or pairs."""
    return getattr(cost, UNITS.get(cost.kind, "steps"))


def seconds(work: Cost, speed: Speed) -> float:
    """Seconds that some work takes at a ``speed`` from :func:`probe`."""
    return units(work) * speed[work.kind, work.network] if work.network else 0.0


def probe(runs: Runs, until: str = "evaluate", *, limit: float = 5.0) -> Speed:
    """Measure this device: (kind, network) -> seconds per step, image, evaluation or pair.

    Each stage does its own work on a batch of random images, then on four times as many, and so on for about
    ``limit`` seconds.  The difference between two rounds excludes one-off costs of the stage.

    Raises:
        DedtError: A batch does not fit into the device's memory.
    """
    lab = next(iter(runs.values())).lab
    if lab.profile.threads:
        torch.set_num_threads(lab.profile.threads)
    timed = [(cost, stage) for stage in stages(runs, until).values() for cost in costs(stage) if cost.network]
    speed = {("comparison", "distances"): _pair_seconds(lab)}
    for cost, stage in tqdm(timed, desc="probe", unit="part", leave=False):
        kind = ALIKE.get(cost.kind, cost.kind)
        if (kind, cost.network) not in speed:
            speed = _time(stage, limit) | speed
        speed[cost.kind, cost.network] = speed[kind, cost.network]
    return speed


def _time(stage: Stage, limit: float) -> Speed:
    """Seconds per unit of each kind of work in a stage."""
    found: Speed = {}
    before: dict[str, tuple[float, int]] = {}
    for batches in (1, 4, 16, 64):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            small = _small(stage, batches, Store(folder))
            try:
                manifest = small.manifest()
            except torch.OutOfMemoryError as error:
                raise DedtError(
                    f"The probe of '{small.name}' ran out of memory on the device. Lower batch_size in its "
                    "section of the profile, for example with --set unet.batch_size=8 for the U-Net."
                ) from error
        parts, whole = manifest.get("part_seconds", {}), manifest.get("training_seconds", manifest["seconds"])
        for cost in small.cost():
            took, count = parts.get(cost.kind, whole - sum(parts.values())), units(cost)
            took_before, count_before = before.get(cost.kind, (0.0, 0))
            slope = (took - took_before) / (count - count_before)
            found[ALIKE.get(cost.kind, cost.kind), cost.network] = slope if slope > 0 else took / count
            before[cost.kind] = took, count
        if time.perf_counter() - start > limit / 4:
            break
    return found


def _small(stage: Stage, batches: int, store: Store) -> Stage:
    """The same stage on random images, as many as fill ``batches`` of its batches."""
    most = max(stage.outline().sizes()) if isinstance(stage, Train) else stage.lab.n
    most = stage.lab.profile.sample.count if isinstance(stage, Sample) else most
    sizes = flat(stage.lab.profile.model_dump())
    full = {key: min(size, most) for key, size in sizes.items() if key.endswith("batch_size")}
    settings = getattr(stage, "settings", {"batch_size": 8})
    batch_size = settings["batch_size"] if isinstance(settings, dict) else settings.batch_size
    images = batches * min(batch_size, most)
    counts = np.bincount(np.arange(images) % 8).tolist()
    profile = load_profile(stage.lab.profile, **SMALL, **full, **{"sample.count": images})
    lab = Lab(profile, counts=counts, store=store)
    if isinstance(stage, Train):
        return stage.on(lab, coreset=Select.everything(lab), weights=None)
    plain = {"model": Train.on_everything(lab, stage.spec.name, seed=0)} if isinstance(stage, Sample) else {}
    return stage.on(lab, **plain)


def _pair_seconds(lab: Lab) -> float:
    """Seconds per distance between two images, at the width of the widest metric."""
    channels, side, _ = lab.shape
    width = max(channels * min(side, THUMBNAIL) ** 2, evaluate.width(lab))
    rows = np.random.default_rng(0).random((1024, width))
    neighbour_radii(rows, device=lab.gpu)
    start = time.perf_counter()
    neighbour_radii(rows, device=lab.gpu)
    return (time.perf_counter() - start) / len(rows) ** 2
