"""Labelled images: one type, several sources."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DedtError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
DIGITS_TRAIN_PER_CLASS = 150


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with one label each.

    images: uint8 [n, channels, height, width], 0..255.  labels: int64 [n], 0..K-1.
    class_names: K strings.  ids: n strings that name each image in its source.
    Raises DedtError when shapes, types or labels do not fit together, or a class has no image.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple
    ids: tuple
    name: str = "images"

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DedtError(
                "Images must be uint8 of shape [n, channels, height, width]; "
                f"got {images.dtype} {images.shape}."
            )
        if not len(images) == len(labels) == len(self.ids):
            raise DedtError(
                f"{len(images)} images, {len(labels)} labels and {len(self.ids)} ids: there must be one label "
                "and one id for every image."
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

    def subset(self, indices):
        """The images at ``indices`` (int [m]); the classes stay, and each must keep an image."""
        return LabelledImages(
            self.images[indices],
            self.labels[indices],
            self.class_names,
            tuple(self.ids[i] for i in indices),
            self.name,
        )


def load(source, *, split="train", path=None, image_size=None, channels=None, per_class=None):
    """Load images by the name of their source.

    source: "digits" (scikit-learn's scans, 8x8, one channel) or "folder" (``path``/CLASS/IMAGE, or
    ``path``/train/CLASS/IMAGE and ``path``/test/CLASS/IMAGE).  split: "train" or "test"; the digits
    have 150 training images in each class and 297 test images in all.  image_size, channels: what
    folder images are brought to.  per_class: keep only the first so many of each class.
    Returns LabelledImages, or None when a folder has no test split.  Raises DedtError.
    """
    if source not in SOURCES:
        raise DedtError(f"Unknown data '{source}'. Choose one of: {', '.join(SOURCES)}.")
    if split not in ("train", "test"):
        raise DedtError(f"Unknown split '{split}'. Choose train or test.")
    if source == "folder":
        data = load_folder(path, split=split, image_size=image_size, channels=channels)
    else:
        data = load_digits(split)
    if data is not None and per_class:
        first = [np.flatnonzero(data.labels == k)[:per_class] for k in range(len(data.class_names))]
        data = data.subset(np.sort(np.concatenate(first)))
    return data


def load_digits(split="train"):
    """scikit-learn's 1,797 handwritten digits as uint8 [n, 1, 8, 8]; a fixed stratified split."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    shuffled = np.random.RandomState(0).permutation(len(labels))
    parts = [shuffled[labels[shuffled] == k] for k in range(10)]
    cut = slice(None, DIGITS_TRAIN_PER_CLASS) if split == "train" else slice(DIGITS_TRAIN_PER_CLASS, None)
    chosen = np.sort(np.concatenate([part[cut] for part in parts]))
    names = tuple(str(k) for k in range(10))
    return LabelledImages(
        images[chosen], labels[chosen], names, tuple(f"digit-{i:04d}" for i in chosen), "digits"
    )


def load_folder(path, *, split="train", image_size=None, channels=None):
    """Images in one folder per class, centre-cropped to a square and resized.

    path: a folder with CLASS/IMAGE, or with train/CLASS/IMAGE and test/CLASS/IMAGE.
    image_size: pixels (default 32).  channels: 1 or 3 (default 3).
    Returns LabelledImages, or None for split "test" without a test folder.  Raises DedtError that
    lists the unreadable or truncated files, and when the test folder has other classes.
    """
    if not path:
        raise DedtError("data = 'folder' needs a path to a folder with one subfolder of images per class.")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DedtError(
            f"{root} is not a folder. Give the path of a folder with one subfolder of images per class."
        )
    if (root / "train").is_dir():
        root = root / split
        if split == "test" and not root.is_dir():
            return None
    elif split == "test":
        return None
    classes = _subfolders(root)
    if split == "test" and classes != (wanted := _subfolders(root.parent / "train")):
        raise DedtError(
            f"{root} has the classes {', '.join(classes) or 'none'}, but the training images have "
            f"{', '.join(wanted)}: give both the same subfolders."
        )
    if not classes:
        raise DedtError(f"{root} has no subfolders: put the images of each class into a folder of its own.")
    files, labels = [], []
    for k, name in enumerate(classes):
        found = sorted(p for p in (root / name).rglob("*") if _is_image(p))
        if not found:
            raise DedtError(
                f"{root / name} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}): add some or remove it."
            )
        files += found
        labels += [k] * len(found)
    from PIL import Image

    images, broken = [], []
    for file in files:
        try:
            images.append(_read_image(file, image_size or 32, channels or 3))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken.append(f"{file.relative_to(root)} ({error})")
    if broken:
        shown = "\n  ".join(broken[:5])
        raise DedtError(
            f"{len(broken)} of {len(files)} images in {root} cannot be read; repair or remove them:\n  {shown}"
        )
    ids = tuple(str(file.relative_to(root)) for file in files)
    return LabelledImages(
        np.stack(images), np.array(labels, dtype=np.int64), tuple(classes), ids, root.resolve().name
    )


def _subfolders(root):
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _is_image(path):
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."


def _read_image(file, size, channels):
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        if image.mode[0] in "IF":
            raise ValueError("its pixels have more than 8 bits; convert it to 8 bits")
        upright = ImageOps.exif_transpose(image).convert({1: "L", 3: "RGB"}[channels])
        image = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


SOURCES = ("digits", "folder")
