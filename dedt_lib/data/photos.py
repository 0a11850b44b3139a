"""Photographs that stay in their files: all that selection needs, without their pixels in memory."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..files import address
from .listing import Listing, ahead, changed, digest_of, encoded_bytes, read_image
from .look import Look, groups_of_copies


@dataclass(frozen=True, eq=False, kw_only=True)
class Photos(Listing):
    """Labelled images that are decoded when needed; all of them can be read.

    Attributes:
        look: The properties of the images, one row per image.
    """

    look: Look

    @functools.cached_property
    def copies(self) -> np.ndarray:
        """For each image, the index of the first image with the same pixels: int64 [n]."""
        return groups_of_copies(self.look.table)


class Pixels:
    """The pixels of a Listing in colour, uint8 [n, 3, size, size], decoded slice by slice.

    Slices are best read in order, because going back starts again at the first image.

    Args:
        listing: Images that can all be read.
        size: Side in pixels.

    Attributes:
        content: Sixteen hex digits of the encoded images.
    """

    def __init__(self, listing: Listing, size: int) -> None:
        self.shape = (len(listing), 3, size, size)
        self._listing, self._place, self._files = listing, 0, iter(listing.encoded())
        seen = listing.look.table["content"].tolist() if isinstance(listing, Photos) else []
        self.content = address("", seen or [listing.files.content, listing.dropped])
        self._seen: list[str] = seen or [""] * len(listing)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The images from ``rows.start`` to ``rows.stop``: uint8 [m, 3, size, size]."""
        n, channels, size, _ = self.shape
        start, stop, _ = rows.indices(n)
        if start < self._place:
            self._place, self._files = 0, iter(self._listing.encoded())
        files = list(itertools.islice(self._files, start - self._place, stop - self._place))
        self._place = stop

        def pixels(item: tuple[Any, str]) -> np.ndarray:
            (name, file), seen = item
            content = encoded_bytes(name, file, {})
            if seen and digest_of(content) != seen:
                raise changed(name)
            return read_image(content, size, channels)

        return np.stack([*ahead(pixels, zip(files, self._seen[start:stop]))])
