"""What the cells of a table take, before anything is spent: runs, steps, network evaluations, disk, hours.

Cells that need the same run share it, as they do in the store: what tells two runs apart here is what
decides their addresses in :class:`~dedt_lib.experiment.Experiment`.  Everything is arithmetic without
PyTorch, but for :func:`probe`, which measures a device.

Network evaluations are forward passes of one image; a backward pass counts two, so training costs three an
image, and the proxy with the reference beside it four (MDT, which sees every image twice: six and eight).
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
)
"""Kinds of work in the order of the stages; "reference" is the run on all the data, plain."""

DIFFUSION = {"unet": "U-Net", "mdt": "MDT", "stable-diffusion": "Stable Diffusion"}
"""Model in a recipe -> the name of its network."""

NAMES = {
    "resnet18": "ResNet-18",
    "inceptionv3": "Inception-v3",
    "clip": "CLIP",
    "vit": "CLIP ViT-L/14",
    "metric": "FID network",
    "vae": "autoencoder",
}
UNITS = {
    "latents": "images",
    "features": "images",
    "sampling": "evaluations",
    "decoding": "images",
    "measuring": "images",
}
"""What the time of a kind of work goes with, where it is not its steps."""


@dataclass(frozen=True)
class Run:
    """One distinct run: what tells it apart (``key``), and what it takes.

    kind: one of KINDS.  what: in words.  network: a value of DIFFUSION or a key of NAMES; "": none, and its
    time is not counted.  steps: of the optimiser.
    images: passes over an image (for "sampling" the samples).  evaluations: see the module.  bytes: kept on
    disk.  scratch: bytes beside that while it runs, twice when a checkpoint replaces the one before.
    """

    key: tuple
    kind: str
    what: str
    network: str
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
    planners, found = _planners(profile, counts, least), {}
    for cell in cells:
        recipe = Recipe(**cell_recipe(*cell))
        found |= {run.key: run for run in planners[recipe.model].runs(recipe)}
    return found


def speedups(profile, cells, counts, least=False):
    """Ideal speed-ups over the run on all the data, in evaluations of the diffusion network.

    (row, ratio) -> (of the final training alone, of the whole recipe with DDAE, reference and proxy).  Other
    encoders are not in it, nor the stages that the run on all the data needs as well, nor what a device loses
    to small batches.  Arguments as of :func:`plan`.
    """
    planners, found = _planners(profile, counts, least), {}
    for row, ratio, seed in cells:
        recipe = Recipe(**cell_recipe(row, ratio, seed))
        planner = planners[recipe.model]
        full, (final, whole) = planner.full(0).evaluations, planner.evaluations(recipe)
        found[row, ratio] = full / final, full / whole
    return found


def _planners(profile, counts, least):
    return {model: _Planner(profile, counts, least, model) for model in DIFFUSION}


def annealed_speedup(speedup, start=0.875):
    """Speed-up of a run that leaves its coreset after the share ``start`` of its epochs, for all the data.

    speedup: of the run that stays on the coreset, > 0.  Amdahl's law: 1 / (start / speedup + 1 - start).
    """
    return 1 / (start / speedup + 1 - start)


# ---- the data --------------------------------------------------------------------------------------


def known_data(profile):
    """The name in KNOWN of a profile's images, or None.

    It is that of their source, or where their path is left open that of the profile.
    """
    name = profile.data if profile.data in KNOWN or profile.path else profile.name
    return name if name in KNOWN else None


def class_counts(profile):
    """Training images of each class under a profile: a list of K ints.

    Data that the library knows need not be there; of other data only the labels are read.  Raises DedtError
    when they cannot be.
    """
    if known := known_data(profile):
        counts = KNOWN[known]
    else:
        from . import data

        find = {"folder": data.folder.find, "parquet": data.parquet.find}[profile.data]
        found = find(profile.path, "train")
        counts = np.bincount(found.labels, minlength=len(found.class_names)).tolist()
    return [min(count, profile.per_class or count) for count in counts]


# ---- the diffusion models ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Diffusion:
    """A kind of diffusion model as a profile sets it, without the network.

    model: its name in a recipe.  parameters: of the network.  epochs, proxy_epochs, batch_size: of its
    training.  ratios: those of its tables.  sampler_steps, guided: of its sampler.  moments: tensors that the
    optimiser keeps of each parameter.  evaluations, proxy_evaluations: of the network, for an image in training
    and in group DRO.
    """

    model: str
    parameters: int
    epochs: int
    proxy_epochs: int
    batch_size: int
    ratios: tuple
    sampler_steps: int
    guided: bool
    moments: int = 2
    evaluations: int = 3
    proxy_evaluations: int = 4

    @property
    def network(self):
        """Its name in a :class:`Run`."""
        return DIFFUSION[self.model]


def diffusion(profile, model, classes):
    """The :class:`Diffusion` of a recipe's ``model`` under a profile, for data of K ``classes``."""
    p = profile
    if model == "mdt":
        sampler = p.mdt_sampler_steps, p.mdt_guidance > 1
        return Diffusion(
            model,
            mdt_parameters(p, classes),
            p.mdt_epochs,
            p.mdt_proxy_epochs,
            p.mdt_batch_size,
            p.mdt_ratios,
            *sampler,
            moments=4,  # of Adan
            evaluations=6,
            proxy_evaluations=8,
        )
    if model == "stable-diffusion":
        sampler = p.sd_sampler_steps, p.sd_guidance > 1
        size = stable_diffusion_parameters(p)
        return Diffusion(model, size, p.sd_epochs, p.sd_epochs, p.sd_batch_size, p.sd_ratios, *sampler)
    sampler = p.sampler_steps, p.guidance > 0
    size = unet_parameters(p, classes)
    return Diffusion(model, size, p.epochs, p.epochs, p.batch_size, p.ratios, *sampler)


# ---- the runs of a recipe --------------------------------------------------------------------------


class _Planner:
    """The runs behind recipes of one model under a profile; ``least``: InfoBatch prunes as much as it can."""

    def __init__(self, profile, counts, least=False, model="unet"):
        self.profile, self.counts, self.least = profile, [int(count) for count in counts], least
        self.n = sum(self.counts)
        self.diffusion = diffusion(profile, model, len(counts))
        self.weights = 4 * self.diffusion.parameters

    def runs(self, recipe):
        """Every run that one cell needs, in the order in which they come."""
        r, p = recipe, self.profile
        final = self.final(r)
        found = [self.images()] if p.data in ("folder", "parquet") else []
        found += [self.classifier("metric")] if p.metric == "classifier" else []
        found.append(self.real_features())
        if self.latent:
            found += [*self.latents(), *self.cmmd_features()]
        if r.method != "random" and not (r.early_stopping or r.infobatch):
            found += self.embedding(r.encoder or p.encoder)
        if r.reweighting:
            found += [self.full(r.seed), self.proxy(r)]
        samples = self.sampling(r, final)
        return [*found, final, samples, *self.measuring(samples)]

    def evaluations(self, recipe):
        """Of the diffusion network: (by the final training, by all the training)."""
        runs = {run.key: run for run in self.runs(recipe)}.values()
        final = self.final(recipe)
        share = self._steps_at(recipe.ratio, recipe.annealing) / final.steps if recipe.early_stopping else 1
        before = [run for run in runs if run.kind in ("encoder", "proxy", "reference") and run != final]
        own = final.evaluations * share
        return own, own + sum(run.evaluations for run in before if run.network == self.diffusion.network)

    # ---- the images, and their latents

    @property
    def latent(self):
        """Whether the model works on latents."""
        return self.diffusion.model != "unet"

    def images(self):
        """The pixels of image files, decoded once."""
        size = self.profile.channels * self.profile.image_size**2
        return Run(("images",), "images", "decoded", "", images=self.n, bytes=size * self.n)

    def latents(self):
        """The autoencoder unless it is published, the posteriors of the images, and a pipeline to start from."""
        p, views = self.profile, 2 if self.profile.flip else 1
        side, channels = latent_shape(p)
        encoded = Run(
            ("latents",),
            "latents",
            f"{channels}x{side}x{side}" + (", mirrored too" if p.flip else ""),
            "vae",
            images=views * self.n,
            evaluations=views * self.n,
            bytes=2 * 2 * views * channels * side**2 * self.n,  # mean and deviation, in half precision
        )
        trained = [] if p.vae_weights else [dataclasses.replace(self.classifier("vae"), kind="autoencoder")]
        own = self.diffusion.model == "stable-diffusion" and not p.sd_weights
        return [*trained, encoded, *([self.pipeline()] if own else [])]

    def pipeline(self):
        """The pre-training of a small Stable Diffusion."""
        epochs = self.profile.sd_pretraining_epochs
        steps = epochs * -(-self.n // self.diffusion.batch_size)
        run = self._trained(("pipeline",), "pre-training", steps, epochs * self.n)
        return dataclasses.replace(run, kind="pipeline")

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
        snapshots = {
            self._steps_at(r, annealing) for r in self.diffusion.ratios for annealing in (False, True)
        }
        return dataclasses.replace(run, kind=kind, bytes=run.bytes + len(snapshots) * self.weights)

    def proxy(self, recipe):
        """Group DRO on the coreset, beside the reference; never annealed."""
        r, p = recipe, self.profile
        coreset, kept = self.coreset(r)
        run = self._training((), "group DRO", kept, 1.0, self.diffusion.proxy_epochs)
        burn_in = int((p.dro_burn_in if r.burn_in is None else r.burn_in) * run.steps)
        numbers = 2 * len(self.counts) + 1  # of each step: alpha, lambda and the clipped share
        history = 8 * numbers * run.steps
        return dataclasses.replace(
            run,
            key=("proxy", self.diffusion.model, coreset, burn_in, r.seed),
            kind="proxy",
            evaluations=self.diffusion.proxy_evaluations * run.images,
            bytes=run.bytes + history,
            scratch=run.scratch + history,
        )

    def _training(self, key, what, kept, start, epochs=None):
        epochs = epochs or self.diffusion.epochs
        plan = EpochPlan(np.arange(kept), total=self.n, epochs=epochs, annealing_start=start)
        images = plan.subset_epochs * kept + (plan.epochs - plan.subset_epochs) * self.n
        return self._trained(key, what, plan.steps(self.diffusion.batch_size), images)

    def _infobatch(self, key, what, recipe, start):
        """The first epoch and the tail visit everything; a budget is met, a ratio only if all learn well."""
        d, n = self.diffusion, self.n
        pruning = max(0, int(start * d.epochs) - 1)
        fewest = round(recipe.ratio * n) if recipe.infobatch == "budget" else int(recipe.ratio * n)
        kept = max(1, fewest) if self.least or recipe.infobatch == "budget" else n
        images = (d.epochs - pruning) * n + pruning * kept
        steps = (d.epochs - pruning) * -(-n // d.batch_size) + pruning * -(-kept // d.batch_size)
        return self._trained(key, what, steps, images)

    def _trained(self, key, what, steps, images):
        d = self.diffusion
        return Run(
            (d.model, *key),
            "training",
            what,
            d.network,
            steps=steps,
            images=images,
            evaluations=d.evaluations * images,
            bytes=self.weights + 4 * steps,
            scratch=(2 + d.moments) * self.weights
            + 8 * steps,  # model, EMA, optimiser; losses in double precision
        )

    def _steps_at(self, ratio, annealing):
        kept = sum(round(ratio * count) for count in self.counts)
        return self._training((), "", kept, self.profile.annealing_start if annealing else 1.0).steps

    def sampling(self, recipe, final):
        """The samples of a model: the last weights of a run, or those that it kept on the way."""
        p, d = self.profile, self.diffusion
        stops = recipe.early_stopping and recipe.ratio < 1
        size = p.samples * p.channels * p.image_size**2
        return Run(
            ("sampling", final.key, self._steps_at(recipe.ratio, recipe.annealing) if stops else "end"),
            "sampling",
            f"{p.samples:,} samples, {d.sampler_steps} steps" + (", guided" if d.guided else ""),
            d.network,
            images=p.samples,
            evaluations=p.samples * d.sampler_steps * (2 if d.guided else 1),
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
            kept = sum(_moderate_count(size, r.ratio, scope) for size in groups)
            choice = (r.encoder or p.encoder, r.centre or p.moderate_centre, r.band)
        else:
            kept = sum(round(r.ratio * size) for size in groups)
            choice = (r.seed,) if r.method == "random" else (r.encoder or p.encoder,)
        return ("all",) if kept == self.n else (r.method, r.ratio, scope, *choice), kept

    # ---- the network of FID, and the encoders

    def real_features(self):
        """All the images in the network of FID, and the statistics of all and of each class."""
        width = 64 if self.profile.metric == "classifier" else 2048
        sides = (self.n, *(self.counts if self.profile.classwise else ()))
        statistics = sum(8 * width * (1 + min(count, width)) for count in sides)
        return Run(
            ("features", "metric"),
            "features",
            NAMES["metric"],
            "metric",
            images=self.n,
            evaluations=self.n,
            bytes=4 * width * self.n + statistics,
        )

    def cmmd_features(self):
        """All images in the network of CMMD, if the profile names one, and the training of that network."""
        p = self.profile
        if not p.cmmd:
            return []
        own = p.cmmd == "clip"
        width = self._width("clip") if own else 768
        features = Run(
            ("features", "cmmd"),
            "features",
            f"CMMD, {NAMES[self.cmmd_network]}",
            self.cmmd_network,
            images=self.n,
            evaluations=self.n,
            bytes=4 * width * self.n,
        )
        return [*([self.classifier("clip")] if own and not p.clip_weights else []), features]

    @property
    def cmmd_network(self):
        return "clip" if self.profile.cmmd == "clip" else "vit"

    def measuring(self, samples):
        """What comes after the samples: pixels out of latents, and the networks that look at them.

        Only the numbers are kept.  The metrics beside FID read its features once more.
        """
        networks = {"metric": 1}
        if self.latent:
            networks = {"vae": 1, "metric": 2, **({self.cmmd_network: 1} if self.profile.cmmd else {})}
        found = []
        for network, times in networks.items():
            kind = "decoding" if network == "vae" else "measuring"
            images = times * samples.images
            key = (kind, network, samples.key)
            found.append(Run(key, kind, NAMES[network], network, images=images, evaluations=images))
        return found

    def embedding(self, encoder):
        """The training of an encoder, unless its weights are published, and the features of all images."""
        name = encoder.removesuffix("-rn50")
        weights = getattr(self.profile, f"{name}_weights", "")
        width, forward = self._width(name), self.profile.ddae_draws if name == "ddae" else 1
        features = Run(
            ("features", name),
            "features",
            NAMES.get(name, "DDAE") + (", published weights" if weights else ""),
            DIFFUSION["unet"] if name == "ddae" else name,
            images=self.n,
            evaluations=forward * self.n,
            bytes=self.n * (4 * width + 8),
        )
        trained = [] if weights else [self._ddae() if name == "ddae" else self.classifier(name)]
        return [*trained, features]

    def _ddae(self):
        """A U-Net, whatever model the recipe trains."""
        epochs, unet = self.profile.ddae_epochs, _Planner(self.profile, self.counts)
        steps = epochs * -(-self.n // unet.diffusion.batch_size)
        run = unet._trained((), "DDAE", steps, epochs * self.n)
        return dataclasses.replace(run, key=("encoder", "ddae"), kind="encoder")

    def classifier(self, name):
        """An encoder that is trained, the classifier for FID ("metric"), or the autoencoder ("vae")."""
        epochs, batch = (getattr(self.profile, f"{name}_{what}") for what in ("epochs", "batch_size"))
        # A batch of one has no statistics, and is left out.
        alone = self.n % batch == 1 and 1 < batch < self.n
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
            scratch=(3 if name in ("clip", "vae") else 2) * size,
        )

    def _classifier_bytes(self, name):
        """Near enough: the sizes of the networks in :mod:`dedt_lib.encoders`."""
        if name == "vae":
            return 4 * autoencoder_parameters(self.profile)
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


@functools.cache
def _moderate_count(size, ratio, scope):
    return moderate_order(np.zeros(size), ratio, scope)[1]


# ---- sizes of networks, without building them ----------------------------------------------------------

LATENT_CHANNELS = 4
STABLE_DIFFUSION = {"published": (2, 768), "tiny": (1, 32)}
"""Of version 1 and of the tiny pipeline: the U-Net's layers at each level, and the text encoder's width."""


def latent_shape(profile):
    """(side, channels) of the latents under a profile."""
    return profile.latent_image_size // 2 ** (len(profile.vae_channels) - 1), LATENT_CHANNELS


def unet_parameters(profile, classes):
    """Number of parameters of the profile's U-Net (diffusers' UNet2DModel), without building it.

    classes: K; the null label comes on top.
    """
    p = profile
    embedding = 4 * p.unet_channels[0]
    backbone = _backbone(p.channels, p.unet_channels, p.unet_layers, p.unet_attention, _attention)
    return backbone + (classes + 1) * embedding


def stable_diffusion_parameters(profile):
    """Number of parameters of Stable Diffusion's U-Net (diffusers' UNet2DConditionModel), 1.x or tiny."""
    widths = profile.sd_channels
    layers, text_width = STABLE_DIFFUSION["published" if profile.sd_weights else "tiny"]

    def transformer(c):
        ends = 2 * c + 2 * _convolution(c, c, 1)
        feed_forward = (c + 1) * 8 * c + (4 * c + 1) * c
        own_attention, cross_attention = 4 * c * c + c, 2 * c * c + 2 * text_width * c + c
        return ends + 3 * 2 * c + own_attention + cross_attention + feed_forward

    attends = [True] * (len(widths) - 1) + [False]
    return _backbone(LATENT_CHANNELS, widths, layers, attends, transformer)


def mdt_parameters(profile, classes):
    """Number of parameters of the profile's MDTv2; classes: K, and the null label comes on top."""
    p, width = profile, profile.mdt_hidden_size
    side = latent_shape(p)[0] // p.mdt_patch_size
    values = LATENT_CHANNELS * p.mdt_patch_size**2
    positions = ((2 * side - 1) ** 2 + 3) * p.mdt_heads
    # Attention, an MLP four times as wide, and six modulations.
    block = 4 * (width + 1) * width + positions + (8 * width + 5) * width + 6 * (width + 1) * width
    skips = (p.mdt_depth - p.mdt_decode_layers) // 2 + p.mdt_decode_layers
    blocks = (p.mdt_depth + 1) * block + skips * (2 * width + 1) * width
    time = (256 + 1) * width + (width + 1) * width
    first = (
        (values + 1) * width + 2 * side**2 * width + width
    )  # patches, two tables of positions, the mask token
    last = (width + 1) * 2 * values + 2 * (width + 1) * width  # noise and variance, and two modulations
    return first + time + (classes + 1) * width + blocks + last


def autoencoder_parameters(profile):
    """Number of parameters of the autoencoder that a profile trains (``latents.small_autoencoder``)."""
    images, widths, z = profile.channels, profile.vae_channels, LATENT_CHANNELS
    middle = 2 * _residual(widths[-1], widths[-1]) + _attention(widths[-1])
    total = _convolution(2 * z, 2 * z, 1) + _convolution(z, z, 1) + 2 * middle
    total += _convolution(images, widths[0]) + 2 * widths[-1] + _convolution(widths[-1], 2 * z)
    total += _convolution(z, widths[-1]) + 2 * widths[0] + _convolution(widths[0], images)
    total += sum(_convolution(c, c) for c in (*widths[:-1], *widths[1:]))
    down, up = (widths[0], *widths), (widths[-1], *widths[::-1])
    total += sum(_residual(a, b) for a, b in zip(down, down[1:]))
    return total + sum(_residual(a, b) + _residual(b, b) for a, b in zip(up, up[1:]))


def _convolution(a, b, size=3):
    return a * b * size * size + b


def _residual(a, b, embedding=0):
    """Two normalised convolutions with a way around them; embedding: width of the timestep's, 0 for none."""
    shortcut = _convolution(a, b, 1) if a != b else 0
    condition = (embedding + 1) * b if embedding else 0
    return 2 * a + _convolution(a, b) + condition + 2 * b + _convolution(b, b) + shortcut


def _attention(c):
    return 2 * c + 4 * (c + 1) * c


def _backbone(channels, widths, layers, attends, attention):
    """What diffusers' U-Nets have in common; attention(c): the parameters of one at width c."""
    embedding = 4 * widths[0]
    total = _convolution(channels, widths[0]) + 2 * widths[0] + _convolution(widths[0], channels)
    total += (widths[0] + 1) * embedding + (embedding + 1) * embedding
    total += 2 * _residual(widths[-1], widths[-1], embedding) + attention(widths[-1])
    skips, before = [widths[0]], widths[0]
    for width, attended in zip(widths, attends):
        for _ in range(layers):
            total += _residual(before, width, embedding) + attended * attention(width)
            before = width
            skips.append(width)
        if len(skips) < (layers + 1) * len(widths):
            total += _convolution(width, width)
            skips.append(width)
    for level, (width, attended) in enumerate(zip(widths[::-1], attends[::-1])):
        for _ in range(layers + 1):
            total += _residual(before + skips.pop(), width, embedding) + attended * attention(width)
            before = width
        total += _convolution(width, width) if level < len(widths) - 1 else 0
    return total


# ---- hours: what a device needs for a unit of each kind of work ------------------------------------


def seconds(work, speed):
    """Seconds that a :class:`Work` takes at a ``speed`` of :func:`probe`."""
    units = getattr(work, UNITS.get(work.kind, "steps"))
    return units * speed[work.kind, work.network] if work.network else 0.0


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
        if work.network and (work.kind, work.network) not in speed:
            speed[work.kind, work.network] = device.measure(work.kind, work.network)
    return speed


SAMPLING_STEPS = 2


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


class _RandomLatents:
    """Stands in for ``latents.Latents``: a source of training samples that are noise."""

    def __init__(self, labels, shape):
        self.labels, self.shape = labels, shape

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return self

    def draw(self, indices, flip, generator):
        import torch

        return torch.randn((len(indices), *self.shape), generator=generator, device=indices.device)


class _Untrained:
    """Stands in for an Experiment: what the families of models ask of it, without data or weights."""

    def __init__(self, profile, data):
        self.profile, self.data = profile, data
        side, channels = latent_shape(profile)
        self.latents = _RandomLatents(data.labels, (channels, side, side))

    @functools.cached_property
    def autoencoder(self):
        """The one that the profile trains, or one of the make of Stable Diffusion's."""
        from diffusers import AutoencoderKL

        from .latents import small_autoencoder

        p = self.profile
        if not p.vae_weights:
            return small_autoencoder(p.channels, widths=p.vae_channels), ""
        levels = len(p.vae_channels)
        network = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=p.vae_channels,
            layers_per_block=2,
            latent_channels=LATENT_CHANNELS,
        )
        return network.eval(), ""

    @property
    def decoder(self):
        return self.autoencoder

    @property
    def pipeline(self):
        """A pipeline with a U-Net of the profile's size."""
        from .models.stable_diffusion import tiny_pipeline

        p = self.profile
        layers, text_width = STABLE_DIFFUSION["published" if p.sd_weights else "tiny"]
        size = {"block_channels": p.sd_channels, "layers": layers, "text_width": text_width}
        return tiny_pipeline(self.autoencoder[0], image_size=p.latent_image_size, **size), ""


class _Device:
    """Measures the parts of a profile's work on this machine, each once."""

    def __init__(self, profile, counts, limit):
        import torch

        self.profile, self.counts, self.limit = profile, counts, limit
        self.shape = (profile.channels, profile.image_size, profile.image_size)
        self.name = "cuda" if torch.cuda.is_available() else "cpu"
        self.step, self.evaluation = functools.cache(self._step), functools.cache(self._evaluation)
        if profile.threads:
            torch.set_num_threads(profile.threads)

    def measure(self, kind, network):
        """Seconds per unit of this kind of work."""
        import torch

        models = {name: model for model, name in DIFFUSION.items()}
        try:
            if network not in models:
                return self._other(kind, network)
            if kind in UNITS:
                return self.evaluation(models[network])
            return self.step(models[network], dro=kind == "proxy")
        except torch.OutOfMemoryError as error:
            size = {"mdt": "mdt_batch_size", "stable-diffusion": "sd_batch_size"}.get(models.get(network))
            raise DedtError(
                f"The probe of '{kind}' ran out of the device's memory. Lower {size or 'batch_size'} or "
                f"sample_batch_size of the profile; --set {size or 'batch_size'}=8 does so for a trial."
            ) from error

    def _other(self, kind, network):
        if network == "vae":
            parts = {"autoencoder": self.autoencoder_step, "latents": self.encoded_image}
            return parts.get(kind, self.decoded_image)()
        return self.encoder_step(network) if kind == "encoder" else self.encoder_image(network)

    # ---- the diffusion models

    def family(self, model, count=0):
        """The family of a model in an experiment with ``count`` random images, one of each class at least."""
        from .families import FAMILIES

        return FAMILIES[model](_Untrained(self.profile, self._images(max(count, len(self.counts)))))

    def _step(self, model, dro=False):
        """Seconds per step of the library's own training loop; dro: beside a reference."""
        import tempfile

        from .reweighting import GroupDRO
        from .training import train

        settings = dataclasses.replace(self.family(model).settings, checkpoint_every=10**9)
        family, clock = self.family(model, settings.batch_size), _Clock(settings.batch_size, self.limit)
        images_of_each = np.ones(len(self.counts), dtype=np.int64)
        with tempfile.TemporaryDirectory() as folder:
            try:
                train(
                    family.build(0),
                    family.source(),
                    clock,
                    settings,
                    seed=0,
                    folder=folder,
                    weighting=GroupDRO(family.build(0).to(self.name), images_of_each) if dro else None,
                    device=self.name,
                    progress="proxy" if dro else "train",
                )
            except _Enough:
                return clock.seconds

    def _evaluation(self, model):
        """Seconds for one image through the network while sampling.

        A slow device is spared the whole batch: there an image takes as long among few as among many.
        """
        whole, few = self.profile.sample_batch_size, min(8, self.profile.sample_batch_size)
        family = self.family(model)
        network = family.build(0).to(self.name).eval()
        self._sample(family, network, few)
        seconds = self._sample(family, network, few)
        if seconds * whole / few > self.limit:
            count = few
        else:
            count = whole
            self._sample(family, network, whole)
            seconds = self._sample(family, network, whole)
        guided = diffusion(self.profile, model, len(self.counts)).guided
        return seconds / (count * SAMPLING_STEPS * (2 if guided else 1))

    def _sample(self, family, network, count):
        """Seconds for SAMPLING_STEPS steps of ``count`` samples by the library's own sampler."""
        import torch

        from .sampling import sample_generators
        from .training import autocast

        labels = torch.arange(count, device=self.name) % len(self.counts)
        noise = torch.randn((count, *network.sample_shape), device=self.name)
        how = {**family.sampling, "steps": SAMPLING_STEPS, "generators": sample_generators(range(count), 0)}
        start = time.perf_counter()
        with autocast(self.profile.precision, self.name):
            family.sampler(network, noise, labels, **how).cpu()
        return time.perf_counter() - start

    # ---- the other networks

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

        model, images = self._encoder(network), self._some_images().images
        encoders.embed(model, images, device=self.name)
        start = time.perf_counter()
        encoders.embed(model, images, device=self.name)
        return (time.perf_counter() - start) / len(images)

    def autoencoder_step(self, steps=3):
        """Seconds per step of the autoencoder's training."""
        from . import latents
        from .surrogates import classifier_settings

        p = self.profile
        settings = {**classifier_settings(p, "vae"), "seed": 0, "device": self.name}
        settings["image_size"] = p.latent_image_size
        images = self._images(settings["batch_size"])
        network, _ = _Untrained(p, images).autoencoder
        latents.train_autoencoder(network, images, **{**settings, "epochs": 1})
        start = time.perf_counter()
        latents.train_autoencoder(network, images, **{**settings, "epochs": steps})
        return (time.perf_counter() - start) / steps

    def encoded_image(self):
        """Seconds to encode one image."""
        import tempfile

        from . import latents

        p, images = self.profile, self._some_images()
        network, _ = _Untrained(p, images).autoencoder

        def encode():
            with tempfile.TemporaryDirectory() as folder:
                size = {"image_size": p.latent_image_size, "flip": False}
                latents.encode(network, images.images, folder, device=self.name, **size)

        encode()
        start = time.perf_counter()
        encode()
        return (time.perf_counter() - start) / len(images)

    def decoded_image(self):
        """Seconds to decode one sample."""
        import torch

        from . import latents

        experiment = _Untrained(self.profile, self._some_images())
        network = experiment.autoencoder[0].to(self.name)
        noise = torch.randn((len(experiment.data), *experiment.latents.shape), device=self.name)
        latents.decode(network, noise, size=self.profile.image_size)
        start = time.perf_counter()
        latents.decode(network, noise, size=self.profile.image_size)
        return (time.perf_counter() - start) / len(noise)

    def _some_images(self):
        return self._images(256 if self.name == "cuda" else 16)

    def _images(self, count):
        """Random images, in as many classes as there can be."""
        from .data import LabelledImages

        names = tuple(f"class {k}" for k in range(min(count, len(self.counts))))
        pixels = np.random.default_rng(0).integers(0, 256, (count, *self.shape), dtype=np.uint8)
        return LabelledImages(pixels, np.arange(count) % len(names), names, tuple(map(str, range(count))))

    def _encoder(self, network):
        from . import encoders
        from .surrogates import CLIP_WIDTH

        p = self.profile
        if network == "vit":
            return self._vit()
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

    def _vit(self):
        """CLIP's ViT-L/14 at 336 pixels, untrained."""
        import tempfile

        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        from .encoders.vit import ClipViT

        shape = {"hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768}
        layers = {"num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14, "image_size": 336}
        with tempfile.TemporaryDirectory() as folder:
            CLIPVisionModelWithProjection(CLIPVisionConfig(**shape, **layers)).save_pretrained(folder)
            return ClipViT(folder)
