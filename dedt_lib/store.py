"""Results of stages on disk: addressed by content, complete or absent, checked when read.

A stage is a function that fills a folder.  Its address is the hash of everything that decides its
result (its identity), so two tables that need the same run share it.  Work goes to ``KEY.work`` and is
renamed to ``KEY`` when it is complete; a killed process leaves only the ``.work`` folder, from which
a resumable stage goes on.  What it goes on from is checked as well (:func:`~dedt_lib.files.sealed`,
:func:`~dedt_lib.files.intact`).
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
from .files import address, full_disk_told, locked, make_folder, project_root, read_json, sha256, write_json

if TYPE_CHECKING:
    from .processes import Processes

PACKAGES = "torch torchvision diffusers transformers timm numpy scikit-learn torch-fidelity".split()
MANIFEST, CHECKSUM = "manifest.json", "checksum"


def default_root() -> Path:
    """Where stages are stored: ``$DEDT_STORE``, else ``runs/`` in the project."""
    return Path(os.environ.get("DEDT_STORE") or project_root() / "runs")


def provenance() -> dict[str, Any]:
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


class Store:
    """A folder of stage results.

    Args:
        root: the folder, by default :func:`default_root`.
        compute: False for a store that hands out what it has and raises DedtError for the rest.
    """

    def __init__(self, root: str | Path | None = None, *, compute: bool = True) -> None:
        self.root = Path(root) if root else default_root()
        self.compute = compute
        self._verified: set[Path] = set()
        self._spent = np.zeros(2)  # seconds and CPU seconds of all that was computed

    def folder(self, stage: str, identity: dict) -> Path:
        """Where the result of ``stage`` under ``identity`` is or will be."""
        return self.root / stage / address(stage, identity)

    def has(self, stage: str, identity: dict) -> bool:
        """Whether that result is complete."""
        return (self.folder(stage, identity) / MANIFEST).exists()

    def run(
        self,
        stage: str,
        identity: dict,
        work: Callable[[Path], dict | None],
        resumable: bool = False,
        processes: "Processes | None" = None,
    ) -> Path:
        """The folder with the result of a stage, computed if it is not there yet.

        Only one process computes a stage; another that needs it waits.  Files whose names begin with a dot
        are for going on after a kill, and are removed when the result is complete.

        Args:
            stage: its name.
            identity: everything that decides the result, JSON-able.
            work: fills a folder; it may return a dict of facts to note in the manifest.
            resumable: hand a half-done folder to ``work`` again; otherwise it is emptied first.
            processes: those started together, which all do the work; the main one keeps the result.

        Raises:
            DedtError: when the stored result is damaged or foreign, or the disk is full.
        """
        from .processes import Processes

        folder, processes = self.folder(stage, identity), processes or Processes()
        there = self.has(stage, identity)
        if folder not in self._verified:
            # Of several processes all must take the same way, however late one of them looks.
            there = processes.from_main(there)
        if there:
            return self._verify(folder, stage, identity)
        if not self.compute:
            raise DedtError(f"{folder} is not there, and this store computes nothing.")
        make_folder(folder.parent, "Set DEDT_STORE to")

        def ask(attempt):
            return processes.from_main(processes.main and attempt())

        # The others hear of each attempt of the main one: no message among them is waited for longer.
        with locked(folder, f"the stage '{stage}'", ask):
            if not processes.from_main(self.has(stage, identity)):
                if folder.exists():
                    raise DedtError(
                        f"{folder} holds no {MANIFEST}, so this library did not complete it. "
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
        with full_disk_told(f"during stage '{stage}' (in {partial})"):
            facts = work(partial) or {}
        whole = _clocks() - start
        own = whole - (self._spent - before)  # without other stages that the work has made on its way
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
        """The manifest of a complete stage folder; raises DedtError when it is missing or damaged."""
        path = Path(folder) / MANIFEST
        manifest = read_json(path, mend=f"delete {folder} and run again; other results are not touched.")
        whole = isinstance(manifest, dict) and {"stage", "identity", "files"} <= set(manifest)
        # Manifests of earlier versions have no checksum.
        if not whole or manifest.get(CHECKSUM, _checksum(manifest)) != _checksum(manifest):
            raise _damaged(folder, f"{path} is damaged or belongs to something else")
        return manifest

    def _verify(self, folder, stage, identity):
        if folder in self._verified:
            return folder
        manifest = self.manifest(folder)
        if [manifest["stage"], manifest["identity"]] != [stage, json.loads(json.dumps(identity))]:
            raise _damaged(folder, f"The manifest in {folder} belongs to something else")
        for name, facts in manifest["files"].items():
            path = folder / name
            if not path.exists() or path.stat().st_size != facts["bytes"] or sha256(path) != facts["sha256"]:
                raise _damaged(folder, f"{path} is missing or was changed after it was written")
        with contextlib.suppress(OSError):  # a store may be read-only
            _sweep(folder)  # after a kill between the result and this
        self._verified.add(folder)
        return folder


def _prepare(partial, resumable):
    if partial.exists() and not resumable:
        shutil.rmtree(partial)
    make_folder(partial, "Set DEDT_STORE to")
    for stray in partial.glob(".*.partial"):  # left by a process that was killed while it wrote
        stray.unlink()
    (partial / MANIFEST).unlink(missing_ok=True)  # of one that was killed before the result had its name


def _sweep(folder):
    """Remove from a complete result what was there to go on from."""
    for scratch in folder.glob(".*"):
        shutil.rmtree(scratch, ignore_errors=True) if scratch.is_dir() else scratch.unlink(missing_ok=True)


def _damaged(folder, what):
    return DedtError(f"{what}. Delete {folder} and run again; other results are not touched.")


def _clocks():
    return np.array([time.perf_counter(), time.process_time()])


def _checksum(manifest):
    """SHA-256 of all that a manifest says but for its checksum, as it is read back from JSON."""
    said = {name: value for name, value in json.loads(json.dumps(manifest)).items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
