"""One run of the method, stage by stage: data, embed, select, reweight, train, sample, evaluate.

An :class:`Experiment` computes the stages of a recipe on demand.  Every stage is stored by content, so
notebooks, the command line and the tables share their results.
"""

import dataclasses
import functools
import hashlib

import numpy as np
import torch

from . import data as data_module
from . import encoders, evaluation, families, latents, needs, sampling, selection, surrogates
from .errors import DedtError
from .evaluation import MOST_EMBEDDED, MOST_NEIGHBOURS, FrechetReference
from .families import FAMILIES
from .plans import ClassSamplerPlan, EpochPlan, InfoBatchPlan
from .processes import Processes
from .randomness import derive
from .recipes import Recipe, checked, load_profile
from .reweighting import GroupDRO, effective_classes
from .selection import Coreset, class_to_sample_weights
from .store import Store, address, read_json, sha256, write_json
from .surrogates import metric_classifier, published_weights, surrogate
from .training import train
from .weights import Published, locate

SPEED = ("checkpoint_every", "channels_last", "compile")
"""Settings that change how fast a run goes, and nothing else."""

SHARED = (
    "data",
    "test",
    "metric_network",
    "yardstick",
    "cmmd_network",
    "autoencoder",
    "decoder",
    "_encoded",
    "pipeline",
)
"""What follows from the profile alone, so that every recipe can use it once it is loaded."""

STAGES = ("embed", "select", "reweight", "train", "sample", "evaluate", "compare")
"""The stages of a recipe in their order."""


class Experiment:
    """The stages of one recipe under one profile.

    ``Experiment("digits", method="moderate", ratio=0.1)``.  profile: a name, a file or a Profile.  store: a
    Store (default: ``runs/``).  report: a folder for the list of images that cannot be read (default: the
    store's).  Everything else is a field of :class:`Recipe`; unknown names raise DedtError.
    Methods compute what is missing and return what is stored.

    A profile that names a number of ``threads`` sets PyTorch's, for the whole process, because sums in
    another order change the last bits.
    """

    def __init__(self, profile="digits", *, store=None, device=None, report=None, **recipe):
        self.profile = load_profile(profile)
        self.recipe = checked(Recipe, recipe)
        ratios = (*self.family.ratios, 1.0)
        if self.recipe.early_stopping and self.recipe.ratio not in ratios:
            raise DedtError(
                f"The run on all the data keeps its weights at the ratios {', '.join(map(str, ratios))} of "
                f"the profile only, so early_stopping cannot be had at {self.recipe.ratio}."
            )
        if self.profile.threads:
            torch.set_num_threads(self.profile.threads)
        self.store = store or Store()
        self.report = report
        self.processes = Processes.from_environment(device)
        self.device = self.processes.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @functools.cached_property
    def family(self):
        """The recipe's kind of diffusion model in this experiment (see :mod:`dedt_lib.families`)."""
        return FAMILIES[self.recipe.model](self)

    def change(self, **recipe):
        """The same experiment with other recipe values; loaded data and networks are shared."""
        other = Experiment(
            self.profile,
            store=self.store,
            device=self.device,
            report=self.report,
            **{**self.recipe.model_dump(), **recipe},
        )
        encoder = ("encoder",) if other.recipe.encoder == self.recipe.encoder else ()
        for shared in (*SHARED, *encoder):
            if shared in self.__dict__:
                other.__dict__[shared] = self.__dict__[shared]
        return other

    # ---- published weights -----------------------------------------------------------------------

    def _published(self, until="compare"):
        """The networks with published weights that the stages ``until`` one need: names of attributes."""
        p, r = self.profile, self.recipe
        latent = r.model != "unet"
        selects = until == "embed" or (r.method != "random" and not (r.early_stopping or r.infobatch))
        cmmd = p.cmmd and (p.cmmd != "clip" or p.clip_weights)
        needed = {
            "encoder": ("embed", selects and published_weights(p, r.encoder or p.encoder)),
            "autoencoder": ("reweight", latent and p.vae_weights),
            "pipeline": ("reweight", r.model == "stable-diffusion" and p.sd_weights),
            "decoder": ("sample", latent and p.vae_decoder_weights),
            "yardstick": ("evaluate", p.metric == "inceptionv3"),
            "cmmd_network": ("compare", latent and cmmd),
        }
        reached = STAGES[: STAGES.index(until) + 1]
        return [name for name, (stage, there) in needed.items() if there and stage in reached]

    def check_weights(self, until="compare"):
        """Load every published network that the stages ``until`` one need, and nothing else.

        So that what a profile names is tried before anything is computed.  Raises DedtError for weights that
        are missing, altered or damaged, and for autoencoders that fit neither the images nor each other.
        """
        p, parts = self.profile, {name: getattr(self, name) for name in self._published(until)}
        sizes = {}
        for name in parts.keys() & {"autoencoder", "decoder"}:
            network = parts[name][0]
            latents.check_fit(network, p.channels, p.latent_image_size)
            sizes[name] = network.config.latent_channels, latents.downsampling(network)
        if len(set(sizes.values())) > 1:
            (one, a), (other, b) = sizes["autoencoder"], sizes["decoder"]
            raise DedtError(
                f"{p.vae_weights} makes {one} channels of latents, one for {a} pixels, but "
                f"{p.vae_decoder_weights} reads {other}, one for {b}. Choose an autoencoder and a decoder "
                "that were made for each other."
            )
        if "pipeline" in parts and "autoencoder" in parts:
            unet, own = parts["pipeline"][0].unet.config.in_channels, sizes["autoencoder"][0]
            if unet != own:
                raise DedtError(
                    f"{p.vae_weights} makes {own} channels of latents, but the U-Net of {p.sd_weights} takes "
                    f"{unet}: "
                    'set vae_weights = "pipeline" for the pipeline\'s own autoencoder.'
                )

    def weights_note(self, *names):
        """Facts for a manifest: where the published ones of the networks ``names`` came from, by content."""
        parts = {name: getattr(self, name) for name in names}
        files = {
            name: part.get("published") if isinstance(part, dict) else getattr(part[0], "published", None)
            for name, part in parts.items()
        }
        facts = {name: published.facts for name, published in files.items() if published}
        return {"weights": facts} if facts else {}

    # ---- data ------------------------------------------------------------------------------------

    @functools.cached_property
    def data(self):
        """The training images: LabelledImages."""
        return self._load("train")

    @functools.cached_property
    def test(self):
        """Held-out images, or None when the source has none."""
        return self._load("test")

    def _load(self, split):
        p = self.profile
        data = data_module.load(
            p.data,
            split=split,
            path=p.path,
            image_size=p.image_size,
            channels=p.channels,
            per_class=p.per_class if split == "train" else None,
            store=self.store,
            skip_bad=p.skip_bad,
            report=self.report,
        )
        return data and data.named(p.class_names)

    # ---- what can be had -------------------------------------------------------------------------

    def check(self, stage="evaluate"):
        """Raise DedtError for what the numbers of images do not allow, before it is computed.

        stage: "select", "train" or "evaluate", each with those before it; "measure": FID alone, without them.
        """
        counts, names = self.data.class_counts.tolist(), self.data.class_names
        if stage == "select":
            needs.selection(self.recipe, self.scope, counts, names)
        elif stage != "measure":
            needs.training(self.recipe, self.scope, counts, names)
        if stage in ("evaluate", "measure"):
            needs.evaluation(self.profile, self.recipe, counts)

    # ---- embed -----------------------------------------------------------------------------------

    @functools.cached_property
    def encoder(self):
        """The recipe's surrogate encoder and its manifest (see :mod:`dedt_lib.surrogates`)."""
        return surrogate(self, self.recipe.encoder or self.profile.encoder)

    def embed(self):
        """Features of all training images by the encoder: float32 [n, d], memory-mapped and read-only."""
        network, manifest = self.encoder
        recipe = {"version": 1, "data": self.data.fingerprint, "encoder": manifest["key"]}

        def work(folder):
            encoders.embed(network, self.data.images, device=self.device, path=folder / "features.npy")
            np.save(folder / "labels.npy", self.data.labels)
            return self.weights_note("encoder")

        folder = self.store.run("features", recipe, work, resumable=True)
        return np.load(folder / "features.npy", mmap_mode="r")

    # ---- select ----------------------------------------------------------------------------------

    @property
    def scope(self):
        """The selector's scope: the recipe's, else the profile's, else that of the cited code."""
        if self.recipe.scope:
            return self.recipe.scope
        by_profile = {"moderate": self.profile.moderate_scope}
        return by_profile.get(self.recipe.method, selection.DEFAULT_SCOPE[self.recipe.method])

    def select(self):
        """The :class:`~dedt_lib.selection.Coreset` of this recipe, without class weights."""
        # What was left out is no part of the stored choice: a file beside the images does not change it.
        reading = self.data.reading and self.data.reading.facts
        coreset = Coreset.load(self._coreset_folder)
        return dataclasses.replace(coreset, reading=reading, conflicts=self.data.conflicts)

    @functools.cached_property
    def _coreset_folder(self):
        self.check("select")
        r, p = self.recipe, self.profile
        originals = self.data.originals
        copies = int((originals != np.arange(len(originals))).sum())
        choice = {"method": r.method, "ratio": r.ratio, "scope": self.scope}
        recipe = {"version": 1, "data": self.data.fingerprint, "ids": address("", self.data.ids), **choice}
        if r.method == "random":
            choice["seed"] = recipe["seed"] = r.seed
        else:
            recipe["encoder"] = self.encoder[1]["key"]
        if r.method == "gaussian":
            choice["ridge"] = recipe["ridge"] = p.gaussian_ridge
            if p.gaussian_threshold != "count":
                choice["threshold"] = recipe["threshold"] = p.gaussian_threshold
        if r.method == "moderate":
            choice["centre"] = recipe["centre"] = r.centre or p.moderate_centre
            if r.band != "center":
                choice["band"] = recipe["band"] = r.band

        recipe |= non_default({"copies": copies}, {"copies": 0})

        def work(folder):
            features = None if r.method == "random" else self.embed()
            if copies:
                choice["originals"] = originals
            names = {"ids": self.data.ids, "class_names": self.data.class_names}
            selection.select(features, self.data.labels, **choice, **names).save(folder)

        return self.store.run("coreset", recipe, work)

    # ---- latents ---------------------------------------------------------------------------------

    @functools.cached_property
    def autoencoder(self):
        """The autoencoder that makes latents (diffusers' AutoencoderKL), and the key of its weights."""
        return families.autoencoder(self)

    @functools.cached_property
    def decoder(self):
        """The autoencoder that makes images of samples, and the key of its weights."""
        return families.decoder(self)

    @functools.cached_property
    def _encoded(self):
        return families.encoded(self)

    @property
    def latents(self):
        """All training images as latents, encoded once: :class:`~dedt_lib.latents.Latents`."""
        return self._encoded[0]

    @property
    def latents_key(self):
        """The name of the stage that holds the latents."""
        return self._encoded[1]

    @functools.cached_property
    def pipeline(self):
        """The pre-trained Stable Diffusion pipeline (diffusers'), and the key of its weights."""
        return families.pipeline(self)

    # ---- train -----------------------------------------------------------------------------------

    @property
    def settings(self):
        """The :class:`~dedt_lib.training.TrainingSettings` of the recipe's model under the profile."""
        return self.family.settings

    def address_of_settings(self, settings):
        """The training settings that decide a result, as a dict."""
        later = {"precision": "float32", "optimizer": "adam", "ema_warmup": "power"}
        values = {k: v for k, v in vars(settings).items() if k not in (*SPEED, *later)}
        return values | non_default({name: getattr(settings, name) for name in later}, later)

    def build_model(self, seed=None):
        """The diffusion model, freshly initialised from the seed."""
        return self.family.build(self.recipe.seed if seed is None else seed)

    def _training_recipe(self, coreset, settings):
        """What decides a training run: data, samples, weights, plan, model, settings and seed, by content."""
        r, p, indices = self.recipe, self.profile, coreset.indices
        recipe = {
            "version": 1,
            "data": self.data.fingerprint,
            "indices": hashlib.sha256(np.asarray(indices, dtype=np.int64).tobytes()).hexdigest()[:16],
            "samples": len(indices),
            "class_weights": None if coreset.weights is None else [float(w) for w in coreset.weights],
            "annealing_start": p.annealing_start if r.annealing else 1.0,
            "model": self.family.network,
            "settings": self.address_of_settings(settings),
            "seed": r.seed,
        }
        if r.infobatch:
            recipe["infobatch"] = {r.infobatch: r.ratio}
        if coreset.weights is not None:
            # Older runs divided the loss by the mean weight of each batch, as group DRO does.
            keep = r.annealing and p.annealing_weights == "keep"
            recipe |= {"normaliser": "coreset"} if r.weighting == "loss" or keep else {}
            extra = {"weighting": r.weighting, "annealing_weights": "keep" if keep else "uniform"}
            recipe |= non_default(extra, {"weighting": "loss", "annealing_weights": "uniform"})
        return recipe

    def _train(self, stage, coreset, *, dro=None):
        """Folder of a training run of this recipe on ``coreset``; with ``dro`` it is the proxy's."""
        epochs = self.family.proxy_epochs if dro else self.settings.epochs
        settings = dataclasses.replace(self.settings, epochs=epochs)
        recipe = self._training_recipe(coreset, settings)
        if dro:
            recipe["dro"] = dro["recipe"]
        full = len(coreset.indices) == len(self.data) and coreset.weights is None
        full = full and not (dro or self.recipe.infobatch)

        def work(folder):
            weighting = dro["make"]() if dro else None
            result = train(
                self.build_model(),
                self.family.source(),
                self.plan(coreset, epochs),
                settings,
                seed=self.recipe.seed,
                folder=folder,
                weighting=weighting,
                keep_steps=self._kept_steps if full else (),
                device=self.device,
                processes=self.processes,
                progress=stage,
            )
            if dro and self.processes.main:
                np.savez(folder / "dro.npz", **{k: v.numpy() for k, v in weighting.state().items()})
                np.save(folder / "weights.npy", weighting.average)
            return {
                "steps": result.steps,
                "images_seen": result.images_seen,
                "processes": self.processes.count,
                "training_seconds": round(result.seconds, 3),
                "training_cpu_seconds": round(result.cpu_seconds, 3),
                **self.weights_note(*self._published("train")),
            }

        return self.store.run(stage, recipe, work, resumable=True, processes=self.processes)

    def plan(self, coreset, epochs=None):
        """Which samples each epoch visits, with what weights: see :mod:`dedt_lib.plans`.

        epochs: by default those of the recipe's model.
        """
        r, p, epochs = self.recipe, self.profile, epochs or self.settings.epochs
        start = p.annealing_start if r.annealing else 1.0
        if r.infobatch:
            keep = {"prune_ratio": 1 - r.ratio} if r.infobatch == "ratio" else {"budget": r.ratio}
            return InfoBatchPlan(len(self.data), delta=start, epochs=epochs, seed=r.seed, **keep)
        needs.no_empty_class(coreset.counts, coreset.class_names, coreset.ratio)
        common = {"total": len(self.data), "epochs": epochs, "annealing_start": start}
        if coreset.weights is None:
            return EpochPlan(coreset.indices, **common)
        if p.annealing_weights == "keep":
            everything = class_to_sample_weights(coreset.weights, self.data.class_counts)
            common["tail_weights"] = everything[self.data.labels]
        if r.weighting == "sampler":
            labels = self.data.labels[coreset.indices]
            return ClassSamplerPlan(coreset.indices, labels, coreset.weights, seed=r.seed, **common)
        return EpochPlan(coreset.indices, weights=coreset.sample_weights[coreset.indices], **common)

    def steps_at(self, ratio, annealing=False):
        """Optimiser steps of a run on a coreset with the share ``ratio`` of every class.

        The control at equal steps is the run on all the data stopped there, so it has that run's warm-up.
        """
        count = sum(round(ratio * n) for n in self.data.class_counts)
        start = self.profile.annealing_start if annealing else 1.0
        settings = self.settings
        plan = EpochPlan(
            np.arange(count), total=len(self.data), epochs=settings.epochs, annealing_start=start
        )
        return plan.steps(settings.batch_size)

    @property
    def _kept_steps(self):
        """Steps of the run on all the data whose weights the controls at equal compute ask for."""
        return {
            self.steps_at(ratio, annealing) for ratio in self.family.ratios for annealing in (False, True)
        }

    @functools.cached_property
    def _full(self):
        """The experiment on all the data with this seed: reference and control at equal compute."""
        plain = {name: field.default for name, field in Recipe.model_fields.items()}
        same = {"model": self.recipe.model, "seed": self.recipe.seed}
        return self.change(**{**plain, "method": "random", "ratio": 1.0, **same})

    @functools.cached_property
    def _full_coreset(self):
        return self._full.change(seed=0).select()

    def _reference_folder(self):
        return self._full._train("training", self._full_coreset)

    def reference(self):
        """The reference model: EMA weights of the run on all the data with this seed."""
        return self._load_model(self._reference_folder() / "model.safetensors")

    def _load_model(self, path):
        return encoders.load_weights(self.build_model(), path).to(self.device).eval()

    # ---- reweight --------------------------------------------------------------------------------

    @property
    def burn_in(self):
        """Share of the proxy's steps before the class weights move."""
        return self.profile.dro_burn_in if self.recipe.burn_in is None else self.recipe.burn_in

    def _proxy_folder(self):
        self.check("train")
        p, coreset = self.profile, self.select()
        plain = self.change(annealing=False)
        proxy_plan = plain.plan(coreset, self.family.proxy_epochs)
        settings = {
            "step_size": p.dro_step_size,
            "smoothing": p.dro_smoothing,
            "clip": p.dro_clip,
            "burn_in": int(self.burn_in * proxy_plan.steps(self.settings.batch_size)),
        }
        settings |= non_default(
            {"absent": p.dro_absent, "scores": p.dro_scores, "window": p.dro_window},
            {"absent": "previous", "scores": "train", "window": 1.0},
        )
        reference = self.store.manifest(self._reference_folder())["key"]
        dro = {
            "recipe": {**settings, "reference": reference},
            "make": lambda: GroupDRO(self.reference(), coreset.counts, processes=self.processes, **settings),
        }
        return plain._train("proxy", coreset, dro=dro)

    def reweight(self):
        """What group DRO learned on this coreset: a dict of arrays.

        weights float64 [K] (averaged alpha), trajectory float64 [T, K], excess float64 [T, K] (clipped class
        means lambda), clipped float64 [T] (share of samples clipped to zero), effective float64 [T]
        (effective number of classes), burn_in int (steps).
        """
        self.check_weights("reweight")
        folder = self._proxy_folder()
        with np.load(folder / "dro.npz") as file:
            history = {name: file[name] for name in file.files}
        return {
            "weights": np.load(folder / "weights.npy"),
            "effective": effective_classes(history["trajectory"]),
            "burn_in": self.store.manifest(folder)["recipe"]["dro"]["burn_in"],
            **history,
        }

    @property
    def _coreset_seen(self):
        """The images that the recipe trains on, before any annealing."""
        return self._full_coreset if self.recipe.early_stopping or self.recipe.infobatch else self.select()

    def weighted_coreset(self):
        """The coreset, with its class weights if the recipe asks for reweighting or balancing."""
        if self.recipe.infobatch:
            return self._full_coreset
        coreset = self.select()
        if self.recipe.balancing:
            K = len(coreset.class_names)
            return coreset.with_weights(np.full(K, 1 / K))
        return coreset.with_weights(self.reweight()["weights"]) if self.recipe.reweighting else coreset

    # ---- the model -------------------------------------------------------------------------------

    def train(self):
        """The recipe's diffusion model (EMA weights), trained if need be."""
        self.check_weights("train")
        return self._load_model(self._model_file())

    def training(self):
        """Manifest of the recipe's training run, with "losses" float32 [steps] added."""
        folder = self._training_folder()
        return {**self.store.manifest(folder), "losses": np.load(folder / "losses.npy")}

    def _training_folder(self):
        self.check("train")
        if self.recipe.early_stopping:
            return self._reference_folder()
        return self._train("training", self.weighted_coreset())

    @property
    def _stopping_step(self):
        return self.steps_at(self.recipe.ratio, self.recipe.annealing)

    def _model_file(self):
        folder = self._training_folder()
        if not self.recipe.early_stopping or self.recipe.ratio == 1:
            return folder / "model.safetensors"
        file = folder / f"ema-{self._stopping_step:06d}.safetensors"
        if not file.exists():
            raise DedtError(
                f"The run in {folder} is older than the ratio {self.recipe.ratio} in the profile and kept no "
                "weights there. Delete that folder and run again."
            )
        return file

    def save_pipeline(self, folder):
        """Save the recipe's fine-tuned Stable Diffusion as an ordinary diffusers pipeline.

        folder: to be opened by ``StableDiffusionPipeline.from_pretrained``; it decodes with the autoencoder
        that :meth:`sample` decodes with.  Raises DedtError for other models.
        """
        if self.recipe.model != "stable-diffusion":
            raise DedtError(
                f"Only model='stable-diffusion' is a pipeline; this recipe has '{self.recipe.model}'."
            )
        from .models.stable_diffusion import save_pipeline

        save_pipeline(self.train(), families.twin(self.pipeline[0], vae=self.decoder[0]), folder)

    # ---- sample and evaluate ---------------------------------------------------------------------

    def sample_labels(self):
        """Classes of the samples, in the shares of the training images: int64 [samples]."""
        return sampling.proportional_labels(self.profile.samples, self.data.class_counts)

    def _samples_folder(self):
        p, file, settings = self.profile, self._model_file(), self.family.sampling
        recipe = {
            "version": 1,
            "model": file.parent.name + "/" + file.stem,
            "samples": p.samples,
            "seed": derive(self.recipe.seed, "sampling"),
            **settings,
        }

        recipe |= non_default({"precision": p.sample_precision}, {"precision": "float32"})
        if len(set(self.data.class_counts)) > 1:
            recipe["labels"] = "proportional"
        if self.recipe.model != "unet":
            recipe["decoder"] = self.decoder[1]

        def work(folder):
            sampling.sample(
                self._load_model(file),
                self.sample_labels(),
                seed=recipe["seed"],
                batch_size=p.sample_batch_size,
                sampler=self.family.sampler,
                decode=self.family.decode,
                folder=folder,
                precision=p.sample_precision,
                processes=self.processes,
                device=self.device,
                **settings,
            )
            return self.weights_note("decoder") if self.recipe.model != "unet" else {}

        return self.store.run("samples", recipe, work, resumable=True, processes=self.processes)

    def sample(self):
        """Generated images: uint8 [samples, C, H, W]; their classes are :meth:`sample_labels`."""
        self.check_weights("sample")
        return np.load(self._samples_folder() / "samples.npy")

    @functools.cached_property
    def metric_network(self):
        """The small classifier whose features FID is measured in, and the manifest of its training."""
        return metric_classifier(self)

    @functools.cached_property
    def yardstick(self):
        """What FID is measured with: dict of torch-fidelity's extractor, its layer, weights_path and key.

        published: the weights.Published of Inception, where that is the network.
        """
        if self.profile.metric == "inceptionv3":
            path = locate("inception-fid", self.profile.metric_weights)
            digest = sha256(path)
            key = address("metric", {"network": "inception-fid", "sha256": digest})
            how = {"extractor": evaluation.INCEPTION, "layer": "2048", "weights_path": path, "key": key}
            return {**how, "published": Published("inception-fid", None, path.parent, {path.name: digest})}
        network, manifest = self.metric_network
        weights = manifest["files"]["model.safetensors"]["sha256"]
        name = evaluation.register_classifier(network, weights, self.data.images.shape[1:])
        return {"extractor": name, "layer": "features", "weights_path": None, "key": manifest["key"]}

    @property
    def _gpu(self):
        """Where distances are computed: the GPU, or None for NumPy."""
        return self.device if str(self.device).startswith("cuda") else None

    def metric_features(self, images, out=None):
        """Features of uint8 images for FID: float32 [n, d]; with ``out``, a ``.npy`` file, memory-mapped."""
        how = {name: self.yardstick[name] for name in ("extractor", "layer", "weights_path")}
        return evaluation.extract_features(images, **how, out=out, cuda=self._gpu is not None)

    @functools.cached_property
    def _generated(self):
        return self.metric_features(self.sample())

    def real(self):
        """The real side of every FID, computed once: a dict.

        features float32 [n, d] of all training images (memory-mapped), all: their FrechetReference, classes:
        the list of those of each class, None for a class with too few images, empty for a profile without
        class-wise values.
        """
        folder, K = self._real_folder(), len(self.data.class_names)
        references = {path.stem: FrechetReference.load(path) for path in folder.glob("reference-*.npz")}
        return {
            "features": np.load(folder / "features.npy", mmap_mode="r"),
            "all": references["reference-0000"],
            "classes": [references.get(f"reference-{k + 1:04d}") for k in range(K)]
            if self.profile.classwise
            else [],
        }

    def _real_folder(self):
        self.check("measure")
        recipe = {"version": 1, "data": self.data.fingerprint, "metric": self.yardstick["key"]}
        recipe |= non_default({"classwise": self.profile.classwise}, {"classwise": True})

        def work(folder):
            features, labels = (
                self.metric_features(self.data.images, folder / "features.npy"),
                self.data.labels,
            )
            references = [FrechetReference.of(features)]
            if self.profile.classwise:
                references += evaluation.classwise_references(features, labels, least=needs.REAL_IMAGES)
            for k, reference in enumerate(references):
                if reference:
                    reference.save(folder / f"reference-{k:04d}.npz")
            return self.weights_note("yardstick")

        return self.store.run("real", recipe, work)

    def floor(self):
        """Real half against real half: dict with "fid" and "classwise" [K] (see evaluation.real_floor).

        A class with too few images has None.
        """
        self.check("measure")
        recipe = {"version": 1, "data": self.data.fingerprint, "metric": self.yardstick["key"]}
        recipe |= non_default({"classwise": self.profile.classwise}, {"classwise": True})

        def work(folder):
            features = self.real()["features"]
            splits = 10 if features.shape[1] < 256 else 1  # at 2048 features a halving takes minutes
            floor = evaluation.real_floor(
                features, self.data.labels, splits=splits, classwise=self.profile.classwise
            )
            write_json(folder / "floor.json", {**floor, "classwise": numbers(floor["classwise"])})

        return read_json(self.store.run("floor", recipe, work) / "floor.json")

    def evaluate(self):
        """FID, class-wise FID and near-copies of the recipe's samples: a dict of numbers.

        fid float; classwise list [K], empty where the profile wants none, None for a class with too few
        images or samples; classwise_left_out: those classes in words; protocol: what the FID was measured
        with.

        copies: share of samples at most as far from a training image of this run as all but 1 % of the
        held-out images are from any training image, which is ``copies_threshold`` grey levels; of a coreset
        fewer than 1 % of new images lie so near by chance.  copies_features: the same in the features of FID,
        with a threshold of its own, which looks past a shift by a pixel (see :meth:`distances_to_training`).
        Both are of at most MOST_NEIGHBOURS samples.
        held_out: how many images gave the thresholds; leaks: how many others are training images and were
        left out.  All None without held-out images.
        """
        self.check_weights("evaluate")
        self.check()
        samples_folder = self._samples_folder()
        coreset = self._coreset_seen
        seen = "all" if self.recipe.annealing else address("", coreset.indices.tolist())
        recipe = {
            "version": 3,
            "samples": samples_folder.name,
            "metric": self.yardstick["key"],
            "data": self.data.fingerprint,
            "test": self.test and self.test.fingerprint,
            "seen": seen,
        }
        recipe |= non_default(
            {"classwise": self.profile.classwise, "flip": self.profile.flip},
            {"classwise": True, "flip": False},
        )

        def work(folder):
            images, real, generated = self.sample(), self.real(), self._generated
            labels, classwise, left_out = self.sample_labels(), np.empty(0), []
            if self.profile.classwise:
                classwise = evaluation.classwise_frechet(
                    real["classes"], None, generated, labels, partial=True
                )
                drawn = np.bincount(labels, minlength=len(classwise))
                left_out = needs.left_out(self.data.class_counts, drawn, self.data.class_names)
            result = {
                "fid": evaluation.frechet_distance(real["all"], generated),
                "classwise": numbers(classwise),
                "classwise_left_out": left_out,
                "protocol": evaluation.protocol(
                    samples=len(images),
                    reference=f"all {len(self.data)} training images",
                    labels="labels in the shares of the training images",
                    width=generated.shape[1],
                    extractor=self.yardstick["extractor"],
                    layer=self.yardstick["layer"],
                    seed=self.recipe.seed,
                )
                + self._sampled_in,
                **self._copies(images[:MOST_NEIGHBOURS], None if seen == "all" else coreset.indices),
            }
            write_json(folder / "metrics.json", result)

        return read_json(self.store.run("metrics", recipe, work) / "metrics.json")

    def _copies(self, images, among):
        """What metrics.json says of the first samples: near-copies of the training images ``among``."""
        held_out = self.held_out() or {}
        found = {name: held_out.get(name) for name in ("held_out", "leaks")}
        features = self._generated[: len(images)]
        distances = self.distances_to_training(images, among, features) if held_out.get("held_out") else {}
        for name, reading in (("copies", "pixels"), ("copies_features", "features")):
            threshold = held_out.get(f"{reading}_threshold")
            found[f"{name}_threshold"] = threshold
            found[name] = None if threshold is None else float((distances[reading] <= threshold).mean())
        return found

    @property
    def _sampled_in(self):
        """What the protocol says of the precision, when that is not float32."""
        precision = self.profile.sample_precision
        return "" if precision == "float32" else f", sampled in {precision}"

    def distances_to_training(self, images, among=None, features=None):
        """How far uint8 images are from the nearest training image: dict of "pixels", "features" float64 [n].

        among: the positions of the training images that count, int; all by default.  features: of the images
        (:meth:`metric_features`), where they are known.  With flips in training an image and its mirror image
        are compared, whichever is nearer.  In the features of a small classifier, which sees single pixels,
        the nearest of all shifts by a pixel counts as well.
        """
        mirrored = self.profile.flip
        how = {"among": among, "device": self._gpu}
        pixels, _ = evaluation.nearest_distances(images, self.data.images, mirrored=mirrored, **how)
        views = evaluation.views(images, mirrored=mirrored, shifted=self.profile.metric == "classifier")
        as_they_are = next(views)
        features = self.metric_features(as_they_are) if features is None else features
        sides = [features, *map(self.metric_features, views)]
        return {
            "pixels": pixels,
            "features": evaluation.nearest_features(sides, self.real()["features"], **how),
        }

    def held_out(self):
        """Distances of held-out images to the training images, computed once; None without such images.

        pixels, features: float64 [held_out], of at most MOST_NEIGHBOURS images without those that are
        training images themselves (leaks: how many); pixels_threshold, features_threshold: what only 1 % of
        them fall below, None where no image is left.
        """
        if self.test is None:
            return None
        recipe = {
            "version": 1,
            "data": self.data.fingerprint,
            "test": self.test.fingerprint,
            "metric": self.yardstick["key"],
            "flip": self.profile.flip,
        }

        def work(folder):
            chosen = evaluation.spread(self.test.labels, MOST_NEIGHBOURS)
            np.savez(folder / "distances.npz", **self.distances_to_training(self.test.images[chosen]))

        with np.load(self.store.run("held-out", recipe, work) / "distances.npz") as file:
            new = file["pixels"] > evaluation.SAME
            distances = {name: file[name][new] for name in ("pixels", "features")}
        thresholds = {f"{name}_threshold": evaluation.near(values) for name, values in distances.items()}
        return {**distances, **thresholds, "held_out": int(new.sum()), "leaks": int((~new).sum())}

    def compare(self):
        """What FID does not tell of the recipe's samples against the training images: a dict of numbers.

        kid, precision and recall in the features of FID, the latter None where there are too few images for
        three neighbours; cmmd, the biased value of the published code, and cmmd_unbiased in the embeddings of
        the profile's CLIP, where it names one.  comparison_protocol: of how many images each.
        """
        self.check_weights()
        self.check()
        network, key = self.cmmd_network if self.profile.cmmd else (None, "")
        recipe = {
            "version": 2,
            "samples": self._samples_folder().name,
            "data": self.data.fingerprint,
            "metric": self.yardstick["key"],
            "cmmd": key,
        }

        def work(folder):
            real, generated, device = self.real()["features"], self._generated, self._gpu
            chosen, drawn = self._neighbours, generated[:MOST_NEIGHBOURS]
            subsets = max(len(real), len(generated)) > evaluation.MOST_PAIRED
            notes = [
                f"KID as the mean over {evaluation.KID_SUBSETS} subsets of {evaluation.KID_SUBSET_SIZE}"
                if subsets
                else "KID of all pairs",
                f"precision and recall of {len(drawn)} samples and {len(chosen)} training images",
            ]
            result = dict.fromkeys(("precision", "recall", "cmmd", "cmmd_unbiased"))
            result["kid"] = evaluation.kid(real, generated, device=device)
            if min(len(chosen), len(drawn)) > 3:
                sides = real if len(chosen) == len(real) else real[chosen], drawn
                radii = self._neighbour_radii()
                pair = evaluation.precision_recall(*sides, radii=radii, device=device)
                result["precision"], result["recall"] = pair
            if network is not None:
                embeddings, within = self._cmmd_real()
                generated = surrogates.unit_embeddings(network, self.sample(), self.device)
                pair = evaluation.both_cmmds(embeddings, generated, within=within, device=device)
                result["cmmd"], result["cmmd_unbiased"] = pair
                notes.append(f"CMMD against {len(embeddings)} training images")
            write_json(folder / "comparison.json", {**result, "comparison_protocol": ", ".join(notes)})

        return read_json(self.store.run("comparison", recipe, work) / "comparison.json")

    @property
    def _neighbours(self):
        """Positions of the training images that precision and recall take."""
        return evaluation.spread(self.data.labels, MOST_NEIGHBOURS)

    def _neighbour_radii(self):
        """Of those images, computed once: see ``evaluation.neighbour_radii``."""
        real, chosen = self._real_folder(), self._neighbours

        def work(folder):
            features = np.load(real / "features.npy", mmap_mode="r")[chosen]
            np.save(folder / "radii.npy", evaluation.neighbour_radii(features, device=self._gpu))

        recipe = {"version": 1, "real": real.name, "images": len(chosen)}
        return np.load(self.store.run("radii", recipe, work) / "radii.npy")

    @functools.cached_property
    def cmmd_network(self):
        """The CLIP in whose embeddings CMMD is measured, and the key of its weights."""
        return surrogates.cmmd_network(self)

    def _cmmd_real(self):
        """Unit embeddings of the training images for CMMD, float32 [n, d] (memory-mapped), and their own
        part.

        Of more than MOST_EMBEDDED images so many, each class in its share.
        """
        network, key = self.cmmd_network
        images = len(self.data)
        recipe = {"version": 1, "data": self.data.fingerprint, "network": key}
        if images > MOST_EMBEDDED:
            recipe["images"] = MOST_EMBEDDED

        def work(folder):
            path = folder / "embeddings.npy"
            if images <= MOST_EMBEDDED:
                surrogates.unit_embeddings(network, self.data.images, self.device, path)
            else:
                chosen = evaluation.spread(self.data.labels, MOST_EMBEDDED)
                parts = [self.data.images[part] for part in np.array_split(chosen, -(-len(chosen) // 1024))]
                embeddings = [surrogates.unit_embeddings(network, part, self.device) for part in parts]
                np.save(path, np.concatenate(embeddings))
            return self.weights_note("cmmd_network")

        def pair(folder):
            write_json(folder / "within.json", evaluation.within_real(embeddings, device=self._gpu))

        stage = self.store.run("cmmd", recipe, work)
        embeddings = np.load(stage / "embeddings.npy", mmap_mode="r")
        within = self.store.run("cmmd-within", {"version": 1, "embeddings": stage.name}, pair)
        return embeddings, read_json(within / "within.json")

    # ---- one cell --------------------------------------------------------------------------------

    def costs(self):
        """Cost ledger of this recipe: stage -> {"seconds", "cpu_seconds", "images", "evaluations"}.

        images: those that a diffusion model was trained on.  evaluations: of the network, in forward passes
        of one image; a backward pass counts two (see the evaluations of :mod:`dedt_lib.families`).  Stages
        that the recipe does not need are absent.
        """
        r, ledger = self.recipe, {}

        def add(name, manifest, per_image=self.family.evaluations):
            images = manifest.get("images_seen", 0)
            ledger[name] = {
                "seconds": manifest.get("training_seconds", manifest["seconds"]),
                "cpu_seconds": manifest.get("training_cpu_seconds", manifest["cpu_seconds"]),
                "images": images,
                "evaluations": per_image * images,
            }

        if r.early_stopping:
            manifest = self.store.manifest(self._reference_folder())
            add("train", manifest)
            share = self._stopping_step / manifest["steps"]
            return {"train": {name: value * share for name, value in ledger["train"].items()}}
        if r.method != "random" and not r.infobatch:
            add("embed", self.encoder[1])
            add("select", self.store.manifest(self._coreset_folder))
        if r.reweighting:
            add("reference", self.store.manifest(self._reference_folder()))
            add("proxy", self.store.manifest(self._proxy_folder()), per_image=self.family.proxy_evaluations)
        add("train", self.store.manifest(self._training_folder()))
        return ledger

    def cell(self):
        """Everything a table shows of this recipe, ready for JSON: metrics, costs, weights, provenance."""
        self.check_weights()
        self.check()
        metrics, training = self.evaluate(), self.training()
        early = self.recipe.early_stopping
        coreset = self._full_coreset if early else self.weighted_coreset()
        steps = self._stopping_step if early else training["steps"]
        images = self.costs()["train"]["images"]
        result = {
            "profile": self.profile.name,
            "recipe": self.recipe.model_dump(),
            "scope": self.scope,
            "class_names": list(self.data.class_names),
            "class_counts": coreset.counts.tolist(),
            "real_class_counts": self.data.class_counts.tolist(),
            "class_weights": None if coreset.weights is None else coreset.weights.tolist(),
            "normaliser": None if coreset.weights is None else "coreset",
            "steps": steps,
            "realised": images / (self.settings.epochs * len(self.data)),
            "costs": self.costs(),
            "floor": self.floor(),
            "run": training["key"],
            "provenance": {
                k: training[k] for k in ("date", "machine", "device", "threads", "python", "versions")
            }
            | self.weights_note(*self._published()),
            **metrics,
            **(self.compare() if self.recipe.model != "unet" else {}),
        }
        if self.recipe.reweighting:
            dro = self.reweight()
            result["dro"] = {
                "burn_in": dro["burn_in"],
                "effective_classes": float(effective_classes(dro["weights"])),
                "clipped": float(dro["clipped"][dro["burn_in"] :].mean()),
                "mean_excess": float(dro["excess"][dro["burn_in"] :].mean()),
                "steps": len(dro["trajectory"]),
                "trajectory": np.round(thin(dro["trajectory"], 100), 5).tolist(),
                "clipped_path": np.round(thin(dro["clipped"], 100), 4).tolist(),
                "excess_path": np.round(thin(dro["excess"].mean(axis=1), 100), 6).tolist(),
            }
        return result


def non_default(values, defaults):
    """The entries of ``values`` that are not the default, so that later keys leave older addresses alone."""
    return {name: value for name, value in values.items() if value != defaults[name]}


def numbers(values):
    """An array as a list for JSON, which has no NaN: None instead."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def thin(rows, most):
    """At most ``most`` evenly spaced rows of an array, the last one included."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
