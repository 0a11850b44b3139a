"""Results of stages on disk: addressed by content, complete or absent, checked when read.

A stage is a function that fills a folder.  Its address is the hash of everything that decides its
result (its identity), so two tables that need the same run share it.  Work goes to ``KEY.work`` and is
renamed to ``KEY`` when it is complete; a killed process leaves only the ``.work`` folder, from which
a resumable stage continues.  The files that it continues from are checked as well
(:func:`~dedt_lib.files.sealed`, :func:`~dedt_lib.files.intact`).
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DedtError
from .files import address, chosen_folder, full_disk_told, locked, make_folder, read_json, sha256, write_json

if TYPE_CHECKING:
    from .processes import Processes

PACKAGES = "torch torchvision diffusers transformers timm numpy scikit-learn torch-fidelity".split()
MANIFEST, CHECKSUM = "manifest.json", "checksum"


def provenance() -> dict[str, Any]:
    """Versions, kind of machine and date, which a manifest records beside a result."""
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


class Store:
    """A folder of stage results.

    Args:
        root: The folder, by default ``$DEDT_STORE``, else ``runs/`` in the project.
        compute: False for a store that only returns stored results and raises DedtError for missing ones.
    """

    def __init__(self, root: str | Path | None = None, *, compute: bool = True) -> None:
        self.root = Path(root) if root else chosen_folder("DEDT_STORE", "runs")
        self.compute = compute
        self._verified: set[Path] = set()
        self._spent = np.zeros(2)  # seconds and CPU seconds of everything computed so far

    def folder(self, stage: str, identity: dict) -> Path:
        """Folder where the result of ``stage`` under ``identity`` is or will be."""
        return self.root / stage / address(stage, identity)

    def has(self, stage: str, identity: dict) -> bool:
        """Whether the result of ``stage`` under ``identity`` is complete."""
        return (self.folder(stage, identity) / MANIFEST).exists()

    def run(
        self,
        stage: str,
        identity: dict,
        work: Callable[[Path], dict | None],
        resumable: bool = False,
        processes: "Processes | None" = None,
    ) -> Path:
        """The folder with the result of a stage, which is computed if it does not exist yet.

        Only one process computes a stage; another that needs it waits.  Files whose names begin with a dot
        serve to continue after a kill, and are removed when the result is complete.

        Args:
            stage: Name of the stage.
            identity: Everything that decides the result, JSON-serialisable.
            work: Fills a folder; it may return a dict of facts for the manifest.
            resumable: Pass an unfinished folder to ``work`` again; otherwise it is emptied first.
            processes: Processes started together, which all do the work; the main one keeps the result.

        Raises:
            DedtError: The stored result is damaged or foreign, or the disk is full.
        """
        from .processes import Processes

        folder, processes = self.folder(stage, identity), processes or Processes()
        there = self.has(stage, identity)
        if folder not in self._verified:
            # All processes must take the same branch, even if one of them looks later.
            there = processes.from_main(there)
        if there:
            return self._verify(folder, stage, identity)
        if not self.compute:
            raise DedtError(f"{folder} does not exist, and this store computes nothing.")
        make_folder(folder.parent, "Set --store or DEDT_STORE to")

        def ask(attempt):
            return processes.from_main(processes.main and attempt())

        # The main process reports every attempt, so that the others never wait longer for a message.
        with locked(folder, f"the stage '{stage}'", ask):
            if not processes.from_main(self.has(stage, identity)):
                if folder.exists():
                    raise DedtError(
                        f"{folder} holds no {MANIFEST}, so it is not a complete result of this library. "
                        "Move it away or delete it, then run again."
                    )
                partial = folder.with_name(folder.name + ".work")
                if processes.main:
                    _prepare(partial, resumable)
                processes.wait()
                if processes.main:
                    self._compute(folder, partial, stage, identity, work)
                else:
                    work(partial)
        processes.wait()
        return self._verify(folder, stage, identity)

    def _compute(self, folder, partial, stage, identity, work):
        start, before = _clocks(), self._spent
        try:
            with full_disk_told(f"during stage '{stage}' (in {partial})"):
                facts = work(partial) or {}
        except BaseException:
            with contextlib.suppress(OSError):  # not empty: there is something to continue from
                partial.rmdir()
            raise
        whole = _clocks() - start
        own = whole - (self._spent - before)  # without other stages that this work has computed
        self._spent = before + whole
        files = {p.relative_to(partial).as_posix(): p for p in partial.rglob("*") if p.is_file()}
        manifest = {
            "stage": stage,
            "key": folder.name,
            "identity": identity,
            "seconds": round(float(own[0]), 3),
            "cpu_seconds": round(float(own[1]), 3),
            "files": {
                name: {"bytes": p.stat().st_size, "sha256": sha256(p)}
                for name, p in files.items()
                if "/." not in f"/{name}"
            },
            **provenance(),
            **facts,
        }
        write_json(partial / MANIFEST, {**manifest, CHECKSUM: _checksum(manifest)})
        os.replace(partial, folder)
        _sweep(folder)
        self._verified.add(folder)  # its files were hashed just now

    def manifest(self, folder: str | Path) -> dict[str, Any]:
        """The manifest of a complete stage folder; raises DedtError if it is missing or damaged."""
        path = Path(folder) / MANIFEST
        manifest = read_json(path, mend=f"delete {folder} and run again; other results are not touched.")
        whole = isinstance(manifest, dict) and {"stage", "identity", "files"} <= set(manifest)
        # Manifests of earlier versions have no checksum.
        if not whole or manifest.get(CHECKSUM, _checksum(manifest)) != _checksum(manifest):
            raise _damaged(folder, f"{path} is damaged or belongs to another result")
        return manifest

    def _verify(self, folder, stage, identity):
        if folder in self._verified:
            return folder
        manifest = self.manifest(folder)
        if [manifest["stage"], manifest["identity"]] != [stage, json.loads(json.dumps(identity))]:
            raise _damaged(folder, f"The manifest in {folder} belongs to another result")
        for name, facts in manifest["files"].items():
            path = folder / name
            if not path.exists() or path.stat().st_size != facts["bytes"] or sha256(path) != facts["sha256"]:
                raise _damaged(folder, f"{path} is missing or was changed after it was written")
        with contextlib.suppress(OSError):  # a store may be read-only
            _sweep(folder)  # a kill may have prevented it before
        self._verified.add(folder)
        return folder


def _prepare(partial, resumable):
    if partial.exists() and not resumable:
        shutil.rmtree(partial)
    make_folder(partial, "Set --store or DEDT_STORE to")
    # Whole files are written under other names first, by this library and by safetensors.
    # A process that was killed while it wrote has left them.
    for stray in (*partial.glob(".*.partial"), *partial.glob(".tmp*")):
        stray.unlink()
    (partial / MANIFEST).unlink(missing_ok=True)  # left by one that was killed before the final rename


def _sweep(folder):
    """Remove from a complete result the files that served to continue it."""
    for scratch in folder.glob(".*"):
        shutil.rmtree(scratch, ignore_errors=True) if scratch.is_dir() else scratch.unlink(missing_ok=True)


def _damaged(folder, what):
    return DedtError(f"{what}. Delete {folder} and run again; other results are not touched.")


def _clocks():
    return np.array([time.perf_counter(), time.process_time()])


def _checksum(manifest):
    """SHA-256 of a manifest without its checksum, in the form that is read back from JSON."""
    said = {name: value for name, value in json.loads(json.dumps(manifest)).items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
