"""File operations that survive a killed process: atomic writes, digests of unfinished work, locks, JSON."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from .errors import DedtError

if TYPE_CHECKING:
    import numpy as np

ABOVE = Path(__file__).resolve().parent.parent
"""The folder that holds the package."""
PATIENCE = 5
"""Seconds of waiting for another process before a line reports it, and between two messages among ranks."""
ZEROS = 2**24
"""Bytes per write when disk space is reserved without ``posix_fallocate``."""
GO_ON = (
    "Free some space and run the same command again: complete results are kept, and training continues from "
    "its last checkpoint."
)
"""Advice for a full disk."""
HUB = "hub:"
"""Prefix of the name of a data set on the Hugging Face hub."""
SILENCE = 60
"""Seconds without a byte after which a download is given up."""


def say(line: str) -> None:
    """Print a line for the user on standard error."""
    print(f"dedt: {line}", file=sys.stderr, flush=True)


def project_root() -> Path:
    """The folder that holds ``pyproject.toml`` (an editable install), else the current folder."""
    return ABOVE if (ABOVE / "pyproject.toml").exists() else Path.cwd()


def chosen_folder(variable: str, usual: str) -> Path:
    """The folder that a variable of the environment names, else the folder ``usual`` of the project.

    Raises:
        DedtError: The variable holds a relative path, which would be another folder for each working directory.
    """
    folder = at_home(os.environ.get(variable) or project_root() / usual)
    if not folder.is_absolute():
        raise DedtError(
            f"{variable}={folder} is a relative path, which means another folder in each place: set it to an "
            "absolute one."
        )
    return folder


@functools.cache
def commit() -> str | None:
    """The commit of the code, with a plus if files differ from it; None outside its repository."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", "-C", str(ABOVE), *words], capture_output=True, text=True, check=True)
        return told.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ABOVE:
            return None  # an installed library in somebody else's repository
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "dedt_lib")
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


def make_folder(folder: Path, how: str) -> Path:
    """Create a folder and its parents if they do not exist.

    Args:
        folder: The folder.
        how: How the user can choose another one, such as "Set DEDT_STORE to" or "Give --out".

    Returns:
        The folder.

    Raises:
        DedtError: The folder cannot be created, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DedtError(f"Cannot create {folder} ({error.strerror}). {how} a writable folder.") from error
    if not os.access(folder, os.W_OK):
        raise DedtError(f"Nothing can be written in {folder}. {how} a writable folder.")
    return folder


def at_home(path: str | Path) -> Path:
    """The path, with the home folder in place of ``~`` unless there is a file of that very name."""
    return Path(path if os.path.lexists(path) else os.path.expanduser(path))


def from_everywhere(path: str | Path) -> str:
    """Absolute path of data; the name of a data set on the Hugging Face hub is returned unchanged."""
    return str(path) if str(path).startswith(HUB) else str(at_home(path).absolute())


def lies_in(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; False if the folder does not exist."""
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


def address(stage: str, identity: Any) -> str:
    """Sixteen hex digits that name a result: a hash of ``stage`` and its JSON-serialisable ``identity``."""
    try:
        text = json.dumps({"stage": stage, "identity": identity}, sort_keys=True, allow_nan=False)
    except TypeError as error:
        raise DedtError(
            f"What decides '{stage}' must be numbers, words, or lists of them ({error})."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetched(path: Path, url: str, digits: str, variable: str, hint: str = "") -> Path:
    """Path of a published file whose SHA-256 is verified; the file is downloaded if it does not exist.

    Args:
        path: Where the file is or will be.
        url: Its address.
        digits: The first hex digits of its SHA-256.
        variable: The environment variable that chooses another folder.
        hint: A sentence for users who have put a different file there.

    Returns:
        The path.

    Raises:
        DedtError: The file is incomplete or a different one, or the download fails.
    """
    if path.exists():
        if (found := sha256(path)).startswith(digits):
            return path
        raise DedtError(
            f"{path} is not the official {url.rpartition('/')[2]}: its SHA-256 begins with {found[:16]}, not "
            f"with {digits[:16]}. The file is incomplete or altered; delete it and run again, or download it "
            f"from {url}. {hint}"
        )
    import http.client

    import torch

    folder = make_folder(path.parent, f"Set {variable} to")
    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(SILENCE)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)  # named once it is verified
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()
        raise DedtError(
            f"{path.name} could not be downloaded ({error}). Run again, or download {url} by other means and "
            f"put the file into {path.parent}; its SHA-256 begins with {digits}."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return path


# ---- complete or absent ------------------------------------------------------------------------------


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception means that the disk is full (safetensors and NumPy have messages of their own)."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = str(error).lower()
    return full or "no space left" in words or ("requested and" in words and words.endswith("written"))


@contextlib.contextmanager
def full_disk_told(what: str, then: str = GO_ON) -> Iterator[None]:
    """Turn a full disk in the block into a DedtError, which names the activity and what to do ``then``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DedtError) or not is_disk_full(error):
            raise
        if getattr(error, "errno", None) == errno.EFBIG:
            raise DedtError(
                f"A limit (ulimit -f) or the file system allows no larger file {what}: raise it, or use another disk."
            ) from error
        raise DedtError(f"No space left on the disk {what}. {then}") from error


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an error.

    Raises:
        DedtError: The disk is full; a previous file at ``path`` is then untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with full_disk_told(f"while writing {path}"):
            yield partial
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            with contextlib.suppress(OSError):  # some network file systems know no permissions
                partial.chmod(0o666 & ~umask)  # safetensors makes its files readable by their owner only
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """The path of a temporary folder that replaces the folder ``path`` when the block ends without an error.

    Raises:
        DedtError: The disk is full; a previous folder at ``path`` is then untouched.
    """
    path = Path(path)
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process with the same number
    try:
        with full_disk_told(f"while writing {path}", "Free some space and run the same command again."):
            yield partial
            if path.exists():
                os.replace(path, old)
            os.replace(partial, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)


def is_running(number: int) -> bool:
    """Whether a process with this number may be running on this machine."""
    if os.name != "posix":  # elsewhere os.kill would end the process
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def create_array(path: str | Path, shape: tuple, dtype: Any) -> "np.memmap":
    """Create a memory-mapped ``.npy`` file to be filled; raises OSError if the disk has too little space.

    The space is reserved at once: a page that finds no space later would end the process without an error.
    """
    import numpy as np

    array = np.lib.format.open_memmap(path, "w+", dtype, tuple(shape))
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        else:  # as on macOS
            file.seek(array.offset)
            for start in range(0, array.nbytes, ZEROS):
                file.write(bytes(min(ZEROS, array.nbytes - start)))
    return array


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically; raises ValueError for NaN and infinities."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")


def read_json(path: str | Path, mend: str = "delete it and run again.") -> Any:
    """Read a JSON file; raises DedtError if it is missing, or damaged (``mend`` then says what to do)."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise DedtError(f"{path} does not exist.") from None
    except ValueError as error:
        raise DedtError(f"{path} is not valid JSON ({error}); {mend}") from error


# ---- sealed while they grow --------------------------------------------------------------------------


@contextlib.contextmanager
def sealed(path: str | Path) -> Iterator[Path]:
    """Like :func:`atomic`, for work in progress: keeps a digest beside the file for :func:`intact`.

    The digest is written before the file, and the digest of the file that it replaces is kept, so a process
    killed at any moment leaves a file with its digest.
    """
    with atomic(path) as partial:
        yield partial
        with atomic(_seal(path)) as seal:
            # Several are kept: a process killed here leaves the digest of a file that was never renamed.
            seal.write_text("\n".join([*_digests(path)[-4:], sha256(partial)]))


def intact(path: Path) -> bool:
    """Whether ``path`` exists and holds what :func:`sealed` wrote."""
    return path.exists() and sha256(path) in _digests(path)


def intact_or_removed(path: Path) -> bool:
    """Whether a file of work in progress can be used; a damaged one is removed, and a line reports it."""
    whole = intact(path)
    if not whole and path.exists():
        say_damaged(path, "this part is computed again")
        path.unlink(missing_ok=True)
    return whole


def say_damaged(path: Path, then: str) -> None:
    """Report on standard error that work in progress is damaged, and what happens ``then``."""
    why = "it does not match its checksum" if _digests(path) else "it has no checksum"
    say(f"{path} is damaged ({why}); {then}.")


def unlink_sealed(path: Path) -> None:
    """Remove a file that :func:`sealed` wrote, together with its digest."""
    for file in (path, _seal(path)):
        file.unlink(missing_ok=True)


def claim(index: Path, facts: dict, parts: Iterable[str], what: str) -> None:
    """Record which call the work in progress in a folder belongs to; refuse a folder of another call.

    Args:
        index: The file with the record; its folder is created if it does not exist.
        facts: What identifies the call, JSON-serialisable.
        parts: Glob patterns of the files that the record is about; without a valid record they are removed.
        what: What a refused folder holds, for the message, such as "samples of another model".

    Raises:
        DedtError: The record holds other facts.
    """
    folder = make_folder(index.parent, "Give")
    if intact(index):
        if read_json(index) != facts:
            raise DedtError(
                f"{folder} holds {what}. Delete these files or give another folder, then run again."
            )
        return
    strays = [path for part in parts for path in folder.glob(part)]
    if index.exists():
        say_damaged(index, "everything is computed again")
    elif strays:
        say(f"The files in {folder} have no record of their origin; they are computed again.")
    for stray in strays:
        unlink_sealed(stray)
    with sealed(index) as partial:
        write_json(partial, facts)


def keep_part(part: Path, make: Callable[[], "np.ndarray"]) -> bool:
    """Write the array of ``make()`` into a sealed ``.npy`` file; returns whether an intact one was there."""
    import numpy as np

    if intact_or_removed(part):
        return True
    values = make()
    with sealed(part) as partial, open(partial, "wb") as file:
        np.save(file, values)
    return False


def join(parts: Sequence[Path], path: Path, n: int) -> None:
    """Concatenate ``.npy`` files into one sealed file of n rows, and remove them."""
    import numpy as np

    with sealed(path) as partial:
        first = np.load(parts[0], mmap_mode="r")
        joined, start = create_array(partial, (n, *first.shape[1:]), first.dtype), 0
        for rows in map(np.load, parts):  # one at a time in memory
            joined[start : start + len(rows)] = rows
            start += len(rows)
        joined.flush()
    for part in parts:
        unlink_sealed(part)


def _seal(path):
    return Path(path).with_name(f".{Path(path).name.lstrip('.')}.seal")


def _digests(path):
    return _text(_seal(path)).split()


def _text(path):
    """Content of a text file, "" if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# ---- locked ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(
    path: str | Path, what: str, ask: Callable[[Callable[[], bool]], bool] = lambda attempt: attempt()
) -> Iterator[None]:
    """Hold the lock ``path``.lock; after PATIENCE seconds of waiting, a line names the lock and its holder.

    Args:
        path: The file or folder to lock.
        what: Its name in that line.
        ask: Called until it returns True, with a function that tries for PATIENCE seconds to get the lock and
            returns whether it succeeded.

    Raises:
        DedtError: The lock cannot be written.
    """
    lock, holder = FileLock(f"{path}.lock"), Path(f"{path}.holder")

    def attempt():
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            return False
        except OSError as error:
            raise DedtError(
                f"Cannot lock {path} ({error.strerror}). Free some space if the disk is full; otherwise set "
                "DEDT_STORE (for data: DEDT_DATA) to a writable folder."
            ) from error
        with contextlib.suppress(OSError):  # it only informs waiting processes
            holder.write_text(f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}")
        return True

    told = os.environ.get("RANK", "0") != "0"  # of several processes only rank 0 reports it
    while not ask(attempt):
        if not told:
            say(f"waiting for {what} ({path}), which is locked by {_text(holder) or 'another process'}")
        told = True
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                holder.unlink()
            lock.release()
