"""The look at photographs before anything is chosen: what each is, and what is wrong with it."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from .labelled import first_alike
from .listing import Listing, crop, opened, upright, why_unreadable

THUMBNAIL = 64
SIDE = 128  # pixels of the longer side at which brightness, blur and information are judged
NEAR = 6  # of the 64 bits of a perceptual hash that near duplicates may differ by
ISSUES = {
    "dark": {"threshold": 0.32},
    "light": {"threshold": 0.05},
    "low_information": {"threshold": 0.3, "normalizing_factor": 0.1},
    "blurry": {"threshold": 0.29, "normalizing_factor": 0.01, "color_threshold": 0.18},
    "odd_aspect_ratio": {"threshold": 0.35},
}
"""cleanvision's tests of a single image, with its own thresholds."""
WORDS = {"low_information": "blank", "odd_aspect_ratio": "odd shape"}
"""What an issue is called here, where that is another word."""
TABLE = "look.parquet"
WINDOW = 64  # images that are read ahead


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of the images of a split.

    Attributes:
        table: A row for each image, in the order of the listing: id, width, height, mode, format, bytes, digest (of its
            pixels), phash (64 bits), error ("" or why it cannot be read), and a bool column for each issue.
        thumbnails: uint8 [n, 3, 64, 64]; black where an image cannot be read.
    """

    table: pd.DataFrame
    thumbnails: np.ndarray

    @property
    def readable(self) -> np.ndarray:
        """Which images can be read: bool [n]."""
        return (self.table["error"] == "").to_numpy()

    def save(self, folder: Path) -> None:
        """Write ``look.parquet`` and ``thumbnails.npy``."""
        with open(folder / TABLE, "wb") as file:  # of a path pyarrow takes no name that is not UTF-8
            self.table.to_parquet(file, index=False)
        np.save(folder / "thumbnails.npy", self.thumbnails)

    @classmethod
    def load(cls, folder: Path) -> "Look":
        """Read what :meth:`save` wrote."""
        with open(folder / TABLE, "rb") as file:
            table = pd.read_parquet(file)
        return cls(table, np.load(folder / "thumbnails.npy", mmap_mode="r"))


def look(listing: Listing) -> Look:
    """Decode every image of a Listing once, a few at a time, and note what it is.

    Memory does not grow with the images' sizes; of each a thumbnail of 64 pixels stays.
    """
    thumbnails, rows = np.zeros((len(listing.ids), 3, THUMBNAIL, THUMBNAIL), np.uint8), []
    seen = tqdm(
        ahead(_see, listing.encoded()), f"look at {listing.name}", len(listing.ids), unit="image", leave=False
    )
    for i, (row, thumbnail) in enumerate(seen):
        rows.append({"id": listing.ids[i], **row})
        if thumbnail is not None:
            thumbnails[i] = thumbnail
    table = pd.DataFrame(rows)
    issues = _issues(table)
    return Look(table[[name for name in table if ":" not in name]].assign(**issues), thumbnails)


def ahead(work: Any, items: Iterable) -> Iterator:
    """``work`` of each item, in order, by several threads that are a few items ahead."""
    with ThreadPoolExecutor() as pool:
        items = iter(items)
        running = [pool.submit(work, item) for item in itertools.islice(items, WINDOW)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(work, item) for item in itertools.islice(items, 1)]


def _see(item: tuple[str, Path | BinaryIO | None]) -> tuple[dict[str, Any], np.ndarray | None]:
    """The row of one image, and its thumbnail uint8 [3, 64, 64]."""
    import imagehash

    name, file = item
    raw: dict[str, dict] = {}
    row = {"width": 0, "height": 0, "mode": "", "format": "", "digest": "", "phash": 0, "error": ""}
    try:
        with opened(file) as found:
            row |= {"mode": found.mode, "format": found.format or ""}
            image = upright(found, 3)
        row |= {"width": image.width, "height": image.height}
        row["digest"] = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:32]
        small = image.copy()
        small.thumbnail((SIDE, SIDE))
        bits = imagehash.phash(small).hash.ravel()
        row["phash"] = int(np.packbits(bits).view(">i8")[0])
        for measure in _properties().values():
            if measure.name not in raw:
                raw[measure.name] = measure.calculate(small)
        row |= {f"{kind}:{key}": value for kind, values in raw.items() for key, value in values.items()}
        return row, crop(image, THUMBNAIL)
    except Exception as error:  # a decoder may raise anything on a damaged file
        return {**row, "error": why_unreadable(name, error)}, None


def _properties():
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    found = ImagePropertyIssueManager().image_properties
    return {name: found[name] for name in ISSUES}


def _issues(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which images have an issue: a bool column for each."""
    found = {}
    for name, measure in _properties().items():
        options = dict(ISSUES[name])
        threshold = options.pop("threshold")
        raw = table.filter(regex=f"^{measure.name}:").astype(float)
        raw = raw.rename(columns=lambda column: column.partition(":")[2])
        marked = measure.mark_issue(measure.get_scores(raw, name, **options), name, threshold)
        found[WORDS.get(name, name)] = marked.iloc[:, 0].to_numpy() & (table["error"] == "").to_numpy()
    return found


# ---- copies ------------------------------------------------------------------------------------------


def groups_of_copies(table: pd.DataFrame, near: int = 0) -> np.ndarray:
    """Which images are copies of each other: int64 [n], the place of the first one of each group.

    Args:
        table: Of a :class:`Look`.
        near: 0: equal pixels.  Else perceptual hashes (of images that show something) may differ by so many bits.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, readable = len(table), (table["error"] == "").to_numpy()
    names = np.where(readable, table["digest"], table["id"])
    _, number = np.unique(names.astype(str), return_inverse=True)
    if near:
        rows, columns = _near_pairs(
            table["phash"].to_numpy(), np.flatnonzero(readable & ~table["blank"].to_numpy()), near
        )
        edges = coo_array((np.ones(len(rows), bool), (number[rows], number[columns])), shape=(n, n))
        number = connected_components(edges, directed=False)[1][number]
    return first_alike(number)


def _near_pairs(
    hashes: np.ndarray, places: np.ndarray, bits: int, block: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of places whose 64-bit hashes differ by at most so many bits."""
    own = hashes[places].view(np.uint64)
    rows, columns = [], []
    for start in range(0, len(own), block):
        apart = np.bitwise_count(own[start : start + block, None] ^ own[None, start:])
        r, c = np.nonzero(apart <= bits)
        keep = c > r
        rows.append(places[start + r[keep]])
        columns.append(places[start + c[keep]])
    return np.concatenate(rows or [places[:0]]), np.concatenate(columns or [places[:0]])


def leaks(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Held-out images of which the training images hold an exact or near copy: bool [m]."""
    both = pd.concat([train, test], ignore_index=True)
    both["id"] = [f"{i}" for i in range(len(both))]
    group = groups_of_copies(both, NEAR)
    return np.isin(group[len(train) :], group[: len(train)])
