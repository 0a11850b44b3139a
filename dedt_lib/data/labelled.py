"""The one type that every source gives."""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from ..errors import DedtError
from .reading import Reading


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with one label each.

    images: uint8 [n, channels, height, width], 0..255.  labels: int64 [n], 0..K-1.
    class_names: K strings.  ids: n strings that name each image in its source.  reading: what was left out
    of the source, if that was counted.
    Raises DedtError when shapes, types or labels do not fit together, or a class has no image.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple
    ids: tuple
    name: str = "images"
    reading: Reading | None = None

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DedtError(
                "Images must be uint8 of shape [n, channels, height, width]; "
                f"got {images.dtype} {images.shape}."
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
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise DedtError(
                f"Labels run from {labels.min()} to {labels.max()}, but there are "
                f"{len(self.class_names)} class names."
            )
        empty = [name for name, count in zip(self.class_names, self.class_counts) if count == 0]
        if empty:
            raise DedtError(
                f"No images in class(es) {', '.join(empty)} of '{self.name}': add some or drop the class."
            )
        # A mirrored or permuted view would reach the networks with its strides; some PyTorch cannot take at all.
        object.__setattr__(self, "images", _in_order(images))
        object.__setattr__(self, "labels", _in_order(labels))

    def __len__(self):
        return len(self.labels)

    @property
    def class_counts(self):
        """Images per class: int64 [K]."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @functools.cached_property
    def fingerprint(self):
        """Sixteen hex digits of the images, labels and class names: same data, same fingerprint."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.labels, dtype=np.int64))
        return digest.hexdigest()[:16]

    @functools.cached_property
    def _digests(self):
        return [hashlib.sha256(np.ascontiguousarray(image)).digest() for image in self.images]

    @functools.cached_property
    def conflicts(self):
        """How many images have the same pixels as one of another class."""
        classes = {}
        for digest, label in zip(self._digests, self.labels.tolist()):
            classes.setdefault(digest, set()).add(label)
        return sum(len(classes[digest]) > 1 for digest in self._digests)

    @functools.cached_property
    def originals(self):
        """For each image the first one of its class with the same pixels: int64 [n], its own place if it is."""
        first = {}
        seen = zip(self.labels.tolist(), self._digests)
        return np.array([first.setdefault(key, place) for place, key in enumerate(seen)])

    def named(self, class_names):
        """The same images with other names for their classes; those they have, if there are none."""
        if not class_names:
            return self
        if len(class_names) != len(self.class_names):
            raise DedtError(
                f"There are {len(class_names)} class_names for {len(self.class_names)} classes: give one for each, "
                f"in the order {', '.join(self.class_names[:5])}, ..., or none."
            )
        return dataclasses.replace(self, class_names=tuple(class_names))

    def subset(self, indices):
        """The images at ``indices`` (int [m]); the classes stay, and each must keep an image."""
        return LabelledImages(
            self.images[indices],
            self.labels[indices],
            self.class_names,
            tuple(self.ids[i] for i in indices),
            self.name,
        )

    def of_classes(self, class_names):
        """The images of these classes, numbered in that order; None if one of the classes has no image."""
        if not set(class_names) <= set(self.class_names):
            return None
        number = [class_names.index(name) if name in class_names else -1 for name in self.class_names]
        labels = np.array(number, dtype=np.int64)[self.labels]
        kept = np.flatnonzero(labels >= 0)
        return LabelledImages(
            self.images[kept],
            labels[kept],
            class_names,
            tuple(self.ids[i] for i in kept),
            self.name,
            self.reading,
        )


def without_empty(labels, class_names):
    """(labels, class names, names of the classes left out): without those that no label speaks of.

    labels: int64 [n], renumbered so that they stay 0..K-1.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    number = np.cumsum(counts > 0) - 1
    names = tuple(name for name, count in zip(class_names, counts) if count)
    return number[labels], names, tuple(name for name, count in zip(class_names, counts) if not count)


def _in_order(array):
    """The array itself if it lies in C order, else a copy that does."""
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)
