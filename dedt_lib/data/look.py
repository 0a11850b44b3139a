"""The look at photographs before selection: the properties and faults of each image."""

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from ..arrays import groups
from ..files import intact_or_removed, sealed
from .labelled import first_alike, originals_of
from .listing import Encoded, Listing, ahead, crop, digest_of, encoded_bytes, upright, why_unreadable

THUMBNAIL = 64
SIDE = 128  # longer side in pixels at which brightness, blur and information are measured
NEAR = 6  # bits, of 64, in which the perceptual hashes of near duplicates may differ
ISSUES = {
    "dark": {"threshold": 0.32},
    "light": {"threshold": 0.05},
    "blank": {"threshold": 0.3, "normalizing_factor": 0.1},
    "blurry": {"threshold": 0.29, "normalizing_factor": 0.01, "color_threshold": 0.18},
    "odd shape": {"threshold": 0.35},
}
"""cleanvision's tests of a single image, with cleanvision's thresholds."""
CALLED = {"blank": "low_information", "odd shape": "odd_aspect_ratio"}
"""Issue -> cleanvision's name for it, if different."""
DEEP, PAGES = " of more than 8 bits", " of several pages"
"""Marks in the column ``mode`` for an image of which only a part is used."""
TABLE = "look.parquet"
PART = 512  # images per partial result, from which an interrupted look resumes
STRIP = 2**20  # bytes of pixels that are hashed at a time


@dataclass(frozen=True, eq=False)
class Look:
    """Properties of the images of a split.

    Attributes:
        table: One row per image, in the order of the listing: id, content (digest of its encoded bytes),
            width, height, mode, format, digest (of its pixels), phash (64 bits), error ("" or why it cannot
            be read), and a bool column for each issue.
        thumbnails: uint8 [n, 3, 64, 64]; black where an image cannot be read.
    """

    table: pd.DataFrame
    thumbnails: np.ndarray

    @property
    def notes(self) -> list[str]:
        """Counts, in words, of the readable images of which only a part is used."""
        said = {
            "images of several pages (only the first is used)": PAGES,
            "images of more than 8 bits per channel (only the upper 8 are used)": DEEP,
        }
        modes = self.table["mode"][self.readable]
        counts = {what: int(modes.str.contains(mark, regex=False).sum()) for what, mark in said.items()}
        return [f"{what}: {count:,}" for what, count in counts.items() if count]

    @property
    def readable(self) -> np.ndarray:
        """Which images can be read: bool [n]."""
        return (self.table["error"] == "").to_numpy()

    def take(self, places: Sequence[int] | np.ndarray) -> "Look":
        """The same of the images at ``places`` alone."""
        return Look(self.table.iloc[places].reset_index(drop=True), self.thumbnails[places])

    def save(self, folder: Path) -> None:
        """Write ``look.parquet`` and ``thumbnails.npy``."""
        # Given a path, pyarrow would reject names that are not UTF-8.
        (folder / TABLE).write_bytes(self.table.to_parquet(index=False))
        np.save(folder / "thumbnails.npy", self.thumbnails)

    @classmethod
    def load(cls, folder: Path) -> "Look":
        """Read what :meth:`save` wrote."""
        table = pd.read_parquet(io.BytesIO((folder / TABLE).read_bytes()))
        return cls(table, np.load(folder / "thumbnails.npy", mmap_mode="r"))


def look(listing: Listing, folder: Path | None = None) -> Look:
    """Decode every image of a Listing once and record its properties.

    Each thread (at most THREADS) holds one image in memory; only thumbnails of 64 x 64 pixels stay.

    Args:
        listing: The images.
        folder: Folder for partial results, written every PART images, from which an interrupted look resumes.
    """
    thumbnails, parts = np.zeros((len(listing.ids), 3, THUMBNAIL, THUMBNAIL), np.uint8), []
    encoded = iter(listing.encoded())
    with tqdm(desc=f"look at {listing.name}", total=len(listing.ids), unit="image", leave=False) as bar:
        for start in range(0, len(listing.ids), PART):
            files = itertools.islice(encoded, min(PART, len(listing.ids) - start))
            part = _part(files, listing.files.digests, folder and folder / f".part-{start:08d}.parquet", bar)
            for place, thumbnail in enumerate(part.pop("thumbnail"), start):
                if thumbnail:
                    thumbnails[place] = np.frombuffer(thumbnail, np.uint8).reshape(thumbnails.shape[1:])
            parts.append(part)
    listing.files.check()
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "id", listing.ids)
    issues = _issues(table)
    return Look(table[[name for name in table if ":" not in name]].assign(**issues), thumbnails)


def _part(
    files: Iterable[Encoded], digests: Mapping[Path, str], path: Path | None, bar: tqdm
) -> pd.DataFrame:
    """Rows of some images, with thumbnails: read from ``path`` if it is intact, else computed and saved."""
    if path and intact_or_removed(path):
        bar.update(sum(1 for _ in files))
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    rows = []
    for row in ahead(partial(_see, digests=digests), files):
        rows.append(row)
        bar.update()
    part = pd.DataFrame(rows)
    if path:
        with sealed(path) as unfinished:
            unfinished.write_bytes(part.to_parquet(index=False))
    return part


def _see(item: Encoded, digests: Mapping[Path, str]) -> dict[str, Any]:
    """The row of one image with its thumbnail: the bytes of uint8 [3, 64, 64], or b"" if it is unreadable."""
    import imagehash

    row: dict[str, Any] = {"content": "", "width": 0, "height": 0, "mode": "", "format": ""}
    row |= {"digest": "", "phash": 0, "error": "", "thumbnail": b""}
    try:
        content = encoded_bytes(*item, digests)
        with Image.open(io.BytesIO(content)) as found:
            row |= {"content": digest_of(content), "format": found.format or ""}
            # Pillow keeps 8 of 16 bits, and of 10 or 12 in HEIC.
            deep = re.search(";16[BLN]", str(found.tile)) or found.info.get("bit_depth", 8) > 8
            row["mode"] = found.mode + DEEP * bool(deep)
            image = upright(found, 3)
        if row["format"] != "MPO":  # in which cameras store one picture with a preview
            row["mode"] += _pages(content)
        row |= {"width": image.width, "height": image.height, "digest": _digest(image)}
        thumbnail = crop(image, THUMBNAIL)
        image.thumbnail((SIDE, SIDE))
        bits = imagehash.phash(image).hash.ravel()
        row["phash"] = int(np.packbits(bits).view(">i8")[0])
        for kind, measure in {measure.name: measure for measure in _properties().values()}.items():
            row |= {f"{kind}:{key}": value for key, value in measure.calculate(image).items()}
        return {**row, "thumbnail": thumbnail.tobytes()}
    except Exception as error:  # a decoder may raise anything on a damaged file
        return {**row, "error": why_unreadable(item[0], error)}


def _pages(content: bytes) -> str:
    """The mark PAGES if an image has more than one page, of which only the first is used; otherwise ""."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return PAGES * getattr(image, "is_animated", False)
    except Exception:  # a later page is damaged
        return ""


def _digest(image: Image.Image) -> str:
    """A digest that identifies the pixels of an image: 32 hex digits of a SHA-256."""
    digest, step = hashlib.sha256(repr(image.size).encode()), max(1, STRIP // (3 * image.width))
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        digest.update(strip.tobytes())
    return digest.hexdigest()[:32]


def _properties():
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    found = ImagePropertyIssueManager().image_properties
    return {name: found[CALLED.get(name, name)] for name in ISSUES}


def _issues(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which images have which issue: name of the issue -> bool [n]."""
    found, readable = {}, (table["error"] == "").to_numpy()
    if not readable.any():  # the table then lacks the columns of measurements
        return dict.fromkeys(ISSUES, readable)
    for name, measure in _properties().items():
        issue, options = CALLED.get(name, name), ISSUES[name]
        raw = table.filter(regex=f"^{measure.name}:").astype(float)
        raw = raw.rename(columns=lambda column: column.partition(":")[2])
        marked = measure.mark_issue(measure.get_scores(raw, issue, **options), issue, options["threshold"])
        found[name] = marked.iloc[:, 0].to_numpy() & readable
    return found


# ---- copies ------------------------------------------------------------------------------------------


def groups_of_copies(table: pd.DataFrame, near: int = 0, labels: np.ndarray | None = None) -> np.ndarray:
    """For each image, the index of the earlier image that it copies, or its own index: int64 [n].

    The earlier image is itself not a copy.  Of images that change little by little, such as the frames of a
    film, one stays whenever it is too far from the last one that stays.

    Args:
        table: The table of a :class:`Look`.
        near: 0 for equal pixels; otherwise the number of bits by which perceptual hashes (of images that are
            not blank) may differ.
        labels: int [n]; if ``near`` is set, all copies are searched within each class.  By default they are
            searched among all images.
    """
    first = first_alike(np.where(table["error"] == "", table["digest"], table["id"]).astype(str))
    if not near:
        return first
    labels = np.zeros(len(table), dtype=np.int64) if labels is None else labels
    first = originals_of(first, labels)
    of, told = first.copy(), np.flatnonzero(_telling(table) & (first == np.arange(len(table))))
    for members in groups(labels[told], "class"):
        places = told[members]
        hashes = table["phash"].to_numpy().view(np.uint64)[places]
        for k, place in enumerate(places):
            if of[place] == place:  # it stays, and close images that are no copies yet become its copies
                close = places[k:][np.bitwise_count(hashes[k:] ^ hashes[k]) <= near]
                of[close[of[close] == close]] = place
    return of[first]


def _telling(table: pd.DataFrame) -> np.ndarray:
    """Which images have a meaningful perceptual hash, being readable and not blank: bool [n]."""
    return (table["error"] == "").to_numpy() & ~table["blank"].to_numpy()


def _is_near(a: np.ndarray, b: np.ndarray, bits: int = NEAR, block: int = 1024) -> np.ndarray:
    """Which hashes in ``a``, uint64 [n], differ from one in ``b`` by at most ``bits`` bits: bool [n]."""
    parts = (a[start : start + block, None] ^ b[None] for start in range(0, len(a), block))
    return np.concatenate([np.empty(0, bool), *((np.bitwise_count(part) <= bits).any(1) for part in parts)])


def leaks(others: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Which images of ``table`` have an exact or near copy in ``others``: bool [n]."""
    known = others["digest"][others["error"] == ""]
    found = np.array(table["digest"].isin(known) & (table["error"] == ""))
    own, theirs = (some["phash"].to_numpy().view(np.uint64)[_telling(some)] for some in (table, others))
    found[_telling(table)] |= _is_near(own, theirs)
    return found
