"""CMMD: the CLIP whose embeddings it uses, and the real side of it."""

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ... import encoders, evaluation
from ...errors import DedtError
from ...files import write_json
from ..base import Cost, Given, Stage, uncounted
from ..embed import LABELS, Encoder, SmallClip, encoder

if TYPE_CHECKING:
    from ..lab import Lab


class PublishedViT(Encoder, Given):
    """CLIP ViT-L/14 at 336 pixels, whose embeddings the published CMMD uses."""

    role, network, has_published_weights = "cmmd_network", "vit", True
    label = LABELS["vit"]

    def read(self):
        return encoders.ClipViT(self.weights) if self.weights else encoders.ClipViT()

    def outline(self):
        return encoders.ClipViT(None)

    def features_width(self):
        return 768  # known without building it


def cmmd_network(lab: "Lab") -> Encoder:
    """The CLIP whose embeddings CMMD uses."""
    p = lab.profile.evaluate
    return encoder(lab, "clip-rn50") if p.cmmd == "clip" else PublishedViT(lab, p.cmmd_weights)


def unit_embeddings(network: nn.Module, images: np.ndarray, device: str) -> np.ndarray:
    """Embeddings of uint8 images, scaled to unit length: float32 [n, d]."""
    embeddings = encoders.embed(network, images, device=device)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


class CmmdReal(Stage):
    """Unit embeddings of the training images for CMMD: float32 [n, d], memory-mapped.

    At most MOST_EMBEDDED images are used, each class in its share.
    """

    name, file, mapped = "cmmd", "embeddings.npy", "r"

    @property
    def count(self) -> int:
        """Number of images that are used."""
        return min(self.lab.n, evaluation.MOST_EMBEDDED)

    def inputs(self):
        return {"images": self.lab.images, "network": cmmd_network(self.lab)}

    def check(self):
        if len(self.lab.class_names) == 1 and isinstance(cmmd_network(self.lab), SmallClip):
            raise DedtError(
                "CMMD needs a CLIP, which cannot be trained on images of a single class. Leave CMMD out "
                "(--set evaluate.cmmd='\"\"'), or use published weights (--set encoders.clip.weights=openai)."
            )

    def decides(self):
        return {"images": self.count}

    def work(self, folder):
        network, data = cmmd_network(self.lab).result(), self.lab.data
        chosen = evaluation.spread(data.labels, evaluation.MOST_EMBEDDED)
        some = len(data) > evaluation.MOST_EMBEDDED
        parts = np.array_split(chosen, -(-len(chosen) // 1024)) if some else [slice(None)]
        embeddings = [unit_embeddings(network, data.images[part], self.lab.device) for part in parts]
        np.save(folder / self.file, np.concatenate(embeddings))

    def cost(self):
        stage, n = cmmd_network(self.lab), self.count
        held = 4 * n * stage.features_width()
        yield Cost("features", f"CMMD, {stage.label}", stage.network, images=n, evaluations=n, bytes=held)


class CmmdWithin(Stage):
    """The part of CMMD that depends on the training images alone: see ``evaluation.within_real``."""

    name, file = "cmmd-within", "within.json"

    def inputs(self):
        return {"embeddings": CmmdReal(self.lab)}

    def work(self, folder):
        within = evaluation.within_real(CmmdReal(self.lab).result(), device=self.lab.gpu)
        write_json(folder / self.file, within)

    cost = uncounted  # these pairs are computed once for all comparisons
