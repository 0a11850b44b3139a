"""Tables, lists, captions, tars and folders as people and their programs write them."""

import io
import tarfile

import numpy as np
import pytest
from test_data_sources import number_of, photo

from dedt_lib import data


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
