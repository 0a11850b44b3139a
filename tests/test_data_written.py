"""Tables, lists, captions, tars and folders as people and their programs write them."""

import io
import tarfile

import numpy as np
import pytest
from test_data_sources import number_of, photo

from dedt_lib import data
from dedt_lib.errors import DedtError


def png(i):
    """The bytes of a photo that tells its number."""
    file = io.BytesIO()
    photo(i).save(file, "PNG")
    return file.getvalue()


def photos(folder, *numbers):
    """Photos of these numbers, called by them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        (folder / f"{i:02d}.png").write_bytes(png(i))
    return folder


def tar(path, *members):
    """A tar file of (name, content) in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def listed(path, **asked):
    """The Listing of a path, of whatever kind it is."""
    return data.find(data.detect(path), path, **asked)


def numbers(found):
    return [number_of(image) for image in found.decode(4, 3).images]


# ---- tar files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_parts_of_a_sample_may_lie_anywhere_in_a_tar(tmp_path, seed):
    members = [(f"./{i}.png", png(i)) for i in range(6)]
    members += [(f"./{i}.txt", b"photo %d" % i) for i in range(6)] + [
        (f"./{i}.cls", b"%d" % (i % 2)) for i in range(6)
    ]
    order = np.random.default_rng(seed).permutation(len(members))
    found = listed(tar(tmp_path / "a.tar", *(members[i] for i in order)))
    seen = numbers(found)
    assert sorted(seen) == list(range(6)) and found.captions == tuple(f"photo {i}" for i in seen)
    assert found.ids == tuple(f"a.tar/./{i}" for i in seen) and found.labels.tolist() == [i % 2 for i in seen]


def test_the_first_image_of_a_sample_in_a_tar_wins_and_the_others_are_counted(tmp_path):
    names = ["1.png", "1.seg.png", "img.1.png", "img.2.png", "1.png"]
    found = listed(tar(tmp_path / "a.tar", *((name, png(i)) for i, name in enumerate(names))))
    assert found.ids == ("a.tar/1", "a.tar/img") and numbers(found) == [0, 2]
    assert found.reading.left_out == {"further images of a sample (of the same name up to the first dot)": 3}
    assert found.reading.seen == 5


def test_tars_in_folders_of_splits_are_read(tmp_path):
    for split in ("train", "val"):
        tar(tmp_path / split / "0000.TAR", ("0.png", png(3)))
    assert listed(tmp_path).ids == ("train/0000.TAR/0",) and listed(tmp_path, split="test").ids == (
        "val/0000.TAR/0",
    )


# ---- captions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_captions_are_read_in_usual_encodings_and_what_is_none_is_said(tmp_path, inside):
    texts = ["ant\xe9".encode(code) for code in ("utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-16-le")]
    texts.append(b"0 0.5 0.25 1 1e-3\n1 .5 .5 1 1\n")
    if inside:
        path = tar(
            tmp_path / "a.tar",
            *(m for i, t in enumerate(texts) for m in ((f"{i}.png", png(i)), (f"{i}.txt", t))),
        )
    else:
        path = photos(tmp_path / "a", *range(6))
        for i, text in enumerate(texts):
            (path / f"{i:02d}.txt").write_bytes(text)
    found = listed(path)
    assert found.captions == ("ant\xe9",) * 3 + ("",) * 3
    assert "no captions, because they are not UTF-8: " in found.reading.line
    assert "no captions, because they hold only numbers: " in found.reading.line
    assert found.reading.left_out == ({} if inside else {"not images": 3})


def test_images_of_one_stem_share_a_caption(tmp_path):
    photo(0).save(tmp_path / "a.png"), photo(0).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("x")
    found = listed(tmp_path)
    assert found.captions == ("x", "x") and found.reading.left_out == {} and found.reading.seen == 2


# ---- folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "ant"])
@pytest.mark.parametrize("stray", ["backup.tar", "train.parquet", "data/train.parquet", "more.ZIP"])
def test_photographs_are_read_whatever_archive_lies_beside_them(tmp_path, folder, stray):
    photos(tmp_path / folder, *range(3))
    tar(tmp_path / stray, ("x.png", png(1)))
    found = listed(tmp_path)
    assert (
        len(found.ids) == 3
        and f"not read, because there are images beside them: {stray}" in found.reading.line
    )
    assert sum(found.reading.left_out.values()) == 1


def test_a_folder_with_a_link_to_itself_is_the_folder_that_it_is(tmp_path):
    (photos(tmp_path, *range(3)) / "self").symlink_to(".")
    found = listed(tmp_path)
    assert len(found.ids) == 3 and found.reading.left_out == {"links to a folder that was entered already": 1}


def test_class_folders_of_fewer_images_than_lie_beside_them_are_refused(tmp_path):
    photos(tmp_path, *range(4)), photos(tmp_path / "raw", *range(3))
    with pytest.raises(
        DedtError, match="4 images beside its folders and only 3 in them.*move .*--label none"
    ):
        listed(tmp_path)
    assert len(listed(tmp_path, label="none").ids) == 7
    (tmp_path / "00.png").unlink(), (tmp_path / "notes.md").touch()
    left_out = {"images beside the class folders": 3, "beside the class folders": 1}
    assert listed(tmp_path).reading.left_out == left_out


@pytest.mark.parametrize(
    "name, message",
    [("a.tar.gz", "unpack it first"), ("a.ZIP", "unpack it first"), ("a.jpg", "is a single image. Give")],
)
def test_a_file_that_is_no_set_of_images_is_told_from_a_path_that_is_not_there(tmp_path, name, message):
    (tmp_path / name).touch()
    with pytest.raises(DedtError, match=message):
        listed(tmp_path / name)
    if name != "a.jpg":
        with pytest.raises(DedtError, match=f"It holds {name}: unpack archives first"):
            listed(tmp_path)


def test_a_flat_test_folder_beside_classes_is_told(tmp_path):
    photos(tmp_path / "train" / "ant", 0), photos(tmp_path / "test", 1)
    assert (
        "test has no class folders with images, but the training images have ant"
        in listed(tmp_path).reading.line
    )
