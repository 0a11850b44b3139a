"""The encoders that need no training here: published weights, networks of timm and open_clip, one's own."""

import inspect
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from ... import encoders
from ...config.recipe import ENCODERS
from ...errors import DedtError
from ...files import address, sha256
from ...randomness import seeded
from ...weights import Published, key_of, locate
from ..base import Given, defaults
from .trained import Encoder, normalised, width_of

PUBLISHED = {"resnet18": "imagenet", "inceptionv3": "imagenet", "clip": "openai"}
"""Encoder -> the value of its ``weights`` in a profile that stands for the published ones."""


class GivenEncoder(Encoder, Given):
    """An encoder that needs no training here."""

    role, has_published_weights = "encoder", True

    def _identity(self) -> dict[str, Any]:
        """The identity that its address is hashed from and its manifest records."""
        raise NotImplementedError

    def key(self):
        return address("encoder", self._identity())

    def manifest(self):
        return {**super().manifest(), "identity": self._identity()}

    def features_width(self):
        # Published networks inspect pixel values in their preprocessing; on the meta device there are none.
        return width_of(self.outline(), self.lab.shape)


class PublishedEncoder(GivenEncoder):
    """An encoder with its published weights, or those of a file of the same layout.

    Attributes:
        weights: Name of the published weights in PUBLISHED, or the path of a file.
        trained: The stage that would train the network here.
    """

    trained: type[Encoder]

    @property
    def network(self):
        return self.trained.network

    @property
    def label(self):
        return self.trained.label

    @property
    def features_settings(self):
        return normalised(self.lab) if self.network == "clip" else {}

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
        network = encoders.pretrained(self.network, self._path, **self.features_settings)
        files = {self._file.name: self._identity()["sha256"]}
        network.published = Published(self.weights, None, self._file.parent, files)
        return network

    def outline(self):
        return encoders.PRETRAINED[self.network][0]()


class PretrainedEncoder(GivenEncoder):
    """A network of timm or open_clip by its name: see :func:`dedt_lib.encoders.hub.load_pretrained`."""

    @property
    def network(self):
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

    has_published_weights = False

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
