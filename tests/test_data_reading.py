"""Unusual folders and files: nothing is left out silently, and nothing counts as an image by mistake."""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import ExifTags, Image, ImageOps
from test_data_parquet import write as write_parquet

from dedt_lib import data
from dedt_lib.book import figures
from dedt_lib.config import load_profile
from dedt_lib.data import check_source, find, load, look
from dedt_lib.data.listing import turned
from dedt_lib.data.names import resembles_split, split_of
from dedt_lib.errors import DedtError
from dedt_lib.files import at_home
from dedt_lib.selection import Coreset
from dedt_lib.shell import cli
from dedt_lib.stages.data import Images
from dedt_lib.stages.lab import Lab
from dedt_lib.store import Store

TWO = ("ant", "bee")


def picture(path, kind=None, value=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (value, 80, 90)).save(path, kind, **options)
    return path


def adds_up(reading):
    return reading.seen == reading.used + sum(reading.left_out.values())


def select(capsys, path, out, *more):
    sizes = ["--set", "data.image_size=8", "--set", "data.channels=3", "--method", "random", "--ratio", "0.5"]
    where = ["--data", str(path), "--store", str(out / "store"), "--out", str(out / "out")]
    code = cli.main(["select", *where, *sizes, *more])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# ---- images, hidden files, links -----------------------------------------------------------------------


def test_whatever_pillow_opens_is_an_image_and_the_rest_is_counted(tmp_path):
    kinds = {
        "png": "PNG",
        "JPG": "JPEG",
        "jfif": "JPEG",
        "ppm": "PPM",
        "jp2": "JPEG2000",
        "bmp": "BMP",
        "heic": "HEIF",
    }
    for suffix, kind in kinds.items():
        picture(tmp_path / "ant" / f"x.{suffix}", kind)
    picture(tmp_path / "ant" / "none", "PNG")
    for name in ("notes.txt", "README", "data.h5", "film.mpg"):
        (tmp_path / "ant" / name).write_text("no image")
    (tmp_path / "ant" / "x.dng").write_bytes(b"raw")
    reading = find("folder", tmp_path).reading
    assert reading.used == 8 and adds_up(reading)
    assert reading.left_out == {"not images": 4, "of a format that Pillow cannot open (.dng)": 1}
    assert len(load("folder", path=tmp_path, image_size=6)) == 8


def test_images_with_an_unknown_suffix_are_named(tmp_path):
    for name in ("a.jpg_large", "b.png?w=3", "c.webp"):
        picture(tmp_path / name, "JPEG")
    (tmp_path / "a.jpg_small").write_text("no image"), (tmp_path / "c.txt").write_text("a caption")
    reading = find("folder", tmp_path).reading
    unknown = "images with an unknown suffix, rename these ({})"
    assert reading.left_out == {
        unknown.format(".jpg_large"): 1,
        unknown.format(".png?w=3"): 1,
        "not images": 1,
    }


@pytest.mark.parametrize("split", ["", "train"])
def test_a_folder_around_all_images_is_no_class(tmp_path, split):
    root = tmp_path / "set"
    picture(root / split / "images" / "x.png"), (root / split / "labels").mkdir()
    (root / split / "labels" / "x.txt").write_text("0 0.5 0.5 1 1")
    found = find("folder", root)
    assert not found.class_names and "'images' holds all images" in found.reading.line
    picture(root / split / "images" / "ant" / "y.png"), picture(root / split / "images" / "bee" / "z.png")
    assert find("folder", root).class_names == ("images",)


def test_what_may_be_no_class_is_named(tmp_path):
    def notes(*paths):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for path in paths:
            picture(root / path)
        return find("folder", root).reading.line

    assert "the only class is 'img_align_celeba'" in notes("img_align_celeba/a.png")
    assert "the only class is 'scans'" in notes("train/scans/a.png", "test/scans/b.png")
    assert "'masks' may hold masks" in notes("photos/a.png", "masks/a.png")
    assert "subfolders are part of their class in 'img', 'reg'" in notes(
        "img/10_sks dog/a.png", "reg/1_dog/b.png"
    )
    assert "held-out split: the first of 'test', 'valid'" in notes("train/a.png", "test/b.png", "valid/c.png")


def test_a_long_name_leaves_no_room_for_a_caption_and_is_read(tmp_path):
    picture(tmp_path / f"{251 * 'a'}.png")
    assert len(find("folder", tmp_path).ids) == 1


def test_damaged_exif_data_do_not_make_an_image_unreadable(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.PageNumber] = 6, 5
    entries = [
        struct.pack(">HHIh", ExifTags.Base.PageNumber, kind, 1, page) for kind, page in ((3, 5), (8, -5))
    ]
    damaged = exif.tobytes().replace(*entries)  # a page of a signed type
    wide = Image.new("RGB", (8, 4), "red")
    wide.save(tmp_path / "a.jpg", exif=damaged)
    with Image.open(tmp_path / "a.jpg") as image:
        with pytest.raises(struct.error):
            ImageOps.exif_transpose(image)
        assert turned(image).size == (4, 8)


def test_each_orientation_is_undone_as_pillow_does(tmp_path):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    for orientation in range(10):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        image.save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as found:
            assert np.array_equal(turned(found), ImageOps.exif_transpose(found))


def test_a_tilde_is_the_home_folder_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home")), monkeypatch.chdir(tmp_path)
    assert at_home("~/photos") == tmp_path / "home" / "photos"
    (tmp_path / "~old").mkdir()
    assert at_home("~old") == Path("~old") and at_home("~nobody-of-that-name") == Path("~nobody-of-that-name")


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"],
)
@pytest.mark.parametrize("depth", [".", "ant", "ant/deep"])
def test_hidden_and_system_folders_never_count(tmp_path, name, depth):
    tiny.write_images(tmp_path, TWO)
    picture(tmp_path / "ant" / "deep" / "y.png")
    picture(tmp_path / depth / name / "inside" / "x.png")
    picture(tmp_path / depth / "._x.png")  # what some systems leave beside a file
    found = find("folder", tmp_path)
    assert found.class_names == TWO and len(found.labels) == 9
    assert found.reading.left_out == {"hidden": 2}


def test_links_are_followed_once_and_broken_or_blocking_ones_counted(tmp_path):
    tiny.write_images(tmp_path / "elsewhere", ("more",))
    root = tiny.write_images(tmp_path / "images", TWO)
    (root / "ant" / "linked").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "bee" / "one.png").symlink_to(root / "ant" / "0.png")
    (root / "bee" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "bee" / "self.png").symlink_to(root / "bee" / "self.png")
    (root / "bee" / "round").symlink_to(root)
    os.mkfifo(root / "bee" / "pipe.png")
    os.mkfifo(root / "bee" / "pipe")
    (root / "bee" / "null.png").symlink_to("/dev/zero")
    (root / "stray.png").write_bytes((root / "ant" / "0.png").read_bytes())
    found = find("folder", root)
    assert found.class_counts.tolist() == [8, 5, 4]
    assert found.reading.left_out == {
        "images beside the class folders": 1,
        "broken links": 2,
        "links to a folder that was already read": 1,
        "pipes, sockets or devices": 3,
    }
    assert adds_up(found.reading) and all((root / name).is_file() for name in found.ids)


# ---- splits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "train, test", [("Training", "Testing"), ("TRAIN", "Val"), ("train", "dev"), ("training", "holdout")]
)
def test_splits_have_many_names_and_ids_start_at_the_path(tmp_path, train, test):
    tiny.write_images(tmp_path / train, TWO)
    assert load("folder", path=tmp_path, split="test") is None
    tiny.write_images(tmp_path / test, TWO, each=2)
    images = load("folder", path=tmp_path, image_size=4)
    held_out = load("folder", path=tmp_path, image_size=4, split="test")
    assert images.class_names == TWO and len(images) == 8 and len(held_out) == 4
    assert images.ids[0] == f"{train}/ant/0.png" and held_out.ids[0] == f"{test}/ant/0.png"
    assert all((tmp_path / name).is_file() for name in (*images.ids, *held_out.ids))
    assert images.reading.held_out.used == 4


def test_names_of_splits():
    assert split_of("Train") == "train" and split_of("VALIDATION") == split_of("eval") == "test"
    assert split_of("trains") is None and split_of("cat") is None
    assert all(map(resembles_split, ("seg_train", "val2017", "TestSet", "trainA", "kfold-3")))
    assert not any(map(resembles_split, ("contest", "cat", "trainer", "part", "7")))


def test_of_several_held_out_splits_one_is_taken_and_the_others_counted(tmp_path):
    for name in ("train", "val", "test"):
        tiny.write_images(tmp_path / name, TWO)
    found = find("folder", tmp_path)
    assert find("folder", tmp_path, "test").ids[0].startswith("test/")
    assert found.reading.left_out == {"beside the class folders": 8} and "'test', 'val'" in found.reading.line


@pytest.mark.parametrize("name", ["train", "test", "Val"])
def test_a_class_may_be_named_like_a_split(tmp_path, name):
    tiny.write_images(tmp_path, ("car", name, "bus"))
    found = find("folder", tmp_path)
    assert set(found.class_names) == {"car", name, "bus"} and f"'{name}' is a class" in found.reading.line


@pytest.mark.parametrize(
    "folders, message",
    [
        (["test/ant", "test/bee"], "splits or classes"),
        (["train/ant", "training/ant"], "splits or classes"),
        (["train/ant", "train/bee", "car"], "splits or classes"),
        (["test/ant", "test/bee", "car"], "splits or classes"),
        (["seg_train/ant", "seg_test/ant"], "splits or classes"),
        (["fold1/ant", "fold1/bee", "fold2/ant", "fold2/bee"], "splits or classes"),
        (["split_0/ant", "split_1/ant"], "splits or classes"),
        (["trainA", "trainB", "testA", "testB"], "splits or classes"),
        (["wrapper/train/ant", "wrapper/test/ant"], "give the path .*wrapper"),
        (["ant/train", "ant/test", "bee/train"], "splits come before classes"),
    ],
)
def test_what_looks_like_splits_but_is_not_clear_is_refused(tmp_path, folders, message):
    tiny.write_images(tmp_path, folders)
    for call in (check_source, load):
        with pytest.raises(DedtError, match=message):
            call("folder", path=tmp_path)


def test_folders_with_equal_subfolders_are_classes_and_it_is_said(tmp_path):
    tiny.write_images(tmp_path, ["cat/indoor", "cat/outdoor", "dog/indoor", "dog/outdoor"])
    found = find("folder", tmp_path)
    assert found.class_names == ("cat", "dog")
    assert "each with the subfolders 'indoor', 'outdoor'" in found.reading.line


def test_unusable_held_out_images_and_empty_classes_do_not_block_training(tmp_path):
    tiny.write_images(tmp_path / "train", TWO)
    tiny.write_images(tmp_path / "test", ("ant", "wasp"))
    (tmp_path / "train" / "aphid").mkdir()
    check_source("folder", tmp_path)
    images = load("folder", path=tmp_path, image_size=4)
    assert images.class_names == TWO and images.class_counts.tolist() == [4, 4]
    other = "the classes ant, wasp, but the training images have the classes ant, bee: give both"
    assert "no held-out images are used: " in images.reading.line and other in images.reading.line
    assert "folders without images, not used as classes: aphid" in images.reading.line
    assert load("folder", path=tmp_path, split="test", image_size=4) is None


# ---- Parquet --------------------------------------------------------------------------------------------


def write(folder, *files, **columns):
    for name in files:
        write_parquet(folder / name, **columns)


@pytest.mark.parametrize(
    "files",
    [
        ["Train.parquet"],
        ["training-00000-of-00002.parquet", "training-00001-of-00002.parquet"],
        ["train-00000-of-00002-6dd9dbcb9d3a4a5b.parquet", "train-00001-of-00002-0a1b2c3d4e5f6071.parquet"],
    ],
)
def test_one_family_of_parquet_files_is_a_split(tmp_path, files):
    write(tmp_path, *files, "train_noisy-00000-of-00001.parquet", "Validation.parquet")
    found = find("parquet", tmp_path)
    assert len(found.labels) == 6 * len(files) and len(find("parquet", tmp_path, "test").labels) == 6
    assert "left out: train_noisy-00000-of-00001.parquet" in found.reading.line


@pytest.mark.parametrize(
    "files, message",
    [
        (["train-00000-of-00001-aaaaaaaa", "train-00000-of-00001-bbbbbbbb"], "aaaaaaaa.*bbbbbbbb"),
        (["train-00000-of-00001", "train-00000-of-00002"], "00001.parquet and .*00002.parquet"),
        (["train", "data/train"], "two sets"),
        (["train", "train-00000-of-00001"], "two sets"),
        (["train-00000-of-00002-aaaaaaaa"], "holds 1 of the 2"),
        (
            ["train-00000-of-00003", "train-00002-of-00003"],
            "2 of the 3 files train-.*add the missing files",
        ),
        (["train_noisy-00000-of-00001"], "no train.parquet.*train_noisy"),
    ],
)
def test_two_uploads_or_missing_shards_are_refused(tmp_path, files, message):
    write(tmp_path, *(f"{name}.parquet" for name in files))
    for use in (check_source, load):
        with pytest.raises(DedtError, match=message):
            use("parquet", path=tmp_path)


def test_labels_of_minus_one_or_names_without_images_do_not_block(tmp_path):
    write(tmp_path, "train.parquet", labels=[0, 2, 0, 2], names=["ash", "birch", "cedar"])
    write(tmp_path, "test.parquet", labels=[-1] * 3, names=["ash", "birch", "cedar"])
    images = load("parquet", path=tmp_path)
    assert images.class_names == ("ash", "cedar") and images.labels.tolist() == [0, 1, 0, 1]
    assert (
        "classes without images, left out: birch" in images.reading.line
        and "no held-out images" in images.reading.line
    )
    assert load("parquet", path=tmp_path, split="test") is None


@pytest.mark.parametrize(
    "column, labels",
    [
        *((column, [f"a photo of thing {k}" for k in range(40)]) for column in ("text", "label", "labels")),
        *((column, list(range(40))) for column in ("text", "label", "labels")),
        ("text", [f"a photo of thing {k // 2}" for k in range(40)]),
        ("label", [-1] * 6),
        ("label", [0.5] * 6),
    ],
)
def test_captions_and_numbers_of_images_are_no_classes(tmp_path, column, labels):
    write(tmp_path, "train.parquet", labels=labels, label=column)
    found = find("parquet", tmp_path)
    assert found.class_names == () and "no classes" in found.reading.line
    assert f"'{column}'" in found.reading.line or column == "text" or labels[0] == 0.5


def test_the_column_that_repeats_is_the_label(tmp_path):
    texts, widths = [f"caption {k}" for k in range(30)], [512] * 30
    more = {"text": texts, "width": widths}
    write(tmp_path, "train.parquet", labels=[0, 1] * 15, label="kind", more=more)
    assert find("parquet", tmp_path).class_counts.tolist() == [15, 15]


# ---- images that cannot be read --------------------------------------------------------------------------


def test_any_error_of_a_decoder_names_the_file_and_may_be_left_out(tmp_path, monkeypatch, capsys):
    root = tiny.write_images(tmp_path / "images", TWO)
    picture(root / "cat" / "0.png").write_text("not an image")
    real, odd = look.upright, Image.open(root / "bee" / "2.png").tobytes()

    def failing(image, channels):
        if image.tobytes() == odd:
            raise struct.error("bad tag")
        return real(image, channels)

    monkeypatch.setattr(look, "upright", failing)
    code, _, error = select(capsys, root, tmp_path)
    listed = tmp_path / "out" / "unreadable.dedt.txt"
    assert code == 2 and "2 of 9 images" in error and "bee/2.png (bad tag)" in error and str(listed) in error
    assert [line.split()[0] for line in listed.read_text().splitlines()] == ["bee/2.png", "cat/0.png"]
    for _ in range(2):  # first decoded, then read from the store
        code, printed, _ = select(capsys, root, tmp_path, "--skip-bad")
        assert code == 0 and "9 files seen, 7 images used, 2 left out: 2 unreadable" in printed
        assert "without remaining images, left out: cat" in printed
    assert Coreset.load(tmp_path / "out").class_names == TWO
    assert select(capsys, root, tmp_path)[0] == 2
    with pytest.raises(DedtError, match="unreadable.dedt.txt"):
        load("folder", path=root, image_size=8, store=Store(tmp_path / "store"))
    assert (tmp_path / "store" / "unreadable.dedt.txt").exists()


def read_without_bad(root, tmp_path, split="train"):
    """The images of a split under the profile photos, without the unreadable ones."""
    where = {"data.source": "folder", "data.path": root, "data.skip_bad": True, "data.image_size": 8}
    return Images(Lab(load_profile("photos", **where), store=tmp_path / "store"), split).result()


def test_skipped_images_leave_the_others_in_their_place(tmp_path):
    root = tiny.write_images(tmp_path / "images", TWO, size=(8, 8))
    whole = load("folder", path=root, image_size=8)
    (root / "ant" / "1.png").write_text("broken")
    for _ in range(2):  # first decoded, then read from the store
        fewer = read_without_bad(root, tmp_path)
        kept = [whole.ids.index(name) for name in fewer.ids]
        np.testing.assert_array_equal(fewer.images, whole.images[kept])
        assert len(kept) == 7 and fewer.labels.tolist() == [0] * 3 + [1] * 4


def test_held_out_classes_keep_their_numbers_when_a_training_class_is_skipped(tmp_path):
    root = tmp_path / "images"
    tiny.write_images(root / "train", ("ant", "bee", "cat"), each=1)
    tiny.write_images(root / "test", ("ant", "bee", "cat"), each=2)
    (root / "train" / "bee" / "0.png").write_text("broken")
    held_out = read_without_bad(root, tmp_path, "test")
    assert held_out.class_names == ("ant", "cat") and held_out.labels.tolist() == [0, 0, 1, 1]
    assert [name.split("/")[1] for name in held_out.ids] == ["ant", "ant", "cat", "cat"]


# ---- stored pixels, names, counts ------------------------------------------------------------------------


def test_pixels_replaced_under_the_same_name_size_and_time_are_read_anew(tmp_path):
    root, store = tiny.write_images(tmp_path / "images", TWO), Store(tmp_path / "store")
    for path in root.rglob("*.png"):
        Image.new("RGB", (6, 6), (1, 2, 3)).save(path.with_suffix(".bmp")), path.unlink()
    before = load("folder", path=root, image_size=6, store=store)
    file = root / "bee" / "2.bmp"
    state = file.stat()
    Image.new("RGB", (6, 6), (9, 9, 9)).save(file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size and file.stat().st_mtime_ns == state.st_mtime_ns
    after = load("folder", path=root, image_size=6, store=store)
    assert (after.images != before.images).any(axis=(1, 2, 3)).nonzero()[0].tolist() == [6]
    file.rename(root / "ant" / "9.bmp")
    assert load("folder", path=root, image_size=6, store=store).class_counts.tolist() == [5, 3]


def test_parquet_replaced_under_the_same_time_is_read_anew(tmp_path):
    path, store = tmp_path / "train.parquet", Store(tmp_path / "store")
    for value in (10, 20):
        write(tmp_path, path.name, images=np.full((6, 4, 4, 3), value, np.uint8))
        os.utime(path, ns=(10**18, 10**18))
        assert load("parquet", path=path, store=store).images[:, 0].max() == value


def test_names_that_no_encoding_has_can_be_chosen_from_and_drawn(tmp_path, capsys):
    root = tmp_path / "images"
    odd = os.fsdecode(b"caf\xe9")
    for name in (odd, "$x_{$", "蟻"):
        for i in range(4):
            picture(root / name / f"{i}.png")
    shutil.copy(root / odd / "0.png", root / odd / os.fsdecode(b"\xff.png"))
    code, printed, _ = select(capsys, root, tmp_path)
    coreset = Coreset.load(tmp_path / "out")
    assert code == 0 and r"caf\xe9" in printed and r"caf\xe9/\xff.png" in coreset.ids
    assert "$x_{$" in coreset.class_names
    figure = figures.class_counts({"kept": coreset.counts}, coreset.class_names)
    figure.canvas.draw()
    assert figure.axes[0].get_xticklabels()[0].get_text() == r"\$x_{\$"
    features = {"": np.eye(len(coreset.labels))}
    figures.feature_planes(features, coreset.labels, coreset.class_names).canvas.draw()


def test_paths_that_are_not_utf8_and_names_of_several_lines(tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    for i in range(2):
        for name in ("two\nlines", "bee"):
            picture(odd / "images" / name / f"{i}.png")
    (odd / "images" / "two\nlines" / "bad.png").write_text("no image")
    code, printed, _ = select(capsys, odd / "images", odd, "--skip-bad")
    coreset = Coreset.load(odd / "out")
    assert code == 0 and coreset.class_names == ("bee", "two\nlines") and r"  two\nlines  " in printed
    assert all((odd / "images" / name).is_file() for name in coreset.ids)
    assert (odd / "out" / "unreadable.dedt.txt").read_text().startswith(r"two\nlines/bad.png")
    write(tmp_path, "train.parquet")
    os.rename(tmp_path / "train.parquet", odd / "train.parquet")
    assert len(load("parquet", path=odd).labels) == 6


def test_an_output_that_lacks_a_letter_does_not_end_the_run(tmp_path):
    root = tiny.write_images(tmp_path / "images", ("蟻", "bee"))
    code = f"import sys; from dedt_lib.shell import cli; sys.exit(cli.main(['plan', '--data', {str(root)!r}, '--row', 'x\\u8759']))"
    found = tiny.python("-c", code, PYTHONIOENCODING="ascii")
    assert found.returncode == 2 and r"\u8759" in found.stderr and "Traceback" not in found.stderr


def test_what_per_class_leaves_out_is_counted(tmp_path, capsys):
    reading = load("digits", per_class=50).reading
    assert load("digits").reading is None
    beyond = "1,000 left out: 1,000 beyond the first 50 of each class (per_class)"
    assert reading.line == f"1,500 images seen, 500 images used, {beyond}"
    root = tiny.write_images(tmp_path / "images", TWO)
    (root / "notes.txt").touch()
    _, printed, _ = select(capsys, root, tmp_path, "--set", "data.per_class=3")
    line = "9 files seen, 6 images used, 3 left out: 1 beside the class folders, 2 beyond the first 3 of each class"
    assert line in printed
    facts = json.loads((tmp_path / "out" / "coreset.json").read_text())["reading"]
    assert (facts["seen"], facts["used"]) == (9, 6) and sum(facts["left_out"].values()) == 3
    cli.main(["plan", "--data", str(root), "--set", "data.per_class=3", "--row", "full"])
    assert line in capsys.readouterr().out


def test_readings_of_sources_are_public():
    assert data.Reading.of(3, {"hidden": 2, "not images": 0}).facts["left_out"] == {"hidden": 2}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest has filters of its own
def test_panoramas_are_read_up_to_a_size(tmp_path, monkeypatch):
    Image.new("1", (16_000, 12_000)).save(tmp_path / "panorama.png")
    with Image.open(tmp_path / "panorama.png") as image:
        assert image.size == (16_000, 12_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    told = r"panorama.png \(it has more than 268 million pixels; make it smaller\)"
    with pytest.raises(DedtError, match=told):
        load("folder", path=tmp_path)
