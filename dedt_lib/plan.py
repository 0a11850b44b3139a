"""What the cells of a table take, before anything is spent: runs, steps, network evaluations, disk, hours.

The stages of an imagined lab say what they cost; those that several cells share count once, as they do in the store.
``probe`` times their own work on this device, on random images.
"""

import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from .book.tables import cell_recipe
from .config import Profile, load_profile
from .data import Reading
from .errors import DedtError
from .evaluation import THUMBNAIL, neighbour_radii
from .experiment import Experiment
from .stages import Cost, Lab, Stage, closure, evaluate
from .stages.models import SPECS
from .stages.select import Select
from .stages.train import Snapshot, Train, TrainInfoBatch
from .store import Store

Cell = tuple[str, float, int]

KNOWN = {
    "digits": [150] * 10,
    "cifar10": [5000] * 10,
    "imagenet": [1300] * 895 + [1121] * 67 + [1120] * 38,
    "imagenette": [963, 955, 993, 858, 941, 956, 961, 931, 951, 960],
}
"""Training images in each class of data that need not be there to be counted; those of the smaller classes of
ImageNet (732 and up) are their mean."""

KINDS = (
    "images",
    "autoencoder",
    "latents",
    "pipeline",
    "encoder",
    "features",
    "reference",
    "proxy",
    "training",
    "sampling",
    "decoding",
    "measuring",
    "comparison",
)
"""Kinds of work in the order of the stages; "reference" is the run on all the data, plain."""

UNITS = {
    "latents": "images",
    "features": "images",
    "sampling": "evaluations",
    "decoding": "images",
    "measuring": "images",
    "comparison": "pairs",
}
"""What the time of a kind of work goes with, where it is not its steps."""

NETWORKS = tuple(spec.label for spec in SPECS.values())
"""The diffusion models' networks, as the plan prints them."""


@dataclass(frozen=True)
class Work:
    """Costs of one kind together: their number in ``runs``, and the sums; of scratch the most that one needs."""

    kind: str
    what: str
    network: str
    runs: int
    steps: int
    images: int
    evaluations: int
    pairs: int
    bytes: int
    scratch: int


def stages(profile: Profile, cells: Iterable[Cell], counts: Sequence[int]) -> dict[str, Stage]:
    """Every stage behind cells once, by its address: on an imagined lab with ``counts`` images in each class.

    Raises:
        DedtError: For an unknown row.
    """
    lab = Lab(profile, counts=counts)
    last = [stage for cell in cells for stage in Experiment(lab, **cell_recipe(*cell)).stages()]
    return closure(last)


def stage_costs(stage: Stage, least: bool = False) -> list[Cost]:
    """What a stage takes; of InfoBatch with ``least`` what it takes if it prunes as much as it can."""
    return list(stage.cost(least) if isinstance(stage, TrainInfoBatch) else stage.cost())


def plan(profile: Profile, cells: Iterable[Cell], counts: Sequence[int], least: bool = False) -> list[Work]:
    """The work behind cells, in the order of KINDS.

    InfoBatch prunes what the losses tell it to: its runs are counted as if it pruned nothing, or with ``least`` as
    much as it can.
    """
    groups: dict[tuple[str, str, str], list[Cost]] = {}
    for stage in stages(profile, cells, counts).values():
        for cost in stage_costs(stage, least):
            groups.setdefault((cost.kind, cost.what, cost.network), []).append(cost)
    sums = ("runs", "steps", "images", "evaluations", "pairs", "bytes")
    works = [
        Work(
            *group,
            **{n: sum(getattr(c, n) for c in costs) for n in sums},
            scratch=max(c.scratch for c in costs),
        )
        for group, costs in groups.items()
    ]
    return sorted(works, key=lambda work: KINDS.index(work.kind))


def speedups(
    profile: Profile, cells: Iterable[Cell], counts: Sequence[int], least: bool = False
) -> dict[tuple[str, float], tuple[float, float]]:
    """Ideal speed-ups over the run on all the data, in evaluations of the diffusion network.

    (row, ratio) -> (of the final training alone, of the whole recipe with DDAE, reference and proxy).  Other encoders
    are not in it, nor the stages that the run on all the data needs as well, nor what a device loses to small batches.
    """
    lab, found = Lab(profile, counts=counts), {}
    for row, ratio, seed in cells:
        e = Experiment(lab, **cell_recipe(row, ratio, seed))
        (full,), model = e.reference_run.cost(), e.model
        if isinstance(model, Snapshot):
            found[row, ratio] = (full.steps / model.step,) * 2
            continue
        (final,) = stage_costs(model, least)
        behind = [c for s in closure([model]).values() if s is not model for c in stage_costs(s)]
        counted = ("encoder", "proxy", "reference")
        own = [c.evaluations for c in behind if c.kind in counted and c.network == e.spec.label]
        found[row, ratio] = (
            full.evaluations / final.evaluations,
            full.evaluations / (final.evaluations + sum(own)),
        )
    return found


# ---- the data --------------------------------------------------------------------------------------


def known_data(profile: Profile) -> str | None:
    """The name in KNOWN of a profile's images: that of their source, or where their path is open that of the profile."""
    source = profile.data.source
    name = source if source in KNOWN or profile.data.path else profile.name
    return name if name in KNOWN else None


def survey(profile: Profile) -> tuple[list[int], Reading | None]:
    """Training images of each class, and what was left out (None if all are used).

    Data that the library knows need not be there; of other data only the labels are read.

    Raises:
        DedtError: When they cannot be.
    """
    from . import data

    if known := known_data(profile):
        counts, reading = KNOWN[known], Reading.of(sum(KNOWN[known]), unit="images")
    else:
        found = data.find(profile.data.source, profile.data.path)
        assert found is not None  # only held-out images may be missing
        counts, reading = found.class_counts.tolist(), found.reading
    per_class = profile.data.per_class
    if per_class:
        reading = reading.first(per_class, counts)
    few = [min(count, per_class or count) for count in counts]
    return few, None if known and not per_class else reading


def class_counts(profile: Profile) -> list[int]:
    """Training images of each class under a profile."""
    return survey(profile)[0]


# ---- hours -----------------------------------------------------------------------------------------

SMALL = {
    **{f"{name}.epochs": 1 for name in ("unet", "mdt", "stable_diffusion", "autoencoder", "evaluate")},
    **{f"encoders.{name}.epochs": 1 for name in ("resnet18", "inceptionv3", "clip", "ddae")},
    **{f"{name}.steps": 2 for name in ("unet", "mdt", "stable_diffusion")},
    "mdt.proxy_epochs": 1,
    "stable_diffusion.pretraining_epochs": 1,
    "train.checkpoint_every": 10**9,
    "reweight.window": 1.0,
}
"""A profile of the same networks whose stages take few steps."""


def seconds(work: Work, speed: dict[tuple[str, str], float]) -> float:
    """Seconds that a :class:`Work` takes at a ``speed`` of :func:`probe`."""
    units = getattr(work, UNITS.get(work.kind, "steps"))
    return units * speed[work.kind, work.network] if work.network else 0.0


def probe(
    profile: Profile, cells: Iterable[Cell], counts: Sequence[int], *, limit: float = 5.0
) -> dict[tuple[str, str], float]:
    """Measure this device: (kind, network) -> seconds per step, image, evaluation or pair.

    Each stage does its own work on a batch of random images, and again on four batches where the first took less than
    ``limit`` seconds: the difference is free of what a stage takes once.

    Raises:
        DedtError: When a batch does not fit into the device's memory.
    """
    wanted: dict[tuple[str, str], Stage] = {}
    for stage in stages(profile, cells, counts).values():
        wanted |= {
            key: stage for cost in stage.cost() if (key := _measured(cost)) not in wanted and cost.network
        }
    wanted.pop(("comparison", "distances"), None)
    speed: dict[tuple[str, str], float] = {("comparison", "distances"): _pair_seconds(profile)}
    for key, stage in tqdm(wanted.items(), desc="probe", unit="part", leave=False):
        if key not in speed:
            speed |= _time(profile, stage, limit)
    kinds = {alike: kind for kind, alike in _ALIKE.items()}
    return speed | {
        (kinds[kind], network): value for (kind, network), value in speed.items() if kind in kinds
    }


_ALIKE = {"reference": "training", "measuring": "features"}
"""Kinds of work whose units take as long as those of another."""


def _measured(cost: Cost) -> tuple[str, str]:
    return _ALIKE.get(cost.kind, cost.kind), cost.network


def _time(profile: Profile, stage: Stage, limit: float) -> dict[tuple[str, str], float]:
    """Seconds of each unit of a stage's costs."""
    found: dict[tuple[str, str], float] = {}
    before: dict[tuple[str, str], tuple[float, int]] = {}
    for batches in (1, 4):
        with tempfile.TemporaryDirectory() as folder:
            small = _small(profile, stage, batches, Store(folder))
            try:
                manifest = small.manifest()
            except torch.OutOfMemoryError as error:
                raise DedtError(
                    f"The probe of '{small.name}' ran out of the device's memory. Lower the batch_size of its section of "
                    "the profile; --set unet.batch_size=8 does so for a trial of the U-Net."
                ) from error
        parts = manifest.get("part_seconds", {})
        whole = manifest.get("training_seconds", manifest["seconds"])
        for cost in small.cost():
            took, units = (
                parts.get(cost.kind, whole - sum(parts.values())),
                getattr(cost, UNITS.get(cost.kind, "steps")),
            )
            took_before, units_before = before.get(_measured(cost), (0.0, 0))
            slope = (took - took_before) / (units - units_before) if units > units_before else 0.0
            found[_measured(cost)] = slope if slope > 0 else took / units
            before[_measured(cost)] = took, units
        if whole > limit:
            break
    return found


def _small(profile: Profile, stage: Stage, batches: int, store: Store) -> Stage:
    """The stage with random images, as many as ``batches`` of its own batches hold."""
    settings = getattr(stage, "settings", {"batch_size": 8})
    batch = settings["batch_size"] if isinstance(settings, dict) else settings.batch_size
    images = batches * batch
    classes = min(images, 8)
    changes = {**SMALL, "sample.count": images, "data.per_class": 0}
    lab = Lab(load_profile(profile, **changes), counts=_shares(images, classes), store=store)
    return (
        stage.on(lab, coreset=Select.everything(lab), weights=None)
        if isinstance(stage, Train)
        else stage.on(lab)
    )


def _shares(images: int, classes: int) -> list[int]:
    return [images // classes + (k < images % classes) for k in range(classes)]


def _pair_seconds(profile: Profile) -> float:
    """For the distance of a pair of images, in as many numbers as the widest of the metrics has."""
    lab = Lab(profile, counts=[1])
    width = max(lab.shape[0] * min(lab.shape[1], THUMBNAIL) ** 2, evaluate.width(lab))
    rows = np.random.default_rng(0).random((1024, width))
    neighbour_radii(rows, device=lab.gpu)
    start = time.perf_counter()
    neighbour_radii(rows, device=lab.gpu)
    return (time.perf_counter() - start) / len(rows) ** 2
