"""Functions that the pages share: filling templates, thumbnails, and small charts as SVG."""

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import __version__
from ..data import Listing
from ..data.listing import upright
from ..files import atomic

SHOWN_SIDE = 160
BAR_CHART = 600, 120  # width and height in pixels


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of this package with values, which are escaped, and write the page to ``path``."""
    import jinja2

    loader = jinja2.PackageLoader("dedt_lib.pages", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template(template).render(version=__version__, **values)
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def pictures(listing: Listing, places: Iterable[int], side: int = SHOWN_SIDE) -> dict[int, str]:
    """The images at ``places``, uncropped and at most ``side`` pixels long, as data URIs: place -> URI."""
    wanted, found = set(places), {}
    for place, (_, file) in enumerate(islice(listing.encoded(), max(wanted, default=-1) + 1)):
        if place in wanted and file is not None:
            with Image.open(file) as image:
                image.draft("RGB", (side, side))  # decodes a JPEG no larger than necessary
                small = upright(image, 3)
            small.thumbnail((side, side))
            found[place] = data_uri(small)
    return found


def data_uri(image: Image.Image) -> str:
    """An image as a data URI with a JPEG in it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def bars(counts: Sequence[np.ndarray]) -> list[list[dict[str, float]]]:
    """Rectangles of a stacked bar chart of size BAR_CHART, one list per series; ``counts``: int [m] each."""
    width, height = BAR_CHART
    values = np.asarray(counts, float)
    high = values / max(1.0, values.sum(0).max()) * height
    top, step = height - high.cumsum(0), width / values.shape[1]
    left, wide = np.arange(values.shape[1]) * step + 1, repeat(max(step - 2, 1))
    boxes = (zip(left, y, wide, h) for y, h in zip(top, high))
    return [[dict(zip("xywh", np.round(box, 1).tolist())) for box in series] for series in boxes]
