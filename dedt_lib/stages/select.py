"""The coreset: which images are kept."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import selection
from ..files import address
from ..selection import Coreset
from . import needs
from .base import Stage
from .embed import Embed, encoder

if TYPE_CHECKING:
    from ..config import Recipe
    from .lab import Lab


@dataclass(frozen=True, eq=False)
class Select(Stage):
    """A :class:`~dedt_lib.selection.Coreset` of the training images, without class weights.

    Attributes:
        method, ratio, scope: As of :func:`dedt_lib.selection.select`.
        options: Its further arguments, those of the method.
        embedding: The features that are scored; None for a method that scores nothing.
    """

    method: str
    ratio: float
    scope: str
    options: tuple[tuple[str, Any], ...] = ()
    embedding: Embed | None = None

    name = "coreset"

    @classmethod
    def of(cls, lab: "Lab", recipe: "Recipe") -> "Select":
        """The coreset of a recipe; what it leaves open the profile decides, or the cited code."""
        p, r = lab.profile.select, recipe
        by_profile = {"moderate": p.moderate_scope}
        scope = r.scope or by_profile.get(r.method, selection.DEFAULT_SCOPE[r.method])
        options = {
            "random": {"seed": r.seed},
            "gaussian": {"ridge": p.gaussian_ridge, "threshold": p.gaussian_threshold},
            "moderate": {"centre": r.centre or p.moderate_centre, "band": r.band},
        }[r.method]
        embedding = None if r.method == "random" else Embed(lab, encoder(lab, r.encoder))
        return cls(lab, r.method, r.ratio, scope, tuple(options.items()), embedding)

    @classmethod
    def everything(cls, lab: "Lab") -> "Select":
        """All the images."""
        return cls(lab, "random", 1.0, selection.DEFAULT_SCOPE["random"], (("seed", 0),))

    @property
    def counts(self) -> list[int]:
        """Images that each class keeps, or in the scope "global" all classes together; known beforehand."""
        return needs.kept(self, self.scope, self.lab.class_counts)

    def trained_on(self) -> "Select":
        """The same images for a training run: all are all, whichever method kept them."""
        return self.everything(self.lab) if sum(self.counts) == self.lab.n else self

    def inputs(self):
        return {"images": self.lab.images, **({"features": self.embedding} if self.embedding else {})}

    @cached_property
    def _ids(self) -> str:
        return address("", self.lab.data.ids)

    def decides(self):
        choice = {"method": self.method, "ratio": self.ratio, "scope": self.scope, **dict(self.options)}
        return choice if self.lab.imagined else {**choice, "ids": self._ids}

    def work(self, folder):
        data, choice = self.lab.data, {"method": self.method, "ratio": self.ratio, "scope": self.scope}
        features = self.embedding.result() if self.embedding else None
        named = {"ids": data.ids, "class_names": data.class_names, "originals": data.originals}
        selection.select(features, data.labels, **choice, **dict(self.options), **named).save(folder)

    def load(self, folder):
        # What was left out is no part of the stored choice: a file beside the images does not change it.
        data = self.lab.data
        reading = data.reading and data.reading.facts
        return dataclasses.replace(Coreset.load(folder), reading=reading, conflicts=data.conflicts)

    def cost(self):
        return ()  # a few passes over the features


def seen(coreset: Coreset) -> np.ndarray | None:
    """Positions of the images that were chosen; None for all."""
    return None if len(coreset.indices) == len(coreset.labels) else coreset.indices
