"""Sample photographs that need no download: pieces of the two that come with scikit-learn."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
from PIL import Image, ImageEnhance

if TYPE_CHECKING:
    from ..store import Store

PIECES, SIDES = 80, (64, 300)
"""Number of pieces per photograph, and the minimum and maximum of their sides in pixels."""


def sample_photographs(store: "Store") -> Path:
    """A flat folder of 166 images without classes: pieces of two photographs, a temple and a flower.

    Six of them are faults for the look to find: two exact copies, two near copies, a dark and a blank image.

    Args:
        store: The store that keeps the images.
    """
    identity = {"version": 1, "pieces": PIECES, "sides": SIDES, "pillow": PIL.__version__}
    return store.run("sample", identity, _write) / "photographs"


def _write(folder: Path) -> None:
    from sklearn.datasets import load_sample_images

    rng, out = np.random.default_rng(0), folder / "photographs"
    out.mkdir()
    for name, pixels in zip(("china", "flower"), load_sample_images().images):
        whole = Image.fromarray(pixels)
        for i in range(PIECES):
            width, height = rng.integers(SIDES[0], SIDES[1] + 1, 2).tolist()
            x, y = rng.integers(0, (whole.width - width + 1, whole.height - height + 1)).tolist()
            piece = whole.crop((x, y, x + width, y + height))
            piece.save(out / f"{name}-{i:03d}.jpg", quality=92)
        first, second = out / f"{name}-000.jpg", out / f"{name}-003.jpg"
        (out / f"{name}-copy.jpg").write_bytes(first.read_bytes())
        with Image.open(second) as image:
            image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(out / f"{name}-smaller.jpg")
    with Image.open(out / "china-002.jpg") as image:
        ImageEnhance.Brightness(image).enhance(0.05).save(out / "night.jpg")
    Image.new("RGB", (128, 96), (128, 128, 128)).save(out / "blank.png")
