"""Which images ``dedt look`` leaves out, and which it names."""

import json
import shutil
import struct
import zlib

import pandas as pd
import pillow_heif
import pytest
from test_photos import picture, pictures

from dedt_lib import data
from dedt_lib.data import lists
from dedt_lib.shell.cli import main


def looked(root, out, *options):
    """The images that ``dedt look`` leaves out: id -> reason."""
    store = ["--store", str(out / "store"), "--quick", "--out", str(out)]
    assert main(["look", str(root), *store, *options]) == 0
    return json.loads((out / f"{root.name}.dedt.json").read_text())["left_out"]


def test_near_copies_are_told_among_what_stays(tmp_path):
    for i in range(3):
        (tmp_path / "burst").mkdir(exist_ok=True)
        image = picture(i)
        image.point(lambda value: value * 0.1).save(tmp_path / "burst" / f"{i}-a-dark.png")
        image.save(tmp_path / "burst" / f"{i}-b-lit.png")
    left_out = looked(tmp_path / "burst", tmp_path / "out", "--drop", "near,dark")
    assert left_out == {f"{i}-a-dark.png": "dark" for i in range(3)}


def test_of_near_copies_the_one_without_a_flaw_stays_and_then_the_largest(tmp_path):
    (tmp_path / "burst").mkdir()
    image = picture(4, (256, 192))
    image.resize((128, 96)).save(tmp_path / "burst" / "a-small.png")
    image.resize((512, 384)).point(lambda value: value * 0.1).save(tmp_path / "burst" / "b-dark.png")
    image.save(tmp_path / "burst" / "c-large.png")
    left_out = looked(tmp_path / "burst", tmp_path / "out", "--drop", "near")
    assert left_out == {"a-small.png": "near", "b-dark.png": "near"}
    page = (tmp_path / "out" / "look.html").read_text()  # these images have no classes
    assert "near copies of another image (" in page and "of the same class" not in page


def test_leaks_are_named_and_can_be_left_out_of_training(tmp_path):
    for split, seeds in {"train": range(6), "test": (2, 9)}.items():
        of_class = {f"{name}/{seed}.png": 10 * seed + (name == "b") for name in "ab" for seed in seeds}
        pictures(tmp_path / "splits" / split, of_class)
    left_out = looked(tmp_path / "splits", tmp_path / "out", "--drop", "leaks")
    assert left_out == {f"train/{name}/2.png": "leaks" for name in "ab"}
    named = pd.read_csv(tmp_path / "out" / "look.csv")
    assert set(named.image[named.finding == "leaks"]) == set(left_out)
    assert "among the held-out images" in (tmp_path / "out" / "look.html").read_text()


def test_every_image_of_a_finding_is_named(tmp_path):
    pictures(tmp_path / "photos", {"good.png": 0})
    for i in range(40):
        (tmp_path / "photos" / f"{i}.png").write_text("no image")
    looked(tmp_path / "photos", tmp_path / "out", "--drop", "bad")
    named = pd.read_csv(tmp_path / "out" / "look.csv")
    assert set(named.image[named.finding == "bad"]) == {f"{i}.png" for i in range(40)}


def test_a_cleaned_list_has_the_whole_name_and_replaces_no_other(tmp_path, capsys):
    for name in ("photos.v1", "photos.v2", "other/photos.v2"):
        pictures(tmp_path / name, {"a.png": 0, "b.png": 0})
    for name in ("photos.v1", "photos.v2", "photos.v2"):
        assert looked(tmp_path / name, tmp_path / "out", "--drop", "duplicates") == {"b.png": "duplicates"}
    argv = ["look", str(tmp_path / "other" / "photos.v2"), "--drop", "duplicates"]
    assert (
        main([*argv, "--out", str(tmp_path / "out")]) == 2
        and "is the cleaned list of" in capsys.readouterr().err
    )


def test_pages_behind_the_first_are_told(tmp_path, capsys):
    (tmp_path / "stacks").mkdir()
    first, *others = (picture(i) for i in range(3))
    first.save(tmp_path / "stacks" / "a.tif", save_all=True, append_images=others)
    looked(tmp_path / "stacks", tmp_path / "out", "--drop", "bad")
    assert "modes: 1 RGB of several pages" in capsys.readouterr().out


def test_a_folder_that_is_called_as_a_table_is_run_by_its_path(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "table1", {f"{'ab'[i % 2]}/{i}.png": i for i in range(12)})
    assert main(["look", "table1", "--quick", "--store", "store", "--out", "out"]) == 0
    assert f"dedt run {tmp_path / 'table1'} --ratio" in capsys.readouterr().out


def test_near_copies_of_an_image_that_another_class_has_too_are_found(tmp_path):
    pictures(tmp_path / "pairs", {"a/0.png": 0, "b/1.png": 0})
    picture(0).resize((90, 68)).save(tmp_path / "pairs" / "b" / "2.png")
    assert looked(tmp_path / "pairs", tmp_path / "out", "--drop", "near") == {"b/2.png": "near"}


def test_leaks_without_held_out_images_are_none(tmp_path):
    pictures(tmp_path / "photos", {"a.png": 0})
    assert looked(tmp_path / "photos", tmp_path / "out", "--drop", "leaks") == {}


def test_an_animation_with_a_damaged_later_page_is_read(tmp_path):
    (tmp_path / "gifs").mkdir()
    first, *others = (picture(i) for i in range(3))
    first.save(tmp_path / "whole.gif", save_all=True, append_images=others)
    content = (tmp_path / "whole.gif").read_bytes()
    first.save(tmp_path / "one.gif")
    least = (tmp_path / "one.gif").stat().st_size
    for cut in range(least + 10, least + 200, 8):
        (tmp_path / "gifs" / f"{cut}.gif").write_bytes(content[:cut])
    assert looked(tmp_path / "gifs", tmp_path / "out", "--drop", "bad") == {}


@pytest.mark.parametrize(
    ("data", "name"), [("hub:mnist", "mnist"), ("hub:me/cats.v2", "cats.v2"), ("/", "images")]
)
def test_cleaned_lists_are_called_after_their_data(data, name):
    assert lists.name_of_cleaned(data) == f"{name}.dedt.json"


@pytest.mark.parametrize("content", ["[]", "{}"])
def test_what_is_no_cleaned_list_is_told(tmp_path, capsys, content):
    (tmp_path / "other.dedt.json").write_text(content)
    assert main(["look", str(tmp_path / "other.dedt.json"), "--drop", "bad", "--out", str(tmp_path)]) == 2
    assert "was not written by `dedt look --drop`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["afile", "afile/below"])
def test_a_folder_that_cannot_be_made_is_told_first(tmp_path, capsys, name):
    pictures(tmp_path / "photos", {"a.png": 0})
    (tmp_path / "afile").write_text("")
    assert main(["look", str(tmp_path / "photos"), "--out", str(tmp_path / name)]) == 2
    assert "Give --out a writable folder" in capsys.readouterr().err


def test_a_copy_stays_out_for_the_reason_of_its_original(tmp_path):
    root = pictures(tmp_path / "photos", {"a.png": 0, "b.png": 1})
    picture(0).point(lambda value: value * 0.05).save(root / "dark.png")
    shutil.copy(root / "dark.png", root / "more.png")
    why = looked(root, tmp_path / "out", "--drop", "duplicates", "--drop", "dark")
    assert why == {"dark.png": "dark", "more.png": "dark"}
    (root / "dark.png").unlink()
    found = data.find("list", tmp_path / "out" / "photos.dedt.json")
    assert found.ids == ("a.png", "b.png")


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path, capsys, monkeypatch):
    root = pictures(tmp_path / "photos", {"a.png": 0})
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(["look", str(root), "--quick", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "Give --out a writable folder" in said.err and not said.out


def test_what_is_not_used_of_an_image_is_told(tmp_path, capsys):
    folder = tmp_path / "stacks" / "cells"
    folder.mkdir(parents=True)
    for i in range(4):
        picture(i).save(folder / f"{i}.tif", save_all=True, append_images=[picture(9 + i)])
    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    rows = zlib.compress(2 * (b"\0" + bytes(range(12))))
    (folder / "deep.png").write_bytes(header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    pillow_heif.encode("RGB;16", (64, 64), bytes(range(256)) * 96, folder / "ten.heic")
    argv = ["select", str(tmp_path / "stacks"), "--ratio", "0.5", "--method", "random"]
    assert main([*argv, "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "images of several pages (only the first is used): 4" in said
    assert "images of more than 8 bits per channel (only the upper 8 are used): 2" in said


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def test_a_look_at_images_of_which_none_can_be_read_is_written(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"torn")
    assert main(["look", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]) == 0
    assert "images that cannot be read" in capsys.readouterr().out
    assert (tmp_path / "out" / "look.html").exists()
