"""Results of stages on disk: addressed by content, complete or absent, checked when read.

A stage is a function that fills a folder.  Its address is the hash of everything that decides its
result (the recipe), so two tables that need the same run share it.  Work goes to ``KEY.work`` and is
renamed to ``KEY`` when it is complete; a killed process leaves only the ``.work`` folder, from which
a resumable stage goes on.  What it goes on from is checked as well (:func:`sealed`, :func:`intact`).
"""

import contextlib
import datetime
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import DedtError

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "timm",
    "numpy",
    "scikit-learn",
    "torch-fidelity",
)
MANIFEST, CHECKSUM = "manifest.json", "checksum"

PATIENCE = 5
"""Seconds of waiting for another process before a line says so, and between two messages among ranks."""


def say(line):
    """A line for the person at the terminal, on standard error."""
    print(f"dedt: {line}", file=sys.stderr, flush=True)


def project_root():
    """The folder that holds ``pyproject.toml`` (an editable install), else the current folder."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def default_root():
    """Where stages are stored: ``$DEDT_STORE``, else ``runs/`` in the project."""
    return Path(os.environ.get("DEDT_STORE") or project_root() / "runs")


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


def provenance():
    """Versions, machine kind and date: what a number needs beside it to be believed."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def work_folder(folder):
    """Where the work for a result is done until it is complete."""
    return folder.with_name(folder.name + ".work")


class Store:
    """A folder of stage results.

    root: by default :func:`default_root`.  compute: False for a store that hands out what it has and raises
    DedtError for the rest.
    """

    def __init__(self, root=None, *, compute=True):
        self.root = Path(root) if root else default_root()
        self.compute = compute
        self._verified = set()

    def folder(self, stage, recipe):
        """Where the result of ``stage`` under ``recipe`` is or will be."""
        return self.root / stage / address(stage, recipe)

    def has(self, stage, recipe):
        """Whether that result is complete."""
        return (self.folder(stage, recipe) / MANIFEST).exists()

    def run(self, stage, recipe, work, resumable=False, processes=None):
        """The folder with the result of ``stage``; ``work(folder)`` fills it if it is not there yet.

        ``work`` may return a dict of facts to note in the manifest.  Only one process computes a
        stage; another that needs it waits.  With ``resumable`` a half-done work folder is handed to
        ``work`` again, otherwise it is emptied first; files whose names begin with a dot are for that, and
        are removed when the result is complete.  With ``processes`` (more than one, started together) all of
        them do the work, and the main one keeps the result.  Raises DedtError when the stored result is
        damaged or foreign, or when the disk is full.
        """
        folder = self.folder(stage, recipe)
        together = processes is not None and processes.count > 1
        # Of several processes all must take the same way, however late one of them looks.
        ask = processes.from_main if together and folder not in self._verified else _itself
        if ask((folder / MANIFEST).exists()):
            return self._verify(folder, stage, recipe)
        if not self.compute:
            raise DedtError(f"{folder} is not there, and this store computes nothing.")
        self._make(folder.parent)
        if together:
            return self._run_together(folder, stage, recipe, work, resumable, processes)
        with locked(folder, f"the stage '{stage}'"):
            if self._is_complete(folder):
                return self._verify(folder, stage, recipe)
            return self._compute(folder, stage, recipe, work, resumable)

    def _run_together(self, folder, stage, recipe, work, resumable, processes):
        def ask(attempt):
            return processes.from_main(processes.main and attempt())

        # The others hear of each attempt of the main one: no message among them is waited for longer.
        with locked(folder, f"the stage '{stage}'", ask):
            if not processes.from_main(self._is_complete(folder)):
                if processes.main:
                    self._prepare(folder, resumable)
                processes.wait()
                if processes.main:
                    self._compute(folder, stage, recipe, work, resumable)
                else:
                    work(work_folder(folder))
        processes.wait()
        return self._verify(folder, stage, recipe)

    def _is_complete(self, folder):
        if folder.exists() and not (folder / MANIFEST).exists():
            raise DedtError(
                f"{folder} holds no {MANIFEST}, so this library did not complete it. "
                "Move it away or delete it, then run again."
            )
        return folder.exists()

    def _make(self, folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DedtError(
                f"Cannot create {folder} ({error.strerror}). Set DEDT_STORE to a folder that can be written."
            ) from error

    def _prepare(self, folder, resumable):
        partial = work_folder(folder)
        if partial.exists() and not resumable:
            shutil.rmtree(partial)
        self._make(partial)
        for stray in partial.glob(".*.partial"):  # left by a process that was killed while it wrote
            stray.unlink()
        return partial

    def _compute(self, folder, stage, recipe, work, resumable):
        partial = self._prepare(folder, resumable)
        start, cpu = time.perf_counter(), time.process_time()
        try:
            facts = work(partial) or {}
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise DedtError(
                f"No space left on the disk during stage '{stage}' (in {partial}). Free some space and "
                "run the same command again; complete stages are kept."
            ) from error
        files = sorted(path for path in partial.iterdir() if path.is_file() and path.name[0] != ".")
        manifest = {
            "stage": stage,
            "key": folder.name,
            "recipe": recipe,
            "seconds": round(time.perf_counter() - start, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "files": {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files},
            **provenance(),
            **facts,
        }
        write_json(partial / MANIFEST, {**manifest, CHECKSUM: _checksum(manifest)})
        os.replace(partial, folder)
        for scratch in folder.glob(".*"):
            scratch.unlink()
        return folder

    def manifest(self, folder):
        """The manifest (dict) of a complete stage folder; raises DedtError when it is missing or damaged."""
        path = Path(folder) / MANIFEST
        manifest = read_json(path, mend=f"delete {folder} and run again; other results are not touched.")
        whole = isinstance(manifest, dict) and {"stage", "recipe", "files"} <= set(manifest)
        # Manifests of earlier versions have no checksum.
        if not whole or manifest.get(CHECKSUM, _checksum(manifest)) != _checksum(manifest):
            raise DedtError(f"{path} is damaged or belongs to something else. {_mend(folder)}")
        return manifest

    def _verify(self, folder, stage, recipe):
        if folder in self._verified:
            return folder
        manifest = self.manifest(folder)
        expected = {"stage": stage, "recipe": json.loads(json.dumps(recipe))}
        if {key: manifest[key] for key in expected} != expected:
            raise DedtError(f"The manifest in {folder} belongs to something else. {_mend(folder)}")
        for name, facts in manifest["files"].items():
            path = folder / name
            if not path.exists() or path.stat().st_size != facts["bytes"] or sha256(path) != facts["sha256"]:
                raise DedtError(f"{path} is missing or was changed after it was written. {_mend(folder)}")
        self._verified.add(folder)
        return folder


def _mend(folder):
    return f"Delete {folder} and run again; other results are not touched."


def _checksum(manifest):
    """SHA-256 of all that a manifest says but for its checksum, as it is read back from JSON."""
    said = {name: value for name, value in json.loads(json.dumps(manifest)).items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _itself(value):
    return value
