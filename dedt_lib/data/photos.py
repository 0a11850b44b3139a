"""Photographs in their files: all that choosing among them needs, without their pixels in memory."""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from .listing import NO_CLASS, Listing, read_image
from .look import Look, groups_of_copies
from .reading import Reading


@dataclass(frozen=True, eq=False)
class Photos:
    """Labelled images that are decoded as they are needed; all of them can be read.

    Attributes:
        listing: Their files, labels, captions and ids.
        look: What was seen of each; its rows are the listing's.
    """

    listing: Listing
    look: Look

    def __len__(self) -> int:
        return len(self.listing.ids)

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], 0..K-1; 0 of images without classes."""
        return self.listing.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """K strings."""
        return self.listing.class_names or (NO_CLASS,)

    @property
    def class_counts(self) -> np.ndarray:
        """Images per class: int64 [K]."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def ids(self) -> tuple[str, ...]:
        """n strings that name each image in its source."""
        return self.listing.ids

    @property
    def captions(self) -> tuple[str, ...]:
        """n texts, or ()."""
        return self.listing.captions

    @property
    def name(self) -> str:
        """Of the source."""
        return self.listing.name

    @property
    def reading(self) -> Reading:
        """What was left out of the source."""
        return self.listing.reading

    @functools.cached_property
    def _copies(self):
        return groups_of_copies(self.look.table)

    @functools.cached_property
    def originals(self) -> np.ndarray:
        """For each image the first one of its class with the same pixels: int64 [n]."""
        pairs = self._copies * len(self.class_names) + self.labels
        _, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
        return first[inverse]

    @functools.cached_property
    def conflicts(self) -> int:
        """How many images have the same pixels as one of another class."""
        classes = np.unique(np.stack([self._copies, self.labels]), axis=1)[0]
        several = np.flatnonzero(np.bincount(classes, minlength=len(self)) > 1)
        return int(np.isin(self._copies, several).sum())

    def in_classes(self, labels: np.ndarray, class_names: tuple[str, ...]) -> "Photos":
        """The same photographs in other classes."""
        return replace(self, listing=self.listing.of_classes(labels, class_names))

    def at(self, size: int, channels: int = 3) -> "Pixels":
        """Their pixels at ``size`` x ``size``, decoded when a slice is read."""
        return Pixels(self.listing, size, channels)


class Pixels:
    """The pixels of a Listing as an array uint8 [n, C, size, size] that is read in slices, best in order.

    Args:
        listing: Images that can all be read.
        size: Pixels along a side.
        channels: 1 or 3.
    """

    def __init__(self, listing: Listing, size: int, channels: int) -> None:
        self.shape = (len(listing.ids), channels, size, size)
        self._listing, self._place, self._files = listing, 0, iter(listing.encoded())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """uint8 [m, C, size, size] of the images from rows.start to rows.stop."""
        n, channels, size, _ = self.shape
        start, stop, _ = rows.indices(n)
        if start < self._place:
            self._place, self._files = 0, iter(self._listing.encoded())
        files = [file for _, file in itertools.islice(self._files, start - self._place, stop - self._place)]
        self._place = stop
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(lambda file: read_image(file, size, channels), files)))
