"""From encoded images, in files of their own or inside others, to one array of pixels."""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps
from tqdm import tqdm

from ..errors import DedtError
from ..store import address, create_array
from .labelled import LabelledImages

DEFAULT_SIZE = 32
IN_MEMORY = 2**31  # bytes; more pixels than that stay in their file and are read as they are needed
SHOWN = 5
DAMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Listing:
    """Labelled images that were found but not decoded.

    root: where they are.  files: the paths that decide their pixels.  encoded: a function; it gives for each
    image, in order, its name for messages and a path, a binary file, or None when there is nothing to decode.
    labels (int64 [n]), class_names, ids and name: as in LabelledImages.
    """

    root: Path
    files: tuple
    encoded: Callable
    labels: np.ndarray
    class_names: tuple
    ids: tuple
    name: str

    def decode(self, image_size, channels, store=None):
        """LabelledImages of ``image_size`` x ``image_size`` pixels and ``channels`` (1 or 3) channels.

        With a Store they are decoded once for each set of files, told apart by path, size and time of the
        last change.  Raises DedtError that lists images that cannot be read.
        """
        if store is None:
            images = self._pixels(image_size, channels)
        else:
            images = self._stored_pixels(image_size, channels, store)
        return LabelledImages(images, self.labels, self.class_names, self.ids, self.name)

    def _stored_pixels(self, image_size, channels, store):
        states = [(str(file.absolute()), (s := file.stat()).st_size, s.st_mtime_ns) for file in self.files]
        recipe = {
            "version": 1,
            "source": self.name,
            "files": address("", states),
            "image_size": image_size,
            "channels": channels,
            "pillow": PIL.__version__,
        }

        def work(folder):
            self._pixels(image_size, channels, functools.partial(create_array, folder / "images.npy")).flush()

        path = store.run("images", recipe, work) / "images.npy"
        return np.load(path, mmap_mode="r" if path.stat().st_size > IN_MEMORY else None)

    def _pixels(self, size, channels, allocate=np.empty):
        count, broken = len(self.labels), []
        images = allocate((count, channels, size, size), np.uint8)
        bar = tqdm(self.encoded(), f"decode {self.name}", count, unit="image", leave=False, delay=2)
        for i, (name, file) in enumerate(bar):
            try:
                images[i] = read_image(file, size, channels)
            except Image.UnidentifiedImageError:
                broken.append(f"{name} (no image of a kind that Pillow knows)")
            except DAMAGE as error:
                broken.append(f"{name} ({error})")
        if broken:
            shown = "\n  ".join(broken[:SHOWN])
            raise DedtError(
                f"{len(broken)} of {count} images in {self.root} cannot be read; repair or remove them:\n"
                f"  {shown}"
            )
        return images

    def side(self):
        """Pixels along a side if all images are squares of one size, else 32; reads only their headers."""
        sizes = set()
        for _, file in self.encoded():
            try:
                with Image.open(file or io.BytesIO()) as image:
                    sizes.add(image.size)
            except DAMAGE:
                continue  # decode names it
            if len(sizes) > 1:
                return DEFAULT_SIZE
        width, height = sizes.pop() if sizes else (DEFAULT_SIZE, DEFAULT_SIZE)
        return width if width == height else DEFAULT_SIZE


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
