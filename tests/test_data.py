import numpy as np
import pytest
import tiny
from PIL import Image

from dedt_lib.data import LabelledImages, load
from dedt_lib.errors import DedtError
from dedt_lib.selection import Coreset, select


def labelled(**changes):
    values = {
        "images": np.zeros((4, 1, 2, 2), dtype=np.uint8),
        "labels": np.array([0, 1, 0, 1]),
        "class_names": ("a", "b"),
        "ids": ("w", "x", "y", "z"),
    }
    return LabelledImages(**{**values, **changes})


def test_digits_are_split_once_and_for_all():
    train, test = load("digits"), load("digits", split="test")
    assert train.images.shape == (1500, 1, 8, 8) and len(test) == 297
    assert (train.class_counts == 150).all()
    assert not set(train.ids) & set(test.ids)


def test_digits_use_the_whole_grey_scale():
    images = load("digits").images
    assert images.dtype == np.uint8 and images.min() == 0 and images.max() == 255


def test_per_class_keeps_the_first_of_each_class():
    everything, few = load("digits"), load("digits", per_class=3)
    assert (few.class_counts == 3).all()
    first = [everything.ids[i] for i in np.flatnonzero(everything.labels == 7)[:3]]
    assert [few.ids[i] for i in np.flatnonzero(few.labels == 7)] == first


def test_fingerprint_follows_pixels_labels_and_names():
    images = np.zeros((4, 1, 2, 2), dtype=np.uint8)
    images[2, 0, 1, 1] = 1
    variants = [
        labelled(),
        labelled(images=images),
        labelled(labels=np.array([1, 0, 0, 1])),
        labelled(class_names=("a", "c")),
    ]
    assert len({data.fingerprint for data in variants}) == 4
    assert labelled().fingerprint == labelled().fingerprint


def test_subset_keeps_ids_with_their_images():
    subset = labelled(images=np.arange(16, dtype=np.uint8).reshape(4, 1, 2, 2)).subset(np.array([3, 0]))
    assert subset.ids == ("z", "w") and subset.labels.tolist() == [1, 0]
    assert subset.images[:, 0, 0, 0].tolist() == [12, 0]


def test_subset_may_not_empty_a_class():
    with pytest.raises(DedtError, match="No images in class.* b"):
        labelled().subset(np.array([0, 2]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": np.zeros((4, 1, 2, 2))}, "must be uint8"),
        ({"images": np.zeros((4, 2, 2), dtype=np.uint8)}, "must be uint8"),
        ({"labels": np.array([0, 1, 0])}, "one label and one id for every image"),
        ({"ids": ("x",)}, "one label and one id for every image"),
        ({"labels": np.array([0.0, 1.0, 0.0, 1.0])}, "must be integers"),
        ({"labels": np.zeros((4, 2), dtype=int)}, "must be integers of shape"),
        ({"labels": np.array([0, 1, 2, 1])}, "there are 2 class names"),
        ({"labels": np.array([0, 0, 0, 0])}, "No images in class.* b .*add some or drop"),
        ({"labels": np.array([0, 1, -1, 1])}, "Labels run from -1"),
    ],
)
def test_images_and_labels_must_fit(changes, message):
    with pytest.raises(DedtError, match=message):
        labelled(**changes)


def test_no_images_at_all_is_an_error():
    with pytest.raises(DedtError, match="holds no images"):
        labelled(images=np.zeros((0, 1, 2, 2), dtype=np.uint8), labels=np.zeros(0, dtype=int), ids=())


@pytest.mark.parametrize(
    "given, message", [({"source": "mnist"}, "digits, folder"), ({"split": "all"}, "train or test")]
)
def test_unknown_names_list_the_known_ones(given, message):
    with pytest.raises(DedtError, match=message):
        load(**{"source": "digits", **given})


def test_folder_images_are_brought_to_one_shape(tmp_path):
    tiny.write_images(tmp_path)
    colour = load("folder", path=tmp_path, image_size=8)
    grey = load("folder", path=tmp_path, image_size=8, channels=1)
    assert colour.images.shape == (12, 3, 8, 8) and grey.images.shape == (12, 1, 8, 8)
    assert colour.class_names == ("ash", "birch", "cedar") and (colour.class_counts == 4).all()


def test_folder_images_of_the_right_size_keep_their_pixels(tmp_path):
    from PIL import Image

    tiny.write_images(tmp_path, size=(6, 6))
    data = load("folder", path=tmp_path, image_size=6)
    k = data.ids.index("birch/2.png")
    np.testing.assert_array_equal(
        data.images[k].transpose(1, 2, 0), np.array(Image.open(tmp_path / "birch/2.png"))
    )


def test_folder_ids_are_relative_paths_and_survive_a_coreset(tmp_path):
    data = load("folder", path=tiny.write_images(tmp_path / "images"), image_size=8)
    coreset = select(
        None, data.labels, method="random", ratio=0.5, ids=data.ids, class_names=data.class_names
    )
    coreset.save(tmp_path / "coreset")
    kept = [i for i, kept in zip(data.ids, Coreset.load(tmp_path / "coreset").kept) if kept]
    assert len(kept) == 6 and all((tmp_path / "images" / name).is_file() for name in kept)
    assert sorted(name.split("/")[0] for name in kept) == ["ash"] * 2 + ["birch"] * 2 + ["cedar"] * 2


def test_folder_with_train_and_test(tmp_path):
    tiny.write_images(tmp_path / "train")
    assert load("folder", path=tmp_path, split="test") is None
    tiny.write_images(tmp_path / "test", each=2)
    assert len(load("folder", path=tmp_path)) == 12
    assert len(load("folder", path=tmp_path, split="test")) == 6


def test_folder_without_splits_has_no_test_images(tmp_path):
    assert load("folder", path=tiny.write_images(tmp_path), split="test") is None


def test_broken_images_are_named(tmp_path):
    tiny.write_images(tmp_path)
    whole = (tmp_path / "ash/0.png").read_bytes()
    (tmp_path / "ash/0.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cedar/3.png").write_text("not an image")
    with pytest.raises(DedtError, match="2 of 12 images in .* cannot be read; repair") as error:
        load("folder", path=tmp_path, image_size=8)
    assert "ash/0.png" in str(error.value) and "cedar/3.png" in str(error.value)


def test_folder_paths_that_cannot_be_used_say_what_is_wanted(tmp_path):
    with pytest.raises(DedtError, match="needs a path"):
        load("folder")
    with pytest.raises(DedtError, match="is not a folder.*one subfolder of images per class"):
        load("folder", path=tmp_path / "nowhere")
    with pytest.raises(DedtError, match="has no subfolders: put the images of each class"):
        load("folder", path=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DedtError, match="holds no images .*add some or remove it"):
        load("folder", path=tmp_path)


def test_the_test_folder_must_have_the_same_classes(tmp_path):
    tiny.write_images(tmp_path / "train")
    tiny.write_images(tmp_path / "test", classes=("birch", "cedar"))
    with pytest.raises(DedtError, match="classes birch, cedar, but .* ash, birch, cedar: give both"):
        load("folder", path=tmp_path, split="test")


def test_hidden_files_are_no_images(tmp_path):
    tiny.write_images(tmp_path)
    (tmp_path / "ash" / "._0.png").write_text("what some systems leave beside a file")
    assert len(load("folder", path=tmp_path, image_size=8)) == 12


def test_an_image_too_large_to_open_is_named(tmp_path, monkeypatch):
    from PIL import Image

    tiny.write_images(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DedtError, match="12 of 12 images in .* cannot be read"):
        load("folder", path=tmp_path, image_size=8)


def test_a_photo_is_turned_upright(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:, :4] = 255
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png", exif=sideways)
    image = load("folder", path=tmp_path, image_size=8, channels=1).images[0, 0]
    np.testing.assert_array_equal(image, np.rot90(pixels, -1))


def test_pixels_of_sixteen_bits_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(tmp_path / "a" / "0.png")
    with pytest.raises(DedtError, match="convert it to 8 bits"):
        load("folder", path=tmp_path, image_size=8, channels=1)
