"""The coreset: which images are kept."""

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .. import selection
from ..data.lists import named_columns
from ..data.names import few
from ..errors import DedtError
from ..files import address, from_everywhere
from ..selection import Coreset, Selector
from . import needs
from .base import Stage, newer, uncounted
from .embed import Embed, encoder

if TYPE_CHECKING:
    from ..config import Recipe
    from .lab import Lab


class Select(Stage):
    """A :class:`~dedt_lib.selection.Coreset` of the training images, without class weights.

    Attributes:
        method, ratio, scope: See :func:`dedt_lib.selection.select`.
        options: The options of the method, as pairs of name and value.
        embedding: The stage of the features that the method scores; None for a method that needs none.
    """

    method: str
    ratio: float
    scope: str
    options: tuple[tuple[str, Any], ...] = ()
    embedding: Embed | None = None

    name = "coreset"

    @classmethod
    def of(cls, lab: "Lab", recipe: "Recipe") -> "Select":
        """The coreset of a recipe.

        The scope and each option of the method come from the recipe's field of that name.  If it is empty or
        missing, they come from METHOD_NAME in the profile's section ``select``, and else from the default,
        which follows the cited code.
        """
        kind, profile = selection.REGISTRY[recipe.method], lab.profile.select.model_dump()

        def chosen(name: str, default: Any) -> Any:
            said = getattr(recipe, name, None)
            return profile.get(f"{recipe.method}_{name}", default) if said in (None, "") else said

        options = tuple((name, chosen(name, usual)) for name, usual in selection.options_of(kind).items())
        embedding = Embed(lab, encoder(lab, recipe.encoder, recipe.seed)) if kind.needs_features else None
        return cls(lab, recipe.method, recipe.ratio, chosen("scope", kind.scope), options, embedding)

    @classmethod
    def everything(cls, lab: "Lab") -> "Select":
        """The coreset that keeps all the images."""
        return cls(lab, "random", 1.0, selection.Uniform.scope, (("seed", 0),))

    @property
    def selector(self) -> Selector:
        """The method with its options."""
        return selection.REGISTRY[self.method](**dict(self.options))

    @property
    def counts(self) -> list[int]:
        """Images kept per class, or in the scope "global" one total; known before the selection."""
        sizes = [self.lab.n] if self.scope == "global" else self.lab.class_counts.tolist()
        return [self.selector.count(size, self.ratio, self.scope) for size in sizes]

    def trained_on(self) -> "Select":
        """The coreset for a training run: :meth:`everything` if all images are kept, whatever the method."""
        return self.everything(self.lab) if sum(self.counts) == self.lab.n else self

    def inputs(self):
        chosen_from = self.lab.photographs if self.lab.has_files else self.lab.images
        return {"images": chosen_from, **({"features": self.embedding} if self.embedding else {})}

    @cached_property
    def _ids(self) -> str:
        pool = self.lab.pool
        own = [pool.ids, pool.class_names, pool.labels.tolist()]
        return address("", own if self.lab.has_files else pool.ids)

    def decides(self):
        choice = {"method": self.method, "ratio": self.ratio, "scope": self.scope, **dict(self.options)}
        choice |= newer(selection.REGISTRY[self.method])
        return choice if self.lab.imagined else {**choice, "ids": self._ids}

    def check(self):
        lab, fewest = self.lab, self.selector.fewest
        small = [name for name, count in zip(lab.class_names, lab.class_counts) if count < fewest]
        if lab.n < fewest if self.scope == "global" else small:
            raise DedtError(
                f"Class(es) {few(small, needs.MOST_NAMED)} have fewer than {fewest} images, the minimum for "
                f"method '{self.method}'. "
                "Add images, drop the class, or select among the images of all classes (scope 'global')."
            )
        if sum(self.counts) == 0:
            among = "Select among the images of all classes (--scope global), raise"
            advice = among if self.scope == "class" else "Raise"
            raise DedtError(
                f"Ratio {self.ratio:g} keeps none of the {lab.n} images. {advice} the ratio, or add images."
            )

    def work(self, folder):
        data, choice = self.lab.pool, {"method": self.method, "ratio": self.ratio, "scope": self.scope}
        features = self.embedding.result() if self.embedding else None
        named = {"ids": data.ids, "class_names": data.class_names, "originals": data.originals}
        selection.select(features, data.labels, **choice, **dict(self.options), **named).save(folder)

    def load(self, folder):
        # What was left out is not stored with the choice, which stray files beside the images do not change.
        data, p = self.lab.pool, self.lab.profile.data
        reading = data.reading and data.reading.facts
        said = {"reading": reading, "conflicts": data.conflicts, "captions": data.captions}
        if self.lab.has_files and not self.lab.imagined:
            said["source"] = {"source": p.source, "path": from_everywhere(p.path)}
            said["source"] |= zip(("label", "caption"), named_columns(p.path, p.label, p.caption))
            said["source"]["classed"] = bool(self.lab.photographs.listing.class_names)
            said["contents"] = tuple(self.lab.photos.look.table["content"])
        return dataclasses.replace(Coreset.load(folder), **said)

    cost = uncounted  # a few passes over the features
