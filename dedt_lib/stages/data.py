"""The stages of the images; a hash of their content is their address."""

import dataclasses
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..arrays import groups
from ..data import LabelledImages, Listing
from ..data.look import Look, look
from ..data.names import DECODERS
from ..data.photos import Photos
from ..data.reading import BEYOND
from .base import Cost, Stage, uncounted


class Images(Stage):
    """The images of a split ("train" or "test") of the profile's data.

    On an imagined lab they are random pixels, generated only when needed.
    """

    split: str = "train"

    name = "images"

    @cached_property
    def address(self) -> str:
        if self.lab.imagined:
            return self.split
        images = self.result()
        return images.fingerprint if images else "none"

    @property
    def folder(self) -> Path:
        raise NotImplementedError("Images are kept by their source.")

    def result(self) -> LabelledImages | None:
        return self.lab.remember(("images", self.split), self._read)

    def _read(self) -> LabelledImages | None:
        lab, p = self.lab, self.lab.profile.data
        if lab.imagined:
            return lab.imagine(lab.n)
        if data.reads_files(p.source):
            photos = lab.photos if self.split == "train" else Photographs(lab, self.split).result()
            if photos is None:
                return None
            pixels = photos.decode(p.image_size, p.channels, lab.store)
            labelled = self.split == "test" and photos.class_names
            return pixels.of_classes(lab.class_names) if labelled else pixels
        how: dict[str, Any] = p.model_dump(include={"path", "image_size", "channels"})
        how |= {"per_class": p.per_class if self.split == "train" else None}
        images = data.load(p.source, split=self.split, **how, store=lab.store)
        return images and images.named(p.class_names)

    def cost(self) -> Iterable[Cost]:
        p, n = self.lab.profile.data, self.lab.n
        if self.split == "train" and data.reads_files(p.source):
            yield Cost("images", "decoded", images=n, bytes=p.channels * p.image_size**2 * n)


class Photographs(Stage):
    """The image files of a split, each examined once: a :class:`~dedt_lib.data.photos.Photos`.

    The address depends on their content, not on the names of the files.  An imagined lab never reads them.
    """

    split: str = "train"

    name, version, resumable = "look", 3, True

    @cached_property
    def listing(self) -> Listing | None:
        """The images found, before they are examined; None without a usable held-out split."""
        p = self.lab.profile.data
        return data.find(p.source, p.path, self.split, label=p.label, caption=p.caption)  # type: ignore[return-value]

    @property
    def few(self) -> int:
        """Images of each class that the profile limits the split to; 0 for all."""
        return self.lab.profile.data.per_class if self.split == "train" else 0

    @cached_property
    def whole(self) -> Listing:
        """The images that are examined and embedded: also those that a cleaned list leaves out.

        So the lists of one folder share that work, except where the profile limits the images of a class.
        """
        assert self.listing is not None  # without held-out images nobody asks
        return self.listing if self.few else self.listing.whole or self.listing

    @property
    def look(self) -> Look:
        """The notes on all images of the listing, including those that cannot be read."""
        return self._of_listing(Look.load(self.folder))

    def _of_listing(self, seen: Look) -> Look:
        """The part of a look at ``whole`` that is of the listing."""
        if self.whole is self.listing or self.listing is None:
            return seen
        place = {name: i for i, name in enumerate(self.whole.ids)}
        return seen.take([place[name] for name in self.listing.ids])

    def readable(self) -> Photos:
        """All images of ``whole`` that can be read."""
        kept = self.result()  # which refuses images that cannot be read
        if self.whole is self.listing and kept is not None:
            return kept
        seen = Look.load(self.folder)
        found = self.whole.without(dict.fromkeys(np.flatnonzero(~seen.readable).tolist(), "unreadable"))
        return Photos(**vars(found), look=seen.take(np.flatnonzero(seen.readable)))

    def decides(self):
        if self.lab.imagined:
            return {"split": self.split}
        found = {"files": self.whole.files.content, "left out": self.whole.dropped, "decoders": DECODERS}
        return found | ({"per_class": self.few} if self.few else {})

    def work(self, folder):
        look(self.whole, folder).save(folder)

    def load(self, folder):
        p, found = self.lab.profile.data, self.listing
        seen = self._of_listing(Look.load(folder))
        bad = {i: error for i, error in enumerate(seen.table["error"]) if error}
        where = found.refuse(bad, p.skip_bad, self.lab.report or self.lab.store.root, self.split)
        why = dict.fromkeys(bad, f"unreadable{where}")
        if self.few:
            good = np.flatnonzero(seen.readable)
            beyond = [i for members in groups(found.labels[good], "class") for i in good[members[self.few :]]]
            why |= dict.fromkeys(beyond, BEYOND.format(self.few))
        if why:
            kept = np.setdiff1d(np.arange(len(found.ids)), list(why))
            seen = seen.take(kept)
            found = found.without(why)
        found = dataclasses.replace(found, reading=found.reading.noted(*seen.notes))
        return Photos(**vars(found.named(p.class_names)), look=seen)

    def result(self) -> Photos | None:
        return None if self.listing is None else super().result()

    cost = uncounted  # decoding is not counted
