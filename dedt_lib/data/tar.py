"""WebDataset: tar files in which the parts of a sample share a name up to its first dot."""

import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import DedtError
from .columns import columns_of
from .listing import root_of
from .names import HELD_OUT, few, image_suffixes, is_hidden, legible, words
from .reading import Reading
from .table import Splits, Table
from .texts import caption_of, decoded, unused_notes

CAPTIONS, CLASSES = ("txt", "caption"), ("cls", "label")
PARTS = re.compile(r"(.*?)\.([A-Za-z][\w-]*(?:\.[A-Za-z][\w-]*)*)")
"""Name of a sample and of its part.  Dots before a digit, as in the time 10.00.33.png, belong to the name."""
FURTHER = "further images of a sample (same name up to the first dot)"


def splits(path: str | Path | None) -> Splits:
    """The images of WebDataset tar files.

    A sample is the first image of a name and, under the same name up to the first dot, perhaps its class
    (``.cls``), its caption (``.txt``) and columns (``.json``), in any order; a later member of the same name
    replaces an earlier one, as in any tar.  Its id is its file and key,
    ``train-0000.tar/00012``.  The name of a shard or of its folder says to which split it belongs; otherwise
    it holds training images.  Of several held-out splits, the first in the order of HELD_OUT is used.

    Args:
        path: a tar file, a folder of tar files, or a folder of such folders.

    Raises:
        DedtError: for files that cannot be read, or hold no image.
    """
    root = root_of(path, "webdataset", "a tar file, or of a folder of tar files")
    shards: dict[str, list[Path]] = {}
    for file in find_shards(root):
        said = {file.stem.partition("-")[0].lower(), *words(file.stem)}
        said |= {file.parent.name.lower()} if file.parent != root else set()
        split = next((name for name in HELD_OUT if name in said and not root.is_file()), "train")
        shards.setdefault(split, []).append(file)
    if "train" not in shards:
        raise DedtError(f"{root} holds no tar file of training images.")
    test, *others = [name for name in HELD_OUT if name in shards] or [""]
    notes = [f"other splits, left out: {few(others)}"] * bool(others)
    return _read(root, shards["train"], notes), lambda: _read(root, shards[test]) if test else None


def find_shards(root: Path) -> list[Path]:
    """The tar files in a folder, or else in its subfolders, in order; a path to a file is the only one."""

    def below(pattern: str) -> list[Path]:
        return sorted(file for file in root.glob(pattern) if file.suffix.lower() == ".tar" and file.is_file())

    return [root] if root.is_file() else below("*") or below("*/*")


def _read(root: Path, shards: list[Path], notes: Sequence[str] = ()) -> Table:
    """The samples of the shards, in the order of their images, whose bytes are not kept in memory."""
    ids: list[str] = []
    rows: list[dict] = []
    places: dict[Path, set[int]] = {}  # shard -> positions of the members that are images
    left_out, suffixes, unused = Counter[str](), image_suffixes(), defaultdict[str, list[str]](list)
    for shard in shards:
        images: dict[str, tuple[int, str]] = {}  # key -> position and name of the member
        beside: dict[str, dict] = {}
        for place, (name, content) in enumerate(_members(shard)):
            folder, _, base = name.rpartition("/")
            stem, kind = match.groups() if (match := PARTS.fullmatch(base)) else (base, "")
            key, kind = f"{folder}/{stem}".strip("/"), kind.lower()
            if f".{kind.rpartition('.')[2]}" in suffixes:
                if (there := images.get(key)) and there[1] != name:
                    left_out[FURTHER] += 1
                    continue
                left_out["replaced by a later member of the same name"] += images.pop(key, None) is not None
                images[key] = place, name
            elif kind in (*CAPTIONS, *CLASSES, "json"):
                beside.setdefault(key, {}).update(_parse(kind, content(), f"{shard}: {name}", unused))
            else:
                left_out["not images"] += 1
        shown = shard.name if root.is_file() else shard.relative_to(root)
        ids += [legible(f"{shown}/{key}") for key in images]
        rows += [beside.get(key, {}) for key in images]
        places[shard] = {place for place, _ in images.values()}
        left_out["without an image"] += len(beside.keys() - images.keys())
    if not ids:
        raise DedtError(f"{root} holds no images in its tar files.")

    def encoded():
        for shard in shards:
            for place, (name, content) in enumerate(_members(shard)):
                if place in places[shard]:
                    yield f"{shard.name}/{legible(name)}", io.BytesIO(content())

    return Table.of(
        columns_of(rows),
        root=root,
        files=tuple(shards),
        encoded=encoded,
        ids=tuple(ids),
        reading=Reading.of(len(ids), left_out, [*notes, *unused_notes(unused)], unit="samples"),
        where=str(root),
    )


def _members(shard):
    """(name, function that returns its bytes) of each regular file that is not hidden, in order."""
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                hidden = any(map(is_hidden, PurePosixPath(member.name).parts))
                if (member.isfile() or member.islnk()) and not hidden:
                    yield member.name, tar.extractfile(member).read
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:  # KeyError: a broken link
        raise DedtError(
            f"{shard} is not a complete tar file ({error}): download or write it again."
        ) from error


def _parse(kind, content, where, unused):
    """The columns that a member other than an image adds to its sample."""
    if kind in CAPTIONS:
        text = caption_of(content, where, unused)
        return {} if text is None else {kind: text}
    try:
        text = decoded(content).strip()
        columns = json.loads(text) if kind == "json" else {kind: text}
    except ValueError as error:
        raise DedtError(
            f"{where} is not {'JSON' if kind == 'json' else 'text'} in UTF-8 ({error})."
        ) from error
    return columns if isinstance(columns, dict) else {}
