"""The type of images that every source returns."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ..arrays import check_positions
from ..errors import DedtError
from .reading import Reading


class Labelled:
    """Images with one label each, decoded or not, with facts about their classes and exact copies."""

    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> np.ndarray:
        """Number of images per class: int64 [K]; without classes one entry, the number of all images."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def named(self, class_names: Sequence[str]) -> Self:
        """The same images with other class names, one per class; the names stay if ``class_names`` is empty."""
        old = self.class_names
        if class_names and len(class_names) != len(old):
            raise DedtError(
                f"class_names has {len(class_names)} names for {len(old)} classes: give one name per class, in "
                f"the order {', '.join(old[:5])}, ..., or leave class_names empty."
            )
        names = tuple(class_names or old)
        return dataclasses.replace(self, class_names=names)  # type: ignore[type-var]

    @functools.cached_property
    def copies(self) -> np.ndarray:
        """For each image, the index of the first image with the same pixels: int64 [n]."""
        raise NotImplementedError

    @functools.cached_property
    def originals(self) -> np.ndarray:
        """For each image, the index of the first image with the same pixels in its class: int64 [n]."""
        return originals_of(self.copies, self.labels)

    @functools.cached_property
    def conflicts(self) -> int:
        """Number of images with the same pixels as an image of another class."""
        return int(in_conflict(self.copies, self.labels).sum())


@dataclass(frozen=True, eq=False)
class LabelledImages(Labelled):
    """Images with one label each.

    Attributes:
        images: uint8 [n, channels, height, width], 0..255.
        labels: int64 [n], 0..K-1.
        class_names: K strings.
        ids: n strings, the name of each image in its source.
        name: name of the source.
        reading: counts of what was left out of the source, or None.
        captions: n texts, or () without captions.

    Raises:
        DedtError: when shapes, types or labels do not fit together, or a class has no image.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    name: str = "images"
    reading: Reading | None = None
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("class_names", "ids", "captions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        images, labels, known = self.images, np.asarray(self.labels), len(self.class_names)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DedtError(
                f"Images must be uint8 of shape [n, channels, height, width]; got {images.dtype} "
                f"{images.shape}."
            )
        if images.shape[1] > 4 and images.shape[3] in (1, 3, 4):
            raise DedtError(
                f"Images must have the shape [n, channels, height, width]; these look like [n, height, width, "
                f"channels] {images.shape}: use images.transpose(0, 3, 1, 2)."
            )
        if self.captions and len(self.captions) != len(images):
            raise DedtError(
                f"{len(images)} images and {len(self.captions)} captions: there must be one for every image, "
                "or none."
            )
        if not len(images) == len(labels) == len(self.ids):
            raise DedtError(
                f"{len(images)} images, {len(labels)} labels and {len(self.ids)} ids: there must be one "
                "label and one id for every image."
            )
        if len(labels) == 0:
            raise DedtError(f"'{self.name}' holds no images.")
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise DedtError(f"Labels must be integers of shape [n]; got {labels.dtype} {labels.shape}.")
        if labels.min() < 0 or labels.max() >= known:
            raise DedtError(
                f"Labels run from {labels.min()} to {labels.max()}, but there are {known} class names."
            )
        if empty := without_empty(labels, self.class_names)[2]:
            raise DedtError(
                f"No images in class(es) {', '.join(empty)} of '{self.name}': add some or drop the class."
            )
        # Networks would get the strides of a mirrored or permuted view, and PyTorch rejects negative ones.
        if not images.flags.c_contiguous:
            object.__setattr__(self, "images", np.ascontiguousarray(images))
        object.__setattr__(self, "labels", np.ascontiguousarray(labels, dtype=np.int64))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of images, labels and class names, sixteen hex digits: same data, same fingerprint."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        digest.update(self.images.data)
        digest.update(self.labels.data)
        return digest.hexdigest()[:16]

    @functools.cached_property
    def copies(self) -> np.ndarray:
        """For each image, the index of the first image with the same pixels: int64 [n]."""
        return first_alike([hashlib.sha256(image.tobytes()).hexdigest() for image in self.images])

    def subset(self, indices: np.ndarray, **changes: Any) -> "LabelledImages":
        """The images at ``indices``; the classes stay the same, and each must keep an image.

        Args:
            indices: int [m].
            changes: new values for other fields.

        Raises:
            DedtError: an index is no position of an image, or a class would be empty.
        """
        indices = check_positions(indices, len(self))
        images, ids = self.images[indices], tuple(self.ids[i] for i in indices)
        changes = {"labels": self.labels[indices], "reading": None, **changes}
        captions = tuple(self.captions[i] for i in indices) if self.captions else ()
        return dataclasses.replace(self, images=images, ids=ids, captions=captions, **changes)

    def of_classes(self, class_names: tuple[str, ...]) -> "LabelledImages | None":
        """The images of these classes, numbered in that order; None if one of the classes has no image."""
        if not set(class_names) <= set(self.class_names):
            return None
        number = [class_names.index(name) if name in class_names else -1 for name in self.class_names]
        labels = np.array(number, dtype=np.int64)[self.labels]
        kept = np.flatnonzero(labels >= 0)
        return self.subset(kept, labels=labels[kept], class_names=class_names, reading=self.reading)


def first_alike(keys: Sequence | np.ndarray) -> np.ndarray:
    """For each of n keys, the index of the first equal key: int64 [n]."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def originals_of(copies: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each image, the index of the first image with the same pixels in its class: int64 [n].

    ``copies``, int64 [n], is the same over all classes.
    """
    return first_alike(copies * (labels.max(initial=0) + 1) + labels)


def in_conflict(copies: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images share their pixels with another class: bool [n]; ``copies`` as in :func:`originals_of`."""
    kinds = np.unique(np.stack([copies, labels]), axis=1)[0]
    return np.bincount(kinds, minlength=len(copies))[copies] > 1


def without_empty(
    labels: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Remove the classes that have no labels.

    Args:
        labels: int [n], 0..K-1.
        class_names: K strings.

    Returns:
        The labels, renumbered without gaps; the names that stay; the names left out.
    """
    there = np.bincount(labels, minlength=len(class_names)) > 0
    kept, empty = (tuple(np.array(class_names, dtype=object)[mask]) for mask in (there, ~there))
    return (np.cumsum(there) - 1)[labels], kept, empty
