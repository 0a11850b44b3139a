"""CIFAR-10, with a small archive laid out as the original and with adapted checksums in its place."""

import hashlib
import io
import os
import pickle
import socket
import tarfile

import numpy as np
import pytest
from test_data_parquet import write
from tiny import Bomb, Site
from torchvision.datasets import CIFAR10

from dedt_lib.data import check_source, cifar10, load
from dedt_lib.data.cifar10 import BATCHES, CLASS_NAMES, find
from dedt_lib.errors import DedtError
from dedt_lib.files import project_root

PER_BATCH = 10
BATCH_NAMES = [f"data_batch_{i}" for i in range(1, 6)]


def batch(number):
    """Images uint8 [10, 3, 32, 32] of batch ``number`` and their labels, one of each class."""
    generator = np.random.default_rng(number)
    images = generator.integers(0, 256, (PER_BATCH, 3, 32, 32), dtype=np.uint8)
    return images, generator.permutation(10).tolist()


def members():
    """The content of the files in the archive."""
    files = {"batches.meta": pickle.dumps({"label_names": list(CLASS_NAMES), "num_vis": 3072})}
    for number in range(6):
        images, labels = batch(number)
        content = {"data": images.reshape(PER_BATCH, -1), "labels": labels, "batch_label": "batch"}
        files[f"data_batch_{number}" if number else "test_batch"] = pickle.dumps(content)
    return files


def make_archive(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in {**files, "readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(f"{BATCHES}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture(scope="module")
def original():
    return make_archive(members())


@pytest.fixture(autouse=True)
def stand_in(original, monkeypatch, tmp_path):
    """Make the loader accept the small archive, put the data under tmp_path, and break the download."""
    sums = {name: md5(content) for name, content in members().items()}
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(original).hexdigest())
    meta, *train, test = ([name, sums[name]] for name in ("batches.meta", *BATCH_NAMES, "test_batch"))
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [test])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta[1]})
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:9/{CIFAR10.filename}")
    monkeypatch.setenv("DEDT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def folder(tmp_path, original):
    """The data folder, holding the archive."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CIFAR10.filename).write_bytes(original)
    return tmp_path / "data"


@pytest.fixture
def site(original, monkeypatch):
    """A server with the archive, at the address that the loader downloads from."""
    site = Site(original)
    monkeypatch.setattr(CIFAR10, "url", f"{site.url}/{CIFAR10.filename}")
    yield site
    site.close()


def assert_complete(train, test):
    np.testing.assert_array_equal(train.images, np.concatenate([batch(i)[0] for i in range(1, 6)]))
    np.testing.assert_array_equal(test.images, batch(0)[0])
    assert train.labels.tolist() == sum((batch(i)[1] for i in range(1, 6)), [])
    assert test.labels.tolist() == batch(0)[1]


def test_the_archive_gives_both_splits(folder):
    train, test = load("cifar10", path=folder), load("cifar10", split="test", path=folder)
    assert_complete(train, test)
    assert train.images.dtype == np.uint8 and train.images.flags.c_contiguous
    assert train.labels.dtype == np.int64 and train.class_names == CLASS_NAMES
    assert train.ids[0] == "train-00000" and train.ids[49] == "train-00049" and test.ids[9] == "test-00009"
    assert train.name == "cifar10" and len(load("cifar10", path=folder, per_class=2)) == 20


def test_class_names_are_in_the_official_order():
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert CLASS_NAMES == tuple(names.split())


def test_it_is_downloaded_once_and_unpacked(site, tmp_path):
    assert_complete(load("cifar10"), load("cifar10", split="test"))
    assert site.requests == [f"/{CIFAR10.filename}"]
    site.close()
    (tmp_path / "data" / CIFAR10.filename).unlink()
    assert_complete(load("cifar10", path=tmp_path / "data"), load("cifar10", split="test"))


@pytest.mark.parametrize("fault", ["cut off", "other content", "not found"])
def test_a_download_that_goes_wrong_leaves_nothing_behind(site, tmp_path, fault):
    if fault == "cut off":
        site.send = site.content[:1000]
    else:
        site.send = site.content = b"<html>Please log in</html>"
    site.status = 404 if fault == "not found" else 200
    with pytest.raises(DedtError) as error:
        load("cifar10")
    why = "404" if fault == "not found" else "invalid hash value"
    for part in (why, CIFAR10.url, CIFAR10.filename, f"put the file into {tmp_path / 'data'}", "Run again"):
        assert part in str(error.value)
    assert [p.name for p in (tmp_path / "data").iterdir()] == [".cifar10.lock"]


def test_without_network_the_message_says_what_to_fetch_and_where_to(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x.tar.gz"
        monkeypatch.setattr(CIFAR10, "url", url)
        told = f"could not be downloaded .*download {url} .* put the file into {tmp_path / 'data'}"
        with pytest.raises(DedtError, match=told):
            load("cifar10")


def test_a_foreign_archive_is_never_opened(folder, tmp_path):
    content = make_archive({**members(), "data_batch_2": pickle.dumps(Bomb(tmp_path / "boom"))})
    (folder / CIFAR10.filename).write_bytes(content)
    with pytest.raises(DedtError, match="not the official cifar.*delete it and run again, or download"):
        load("cifar10", path=folder)
    assert not (tmp_path / "boom").exists() and not (folder / BATCHES).exists()


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_foreign_batch_is_named_and_never_opened(folder, tmp_path, name):
    load("cifar10", path=folder)
    (folder / BATCHES / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(DedtError, match=f"missing or altered .{name}.. Delete the folder"):
        load("cifar10", path=folder)
    assert not (tmp_path / "boom").exists()


def test_a_missing_batch_is_named(folder):
    load("cifar10", path=folder)
    (folder / BATCHES / "data_batch_4").unlink()
    with pytest.raises(DedtError, match="^Files in .* are missing or altered .data_batch_4."):
        load("cifar10", path=folder)


def test_what_a_killed_unpacking_left_does_not_matter(folder):
    killed = folder / f".{BATCHES}.{os.getpid()}.partial"
    killed.mkdir()
    (killed / "data_batch_1").write_text("half")
    assert_complete(load("cifar10", path=folder), load("cifar10", path=folder, split="test"))
    assert not killed.exists()


def test_the_unpacked_folder_itself_may_be_given(folder):
    load("cifar10", path=folder)
    (folder / CIFAR10.filename).unlink()
    assert len(load("cifar10", path=folder / BATCHES)) == 50


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEDT_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(DedtError, match="Cannot create .*Set DEDT_DATA to a writable folder"):
        load("cifar10")


def test_the_default_folder_is_in_the_project(monkeypatch):
    monkeypatch.delenv("DEDT_DATA")
    assert find("") == project_root() / "data"


def write_parquet(path, labels):
    write(path, [np.full((32, 40, 3), k, np.uint8) for k in range(len(labels))], labels)


@pytest.mark.parametrize("labels", [list(range(10)), list(CLASS_NAMES)])
def test_parquet_files_are_read_instead(tmp_path, labels):
    write_parquet(tmp_path / "train.parquet", labels[::-1])
    train = load("cifar10", path=tmp_path, image_size=32, channels=3)
    assert train.images.shape == (10, 3, 32, 32) and train.images[:, 0, 0, 0].tolist() == list(range(10))
    assert train.class_names == CLASS_NAMES and train.labels.tolist() == list(range(10))[::-1]
    assert train.name == "cifar10" and train.ids[0] == "train-00000"
    assert load("cifar10", path=tmp_path, split="test") is None
    write_parquet(tmp_path / "test.parquet", labels)
    assert load("cifar10", path=tmp_path, split="test").labels.tolist() == list(range(10))


def test_parquet_files_with_other_classes_are_refused(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["elm", "oak"])
    with pytest.raises(
        DedtError, match="classes elm, oak, .*not the classes of CIFAR-10: use data = 'parquet'"
    ):
        check_source("cifar10", tmp_path)
