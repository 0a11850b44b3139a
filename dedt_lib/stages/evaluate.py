"""The metrics of samples against the training images, and the networks and statistics they need."""

import time
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from .. import encoders, evaluation
from ..errors import DedtError
from ..evaluation import METRICS, MOST_EMBEDDED, MOST_NEIGHBOURS, FrechetReference
from ..files import address, read_json, sha256, write_json
from ..weights import Published, locate
from . import needs
from .base import Cost, Given, Stage, defaults, uncounted
from .data import Images
from .embed import LABELS, Encoder, FidClassifier, FidResNet18, SmallClip, encoder, features_width
from .sample import Sample
from .select import Select

if TYPE_CHECKING:
    from .lab import Lab
    from .models import ModelSpec

COMPARISON = "near-copies and the metrics besides FID"


# ---- the feature extractor of FID ------------------------------------------------------------------


class FidInception(Given):
    """Inception-v3 as published FIDs use it; ``weights`` is a file, or "" for the usual places."""

    name, role = "metric", "extractor"

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


def called(stage: FidClassifier | FidInception) -> str:
    """Name of the feature extractor of FID in a protocol."""
    if isinstance(stage, Given):
        return "inception-v3-compat, layer 2048"
    return f"dedt-classifier-{stage.manifest()['files']['model.safetensors']['sha256'][:12]}, layer features"


def features(lab: "Lab", images: np.ndarray, out: Any = None, seed: int = 0) -> np.ndarray:
    """FID features of uint8 images: float32 [n, d], memory-mapped from ``out`` if given (a ``.npy`` file)."""
    return encoders.embed(extractor(lab, seed).result(), images, device=lab.device, path=out)


def width(lab: "Lab") -> int:
    """Number of FID features per image."""
    if lab.profile.evaluate.network == "inceptionv3":
        return 2048
    return features_width(extractor(lab), lab.shape)


def compares(lab: "Lab", spec: "ModelSpec") -> bool:
    """Whether samples of a kind of model are measured by KID, precision, recall and CMMD too.

    They are if there are metrics of one's own, which are measured with them.
    """
    return spec.latent or lab.profile.evaluate.kid or bool(METRICS)


def viewed(lab: "Lab") -> dict[str, bool]:
    """The views of a sample in the search for near-copies, as arguments of ``evaluation.views``.

    With flips in training, mirror images count as well.  The small classifier is sensitive to single pixels,
    so shifts by one pixel are compared in its features.
    """
    return {"mirrored": lab.profile.train.flip, "shifted": lab.profile.evaluate.network == "classifier"}


# ---- the real side ---------------------------------------------------------------------------------


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
        lab, n, d = self.lab, self.lab.n, width(self.lab)
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
        chosen = evaluation.spread(test.labels, MOST_NEIGHBOURS)
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


# ---- a recipe's samples ------------------------------------------------------------------------------


class Evaluate(Stage):
    """FID, class-wise FID and near-copies of samples: a dict of numbers.

    fid: float; fids: one FID for each seed of the feature extractor, the first being fid; fid_held_out: FID
    of the samples against the held-out images; held_out_fid: FID of the held-out against the training images;
    classwise: list [K], None for a class with too few images or samples, empty if the profile wants none;
    classwise_left_out: those classes in words; protocol: how the FID was measured.

    copies: share of samples whose pixel distance to the nearest training image of this run is at most the
    threshold that only 1 % of the held-out images fall below; copies_features: the same with distances in
    features.  Both are None without held-out images.

    Attributes:
        samples: The stage of the samples.
        coreset: The images that count as trained on; None for all.
    """

    samples: Sample
    coreset: Select | None

    name, version, file = "metrics", 5, "metrics.json"

    def inputs(self):
        reals = {f"real {seed}": Real(self.lab, seed) for seed in range(self.lab.profile.evaluate.networks)}
        read = {"samples": self.samples, **reals, **({"coreset": self.coreset} if self.coreset else {})}
        measured = self.lab.imagined or self.lab.test is not None
        return {**read, "held_out": HeldOut(self.lab)} if measured else read

    def check(self):
        if self.lab.profile.sample.count < needs.SAMPLES:
            raise DedtError(
                f"FID needs at least {needs.SAMPLES} samples. Use --set sample.count={needs.SAMPLES} or more."
            )

    def generated(self, seed: int = 0) -> np.ndarray:
        """FID features of the samples: float32 [n, d], computed once per lab."""
        key = ("generated", self.samples.address, seed)
        return self.lab.remember(key, lambda: features(self.lab, self.samples.result(), seed=seed))

    def work(self, folder):
        lab, images, generated = self.lab, self.samples.result(), self.generated()
        labels, classwise, left_out = self.samples.labels(), np.empty(0), []
        reals = [Real(lab, seed).result() for seed in range(lab.profile.evaluate.networks)]
        held_out = HeldOut(lab).result() or {"reference": None}
        if lab.profile.evaluate.classwise:
            real = reals[0]["classes"]
            classwise = evaluation.classwise_frechet(real, None, generated, labels, partial=True)
            drawn = np.bincount(labels, minlength=len(classwise))
            left_out = needs.left_out(lab.class_counts, drawn, lab.class_names)
        precision = lab.profile.sample.precision
        protocol = (
            f"FID of {len(images)} samples (seed {self.samples.model.seed}) against all {lab.n} training "
            f"images, labels in the shares of the training images, {generated.shape[1]} features of "
            f"{called(extractor(lab))}"
        )
        fids = [real["all"].distance(self.generated(seed)) for seed, real in enumerate(reals)]
        start = time.perf_counter()
        copies = self.copies(images[:MOST_NEIGHBOURS], held_out)
        result = {
            "fid": fids[0],
            "fids": fids,
            "fid_held_out": held_out["reference"] and held_out["reference"].distance(generated),
            "held_out_fid": held_out.get("fid"),
            "classwise": numbers(classwise),
            "classwise_left_out": left_out,
            "protocol": protocol + ("" if precision == "float32" else f", sampled in {precision}"),
            **copies,
        }
        write_json(folder / self.file, result)
        return {"part_seconds": {"comparison": time.perf_counter() - start}}

    def copies(self, images: np.ndarray, held_out: dict[str, Any]) -> dict[str, Any]:
        """Near-copies of training images among ``images``, the first samples, by the result of HeldOut."""
        found = {name: held_out.get(name) for name in ("held_out", "leaks")}
        among = self.coreset.result().indices if self.coreset else None
        distances = {}
        if held_out.get("held_out"):
            distances = distances_to_training(self.lab, images, self.generated()[: len(images)], among)
        for name, reading in (("copies", "pixels"), ("copies_features", "features")):
            threshold = held_out.get(f"{reading}_threshold")
            found[f"{name}_threshold"] = threshold
            found[name] = None if threshold is None else float((distances[reading] <= threshold).mean())
        return found

    def cost(self):
        m = self.lab.profile.sample.count
        some, kept = min(m, MOST_NEIGHBOURS), sum(self.coreset.counts) if self.coreset else self.lab.n
        how = viewed(self.lab)
        views = (9 if how["shifted"] else 1) * (1 + how["mirrored"])
        images = self.lab.profile.evaluate.networks * m + (views - 1) * some
        what = COMPARISON if compares(self.lab, self.samples.spec) else "near-copies"
        pairs = (1 + how["mirrored"] + views) * some * kept
        yield Cost("measuring", LABELS["metric"], "metric", images=images, evaluations=images)
        yield Cost("comparison", what, "distances", pairs=pairs)


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
        return evaluation.spread(self.lab.data.labels, MOST_NEIGHBOURS)

    def decides(self):
        return {"images": min(self.lab.n, MOST_NEIGHBOURS)}

    def work(self, folder):
        radii = evaluation.neighbour_radii(self.features[self.chosen()], device=self.lab.gpu)
        np.save(folder / self.file, radii)


# ---- CMMD --------------------------------------------------------------------------------------------


class PublishedViT(Given):
    """CLIP ViT-L/14 at 336 pixels, whose embeddings the published CMMD uses."""

    name, role, network = "encoder", "cmmd_network", "vit"
    label = LABELS["vit"]

    def read(self):
        return encoders.ClipViT(self.weights) if self.weights else encoders.ClipViT()

    def outline(self):
        return encoders.ClipViT(None)


def cmmd_network(lab: "Lab") -> Encoder | PublishedViT:
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
        return min(self.lab.n, MOST_EMBEDDED)

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
        chosen = evaluation.spread(data.labels, MOST_EMBEDDED)
        some = len(data) > MOST_EMBEDDED
        parts = np.array_split(chosen, -(-len(chosen) // 1024)) if some else [slice(None)]
        embeddings = [unit_embeddings(network, data.images[part], self.lab.device) for part in parts]
        np.save(folder / self.file, np.concatenate(embeddings))

    def cost(self):
        stage, n = cmmd_network(self.lab), self.count
        d = 768 if isinstance(stage, PublishedViT) else features_width(stage, self.lab.shape)
        held = 4 * d * n
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


class Compare(Stage):
    """KID, precision, recall and CMMD of samples against the training images: a dict of numbers.

    kid, kid_classwise [K], precision and recall use the features of FID; the last two are None with too few
    images for three neighbours.  cmmd (the biased value, as in the published code) and cmmd_unbiased use the
    embeddings of the profile's CLIP, if it names one.  Each of ``evaluation.METRICS`` has its name.
    comparison_protocol: how many images each metric used.

    Attributes:
        metrics: The stage of the FID of the same samples.
    """

    metrics: Evaluate

    name, version, file = "comparison", 4, "comparison.json"

    def inputs(self):
        real = {"radii": NeighbourRadii(self.lab), "kid": KidWithin(self.lab)}
        read: dict[str, Stage] = {"samples": self.metrics.samples, **real}
        return {**read, "cmmd": CmmdWithin(self.lab)} if self.lab.profile.evaluate.cmmd else read

    def decides(self):
        own = {name: defaults(metric) for name, metric in METRICS.items()}
        return {"metrics": own} if own else {}

    def work(self, folder):
        lab, device = self.lab, self.lab.gpu
        real, generated = Real(lab).result()["features"], self.metrics.generated()
        radii = NeighbourRadii(lab)
        chosen, drawn = radii.chosen(), generated[:MOST_NEIGHBOURS]
        notes = [f"KID as the mean over {evaluation.KID_SUBSETS} subsets of {evaluation.KID_SUBSET_SIZE}"]
        if max(len(real), len(generated)) <= evaluation.MOST_PAIRED:
            notes = ["KID of all pairs"]
        notes.append(f"precision and recall of {len(drawn)} samples and {len(chosen)} training images")
        result: dict[str, Any] = dict.fromkeys(("precision", "recall", "cmmd", "cmmd_unbiased"))
        within = KidWithin(lab).result()
        result["kid"] = evaluation.kid(real, generated, within=within, device=device)
        if lab.profile.evaluate.classwise:
            sides = real, lab.data.labels, generated, self.metrics.samples.labels()
            result["kid_classwise"] = numbers(evaluation.classwise_kid(*sides, device=device))
        if min(len(chosen), len(drawn)) > 3:
            known = real if len(chosen) == len(real) else real[chosen]
            pair = evaluation.precision_recall(known, drawn, radii=radii.result(), device=device)
            result["precision"], result["recall"] = pair
        if lab.profile.evaluate.cmmd:
            embeddings = CmmdReal(lab).result()
            ours = unit_embeddings(cmmd_network(lab).result(), self.metrics.samples.result(), lab.device)
            pair = evaluation.both_cmmds(embeddings, ours, within=CmmdWithin(lab).result(), device=device)
            result["cmmd"], result["cmmd_unbiased"] = pair
            notes.append(f"CMMD against {len(embeddings)} training images")
        check_names(result)
        result |= {name: own_metric(name, real, generated) for name in METRICS}
        write_json(folder / self.file, {**result, "comparison_protocol": ", ".join(notes)})

    def cost(self) -> Iterable[Cost]:
        m, n = self.lab.profile.sample.count, self.lab.n
        some, few = min(m, MOST_NEIGHBOURS), min(n, MOST_NEIGHBOURS)
        if max(m, n) > evaluation.MOST_PAIRED:
            pairs = 2 * evaluation.KID_SUBSETS * min(evaluation.KID_SUBSET_SIZE, m, n) ** 2
        else:
            pairs = m * m + m * n
        if self.lab.profile.evaluate.classwise:
            pairs += (m * m + n * n + m * n) // len(self.lab.class_names)
        pairs += some * some + some * few
        # The FID features of the samples, once more.
        yield Cost("measuring", LABELS["metric"], "metric", images=m, evaluations=m, runs=0)
        if self.lab.profile.evaluate.cmmd:
            pairs += m * m + m * min(n, MOST_EMBEDDED)
            stage = cmmd_network(self.lab)
            yield Cost("measuring", stage.label, stage.network, images=m, evaluations=m)
        yield Cost("comparison", COMPARISON, "distances", pairs=pairs, runs=0)


def check_names(taken: Iterable[str]) -> None:
    """Raise DedtError if a metric in METRICS has a name that another value of a result has."""
    if clash := METRICS.keys() & taken:
        raise DedtError(f"Rename the metric '{min(clash)}': a result has another value of that name.")


def own_metric(name: str, real: np.ndarray, generated: np.ndarray) -> float:
    """The value of a metric in METRICS; raises DedtError if it is no finite number."""
    value = np.asarray(METRICS[name](real, generated))
    if value.shape or value.dtype.kind not in "iuf" or not np.isfinite(value):
        raise DedtError(f"The metric '{name}' must return a finite number; got {value}.")
    return float(value)


def numbers(values: np.ndarray) -> list[float | None]:
    """The array as a list for JSON, with None in place of NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]
