"""The images, as a stage: their content is their address."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .. import data
from ..data import LabelledImages
from .base import Cost, Stage


@dataclass(frozen=True, eq=False)
class Images(Stage):
    """The images of a split ("train" or "test") of the profile's data.

    On an imagined lab they are random pixels, if anybody asks for them.
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
        images = data.load(
            p.source,
            split=self.split,
            path=p.path,
            image_size=p.image_size,
            channels=p.channels,
            per_class=p.per_class if self.split == "train" else None,
            store=lab.store,
            skip_bad=p.skip_bad,
            report=lab.report,
        )
        return images and images.named(p.class_names)

    def cost(self) -> Iterable[Cost]:
        p, n = self.lab.profile.data, self.lab.n
        if self.split == "train" and p.source in ("folder", "parquet"):
            yield Cost("images", "decoded", images=n, bytes=p.channels * p.image_size**2 * n)
