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
from . import encoders, evaluation, families, sampling, selection, surrogates
from .errors import DedtError
from .evaluation import FrechetReference
from .families import FAMILIES
from .plans import ClassSamplerPlan, EpochPlan, InfoBatchPlan
from .processes import Processes
from .randomness import derive
from .recipes import Recipe, checked, load_profile
from .reweighting import GroupDRO, effective_classes
from .selection import Coreset, class_to_sample_weights
from .store import Store, address, read_json, sha256, write_json
from .surrogates import metric_classifier, surrogate
from .training import train
from .weights import locate

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

MOST_NEIGHBOURS = 50_000
"""How many real images precision and recall are measured against: their cost grows with the square."""


class Experiment:
    """The stages of one recipe under one profile.

    ``Experiment("digits", method="moderate", ratio=0.1)``.  profile: a name, a file or a Profile.  store: a
    Store (default: ``runs/``).  Everything else is a field of :class:`Recipe`; unknown names raise DedtError.
    Methods compute what is missing and return what is stored.

    A profile that names a number of ``threads`` sets PyTorch's, for the whole process, because sums in
    another order change the last bits.
    """

    def __init__(self, profile="digits", *, store=None, device=None, **recipe):
        self.profile = load_profile(profile)
        self.recipe = checked(Recipe, recipe)
        ratios = (*self.family.ratios, 1.0)
        if self.recipe.early_stopping and self.recipe.ratio not in ratios:
            raise DedtError(
                f"The run on all the data keeps its weights at the ratios {', '.join(map(str, ratios))} of the "
                f"profile only, so early_stopping cannot be had at {self.recipe.ratio}."
            )
        if self.profile.threads:
            torch.set_num_threads(self.profile.threads)
        self.store = store or Store()
        self.processes = Processes.from_environment(device)
        self.device = self.processes.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @functools.cached_property
    def family(self):
        """The recipe's kind of diffusion model in this experiment (see :mod:`dedt_lib.families`)."""
        return FAMILIES[self.recipe.model](self)

    def change(self, **recipe):
        """The same experiment with other recipe values; loaded data and networks are shared."""
        other = Experiment(
            self.profile, store=self.store, device=self.device, **{**self.recipe.model_dump(), **recipe}
        )
        encoder = ("encoder",) if other.recipe.encoder == self.recipe.encoder else ()
        for shared in (*SHARED, *encoder):
            if shared in self.__dict__:
                other.__dict__[shared] = self.__dict__[shared]
        return other

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
        )
        return data and data.named(p.class_names)

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
        return Coreset.load(self._coreset_folder)

    @functools.cached_property
    def _coreset_folder(self):
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
        empty = [name for name, count in zip(coreset.class_names, coreset.counts) if count == 0]
        if empty:
            raise DedtError(
                f"Class(es) {', '.join(empty)} keep no image at ratio {coreset.ratio:g}: raise the ratio, add images, "
                "or choose within each class (scope 'class')."
            )
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
        return self._load_model(self._model_file())

    def training(self):
        """Manifest of the recipe's training run, with "losses" float32 [steps] added."""
        folder = self._training_folder()
        return {**self.store.manifest(folder), "losses": np.load(folder / "losses.npy")}

    def _training_folder(self):
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
                f"The run in {folder} is older than the ratio {self.recipe.ratio} in the profile and kept no weights "
                "there. Delete that folder and run again."
            )
        return file

    def save_pipeline(self, folder):
        """Save the recipe's fine-tuned Stable Diffusion as an ordinary diffusers pipeline.

        folder: to be opened by ``StableDiffusionPipeline.from_pretrained``.  Raises DedtError for other
        models.
        """
        if self.recipe.model != "stable-diffusion":
            raise DedtError(
                f"Only model='stable-diffusion' is a pipeline; this recipe has '{self.recipe.model}'."
            )
        from .models.stable_diffusion import save_pipeline

        save_pipeline(self.train(), families.twin(self.pipeline[0]), folder)

    # ---- sample and evaluate ---------------------------------------------------------------------

    def sample_labels(self):
        """Classes of the samples, balanced: int64 [samples]."""
        return sampling.balanced_labels(self.profile.samples, len(self.data.class_names))

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

        return self.store.run("samples", recipe, work, resumable=True, processes=self.processes)

    def sample(self):
        """Generated images: uint8 [samples, C, H, W]; their classes are :meth:`sample_labels`."""
        return np.load(self._samples_folder() / "samples.npy")

    @functools.cached_property
    def metric_network(self):
        """The small classifier whose features FID is measured in, and the manifest of its training."""
        return metric_classifier(self)

    @functools.cached_property
    def yardstick(self):
        """What FID is measured with: dict of torch-fidelity's extractor, its layer, weights_path and key."""
        if self.profile.metric == "inceptionv3":
            path = locate("inception-fid", self.profile.metric_weights)
            key = address("metric", {"network": "inception-fid", "sha256": sha256(path)})
            return {"extractor": "inception-v3-compat", "layer": "2048", "weights_path": path, "key": key}
        network, manifest = self.metric_network
        weights = manifest["files"]["model.safetensors"]["sha256"]
        name = evaluation.register_classifier(network, weights, self.data.images.shape[1:])
        return {"extractor": name, "layer": "features", "weights_path": None, "key": manifest["key"]}

    def metric_features(self, images, out=None):
        """Features of uint8 images for FID: float32 [n, d]; with ``out``, a ``.npy`` file, memory-mapped."""
        how = {name: self.yardstick[name] for name in ("extractor", "layer", "weights_path")}
        return evaluation.extract_features(images, **how, out=out, cuda=str(self.device).startswith("cuda"))

    @functools.cached_property
    def _generated(self):
        return self.metric_features(self.sample())

    def real(self):
        """The real side of every FID, computed once: a dict.

        features float32 [n, d] of all training images (memory-mapped), all: their FrechetReference, classes:
        the list of those of each class, empty for a profile without class-wise values.
        """
        recipe = {"version": 1, "data": self.data.fingerprint, "metric": self.yardstick["key"]}
        recipe |= non_default({"classwise": self.profile.classwise}, {"classwise": True})

        def work(folder):
            features = self.metric_features(self.data.images, out=folder / "features.npy")
            references = [FrechetReference.of(features)]
            if self.profile.classwise:
                references += evaluation.classwise_references(features, self.data.labels)
            for k, reference in enumerate(references):
                reference.save(folder / f"reference-{k:04d}.npz")

        folder = self.store.run("real", recipe, work)
        references = [FrechetReference.load(path) for path in sorted(folder.glob("reference-*.npz"))]
        features = np.load(folder / "features.npy", mmap_mode="r")
        return {"features": features, "all": references[0], "classes": references[1:]}

    def floor(self):
        """Real half against real half: dict with "fid" and "classwise" [K] (see evaluation.real_floor)."""
        recipe = {"version": 1, "data": self.data.fingerprint, "metric": self.yardstick["key"]}
        recipe |= non_default({"classwise": self.profile.classwise}, {"classwise": True})

        def work(folder):
            features = self.real()["features"]
            splits = 10 if features.shape[1] < 256 else 1  # at 2048 features a halving takes minutes
            floor = evaluation.real_floor(
                features, self.data.labels, splits=splits, classwise=self.profile.classwise
            )
            write_json(folder / "floor.json", {"fid": floor["fid"], "classwise": floor["classwise"].tolist()})

        return read_json(self.store.run("floor", recipe, work) / "floor.json")

    def evaluate(self):
        """FID, class-wise FID and near-copies of the recipe's samples: a dict of numbers.

        fid float; classwise list [K], empty where the profile wants none; copies: share of samples nearer to
        a training image of this run than all but 1 % of the held-out images are to any training image (None
        without held-out images); protocol: what the FID was measured with.
        """
        surrogates.check_metrics(self)  # before hours of training, not after
        samples_folder = self._samples_folder()
        coreset = self._coreset_seen
        seen = "all" if self.recipe.annealing else address("", coreset.indices.tolist())
        recipe = {
            "version": 2,
            "samples": samples_folder.name,
            "metric": self.yardstick["key"],
            "data": self.data.fingerprint,
            "test": self.test and self.test.fingerprint,
            "seen": seen,
        }
        recipe |= non_default({"classwise": self.profile.classwise}, {"classwise": True})

        def work(folder):
            images, real, generated = self.sample(), self.real(), self._generated
            classwise = np.empty(0)
            if self.profile.classwise:
                sides = real["classes"], None, generated, self.sample_labels()
                classwise = evaluation.classwise_frechet(*sides)
            result = {
                "fid": evaluation.frechet_distance(real["all"], generated),
                "classwise": classwise.tolist(),
                "copies": None,
                "protocol": evaluation.protocol(
                    samples=len(images),
                    reference=f"all {len(self.data)} training images",
                    width=generated.shape[1],
                    extractor=self.yardstick["extractor"],
                    layer=self.yardstick["layer"],
                    seed=self.recipe.seed,
                )
                + self._sampled_in,
            }
            if self.test is not None:
                threshold = evaluation.copy_threshold(self.data.images, self.test.images)
                training_images = self.data.images if seen == "all" else self.data.images[coreset.indices]
                distances, _ = evaluation.nearest_distances(images, training_images)
                result["copies"] = float((distances < threshold).mean())
            write_json(folder / "metrics.json", result)

        return read_json(self.store.run("metrics", recipe, work) / "metrics.json")

    @property
    def _sampled_in(self):
        """What the protocol says of the precision, when that is not float32."""
        precision = self.profile.sample_precision
        return "" if precision == "float32" else f", sampled in {precision}"

    def compare(self):
        """What FID does not tell of the recipe's samples against all training images: a dict of numbers.

        kid, precision and recall in the features of FID; cmmd, the biased value of the published code, and
        cmmd_unbiased in the embeddings of the profile's CLIP, where it names one.
        """
        network, key = self.cmmd_network if self.profile.cmmd else (None, "")
        recipe = {
            "version": 1,
            "samples": self._samples_folder().name,
            "data": self.data.fingerprint,
            "metric": self.yardstick["key"],
            "cmmd": key,
        }

        def work(folder):
            images, real, generated = self.sample(), self.real()["features"], self._generated
            some = real[:: -(-len(real) // MOST_NEIGHBOURS)]
            precision, recall = evaluation.precision_recall(some, generated)
            result = {
                "kid": evaluation.kid(real, generated),
                "precision": precision,
                "recall": recall,
                "cmmd": None,
                "cmmd_unbiased": None,
            }
            if network is not None:
                sides = self._cmmd_real(), surrogates.unit_embeddings(network, images, self.device)
                result["cmmd"] = evaluation.cmmd(*sides)
                result["cmmd_unbiased"] = evaluation.cmmd(*sides, unbiased=True)
            write_json(folder / "comparison.json", result)

        return read_json(self.store.run("comparison", recipe, work) / "comparison.json")

    @functools.cached_property
    def cmmd_network(self):
        """The CLIP in whose embeddings CMMD is measured, and the key of its weights."""
        return surrogates.cmmd_network(self)

    def _cmmd_real(self):
        """Unit embeddings of all training images: float32 [n, d], memory-mapped."""
        network, key = self.cmmd_network

        def work(folder):
            surrogates.unit_embeddings(network, self.data.images, self.device, folder / "embeddings.npy")

        recipe = {"version": 1, "data": self.data.fingerprint, "network": key}
        folder = self.store.run("cmmd", recipe, work)
        return np.load(folder / "embeddings.npy", mmap_mode="r")

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
            "class_weights": None if coreset.weights is None else coreset.weights.tolist(),
            "steps": steps,
            "realised": images / (self.settings.epochs * len(self.data)),
            "costs": self.costs(),
            "floor": self.floor(),
            "run": training["key"],
            "provenance": {
                k: training[k] for k in ("date", "machine", "device", "threads", "python", "versions")
            },
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


def thin(rows, most):
    """At most ``most`` evenly spaced rows of an array, the last one included."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
