"""Images in one folder per class."""

import functools
from pathlib import Path

import numpy as np

from ..errors import DedtError
from .listing import DEFAULT_SIZE, Listing

HELD_OUT = ("test", "val")
"""What the folder of the test images may be called; ImageNet's and ImageNette's is "val"."""
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def load_folder(path, *, split="train", image_size=None, channels=None, store=None):
    """Images in one folder per class, centre-cropped to a square and resized.

    path: a folder with CLASS/IMAGE, or with train/CLASS/IMAGE and test/CLASS/IMAGE (or val/CLASS/IMAGE).
    image_size: pixels (default 32).  channels: 1 or 3 (default 3).  store: a Store to keep the pixels in.
    Transparent pixels are put over white.
    Returns LabelledImages, or None for split "test" without a test folder.  Raises DedtError that
    lists the unreadable or truncated files, and when the test folder has other classes.
    """
    found = find(path, split)
    return found and found.decode(image_size or DEFAULT_SIZE, channels or 3, store)


def find(path, split="train"):
    """The Listing of a split, or None without a test folder.  Raises DedtError."""
    root = _split_folder(path, split)
    if root is None:
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
    ids = tuple(str(file.relative_to(root)) for file in files)
    return Listing(
        root=root,
        files=tuple(files),
        encoded=functools.partial(zip, ids, files),
        labels=np.array(labels, dtype=np.int64),
        class_names=tuple(classes),
        ids=ids,
        name=root.resolve().name,
    )


def _split_folder(path, split):
    """The folder whose subfolders are the classes, or None without a test folder."""
    if not path:
        raise DedtError("data = 'folder' needs a path to a folder with one subfolder of images per class.")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DedtError(
            f"{root} is not a folder. Give the path of a folder with one subfolder of images per class."
        )
    if not (root / "train").is_dir():
        return root if split == "train" else None
    names = ("train",) if split == "train" else HELD_OUT
    return next((root / name for name in names if (root / name).is_dir()), None)


def _subfolders(root):
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _is_image(path):
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."
