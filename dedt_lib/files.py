"""Files that are complete or absent, sealed while they grow, locked, or JSON: what survives a killed process."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import DedtError

PATIENCE = 5
"""Seconds of waiting for another process before a line says so, and between two messages among ranks."""


def say(line):
    """A line for the person at the terminal, on standard error."""
    print(f"dedt: {line}", file=sys.stderr, flush=True)


def project_root():
    """The folder that holds ``pyproject.toml`` (an editable install), else the current folder."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def address(stage, recipe):
    """Sixteen hex digits that name the result of ``stage`` under ``recipe`` (JSON-able dict)."""
    text = json.dumps({"stage": stage, "recipe": recipe}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256(path):
    """SHA-256 of a file's content, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic(path):
    """A temporary path that replaces ``path`` when the block ends without an error.

    Raises DedtError when the disk is full; what stood at ``path`` before is then untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors would keep its files to their owner
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if is_disk_full(error):
            raise DedtError(
                f"No space left on the disk while writing {path}. Free some space and run the same "
                "command again: it goes on from the last complete checkpoint."
            ) from error
        raise


@contextlib.contextmanager
def atomic_folder(path):
    """The path of a temporary folder that replaces the folder ``path`` when the block ends without an error.

    Raises DedtError when the disk is full; what stood at ``path`` before is then untouched.
    """
    path = Path(path)
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    try:
        yield partial
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    except BaseException as error:
        if old.exists() and not path.exists():
            os.replace(old, path)
        if is_disk_full(error):
            raise DedtError(
                f"No space left on the disk while writing {path}. Free some and run the same command again."
            ) from error
        raise
    finally:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def sealed(path):
    """As :func:`atomic`, for work in progress: its digest is kept beside it, where :func:`intact` finds it.

    The digest is there before the file is, beside that of the file it replaces, so a process killed at any
    moment leaves a file with its digest.
    """
    path = Path(path)
    with atomic(path) as partial:
        yield partial
        with atomic(_seal(path)) as seal:
            # The last few: each process that was killed just here leaves the digest of a file that never was.
            seal.write_text("\n".join([*_digests(path)[-4:], sha256(partial)]))


def intact(path):
    """Whether ``path`` is there and holds what :func:`sealed` wrote."""
    try:
        return sha256(path) in _digests(path)
    except FileNotFoundError:
        return False


def intact_or_removed(path, then="this piece is done again"):
    """Whether work in progress is there to go on from; if it is damaged it is removed, and a line says so."""
    whole = intact(path)
    if not whole and path.exists():
        say_damaged(path, then)
        path.unlink(missing_ok=True)
    return whole


def say_damaged(path, then):
    """Say on standard error that work in progress is damaged, and what comes of it."""
    why = "it does not match its checksum" if _digests(path) else "it has no checksum"
    say(f"{path} is damaged ({why}); {then}.")


def unlink_sealed(path):
    """Remove a file that :func:`sealed` wrote, and its digest."""
    for file in (path, _seal(path)):
        file.unlink(missing_ok=True)


def _seal(path):
    path = Path(path)
    return path.with_name(f".{path.name.lstrip('.')}.seal")


def _digests(path):
    try:
        return _seal(path).read_text(errors="replace").split()
    except FileNotFoundError:
        return []


def is_disk_full(error):
    """Whether an exception means that the disk is full (safetensors and NumPy word it in their own ways)."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    words = str(error).lower()
    return full or "no space left" in words or ("requested and" in words and words.endswith("written"))


def create_array(path, shape, dtype):
    """A new ``.npy`` file, memory-mapped and to be filled; raises OSError when the disk is too full for it.

    Its space is claimed at once: a page that finds no room later would end the process without an error.
    """
    import numpy as np

    array = np.lib.format.open_memmap(path, "w+", dtype, tuple(shape))
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    return array


@contextlib.contextmanager
def locked(path, what, ask=lambda attempt: attempt()):
    """Hold the lock ``path``.lock; after PATIENCE seconds of waiting a line says for what, and for whom.

    what: is locked, in words.  ask: is called with a function that tries for PATIENCE seconds to get the lock
    and returns whether it did, until the answer is True.  Raises DedtError when the lock cannot be written.
    """
    lock, holder = FileLock(f"{path}.lock"), Path(f"{path}.holder")

    def attempt():
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            return False
        except OSError as error:
            raise DedtError(
                f"Cannot lock {path} ({error.strerror}). Free some space if the disk is full, "
                "else set DEDT_STORE (of data: DEDT_DATA) to a folder that can be written."
            ) from error
        with contextlib.suppress(OSError):  # it only tells those who wait
            holder.write_text(f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}")
        return True

    told = os.environ.get("RANK", "0") != "0"  # of several processes one says it for all
    while not ask(attempt):
        if not told:
            by = ""
            with contextlib.suppress(OSError):
                by = holder.read_text(errors="replace")
            say(f"waiting for {what} ({path}), which is locked by {by or 'another process'}")
        told = True
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                holder.unlink()
            lock.release()


def write_json(path, value):
    """Write ``value`` as readable JSON, atomically; NaN and infinities are refused."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path, mend="delete it and run again."):
    """Read a JSON file; raises DedtError when it is missing or damaged, which ``mend`` says how to mend."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise DedtError(f"{path} does not exist.") from None
    except ValueError as error:
        raise DedtError(f"{path} is not valid JSON ({error}); {mend}") from error
