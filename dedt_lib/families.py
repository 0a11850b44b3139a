"""The kinds of diffusion models: how an experiment builds, trains and samples each.

A family is what tells a recipe's ``model`` apart from another; everything else (selection, group DRO,
annealing, checkpoints, shards of samples, evaluation) is the same for all.  A new kind of model is a class
here and an entry in ``FAMILIES``.
"""

import copy
import dataclasses
import functools

import numpy as np
import torch

from . import encoders, latents, sampling
from .errors import DedtError
from .files import read_json, write_json
from .models import build_model
from .plans import EpochPlan
from .sampling import respaced_ddpm
from .sizes import latent_shape
from .training import TrainingSettings, train
from .weights import key_of


class Family:
    """One kind of model in an Experiment.

    network: what decides the fresh network, as a dict for addresses.  settings: its TrainingSettings.
    proxy_epochs: of the proxy in group DRO.  ratios: those of its tables.  build(seed): a fresh model.
    source(): what the training loop draws from.  sampler_steps, guidance: of its sampler; unguided: the
    guidance that is none.  sampler(...): see ``sampling.sample``.  decode(x_0): what the sampler gives, to
    uint8 images.  evaluations: network evaluations that training takes for an image, a backward pass counting
    two; proxy_evaluations: in group DRO (one more where the scores take a forward pass of their own).
    """

    evaluations = 3
    unguided = 0.0

    def __init__(self, experiment):
        self.experiment, self.profile = experiment, experiment.profile

    @property
    def proxy_epochs(self):
        return self.settings.epochs

    @property
    def proxy_evaluations(self):
        return 4 + (self.profile.reweight.scores == "eval" or self.profile.reweight.clip == "element")

    @property
    def sampling(self):
        """Steps and guidance of the recipe's samples, as the sampler takes them."""
        guidance = self.unguided if self.experiment.recipe.unguided else self.guidance
        return {"steps": self.sampler_steps, "guidance": guidance}

    def _settings(self, section, **changes):
        """The profile's training settings, with those that it names for this family in their place."""
        p = self.profile
        values = {**p.train.model_dump(), **getattr(p, section).model_dump(), **changes}
        return TrainingSettings(
            **{name: values[name] for name in TrainingSettings.__dataclass_fields__ if name in values}
        )

    def _seeded(self, seed, name, **settings):
        # The settings were gathered before: to load latents on the way would draw from the same generator.
        return encoders.seeded(seed, "model weights", lambda: build_model(name, **settings))


class PixelUNet(Family):
    """DDPM with a U-Net on pixels (Tables I to III)."""

    sampler = staticmethod(sampling.ddim)
    decode = staticmethod(sampling.to_uint8)

    @property
    def network(self):
        return self.profile.unet.model_dump(include={"channels", "layers", "attention", "groups", "dropout"})

    @property
    def settings(self):
        return self._settings("unet")

    @property
    def ratios(self):
        return self.profile.unet.ratios

    @property
    def sampler_steps(self):
        return self.profile.unet.steps

    @property
    def guidance(self):
        return self.profile.unet.guidance

    def source(self):
        return self.experiment.data

    def build(self, seed):
        data, p = self.experiment.data, self.profile
        return self._seeded(
            seed,
            "unet",
            channels=data.images.shape[1],
            image_size=data.images.shape[2],
            num_classes=len(data.class_names),
            block_channels=p.unet.channels,
            layers=p.unet.layers,
            attention=p.unet.attention,
            dropout=p.unet.dropout,
            groups=p.unet.groups,
        )


class Latent(Family):
    """What the models in the latent space of an autoencoder have in common."""

    def source(self):
        return self.experiment.latents

    @property
    def size(self):
        """Height and width of a latent."""
        return self.source().shape[-1]

    def decode(self, x_0):
        network = self.experiment.decoder[0].to(x_0.device)
        return torch.from_numpy(latents.decode(network, x_0, size=self.experiment.data.images.shape[2]))


class MaskedDiffusionTransformer(Latent):
    """MDTv2 (Gao et al., 2023) on latents (Table IV)."""

    # Every image passes masked and unmasked; the margin takes another unmasked pass of proxy and reference.
    evaluations, proxy_evaluations = 6, 8
    sampler = staticmethod(respaced_ddpm)
    unguided = 1.0

    def __init__(self, experiment):
        """Raises DedtError for sizes of the profile that do not fit, before anything is encoded."""
        from .models.mdt import check_sizes

        super().__init__(experiment)
        p = self.profile
        blocks = p.mdt.hidden_size, p.mdt.heads, p.mdt.depth, p.mdt.decode_layers
        check_sizes(latent_shape(p)[0], p.mdt.patch_size, *blocks)

    @property
    def network(self):
        names = {"patch_size", "hidden_size", "depth", "heads", "decode_layers", "mask_ratio", "mask_range"}
        own = self.profile.mdt.model_dump(include=names)
        return {**own, "latents": self.experiment.latents_key}

    @property
    def settings(self):
        # AdamW as MDT's first version uses it, without weight decay, is Adam.
        optimizer = {"adan": "adan", "adamw": "adam"}[self.profile.mdt.optimizer]
        return self._settings("mdt", warmup_epochs=0.0, optimizer=optimizer, ema_warmup="none")

    @property
    def proxy_epochs(self):
        return self.profile.mdt.proxy_epochs

    @property
    def ratios(self):
        return self.profile.mdt.ratios

    @property
    def sampler_steps(self):
        return self.profile.mdt.steps

    @property
    def guidance(self):
        return self.profile.mdt.guidance

    def build(self, seed):
        p = self.profile
        return self._seeded(
            seed,
            "mdt",
            input_size=self.size,
            patch_size=p.mdt.patch_size,
            in_channels=self.source().shape[1],
            hidden_size=p.mdt.hidden_size,
            depth=p.mdt.depth,
            num_heads=p.mdt.heads,
            mlp_ratio=4.0,
            num_classes=len(self.experiment.data.class_names),
            class_dropout_prob=p.train.label_dropout,
            learn_sigma=True,
            mask_ratio=p.mdt.mask_ratio,
            mask_range=p.mdt.mask_range,
            decode_layer=p.mdt.decode_layers,
        )


class StableDiffusion(Latent):
    """Stable Diffusion (Rombach et al., 2022), fine-tuned on captions of the classes (Table V)."""

    sampler = staticmethod(sampling.ddim)

    def __init__(self, experiment):
        """Raises DedtError for a size of the profile that does not fit, before anything is encoded."""
        super().__init__(experiment)
        if self.profile.autoencoder.image_size % 8:
            raise DedtError(
                "Images for Stable Diffusion need an autoencoder.image_size that is a multiple of 8, not "
                f"{self.profile.autoencoder.image_size}."
            )

    @property
    def network(self):
        return {"pipeline": self.experiment.pipeline[1], "latents": self.experiment.latents_key}

    @property
    def settings(self):
        changes = {
            "optimizer": "adamw",
            "ema_warmup": "reciprocal",
            "label_dropout": 0.0,
            "warmup_epochs": 0.0,
        }
        return self._settings("stable_diffusion", **changes)

    @property
    def ratios(self):
        return self.profile.stable_diffusion.ratios

    @property
    def sampler_steps(self):
        return self.profile.stable_diffusion.steps

    @property
    def guidance(self):
        # diffusers' scale s and the w of (1 + w) eps_c - w eps_u are one apart.
        return self.profile.stable_diffusion.guidance - 1

    def build(self, seed):
        """A copy of the pre-trained pipeline's U-Net, ready to be fine-tuned."""
        from .models.stable_diffusion import StableDiffusion as Model

        own = twin(self.experiment.pipeline[0])
        return Model(own, self.experiment.data.class_names, image_size=self.profile.autoencoder.image_size)


FAMILIES = {"unet": PixelUNet, "mdt": MaskedDiffusionTransformer, "stable-diffusion": StableDiffusion}
"""Name in a recipe -> its family."""


def twin(pipeline, **parts):
    """A pipeline of the same parts but for the U-Net, which is a copy, and for ``parts`` by name."""
    parts = {**pipeline.components, "unet": copy.deepcopy(pipeline.unet), **parts}
    return type(pipeline)(**parts, requires_safety_checker=False)


# ---- the networks before the model, each a stored stage or published weights ------------------------


def autoencoder(experiment):
    """The autoencoder that encodes the images, and the key of its weights: trained on them, or published."""
    p = experiment.profile
    if p.autoencoder.weights:
        return _named_autoencoder(experiment, p.autoencoder.weights)
    data = experiment.data
    settings = p.autoencoder.training
    recipe = {
        "version": 1,
        "data": data.fingerprint,
        "image_size": p.autoencoder.image_size,
        "channels": list(p.autoencoder.channels),
        **settings,
    }

    def build():
        return latents.small_autoencoder(data.images.shape[1], widths=p.autoencoder.channels)

    def work(folder):
        network = encoders.seeded(0, "autoencoder weights", build)
        losses = latents.train_autoencoder(
            network,
            data,
            image_size=p.autoencoder.image_size,
            seed=0,
            folder=folder,
            device=experiment.device,
            **settings,
        )
        encoders.save_weights(network, folder / "model.safetensors")
        write_json(folder / "scaling.json", {"scaling_factor": network.config.scaling_factor})
        return {"losses": losses.tolist()}

    folder = experiment.store.run("autoencoder", recipe, work, resumable=True)
    network = encoders.load_weights(build(), folder / "model.safetensors").eval()
    network.register_to_config(**read_json(folder / "scaling.json"))
    return network, experiment.store.manifest(folder)["key"]


def decoder(experiment):
    """The autoencoder that decodes the samples, and its key: the encoding one, unless another is named."""
    other = experiment.profile.autoencoder.decoder_weights
    return _named_autoencoder(experiment, other) if other else experiment.autoencoder


def _named_autoencoder(experiment, where):
    """Published, or that of the experiment's pipeline."""
    if where != "pipeline":
        return published_autoencoder(where)
    pipe, _ = experiment.pipeline
    return pipe.vae, key_of(pipe.vae)


@functools.cache
def published_autoencoder(where):
    network = latents.load_autoencoder(where)
    return network.eval(), key_of(network)


def encoded(experiment):
    """The latents of the training images (latents.Latents), and the key of their stage."""
    p, data = experiment.profile, experiment.data
    network, key = experiment.autoencoder
    choice = {"image_size": p.autoencoder.image_size, "flip": p.train.flip}
    recipe = {"version": 1, "data": data.fingerprint, "autoencoder": key, **choice}

    def work(folder):
        latents.encode(network, data.images, folder, device=experiment.device, **choice)
        return experiment.weights_note("autoencoder")

    folder = experiment.store.run("latents", recipe, work, resumable=True)
    scaling = network.config.scaling_factor
    return latents.Latents(folder, data.labels, scaling_factor=scaling), folder.name


def pipeline(experiment):
    """The pre-trained Stable Diffusion pipeline, and the key of what decides its samples.

    Published, or tiny components whose U-Net was pre-trained on the images with their captions.
    """
    from .models import stable_diffusion

    p = experiment.profile
    if p.stable_diffusion.weights:
        pipe = stable_diffusion.load_pipeline(p.stable_diffusion.weights)
        return pipe, stable_diffusion.pipeline_key(pipe)
    data, family = experiment.data, StableDiffusion(experiment)
    settings = dataclasses.replace(
        family.settings,
        epochs=p.stable_diffusion.pretraining_epochs,
        learning_rate=p.stable_diffusion.pretraining_learning_rate,
        label_dropout=p.train.label_dropout,
    )
    vae, _ = experiment.autoencoder
    pipe = stable_diffusion.tiny_pipeline(
        vae, image_size=p.autoencoder.image_size, block_channels=p.stable_diffusion.channels, seed=0
    )
    recipe = {
        "version": 1,
        "data": data.fingerprint,
        "latents": experiment.latents_key,
        "channels": list(p.stable_diffusion.channels),
        "settings": experiment.address_of_settings(settings),
    }

    def work(folder):
        model = stable_diffusion.StableDiffusion(pipe, data.class_names)
        plan = EpochPlan(np.arange(len(data)), total=len(data), epochs=settings.epochs)
        result = train(
            model,
            experiment.latents,
            plan,
            settings,
            seed=0,
            folder=folder,
            device=experiment.device,
            processes=experiment.processes,
            progress="pre-train",
        )
        return {
            "images_seen": result.images_seen,
            "losses": result.losses.reshape(settings.epochs, -1).mean(axis=1).tolist(),
        }

    folder = experiment.store.run("pipeline", recipe, work, resumable=True, processes=experiment.processes)
    model = stable_diffusion.StableDiffusion(pipe, data.class_names)
    encoders.load_weights(model, folder / "model.safetensors")
    return pipe, folder.name
