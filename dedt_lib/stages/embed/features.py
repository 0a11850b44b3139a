"""The features of all images, and clusters of them in place of missing classes."""

import time
from typing import TYPE_CHECKING

import numpy as np

from ... import encoders
from ...clusters import cluster
from ...data import Listing
from ...data.look import look
from ...data.photos import Photos, Pixels
from ...files import address
from ..base import Cost, Given, Stage, uncounted
from ..data import Images, Photographs
from .registry import encoder
from .trained import Encoder

if TYPE_CHECKING:
    from ...config import Profile

MOST_CLUSTERS, IMAGES_A_CLUSTER = 10, 20  # if the profile sets no number
OWN_SIZE = 224
"""Pixels along a side at which a published network sees photographs, unless it has its own ``size``."""


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
        return self.encoder.features_settings

    def work(self, folder):
        network, seen = self.encoder.result(), self.seen.result()
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

    def cost(self):
        n, held = self.lab.n, 4 * self.lab.n * self.encoder.features_width()
        what = self.encoder.label + (", published weights" if self.encoder.has_published_weights else "")
        evaluations = self.encoder.passes_per_image * n
        how = {"images": n, "evaluations": evaluations, "bytes": held, "scratch": held}
        yield Cost("features", what, self.encoder.network_in_plan, **how)


TRIED = 12
"""Number of photographs that are examined and embedded to estimate the time for all."""


def seconds_to_embed(stage: Embed) -> float:
    """Estimated seconds to examine and embed the photographs; 0 if done, without files or on errors."""
    lab = stage.lab
    found = lab.photographs.listing
    if found is None or not isinstance(stage.seen, Photographs) or lab.store.has(stage.name, stage.identity):
        return 0.0
    few = found.without(dict.fromkeys(range(TRIED, len(found.ids)), "")) if len(found.ids) > TRIED else found
    network = stage.encoder.result()

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
