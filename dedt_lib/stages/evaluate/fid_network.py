"""The feature extractor of FID: Inception-v3 with published weights, or a classifier trained on the images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ... import encoders
from ...files import address, sha256
from ...weights import Published, locate
from ..base import Given
from ..embed import TrainedEncoder

if TYPE_CHECKING:
    from ..lab import Lab


class FidClassifier(TrainedEncoder):
    """The small classifier whose features FID uses where those of Inception-v3 are meaningless."""

    network, label, name = "classifier", "FID network", "metric"
    advice = (
        "Let clusters take the place of the class (--label none --set select.clusters=2), train without "
        "measuring (dedt train), or use the features of Inception-v3 (--set evaluate.network=inceptionv3)."
    )

    @property
    def network_in_plan(self):
        return self.name

    @property
    def protocol(self) -> str:
        """Its name in the protocol of a measurement."""
        digest = self.manifest()["files"]["model.safetensors"]["sha256"]
        return f"dedt-classifier-{digest[:12]}, layer features"

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


class FidInception(Given):
    """Inception-v3 as published FIDs use it; ``weights`` is a file, or "" for the usual places."""

    name, role = "metric", "extractor"
    protocol = "inception-v3-compat, layer 2048"

    def features_width(self) -> int:
        """Number of features per image."""
        return 2048

    def read(self):
        path = locate("inception-fid", self.weights)
        network = encoders.FidInception(path)
        network.published = Published("inception-fid", None, path.parent, {path.name: sha256(path)})
        return network

    def outline(self):
        return encoders.FidInception(None)

    def key(self):
        (digest,) = self.result().published.files.values()
        return address("metric", {"network": "inception-fid", "sha256": digest})


def extractor(lab: "Lab", seed: int = 0) -> FidClassifier | FidInception:
    """The feature extractor of FID; ``seed`` is for one that is trained here."""
    p = lab.profile.evaluate
    trained = {"classifier": FidClassifier, "resnet18": FidResNet18}
    return trained[p.network](lab, seed) if p.network in trained else FidInception(lab, p.weights)


def features(lab: "Lab", images: np.ndarray, out: Any = None, seed: int = 0) -> np.ndarray:
    """FID features of uint8 images: float32 [n, d], memory-mapped from ``out`` if given (a ``.npy`` file)."""
    return encoders.embed(extractor(lab, seed).result(), images, device=lab.device, path=out)


def width(lab: "Lab") -> int:
    """Number of FID features per image."""
    return extractor(lab).features_width()
