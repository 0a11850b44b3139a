"""The surrogate encoders that are trained on the images, or read from weights that were."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from ... import encoders
from ...errors import DedtError
from ...randomness import seeded
from ...weights import load_weights, save_weights
from ..base import Cost, Stage
from ..training import epochs_cost, everything, train_on_everything, training_cost

if TYPE_CHECKING:
    from ..lab import Lab


class Encoder(Stage):
    """A stage whose result is a feature extractor.

    Attributes:
        network: Its name in the profile and the plan.
        label: Its printed name.
        has_published_weights: Whether its weights are published ones.
    """

    name = "encoder"
    network: ClassVar[str]
    label: ClassVar[str]
    has_published_weights: ClassVar[bool] = False

    @property
    def passes_per_image(self) -> int:
        """Forward passes for the features of one image."""
        return 1

    @property
    def network_in_plan(self) -> str:
        """Name in the plan of the network that reads the features."""
        return self.network

    @property
    def features_settings(self) -> dict[str, Any]:
        """How the features are read from the network, which its weights do not decide."""
        return {}

    def outline(self) -> nn.Module:
        """A network of the same architecture, whose weights do not matter."""
        raise NotImplementedError

    def features_width(self) -> int:
        """Number of features per image, from a trial forward pass."""
        with torch.device("meta"):
            return width_of(self.outline(), self.lab.shape)


class TrainedEncoder(Encoder):
    """An encoder that is trained on the images: its result is the network, in eval mode.

    Attributes:
        network: Also, unless :meth:`build` is overridden, its name in ``encoders.NETWORKS``.
        section: The profile's section with epochs, batch size and learning rate.
        seed: Seed of the initial weights and of the training.
    """

    seed: int = 0
    resumable = True
    fit: ClassVar[Callable[..., np.ndarray]] = staticmethod(encoders.train_classifier)
    accuracy: ClassVar[Callable[..., float]] = staticmethod(encoders.accuracy)
    moments: ClassVar[int] = 1  # tensors that the optimiser keeps per parameter
    advice: ClassVar[str] = (
        "Use an encoder that needs no labels (--encoder ddae), published weights (such as --set "
        "encoders.resnet18.weights=imagenet) or --method random."
    )

    @property
    def section(self) -> Any:
        return getattr(self.lab.profile.encoders, self.network)

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of its training function."""
        return self.section.training

    @property
    def shape(self) -> dict[str, Any]:
        """Width and further arguments of the network; they are part of the address."""
        return {}

    def inputs(self):
        return {"images": self.lab.images}

    def decides(self):
        return {"network": self.network, **self.shape, **self.settings, "seed": self.seed}

    def build(self, **more: Any) -> nn.Module:
        """The untrained network, its initial weights unseeded; ``more``: arguments that affect no weight."""
        own = {"channels": self.lab.shape[0], "num_classes": len(self.lab.class_names)}
        return encoders.build(self.network, **own, **self.shape, **more)

    def work(self, folder):
        lab = self.lab
        network = seeded(self.seed, f"{self.name} weights", self.build)
        how = {"seed": self.seed, "folder": folder, "device": lab.device}
        losses = self.fit(network, lab.data, **how, **self.settings)
        save_weights(network, folder / "model.safetensors")
        facts = {"losses": np.asarray(losses).tolist()}
        for split, images in (("train", lab.data), ("test", lab.test)):
            if images is not None and images.class_names == lab.class_names:
                facts[f"{split}_accuracy"] = self.accuracy(network, images, device=lab.device)
        return facts

    def check(self):
        if len(self.lab.class_names) == 1:
            raise DedtError(
                f"All images belong to one class, so the {self.label} cannot learn anything from their "
                f"labels. {self.advice}"
            )

    def load(self, folder):
        return load_weights(self.build(), folder / "model.safetensors").eval()

    def outline(self):
        return self.build()

    def cost(self) -> Iterable[Cost]:
        yield epochs_cost(self, "encoder", self.label, self.network_in_plan, self.moments)


class ResNet18(TrainedEncoder):
    """ResNet-18 (He et al., 2016) trained on the images to be pruned."""

    network, label = "resnet18", "ResNet-18"

    @property
    def shape(self):
        return {"width": self.section.width}

    @property
    def settings(self):
        if self.section.procedure != "published":
            return super().settings
        published = {"schedule": "steps", "nesterov": False, "shift": 4, "padding": "zero"}
        return {**super().settings, **published, "flip": self.lab.profile.train.flip}

    def build(self):
        published = self.section.procedure == "published"
        normalise = mean_and_std(self.lab.data.images) if published and not self.lab.imagined else {}
        return super().build(**normalise)


class InceptionV3(TrainedEncoder):
    """Inception-v3 (Szegedy et al., 2016) trained on the images."""

    network, label = "inceptionv3", "Inception-v3"

    @property
    def shape(self):
        return {"width": 0, "size": self.section.size, "dropout": 0.0}

    @property
    def settings(self):
        # Small data sets allow few steps, in which AdamW gets further than the SGD of the other classifiers.
        return {**super().settings, "optimizer": "adamw"}


class SmallClip(TrainedEncoder):
    """A small CLIP (Radford et al., 2021) trained on the images and the names of their classes."""

    network, label, moments = "clip", "CLIP", 2
    fit = staticmethod(encoders.train_clip)
    accuracy = staticmethod(encoders.zero_shot_accuracy)

    shape = {"width": 16}  # of its vision tower; OpenAI's RN50 has 64

    @property
    def features_settings(self):
        return normalised(self.lab)

    def load(self, folder):
        network = super().load(folder)
        network.normalise = bool(self.features_settings)
        return network


class DDAE(Encoder):
    """The U-Net of a diffusion model that never sees a label (DDAE; Xiang et al., 2023).

    Its result is the feature extractor that reads a block of the decoder.  The choice of block and timestep
    affects the features, but not the training.

    Attributes:
        seed: Seed of the initial weights and of the training.
    """

    seed: int = 0
    network, label = "ddae", "DDAE"
    resumable, together = True, True

    @property
    def spec(self):
        return self.lab.spec("unet")

    @property
    def network_in_plan(self):
        return self.spec.label

    @property
    def passes_per_image(self):
        return self.lab.profile.encoders.ddae.draws

    @property
    def features_settings(self):
        return self.lab.profile.encoders.ddae.model_dump(include={"block", "timestep", "draws"})

    @property
    def settings(self):
        return replace(self.spec.settings, epochs=self.lab.profile.encoders.ddae.epochs, label_dropout=1.0)

    def inputs(self):
        return {"images": self.lab.images}

    def decides(self):
        model = {"network": "ddae", "model": self.spec.decides()}
        return {**model, "settings": self.settings.decisive, "seed": self.seed}

    def check(self):
        u, block = self.lab.profile.unet, self.lab.profile.encoders.ddae.block
        blocks = len(u.channels) * (u.layers + 1)
        if block > blocks:
            raise DedtError(
                f"encoders.ddae.block is {block}, but the decoder of this U-Net has blocks 1 to {blocks}. "
                "Choose one of these."
            )

    def work(self, folder):
        how = {"folder": folder, "progress": "train DDAE"}
        return train_on_everything(self, self.build(), self.lab.data, **how)

    def build(self) -> nn.Module:
        """The U-Net with its initial weights."""
        return self.spec.build(self.lab.shape, self.lab.class_names, seed=self.seed)

    def load(self, folder):
        d = self.lab.profile.encoders.ddae
        model = load_weights(self.build(), folder / "model.safetensors")
        # The paper's code counts timesteps from one.
        return encoders.DDAE(model, d.block, d.timestep - 1, draws=d.draws)

    def features_width(self):
        u, block = self.lab.profile.unet, self.lab.profile.encoders.ddae.block
        return u.channels[::-1][min((block - 1) // (u.layers + 1), len(u.channels) - 1)]

    def cost(self):
        yield training_cost(self.lab, self.spec, everything(self).sizes(), self.settings, "encoder", "DDAE")


def width_of(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Number of features per image of a network, from a trial forward pass."""
    with torch.no_grad():
        return network.eval().features(torch.empty(2, *shape)).shape[1]


def normalised(lab: "Lab") -> dict[str, bool]:
    """How the features of a CLIP are read: {} without normalisation."""
    return {"normalise": True} if lab.profile.encoders.clip.normalise else {}


def mean_and_std(images: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of uint8 images, on the scale 0..1, to four decimals."""
    samples = images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
    return {
        "mean": [round(float(channel.mean()) / 255, 4) for channel in samples],
        "std": [round(float(channel.std(dtype=np.float64)) / 255, 4) for channel in samples],
    }
