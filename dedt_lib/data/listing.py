"""From encoded images, in files of their own or inside others, to one array of pixels."""

import functools
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps
from tqdm import tqdm

from ..errors import DedtError
from ..store import address, atomic, create_array, read_json, sha256, write_json
from .labelled import LabelledImages, without_empty
from .names import legible, one_line
from .reading import Reading

DEFAULT_SIZE = 32
IN_MEMORY = 2**31  # bytes; more pixels than that stay in their file and are read as they are needed
SHOWN = 5
UNREADABLE = "unreadable.txt"
"""The list of the images that cannot be decoded, a line each."""


@dataclass(frozen=True)
class Listing:
    """Labelled images that were found but not decoded.

    root: where they are.  files: the paths that decide their pixels.  encoded: a function; it gives for each
    image, in order, its name for messages and a path, a binary file, or None when there is nothing to decode.
    labels (int64 [n]), class_names, ids, name and reading: as in LabelledImages.
    """

    root: Path
    files: tuple
    encoded: Callable
    labels: np.ndarray
    class_names: tuple
    ids: tuple
    name: str
    reading: Reading

    @property
    def class_counts(self):
        """Images per class: int64 [K]."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def decode(self, image_size, channels, store=None, *, skip_bad=False, report=None):
        """LabelledImages of ``image_size`` x ``image_size`` pixels and ``channels`` (1 or 3) channels.

        With a Store they are decoded once for each content of the files, whatever these are called.  Images
        that cannot be read, for whatever reason, are listed in ``unreadable.txt`` in the folder ``report``
        (default: the store's root); with ``skip_bad`` they are left out, and classes that have no others,
        otherwise DedtError is raised.
        """
        if store is None:
            images, bad = self._pixels(image_size, channels)
        else:
            images, bad = self._stored_pixels(image_size, channels, store, skip_bad)
        where = self._write_list(bad, report or (store and store.root)) if bad else ""
        if bad and not skip_bad:
            raise self._unreadable(bad, where)
        good = np.delete(np.arange(len(self.labels)), [place for place, _ in bad])
        if len(good) == 0 and bad:
            raise self._unreadable(bad, where)
        labels, names, empty = without_empty(self.labels[good], self.class_names)
        ids, reading = tuple(self.ids[i] for i in good), self.reading
        if bad:
            notes = [f"without readable images, so no class: {', '.join(empty)}"] if empty else []
            reading = reading.without(len(bad), f"unreadable{where}", *notes)
        return LabelledImages(images, labels, names, ids, self.name, reading)

    def _stored_pixels(self, image_size, channels, store, skip_bad):
        recipe = {
            "version": 2,
            "source": self.name,
            "files": address("", self._hashes()),
            "image_size": image_size,
            "channels": channels,
            "pillow": PIL.__version__,
        }

        class Unfinished(Exception):
            """Ends a stage that must not be kept."""

        bad = []

        def work(folder):
            path = folder / "images.npy"
            images, found = self._pixels(image_size, channels, functools.partial(create_array, path))
            bad.extend(found)
            if found and not skip_bad:
                raise Unfinished
            if found:
                np.save(folder / ".good.npy", images)
                os.replace(folder / ".good.npy", path)
                write_json(folder / "unreadable.json", found)
            else:
                images.flush()

        try:
            folder = store.run("images", recipe, work)
        except Unfinished:
            return None, bad
        path, listed = folder / "images.npy", folder / "unreadable.json"
        bad = read_json(listed) if listed.exists() else []
        return np.load(path, mmap_mode="r" if path.stat().st_size > IN_MEMORY else None), bad

    def _hashes(self):
        """SHA-256 of each file, read in pieces and several at once."""
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(_hash, self.files)
            bar = tqdm(hashes, f"hash {self.name}", len(self.files), unit="file", leave=False, delay=2)
            return list(bar)

    def _pixels(self, size, channels, allocate=np.empty):
        """The images that can be read, uint8 [m, channels, size, size], and (place, why) of the others."""
        count, good, bad = len(self.labels), 0, []
        images = allocate((count, channels, size, size), np.uint8)
        bar = tqdm(self.encoded(), f"decode {self.name}", count, unit="image", leave=False, delay=2)
        for i, (name, file) in enumerate(bar):
            try:
                images[good] = read_image(file, size, channels)
                good += 1
            except Image.UnidentifiedImageError:
                bad.append((i, f"{name} (no image of a kind that Pillow knows)"))
            except Exception as error:  # a decoder may raise anything on a damaged file
                bad.append((i, legible(f"{name} ({str(error) or type(error).__name__})")))
        return images[:good], bad

    def _write_list(self, bad, folder):
        if not folder:
            return ""
        path = Path(folder) / UNREADABLE
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            partial.write_text("".join(f"{one_line(why)}\n" for _, why in bad), encoding="utf-8")
        return f" (listed in {path})"

    def _unreadable(self, bad, where):
        shown = "\n  ".join(why for _, why in bad[:SHOWN])
        return DedtError(
            f"{len(bad)} of {len(self.labels)} images in {self.root} cannot be read{where}; repair or remove "
            f"them, or leave them out by --skip-bad (skip_bad = true in a profile):\n  {shown}"
        )

    def side(self):
        """Pixels along a side if all images are squares of one size, else 32; reads only their headers."""
        sizes = set()
        for _, file in self.encoded():
            try:
                with Image.open(file or io.BytesIO()) as image:
                    sizes.add(image.size)
            except Exception:
                continue  # decode names it
            if len(sizes) > 1:
                return DEFAULT_SIZE
        width, height = sizes.pop() if sizes else (DEFAULT_SIZE, DEFAULT_SIZE)
        return width if width == height else DEFAULT_SIZE


def _hash(file):
    try:
        return sha256(file)
    except OSError as error:  # decode names it
        return f"{file}: {error.strerror}"


def read_image(file, size, channels):
    """One image, upright, centre-cropped to a square and resized: uint8 [channels, size, size].

    file: a path or a binary file.  channels: 1 or 3.  Transparent pixels show white behind them, as on paper:
    the colour that a file keeps under them is arbitrary and was never meant to be seen.
    Raises what Pillow raises, and ValueError for more than 8 bits.
    """
    if file is None:
        raise ValueError("there are no image bytes")
    with Image.open(file) as image:
        if image.mode[0] in "IF":
            raise ValueError("its pixels have more than 8 bits; convert it to 8 bits")
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        upright = upright.convert({1: "L", 3: "RGB"}[channels])
        image = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
