"""Encoded images, in their own files or inside other files, and their decoding into an array of pixels."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from ..errors import DedtError
from ..files import address, at_home, atomic, create_array, sha256
from .labelled import Labelled, LabelledImages, without_empty
from .names import ARCHIVES, DECODERS, few, image_suffixes, legible, one_line
from .reading import Reading

if TYPE_CHECKING:
    from ..store import Store

DEFAULT_SIZE = 32
IN_MEMORY = 2**31  # bytes; a larger array of pixels is memory-mapped
WINDOW = 64  # images that are read ahead
THREADS = 8  # at most so many decode at once, each a whole image
SHOWN = 5
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
DIGEST = re.compile("[0-9a-f]{64}")
NO_CLASS = "images"
"""Name of the single class that decoded images without classes get."""
UNREADABLE = {"train": "unreadable.dedt.txt", "test": "test-unreadable.dedt.txt"}
"""Split -> name of the file that lists the images that cannot be decoded, one per line."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> how to turn the image upright."""
MOST_PIXELS = 2**28
"""Limit for an image: panoramas exceed Pillow's limit of 179 million; this many in colour take 0.8 GB."""
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns above this number and refuses twice as many
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # of an image that is decoded all the same

Encoded = tuple[str, Path | BinaryIO | None]
"""An encoded image: its name for messages, and its path, a binary file, or None if there is nothing to decode."""


class Files(tuple[Path, ...]):
    """The files of a Listing, hashed only once; Listings made by :meth:`Listing.without` share them."""

    @functools.cached_property
    def _hashes(self) -> list[str]:
        self._stamps = [*map(stamp, self)]
        with ThreadPoolExecutor() as pool:
            return list(tqdm(pool.map(_hash, self), "hash", len(self), unit="file", leave=False, delay=2))

    @functools.cached_property
    def content(self) -> str:
        """A digest of the contents of all files."""
        return address("", self._hashes)

    def check(self) -> None:
        """Raise DedtError if a file has changed since it was hashed for :attr:`content`."""
        for file, _, then in zip(self, self._hashes, self._stamps):
            if stamp(file) != then:
                raise changed(legible(file))

    @functools.cached_property
    def digests(self) -> dict[Path, str]:
        """SHA-256 of the content of each file that could be read: path -> digest."""
        return {file: found for file, found in zip(self, self._hashes) if DIGEST.fullmatch(found)}


@dataclass(frozen=True)
class Listing(Labelled):
    """Labelled images that were found but not decoded.

    Attributes:
        root: file or folder of the images.
        files: the files that determine the pixels.
        encoded: function that yields each image, in order, as an Encoded.
        labels: int64 [n]; class_names, ids, name and reading are as in LabelledImages.
        captions: one text per image, or () without captions.
        dropped: positions, among all images that were found, of those that :meth:`without` left out.
        whole: the Listing from which a cleaned list left out images, or None.

    Without classes ``class_names`` is () and all labels are 0.
    """

    root: Path
    files: Files
    encoded: Callable[[], Iterable[Encoded]]
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    name: str
    reading: Reading
    captions: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()
    whole: "Listing | None" = None

    def without(self, why: Mapping[int, str]) -> "Listing":
        """The Listing without some images (position -> reason).

        Classes that lose all their images are left out too, and a note in ``reading`` says so.

        Raises:
            DedtError: no image is left.
        """
        if not why:
            return self
        kept = np.setdiff1d(np.arange(len(self.labels)), list(why))
        if not len(kept):
            raise DedtError(
                f"All {len(self.labels)} images in {self.root} are left out ({', '.join(set(why.values()))})."
            )
        places = np.setdiff1d(np.arange(len(self.dropped) + len(self.ids)), self.dropped)
        labels, names, empty = without_empty(self.labels[kept], self.class_names or ("",))
        reading = self.reading
        for reason, count in Counter(why.values()).items():
            reading = reading.without(count, reason)
        if empty:
            reading = reading.noted(f"classes without remaining images, left out: {', '.join(empty)}")

        def encoded() -> Iterable[Encoded]:
            files = itertools.islice(self.encoded(), int(kept[-1]) + 1)  # later ones need not be read
            return (item for place, item in enumerate(files) if place not in why)

        return dataclasses.replace(
            self,
            encoded=encoded,
            labels=labels,
            class_names=names if self.class_names else (),
            ids=tuple(self.ids[i] for i in kept),
            captions=tuple(self.captions[i] for i in kept) if self.captions else (),
            reading=reading,
            dropped=tuple(sorted([*self.dropped, *np.delete(places, kept).tolist()])),
        )

    def decode(self, image_size: int | None, channels: int, store: "Store | None" = None) -> LabelledImages:
        """Decode the images into an array of pixels.

        Args:
            image_size: side in pixels, by default DEFAULT_SIZE.
            channels: 1 or 3.
            store: keeps the decoded images, so that they are decoded once for the same contents of the files,
                even if the files are renamed.

        Raises:
            DedtError: for images that cannot be read.
        """
        size = image_size or DEFAULT_SIZE
        images = self._stored_pixels(size, channels, store) if store else self._pixels(size, channels)
        names = self.class_names or (NO_CLASS,)
        return LabelledImages(images, self.labels, names, self.ids, self.name, self.reading, self.captions)

    def _stored_pixels(self, image_size, channels, store):
        identity = {
            "version": 3,
            "source": self.name,
            "files": self.files.content,
            "left out": self.dropped,
            "image_size": image_size,
            "channels": channels,
            "decoders": DECODERS,
        }

        def work(folder):
            allocate = functools.partial(create_array, folder / "images.npy")
            self._pixels(image_size, channels, allocate, self.files.digests, store.root).flush()
            self.files.check()

        path = store.run("images", identity, work) / "images.npy"
        return np.load(path, mmap_mode="r" if path.stat().st_size > IN_MEMORY else None)

    def _pixels(self, size, channels, allocate=np.empty, digests=None, report=None):
        """The images, uint8 [n, channels, size, size]; raises DedtError if any cannot be read."""
        count, bad = len(self.labels), {}
        images = allocate((count, channels, size, size), np.uint8)

        def decoded(item):
            try:
                return read_image(encoded_bytes(*item, digests or {}), size, channels)
            except Exception as error:  # a decoder may raise anything on a damaged file
                return why_unreadable(item[0], error)

        found = ahead(decoded, self.encoded())
        bar = tqdm(found, f"decode {self.name}", count, unit="image", leave=False, delay=2)
        for i, pixels in enumerate(bar):
            if isinstance(pixels, str):
                bad[i] = pixels
            else:
                images[i] = pixels
        self.refuse(bad, False, report)
        return images

    def refuse(
        self, bad: Mapping[int, str], skip_bad: bool, report: Path | None, split: str = "train"
    ) -> str:
        """Raise DedtError for images that cannot be read, unless they may be skipped and others remain.

        Args:
            bad: Position of each image that cannot be read -> reason.
            skip_bad: Whether they may be skipped.
            report: Folder for a file that lists them, or None.
            split: "train" or "test", which decides the name of that file.

        Returns:
            Where the list is, as a remark for messages; "" without a list.
        """
        if not bad:
            return ""
        where, files = "", itertools.islice(self.encoded(), max(bad) + 1)
        named = [one_line(f"{image} ({bad[i]})") for i, (image, _) in enumerate(files) if i in bad]
        if report:
            path = report / UNREADABLE[split]
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as partial:
                partial.write_text("".join(f"{line}\n" for line in named), encoding="utf-8")
            where = f" (listed in {path})"
        some = len(bad) < len(self.labels)
        if skip_bad and some:
            return where
        shown = "\n  ".join(named[:SHOWN])
        without = ", or leave them out with --skip-bad (data.skip_bad = true in a profile)" * some
        what = f"{len(bad)} of {len(self.labels)}" if some else f"All {len(bad)}"
        raise DedtError(
            f"{what} images in {self.root} cannot be read{where}; repair or remove them{without}:\n  {shown}"
        )


def ahead(work: Callable[[Any], Any], items: Iterable) -> Iterator:
    """Yield ``work(item)`` for each item, in order, from several threads that work a few items ahead."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        items = iter(items)
        running = [pool.submit(work, item) for item in itertools.islice(items, WINDOW)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(work, item) for item in itertools.islice(items, 1)]


def root_of(path: str | Path | None, source: str, wanted: str) -> Path:
    """The path of a source, checked to be an existing folder, a file (source "list") or either.

    Raises:
        DedtError: if it is not; the message says what is ``wanted``.
    """
    if not path:
        raise DedtError(f"data = '{source}' needs a path: give the path of {wanted}.")
    root = at_home(path)
    fits = {"folder": Path.is_dir, "metadata": Path.is_dir, "list": Path.is_file}.get(source, Path.exists)
    if not fits(root):
        kind = "file" if source == "list" else "folder"
        lacks = f"is not a {kind}" if root.exists() else "does not exist"
        raise DedtError(f"{root} {_what_it_is(root) or lacks}. Give the path of {wanted}.")
    return root


def _what_it_is(root: Path) -> str:
    """Why a file of a common but unsupported kind cannot be read, and what to do; "" for other paths."""
    if root.name.lower().endswith(ARCHIVES) and root.is_file():
        return "is an archive: unpack it first"
    if root.suffix.lower() in SPREADSHEETS and root.is_file():
        return "is a spreadsheet: save its sheet as CSV"
    return "is a single image" if root.suffix.lower() in image_suffixes() and root.is_file() else ""


def of_split(
    split: str, train: Callable[[], Listing], test: Callable[[], Listing | None], notes: Iterable[str] = ()
) -> Listing | None:
    """The Listing of a split; held-out images that cannot be used do not block the training images.

    Args:
        split: "train" or "test".
        train: returns the training images; it is called after ``test``.
        test: returns the held-out images or None; a DedtError from it becomes a note.
        notes: other decisions, in words.
    """
    held_out, notes = None, list(notes)
    try:
        held_out = _checked(test())
    except DedtError as error:
        notes.append(f"no held-out images are used: {str(error).rstrip('.')}")
    if split == "test":
        return held_out
    found = _checked(train())
    notes, beside = (*notes, *found.reading.notes), held_out.reading if held_out else None
    reading = dataclasses.replace(found.reading, notes=notes, held_out=beside)
    return dataclasses.replace(found, reading=reading)


def _checked(found):
    """The same Listing or None; raises DedtError if it has no images or names one twice."""
    if found is None:
        return None
    if not found.ids:
        raise DedtError(f"{found.root} holds no images: add some.")
    files = [os.path.abspath(found.root.parent / name) for name in found.ids]  # a.jpg is ./a.jpg
    counts = Counter(files)
    if twice := [name for name, file in zip(found.ids, files) if counts[file] > 1]:
        raise DedtError(
            f"{found.root} lists some images more than once ({few(dict.fromkeys(twice))}): list each image "
            "once."
        )
    return found


def stamp(file: Path) -> list[int]:
    """Modification time and size of a file, [] if it is missing: a quick sign that it has changed."""
    with contextlib.suppress(OSError):
        found = file.stat()
        return [found.st_mtime_ns, found.st_size]
    return []


def _hash(file):
    try:
        return sha256(file)
    except OSError as error:  # the file is reported when it is decoded
        return f"{file}: {error.strerror}"


def encoded_bytes(name: str, file: "Path | BinaryIO | None", digests: Mapping[Path, str]) -> bytes:
    """The encoded bytes of an image.

    Args:
        name: Name of the image for messages.
        file: Path or binary file, as yielded by ``Listing.encoded``.
        digests: Digests of the files from when they were hashed (``Files.digests``).

    Raises:
        ValueError: There are no bytes.
        DedtError: The file has changed since, so its results must not be stored under that hash.
    """
    if file is None:
        raise ValueError("the image is empty")
    if not isinstance(file, Path):
        return file.read()
    try:
        content = file.read_bytes()
    except OSError as error:
        if file in digests:
            raise DedtError(
                f"{name} can no longer be read ({error.strerror}). Run again when all images can be read; "
                "nothing of this attempt is kept."
            ) from error
        raise
    if file in digests and not digests[file].startswith(digest_of(content)):
        raise changed(name)
    return content


def changed(name: str) -> DedtError:
    """The error for an image that was replaced while it was in use."""
    return DedtError(f"{name} has changed during the run: run again when the images no longer change.")


def read_image(content: bytes, size: int, channels: int) -> np.ndarray:
    """One image, upright, centre-cropped to a square and resized: uint8 [channels, size, size].

    Transparent pixels are blended over white: the colour that a file stores under them is arbitrary and was
    never meant to be seen.

    Args:
        content: the encoded image.
        size: side in pixels.
        channels: 1 or 3.

    Raises:
        ValueError: for more than 8 bits per channel.  Pillow may raise other errors.
    """
    with Image.open(io.BytesIO(content)) as image:
        return crop(upright(image, channels), size)


def upright(image: Image.Image, channels: int) -> Image.Image:
    """An opened image turned as its EXIF data say and blended over white: "L" for 1 channel, "RGB" for 3.

    Raises:
        ValueError: for more than 8 bits per channel.  Pillow may raise other errors.
    """
    if image.mode[0] in "IF":
        raise ValueError("it has more than 8 bits per channel; convert it to 8 bits")
    image = turned(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert({1: "L", 3: "RGB"}[channels])


def turned(image: Image.Image) -> Image.Image:
    """An opened image turned as its EXIF data say.

    ``ImageOps.exif_transpose`` also writes the EXIF data anew, and fails if any part of them is damaged.
    """
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def crop(image: Image.Image, size: int) -> np.ndarray:
    """The square in the centre, resized: uint8 [channels, size, size]."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(square).reshape(size, size, -1).transpose(2, 0, 1)


def why_unreadable(name: str, error: Exception) -> str:
    """Why an image cannot be decoded, in one line, without its name: stored results are found by content.

    Raises:
        DedtError: The reason is not the image: it changed, or the memory is full.
    """
    if isinstance(error, MemoryError):
        raise DedtError(
            f"Out of memory while decoding {name}: move the image away, or use a machine with more memory. "
            "Nothing of this attempt is kept."
        ) from error
    if isinstance(error, DedtError | ImportError):
        raise error
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MOST_PIXELS / 1e6:.0f} million pixels; make it smaller"
    return legible(
        (isinstance(error, OSError) and error.strerror) or str(error).strip() or type(error).__name__
    )


def digest_of(content: bytes) -> str:
    """A digest that identifies an encoded image: 32 hex digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:32]
