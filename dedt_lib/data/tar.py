"""WebDataset: tar files in which the parts of a sample share a name up to its first dot."""

import functools
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

from ..errors import DedtError
from .listing import root_of
from .names import image_suffixes, legible, split_of, split_words
from .reading import Reading
from .table import Splits, Table

TEXT = ("txt", "cls", "json", "caption", "label")


def splits(path: str | Path | None) -> Splits:
    """The images of WebDataset tars.

    A sample is an image and, of the same name, perhaps its class (``.cls``), its caption (``.txt``) and columns
    (``.json``).  Its id is its file and key, ``train-0000.tar/00012``.  A shard is of the split that its name speaks of,
    and of the training images if of none.

    Args:
        path: a tar file, or a folder of them.

    Raises:
        DedtError: for files that cannot be read, or hold no image.
    """
    root = root_of(path, "webdataset", "a tar file, or of a folder of tar files")
    shards: dict[str, list[Path]] = {"train": [], "test": []}
    for file in [root] if root.is_file() else sorted(root.glob("*.tar")):
        words = {split_of(file.stem.partition("-")[0]), *split_words(file.stem)}
        shards["test" if "test" in words and not root.is_file() else "train"].append(file)
    if not shards["train"]:
        raise DedtError(f"{root} holds no tar file of training images.")
    return _read(root, shards["train"]), lambda: _read(root, shards["test"]) if shards["test"] else None


def _read(root: Path, shards: list[Path]) -> Table:
    """The samples of shards, in their order; only what is beside the images is kept."""
    ids: list[str] = []
    rows: list[dict] = []
    left_out, suffixes = Counter[str](), image_suffixes()
    for shard in shards:
        samples: dict[str, dict] = {}
        for name, content in _members(shard):
            folder, _, base = name.rpartition("/")
            stem, _, kind = base.partition(".")
            row, kind = samples.setdefault(f"{folder}/{stem}".strip("/"), {}), kind.lower()
            if f".{kind.rpartition('.')[2]}" in suffixes:
                row["image"] = name
            elif kind in TEXT:
                row |= _parse(kind, content(), f"{shard}: {name}")
            else:
                left_out["not images"] += 1
        for key, row in samples.items():
            if row.pop("image", None):
                ids.append(f"{shard.name}/{key}")
                rows.append(row)
            else:
                left_out["without an image"] += 1
    if not ids:
        raise DedtError(f"{root} holds no images in its tar files.")
    names = dict.fromkeys(name for row in rows for name in row)
    fields = [name for name in names if all(isinstance(row.get(name), str | int | None) for row in rows)]

    def encoded():
        for shard in shards:
            for name, content in _members(shard):
                if Path(name).suffix.lower() in suffixes:
                    yield f"{shard.name}/{legible(name)}", io.BytesIO(content())

    return Table(
        root=root,
        files=tuple(shards),
        encoded=encoded,
        ids=tuple(map(legible, ids)),
        fields=tuple(fields),
        values=functools.cache(lambda column: [row.get(column) for row in rows]),
        reading=Reading.of(len(ids), left_out, unit="samples"),
        where=str(root),
    )


def _members(shard):
    """(name, function that gives its bytes) of each regular file, in order."""
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.isfile() and not Path(member.name).name.startswith("."):
                    yield member.name, tar.extractfile(member).read
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DedtError(f"{shard} is not a whole tar file ({error}): fetch or write it again.") from error


def _parse(kind, content, where):
    text = content.decode("utf-8", errors="replace").strip()
    if kind != "json":
        return {kind: int(text) if kind == "cls" and text.lstrip("-").isdigit() else text}
    try:
        columns = json.loads(text)
    except json.JSONDecodeError as error:
        raise DedtError(f"{where} is no JSON ({error}).") from error
    return columns if isinstance(columns, dict) else {}
