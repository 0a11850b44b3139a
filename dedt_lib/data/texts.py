"""Texts as people's programs write them: lists, tables and captions."""

import codecs
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import DedtError
from .names import few

NUMBERS = re.compile(r"[-+.,\deE\s]*\d[-+.,\deE\s]*")
"""Nothing but numbers, as the boxes of objects are kept in text files beside their images."""


def decoded(content: bytes, errors: str = "strict") -> str:
    """Bytes in UTF-8, or in UTF-16 that begins with its mark, as a text without the mark.

    Raises:
        ValueError: they are something else.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if marked else "utf-8-sig", errors)
    if "\0" in text:
        raise ValueError("it holds zero bytes")
    return text


def read_text(file: Path, errors: str = "strict") -> str:
    """The text in a file.

    Raises:
        DedtError: it cannot be read, or is not UTF-8.
    """
    try:
        return decoded(read_bytes(file), errors)
    except ValueError as error:
        raise DedtError(f"{file} cannot be read ({error}): save it as text in UTF-8.") from error


def read_bytes(file: Path) -> bytes:
    """What is in a file; raises DedtError where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DedtError(f"{file} cannot be read ({error.strerror}): change its permissions.") from error


def caption_of(content: bytes, name: str, unused: dict[str, str]) -> str | None:
    """The caption in a text file beside an image; None, and the reason by its name in ``unused``, if it is none."""
    try:
        text = decoded(content).strip()
    except ValueError:
        unused[name] = "are not UTF-8"
        return None
    if NUMBERS.fullmatch(text):
        unused[name] = "hold only numbers"
        return None
    return text


def unused_notes(unused: Mapping[str, str]) -> list[str]:
    """What :func:`caption_of` left out, in words."""
    by_reason: dict[str, list[str]] = {}
    for name, why in unused.items():
        by_reason.setdefault(why, []).append(name)
    return [f"no captions, because they {why}: {few(names, 3)}" for why, names in by_reason.items()]
