"""What latent diffusion models need before training: autoencoder, latents, a pipeline to start from."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import DedtError
from ..files import read_json, write_json
from ..latents import Latents
from ..models import autoencoder as ae
from ..randomness import seeded
from ..weights import load_weights, save_weights
from .base import Cost, Given, Stage
from .models import ModelSpec, latent_shape
from .training import epochs_cost, everything, train_on_everything, training_cost

if TYPE_CHECKING:
    from .lab import Lab


# ---- the autoencoder --------------------------------------------------------------------------------


class TrainAutoencoder(Stage):
    """An autoencoder trained on the images; its result is in eval mode, with the latents' scaling factor."""

    name, resumable = "autoencoder", True

    def inputs(self):
        return {"images": self.lab.images}

    @property
    def settings(self):
        p = self.lab.profile.autoencoder
        return p.model_dump(include={"epochs", "batch_size", "learning_rate", "image_size"})

    def decides(self):
        p = self.lab.profile.autoencoder
        own = p.model_dump(include={"latent_channels", "patch"}, exclude_defaults=True)
        return {"channels": list(p.channels), **own, **self.settings}

    def build(self) -> nn.Module:
        """The untrained network, its initial weights unseeded."""
        p = self.lab.profile.autoencoder
        return ae.small_autoencoder(self.lab.shape[0], p.channels, p.latent_channels, p.patch)

    def work(self, folder):
        network = seeded(0, "autoencoder weights", self.build)
        how = {"seed": 0, "folder": folder, "device": self.lab.device}
        losses = ae.train_autoencoder(network, self.lab.data, **how, **self.settings)
        save_weights(network, folder / "model.safetensors")
        write_json(folder / "scaling.json", {"scaling_factor": network.config.scaling_factor})
        return {"losses": losses.tolist()}

    def load(self, folder):
        network = load_weights(self.build(), folder / "model.safetensors").eval()
        network.register_to_config(**read_json(folder / "scaling.json"))
        return network

    def cost(self):
        yield epochs_cost(self, "autoencoder", "autoencoder", "vae")


class PublishedAutoencoder(Given):
    """A published autoencoder, or the one of the Stable Diffusion pipeline."""

    role: str = "autoencoder"
    name = "autoencoder"

    def inputs(self):
        return {"pipeline": pipeline(self.lab)} if self.weights == "pipeline" else {}

    def read(self):
        if self.weights == "pipeline":
            return pipeline(self.lab).result().vae
        return ae.load_autoencoder(self.weights)

    def outline(self):
        return ae.small_autoencoder(3, self.lab.profile.autoencoder.channels)


def autoencoder(lab: "Lab") -> Stage:
    """The stage of the autoencoder that encodes images."""
    weights = lab.profile.autoencoder.weights
    return PublishedAutoencoder(lab, weights) if weights else TrainAutoencoder(lab)


def decoder(lab: "Lab") -> Stage:
    """The stage of the autoencoder that decodes samples: by default the one that encodes images."""
    other = lab.profile.autoencoder.decoder_weights
    return PublishedAutoencoder(lab, other, role="decoder") if other else autoencoder(lab)


# ---- the latents ------------------------------------------------------------------------------------


class Encode(Stage):
    """All training images as latents, encoded once: :class:`~dedt_lib.latents.Latents`."""

    autoencoder: Stage

    name, resumable = "latents", True

    def inputs(self):
        return {"images": self.lab.images, "autoencoder": self.autoencoder}

    def decides(self):
        return {"image_size": self.lab.profile.autoencoder.image_size, "flip": self.lab.profile.train.flip}

    def work(self, folder):
        network, images = self.autoencoder.result(), self.lab.data.images
        ae.encode(network, images, folder, device=self.lab.device, **self.decides())

    def load(self, folder):
        scaling = self.autoencoder.result().config.scaling_factor
        return Latents(folder, self.lab.data.labels, scaling_factor=scaling)

    def cost(self):
        n, flip = self.lab.n, self.lab.profile.train.flip
        channels, side, _ = latent_shape(self.lab.profile.autoencoder)
        images = (2 if flip else 1) * n
        what = f"{channels}x{side}x{side}" + (", mirrored too" if flip else "")
        kept = 2 * 2 * channels * side**2 * images  # mean and standard deviation, in half precision
        yield Cost("latents", what, "vae", images=images, evaluations=images, bytes=kept)


def encoded(lab: "Lab") -> Encode:
    """The stage of the latents."""
    return Encode(lab, autoencoder(lab))


def source(lab: "Lab", spec: ModelSpec) -> Stage:
    """The stage of a model's training data: the images, or their latents."""
    return encoded(lab) if spec.latent else lab.images


def source_shape(lab: "Lab", spec: ModelSpec) -> tuple[int, int, int]:
    """Channels, height and width of a model's training data."""
    if not spec.latent:
        return lab.shape
    return latent_shape(lab.profile.autoencoder) if lab.imagined else encoded(lab).result().shape


# ---- Stable Diffusion's pipeline ----------------------------------------------------------------------


class PretrainPipeline(Stage):
    """A tiny Stable Diffusion pipeline whose U-Net was pre-trained on the images with their captions."""

    name, resumable, together, seed = "pipeline", True, True, 0

    @property
    def spec(self):
        return self.lab.spec("stable-diffusion")

    @property
    def settings(self):
        p, s = self.lab.profile, self.spec.section
        rate, dropout = s.pretraining_learning_rate, p.train.label_dropout
        own = {"epochs": s.pretraining_epochs, "learning_rate": rate, "label_dropout": dropout}
        return replace(self.spec.settings, **own)

    def inputs(self):
        return {"images": self.lab.images, "latents": encoded(self.lab)}

    def decides(self):
        return {"channels": list(self.spec.section.channels), "settings": self.settings.decisive}

    def _model(self):
        from ..models.stable_diffusion import StableDiffusion

        pipe = self.spec.untrained_pipeline(autoencoder(self.lab).result())
        return pipe, StableDiffusion(pipe, self.lab.class_names)

    def work(self, folder):
        (_, model), latents = self._model(), encoded(self.lab).result()
        return train_on_everything(self, model, latents, folder=folder, progress="pre-train")

    def load(self, folder):
        pipe, model = self._model()
        load_weights(model, folder / "model.safetensors")
        return pipe

    def cost(self) -> Iterable[Cost]:
        yield training_cost(
            self.lab, self.spec, everything(self).sizes(), self.settings, "pipeline", "pre-training"
        )


class PublishedPipeline(Given):
    """A published Stable Diffusion pipeline."""

    name = role = "pipeline"

    def read(self):
        from ..models.stable_diffusion import load_pipeline

        return load_pipeline(self.weights)

    def outline(self):
        return self.lab.spec("stable-diffusion").untrained_pipeline(autoencoder(self.lab).result())

    def key(self):
        from ..models.stable_diffusion import pipeline_key

        return pipeline_key(self.result())


def pipeline(lab: "Lab") -> Stage:
    """The stage of the Stable Diffusion pipeline: published, or tiny and pre-trained on the images."""
    weights = lab.profile.stable_diffusion.weights
    return PublishedPipeline(lab, weights) if weights else PretrainPipeline(lab)


def check_autoencoders(found: dict[str, Any], lab: "Lab") -> None:
    """Check the published networks ``found`` (role -> network) before anything is computed.

    Raises:
        DedtError: For autoencoders that do not fit the images, each other or the pipeline.
    """
    p, sizes = lab.profile, {}
    for role in found.keys() & {"autoencoder", "decoder"}:
        network = found[role]
        ae.check_fit(network, p.data.channels, p.autoencoder.image_size)
        sizes[role] = network.config.latent_channels, ae.downsampling(network)
    if len(set(sizes.values())) > 1:
        (one, a), (other, b) = sizes["autoencoder"], sizes["decoder"]
        raise DedtError(
            f"{p.autoencoder.weights} encodes to {one} latent channels, downsampled by {a}, but "
            f"{p.autoencoder.decoder_weights} decodes {other} channels, downsampled by {b}. Choose an "
            "autoencoder and a decoder that belong together."
        )
    if {"pipeline", "autoencoder"} <= found.keys():
        unet, own = found["pipeline"].unet.config.in_channels, sizes["autoencoder"][0]
        if unet != own:
            raise DedtError(
                f"{p.autoencoder.weights} encodes to {own} latent channels, but the U-Net of "
                f"{p.stable_diffusion.weights} takes {unet}. "
                'Set autoencoder.weights = "pipeline" to use the pipeline\'s own autoencoder.'
            )
