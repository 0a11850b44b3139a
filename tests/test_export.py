"""Exports are complete or absent, and each trainer can read its own."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import ExifTags, Image
from test_data_parquet import write
from test_photos import chosen, picture, pictures, told

from dedt_lib.data import export
from dedt_lib.errors import DedtError
from dedt_lib.selection import Coreset
from dedt_lib.shell.cli import main


def made(root, *names):
    """Write small pictures with these names into a folder."""
    return pictures(root, {name: i for i, name in enumerate(names)})


def test_kohyas_scripts_read_the_name_of_the_class_as_it_is(tmp_path, capsys):
    root = made(tmp_path / "mixed", "5_cat, white/a.png", "10_sks dog/a.png", "a/b.png", "l'ete/a.png")
    (root / "a" / "b.txt").write_text("two\nlines")
    kohya = told(chosen(tmp_path, root), "kohya", tmp_path)
    prompts = {path.parent.name: path.read_text() for path in kohya.rglob("*.txt")}
    said = {"1_cat%2C white": "cat, white", "1_a": "two lines", "1_l%27ete": "l'ete", "1_sks dog": "sks dog"}
    assert prompts == said
    assert "10_sks dog as sks dog" in capsys.readouterr().err


def test_numbers_that_tell_classes_apart_are_no_repeats(tmp_path):
    root = made(tmp_path / "years", "2023_summer/a.png", "2024_summer/b.png", "3_people/c.png")
    kohya = told(chosen(tmp_path, root), "kohya", tmp_path)
    folders = {path.name for path in kohya.iterdir() if path.is_dir()}
    assert folders == {"1_2023_summer", "1_2024_summer", "1_3_people"} and not list(kohya.rglob("*.txt"))


def test_folders_of_classes_are_apart_on_every_system(tmp_path):
    folders = export.Folders()
    names = [folders[name] for name in ("Cat", "cat", "a", "a.", "a ", "CON", "nul", "console", "")]
    assert len({name.casefold().rstrip(". ") for name in names}) == 9
    assert {"Cat", "a", "console", "images"} < set(names) and not {"CON", "nul", "cat"} & set(names)


def test_images_are_found_under_new_names_by_their_content(tmp_path):
    root = made(tmp_path / "photos", "cat/a.png", "dog/b.png")
    coreset = chosen(tmp_path, root)
    (root / "cat" / "a.png").rename(root / "cat" / "new.png")
    links = told(coreset, "links", tmp_path)
    (link,) = (links / "cat").iterdir()
    assert "a.png" in link.name and link.resolve() == root / "cat" / "new.png"


def test_captions_that_are_gone_are_those_of_the_selection(tmp_path, capsys):
    root = made(tmp_path / "photos", "a.png", "b.png")
    (root / "a.txt").write_text("an ant")
    coreset = chosen(tmp_path, root)
    (root / "a.txt").unlink()
    kohya = told(coreset, "kohya", tmp_path)
    assert [path.read_text() for path in kohya.rglob("*.txt")] == ["an ant"]
    assert "those of the selection are exported" in capsys.readouterr().err


def test_an_export_of_a_cleaned_list_has_its_columns(tmp_path):
    root = made(tmp_path / "photos", *(f"{i}.png" for i in range(4)))
    rows = ["file_name,caption,caption_long", *(f"{i}.png,short {i},long {i}" for i in range(4))]
    (root / "metadata.csv").write_text("\n".join(rows))
    where = ["--store", str(tmp_path / "store"), "--quick", "--out", str(tmp_path / "clean")]
    assert main(["look", str(root), *where, "--caption", "caption_long", "--drop", "bad"]) == 0
    coreset = chosen(tmp_path, tmp_path / "clean" / "photos.dedt.json")
    root = root.rename(tmp_path / "moved")
    assert (
        main(["export", str(coreset), "--to", "list", "--out", str(tmp_path / "l"), "--data", str(root)]) == 0
    )
    assert set(pd.read_csv(tmp_path / "l" / "weights.csv")["caption"]) == {f"long {i}" for i in range(4)}


def test_days_as_class_names_stay_texts(tmp_path):
    root = made(tmp_path / "days", "2023-05-01/a.png", "2023-05-02/b.png")
    written = told(chosen(tmp_path, root), "imagefolder", tmp_path)
    rows = datasets.load_dataset("imagefolder", data_dir=str(written), split="train")
    assert set(rows["label"]) == set(rows["text"]) == {"2023-05-01", "2023-05-02"}


def test_an_export_that_is_killed_is_no_export(tmp_path):
    root = made(tmp_path / "photos", *(f"{i}.png" for i in range(6)))
    coreset, out = chosen(tmp_path, root), tmp_path / "out"
    code = (
        "import os, sys; from pathlib import Path; from dedt_lib.data import export\n"
        "def killed(found, out):\n"
        "    export._write(next(found), out); os._exit(9)\n"
        "export.FORMATS['links'] = killed; export.export(Path(sys.argv[1]), 'links', Path(sys.argv[2]))"
    )
    assert subprocess.run([sys.executable, "-c", code, coreset, out]).returncode == 9
    assert not out.exists() and len(list(tmp_path.glob(".out.*"))) == 1
    assert main(["export", str(coreset), "--to", "links", "--out", str(out)]) == 0
    assert len(list((out / "images").iterdir())) == 6 and not list(tmp_path.glob(".out.*"))


def test_an_empty_folder_may_be_there(tmp_path):
    coreset, out = chosen(tmp_path, made(tmp_path / "photos", "0.png")), tmp_path / "out"
    out.mkdir()
    assert main(["export", str(coreset), "--to", "links", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"images", "weights.csv"}


def test_exports_beside_one_another_leave_each_other_alone(tmp_path):
    coreset = chosen(tmp_path, made(tmp_path / "photos", "0.png"))
    running, other = tmp_path / f".out.{os.getppid()}.partial", tmp_path / ".out.2.1.partial"
    for folder in (running, other, tmp_path / "disk"):
        folder.mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 0
    assert running.exists() and other.exists() and (tmp_path / "disk" / "images").is_dir()


def test_of_two_exports_into_one_folder_one_is_refused(tmp_path, monkeypatch, capsys):
    coreset = chosen(tmp_path, made(tmp_path / "photos", "0.png", "1.png"))
    argv, links = ["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")], export.to_links

    def slow(found, out):
        monkeypatch.setitem(export.FORMATS, "links", links)
        assert main(argv) == 0  # the other export, meanwhile
        links(found, out)

    monkeypatch.setitem(export.FORMATS, "links", slow)
    assert main(argv) == 2 and "is not empty" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images", "weights.csv"}


def test_a_full_disk_leaves_nothing_and_is_told(tmp_path, monkeypatch, capsys):
    coreset = chosen(tmp_path, made(tmp_path / "photos", "0.png"))

    def full(found, out):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(export.FORMATS, "links", full)
    assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 2
    assert "No space left on the disk while writing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["photos", "photos.dedt.json"])
def test_images_that_were_moved_are_found_where_they_are(tmp_path, capsys, name):
    root = made(tmp_path / "photos", "0.png", "1.png")
    assert main(["look", str(root), "--quick", "--drop", "bad", "--out", str(tmp_path)]) == 0
    coreset = chosen(tmp_path, tmp_path / name)
    root.rename(tmp_path / "elsewhere")
    argv = ["export", str(coreset), "--to", "torch", "--out", str(tmp_path / "out")]
    assert main(argv) == 2 and "give their new path as --data" in capsys.readouterr().err
    assert main([*argv, "--data", str(tmp_path / "elsewhere")]) == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("coreset.json", b"[]"),
        ("coreset.json", b"{"),
        ("coreset.json", json.dumps({"source": {"path": "/x"}}).encode()),
        ("coreset.parquet", b"PAR1"),
        ("coreset.parquet", None),
    ],
)
def test_a_damaged_coreset_is_told(tmp_path, capsys, file, content):
    coreset = chosen(tmp_path, made(tmp_path / "photos", "0.png"))
    if content is None:
        (coreset / file).unlink()
    else:
        (coreset / file).write_bytes(content)
    assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert str(coreset) in said and "Traceback" not in said and ("again" in said)


def test_colours_of_print_are_exported_without_their_profile(tmp_path):
    (root := tmp_path / "prints").mkdir()
    picture(0).convert("CMYK").save(root / "a.tif", icc_profile=b"of other colours")
    (written,) = told(chosen(tmp_path, root), "kohya", tmp_path).rglob("*.png")
    with Image.open(written) as image:
        assert image.mode == "RGB" and "icc_profile" not in image.info


def test_trainers_see_what_was_judged(tmp_path):
    root, turned = made(tmp_path / "photos", "0.png"), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture(1).save(root / "turned.jpg", exif=turned)
    picture(2).convert("RGBA").resize((9, 9)).save(root / "clear.png")
    hidden = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    hidden.save(root / "hidden.png")
    images = told(chosen(tmp_path, root), "torch", tmp_path) / "images"
    seen = {path.stem: Image.open(path).convert("RGB") for path in images.rglob("*.*")}
    assert seen["turned"].size == picture(1).size[::-1] and seen["hidden"].getpixel((0, 0)) == (255, 255, 255)
    assert (root / "0.png").read_bytes() == next(images.rglob("0.png")).read_bytes()


def test_formats_of_phones_arrive_as_ones_that_every_trainer_opens(tmp_path):
    (root := tmp_path / "phone").mkdir()
    names = {"a.heic": "HEIF", "misnamed.jpg": "HEIF", "b.avif": "AVIF", "c.tif": "TIFF", "d.jpg": "JPEG"}
    for i, (name, kind) in enumerate(names.items()):
        picture(i).save(root / name, kind)
    coreset = chosen(tmp_path, root)
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(told(coreset, "imagefolder", tmp_path)), split="train"
    )
    assert sorted(rows["id"]) == sorted(names)
    (tar,) = told(coreset, "webdataset", tmp_path).glob("*.tar")
    inside = tarfile.open(tar).getnames()
    assert {Path(name).suffix for name in inside} == {".png", ".jpg", ".txt", ".json"}
    assert sum(name.endswith(".jpg") for name in inside) == 1


def test_a_row_that_has_lost_its_image_is_named(tmp_path, capsys):
    images = [picture(i) for i in range(3)]
    write(tmp_path / "train.parquet", [tiny.png(image) for image in images], [0, 1, 0])
    coreset = chosen(tmp_path, tmp_path / "train.parquet")
    write(tmp_path / "train.parquet", [tiny.png(images[0]), None, tiny.png(images[2])], [0, 1, 0])
    assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 2
    assert "train-00001 in" in (said := capsys.readouterr().err) and "has changed since it was" in said


def test_an_export_to_a_file_is_refused(tmp_path, capsys):
    coreset = chosen(tmp_path, made(tmp_path / "photos", "0.png"))
    assert main(["export", str(coreset), "--to", "links", "--out", str(coreset / "coreset.json")]) == 2
    assert "is a file: give --out a new folder" in capsys.readouterr().err
    assert os.path.getsize(coreset / "coreset.json") and Path(coreset).is_dir()


def test_repeats_follow_the_weights():
    for weights, wanted in (([1, 1], [1, 1]), ([1, 2], [1, 2]), ([1, 1.5], [2, 3]), ([1, 90], [1, 10])):
        assert export.repeats_of(np.array(weights, dtype=float))[0].tolist() == wanted
    with pytest.raises(DedtError, match="weight 0, which repeats cannot express"):
        export.repeats_of(np.array([0.0, 1.0]))


def test_weights_that_a_trainer_does_not_read_are_told(tmp_path, capsys):
    coreset = chosen(tmp_path, made(tmp_path / "photos", "a/0.png", "b/0.png", "b/1.png"))
    told(coreset, "imagefolder", tmp_path)
    assert "read no weights" not in capsys.readouterr().err
    Coreset.load(coreset).with_weights([0.5, 0.5]).save(coreset)
    assert main(["export", str(coreset), "--to", "imagefolder", "--out", str(tmp_path / "again")]) == 0
    assert "training scripts read no weights" in capsys.readouterr().err
