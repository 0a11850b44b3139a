"""Counts of the files of a data set: how many are used, and how many are left out for which reason."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BEYOND = "beyond the first {} of each class (per_class)"


@dataclass(frozen=True)
class Reading:
    """Counts of a split: ``seen == used + sum(left_out.values())``.

    Attributes:
        seen: number of files, rows or images that were found.
        used: number of those that are used.
        left_out: reason -> number.
        notes: other decisions, in words.
        held_out: the Reading of the held-out split, or None.
        unit: what is counted, such as "files", "rows" or "images".
    """

    seen: int
    used: int
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    held_out: "Reading | None" = None
    unit: str = "files"

    @classmethod
    def of(
        cls, used: int, left_out: Mapping[str, int] = {}, notes: Iterable[str] = (), unit: str = "files"
    ) -> "Reading":
        """A Reading in which ``seen`` is the sum of ``used`` and ``left_out``; zero counts are dropped."""
        left_out = {reason: count for reason, count in left_out.items() if count}
        return cls(used + sum(left_out.values()), used, left_out, tuple(notes), unit=unit)

    def without(self, count: int, reason: str) -> "Reading":
        """The same Reading after ``count`` more images were left out."""
        left_out = dict(Counter(self.left_out) + Counter({reason: count}))
        return dataclasses.replace(self, used=self.used - count, left_out=left_out)

    def noted(self, *notes: str) -> "Reading":
        """The same Reading with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def first(self, per_class: int, counts: Iterable[int]) -> "Reading":
        """The same Reading with at most ``per_class`` images per class; ``counts``: images per class."""
        beyond = sum(max(0, int(count) - per_class) for count in counts)
        return self.without(beyond, BEYOND.format(per_class))

    @property
    def line(self) -> str:
        """The counts in words: ``19 files seen, 12 images used, 7 left out: 5 hidden, 2 not images``."""
        out = sum(self.left_out.values())
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        text = f"{self.seen:,} {self.unit} seen, {self.used:,} images used, {out:,} left out"
        parts = [f"{text}: {why}" if out else text, *self.notes]
        parts += [f"held out: {self.held_out.line}"] if self.held_out else []
        return "; ".join(parts)

    @property
    def facts(self) -> dict[str, Any]:
        """The Reading as a dict that JSON can hold."""
        return dataclasses.asdict(self)
