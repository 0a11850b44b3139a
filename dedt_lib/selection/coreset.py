"""Which samples are kept, and why; its files."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..arrays import Array
from ..errors import DedtError
from ..files import atomic, read_json, write_json

FACTS = {name: name for name in ("method", "ratio", "scope", "class_names", "tied", "reading", "source")} | {
    "exact_copies": "copies",
    "label_conflicts": "conflicts",
    "exact_copies_kept": "copies_kept",
}
"""What ``coreset.json`` calls a field."""


@dataclass(frozen=True, eq=False)
class Coreset:
    """Which samples are kept, and why.

    Attributes:
        indices: int64 [m], sorted positions of the kept samples.
        scores: float64 [n], the selector's own score (log-density, distance or random number).
        rank: int64 [n], 0 = first to be kept, within its class or over all samples as ``scope`` says.
        labels: int64 [n].
        method: name of the selector.
        ratio: share that was asked for.
        scope: "class" or "global".
        ids: name of each sample.
        class_names: name of each class.
        weights: float64 [K] class weights alpha that sum to one, or None.
        reading: what was left out of the images (``Reading.facts``), or None.
        copies: how many samples are exact copies of others, and so ranked last unless drawn at random.
        conflicts: how many samples have the pixels of one of another class.
        copies_kept: how many copies are kept all the same.
        tied: names of the classes ("all" in the global scope) where the scores of most samples are equal, so
            that their position decides.
        originals: int64 [n], of which sample each is an exact copy, its own number if of none; or None.
        captions: a text for each sample, or ().
        source: where the images are (source, path, label, caption) and if they have classes (classed), or None.
        contents: a digest of each sample's encoded image, or ().
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
    def empty(self) -> list[str]:
        """Names of the classes of which no sample is kept."""
        return [name for name, count in zip(self.class_names, self.counts) if not count]

    @property
    def group_sizes(self) -> Array:
        """For each sample how many are ranked with it: int64 [n]."""
        total = len(self.labels)
        return np.bincount(self.labels)[self.labels] if self.scope == "class" else np.full(total, total)

    @property
    def why(self) -> list[str]:
        """For each sample in words why it is kept or not."""
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
    def sample_weights(self) -> Array:
        """Training weight of each sample, zero where it is removed: float64 [n].

        w_i = alpha_i / p_i with p_i the class's share of the coreset (DoReMi, Xie et al., 2023); one
        everywhere when there are no class weights.
        """
        if self.weights is None:
            return self.kept.astype(np.float64)
        return np.where(self.kept, class_to_sample_weights(self.weights, self.counts)[self.labels], 0.0)

    def with_weights(self, weights: Array) -> "Coreset":
        """The same coreset with class weights alpha [K]."""
        return replace(self, weights=np.asarray(weights, dtype=np.float64))

    def save(self, folder: str | Path) -> None:
        """Write ``coreset.parquet`` (a row per sample) and ``coreset.json`` (what it is) to ``folder``."""
        import pandas as pd

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(
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
        with atomic(folder / "coreset.parquet") as partial:
            partial.write_bytes(table.to_parquet(index=False))  # a path must be UTF-8 for pyarrow
        facts = {name: getattr(self, field) for name, field in FACTS.items()} | {
            "samples": len(self.labels),
            "kept": len(self.indices),
            "class_counts": self.counts.tolist(),
            "class_weights": None if self.weights is None else self.weights.tolist(),
        }
        write_json(folder / "coreset.json", facts)

    @classmethod
    def load(cls, folder: str | Path) -> "Coreset":
        """Read a coreset written by :meth:`save`; raises DedtError when a file is missing or damaged."""
        import pandas as pd

        folder = Path(folder)
        facts = read_json(folder / "coreset.json")
        try:
            table = pd.read_parquet(io.BytesIO((folder / "coreset.parquet").read_bytes()))
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
                **{field: facts[name] for name, field in FACTS.items()} | listed,
            )
        except FileNotFoundError:
            raise DedtError(f"{folder / 'coreset.parquet'} does not exist.") from None
        except Exception as error:
            raise DedtError(f"The coreset in {folder} cannot be read ({error!r}); select again.") from error


def class_to_sample_weights(weights: Array, counts: Array) -> Array:
    """alpha_i / p_i: what one sample of class i counts in the loss, with p_i = counts_i / sum(counts).

    Args:
        weights: float [K], sums to one.
        counts: int [K], samples of each class.

    Returns:
        float64 [K]; all ones for uniform weights on a balanced coreset.

    Raises:
        DedtError: a class without images, or lengths that differ.
    """
    weights, counts = np.asarray(weights, dtype=np.float64), np.asarray(counts)
    if weights.shape != counts.shape:
        raise DedtError(f"{weights.size} class weights for {counts.size} classes: there must be one each.")
    if (counts == 0).any():
        raise DedtError(
            f"Class(es) {np.flatnonzero(counts == 0).tolist()} have no image in the coreset, so they cannot "
            "be weighted. Use scope='class' or a larger ratio."
        )
    return weights * counts.sum() / counts
