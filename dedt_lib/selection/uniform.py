"""Uniform random selection: the published baseline."""

from dataclasses import dataclass
from typing import ClassVar

from ..arrays import Array
from ..randomness import numpy_generator
from .selector import Selector


@dataclass(frozen=True, kw_only=True)
class Uniform(Selector):
    """Keeps samples drawn uniformly at random; exact copies are treated like all others."""

    seed: int = 0
    needs_features: ClassVar[bool] = False
    meaning: ClassVar[str] = "The score is a random number, so the kept images are drawn uniformly at random."

    def scores(self, features: Array, labels: Array, scope: str, originals: Array) -> Array:
        """A random number in [0, 1) for each sample: float64 [n]."""
        return numpy_generator(self.seed, "selection").random(len(labels))
