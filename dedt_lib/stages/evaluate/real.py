"""The real side of the metrics, computed once: features and statistics of the training and held-out images."""

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import evaluation
from ...errors import DedtError
from ...evaluation import FrechetReference
from ...files import read_json, write_json
from .. import needs
from ..base import Cost, Stage, uncounted
from ..data import Images
from ..embed import LABELS
from .fid_network import extractor, features

if TYPE_CHECKING:
    from ..lab import Lab


class Real(Stage):
    """The real side of every FID, computed once: a dict.

    features: float32 [n, d] of all training images, memory-mapped; all: their FrechetReference; classes: a
    list with the FrechetReference of each class, None for a class with too few images; the list is empty for
    a profile without class-wise values.

    Attributes:
        seed: Seed of the feature extractor, if it is trained here.
    """

    seed: int = 0

    name = "real"

    def inputs(self):
        return {"images": self.lab.images, "extractor": extractor(self.lab, self.seed)}

    def decides(self):
        return {"classwise": self.lab.profile.evaluate.classwise}

    def check(self):
        if self.lab.n < needs.REAL_IMAGES:
            raise DedtError(
                f"FID and the FID between halves of the real images need at least {needs.REAL_IMAGES} "
                f"training images, but there are only {self.lab.n}. Add images."
            )

    def work(self, folder):
        lab = self.lab
        found = features(lab, lab.data.images, out=folder / "features.npy", seed=self.seed)
        references = [FrechetReference.of(found)]
        if lab.profile.evaluate.classwise:
            references += evaluation.classwise_references(found, lab.data.labels, least=needs.REAL_IMAGES)
        for k, reference in enumerate(references):
            if reference is not None:
                reference.save(folder / f"reference-{k:04d}.npz")

    def load(self, folder):
        references = {path.stem: FrechetReference.load(path) for path in folder.glob("reference-*.npz")}
        K = len(self.lab.class_names) if self.lab.profile.evaluate.classwise else 0
        return {
            "features": np.load(folder / "features.npy", mmap_mode="r"),
            "all": references["reference-0000"],
            "classes": [references.get(f"reference-{k + 1:04d}") for k in range(K)],
        }

    def cost(self):
        lab, n, d = self.lab, self.lab.n, extractor(self.lab).features_width()
        sides = (n, *(lab.class_counts if lab.profile.evaluate.classwise else ()))
        statistics = sum(8 * d * (1 + min(int(count), d)) for count in sides)
        held = 4 * d * n + statistics
        yield Cost("features", LABELS["metric"], "metric", images=n, evaluations=n, bytes=held)


class OfReal(Stage):
    """A statistic of the FID features of the training images alone, computed once for all samples."""

    def inputs(self):
        return {"real": Real(self.lab)}

    @property
    def features(self) -> np.ndarray:
        """FID features of the training images: float32 [n, d]."""
        return Real(self.lab).result()["features"]

    cost = uncounted  # no network runs, and these pairs are computed once for all comparisons


class Floor(OfReal):
    """FID between halves of the real images: dict with "fid" and "classwise" [K], None for too few images."""

    name, file = "floor", "floor.json"

    def work(self, folder):
        found, classwise = self.features, self.lab.profile.evaluate.classwise
        splits = 10 if found.shape[1] < 256 else 1  # with 2048 features each split takes minutes
        floor = evaluation.real_floor(found, self.lab.data.labels, splits=splits, classwise=classwise)
        write_json(folder / self.file, {**floor, "classwise": numbers(floor["classwise"])})


class HeldOut(Stage):
    """Distances of held-out images to the nearest training images: a dict, or None without held-out images.

    At most MOST_NEIGHBOURS held-out images count.  leaks: how many of them are training images; pixels,
    features: float64 [held_out], the distances of the others; pixels_threshold, features_threshold: the
    distance that only 1 % of these fall below, None if no image is left.  reference: the FrechetReference of
    the images, leaks included; fid: their FID to the training images; both None for too few images.
    """

    name, version = "held-out", 3

    def inputs(self):
        return {"real": Real(self.lab), "images": Images(self.lab, "test")}

    def decides(self):
        return {"flip": self.lab.profile.train.flip}

    def result(self):
        return None if self.lab.test is None else super().result()

    def work(self, folder):
        test = self.lab.test
        chosen = evaluation.spread(test.labels, evaluation.MOST_NEIGHBOURS)
        images = test.images[chosen]
        found = features(self.lab, images)
        if len(found) >= needs.REAL_IMAGES:
            reference = FrechetReference.of(found)
            reference.save(folder / "reference.npz")
            write_json(folder / "fid.json", Real(self.lab).result()["all"].distance(reference))
        np.savez(folder / "distances.npz", **distances_to_training(self.lab, images, found))

    def load(self, folder):
        with np.load(folder / "distances.npz") as file:
            new = file["pixels"] > evaluation.SAME
            distances = {name: file[name][new] for name in ("pixels", "features")}
        thresholds = {f"{name}_threshold": evaluation.near(values) for name, values in distances.items()}
        counts = {"held_out": int(new.sum()), "leaks": int((~new).sum())}
        known = (folder / "reference.npz").exists()
        reference = FrechetReference.load(folder / "reference.npz") if known else None
        fid = read_json(folder / "fid.json") if known else None
        return {**distances, **thresholds, **counts, "reference": reference, "fid": fid}

    cost = uncounted  # held-out images are not counted


def distances_to_training(
    lab: "Lab", images: np.ndarray, found: np.ndarray, among: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Distance of each image to the nearest training image: "pixels" and "features", float64 [n].

    The nearest of the views of :func:`viewed` counts.

    Args:
        lab: The lab with the training images.
        images: uint8 [n, C, H, W].
        found: FID features of the images, float32 [n, d].
        among: Positions of the training images to compare with, int; all by default.
    """
    how: dict[str, Any] = {"among": among, "device": lab.gpu}
    real = Real(lab).result()["features"]
    mirrored = lab.profile.train.flip
    pixels, _ = evaluation.nearest_distances(images, lab.data.images, mirrored=mirrored, **how)
    seen = evaluation.views(images, **viewed(lab))
    sides = [found, *(features(lab, view) for view in islice(seen, 1, None))]  # the first is the images
    return {"pixels": pixels, "features": evaluation.nearest_features(sides, real, **how)}


class KidWithin(OfReal):
    """The part of KID that depends on the training images alone: see ``evaluation.kid_within``."""

    name, file = "kid-within", "within.npy"

    def decides(self):
        samples = self.lab.profile.sample.count
        return {"samples": samples, "subsets": max(samples, self.lab.n) > evaluation.MOST_PAIRED}

    def work(self, folder):
        samples = self.lab.profile.sample.count
        within = evaluation.kid_within(self.features, samples, device=self.lab.gpu)
        np.save(folder / self.file, within)


class NeighbourRadii(OfReal):
    """Radii around training images for precision and recall: see ``evaluation.neighbour_radii``."""

    name, file = "radii", "radii.npy"

    def chosen(self) -> np.ndarray:
        """Positions of these training images."""
        return evaluation.spread(self.lab.data.labels, evaluation.MOST_NEIGHBOURS)

    def decides(self):
        return {"images": min(self.lab.n, evaluation.MOST_NEIGHBOURS)}

    def work(self, folder):
        radii = evaluation.neighbour_radii(self.features[self.chosen()], device=self.lab.gpu)
        np.save(folder / self.file, radii)


def viewed(lab: "Lab") -> dict[str, bool]:
    """The views of a sample in the search for near-copies, as arguments of ``evaluation.views``.

    With flips in training, mirror images count as well.  The small classifier is sensitive to single pixels,
    so shifts by one pixel are compared in its features.
    """
    return {"mirrored": lab.profile.train.flip, "shifted": lab.profile.evaluate.network == "classifier"}


def numbers(values: np.ndarray) -> list[float | None]:
    """The array as a list for JSON, with None in place of NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]
