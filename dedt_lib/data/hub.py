"""Data sets of the ``datasets`` library: saved by ``save_to_disk``, or on the Hugging Face hub."""

import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DedtError
from ..files import HUB
from .names import HELD_OUT, TRAINING, few
from .parquet import plain_fields, row_names
from .reading import Reading
from .table import Splits, Table


def splits(path: str | Path | None) -> Splits:
    """The images of a data set of the ``datasets`` library.

    Args:
        path: the folder that ``save_to_disk`` wrote, or ``hub:NAME`` or ``hub:NAME@REVISION``, which is
            downloaded.

    Raises:
        DedtError: if the data set cannot be read or downloaded, has no training split, or does not have
            exactly one column of images.
    """
    found = _open(str(path))
    names = {name.lower(): name for name in found}
    known = [names[name] for name in TRAINING if name in names]
    if len(found) > 1 and not known:
        raise DedtError(f"{path} has no split named train. Its splits are: {few(found)}.")
    train = (known or list(found))[0]
    test = next((names[name] for name in HELD_OUT if name in names and names[name] != train), None)
    read = functools.partial(_read, str(path))
    others = [name for name in found if name not in (train, test)]
    notes = [f"other splits, left out: {few(others)}"] * bool(others)
    return read("train", found[train], notes), lambda: read("test", found[test]) if test else None


def _open(path: str) -> dict[str, Any]:
    import datasets

    try:
        if path.startswith(HUB):
            name, _, revision = path.removeprefix(HUB).partition("@")
            if not name:
                raise ValueError("the name is missing")
            found = datasets.load_dataset(name, revision=revision or None)
        else:
            found = datasets.load_from_disk(path)
    except Exception as error:
        raise DedtError(
            f"The data set {path} cannot be read ({str(error).strip() or type(error).__name__}): give a "
            f"folder written by save_to_disk, or {HUB}NAME for a data set on the Hugging Face hub, which "
            "needs a network connection."
        ) from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def _read(path: str, split: str, data: Any, notes: Iterable[str] = ()) -> Table:
    import datasets

    kinds = data.features.items()
    images = [name for name, kind in kinds if isinstance(kind, datasets.Image)]
    if len(images) != 1:
        columns = few(f"{name}: {kind}" for name, kind in kinds)
        raise DedtError(f"{path} has {len(images)} image columns, not one. Its columns are: {columns}.")
    plain = data.cast_column(images[0], datasets.Image(decode=False))

    def encoded():
        for i, row in enumerate(plain.select_columns(images)):
            stored = row[images[0]] or {}
            content, file = stored.get("bytes"), stored.get("path")
            yield f"{split} row {i}", io.BytesIO(content) if content else Path(file) if file else None

    root = Path(path.removeprefix(HUB))
    fields = plain_fields(data.features.arrow_schema, images[0])
    return Table(
        root=root,
        files=tuple(sorted({Path(file["filename"]) for file in data.cache_files})),
        encoded=encoded,
        ids=row_names(split, len(data)),
        fields=fields,
        others=tuple(name for name, _ in kinds if name not in (images[0], *fields)),
        values=functools.cache(lambda column: list(data[column])),
        class_names=lambda column: getattr(data.features[column], "names", None),
        reading=Reading.of(len(data), notes=notes, unit="rows"),
        where=path,
    )
