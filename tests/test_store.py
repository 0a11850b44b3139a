import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from dedt_lib import files as files_module
from dedt_lib import store as store_module
from dedt_lib.errors import DedtError
from dedt_lib.files import (
    address,
    atomic,
    atomic_folder,
    create_array,
    intact,
    intact_or_removed,
    locked,
    read_json,
    sealed,
    write_json,
)
from dedt_lib.shell.cli import main
from dedt_lib.store import MANIFEST, Store

IDENTITY = {"version": 1, "size": 3}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def fill(folder):
    (folder / "numbers.txt").write_text("1 2 3")
    return {"count": 3}


def fail(folder):
    raise AssertionError("this stage is stored and must not be computed again")


def full_disk(*given, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


# ---- addresses -----------------------------------------------------------------------------------


def test_the_address_is_the_identity():
    assert address("a", {"x": 1, "y": 2.0}) == address("a", {"y": 2.0, "x": 1})
    identities = [("b", {"x": 1}), ("a", {"x": 2}), ("a", {"x": 1, "y": None}), ("a", {"x": 1})]
    addresses = [address(*identity) for identity in identities]
    assert len(set(addresses)) == 4 and all(len(name) == 16 for name in addresses)


def test_an_identity_with_nan_has_no_address():
    with pytest.raises(ValueError):
        address("a", {"x": float("nan")})


def test_the_environment_says_where_results_go(monkeypatch, tmp_path):
    monkeypatch.setenv("DEDT_STORE", str(tmp_path / "elsewhere"))
    assert Store().root == tmp_path / "elsewhere"


# ---- one stage -----------------------------------------------------------------------------------


def test_a_stage_is_computed_once(store):
    assert not store.has("stage", IDENTITY)
    folder = store.run("stage", IDENTITY, fill)
    assert store.has("stage", IDENTITY) and folder == store.folder("stage", IDENTITY)
    assert store.run("stage", IDENTITY, fail) == folder
    assert Store(store.root).run("stage", IDENTITY, fail) == folder


def test_a_store_that_computes_nothing_hands_out_what_is_there(store):
    reader = Store(store.root, compute=False)
    with pytest.raises(DedtError, match="computes nothing"):
        reader.run("stage", IDENTITY, fail)
    assert not store.root.exists()
    folder = store.run("stage", IDENTITY, fill)
    assert reader.run("stage", IDENTITY, fail) == folder


def test_another_identity_is_another_result(store):
    assert store.run("stage", IDENTITY, fill) != store.run("stage", {**IDENTITY, "size": 4}, fill)


def test_the_manifest_says_how_the_result_was_made(store):
    manifest = store.manifest(store.run("stage", IDENTITY, fill))
    assert manifest["identity"] == IDENTITY and manifest["stage"] == "stage" and manifest["count"] == 3
    assert manifest["files"]["numbers.txt"]["bytes"] == 5
    assert {"date", "machine", "device", "threads", "python", "seconds", "cpu_seconds"} <= set(manifest)
    assert {"torch", "diffusers", "numpy"} <= set(manifest["versions"])


def test_the_seconds_of_a_stage_are_its_own(store):
    """They exclude the seconds of a missing stage that it has to make first."""

    def inner(folder):
        time.sleep(0.3)

    def outer(folder):
        store.run("inner", IDENTITY, inner)
        fill(folder)

    store.run("outer", IDENTITY, outer)
    seconds = {name: store.manifest(store.folder(name, IDENTITY))["seconds"] for name in ("inner", "outer")}
    assert seconds["outer"] < 0.3 <= seconds["inner"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_work_that_fails_leaves_no_result(store, error):
    def half(folder):
        (folder / "numbers.txt").write_text("1")
        raise error

    with pytest.raises(error):
        store.run("stage", IDENTITY, half)
    assert not store.has("stage", IDENTITY)
    assert (store.run("stage", IDENTITY, fill) / "numbers.txt").read_text() == "1 2 3"


@pytest.mark.parametrize("resumable", [True, False])
def test_only_a_resumable_stage_finds_its_half_done_work(store, resumable):
    def half(folder):
        (folder / "part").write_text("done")
        raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):
        store.run("stage", IDENTITY, half, resumable=resumable)

    def look(folder):
        found.append((folder / "part").exists())

    store.run("stage", IDENTITY, look, resumable=resumable)
    assert found == [resumable]


def test_scratch_outlives_a_kill_after_the_work_but_not_the_result(store, monkeypatch):
    found = []

    def work(folder):
        found.append((folder / ".scratch").exists())
        (folder / ".scratch").write_text("where to go on")
        fill(folder)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store_module, "provenance", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        store.run("stage", IDENTITY, work, resumable=True)
    folder = store.run("stage", IDENTITY, work, resumable=True)
    assert found == [False, True]
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "numbers.txt"]
    assert set(store.manifest(folder)["files"]) == {"numbers.txt"}


def test_a_kill_between_work_and_rename_leaves_no_result(store, monkeypatch):
    replace = os.replace

    def killed(source, target):
        if str(source).endswith(".work"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store_module.os, "replace", killed)
        store.run("stage", IDENTITY, fill)
    assert not store.has("stage", IDENTITY)
    assert store.has("stage", IDENTITY) == store.folder("stage", IDENTITY).exists()
    store.run("stage", IDENTITY, fill, resumable=True)
    assert Store(store.root).run("stage", IDENTITY, fill) == store.folder("stage", IDENTITY)


def test_what_a_kill_left_in_a_result_is_removed(store):
    folder = store.run("stage", IDENTITY, fill)
    (folder / ".checkpoint").write_text("to go on from")
    (folder / ".parts").mkdir()
    Store(store.root).run("stage", IDENTITY, fill)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "numbers.txt"]


def test_files_in_folders_are_verified_too(store):
    def work(folder):
        for name in ("photos/a.txt", ".parts/b.txt"):
            (folder / name).parent.mkdir()
            (folder / name).write_text("one")

    folder = store.run("stage", IDENTITY, work)
    assert set(store.manifest(folder)["files"]) == {"photos/a.txt"}
    assert Store(store.root).run("stage", IDENTITY, work) == folder
    (folder / "photos" / "a.txt").unlink()
    with pytest.raises(DedtError, match="photos/a.txt is missing or was changed"):
        Store(store.root).run("stage", IDENTITY, work)


# ---- damage --------------------------------------------------------------------------------------


def change_a_byte(folder):
    (folder / "numbers.txt").write_text("1 2 4")


def cut_off(folder):
    (folder / "numbers.txt").write_text("1 2")


def remove(folder):
    (folder / "numbers.txt").unlink()


@pytest.mark.parametrize("damage", [change_a_byte, cut_off, remove])
def test_a_changed_file_is_noticed(store, damage):
    folder = store.run("stage", IDENTITY, fill)
    other = store.run("stage", {"size": 4}, fill)
    damage(folder)
    with pytest.raises(DedtError, match="missing or was changed.*Delete .* and run again") as error:
        Store(store.root).run("stage", IDENTITY, fail)
    assert str(folder) in str(error.value)
    assert Store(store.root).run("stage", {"size": 4}, fail) == other


@pytest.mark.parametrize(
    "foreign",
    [lambda own: {**own, "identity": {"size": 4}}, lambda own: {**own, "stage": "other"}, lambda own: []],
)
def test_a_foreign_manifest_is_noticed(store, foreign):
    folder = store.run("stage", IDENTITY, fill)
    write_json(folder / MANIFEST, foreign(store.manifest(folder)))
    with pytest.raises(DedtError, match="belongs to another result.*Delete") as error:
        Store(store.root).run("stage", IDENTITY, fail)
    assert str(folder) in str(error.value)


def follow_the_advice(error):
    """Delete the path that a message says to delete."""
    path = re.search("[Dd]elete (\\S+) and run", str(error))[1]
    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


@pytest.mark.parametrize("content", [b'{"stage": \xff', b"", b"{}", b"[]", b"null", b'{"stage": "stage"}'])
def test_a_damaged_manifest_is_noticed_and_the_advice_mends_it(store, content):
    folder = store.run("stage", IDENTITY, fill)
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(DedtError, match=f"{MANIFEST} .*elete {folder} and run again") as error:
        Store(store.root).run("stage", IDENTITY, fail)
    follow_the_advice(error.value)
    assert Store(store.root).run("stage", IDENTITY, fill) == folder


def test_no_flipped_byte_of_a_manifest_gives_other_facts(store):
    folder = store.run("stage", IDENTITY, fill)
    whole, facts = (folder / MANIFEST).read_bytes(), store.manifest(folder)
    noticed = 0
    for place in range(0, len(whole), 3):
        (folder / MANIFEST).write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        try:
            told = store.manifest(folder)
            assert told == facts or told.pop("checksum", None) is None  # the key "checksum" itself was hit
        except DedtError as error:
            noticed += f"elete {folder} and run again" in str(error)
    assert noticed > len(whole) / 4


def test_manifests_of_earlier_versions_have_no_checksum_and_are_read(store):
    folder = store.run("stage", IDENTITY, fill)
    manifest = store.manifest(folder)
    assert len(manifest.pop("checksum")) == 64
    write_json(folder / MANIFEST, manifest)
    assert Store(store.root).run("stage", IDENTITY, fail) == folder
    assert store.manifest(folder) == manifest


def test_what_a_killed_process_was_writing_is_cleared_away(store):
    work = store.folder("stage", IDENTITY).with_suffix(".work")
    work.mkdir(parents=True)
    for name in (".model.safetensors.123.partial", ".tmpA1b2C3"):  # the second as safetensors calls it
        (work / name).write_text("half")
    folder = store.run("stage", IDENTITY, fill, resumable=True)
    assert not list(folder.glob(".*"))


def test_a_folder_without_manifest_is_nobodys_result(store):
    folder = store.folder("stage", IDENTITY)
    folder.mkdir(parents=True)
    (folder / "numbers.txt").write_text("1 2 3")
    with pytest.raises(DedtError, match=f"{folder} holds no manifest.json.*Move it away or delete it"):
        store.run("stage", IDENTITY, fill)
    assert (folder / "numbers.txt").read_text() == "1 2 3"


# ---- two processes -------------------------------------------------------------------------------

CHILD = """
import os, sys, time
from pathlib import Path
from dedt_lib.store import Store

root, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def work(folder):
    with open(root / "log", "a") as log:
        log.write(me + "\\n")
    time.sleep(0.2)
    (folder / "numbers.txt").write_text("1 2 3")

(root / me).touch()
while not (root / other).exists():
    time.sleep(0.01)
print(Store(root / "store").run("stage", {"size": 3}, work))
"""


def test_two_processes_compute_a_stage_once(tmp_path):
    command, how = [sys.executable, "-c", CHILD, str(tmp_path)], {"stdout": subprocess.PIPE, "text": True}
    children = [
        subprocess.Popen([*command, *names], env=tiny.environment(), **how)
        for names in (("one", "two"), ("two", "one"))
    ]
    folders = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert len(folders) == 1 and len((tmp_path / "log").read_text().split()) == 1


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(files_module, "PATIENCE", 0.05)


def test_waiting_for_another_process_is_said_once(tmp_path, store, impatient, capsys):
    held, free = threading.Event(), threading.Event()

    def hold():
        with locked(store.folder("stage", IDENTITY), "it"):
            held.set()
            free.wait(10)

    store.folder("stage", IDENTITY).parent.mkdir(parents=True)
    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    threading.Timer(0.5, free.set).start()
    folder = store.run("stage", IDENTITY, fill)
    other.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"waiting for the stage 'stage' ({folder})" in line and f"process {os.getpid()} on " in line
    assert not list(folder.parent.glob("*.holder"))


class Ranks:
    """Two threads as processes; a message between them fails after ``limit`` seconds."""

    def __init__(self, rank, barrier, box, limit):
        self.rank, self.main, self.count = rank, rank == 0, 2
        self.barrier, self.box, self.limit = barrier, box, limit

    def from_main(self, value):
        if self.main:
            self.box[0] = value
        self.wait()
        told = self.box[0]
        self.wait()
        return told

    def wait(self):
        self.barrier.wait(self.limit)


def started(run):
    """Start threads that run ``run(rank)`` for two ranks."""
    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    return threads


def test_ranks_behind_somebody_elses_lock_wait_longer_than_a_message_may_take(store, impatient, capsys):
    barrier, box, found = threading.Barrier(2), [None], {}

    def run(rank):
        ranks = Ranks(rank, barrier, box, limit=0.4)
        found[rank] = Store(store.root).run("stage", IDENTITY, fill, resumable=True, processes=ranks)

    folder = store.folder("stage", IDENTITY)
    folder.parent.mkdir(parents=True)
    with locked(folder, "it"):
        threads = started(run)
        threads[0].join(1.2)
        assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join(10)
    assert found == {0: folder, 1: folder}
    assert "waiting for the stage" in capsys.readouterr().err


def test_a_rank_that_comes_late_goes_the_way_of_the_main_one(store):
    """Both ranks take the same path even if another job completes the result between their checks."""
    barrier, box, found = threading.Barrier(2), [None], {}

    class Early(Ranks):
        def from_main(self, value):
            if self.main and not store.has("stage", IDENTITY):
                store.run("stage", IDENTITY, fill)
            return super().from_main(value)

    def run(rank):
        if rank:
            while not store.has("stage", IDENTITY):
                pass
        ranks = Early(rank, barrier, box, limit=5)
        found[rank] = Store(store.root).run("stage", IDENTITY, fail, processes=ranks)

    for thread in started(run):
        thread.join(10)
    assert found == dict.fromkeys((0, 1), store.folder("stage", IDENTITY))


# ---- a full disk ---------------------------------------------------------------------------------


def test_a_full_disk_stops_the_stage_and_keeps_the_others(store):
    kept = store.run("stage", {"size": 4}, fill)
    with pytest.raises(DedtError, match="No space left.*stage 'stage'.*Free some space"):
        store.run("stage", IDENTITY, full_disk)
    assert not store.has("stage", IDENTITY)
    assert Store(store.root).run("stage", {"size": 4}, fail) == kept
    assert store.run("stage", IDENTITY, fill)


def test_a_full_disk_under_the_manifest_leaves_no_result(store, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(DedtError, match="No space left"):
        patch.setattr(store_module.os, "fsync", full_disk)
        store.run("stage", IDENTITY, fill)
    assert not store.has("stage", IDENTITY) and store.run("stage", IDENTITY, fill)


def test_a_disk_too_full_to_lock_says_so(store, monkeypatch):
    monkeypatch.setattr(files_module.FileLock, "acquire", full_disk)
    with pytest.raises(DedtError, match="Cannot lock .*Free some space"):
        store.run("stage", IDENTITY, fill)


def test_a_file_system_without_permissions_takes_a_file(tmp_path, monkeypatch):
    def refused(path, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    write_json(tmp_path / "facts.json", {"name": "Bücher"})
    assert read_json(tmp_path / "facts.json") == {"name": "Bücher"}


def test_a_full_disk_keeps_the_file_that_stood_there(tmp_path, monkeypatch):
    write_json(tmp_path / "facts.json", {"x": 1})
    monkeypatch.setattr(store_module.os, "fsync", full_disk)
    with pytest.raises(DedtError, match="No space left on the disk while writing"):
        write_json(tmp_path / "facts.json", {"x": 2})
    assert read_json(tmp_path / "facts.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


def test_other_errors_of_the_disk_are_not_called_full(store):
    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        store.run("stage", IDENTITY, refuse)


def test_work_that_wrote_nothing_leaves_no_folder(tmp_path):
    def fails(folder):
        raise DedtError("no")

    def writes(folder):
        (folder / "part").touch()
        fails(folder)

    for work, left in ((fails, []), (writes, ["part"])):
        with pytest.raises(DedtError, match="no"):
            Store(tmp_path).run("stage", IDENTITY, work)
        assert [file.name for file in tmp_path.glob("stage/*.work/*")] == left
        assert bool([*tmp_path.glob("stage/*.work")]) == bool(left)


def test_a_store_that_cannot_be_made_says_how_to_move_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DedtError, match="Cannot create .*Set --store or DEDT_STORE to"):
        Store(tmp_path / "file").run("stage", IDENTITY, fill)


@pytest.mark.parametrize("words", ["1000 requested and 0 written", "I/O error: No space left on device"])
def test_a_full_disk_is_known_by_the_words_of_other_libraries(words, tmp_path):
    with pytest.raises(DedtError, match="No space left"), atomic(tmp_path / "file"):
        raise OSError(words)


# ---- work in progress ----------------------------------------------------------------------------


def write(path, text):
    with sealed(path) as partial:
        partial.write_text(text)


@pytest.mark.parametrize("damage", [b"ol", b"olD", b"old ", b""])
def test_damaged_work_in_progress_is_said_and_removed(tmp_path, damage, capsys):
    file = tmp_path / "part"
    assert not intact_or_removed(file)
    write(file, "old")
    assert intact_or_removed(file) and not capsys.readouterr().err
    file.write_bytes(damage)
    assert not intact_or_removed(file) and not file.exists()
    assert f"{file} is damaged (it does not match its checksum)" in capsys.readouterr().err
    file.write_text("of an earlier version")
    (tmp_path / ".part.seal").unlink()
    assert not intact_or_removed(file) and "it has no checksum" in capsys.readouterr().err


def test_a_kill_between_seal_and_file_leaves_the_file_before_sealed(tmp_path, monkeypatch):
    file, replace = tmp_path / "part", os.replace

    def killed(source, target):
        if target == file:
            raise KeyboardInterrupt
        replace(source, target)

    write(file, "one")
    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(store_module.os, "replace", killed)
            write(file, "two")
        assert file.read_text() == "one" and intact(file)
    write(file, "three")
    assert file.read_text() == "three" and intact(file)


# ---- files ---------------------------------------------------------------------------------------


def test_room_for_an_array_is_claimed_with_or_without_the_system_s_help(monkeypatch, tmp_path):
    monkeypatch.setattr(files_module, "ZEROS", 100)
    claimed = [create_array(tmp_path / "with.npy", (7, 33), np.uint8)]
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    claimed.append(create_array(tmp_path / "without.npy", (7, 33), np.uint8))
    for array in claimed:
        array[3] = 5
        array.flush()
    whole, other = ((tmp_path / f"{name}.npy").read_bytes() for name in ("with", "without"))
    assert whole == other and np.load(tmp_path / "without.npy").sum() == 5 * 33


def test_an_atomic_write_is_seen_whole_or_not_at_all(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with atomic(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    with pytest.raises(KeyboardInterrupt), atomic(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "folder"
    for text in ("old", "new"):
        with atomic_folder(folder) as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / text).touch()
    for error in (KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, DedtError)), atomic_folder(folder) as partial:
            partial.mkdir()
            raise error
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "deep", "new"]


def test_json_is_plain(tmp_path):
    write_json(tmp_path / "facts.json", {"b": [1, 2.5], "a": None})
    assert json.loads((tmp_path / "facts.json").read_text()) == {"a": None, "b": [1, 2.5]}
    for value in (float("nan"), np.inf):
        with pytest.raises(ValueError):
            write_json(tmp_path / "facts.json", {"x": value})
    assert read_json(tmp_path / "facts.json")["b"] == [1, 2.5]


def test_missing_json_is_named(tmp_path):
    with pytest.raises(DedtError, match="facts.json does not exist"):
        read_json(tmp_path / "facts.json")


def test_a_folder_of_the_environment_is_the_same_from_everywhere(monkeypatch):
    monkeypatch.setenv("DEDT_STORE", "here")
    with pytest.raises(DedtError, match="DEDT_STORE=here is a relative path"):
        Store()
    monkeypatch.setenv("DEDT_STORE", "~/there")
    assert Store().root == Path.home() / "there"


def test_what_is_unfinished_is_shown(tmp_path, capsys):
    (tmp_path / "training" / "abc.work").mkdir(parents=True)
    (tmp_path / "training" / "abc.work" / "checkpoint").write_bytes(bytes(2_000_000))
    assert main(["show", "--store", str(tmp_path)]) == 0
    assert re.search(r"training +abc +2\.0 +unfinished", capsys.readouterr().out)
