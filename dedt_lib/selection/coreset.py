"""Coresets: which samples are kept and why, and their files."""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..errors import DedtError
from ..files import atomic, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

FACTS = {
    name: name for name in ("method", "ratio", "scope", "options", "class_names", "tied", "reading", "source")
} | {
    "exact_copies": "copies",
    "label_conflicts": "conflicts",
    "exact_copies_kept": "copies_kept",
}
"""Name in ``coreset.json`` -> field of Coreset."""


@dataclass(frozen=True, eq=False)
class Coreset:
    """Which samples are kept, and why.

    Attributes:
        indices: int64 [m], sorted positions of the kept samples.
        scores: float64 [n], score by the selector (log-density, distance or random number).
        rank: int64 [n], 0 = first to be kept, within its class or over all samples, depending on ``scope``.
        labels: int64 [n].
        method: Name of the selector.
        ratio: Share that was asked for.
        scope: "class" or "global".
        ids: Name of each sample.
        class_names: Name of each class.
        options: Options of the selector.
        weights: float64 [K], class weights alpha that sum to one, or None.
        reading: What was left out of the images (``Reading.facts``), or None.
        copies: Number of exact copies of other samples; they rank last unless samples are drawn at random.
        conflicts: Number of samples with the same pixels as a sample of another class.
        copies_kept: Number of copies that are kept nevertheless.
        tied: Names of the classes ("all" in the global scope) in which most scores are equal, so that the
            positions of the samples decide.
        originals: int64 [n], position of the sample that each is an exact copy of, or its own; or None.
        captions: A caption for each sample, or ().
        source: Where the images are (source, path, label, caption) and whether they have classes (classed),
            or None.
        contents: A digest of each sample's encoded image, or ().
    """

    indices: Array
    scores: Array
    rank: Array
    labels: Array
    method: str
    ratio: float
    scope: str
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    weights: Array | None = None
    reading: dict | None = None
    copies: int = 0
    conflicts: int = 0
    copies_kept: int = 0
    tied: tuple[str, ...] = ()
    originals: Array | None = None
    captions: tuple[str, ...] = ()
    source: dict | None = None
    contents: tuple[str, ...] = ()

    @property
    def counts(self) -> Array:
        """Kept samples per class: int64 [K]."""
        return np.bincount(self.labels[self.indices], minlength=len(self.class_names))

    @property
    def totals(self) -> Array:
        """All samples per class: int64 [K]."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def empty(self) -> list[str]:
        """Names of the classes without a kept sample."""
        return [name for name, count in zip(self.class_names, self.counts) if not count]

    @property
    def group_sizes(self) -> Array:
        """Size of the group in which each sample is ranked: int64 [n]."""
        total = len(self.labels)
        return np.bincount(self.labels)[self.labels] if self.scope == "class" else np.full(total, total)

    @property
    def why(self) -> list[str]:
        """For each sample the reason, in words, why it is kept or not."""
        total = len(self.labels)
        counts = self.counts[self.labels] if self.scope == "class" else np.full(total, len(self.indices))
        of = np.arange(total) if self.originals is None else self.originals
        return [
            f"exact copy of {self.ids[of[i]]}"
            if of[i] != i and not kept
            else f"{'kept' if kept else 'not kept'}: number {rank + 1:,} of {size:,}, and {count:,} are kept"
            for i, (kept, rank, size, count) in enumerate(zip(self.kept, self.rank, self.group_sizes, counts))
        ]

    @property
    def kept(self) -> Array:
        """Whether each sample is in the coreset: bool [n]."""
        return np.isin(np.arange(len(self.labels)), self.indices)

    @property
    def image_weights(self) -> Array:
        """Training weight of a kept sample of each class: float64 [K].

        w_i = alpha_i / p_i with p_i the class's share of the coreset (DoReMi, Xie et al., 2023).  Without
        class weights it is one.
        """
        if self.weights is None:
            return np.ones(len(self.class_names))
        return class_to_sample_weights(self.weights, self.counts)

    @property
    def sample_weights(self) -> Array:
        """Training weight of each sample, :attr:`image_weights` of its class or zero if removed: float64 [n]."""
        return np.where(self.kept, self.image_weights[self.labels], 0.0)

    def keeps_as(self, other: "Coreset") -> bool:
        """Whether both keep the same ones of the same samples."""
        return self.ids == other.ids and np.array_equal(self.indices, other.indices)

    def with_weights(self, weights: Array) -> "Coreset":
        """The same coreset with class weights alpha [K]; raises DedtError unless they are shares of one."""
        return replace(self, weights=as_class_weights(weights, len(self.class_names)))

    @property
    def table(self) -> "pd.DataFrame":
        """A row per sample: what ``coreset.parquet`` holds."""
        import pandas as pd

        return pd.DataFrame(
            {
                "id": self.ids,
                "class": self.labels,
                "class_name": [self.class_names[k] for k in self.labels],
                "caption": self.captions or "",
                "score": self.scores,
                "rank": self.rank,
                "kept": self.kept,
                "weight": self.sample_weights,
                "original": np.arange(len(self.labels)) if self.originals is None else self.originals,
                "why": self.why,
                **({"content": self.contents} if self.contents else {}),
            }
        )

    def save(self, folder: str | Path) -> None:
        """Write ``coreset.parquet`` (a row per sample) and ``coreset.json`` (facts) to ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {name: getattr(self, own) for name, own in FACTS.items()} | {
            "samples": len(self.labels),
            "kept": len(self.indices),
            "class_counts": self.counts.tolist(),
            "class_weights": None if self.weights is None else self.weights.tolist(),
        }
        # Both are replaced when both are written.
        with atomic(folder / "coreset.parquet") as rows, atomic(folder / "coreset.json") as told:
            rows.write_bytes(self.table.to_parquet(index=False))  # pyarrow accepts only UTF-8 paths
            write_json(told, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "Coreset":
        """Read a coreset written by :meth:`save`; raises DedtError if a file is missing or damaged."""
        import pandas as pd

        folder = Path(folder)
        facts = read_json(folder / "coreset.json")
        try:
            facts = {"options": {}} | facts  # coresets of older versions lack them
            table = pd.read_parquet(io.BytesIO((folder / "coreset.parquet").read_bytes()))
            if (len(table), table["kept"].sum()) != (facts["samples"], facts["kept"]):
                raise ValueError("its two files are of different coresets")
            weights = facts["class_weights"]
            listed = {name: tuple(facts[name]) for name in ("class_names", "tied")}
            return cls(
                indices=np.flatnonzero(table["kept"].to_numpy()),
                scores=table["score"].to_numpy(dtype=np.float64),
                rank=table["rank"].to_numpy(dtype=np.int64),
                labels=table["class"].to_numpy(dtype=np.int64),
                ids=tuple(table["id"]),
                originals=table["original"].to_numpy(dtype=np.int64),
                captions=tuple(table["caption"]) if table["caption"].any() else (),
                contents=tuple(table.get("content", ())),
                weights=None if weights is None else np.array(weights),
                **{own: facts[name] for name, own in FACTS.items()} | listed,
            )
        except FileNotFoundError:
            raise DedtError(f"{folder / 'coreset.parquet'} does not exist. Select it again.") from None
        except Exception as error:
            raise DedtError(
                f"The coreset in {folder} cannot be read ({error!r}). Select it again."
            ) from error


def class_to_sample_weights(weights: Array, counts: Array) -> Array:
    """Weight of one sample of class i in the loss: alpha_i / p_i with p_i = counts_i / sum(counts).

    Args:
        weights: float [K], sums to one.
        counts: int [K], samples of each class.

    Returns:
        float64 [K]; all ones for uniform weights on a balanced coreset.

    Raises:
        DedtError: A class has no images, or the weights are not one share of one per class.
    """
    counts = np.asarray(counts)
    weights = as_class_weights(weights, counts.size)
    if not (counts > 0).all():
        raise DedtError(
            f"Class(es) {np.flatnonzero(~(counts > 0)).tolist()} have no image in the coreset, so they cannot "
            "be weighted. Use scope='class' or a larger ratio."
        )
    return weights * counts.sum() / counts


def as_class_weights(weights: Array, classes: int) -> Array:
    """Class weights alpha as float64 [K]; raises DedtError unless they are K shares that sum to one."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (classes,):
        raise DedtError(f"Got {weights.size} class weights for {classes} classes; expected one each.")
    if not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-4:  # NaN is not >= 0
        raise DedtError(
            f"Class weights must not be negative and must sum to one; these sum to {weights.sum():g}."
        )
    return weights
