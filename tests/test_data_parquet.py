"""Parquet files in the Hugging Face schema."""

import functools
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny import png

import dedt_lib.data
from dedt_lib.data import check_source, parquet
from dedt_lib.errors import DedtError
from dedt_lib.store import Store

load = functools.partial(dedt_lib.data.load, image_size=8)

NAMES = ["pine", "oak", "elm"]
LABELS = [1, 0, 2, 1, 0, 2]


def pixels(n=6, size=(8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def write(path, images=None, labels=LABELS, names=None, image="img", label="label", more=None):
    """Write a Parquet file of images (arrays, bytes or None) in row groups of four."""
    images = pixels(len(labels)) if images is None else images
    files = [png(image) if isinstance(image, np.ndarray) else image for image in images]
    rows = [{"bytes": content, "path": f"{k}.png"} for k, content in enumerate(files)]
    table = pa.table({image: rows, label: labels, **(more or {})})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return path


def test_a_file_gives_its_pixels_labels_and_names(tmp_path):
    data = load("parquet", path=write(tmp_path / "trees.parquet", names=NAMES))
    np.testing.assert_array_equal(data.images.transpose(0, 2, 3, 1), pixels())
    assert data.labels.tolist() == LABELS and data.labels.dtype == np.int64
    assert data.class_names == tuple(NAMES) and data.name == "trees"
    assert data.ids[0] == "train-00000" and data.ids[5] == "train-00005"
    assert load("parquet", path=tmp_path / "trees.parquet", split="test") is None


def test_rows_stay_in_order_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH", 3)
    data = load("parquet", path=write(tmp_path / "train.parquet"))
    np.testing.assert_array_equal(data.images.transpose(0, 2, 3, 1), pixels())
    assert data.labels.tolist() == LABELS


@pytest.mark.parametrize(
    "labels, names, numbers",
    [
        (["oak", "elm", "pine", "elm"], ("elm", "oak", "pine"), [1, 0, 2, 0]),
        (pa.array(["b", "a", "b", "a"]).dictionary_encode(), ("a", "b"), [1, 0, 1, 0]),
        ([10, 9, 10, 2], ("2", "9", "10"), [2, 1, 2, 0]),
        (pa.array([1, 0, 1, 0], pa.uint8()), ("0", "1"), [1, 0, 1, 0]),
    ],
)
def test_without_metadata_the_labels_name_the_classes(tmp_path, labels, names, numbers):
    data = load("parquet", path=write(tmp_path / "train.parquet", labels=labels))
    assert data.class_names == names and data.labels.tolist() == numbers


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": null}', b'{"info": {"features": {}}}'])
def test_metadata_of_another_shape_is_passed_over(tmp_path, metadata):
    path = write(tmp_path / "train.parquet")
    table = pq.read_table(path).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path)
    assert load("parquet", path=path).class_names == ("0", "1", "2")


@pytest.mark.parametrize("subfolder", [".", "data", "plain_text"])
def test_shards_and_splits_are_found_where_they_are_usually_put(tmp_path, subfolder):
    folder = tmp_path / subfolder
    for i in range(2):
        write(folder / f"train-0000{i}-of-00002.parquet", pixels(seed=i), names=NAMES)
    write(folder / "test-00000-of-00001.parquet", pixels(3, seed=2), [0, 2, 1], NAMES)
    train, test = (load("parquet", path=tmp_path, split=split) for split in ("train", "test"))
    both = np.concatenate([pixels(seed=0), pixels(seed=1)])
    np.testing.assert_array_equal(train.images.transpose(0, 2, 3, 1), both)
    np.testing.assert_array_equal(test.images.transpose(0, 2, 3, 1), pixels(3, seed=2))
    assert train.labels.tolist() == LABELS * 2 and test.labels.tolist() == [0, 2, 1]
    assert train.ids[11] == "train-00011" and test.ids == ("test-00000", "test-00001", "test-00002")
    assert train.name == test.name == tmp_path.name


def test_validation_stands_in_for_test(tmp_path):
    write(tmp_path / "train.parquet")
    assert load("parquet", path=tmp_path, split="test") is None
    for seed, name in enumerate(("validation", "test"), start=1):
        write(tmp_path / f"{name}.parquet", pixels(seed=seed))
        check_source("parquet", tmp_path)
        held_out = load("parquet", path=tmp_path, split="test")
        np.testing.assert_array_equal(held_out.images.transpose(0, 2, 3, 1), pixels(seed=seed))


def test_test_images_have_the_training_images_classes_and_size(tmp_path):
    write(tmp_path / "train.parquet", labels=["oak", "elm", "pine", "elm"])
    write(tmp_path / "test.parquet", pixels(3, (6, 9)), ["pine", "elm", "oak"])
    test = load("parquet", path=tmp_path, split="test")
    assert test.class_names == ("elm", "oak", "pine") and test.labels.tolist() == [2, 0, 1]
    assert test.images.shape == (3, 3, 8, 8)
    write(tmp_path / "test.parquet", pixels(3), ["pine", "ash", None])
    check_source("parquet", tmp_path)
    assert load("parquet", path=tmp_path, split="test") is None
    said = load("parquet", path=tmp_path).reading.line
    assert "2 of 3 images" in said and "not among the 3 classes (test-00001: 'ash', test-00002: None" in said


def test_a_label_outside_the_names_is_shown(tmp_path):
    path = write(tmp_path / "train.parquet", labels=[0, 1, 2, 3, -1], names=NAMES)
    with pytest.raises(
        DedtError, match="2 of 5 images .*train-00003: 3, train-00004: -1.*correct the labels, remove"
    ):
        load("parquet", path=path)


@pytest.mark.parametrize(
    "names", [{"image": "image", "label": "labels"}, {"image": "photo", "label": "species"}]
)
def test_columns_are_known_by_name_or_by_being_the_only_ones(tmp_path, names):
    path = write(tmp_path / "train.parquet", more={"blurred": [0.5] * 6}, **names)
    assert load("parquet", path=path).labels.tolist() == LABELS


def test_the_named_columns_win(tmp_path):
    mask = [{"bytes": png(pixels(1, seed=7)[0]), "path": ""}] * 6
    path = write(tmp_path / "train.parquet", label="fine_label", more={"mask": mask, "coarse_label": [0] * 6})
    data = load("parquet", path=path)
    np.testing.assert_array_equal(data.images.transpose(0, 2, 3, 1), pixels())
    assert data.labels.tolist() == LABELS


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"label": [0, 1]}, "has 0 columns that could hold the images .*Its columns are: label: int64"),
        ({"a": [{"bytes": b""}], "b": [{"bytes": b""}], "label": [0]}, "2 columns .* images .*img or image"),
        (
            {"img": [{"bytes": b""}] * 6, "x": [1, 2] * 3, "y": [1, 2] * 3},
            "columns could hold the classes: x, y.*--label COLUMN",
        ),
    ],
)
def test_columns_that_do_not_fit_are_listed(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    for use in (load, check_source):
        with pytest.raises(DedtError, match=message):
            use("parquet", path=tmp_path)


def test_files_must_have_the_same_columns(tmp_path):
    write(tmp_path / "train-0.parquet")
    write(tmp_path / "train-1.parquet", image="image")
    with pytest.raises(DedtError, match="train-1.parquet has no column img.*the same columns"):
        load("parquet", path=tmp_path)


def test_images_are_brought_to_a_size(tmp_path):
    path = write(tmp_path / "train.parquet", pixels(size=(8, 6)))
    assert dedt_lib.data.load("parquet", path=path).images.shape == (6, 3, 32, 32)
    assert load("parquet", path=path, image_size=5, channels=1).images.shape == (6, 1, 5, 5)


def test_images_are_treated_as_those_of_a_folder(tmp_path):
    images = pixels(size=(40, 30))
    for k, image in enumerate(images):
        (tmp_path / "folder" / str(LABELS[k])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "folder" / str(LABELS[k]) / f"{k}.png")
    folder = load("folder", path=tmp_path / "folder", image_size=16)
    data = load("parquet", path=write(tmp_path / "train.parquet", images), image_size=16)
    order = [int(name.split("/")[1][0]) for name in folder.ids]
    np.testing.assert_array_equal(data.images[order], folder.images)


def test_jpegs_are_decoded(tmp_path):
    smooth = np.tile(np.arange(0, 240, 30, dtype=np.uint8)[:, None, None], (1, 8, 3))
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG")
    path = write(tmp_path / "train.parquet", [file.getvalue()] * 6)
    image = load("parquet", path=path).images[0].transpose(1, 2, 0)
    assert np.abs(image.astype(int) - smooth).max() <= 8


def test_broken_images_are_named_with_file_and_row(tmp_path):
    whole = [png(image) for image in pixels(12, (16, 16))]
    write(tmp_path / "train-0.parquet", [whole[0][:200], *whole[1:6]])
    write(tmp_path / "train-1.parquet", [*whole[6:9], None, b"not an image", b""])
    with pytest.raises(DedtError, match="4 of 12 images in .* cannot be read; repair") as error:
        load("parquet", path=tmp_path)
    for row in (
        "0.parquet row 0",
        "1.parquet row 3 (the image is empty",
        "1.parquet row 4 (not an image format",
    ):
        assert f"train-{row}" in str(error.value)
    assert "BytesIO" not in str(error.value)


def test_only_the_first_broken_images_are_listed(tmp_path):
    path = write(tmp_path / "train.parquet", [b"x"] * 30, [0, 1] * 15)
    with pytest.raises(DedtError, match="All 30 images") as error:
        load("parquet", path=path)
    assert len(str(error.value).splitlines()) == 6


def test_a_struct_that_is_null_has_no_image(tmp_path):
    rows = pa.array([None, {"bytes": png(pixels(1)[0])}], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"img": rows, "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DedtError, match="1 of 2 .*\n.*row 0 .the image is empty"):
        load("parquet", path=tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 300, -1])
def test_a_file_that_was_cut_off_is_named(tmp_path, keep):
    path = write(tmp_path / "train.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    told = "train.parquet is not a complete Parquet file .*download or write it again"
    with pytest.raises(DedtError, match=told):
        check_source("parquet", path)


def test_a_file_that_is_damaged_inside_is_named(tmp_path):
    path = write(tmp_path / "train.parquet")
    raw = path.read_bytes()
    path.write_bytes(raw[:4] + bytes(100) + raw[104:])
    with pytest.raises(DedtError, match="train.parquet is damaged .*download or write it again"):
        load("parquet", path=path)


def test_a_file_is_read_in_pieces(tmp_path):
    noise = [bytes(image) for image in pixels(100, (200, 200))]
    path = write(tmp_path / "train.parquet", noise, [0, 1] * 50)
    before, most = pa.total_allocated_bytes(), 0
    for _ in parquet._encoded_images((path,), "img"):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < path.stat().st_size / 2


def test_a_file_without_rows_holds_no_images(tmp_path):
    table = pq.read_table(write(tmp_path / "train.parquet", names=NAMES))
    pq.write_table(table.slice(0, 0), tmp_path / "train.parquet")
    with pytest.raises(DedtError, match="holds no images: add some"):
        load("parquet", path=tmp_path)


def test_a_folder_without_training_images_says_what_is_wanted(tmp_path):
    write(tmp_path / "test.parquet")
    with pytest.raises(DedtError, match="holds no train.*parquet. Give a Parquet file"):
        load("parquet", path=tmp_path)


def test_per_class_and_a_store_work_here_too(tmp_path):
    path, store = write(tmp_path / "train.parquet", names=NAMES), Store(tmp_path / "store")
    few = load("parquet", path=path, per_class=1, store=store)
    assert few.ids == ("train-00000", "train-00001", "train-00002")
    assert len(list(store.root.glob("images/*/images.npy"))) == 1
    again = load("parquet", path=path, store=store)
    assert again.fingerprint == load("parquet", path=path).fingerprint
