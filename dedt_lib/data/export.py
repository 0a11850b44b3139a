"""Export a coreset, with its weights, as files that trainers read.

The encoded images are copied unchanged, except those that some trainers read in another way or not at all.
"""

import contextlib
import glob
import io
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os.path import splitext
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image
from tqdm import tqdm

from ..arrays import check_choice
from ..errors import DedtError
from ..files import HUB, atomic_folder, is_running, lies_in, make_folder, say, write_json
from ..selection import Coreset
from . import detect, find, lists
from .listing import TURNS, Listing, digest_of, turned, upright
from .names import composed, few, image_suffixes

MOST_REPEATS = 10
"""Most repeats to write for kohya, whose folder names say how often an epoch sees their images."""
CLOSE = 0.05
"""Relative error of a weight that repeats may make before larger ones are tried."""
UNSAFE = re.compile(r"[^\w .-]|^\.|[. ]$")
RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d", re.IGNORECASE)
"""Names that Windows reserves."""
OWN_REPEATS = re.compile(r"^\d+_(?=.)")
PLAIN = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Suffixes that both torchvision's ImageFolder and kohya's scripts accept as images."""
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
LONGEST = 200
"""Maximum bytes of a file name before its suffix; most file systems allow 255 in all."""


@dataclass(frozen=True)
class Item:
    """One kept image.

    Attributes:
        id: Name of the image in the coreset.
        stem: File name without suffix, unique in the coreset.
        source: File of the image, or None if it lies inside another file.
        content: The encoded image.
        suffix: Suffix of the file name, such as ".jpg".
        label: 0..K-1; if the names of all classes are whole numbers, that number.
        class_name: Name of the class, "" without classes.
        caption: Caption, "" without one.
        weight: Weight in the loss, 1 on average; always 1 without class weights.
    """

    id: str
    stem: str
    source: Path | None
    content: bytes
    suffix: str
    label: int
    class_name: str
    caption: str
    weight: float

    @property
    def name(self) -> str:
        """The file name with suffix."""
        return self.stem + self.suffix

    def plain(self) -> "Item":
        """The image in a form that every trainer reads alike; it is converted to PNG where necessary.

        Some trainers ignore the EXIF orientation, do not blend transparent pixels over white, or pass over a
        format such as HEIC, AVIF or TIFF.
        """
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(self.content)) as image:
            clear = image.has_transparency_data
            if not clear and image.getexif().get(ExifTags.Base.Orientation, 1) not in TURNS:
                if (suffix := suffix_of(self.content)) in PLAIN:
                    return replace(self, suffix=self.suffix if self.suffix in PLAIN else suffix)
            seen = upright(image, 3) if clear else turned(image)
            if seen.mode not in PNG_MODES:
                seen = seen.convert("RGB")
                seen.info.pop("icc_profile", None)  # it describes the colours before the conversion
            seen.save(buffer, "PNG")
        return replace(self, suffix=".png", content=buffer.getvalue())


def safe(text: str) -> str:
    """A text as a file name: letters, digits, spaces, ``.``, ``-`` and ``_`` stay, the rest becomes %XX.

    So does a last dot or space, which Windows drops; a name that it reserves gets a digest at its end.
    """
    name = UNSAFE.sub(lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), composed(text)) or "_"
    return marked(text, name) if len(name.encode()) > LONGEST or RESERVED.fullmatch(name) else name


class Folders(dict[str, str]):
    """Class name -> the name of its folder, different from those of other classes even if case is ignored."""

    def __missing__(self, name: str) -> str:
        taken = set(map(str.casefold, self.values()))
        folder = safe(name or "images")
        self[name] = marked(name) if folder.casefold() in taken else folder
        return self[name]


def marked(text: str, name: str = "") -> str:
    """A file name like that of :func:`safe`, but with a digest of the text at its end."""
    start = (name or safe(text)).encode()[: LONGEST - 13].decode(errors="ignore")
    return f"{start}-{sha256(text.encode()).hexdigest()[:12]}"


def stems(ids: Sequence[str]) -> list[str]:
    """File names without suffix, all different even when case is ignored.

    A caption lies beside its image under the same stem, so a.jpg and a.png cannot share the stem a.
    """
    known = image_suffixes()
    short = [safe(root if end.lower() in known else root + end) for root, end in map(splitext, ids)]
    for other in (safe, marked):  # ``marked`` also tells apart ids that differ only in case
        often = Counter(map(str.lower, short))
        short = [other(name) if often[stem.lower()] > 1 else stem for name, stem in zip(ids, short)]
    return short


def items(table: pd.DataFrame, listing: Listing, classed: bool) -> Iterator[Item]:
    """The kept images of a coreset, with class and weight from the selection and captions as they are now.

    Args:
        table: The table in ``coreset.parquet``.
        listing: The images from which the coreset was selected.
        classed: Whether the coreset's classes are those of the images, not clusters in their place.

    Raises:
        DedtError: Kept images are missing, were replaced, or are in another class now.
    """
    kept = table[table["kept"]].set_index("id")
    ids = _ids_then(kept, listing)
    if gone := sorted(set(kept.index) - set(ids)):
        raise DedtError(
            f"{len(gone)} images of the coreset are no longer in {listing.root}, such as {gone[0]}: select "
            "again."
        )
    if moved := _moved(kept, listing, ids) if classed else []:
        raise DedtError(f"Kept images have changed class ({len(moved)}), such as {moved[0]}: select again.")
    kept["stem"] = stems(list(kept.index))
    names = set(table["class_name"])
    numbers = {int(name) for name in names if re.fullmatch(r"-?[0-9]+", name)}
    numbered = classed and len(numbers) == len(names)
    captions: Sequence[str] = listing.captions or [""] * len(ids)
    if not any(captions) and any(kept["caption"]):
        say("The images have no captions now, so those of the selection are exported.")
        captions = [*kept["caption"].reindex(ids).fillna("")]
    found = zip(ids, captions, listing.encoded())
    for name, caption, (_, file) in tqdm(found, "export", len(captions), unit="image", leave=False):
        if name not in kept.index:
            continue
        row, path = kept.loc[name], file if isinstance(file, Path) else None
        try:
            content = path.read_bytes() if path else file.read() if file else b""
        except FileNotFoundError:
            content = b""
        if row["content"] != digest_of(content):
            raise DedtError(f"{name} in {listing.root} has changed since it was selected: select again.")
        yield Item(
            id=name,
            stem=row["stem"],
            source=path,
            content=content,
            suffix=path.suffix.lower() if path and path.suffix else suffix_of(content),
            label=int(row["class_name"] if numbered else row["class"]),
            class_name=row["class_name"] if classed else "",
            caption=caption,
            weight=float(row["weight"]),
        )


def _ids_then(kept: pd.DataFrame, listing: Listing) -> list[str]:
    """The ids of the images of a listing when kept ones were selected; what was renamed is told by content."""
    gone = kept[~kept.index.isin(listing.ids)]
    by_content = dict(zip(gone["content"], gone.index))
    ids = list(listing.ids)
    for i, (name, (_, file)) in enumerate(zip(ids, listing.encoded() if by_content else ())):
        if name not in kept.index and file is not None:
            with contextlib.suppress(OSError):
                content = file.read_bytes() if isinstance(file, Path) else file.read()
                ids[i] = by_content.pop(digest_of(content), name)
    return ids


def _moved(kept: pd.DataFrame, listing: Listing, ids: Sequence[str]) -> list[str]:
    """Ids of the kept images that are in another class now; a class that was only renamed does not count."""
    names = listing.class_names or ("",)
    now = pd.Series([names[k] for k in listing.labels], ids).reindex(kept.index)
    was = kept["class_name"]
    most = now.groupby(was).transform(lambda own: own.mode()[0])
    renamed = ~was.isin(names) & (now == most) & (was.groupby(most).transform("nunique") == 1)
    return list(kept.index[(now != was) & ~renamed])


def suffix_of(content: bytes) -> str:
    """The usual suffix of an encoded image, such as ".jpg"."""
    with Image.open(io.BytesIO(content)) as image:
        kind = image.format or "PNG"
    usual = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}
    return usual.get(kind, f".{kind.lower()}")


# ---- the formats -------------------------------------------------------------------------------------


def to_list(found: Iterator[Item], out: Path) -> None:
    """Write ``images.txt``, one path per line, and ``weights.csv`` with class, caption and weight of each."""
    rows = []
    for item in found:
        if item.source is None:
            raise DedtError(
                "These images are stored inside other files and have no paths of their own: choose another "
                "--to, such as imagefolder or webdataset."
            )
        if "\n" in (path := str(item.source.absolute())):
            raise DedtError(
                f"{path!r} has a line break in its name, which a list cannot hold: choose another --to."
            )
        rows.append({"path": path, **_columns(item), "caption": item.caption})
    (out / "images.txt").write_text("".join(f"{row['path']}\n" for row in rows), "utf-8", "surrogateescape")
    _write_table(rows, out / "weights.csv")


def to_links(found: Iterator[Item], out: Path) -> None:
    """Write one folder per class with links to the images and captions beside them, and ``weights.csv``.

    Images that lie inside other files are copied.
    """
    rows, folders = [], Folders()
    for item in found:
        path = _write(item, out / folders[item.class_name], link=True)
        rows.append({"path": str(path.relative_to(out)), **_columns(item)})
    _write_table(rows, out / "weights.csv")


def to_imagefolder(found: Iterator[Item], out: Path) -> None:
    """Write images and ``metadata.jsonl`` (file_name, text, id, label, weight) to ``train/``.

    This is the imagefolder layout.  ``datasets.load_dataset("imagefolder", data_dir=...)`` reads it, and so
    does diffusers' ``train_text_to_image.py`` with ``--train_data_dir``.  A text such as 2023-05-01 would be
    read as a date, not as a text, so then the table is ``metadata.parquet``, which holds types.
    """
    rows: list[dict[str, object]] = []
    for item in found:
        _write(item, out / "train", caption=False)
        rows.append({"file_name": item.name, "text": item.caption or item.class_name, **_columns(item)})
    table = pd.DataFrame(rows)
    if any(map(_are_dates, (table[name] for name in table if name != "weight"))):
        table.to_parquet(out / "train" / "metadata.parquet", index=False)
    else:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / "train" / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    if table["weight"].nunique() > 1:
        say(
            "diffusers' training scripts read no weights and train on every image alike. Use the column in a "
            "loop of your own, or export --to kohya or torch."
        )


def _are_dates(texts: Iterable[str]) -> bool:
    import pyarrow

    with contextlib.suppress(pyarrow.ArrowInvalid):
        pyarrow.array(list(texts)).cast(pyarrow.timestamp("ns"))
        return True
    return False


def to_datasets(found: Iterator[Item], out: Path) -> None:
    """Write a data set for ``datasets.load_from_disk``: image, label (if any), text, weight, id."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    kinds = {"id": "string", "weight": "float64", "text": "string"}
    features = datasets.Features(image=datasets.Image(), **{k: datasets.Value(v) for k, v in kinds.items()})
    labels, names = [], {}
    with tempfile.TemporaryDirectory(dir=out) as folder:
        rows = str(Path(folder) / "rows.arrow")
        with ArrowWriter(features=features, path=rows, writer_batch_size=16) as writer:
            for item in found:
                text = item.caption or item.class_name
                image = {"bytes": item.content, "path": item.name}
                writer.write({"image": image, "id": item.id, "weight": item.weight, "text": text})
                labels.append(item.label)
                names[item.label] = item.class_name
            writer.finalize()
        written = datasets.Dataset.from_file(rows)
        if all(names.values()):
            number = {label: k for k, label in enumerate(sorted(names))}
            kind = datasets.ClassLabel(names=[names[label] for label in number])
            written = written.add_column("label", [number[label] for label in labels])
            written = written.cast_column("label", kind)
        written.save_to_disk(out)


def to_webdataset(found: Iterator[Item], out: Path) -> None:
    """Write tar files of up to 10,000 samples: image, ``.txt``, ``.json`` (id, label, weight), ``.cls``."""
    import webdataset

    pattern = str(out).replace("%", "%%") + "/train-%06d.tar"
    with webdataset.ShardWriter(pattern, maxcount=10_000, verbose=0) as shards:
        for number, item in enumerate(found):
            told: dict[str, object] = {"txt": item.caption or item.class_name, "json": _columns(item)}
            told |= {"cls": item.label} if item.class_name else {}
            shards.write({"__key__": f"{number:08d}", item.suffix[1:]: item.content, **told})


def to_kohya(found: Iterator[Item], out: Path) -> None:
    """Write folders ``REPEATS_NAME`` with images and captions; weights are rounded to whole repeats.

    The repeats are those of :func:`repeats_of`.  ``repeats.json`` holds the rounding errors; a message is
    printed if they are large.  An image without a caption is trained on NAME, the name of its class without
    repeats of its own (:func:`prompts_of`).  NAME is also written as the caption if it cannot be the name of
    a folder, or if other images have captions: kohya's scripts look for one under several names.  Without
    classes NAME is empty.
    """
    paths, weighed, unsorted = dict[Path, str](), [], out / ".unsorted"
    for item in found:
        path = _write(replace(item, caption=" ".join(item.caption.split())), unsorted)
        paths[path] = item.class_name
        weighed.append(item.weight)
    repeats, counts = repeats_of(np.array(weighed))
    prompts, captioned = prompts_of(set(paths.values())), any(unsorted.glob("*.txt"))
    folders = Folders({"": ""})
    for (path, class_name), often in zip(paths.items(), repeats):
        prompt, caption = prompts[class_name], path.with_suffix(".txt")
        name = folders[prompt]
        if prompt and not caption.exists() and (captioned or name != prompt):
            caption.write_text(" ".join(prompt.split()), encoding="utf-8")
        folder = out / f"{often}_{name}"
        folder.mkdir(exist_ok=True)
        for file in filter(Path.exists, (path, caption)):
            file.rename(folder / file.name)
    shutil.rmtree(unsorted)
    least, most = float(counts.min()), float(counts.max())
    write_json(
        out / "repeats.json", {"least": least, "most": most, "largest relative error": abs(counts - 1).max()}
    )
    if least < 0.5 or most > 2:
        say(
            f"Repeats of 1 to {MOST_REPEATS} are too coarse for these weights: the images count {least:.2g} "
            f"to {most:.2g} times their weights. Other formats keep the weights unchanged."
        )


def prompts_of(class_names: Collection[str]) -> dict[str, str]:
    """What kohya's scripts are to make of each class name: without repeats, as in ``10_sks dog``.

    Where two classes would become one, as ``2023_summer`` and ``2024_summer``, the numbers are no repeats.
    """
    prompts = {name: OWN_REPEATS.sub("", name) for name in class_names}
    if len(set(prompts.values())) < len(prompts):
        return {name: name for name in class_names}
    if short := [f"{name} as {prompt}" for name, prompt in sorted(prompts.items()) if name != prompt]:
        say(f"Numbers before class names are taken for repeats of kohya's; trained are {few(short)}.")
    return prompts


def repeats_of(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often an epoch shows each image, in whole numbers up to MOST_REPEATS that follow the weights.

    The smallest weight is shown once, or more often if only that brings all images within CLOSE of their
    weight.

    Returns:
        Repeats int64 [n], and float64 [n] what an image then counts, divided by its weight.

    Raises:
        DedtError: A weight is zero.
    """
    if not weights.min() > 0:
        raise DedtError("Some images have the weight 0, which repeats cannot express: choose another --to.")
    tried = []
    for smallest in range(1, MOST_REPEATS + 1):
        repeats = np.clip(np.rint(smallest * weights / weights.min()), 1, MOST_REPEATS).astype(np.int64)
        counts = repeats / repeats.sum() * weights.sum() / weights
        tried.append((abs(counts - 1).max(), smallest, repeats, counts))
        if tried[-1][0] <= CLOSE:
            break
    *_, repeats, counts = min(tried, key=lambda one: one[:2])
    return repeats, counts


def to_torch(found: Iterator[Item], out: Path) -> None:
    """Write one folder per class for torchvision's ``ImageFolder``, and ``weights.npy``.

    The weights are float64 [n] in the order of ``ImageFolder``, for
    ``WeightedRandomSampler(np.load("weights.npy"), n)``.
    """
    weights, folders = {}, Folders()
    for item in found:
        path = _write(item, out / "images" / folders[item.class_name], caption=False)
        weights[path.relative_to(out / "images").parts] = item.weight
    np.save(out / "weights.npy", np.array([weights[path] for path in sorted(weights)]))


WRITERS = (to_list, to_links, to_imagefolder, to_datasets, to_webdataset, to_kohya, to_torch)
FORMATS = {write.__name__.removeprefix("to_"): write for write in WRITERS}
IN_PLACE = ("list", "links")
"""Formats that point to the user's own files; the others hold every image as ``Item.plain``."""


def export(folder: Path, to: str, out: Path, data: Path | None = None) -> Counter[str]:
    """Write the kept images of a coreset in a format: all of them or, after an error, none.

    Args:
        folder: Folder with ``coreset.parquet`` and ``coreset.json``.
        to: One of FORMATS.
        out: A new or empty folder.
        data: Path of the images now, if they were moved.

    Returns:
        Number of written images: class name -> count.

    Raises:
        DedtError: The coreset or its images are missing, ``out`` is not empty, the disk is full, or not all
            kept images are what was selected.
    """
    check_choice("format", to, FORMATS)
    folder, out = Path(folder), Path(out).resolve()
    _check_empty(out)
    source, table = _read(folder.parent if folder.is_file() else folder)
    path, kind = str(data or source["path"]), detect(data) if data else source["source"]
    try:
        listing = find(kind, path, label=source["label"], caption=source["caption"])
    except DedtError as error:
        place = lists.where_of(path) if Path(path).exists() else path
        gone = not data and not place.startswith(HUB) and not Path(place).exists()
        moved = " If the images were moved, give their new path as --data." * gone
        raise DedtError(f"{error}{moved}") from error
    if not isinstance(listing, Listing):
        raise DedtError(f"The images of {path} are not stored as image files, so they cannot be exported.")
    if lies_in(out, listing.root):
        raise DedtError(
            f"{out} is inside the image folder {listing.root}, so the exported images would be read as part "
            "of the data: give --out a folder elsewhere."
        )
    if "content" not in table:
        raise DedtError(
            f"The coreset in {folder} was not selected from image files, so it cannot be exported."
        )
    make_folder(out.parent, "Give --out")
    with atomic_folder(out) as partial:
        make_folder(partial, "Give --out")
        found = items(table, listing, source["classed"])
        FORMATS[to](found if to in IN_PLACE else map(Item.plain, found), partial)
        _check_empty(out)
    for left in out.parent.glob(f".{glob.escape(out.name)}.*"):  # left by killed exports
        number = re.fullmatch(rf"\.{re.escape(out.name)}\.(\d+)\.(partial|old)", left.name)
        if number and not is_running(int(number[1])):
            shutil.rmtree(left, ignore_errors=True)
    names = table["class_name"][table["kept"]]
    return Counter(names if source["classed"] else {"": len(names)})


def _check_empty(out: Path) -> None:
    """Raise DedtError for a file, a folder that is not empty, or the current folder."""
    if out.exists() and not out.is_dir():
        raise DedtError(f"{out} is a file: give --out a new folder.")
    if os.path.ismount(out):
        raise DedtError(f"{out} is a mount point, which cannot be replaced: give --out a new folder in it.")
    if out.exists() and (any(out.iterdir()) or out == Path.cwd()):
        raise DedtError(f"{out} is not empty or is the current folder: give --out a new folder.")


def _read(folder: Path) -> tuple[dict, pd.DataFrame]:
    """The source of a coreset's images, and its table."""
    coreset = Coreset.load(folder)
    source = coreset.source or {}
    if not {"source", "path", "label", "caption", "classed"} <= source.keys():
        raise DedtError(f"{folder} does not record the path of its images: select again from image files.")
    return source, coreset.table


def _write_table(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Write rows as a CSV file; the bytes of names that are not UTF-8 stay as they are."""
    table = pd.DataFrame(rows, dtype=object)  # pandas has no other type for such bytes
    table.to_csv(path, index=False, errors="surrogateescape", lineterminator="\r\n")


def _columns(item: Item) -> dict[str, object]:
    named = {"label": item.class_name} if item.class_name else {}
    return {"id": item.id, **named, "weight": item.weight}


def _write(item: Item, folder: Path, *, link: bool = False, caption: bool = True) -> Path:
    """Write an image into a folder, with its caption beside it, and return the path of the image."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / item.name
    if path.exists():
        raise DedtError(f"Two images would be called {path.name} in {folder}: rename one of them.")
    if link and item.source:
        os.symlink(item.source.absolute(), path)
    else:
        path.write_bytes(item.content)
    if caption and item.caption:
        path.with_suffix(".txt").write_text(item.caption, encoding="utf-8")
    return path
