import numpy as np
import pytest
import tiny
from PIL import Image

from dedt_lib.data import LabelledImages, check_source, listing, load
from dedt_lib.errors import DedtError
from dedt_lib.selection import Coreset, select
from dedt_lib.store import Store


def labelled(**changes):
    values = {
        "images": np.zeros((4, 1, 2, 2), dtype=np.uint8),
        "labels": np.array([0, 1, 0, 1]),
        "class_names": ("a", "b"),
        "ids": ("w", "x", "y", "z"),
    }
    return LabelledImages(**{**values, **changes})


NO_IMAGES = {"images": np.zeros((0, 1, 2, 2), np.uint8), "labels": np.zeros(0, int), "ids": ()}


def test_digits_are_split_once_and_for_all_and_use_the_whole_grey_scale():
    train, test = load("digits"), load("digits", split="test")
    assert train.images.shape == (1500, 1, 8, 8) and len(test) == 297
    assert (train.class_counts == 150).all()
    assert not set(train.ids) & set(test.ids)
    assert train.images.dtype == np.uint8 and train.images.min() == 0 and train.images.max() == 255


def test_per_class_keeps_the_first_of_each_class():
    everything, few = load("digits"), load("digits", per_class=3)
    assert (few.class_counts == 3).all()
    first = [everything.ids[i] for i in np.flatnonzero(everything.labels == 7)[:3]]
    assert [few.ids[i] for i in np.flatnonzero(few.labels == 7)] == first


def test_fingerprint_follows_pixels_labels_and_names():
    images = np.zeros((4, 1, 2, 2), dtype=np.uint8)
    images[2, 0, 1, 1] = 1
    changes = [{}, {"images": images}, {"labels": np.array([1, 0, 0, 1])}, {"class_names": ("a", "c")}]
    assert len({labelled(**change).fingerprint for change in changes}) == 4
    assert labelled().fingerprint == labelled().fingerprint


def test_fingerprints_stay_because_stored_results_hang_on_them(tmp_path):
    tiny.write_images(tmp_path, size=(6, 6))
    assert load("digits").fingerprint == "c1e19d8553b734bc"
    assert load("digits", split="test").fingerprint == "8af21732113d5eb1"
    assert load("folder", path=tmp_path, image_size=6).fingerprint == "4a8a482206cad937"
    assert load("folder", path=tmp_path, image_size=6, channels=1).fingerprint == "e869d465cf61ca14"


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
        (NO_IMAGES, "holds no images"),
    ],
)
def test_images_and_labels_must_fit(changes, message):
    with pytest.raises(DedtError, match=message):
        labelled(**changes)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, ">i8"])
def test_labels_of_any_integer_type_become_int64(kind):
    data = labelled()
    narrow = labelled(labels=data.labels.astype(kind))
    assert narrow.labels.dtype == np.int64 and narrow.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "given, message",
    [
        ({"source": "mnist"}, "digits, cifar10, folder, metadata, parquet"),
        ({"split": "all"}, "train, test"),
        ({"image_size": 16}, "8 x 8 pixels and 1 channel.*: set image_size = 8 .* not 16 and 1"),
        ({"source": "folder", "channels": 4}, "1 channel .grey. or 3 .colour., not 4"),
        ({"source": "cifar10", "channels": 1}, "32 x 32 pixels and 3 channel.* not 32 and 1"),
    ],
)
def test_what_a_source_cannot_give_is_refused(given, message):
    with pytest.raises(DedtError, match=message):
        load(**{"source": "digits", **given})


def test_folder_images_are_brought_to_one_shape(tmp_path):
    tiny.write_images(tmp_path)
    colour = load("folder", path=tmp_path, image_size=8)
    grey = load("folder", path=tmp_path, image_size=8, channels=1)
    assert colour.images.shape == (12, 3, 8, 8) and grey.images.shape == (12, 1, 8, 8)
    assert colour.class_names == ("ash", "birch", "cedar") and (colour.class_counts == 4).all()
    assert load("folder", path=tmp_path, split="test") is None


def test_folder_images_of_the_right_size_keep_their_pixels(tmp_path):
    tiny.write_images(tmp_path, size=(6, 6))
    data = load("folder", path=tmp_path, image_size=6)
    image = data.images[data.ids.index("birch/2.png")].transpose(1, 2, 0)
    np.testing.assert_array_equal(image, np.array(Image.open(tmp_path / "birch/2.png")))


def test_folder_ids_are_relative_paths_and_survive_a_coreset(tmp_path):
    data = load("folder", path=tiny.write_images(tmp_path / "images"), image_size=8)
    names = {"ids": data.ids, "class_names": data.class_names}
    select(None, data.labels, method="random", ratio=0.5, **names).save(tmp_path / "coreset")
    kept = [i for i, kept in zip(data.ids, Coreset.load(tmp_path / "coreset").kept) if kept]
    assert len(kept) == 6 and all((tmp_path / "images" / name).is_file() for name in kept)
    assert sorted(name.split("/")[0] for name in kept) == ["ash"] * 2 + ["birch"] * 2 + ["cedar"] * 2


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
    with pytest.raises(DedtError, match="nowhere does not exist.*one subfolder per class"):
        load("folder", path=tmp_path / "nowhere")
    for _ in range(2):
        with pytest.raises(DedtError, match="holds no images: add some"):
            load("folder", path=tmp_path)
        (tmp_path / "empty").mkdir(exist_ok=True)


def test_an_image_too_large_to_open_is_named(tmp_path, monkeypatch):
    tiny.write_images(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DedtError, match="All 12 images in .* cannot be read.*repair or remove them:"):
        load("folder", path=tmp_path, image_size=8)


def one_image(tmp_path, image, **options):
    """Save an image as the only one of a folder and load it: [height, width, channels]."""
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png", **options)
    channels = 3 if image.mode in ("RGB", "RGBA", "P") else 1
    found = load("folder", path=tmp_path, image_size=image.width, channels=channels)
    return found.images[0].transpose(1, 2, 0)


def test_a_photo_is_turned_upright(tmp_path):
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:, :4] = 255
    sideways = Image.Exif()
    sideways[0x0112] = 6
    image = one_image(tmp_path, Image.fromarray(pixels), exif=sideways)
    np.testing.assert_array_equal(image[..., 0], np.rot90(pixels, -1))


def test_pixels_of_sixteen_bits_are_refused(tmp_path):
    with pytest.raises(DedtError, match="convert it to 8 bits"):
        one_image(tmp_path, Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)))


def test_transparent_pixels_show_white_and_not_the_colour_below(tmp_path):
    pixels = np.full((4, 4, 4), (200, 0, 0, 255), dtype=np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 51
    shown = one_image(tmp_path, Image.fromarray(pixels))
    assert shown[0].tolist() == [[255, 255, 255]] * 4
    assert shown[1].tolist() == [[244, 204, 204]] * 4  # one fifth red, four fifths white
    assert shown[2:].reshape(-1, 3).tolist() == [[200, 0, 0]] * 8


@pytest.mark.parametrize("mode", ["LA", "P", "RGB"])
def test_every_kind_of_transparency_counts(tmp_path, mode):
    if mode == "LA":
        image, options = Image.new("LA", (4, 4), (10, 0)), {}
    elif mode == "P":
        image, options = Image.new("P", (4, 4), 3), {"transparency": 3}
        image.putpalette([10, 20, 30] * 256)
    else:
        image, options = Image.new("RGB", (4, 4), (10, 20, 30)), {"transparency": (10, 20, 30)}
    assert (one_image(tmp_path, image, **options) == 255).all()


def test_opaque_images_with_an_alpha_channel_keep_their_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    np.testing.assert_array_equal(one_image(tmp_path, Image.fromarray(pixels)), pixels[..., :3])


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows by one entry for every image that is decoded."""
    count, read_image = [], listing.read_image
    monkeypatch.setattr(listing, "read_image", lambda *args: count.append(1) or read_image(*args))
    return count


def test_with_a_store_images_are_decoded_once(tmp_path, decoded):
    path, store = tiny.write_images(tmp_path / "images"), Store(tmp_path / "store")
    plain = load("folder", path=path, image_size=8)
    for _ in range(2):
        kept = load("folder", path=path, image_size=8, store=store)
        assert kept.fingerprint == plain.fingerprint and kept.ids == plain.ids
    assert len(decoded) == 24
    load("folder", path=path, image_size=8, channels=1, store=store)
    assert len(decoded) == 36


def test_stored_images_are_checked_when_they_are_read(tmp_path):
    path, store = tiny.write_images(tmp_path / "images"), tmp_path / "store"
    load("folder", path=path, image_size=8, store=Store(store))
    (file,) = store.glob("images/*/images.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(DedtError, match="changed after it was written. Delete"):
        load("folder", path=path, image_size=8, store=Store(store))


@pytest.mark.parametrize("source", ["folder", "parquet", "cifar10"])
def test_check_source_finds_a_path_that_is_not_there(tmp_path, source):
    with pytest.raises(DedtError, match=f"{tmp_path / 'nowhere'} (is not a folder|does not exist). Give"):
        check_source(source, tmp_path / "nowhere")


def test_check_source_passes_what_needs_no_path():
    check_source("digits", "", image_size=8, channels=1)
    check_source("cifar10")
    with pytest.raises(DedtError, match="set image_size = 32 and channels = 3"):
        check_source("cifar10", image_size=8, channels=1)


def test_check_source_waits_neither_for_torch_nor_for_pixels(tmp_path):
    tiny.write_images(tmp_path)
    (tmp_path / "ash" / "0.png").write_text("not an image")
    code = f"""
import sys
from dedt_lib.data import check_source
check_source("folder", {str(tmp_path)!r})
check_source("cifar10")
assert not {{"torch", "sklearn"}} & set(sys.modules)
"""
    assert tiny.python("-c", code).returncode == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": np.zeros((2, 64, 64, 3), np.uint8)}, "images.transpose.0, 3, 1, 2."),
        ({"captions": ("one",)}, "2 images and 1 captions"),
    ],
)
def test_images_and_captions_that_do_not_fit_are_refused(change, message):
    fits = {
        "images": np.zeros((2, 1, 4, 4), np.uint8),
        "labels": [0, 1],
        "class_names": ["a", "b"],
        "ids": "xy",
    }
    data = LabelledImages(**fits)
    assert (data.class_names, data.ids, data.labels.tolist()) == (("a", "b"), ("x", "y"), [0, 1])
    with pytest.raises(DedtError, match=message):
        LabelledImages(**{**fits, **change})
    with pytest.raises(DedtError, match="np.flatnonzero of a mask"):
        data.subset(np.array([True, False]))
