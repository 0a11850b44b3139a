"""CIFAR-10 from its original archive, verified by a checksum, or from Parquet files."""

import dataclasses
import tarfile
from pathlib import Path

import numpy as np

from ..errors import DedtError
from ..files import at_home, atomic_folder, chosen_folder, fetched, locked, make_folder
from . import parquet
from .labelled import LabelledImages
from .listing import Listing
from .table import classed

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = "cifar-10-batches-py"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
"""SHA-256 of the archive, as Keras pins it; torchvision pins the MD5 of the same file and its members."""


def load_cifar10(root: Path, split: str = "train") -> LabelledImages:
    """CIFAR-10 as uint8 [50000, 3, 32, 32] (split "test": 10,000 images), ids "train-00000" and so on.

    The files in the archive are pickles, and a pickle can run any code: only the original files are opened.
    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        root: a folder with the archive ``cifar-10-python.tar.gz`` or the folder ``cifar-10-batches-py``
            unpacked from it; without either, the archive is downloaded (170 MB).
        split: "train" or "test".

    Raises:
        DedtError: when the archive cannot be downloaded, or a file is not the original.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    _unpack(root)
    try:
        data = CIFAR10(root, train=split == "train")
    except RuntimeError:
        wrong = [
            name for name, md5 in _checksums().items() if not check_integrity(root / BATCHES / name, md5)
        ]
        raise DedtError(
            f"Files in {root / BATCHES} are missing or altered ({', '.join(wrong)}). Delete the folder and "
            "run again to unpack or download CIFAR-10 again."
        ) from None
    images, labels = data.data.transpose(0, 3, 1, 2), np.array(data.targets, dtype=np.int64)
    return LabelledImages(images, labels, CLASS_NAMES, parquet.row_names(split, len(labels)), "cifar10")


def find(path: str | Path | None, split: str = "train") -> Path | Listing | None:
    """Find the source of CIFAR-10: the folder of its archive, or the Listing of Parquet files.

    Args:
        path: an existing folder of the archive or of Parquet files; by default the archive is in
            ``$DEDT_DATA``, else in ``data/`` of the project.
        split: "train" or "test".

    Returns:
        The folder or the Listing; None for "test" if the Parquet files have no usable held-out split.

    Raises:
        DedtError: for a path that is not a folder, or Parquet files with other classes.
    """
    if not path:
        return chosen_folder("DEDT_DATA", "data")
    root = at_home(path)
    if not root.is_dir():
        raise DedtError(
            f"{root} is not a folder. Give a folder with {BATCHES}, its archive or Parquet files, or create "
            "an empty folder, into which CIFAR-10 is downloaded."
        )
    if not parquet.find_files(root, "train"):
        return root.parent if root.name == BATCHES else root
    found = classed(split, *parquet.splits(root))
    if found and found.class_names not in (CLASS_NAMES, tuple(map(str, range(10)))):
        raise DedtError(
            f"{found.root} has the classes {', '.join(found.class_names[:12])}, which are not the classes of "
            "CIFAR-10: use data = 'parquet'."
        )
    return found and dataclasses.replace(found, class_names=CLASS_NAMES, name="cifar10")


def _checksums():
    """MD5 of each file that is read from the archive: name -> digest."""
    from torchvision.datasets import CIFAR10

    return dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])


def _unpack(root):
    """Download and unpack the archive into ``root`` if needed; a lock admits one process at a time."""
    from torchvision.datasets import CIFAR10

    if (root / BATCHES).is_dir():
        return
    make_folder(root, "Set DEDT_DATA to")
    with locked(root / ".cifar10", "the CIFAR-10 archive"):
        if not (root / BATCHES).is_dir():
            archive = fetched(root / CIFAR10.filename, CIFAR10.url, SHA256, "DEDT_DATA")
            with atomic_folder(root / BATCHES) as folder, tarfile.open(archive) as tar:
                folder.mkdir()
                for name in _checksums():
                    (folder / name).write_bytes(tar.extractfile(f"{BATCHES}/{name}").read())
