"""What the cells of a table take, before anything is spent: runs, steps, network evaluations, disk, hours.

Cells that need the same run share it, as they do in the store: what tells two runs apart here is what
decides their addresses in :class:`~dedt_lib.experiment.Experiment`.  Everything is arithmetic without
PyTorch, but for :func:`probe`, which measures a device.

Network evaluations are forward passes of one image; a backward pass counts two, so training costs three an
image, and the proxy with the reference beside it four.
"""

import dataclasses
import functools
import time
from dataclasses import dataclass

import numpy as np

from .errors import DedtError
from .plans import EpochPlan
from .recipes import Recipe
from .selection import DEFAULT_SCOPE, moderate_order
from .tables import cell_recipe

KNOWN = {"digits": (10, 150), "cifar10": (10, 5000)}
"""Data that need not be there to be counted: classes, and training images in each."""

KINDS = ("encoder", "features", "reference", "proxy", "training", "sampling", "measuring")
"""Kinds of work in the order of the stages; "reference" is the run on all the data, plain."""

DIFFUSION = "U-Net"
NAMES = {"resnet18": "ResNet-18", "inceptionv3": "Inception-v3", "clip": "CLIP", "metric": "FID network"}
UNITS = {"features": "images", "sampling": "evaluations", "measuring": "images"}
"""What the time of a kind of work goes with, where it is not its steps."""


@dataclass(frozen=True)
class Run:
    """One distinct run: what tells it apart (``key``), and what it takes.

    kind: one of KINDS.  what: in words.  network: DIFFUSION, or one of NAMES.  steps: of the optimiser.
    images: passes over an image (for "sampling" the samples).  evaluations: see the module.  bytes: kept on
    disk.  scratch: bytes beside that while it runs, twice when a checkpoint replaces the one before.
    """

    key: tuple
    kind: str
    what: str
    network: str = DIFFUSION
    steps: int = 0
    images: int = 0
    evaluations: int = 0
    bytes: int = 0
    scratch: int = 0


@dataclass(frozen=True)
class Work:
    """Distinct runs of one kind together: ``runs`` of them, and the sums of what :class:`Run` names.

    scratch: the most that one of them needs.
    """

    kind: str
    what: str
    network: str
    runs: int
    steps: int
    images: int
    evaluations: int
    bytes: int
    scratch: int


def plan(profile, cells, counts, least=False):
    """The work behind cells, each distinct run counted once: a list of :class:`Work` in the order of KINDS.

    profile: a Profile.  cells: (row, ratio, seed) of ``tables.cells``.  counts: training images per class.
    InfoBatch prunes what the losses tell it to: its runs are counted as if it pruned nothing, or with
    ``least`` as much as it can.  Raises DedtError for an unknown row.
    """
    groups = {}
    for run in distinct_runs(profile, cells, counts, least).values():
        groups.setdefault((run.kind, run.what, run.network), []).append(run)
    found = [
        Work(
            *group,
            runs=len(runs),
            **{name: sum(getattr(run, name) for run in runs) for name in ("steps", "images", "evaluations")},
            bytes=sum(run.bytes for run in runs),
            scratch=max(run.scratch for run in runs),
        )
        for group, runs in groups.items()
    ]
    return sorted(found, key=lambda work: KINDS.index(work.kind))


def distinct_runs(profile, cells, counts, least=False):
    """The runs behind cells, by their keys: a dict of :class:`Run`; arguments as of :func:`plan`."""
    planner = _Planner(profile, counts, least)
    recipes = [Recipe(**cell_recipe(*cell)) for cell in cells]
    return {run.key: run for recipe in recipes for run in planner.runs(recipe)}


def speedups(profile, cells, counts, least=False):
    """Ideal speed-ups over the run on all the data, in evaluations of the diffusion network.

    (row, ratio) -> (of the final training alone, of the whole recipe with DDAE, reference and proxy).  Other
    encoders are not in it, nor what a device loses to small batches.  Arguments as of :func:`plan`.
    """
    planner = _Planner(profile, counts, least)
    full = planner.full(0).evaluations
    found = {}
    for row, ratio, seed in cells:
        final, whole = planner.evaluations(Recipe(**cell_recipe(row, ratio, seed)))
        found[row, ratio] = full / final, full / whole
    return found


def annealed_speedup(speedup, start=0.875):
    """Speed-up of a run that leaves its coreset after the share ``start`` of its epochs, for all the data.

    speedup: of the run that stays on the coreset, > 0.  Amdahl's law: 1 / (start / speedup + 1 - start).
    """
    return 1 / (start / speedup + 1 - start)


# ---- the data --------------------------------------------------------------------------------------


def class_counts(profile):
    """Training images of each class under a profile: a list of K ints.

    Data that the library knows need not be there; of other data only the labels are read.  Raises DedtError
    when they cannot be.
    """
    if profile.data in KNOWN:
        classes, each = KNOWN[profile.data]
        counts = [each] * classes
    else:
        from . import data

        find = {"folder": data.folder.find, "parquet": data.parquet.find}[profile.data]
        found = find(profile.path, "train")
        counts = np.bincount(found.labels, minlength=len(found.class_names)).tolist()
    return [min(count, profile.per_class or count) for count in counts]


# ---- the runs of a recipe --------------------------------------------------------------------------


class _Planner:
    """The runs behind recipes under one profile; ``least``: with InfoBatch pruning as much as it can."""

    def __init__(self, profile, counts, least=False):
        self.profile, self.counts, self.least = profile, [int(count) for count in counts], least
        self.n = sum(self.counts)
        self.weights = 4 * unet_parameters(profile, len(counts))

    def runs(self, recipe):
        """Every run that one cell needs, in the order in which they come."""
        r, p = recipe, self.profile
        final = self.final(r)
        found = [self.classifier("metric")] if p.metric == "classifier" else []
        found.append(self.real_features())
        if r.method != "random" and not (r.early_stopping or r.infobatch):
            found += self.embedding(r.encoder or p.encoder)
        if r.reweighting:
            found += [self.full(r.seed), self.proxy(r)]
        samples = self.sampling(r, final)
        return [*found, final, samples, self.measuring(samples)]

    def evaluations(self, recipe):
        """Of the diffusion network: (by the final training, by all the training)."""
        runs = {run.key: run for run in self.runs(recipe)}.values()
        final = self.final(recipe)
        share = self._steps_at(recipe.ratio, recipe.annealing) / final.steps if recipe.early_stopping else 1
        before = [run for run in runs if run.kind in ("encoder", "proxy", "reference") and run != final]
        own = final.evaluations * share
        return own, own + sum(run.evaluations for run in before if run.network == DIFFUSION)

    # ---- the diffusion network

    def final(self, recipe):
        """The training whose samples are measured."""
        r = recipe
        start = self.profile.annealing_start if r.annealing else 1.0
        tail = ", annealed" if r.annealing else ""
        if r.early_stopping:
            return self.full(r.seed)
        if r.infobatch:
            what = f"InfoBatch {'to budget' if r.infobatch == 'budget' else 'by ratio'}{tail}"
            return self._infobatch(("infobatch", r.infobatch, r.ratio, start, r.seed), what, r, start)
        coreset, kept = self.coreset(r)
        if r.reweighting:
            key = ("weighted", self.proxy(r).key, start, r.weighting)
            return self._training(key, f"coreset, weighted{tail}", kept, start)
        if kept == self.n:
            return self.full(r.seed, start)
        return self._training((coreset, start, r.seed), f"coreset{tail}", kept, start)

    def full(self, seed, start=1.0):
        """The run on all the data: with weights kept where the controls at equal steps ask for them."""
        kind, what = ("reference", "all the data") if start == 1 else ("training", "all the data, annealed")
        run = self._training(("all", start, seed), what, self.n, start)
        snapshots = {self._steps_at(r, annealing) for r in self.profile.ratios for annealing in (False, True)}
        return dataclasses.replace(run, kind=kind, bytes=run.bytes + len(snapshots) * self.weights)

    def proxy(self, recipe):
        """Group DRO on the coreset, beside the reference; never annealed."""
        r, p = recipe, self.profile
        coreset, kept = self.coreset(r)
        run = self._training((), "group DRO", kept, 1.0)
        burn_in = int((p.dro_burn_in if r.burn_in is None else r.burn_in) * run.steps)
        numbers = 2 * len(self.counts) + 1  # of each step: alpha, lambda and the clipped share
        history = 8 * numbers * run.steps
        return dataclasses.replace(
            run,
            key=("proxy", coreset, burn_in, r.seed),
            kind="proxy",
            evaluations=4 * run.images,
            bytes=run.bytes + history,
            scratch=run.scratch + history,
        )

    def _training(self, key, what, kept, start):
        epochs = EpochPlan(np.arange(kept), total=self.n, epochs=self.profile.epochs, annealing_start=start)
        tail = epochs.epochs - epochs.subset_epochs
        steps = epochs.steps(self.profile.batch_size)
        return self._trained(key, what, steps, epochs.subset_epochs * kept + tail * self.n)

    def _infobatch(self, key, what, recipe, start):
        """The first epoch and the tail visit everything; a budget is met, a ratio only if all learn well."""
        p, n = self.profile, self.n
        pruning = max(0, int(start * p.epochs) - 1)
        fewest = round(recipe.ratio * n) if recipe.infobatch == "budget" else int(recipe.ratio * n)
        kept = max(1, fewest) if self.least or recipe.infobatch == "budget" else n
        images = (p.epochs - pruning) * n + pruning * kept
        steps = (p.epochs - pruning) * -(-n // p.batch_size) + pruning * -(-kept // p.batch_size)
        return self._trained(key, what, steps, images)

    def _trained(self, key, what, steps, images):
        return Run(
            key,
            "training",
            what,
            steps=steps,
            images=images,
            evaluations=3 * images,
            bytes=self.weights + 4 * steps,
            scratch=4 * self.weights + 8 * steps,  # model, EMA, two moments; the losses in double precision
        )

    def _steps_at(self, ratio, annealing):
        kept = sum(round(ratio * count) for count in self.counts)
        return self._training((), "", kept, self.profile.annealing_start if annealing else 1.0).steps

    def sampling(self, recipe, final):
        """The samples of a model: the last weights of a run, or those that it kept on the way."""
        p = self.profile
        stops = recipe.early_stopping and recipe.ratio < 1
        size = p.samples * p.channels * p.image_size**2
        return Run(
            ("sampling", final.key, self._steps_at(recipe.ratio, recipe.annealing) if stops else "end"),
            "sampling",
            f"{p.samples:,} samples, {p.sampler_steps} steps" + (", guided" if p.guidance else ""),
            images=p.samples,
            evaluations=p.samples * p.sampler_steps * (2 if p.guidance else 1),
            bytes=size,
            scratch=size,
        )

    # ---- the coreset

    def coreset(self, recipe):
        """(what tells the coreset apart, number of images)."""
        r, p = recipe, self.profile
        scope = r.scope or (p.moderate_scope if r.method == "moderate" else DEFAULT_SCOPE[r.method])
        groups = self.counts if scope == "class" else [self.n]
        if r.method == "moderate":
            kept = sum(moderate_order(np.zeros(size), r.ratio, scope)[1] for size in groups)
            choice = (r.encoder or p.encoder, r.centre or p.moderate_centre, r.band)
        else:
            kept = sum(round(r.ratio * size) for size in groups)
            choice = (r.seed,) if r.method == "random" else (r.encoder or p.encoder,)
        return ("all",) if kept == self.n else (r.method, r.ratio, scope, *choice), kept

    # ---- the network of FID, and the encoders

    def real_features(self):
        """All the images in the network of FID, and the statistics of all and of each class."""
        width = 64 if self.profile.metric == "classifier" else 2048
        statistics = sum(8 * width * (1 + min(count, width)) for count in (self.n, *self.counts))
        return Run(
            ("features", "metric"),
            "features",
            NAMES["metric"],
            "metric",
            images=self.n,
            evaluations=self.n,
            bytes=4 * width * self.n + statistics,
        )

    def measuring(self, samples):
        """The samples in the network of FID; only the numbers are kept."""
        images = samples.images
        key = ("measuring", samples.key)
        return Run(key, "measuring", NAMES["metric"], "metric", images=images, evaluations=images)

    def embedding(self, encoder):
        """The training of an encoder, unless its weights are published, and the features of all images."""
        name = encoder.removesuffix("-rn50")
        weights = getattr(self.profile, f"{name}_weights", "")
        width, forward = self._width(name), self.profile.ddae_draws if name == "ddae" else 1
        features = Run(
            ("features", name),
            "features",
            NAMES.get(name, "DDAE") + (", published weights" if weights else ""),
            DIFFUSION if name == "ddae" else name,
            images=self.n,
            evaluations=forward * self.n,
            bytes=self.n * (4 * width + 8),
        )
        trained = [] if weights else [self._ddae() if name == "ddae" else self.classifier(name)]
        return [*trained, features]

    def _ddae(self):
        p = self.profile
        images, steps = p.ddae_epochs * self.n, p.ddae_epochs * -(-self.n // p.batch_size)
        run = self._trained(("encoder", "ddae"), "DDAE", steps, images)
        return dataclasses.replace(run, kind="encoder")

    def classifier(self, name):
        """An encoder that is trained on the labels (CLIP: their names), or the classifier for FID."""
        epochs, batch = (getattr(self.profile, f"{name}_{what}") for what in ("epochs", "batch_size"))
        alone = (
            self.n % batch == 1 and 1 < batch < self.n
        )  # a batch of one has no statistics, and is left out
        images = epochs * (self.n - alone)
        size = self._classifier_bytes(name)
        return Run(
            ("encoder", name),
            "encoder",
            NAMES[name],
            name,
            steps=epochs * (-(-self.n // batch) - alone),
            images=images,
            evaluations=3 * images,
            bytes=size,
            scratch=(3 if name == "clip" else 2) * size,
        )

    def _classifier_bytes(self, name):
        """Near enough: the sizes of the networks in :mod:`dedt_lib.encoders`."""
        sizes = {"inceptionv3": 87.4e6, "clip": 11.9e6, "metric": 0.23e6}
        return int(sizes.get(name) or 44.7e6 * (self.profile.resnet18_width / 64) ** 2)

    def _width(self, name):
        p = self.profile
        if name == "ddae":
            per_level = p.unet_layers + 1
            level = min((p.ddae_block - 1) // per_level, len(p.unet_channels) - 1)
            return p.unet_channels[::-1][level]
        trained = {"resnet18": 8 * p.resnet18_width, "inceptionv3": 2048, "clip": 128}
        published = {"resnet18": 512, "inceptionv3": 2048, "clip": 1024}
        return (published if getattr(p, f"{name}_weights") else trained)[name]


def unet_parameters(profile, classes):
    """Number of parameters of the profile's U-Net (diffusers' UNet2DModel), without building it.

    classes: K; the null label comes on top.
    """
    widths, layers, channels = profile.unet_channels, profile.unet_layers, profile.channels
    embedding = 4 * widths[0]

    def convolution(a, b, size=3):
        return a * b * size * size + b

    def block(a, b):
        shortcut = convolution(a, b, 1) if a != b else 0
        return 2 * a + convolution(a, b) + (embedding + 1) * b + 2 * b + convolution(b, b) + shortcut

    def attention(c):
        return 2 * c + 4 * (c + 1) * c

    total = convolution(channels, widths[0]) + 2 * widths[0] + convolution(widths[0], channels)
    total += (widths[0] + 1) * embedding + (embedding + 1) * embedding + (classes + 1) * embedding
    total += 2 * block(widths[-1], widths[-1]) + attention(widths[-1])
    skips, before = [widths[0]], widths[0]
    for width, attends in zip(widths, profile.unet_attention):
        for _ in range(layers):
            total += block(before, width) + attends * attention(width)
            before = width
            skips.append(width)
        if len(skips) < (layers + 1) * len(widths):
            total += convolution(width, width)
            skips.append(width)
    for level, (width, attends) in enumerate(zip(widths[::-1], profile.unet_attention[::-1])):
        for _ in range(layers + 1):
            total += block(before + skips.pop(), width) + attends * attention(width)
            before = width
        total += convolution(width, width) if level < len(widths) - 1 else 0
    return total


# ---- hours: what a device needs for a unit of each kind of work ------------------------------------


def seconds(work, speed):
    """Seconds that a :class:`Work` takes at a ``speed`` of :func:`probe`."""
    return getattr(work, UNITS.get(work.kind, "steps")) * speed[work.kind, work.network]


def probe(profile, works, counts, *, limit=5.0):
    """Measure this device: (kind, network) of each of the ``works`` -> seconds per step, image or evaluation.

    Trains the profile's own networks for a few steps at its batch sizes, and draws a few steps of a batch
    of samples, all with random images of its shape: no data is needed.  A part measures for about ``limit``
    seconds, but for one step at least.  Raises DedtError when a batch does not fit into the device's memory.
    """
    from tqdm import tqdm

    device = _Device(profile, counts, limit)
    speed = {}
    for work in tqdm(works, desc="probe", unit="part", leave=False):
        if (work.kind, work.network) not in speed:
            speed[work.kind, work.network] = device.measure(work.kind, work.network)
    return speed


class _Enough(Exception):
    """The probe has seen as many steps as it wants."""


class _Clock(EpochPlan):
    """One batch in every epoch, and the time at which the losses of each were there."""

    def __init__(self, batch_size, limit, most=20):
        super().__init__(np.arange(batch_size), total=batch_size, epochs=most + 2)
        self.limit, self.most, self.times = limit, most, []

    def record(self, indices, losses):
        self.times.append(time.perf_counter())
        steps = len(self.times) - 1
        if steps and (steps == self.most or self.times[-1] - self.times[0] > self.limit):
            raise _Enough

    @property
    def seconds(self):
        """Of a step: the median of the later half, which has left the warm-up behind."""
        steps = np.diff(self.times)
        return float(np.median(steps[len(steps) // 2 :]))


class _Device:
    """Measures the parts of a profile's work on this machine, each once."""

    def __init__(self, profile, counts, limit):
        import torch

        self.profile, self.counts, self.limit = profile, counts, limit
        self.shape = (profile.channels, profile.image_size, profile.image_size)
        self.name = "cuda" if torch.cuda.is_available() else "cpu"
        if profile.threads:
            torch.set_num_threads(profile.threads)

    def measure(self, kind, network):
        """Seconds per unit of this kind of work."""
        import torch

        try:
            if network != DIFFUSION:
                return self.encoder_step(network) if kind == "encoder" else self.encoder_image(network)
            if kind in UNITS:
                return self.evaluation
            return self.proxy_step if kind == "proxy" else self.training_step
        except torch.OutOfMemoryError as error:
            raise DedtError(
                f"The probe of '{kind}' ran out of the device's memory. Lower batch_size or "
                "sample_batch_size of the profile; --set batch_size=64 does so for a trial."
            ) from error

    @functools.cached_property
    def training_step(self):
        return self._step()

    @functools.cached_property
    def proxy_step(self):
        from .reweighting import GroupDRO

        return self._step(GroupDRO(self._model(), np.ones(len(self.counts), dtype=np.int64)))

    @functools.cached_property
    def evaluation(self):
        """Seconds for one image through the network while sampling.

        A slow device is spared the whole batch: there an image takes as long among few as among many.
        """
        p, few = self.profile, min(8, self.profile.sample_batch_size)
        model = self._model()
        self._sample(model, few)
        each = self._sample(model, few)
        if each * self._evaluations(p.sample_batch_size) > self.limit:
            return each
        self._sample(model, p.sample_batch_size)
        return self._sample(model, p.sample_batch_size)

    def encoder_step(self, network, steps=3):
        """Seconds per step of a classifier's or CLIP's training."""
        from . import encoders
        from .surrogates import classifier_settings

        settings = {**classifier_settings(self.profile, network), "seed": 0, "device": self.name}
        train = encoders.train_clip if network == "clip" else encoders.train_classifier
        model, images = self._encoder(network), self._images(settings["batch_size"])
        train(model, images, **{**settings, "epochs": 1})
        start = time.perf_counter()
        train(model, images, **{**settings, "epochs": steps})
        return (time.perf_counter() - start) / steps

    def encoder_image(self, network):
        """Seconds per image to embed."""
        from . import encoders

        model, images = self._encoder(network), self._images(256 if self.name == "cuda" else 16).images
        encoders.embed(model, images, device=self.name)
        start = time.perf_counter()
        encoders.embed(model, images, device=self.name)
        return (time.perf_counter() - start) / len(images)

    def _step(self, weighting=None):
        """Seconds per step of the library's own training loop."""
        import tempfile

        from .training import TrainingSettings, train

        p = self.profile
        settings = TrainingSettings(**p.pick(*TrainingSettings.__dataclass_fields__))
        settings = dataclasses.replace(settings, checkpoint_every=10**9)
        clock = _Clock(p.batch_size, self.limit)
        with tempfile.TemporaryDirectory() as folder:
            try:
                train(
                    self._model(),
                    self._images(p.batch_size),
                    clock,
                    settings,
                    seed=0,
                    folder=folder,
                    weighting=weighting,
                    device=self.name,
                    progress="proxy" if weighting else "train",
                )
            except _Enough:
                return clock.seconds

    def _sample(self, model, count, steps=2):
        """Seconds per evaluation of ``count`` samples by the library's own sampler."""
        import torch

        from . import sampling

        labels = torch.arange(count, device=self.name) % len(self.counts)
        noise = torch.randn((count, *self.shape), device=self.name)
        start = time.perf_counter()
        images = sampling.ddim(model, noise, labels, steps=steps, guidance=self.profile.guidance)
        sampling.to_uint8(images).cpu()
        return (time.perf_counter() - start) / self._evaluations(count, steps)

    def _evaluations(self, count, steps=2):
        return count * steps * (2 if self.profile.guidance else 1)

    def _images(self, count):
        """Random images, in as many classes as there can be."""
        from .data import LabelledImages

        names = tuple(f"class {k}" for k in range(min(count, len(self.counts))))
        pixels = np.random.default_rng(0).integers(0, 256, (count, *self.shape), dtype=np.uint8)
        return LabelledImages(pixels, np.arange(count) % len(names), names, tuple(map(str, range(count))))

    def _model(self):
        from .models import build_model

        p = self.profile
        model = build_model(
            "unet",
            channels=self.shape[0],
            image_size=self.shape[1],
            num_classes=len(self.counts),
            block_channels=p.unet_channels,
            layers=p.unet_layers,
            attention=p.unet_attention,
            dropout=p.unet_dropout,
            groups=p.unet_groups,
        )
        return model.to(self.name).eval()

    def _encoder(self, network):
        from . import encoders
        from .surrogates import CLIP_WIDTH

        p = self.profile
        if network == "metric" and p.metric != "classifier":
            return encoders.PRETRAINED["inceptionv3"][0]()  # of the same make, and no file is needed
        if network != "metric" and getattr(p, f"{network}_weights"):
            return encoders.PRETRAINED[network][0]()
        settings = {
            "resnet18": {"width": p.resnet18_width},
            "inceptionv3": {"width": 0, "size": p.inceptionv3_size},
            "clip": {"width": CLIP_WIDTH},
            "metric": {"width": 64},
        }[network]
        name = "classifier" if network == "metric" else network
        return encoders.build(name, channels=self.shape[0], num_classes=len(self.counts), **settings)
