"""Results of stages on disk: addressed by content, complete or absent, checked when read.

A stage is a function that fills a folder.  Its address is the hash of everything that decides its
result (the recipe), so two tables that need the same run share it.  Work goes to ``KEY.work`` and is
renamed to ``KEY`` when it is complete; a killed process leaves only the ``.work`` folder, from which
a resumable stage goes on.  What it goes on from is checked as well (:func:`sealed`, :func:`intact`).
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from pathlib import Path

from .errors import DedtError
from .files import address, is_disk_full, locked, project_root, read_json, sha256, write_json

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


def default_root():
    """Where stages are stored: ``$DEDT_STORE``, else ``runs/`` in the project."""
    return Path(os.environ.get("DEDT_STORE") or project_root() / "runs")


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
