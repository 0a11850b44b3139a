"""The surrogate encoders, trained on the images or published, and the features that they extract.

A new encoder is a class and its entry in ``ENCODERS``, here or in a file of your own.
"""

import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from .. import encoders
from ..clusters import cluster
from ..config.recipe import ENCODERS
from ..data import Listing
from ..data.look import look
from ..data.photos import Photos, Pixels
from ..encoder_names import is_pretrained
from ..errors import DedtError
from ..files import address, sha256
from ..randomness import seeded
from ..weights import Published, key_of, load_weights, locate, save_weights
from .base import Cost, Given, Stage, defaults, uncounted
from .data import Images, Photographs
from .training import epochs_cost, everything, train_on_everything, training_cost

if TYPE_CHECKING:
    from ..config import Profile
    from .lab import Lab

MOST_CLUSTERS, IMAGES_A_CLUSTER = 10, 20  # if the profile sets no number
PUBLISHED = {"resnet18": "imagenet", "inceptionv3": "imagenet", "clip": "openai"}
"""Encoder -> the value of its ``weights`` in a profile that stands for the published ones."""


class TrainedEncoder(Stage):
    """An encoder that is trained on the images: its result is the network, in eval mode.

    Attributes:
        network: Its name in the plan and, unless :meth:`build` is overridden, in ``encoders.NETWORKS``.
        section: The profile's section with epochs, batch size and learning rate.
        seed: Seed of the initial weights and of the training.
    """

    seed: int = 0
    network: ClassVar[str]
    label: ClassVar[str]
    name = "encoder"
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

    def cost(self) -> Iterable[Cost]:
        network = self.network if self.name == "encoder" else self.name
        yield epochs_cost(self, "encoder", self.label, network, self.moments)


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


class FidClassifier(TrainedEncoder):
    """The small classifier whose features FID uses where those of Inception-v3 are meaningless."""

    network, label, name = "classifier", "FID network", "metric"
    advice = (
        "Let clusters take the place of the class (--label none --set select.clusters=2), train without "
        "measuring (dedt train), or use the features of Inception-v3 (--set evaluate.network=inceptionv3)."
    )

    @property
    def section(self):
        return self.lab.profile.evaluate

    @property
    def shape(self):
        return {"width": self.section.width}


class FidResNet18(FidClassifier):
    """A ResNet-18 whose features FID uses, for photographs."""

    network = "resnet18"

    @property
    def settings(self):
        return {**super().settings, "shift": 4, "flip": self.lab.profile.train.flip}


class GivenEncoder(Given):
    """An encoder that needs no training here."""

    name, role = "encoder", "encoder"

    def _identity(self) -> dict[str, Any]:
        """The identity that its address is hashed from and its manifest records."""
        raise NotImplementedError

    def key(self):
        return address("encoder", self._identity())

    def manifest(self):
        return {**super().manifest(), "identity": self._identity()}


class PublishedEncoder(GivenEncoder):
    """An encoder with its published weights, or those of a file of the same layout.

    Attributes:
        weights: Name of the published weights in PUBLISHED, or the path of a file.
        network: Name of the network in ``encoders.PRETRAINED``.
    """

    network: str

    @property
    def label(self) -> str:
        """Printed name of the network in the plan."""
        return LABELS[self.network]

    @property
    def called(self):
        return f"{self.network} {self.weights}"

    def _identity(self):
        official = encoders.PRETRAINED[self.network][1]
        return {"network": self.network, "weights": official, "sha256": sha256(self._file)}

    @cached_property
    def _file(self) -> Path:
        return locate(encoders.PRETRAINED[self.network][1], self._path)

    @property
    def _path(self) -> str:
        path = "" if self.weights == PUBLISHED[self.network] else self.weights
        if path and "/" not in path and "." not in path:
            raise DedtError(
                f"Unknown weights '{self.weights}' for {self.network}. Choose '{PUBLISHED[self.network]}', "
                "the path of a file, or '' to train it on your images."
            )
        return path

    def read(self):
        network = encoders.pretrained(self.network, self._path)
        files = {self._file.name: self._identity()["sha256"]}
        network.published = Published(self.weights, None, self._file.parent, files)
        return network

    def outline(self):
        return encoders.PRETRAINED[self.network][0]()


class DDAE(Stage):
    """The U-Net of a diffusion model that never sees a label (DDAE; Xiang et al., 2023).

    Its result is the feature extractor that reads a block of the decoder.  The choice of block and timestep
    affects the features, but not the training.

    Attributes:
        seed: Seed of the initial weights and of the training.
    """

    seed: int = 0
    network, label = "ddae", "DDAE"
    name, resumable, together = "encoder", True, True

    @property
    def spec(self):
        return self.lab.spec("unet")

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
        return train_on_everything(self, self._build(), self.lab.data, **how)

    def _build(self):
        return self.spec.build(self.lab.shape, self.lab.class_names, seed=self.seed)

    def load(self, folder):
        d = self.lab.profile.encoders.ddae
        model = load_weights(self._build(), folder / "model.safetensors")
        # The paper's code counts timesteps from one.
        return encoders.DDAE(model, d.block, d.timestep - 1, draws=d.draws)

    def cost(self):
        yield training_cost(self.lab, self.spec, everything(self).sizes(), self.settings, "encoder", "DDAE")


LABELS = {
    **{stage.network: stage.label for stage in (ResNet18, InceptionV3, SmallClip, DDAE)},
    "metric": "FID network",
    "vit": "CLIP ViT-L/14",
    "vae": "autoencoder",
    "distances": "distances",
}
"""Name of a network in the plan -> its printed name."""


class PretrainedEncoder(GivenEncoder):
    """A network of timm or open_clip by its name: see :func:`dedt_lib.encoders.load_pretrained`."""

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.weights

    label = network

    def _identity(self):
        return {"network": self.weights, "files": self.result().published.files}

    def read(self):
        return encoders.load_pretrained(self.weights)

    def outline(self):
        return self.read()


class OwnEncoder(PretrainedEncoder):
    """A network in ENCODERS that needs no training, made from a fixed seed.

    Its arguments are the values of its section of the profile, if it has one, else their defaults.
    """

    @property
    def make(self) -> Callable[[], nn.Module]:
        """What makes the network."""
        section = getattr(self.lab.profile.encoders, self.weights.replace("-", "_"), None)
        return partial(ENCODERS[self.weights], **(section.model_dump() if section else {}))

    def check(self):
        name, made = self.weights, ENCODERS[self.weights]
        kind = getattr(made, "func", made)
        if made is None or isinstance(made, nn.Module):
            what = "has no class" if made is None else "is a network that is made already"
            raise DedtError(
                f"The encoder '{name}' {what}: enter the class, as in ENCODERS['{name}'] = Thumbnail."
            )
        if isinstance(kind, type) and not hasattr(kind, "features"):
            raise DedtError(
                f"Give the encoder {kind.__name__} a method features(images), which returns [n, d]."
            )
        try:
            inspect.signature(self.make).bind()
        except (TypeError, ValueError) as error:
            raise DedtError(
                f"The encoder '{name}' cannot be made ({error}): its arguments need defaults, or values in "
                "its section of the profile, which has no others."
            ) from error

    def _identity(self):
        return {"network": self.weights, "values": defaults(self.make), "state": key_of(self.result())}

    def read(self):
        return seeded(0, "encoder weights", self.make).eval()

    def facts(self):
        return self._identity()


def number_of_clusters(profile: "Profile", images: int) -> int:
    """Number of clusters that stand in for the classes of ``images`` images."""
    return profile.select.clusters or max(1, min(MOST_CLUSTERS, images // IMAGES_A_CLUSTER))


class Clusters(Stage):
    """Clusters in place of missing classes, by k-means on unit features: int64 [n], 0 the largest."""

    name, file = "clusters", "labels.npy"

    def inputs(self):
        return {"features": Embed(self.lab, encoder(self.lab, self.lab.profile.select.cluster_encoder))}

    def decides(self):
        found, own = self.lab.photographs, {"clusters": self.lab.profile.select.clusters}
        if self.lab.imagined or found.whole is found.listing:
            return own
        return {**own, "ids": address("", found.listing.ids)}  # some of those whose features are stored

    def work(self, folder):
        features = self.inputs()["features"].result()
        np.save(folder / self.file, cluster(features, number_of_clusters(self.lab.profile, len(features))))

    cost = uncounted  # a few passes over the features


Encoder = TrainedEncoder | PublishedEncoder | PretrainedEncoder | DDAE
"""A stage whose result is a feature extractor."""

OWN_SIZE = 224
"""Pixels along a side at which a published network sees photographs, unless it has its own ``size``."""

# An entry is a stage that trains the encoder (its section of the profile may name published weights instead),
# or a network that needs no training.
ENCODERS.update({"resnet18": ResNet18, "inceptionv3": InceptionV3, "clip-rn50": SmallClip, "ddae": DDAE})


def encoder(lab: "Lab", name: str = "", seed: int = 0) -> Encoder:
    """The stage of the encoder ``name`` (default: the profile's), trained with ``seed`` or published."""
    name = name or lab.profile.encoders.default
    if is_pretrained(name):
        return PretrainedEncoder(lab, name)
    made = ENCODERS[name]
    if not (isinstance(made, type) and issubclass(made, TrainedEncoder | DDAE)):
        own = OwnEncoder(lab, name)
        own.check()
        return own
    weights = getattr(getattr(lab.profile.encoders, getattr(made, "network", ""), None), "weights", "")
    if weights:
        return PublishedEncoder(lab, weights, made.network)
    trained = made(lab, seed)
    try:
        _ = trained.network, trained.settings
    except AttributeError as error:
        raise DedtError(
            f"The encoder '{name}' cannot be trained ({error}): give {made.__name__} a `network`, and "
            "`settings` or a section of that name in the profile's section `encoders`."
        ) from error
    return trained


class Embed(Stage):
    """Features of all training images: float32 [n, d], memory-mapped and read-only.

    The stored features include images that a cleaned list leaves out, so that all lists of a folder share them.
    """

    encoder: Encoder

    name, resumable, file, mapped = "features", True, "features.npy", "r"

    def inputs(self):
        return {"images": self.seen, "encoder": self.encoder}

    @property
    def seen(self) -> Images | Photographs:
        """Input of the encoder: photographs at its own size if it is published, else the profile's pixels."""
        own_size = isinstance(self.encoder, Given) and self.lab.has_files and not self.lab.imagined
        return self.lab.photographs if own_size else self.lab.images

    def decides(self):
        """How the features are read from the network, which its weights do not decide."""
        sections = self.lab.profile.encoders
        if isinstance(self.encoder, DDAE):
            return sections.ddae.model_dump(include={"block", "timestep", "draws"})
        return {"normalise": True} if self.encoder.network == "clip" and sections.clip.normalise else {}

    def reader(self) -> nn.Module:
        """The feature extractor, with the profile's choice of normalisation."""
        network = self.encoder.result()
        if self.decides().get("normalise"):
            network.normalise = True
        return network

    def work(self, folder):
        network, seen = self.reader(), self.seen.result()
        seen = self.seen.readable() if isinstance(self.seen, Photographs) else seen
        images = Pixels(seen, getattr(network, "size", OWN_SIZE)) if isinstance(seen, Photos) else seen.images
        # On a CPU, larger batches of large images take more memory and are no faster.
        batch_size = 256 if images.shape[2] <= 64 else 32 if self.lab.gpu else 8
        how = {"device": self.lab.device, "path": folder / self.file}
        encoders.embed(network, images, batch_size=batch_size, **how)

    def load(self, folder):
        features = super().load(folder)
        if not isinstance(self.seen, Photographs) or self.seen.whole is self.seen.listing:
            return features
        place = {name: i for i, name in enumerate(self.seen.readable().ids)}
        return features[[place[name] for name in self.seen.result().ids]]

    def width(self) -> int:
        """Number of features per image."""
        if isinstance(self.encoder, DDAE):
            u, block = self.lab.profile.unet, self.lab.profile.encoders.ddae.block
            return u.channels[::-1][min((block - 1) // (u.layers + 1), len(u.channels) - 1)]
        return features_width(self.encoder, self.lab.shape)

    def cost(self):
        n, draws = self.lab.n, self.lab.profile.encoders.ddae.draws if isinstance(self.encoder, DDAE) else 1
        published = isinstance(self.encoder, Given) and not isinstance(self.encoder, OwnEncoder)
        given = ", published weights" if published else ""
        network = self.lab.spec("unet").label if isinstance(self.encoder, DDAE) else self.encoder.network
        held = 4 * n * self.width()
        what = self.encoder.label + given
        yield Cost("features", what, network, images=n, evaluations=draws * n, bytes=held, scratch=held)


TRIED = 12
"""Number of photographs that are examined and embedded to estimate the time for all."""


def seconds_to_embed(stage: Embed) -> float:
    """Estimated seconds to examine and embed the photographs; 0 if done, without files or on errors."""
    lab = stage.lab
    found = lab.photographs.listing
    if found is None or not isinstance(stage.seen, Photographs) or lab.store.has(stage.name, stage.identity):
        return 0.0
    few = found.without(dict.fromkeys(range(TRIED, len(found.ids)), "")) if len(found.ids) > TRIED else found
    network = stage.reader()

    def see(some: Listing) -> None:
        look(some)
        pixels = Pixels(some, getattr(network, "size", OWN_SIZE))
        encoders.embed(network, pixels, batch_size=TRIED, device=lab.device)

    try:
        see(few.without(dict.fromkeys(range(1, len(few)), "")))  # one-off costs are not timed
        start = time.perf_counter()
        see(few)
        return (time.perf_counter() - start) / len(few) * len(found)
    except Exception:  # such as an unreadable image, which the look reports
        return 0.0


def features_width(encoder: "TrainedEncoder | Given", shape: tuple[int, int, int]) -> int:
    """Number of features per image of an encoder, from a trial forward pass."""
    # Published networks inspect pixel values in their preprocessing; on the meta device there are none.
    with torch.no_grad(), torch.device("cpu" if isinstance(encoder, Given) else "meta"):
        network = encoder.outline() if isinstance(encoder, Given) else encoder.build()
        return network.eval().features(torch.empty(2, *shape)).shape[1]


def mean_and_std(images: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of uint8 images, on the scale 0..1, to four decimals."""
    samples = images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
    return {
        "mean": [round(float(channel.mean()) / 255, 4) for channel in samples],
        "std": [round(float(channel.std(dtype=np.float64)) / 255, 4) for channel in samples],
    }
