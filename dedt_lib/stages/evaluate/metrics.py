"""The metrics of samples against the training images."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import evaluation
from ...errors import DedtError
from ...evaluation import METRICS
from ...files import write_json
from .. import needs
from ..base import Cost, Stage, defaults
from ..embed import LABELS
from ..sample import Sample
from ..select import Select
from .cmmd import CmmdReal, CmmdWithin, cmmd_network, unit_embeddings
from .fid_network import extractor, features
from .real import HeldOut, KidWithin, NeighbourRadii, Real, distances_to_training, numbers, viewed

if TYPE_CHECKING:
    from ..lab import Lab
    from ..models import ModelSpec

COMPARISON = "near-copies and the metrics besides FID"


def compares(lab: "Lab", spec: "ModelSpec") -> bool:
    """Whether samples of a kind of model are measured by KID, precision, recall and CMMD too.

    They are if there are metrics of one's own, which are measured with them.
    """
    return spec.latent or lab.profile.evaluate.kid or bool(METRICS)


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
            f"{extractor(lab).protocol}"
        )
        fids = [real["all"].distance(self.generated(seed)) for seed, real in enumerate(reals)]
        start = time.perf_counter()
        copies = self.copies(images[: evaluation.MOST_NEIGHBOURS], held_out)
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
        some, kept = (
            min(m, evaluation.MOST_NEIGHBOURS),
            sum(self.coreset.counts) if self.coreset else self.lab.n,
        )
        how = viewed(self.lab)
        views = (9 if how["shifted"] else 1) * (1 + how["mirrored"])
        images = self.lab.profile.evaluate.networks * m + (views - 1) * some
        what = COMPARISON if compares(self.lab, self.samples.spec) else "near-copies"
        pairs = (1 + how["mirrored"] + views) * some * kept
        yield Cost("measuring", LABELS["metric"], "metric", images=images, evaluations=images)
        yield Cost("comparison", what, "distances", pairs=pairs)


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
        chosen, drawn = radii.chosen(), generated[: evaluation.MOST_NEIGHBOURS]
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
        some, few = min(m, evaluation.MOST_NEIGHBOURS), min(n, evaluation.MOST_NEIGHBOURS)
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
            pairs += m * m + m * min(n, evaluation.MOST_EMBEDDED)
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
