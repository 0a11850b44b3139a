"""Text files as various programs write them: lists, tables and captions."""

import codecs
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ..errors import DedtError
from .names import few

NUMBERS = re.compile(r"[-+.,\deE\s]*\d[-+.,\deE\s]*")
"""Matches a text of numbers only, such as the bounding boxes that data sets keep beside their images."""


def decoded(content: bytes, errors: str = "strict") -> str:
    """Decode bytes in UTF-8, or in UTF-16 with a byte order mark, to text without the mark.

    Raises:
        ValueError: the bytes are in another encoding.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if marked else "utf-8-sig", errors)
    if "\0" in text:
        raise ValueError("it contains null bytes")
    return text


def read_text(file: Path, errors: str = "strict") -> str:
    """The text in a file, decoded by :func:`decoded`.

    Raises:
        DedtError: the file cannot be read or decoded.
    """
    try:
        return decoded(read_bytes(file), errors)
    except ValueError as error:
        raise DedtError(f"{file} cannot be read ({error}): save it as UTF-8 text.") from error


def read_bytes(file: Path) -> bytes:
    """The bytes of a file; raises DedtError if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DedtError(f"{file} cannot be read ({error.strerror}): change its permissions.") from error


def caption_of(content: bytes, name: str, unused: defaultdict[str, list[str]]) -> str | None:
    """The caption in a text file beside an image, or None; ``unused``, reason -> names, then gets its name."""
    try:
        text = decoded(content).strip()
        why = "hold only numbers" if NUMBERS.fullmatch(text) else ""
    except ValueError:
        why = "are not UTF-8"
    if why:
        unused[why].append(name)
    return None if why else text


def unused_notes(unused: Mapping[str, list[str]]) -> list[str]:
    """Notes on the texts that :func:`caption_of` rejected, one per reason."""
    told = "text files not used as captions, because they"
    return [f"{told} {why}: {few(names, 3)}" for why, names in unused.items()]
