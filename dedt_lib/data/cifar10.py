"""CIFAR-10 from its own archive, whose checksum is known, or from Parquet files."""

import dataclasses
import http.client
import os
import shutil
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import DedtError
from ..files import atomic, locked, project_root
from . import parquet
from .labelled import LabelledImages

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = "cifar-10-batches-py"
TIMEOUT = 60


def load_cifar10(path=None, *, split="train", store=None, **bad):
    """CIFAR-10 as uint8 [50000, 3, 32, 32] (split "test": 10,000), ids "train-00000" and so on.

    path: a folder with the archive ``cifar-10-python.tar.gz``, or with ``cifar-10-batches-py`` that is in it;
    what is missing is downloaded, 170 MB (default: ``$DEDT_DATA``, else ``data/`` in the project).  Or a
    folder with the images as Parquet files, see ``load_parquet``; ``store`` and ``bad`` are for these.
    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; address and checksums are
    torchvision's.  Returns LabelledImages, or None for split "test" without Parquet files of it.
    Raises DedtError when the archive cannot be fetched, or a file is not the original.
    """
    root = find(path, split)
    if path and parquet.find_files(root, "train"):
        return _from_parquet(root, split, store, bad)
    _unpack(root)
    images, labels = _read(root, split)
    ids = tuple(f"{split}-{i:05d}" for i in range(len(labels)))
    return LabelledImages(images, np.array(labels, dtype=np.int64), CLASS_NAMES, ids, "cifar10")


def find(path, split="train"):
    """The folder of the data, which must exist if it is given.  Raises DedtError."""
    if not path:
        return Path(os.environ.get("DEDT_DATA") or project_root() / "data").expanduser()
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DedtError(
            f"{root} is not a folder. Give the folder that holds {BATCHES}, its archive or Parquet files, or "
            "make an empty one, to which CIFAR-10 is then downloaded."
        )
    if parquet.find_files(root, "train"):
        _check_classes(parquet.find(root, split))
    return root.parent if root.name == BATCHES else root


def _check_classes(found):
    numbers = tuple(map(str, range(len(CLASS_NAMES))))
    if found and found.class_names not in (CLASS_NAMES, numbers):
        raise DedtError(
            f"{found.root} holds the classes {', '.join(found.class_names[:12])}, which are not those of "
            "CIFAR-10: use data = 'parquet'."
        )


def _from_parquet(root, split, store, bad):
    data = parquet.load_parquet(root, split=split, image_size=32, channels=3, store=store, **bad)
    return data and dataclasses.replace(data, class_names=CLASS_NAMES, name="cifar10")


def _read(root, split):
    """Pixels uint8 [n, 3, 32, 32] and a list of labels; torchvision compares the checksums first.

    The files are pickles, which could run any code: they are opened only if they are the original ones.
    """
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(root, train=split == "train")
    except RuntimeError:
        wrong = ", ".join(_wrong_batches(root)) or "a file"
        raise DedtError(
            f"{wrong} in {root / BATCHES} is missing or not the original: delete the folder {root / BATCHES} "
            "and run again, to unpack or download it anew."
        ) from None
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), data.targets


def _checksums():
    """MD5 of each file in the archive that is read."""
    from torchvision.datasets import CIFAR10

    return dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])


def _wrong_batches(root):
    from torchvision.datasets.utils import check_integrity

    return [name for name, md5 in _checksums().items() if not check_integrity(root / BATCHES / name, md5)]


def _unpack(root):
    """Make sure that ``root`` holds the unpacked archive; one process at a time."""
    from torchvision.datasets import CIFAR10

    target, archive = root / BATCHES, root / CIFAR10.filename
    if target.is_dir():
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".cifar10", "the archive of CIFAR-10"):
            if target.is_dir():
                return
            _fetch(CIFAR10.url, archive, CIFAR10.tgz_md5)
            work = target.with_suffix(".work")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            with tarfile.open(archive) as tar:
                for name in _checksums():
                    with tar.extractfile(f"{BATCHES}/{name}") as member, open(work / name, "wb") as file:
                        shutil.copyfileobj(member, file)
            os.replace(work, target)
    except OSError as error:
        raise DedtError(
            f"Cannot write to {root} ({error.strerror or error}). Free some space, or set DEDT_DATA to a "
            "folder that can be written."
        ) from error


def _fetch(url, archive, md5):
    """Make sure that ``archive`` is there and is the original."""
    from torchvision.datasets.utils import check_integrity

    if not archive.exists():
        _download(url, archive, md5)
    elif not check_integrity(archive, md5):
        raise DedtError(
            f"{archive} ({archive.stat().st_size:,} bytes) is not the original CIFAR-10, whose MD5 is {md5}: "
            f"delete it, then run again, or fetch {url} by other means and put it there."
        )


def _download(url, archive, md5):
    from torchvision.datasets.utils import check_integrity

    try:
        with (
            atomic(archive) as partial,
            urllib.request.urlopen(url, timeout=TIMEOUT) as response,
            open(partial, "wb") as file,
        ):
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, desc=archive.name, unit="B", unit_scale=True, leave=False) as bar:
                while chunk := response.read(2**20):
                    file.write(chunk)
                    bar.update(len(chunk))
            file.flush()
            if not check_integrity(partial, md5):
                came = f"{file.tell():,} of {size:,} bytes came"
                raise ConnectionError(f"{came}, and they are not the original, whose MD5 is {md5}")
    except (OSError, http.client.HTTPException) as error:
        raise DedtError(
            f"Cannot download CIFAR-10 ({error}). Run again, or fetch {url} by other means and put it at "
            f"{archive}."
        ) from error
