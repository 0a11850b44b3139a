"""What names of files and folders tell (an image, a hidden file, a split), and how to print names."""

import mimetypes
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import PIL
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
DECODERS = f"pillow {PIL.__version__}, pillow-heif {pillow_heif.__version__}"
"""What decodes the images; another version may find other pixels."""

TRAINING = ("train", "training")
HELD_OUT = "test testing val valid validation dev eval evaluation holdout hold-out hold_out".split()
"""Names of the held-out split, in any case; if a data set has several, the first in this order is used."""
NOUN = re.compile(r"(?<=.)(set|data|images?|imgs)$")
PART = re.compile(r"(k?fold|cv|split|part|partition|subset|shard)s?[-_ ]*\d+", re.IGNORECASE)
"""``fold1``, ``split_02``: one of several equal parts of a data set."""
SYSTEM = {
    *"__macosx __pycache__ @eadir @tmp @recycle @recently-snapshot @__thumb #recycle #snapshot $recycle.bin".split(),
    *"recycler lost+found found.000 thumbs.db ehthumbs.db desktop.ini".split(),
    *("system volume information", "icon\r"),
}
"""Files and folders that operating systems and network drives create among a user's files, in lower case."""
NO_DECODER = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognises but can decode only with the help of other programs, or not at all."""
FOREIGN = (".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf")
"""Suffixes of images that Pillow opens only with a plugin, known here so that a message can say so."""

USUAL = ("JPEG", "PNG", "WEBP", "GIF", "HEIF")
"""Formats that are told by their first bytes alone; files of other programs may begin like the others."""
TEXTS = (".txt", ".caption", ".jsonl", ".md", ".yaml", ".toml", ".log")
"""Suffixes of texts that the system may not know."""

ARCHIVES = tuple(".zip .gz .tgz .bz2 .tbz2 .xz .txz .zst .7z .rar".split())
"""Suffixes of archives, which must be unpacked before they can be read."""

LISTS = (".txt", ".csv", ".tsv", ".jsonl", ".json")
SOURCE_OF = {".parquet": "parquet", ".tar": "webdataset", **dict.fromkeys(LISTS, "list")}
"""Suffix of a data file -> its source."""

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""The tables of the imagefolder convention, in which a column names each image."""


def split_of(name: str) -> str | None:
    """The split that a usual name means, "train" or "test"; None for other names."""
    name = name.lower()
    return "train" if name in TRAINING else "test" if name in HELD_OUT else None


def words(name: str) -> list[str]:
    """The words in a name, lower case: ["seg", "train"] for ``seg_train``, ["train"] for ``trainset2017``."""
    return [NOUN.sub("", word.lower()) for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


def split_words(name: str) -> set[str]:
    """The splits that the words in a name mean: {"train"} for ``seg_train``, ``trainA`` or ``train2017``."""
    return {split for split in map(split_of, words(name)) if split}


def resembles_split(name: str) -> bool:
    """Whether a name is that of a split, contains a word for one, or numbers a part of a data set."""
    return bool(split_of(name) or split_words(name) or PART.fullmatch(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to the system, and is thus ignored at any depth."""
    return name.startswith(".") or name.lower() in SYSTEM


def image_suffixes() -> set[str]:
    """Suffixes, in lower case, of the files that Pillow opens with the plugins that are registered now."""
    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NO_DECODER}


def is_image(path: Path, suffixes: set[str]) -> bool:
    """Whether a regular file is an image, judged by its suffix or, without one, by its first bytes.

    Args:
        path: path of the file.
        suffixes: the result of :func:`image_suffixes`.
    """
    if path.suffix:
        return path.suffix.lower() in suffixes
    # Formats without a check of the first bytes would accept a text file as an image.
    return _opens(
        path, [kind for kind, (_, accept) in Image.OPEN.items() if accept and kind not in NO_DECODER]
    )


def is_misnamed(path: Path) -> bool:
    """Whether a file without the suffix of an image begins like one, as a.jpg_large or a.png?width=800 do."""
    known = mimetypes.guess_type(path.name)[0] or path.suffix.lower() in TEXTS
    return not known and _opens(path, USUAL)


def _opens(path, kinds):
    try:
        with Image.open(path, formats=kinds):
            return True
    except Exception:
        return False


def few(names: Iterable, most: int = 12) -> str:
    """The first ``most`` names in one line, and how many more there are."""
    names = list(map(str, names))
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(text: str) -> str:
    """A text on one line: line ends and other control characters are escaped, as in Python."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def composed(text: str) -> str:
    """A text in Unicode's composed form, as most systems write it: "ä" is one character, not two."""
    return unicodedata.normalize("NFC", text)


def legible(name: str | Path) -> str:
    r"""A file name as text that can be printed anywhere: a byte that is not UTF-8 becomes ``\xNN``."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
