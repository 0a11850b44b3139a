"""What the cells of a table take, before anything is spent: runs, steps, network evaluations, disk, hours.

Cells that need the same run share it, as they do in the store: what tells two runs apart here is what
decides their addresses in :class:`~dedt_lib.experiment.Experiment`.  Everything is arithmetic without
PyTorch; :mod:`dedt_lib.probing` measures what a device needs for it.

Network evaluations are forward passes of one image; a backward pass counts two, so training costs three an
image, and the proxy with the reference beside it four (MDT, which sees every image twice: six and eight).
"""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from .book.tables import cell_recipe
from .config.recipe import Recipe
from .evaluation import KID_SUBSET_SIZE, KID_SUBSETS, MOST_EMBEDDED, MOST_NEIGHBOURS, MOST_PAIRED
from .plans import EpochPlan
from .selection import DEFAULT_SCOPE, moderate_order
from .sizes import (
    autoencoder_parameters,
    latent_shape,
    mdt_parameters,
    stable_diffusion_parameters,
    unet_parameters,
)

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

DIFFUSION = {"unet": "U-Net", "mdt": "MDT", "stable-diffusion": "Stable Diffusion"}
"""Model in a recipe -> the name of its network."""

NAMES = {
    "resnet18": "ResNet-18",
    "inceptionv3": "Inception-v3",
    "clip": "CLIP",
    "vit": "CLIP ViT-L/14",
    "metric": "FID network",
    "vae": "autoencoder",
    "distances": "distances",
}
UNITS = {
    "latents": "images",
    "features": "images",
    "sampling": "evaluations",
    "decoding": "images",
    "measuring": "images",
    "comparison": "pairs",
}
"""What the time of a kind of work goes with, where it is not its steps."""


@dataclass(frozen=True)
class Run:
    """One distinct run: what tells it apart (``key``), and what it takes.

    kind: one of KINDS.  what: in words.  network: a value of DIFFUSION or a key of NAMES; "": none, and its
    time is not counted.  steps: of the optimiser.
    images: passes over an image (for "sampling" the samples).  evaluations: see the module.  pairs: of images
    whose distance is taken.  bytes: kept on disk.  scratch: bytes beside that while it runs, twice when a checkpoint replaces the one before.
    """

    key: tuple
    kind: str
    what: str
    network: str
    steps: int = 0
    images: int = 0
    evaluations: int = 0
    pairs: int = 0
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
    pairs: int
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
            **{
                name: sum(getattr(run, name) for run in runs)
                for name in ("steps", "images", "evaluations", "pairs")
            },
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
    name = profile.data.source if profile.data.source in KNOWN or profile.data.path else profile.name
    return name if name in KNOWN else None


def class_counts(profile):
    """Training images of each class under a profile: a list of K ints.

    Data that the library knows need not be there; of other data only the labels are read.  Raises DedtError
    when they cannot be.
    """
    return survey(profile)[0]


def survey(profile):
    """(:func:`class_counts`, the :class:`~dedt_lib.data.Reading` of the images or None if all are used)."""
    from . import data

    if known := known_data(profile):
        counts, reading = KNOWN[known], data.Reading.of(sum(KNOWN[known]), unit="images")
    else:
        found = data.find(profile.data.source, profile.data.path)
        counts, reading = found.class_counts.tolist(), found.reading
    if profile.data.per_class:
        reading = reading.first(profile.data.per_class, counts)
    few = [min(count, profile.data.per_class or count) for count in counts]
    return few, None if known and not profile.data.per_class else reading


# ---- the diffusion models ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Diffusion:
    """A kind of diffusion model as a profile sets it, without the network.

    model: its name in a recipe.  parameters: of the network.  epochs, proxy_epochs, batch_size: of its
    training.  ratios: those of its tables.  sampler_steps, guided: of its sampler.  moments: tensors that the
    optimiser keeps of each parameter.  evaluations, proxy_evaluations: of the network, for an image in
    training and in group DRO.
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
        sampler = p.mdt.steps, p.mdt.guidance > 1
        return Diffusion(
            model,
            mdt_parameters(p, classes),
            p.mdt.epochs,
            p.mdt.proxy_epochs,
            p.mdt.batch_size,
            p.mdt.ratios,
            *sampler,
            moments=4 if p.mdt.optimizer == "adan" else 2,
            evaluations=6,
            proxy_evaluations=8,
        )
    proxy = {"proxy_evaluations": 4 + (p.reweight.scores == "eval" or p.reweight.clip == "element")}
    if model == "stable-diffusion":
        sampler = p.stable_diffusion.steps, p.stable_diffusion.guidance > 1
        size = stable_diffusion_parameters(p)
        epochs = p.stable_diffusion.epochs, p.stable_diffusion.epochs
        return Diffusion(
            model, size, *epochs, p.stable_diffusion.batch_size, p.stable_diffusion.ratios, *sampler, **proxy
        )
    sampler = p.unet.steps, p.unet.guidance > 0
    size = unet_parameters(p, classes)
    return Diffusion(
        model, size, p.unet.epochs, p.unet.epochs, p.unet.batch_size, p.unet.ratios, *sampler, **proxy
    )


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
        found = [self.images()] if p.data.source in ("folder", "parquet") else []
        found += [self.classifier("metric")] if p.evaluate.network == "classifier" else []
        found.append(self.real_features())
        if self.latent:
            found += [*self.latents(), *self.cmmd_features()]
        if r.method != "random" and not (r.early_stopping or r.infobatch):
            found += self.embedding(r.encoder or p.encoders.default)
        if r.reweighting:
            found += [self.full(r.seed), self.proxy(r)]
        samples = self.sampling(r, final)
        return [*found, final, samples, *self.measuring(samples), self.comparison(r, samples)]

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
        size = self.profile.data.channels * self.profile.data.image_size**2
        return Run(("images",), "images", "decoded", "", images=self.n, bytes=size * self.n)

    def latents(self):
        """The autoencoder unless it is published, the latents, and a pipeline to start from."""
        p, views = self.profile, 2 if self.profile.train.flip else 1
        side, channels = latent_shape(p)
        encoded = Run(
            ("latents",),
            "latents",
            f"{channels}x{side}x{side}" + (", mirrored too" if p.train.flip else ""),
            "vae",
            images=views * self.n,
            evaluations=views * self.n,
            bytes=2 * 2 * views * channels * side**2 * self.n,  # mean and deviation, in half precision
        )
        trained = (
            [] if p.autoencoder.weights else [dataclasses.replace(self.classifier("vae"), kind="autoencoder")]
        )
        own = self.diffusion.model == "stable-diffusion" and not p.stable_diffusion.weights
        return [*trained, encoded, *([self.pipeline()] if own else [])]

    def pipeline(self):
        """The pre-training of a small Stable Diffusion."""
        epochs = self.profile.stable_diffusion.pretraining_epochs
        steps = epochs * -(-self.n // self.diffusion.batch_size)
        run = self._trained(("pipeline",), "pre-training", steps, epochs * self.n)
        return dataclasses.replace(run, kind="pipeline")

    # ---- the diffusion network

    def final(self, recipe):
        """The training whose samples are measured."""
        r = recipe
        start = self.profile.train.annealing_start if r.annealing else 1.0
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
        if r.balancing:
            key = ("balanced", coreset, start, r.weighting, r.seed)
            return self._training(key, f"coreset, balanced{tail}", kept, start)
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
        burn_in = int((p.reweight.burn_in if r.burn_in is None else r.burn_in) * run.steps)
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
        return self._training((), "", kept, self.profile.train.annealing_start if annealing else 1.0).steps

    def sampling(self, recipe, final):
        """The samples of a model: the last weights of a run, or those that it kept on the way."""
        p, d = self.profile, self.diffusion
        stops = recipe.early_stopping and recipe.ratio < 1
        step = self._steps_at(recipe.ratio, recipe.annealing) if stops else "end"
        guided = d.guided and not recipe.unguided
        size = p.sample.count * p.data.channels * p.data.image_size**2
        return Run(
            ("sampling", final.key, step, guided),
            "sampling",
            f"{p.sample.count:,} samples, {d.sampler_steps} steps" + (", guided" if guided else ""),
            d.network,
            images=p.sample.count,
            evaluations=p.sample.count * d.sampler_steps * (2 if guided else 1),
            bytes=size,
            scratch=size,
        )

    # ---- the coreset

    def coreset(self, recipe):
        """(what tells the coreset apart, number of images)."""
        r, p = recipe, self.profile
        scope = r.scope or (p.select.moderate_scope if r.method == "moderate" else DEFAULT_SCOPE[r.method])
        groups = self.counts if scope == "class" else [self.n]
        if r.method == "moderate":
            kept = sum(_moderate_count(size, r.ratio, scope) for size in groups)
            choice = (r.encoder or p.encoders.default, r.centre or p.select.moderate_centre, r.band)
        else:
            kept = sum(round(r.ratio * size) for size in groups)
            choice = (r.seed,) if r.method == "random" else (r.encoder or p.encoders.default,)
        return ("all",) if kept == self.n else (r.method, r.ratio, scope, *choice), kept

    # ---- the network of FID, and the encoders

    def real_features(self):
        """All the images in the network of FID, and the statistics of all and of each class."""
        width = 64 if self.profile.evaluate.network == "classifier" else 2048
        sides = (self.n, *(self.counts if self.profile.evaluate.classwise else ()))
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
        if not p.evaluate.cmmd:
            return []
        own = p.evaluate.cmmd == "clip"
        width = self._width("clip") if own else 768
        features = Run(
            ("features", "cmmd"),
            "features",
            f"CMMD, {NAMES[self.cmmd_network]}",
            self.cmmd_network,
            images=min(self.n, MOST_EMBEDDED),
            evaluations=min(self.n, MOST_EMBEDDED),
            bytes=4 * width * min(self.n, MOST_EMBEDDED),
        )
        return [*([self.classifier("clip")] if own and not p.encoders.clip.weights else []), features]

    @property
    def cmmd_network(self):
        return "clip" if self.profile.evaluate.cmmd == "clip" else "vit"

    def measuring(self, samples):
        """What comes after the samples: pixels out of latents, and the networks that look at them.

        Only the numbers are kept.  The metrics beside FID read its features once more, and near-copies those of
        the samples' other views.
        """
        networks = {"metric": 1}
        if self.latent:
            networks = {
                "vae": 1,
                "metric": 2,
                **({self.cmmd_network: 1} if self.profile.evaluate.cmmd else {}),
            }
        found = []
        for network, times in networks.items():
            kind = "decoding" if network == "vae" else "measuring"
            images = times * samples.images
            if network == "metric":
                images += (self._views - 1) * min(samples.images, MOST_NEIGHBOURS)
            key = (kind, network, samples.key)
            found.append(Run(key, kind, NAMES[network], network, images=images, evaluations=images))
        return found

    @property
    def _views(self):
        """Views of a sample in the features of FID: shifted for the small classifier, mirrored with flips."""
        return (9 if self.profile.evaluate.network == "classifier" else 1) * (1 + self.profile.train.flip)

    def comparison(self, recipe, samples):
        """Pairs of images whose distance is taken: near-copies, and of latents KID, CMMD, precision and recall."""
        p, r, m, n = self.profile, recipe, samples.images, self.n
        whole = r.early_stopping or r.infobatch or r.annealing
        seen, kept = (("all",), n) if whole else self.coreset(r)
        some, few = min(m, MOST_NEIGHBOURS), min(n, MOST_NEIGHBOURS)
        pairs = (1 + p.train.flip + self._views) * some * kept
        if self.latent:
            subsets = max(m, n) > MOST_PAIRED
            pairs += 3 * KID_SUBSETS * min(KID_SUBSET_SIZE, m, n) ** 2 if subsets else m * m + n * n + m * n
            pairs += some * some + some * few
            pairs += m * m + m * min(n, MOST_EMBEDDED) if p.evaluate.cmmd else 0
        what = "near-copies and the metrics beside FID" if self.latent else "near-copies"
        return Run(("comparison", samples.key, seen), "comparison", what, "distances", pairs=pairs)

    def embedding(self, encoder):
        """The training of an encoder, unless its weights are published, and the features of all images."""
        name = encoder.removesuffix("-rn50")
        weights = getattr(getattr(self.profile.encoders, name), "weights", "")
        width, forward = self._width(name), self.profile.encoders.ddae.draws if name == "ddae" else 1
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
        epochs, unet = self.profile.encoders.ddae.epochs, _Planner(self.profile, self.counts)
        steps = epochs * -(-self.n // unet.diffusion.batch_size)
        run = unet._trained((), "DDAE", steps, epochs * self.n)
        return dataclasses.replace(run, key=("encoder", "ddae"), kind="encoder")

    def classifier(self, name):
        """An encoder that is trained, the classifier for FID ("metric"), or the autoencoder ("vae")."""
        epochs, batch, _ = section(self.profile, name).training.values()
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
        return int(sizes.get(name) or 44.7e6 * (self.profile.encoders.resnet18.width / 64) ** 2)

    def _width(self, name):
        p = self.profile
        if name == "ddae":
            per_level = p.unet.layers + 1
            level = min((p.encoders.ddae.block - 1) // per_level, len(p.unet.channels) - 1)
            return p.unet.channels[::-1][level]
        trained = {"resnet18": 8 * p.encoders.resnet18.width, "inceptionv3": 2048, "clip": 128}
        published = {"resnet18": 512, "inceptionv3": 2048, "clip": 1024}
        return (published if section(p, name).weights else trained)[name]


def section(profile, network):
    """The section of a profile that says how a network of NAMES is trained."""
    own = {"vae": profile.autoencoder, "metric": profile.evaluate}
    return own.get(network) or getattr(profile.encoders, network)


@functools.cache
def _moderate_count(size, ratio, scope):
    return moderate_order(np.zeros(size), ratio, scope)[1]
