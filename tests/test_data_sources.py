"""Every kind of image source, each written by the library that people use to write it."""

import datasets
import pandas as pd
import pytest
import webdataset
from PIL import Image
from tiny import write_jsonl

from dedt_lib import data
from dedt_lib.data import lists
from dedt_lib.errors import DedtError

CLASSES = ("cat", "dog")


def photo(i, size=(40, 30)):
    """An image whose colour encodes its number."""
    return Image.new("RGB", size, (10 * i, 0, 255 - 10 * i))


def number_of(pixels):
    """The number of a :func:`photo`, from its pixels [3, H, W]."""
    return round(float(pixels[0].mean()) / 10)


def flat(root, n=6):
    """Write all images into one folder, each with its caption in a text file."""
    for i in range(n):
        photo(i).save(root / f"{i:02d}.png")
        (root / f"{i:02d}.txt").write_text(f"photo {i}\n")


def classes(root, n=6):
    """Write the images into a folder for each class."""
    for i in range(n):
        (root / CLASSES[i % 2]).mkdir(exist_ok=True)
        photo(i).save(root / CLASSES[i % 2] / f"{i:02d}.png")


def metadata(root, n=6, name="metadata.jsonl", label=True):
    """Write images and a metadata file by the imagefolder convention; its rows."""
    rows = [{"file_name": f"{i:02d}.png", "text": f"photo {i}"} for i in range(n)]
    for i, row in enumerate(rows):
        photo(i).save(root / row["file_name"])
        row |= {"label": CLASSES[i % 2]} if label else {}
    if name.endswith(".jsonl"):
        write_jsonl(root / name, rows)
    elif name.endswith(".csv"):
        pd.DataFrame(rows).to_csv(root / name, index=False)
    else:
        pd.DataFrame(rows).to_parquet(root / name)
    return rows


def saved(root, n=6, label=True):
    """Write the images with ``save_to_disk`` of the datasets library."""
    features = {"image": datasets.Image(), "text": datasets.Value("string")}
    columns = {"image": [photo(i) for i in range(n)], "text": [f"photo {i}" for i in range(n)]}
    if label:
        features["label"] = datasets.ClassLabel(names=CLASSES)
        columns["label"] = [i % 2 for i in range(n)]
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    datasets.DatasetDict({"train": made}).save_to_disk(root / "saved")


def shards(root, n=6, label=True):
    """Write the images as two WebDataset shards."""
    for shard in range(2):
        with webdataset.TarWriter(str(root / f"train-{shard:04d}.tar")) as tar:
            for i in range(shard * n // 2, (shard + 1) * n // 2):
                sample = {"__key__": f"{i:05d}", "png": photo(i), "txt": f"photo {i}"}
                tar.write({**sample, **({"cls": i % 2} if label else {})})


def parquet(root, n=6, label=True):
    """Write the images as a Parquet file in the schema of the hub."""
    saved(root, n, label)
    datasets.load_from_disk(root / "saved")["train"].to_parquet(root / "train.parquet")


@pytest.mark.parametrize(
    "write, path, source, classed",
    [
        (flat, ".", "folder", False),
        (classes, ".", "folder", True),
        (metadata, ".", "metadata", True),
        (lambda root: metadata(root, name="metadata.csv"), ".", "metadata", True),
        (lambda root: metadata(root, name="metadata.parquet"), ".", "metadata", True),
        (lambda root: metadata(root, label=False), ".", "metadata", False),
        (saved, "saved", "datasets", True),
        (lambda root: saved(root, label=False), "saved", "datasets", False),
        (shards, ".", "webdataset", True),
        (lambda root: shards(root, label=False), ".", "webdataset", False),
        (parquet, "train.parquet", "parquet", True),
        (lambda root: parquet(root, label=False), "train.parquet", "parquet", False),
    ],
)
def test_each_source_gives_its_images_classes_and_captions(tmp_path, write, path, source, classed):
    write(tmp_path)
    path = tmp_path / path
    assert data.detect(path) == source
    found = data.find(source, path)
    pixels = found.decode(8, 3)
    order = [number_of(image) for image in pixels.images]
    assert sorted(order) == list(range(6)) and len(set(found.ids)) == 6
    assert found.reading.seen == found.reading.used + sum(found.reading.left_out.values())
    if classed:
        assert len(found.class_names) == 2 and found.labels.tolist() == [i % 2 for i in order]
    else:
        assert found.class_names == () and "no classes" in found.reading.line
    if write is not classes:
        assert found.captions == pixels.captions == tuple(f"photo {i}" for i in order)


def test_columns_are_told_apart_or_named(tmp_path):
    rows = metadata(tmp_path)
    for i, row in enumerate(rows):
        row |= {"place": ("sea", "hill", "sea")[i % 3], "long": f"a long tale {i}"}
    write_jsonl(tmp_path / "metadata.jsonl", rows)

    def of(**asked):
        return data.find("metadata", tmp_path, **asked)

    assert of().class_names == CLASSES and of(label="place").class_names == ("hill", "sea")
    assert of(caption="long").captions[1] == "a long tale 1"
    assert of(label="none").class_names == ()
    with pytest.raises(DedtError, match="free text, not classes. Give it as --caption long"):
        of(label="long")
    unknown = "no column 'nothing' for --caption. The columns are: text, label, place"
    with pytest.raises(DedtError, match=unknown):
        of(caption="nothing")


def test_rows_and_files_that_do_not_meet_are_counted_or_refused(tmp_path):
    metadata(tmp_path)
    photo(9).save(tmp_path / "stray.png")
    found = data.find("metadata", tmp_path)
    assert found.reading.left_out == {"images without a row in metadata.jsonl": 1}
    (tmp_path / "03.png").unlink()
    with pytest.raises(DedtError, match="1 of 6 images .* cannot be read"):
        data.find("metadata", tmp_path).decode(8, 3)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "01.png"}\n{"file": "02.png"}\n')
    with pytest.raises(DedtError, match="no path under 'file_name' in row 2"):
        data.find("metadata", tmp_path)


def test_splits_of_flat_folders_and_of_tables(tmp_path):
    for kind, write in (("flat", flat), ("rows", metadata)):
        for name in ("train", "test"):
            (tmp_path / kind / name).mkdir(parents=True)
            write(tmp_path / kind / name)
        source = data.detect(tmp_path / kind)
        train, test = (data.find(source, tmp_path / kind, split) for split in ("train", "test"))
        assert train.ids[0] == "train/00.png" and test.ids[0] == "test/00.png"
        assert train.class_names == test.class_names and len(test.labels) == 6


def test_a_column_of_splits_parts_the_rows(tmp_path):
    rows = metadata(tmp_path)
    kinds = ("Train", "Train", "Train", "Train", "test", "test")
    write_jsonl(tmp_path / "metadata.jsonl", [row | {"split": kind} for row, kind in zip(rows, kinds)])
    train, test = (data.find("metadata", tmp_path, split) for split in ("train", "test"))
    assert train.ids == ("00.png", "01.png", "02.png", "03.png") and test.ids == ("04.png", "05.png")
    assert train.class_names == test.class_names == CLASSES and train.dropped != test.dropped
    assert train.labels.tolist() + test.labels.tolist() == data.find("metadata", tmp_path).labels.tolist() + [
        CLASSES.index(row["label"]) for row in rows[4:]
    ]
    assert "splits from the column 'split'" in train.reading.line
    assert "2 of the split 'test'" in train.reading.line and "held out: " in train.reading.line
    write_jsonl(tmp_path / "metadata.jsonl", [row | {"split": "train"} for row in rows])
    assert len(data.find("metadata", tmp_path).ids) == 6


def test_a_list_of_paths_and_a_cleaned_list(tmp_path):
    classes(tmp_path)
    (tmp_path / "some.txt").write_text("cat/00.png\ndog/01.png\n")
    assert data.detect(tmp_path / "some.txt") == "list"
    assert data.find("list", tmp_path / "some.txt").ids == ("cat/00.png", "dog/01.png")
    (tmp_path / "some.csv").write_text("path,label\ncat/00.png,a\ndog/01.png,b\ncat/02.png,a\ndog/03.png,b\n")
    assert data.find("list", tmp_path / "some.csv").class_names == ("a", "b")

    cleaned = tmp_path / "clean.dedt.json"
    why = {"cat/00.png": "duplicates", "dog/03.png": "blank"}
    lists.write_cleaned(cleaned, "folder", tmp_path, why, listing=data.find("folder", tmp_path))
    found = data.find(data.detect(cleaned), cleaned)
    assert found.reading.left_out["duplicates"] == found.reading.left_out["blank"] == 1
    assert [number_of(image) for image in found.decode(8, 3).images] == [2, 4, 1, 5]
    assert found.reading.notes == ("not read, because the folder also holds images: some.csv",)
    (tmp_path / "some.csv").unlink()
    photo(6).save(tmp_path / "cat" / "06.png")
    assert data.find("list", cleaned).reading.notes == ("images added since the list was written: 1",)
    again = tmp_path / "again.dedt.json"  # a cleaned list can be cleaned again
    lists.write_cleaned(again, "list", cleaned, {"dog/01.png": "dark"}, listing=data.find("list", cleaned))
    assert data.find("list", again).reading.notes == () and len(data.find("list", again).ids) == 4
    (tmp_path / "cat" / "00.png").unlink()  # deleting an image that was left out does no harm
    (tmp_path / "cat" / "06.png").unlink()
    gone = data.find("list", cleaned)
    assert gone.reading.notes == ("images removed since the list was written: 1",)
    assert len(gone.ids) == 4 and gone.reading.left_out["blank"] == 1
    photo(0).save(tmp_path / "cat" / "renamed.png")  # what was left out stays out under another name
    assert data.find("list", cleaned).reading.left_out["duplicates"] == 1


def test_a_cleaned_list_stays_true_when_the_files_change(tmp_path):
    classes(tmp_path)
    photo(0).save(tmp_path / "cat" / "copy.png")
    (tmp_path / "dog" / "bad.png").write_bytes(b"no image")
    cleaned, why = tmp_path / "c.dedt.json", {"cat/copy.png": "duplicates", "dog/bad.png": "bad"}
    listing = data.find("folder", tmp_path)
    copy_of = {"cat/copy.png": "cat/00.png"}
    lists.write_cleaned(cleaned, "folder", tmp_path, why, listing=listing, copy_of=copy_of)

    def found():
        kept = data.find("list", cleaned)
        return set(kept.ids), kept.reading.notes

    kept, notes = found()
    assert len(kept) == len(listing.ids) - 2 and not notes
    photo(7).save(tmp_path / "dog" / "bad.png")  # repaired
    assert found()[0] == kept | {"dog/bad.png"}
    (tmp_path / "cat" / "00.png").rename(tmp_path / "cat" / "renamed.png")  # the copy is a copy still
    assert found()[0] == kept - {"cat/00.png"} | {"dog/bad.png", "cat/renamed.png"}
    (tmp_path / "cat" / "renamed.png").unlink()
    ids, notes = found()
    assert ids == kept - {"cat/00.png"} | {"dog/bad.png", "cat/copy.png"}
    assert notes[1:] == (
        "images removed since the list was written: 1",
        "copies used instead of removed images: 1",
    )
    photo(0).save(tmp_path / "cat" / "00.png")
    (tmp_path / "cat" / "copy.png").rename(tmp_path / "cat" / "other.png")
    photo(8).save(tmp_path / "cat" / "new.png")
    ids, notes = found()
    assert ids == kept | {"dog/bad.png", "cat/new.png"}
    assert notes[0] == "images added since the list was written: 1"


def test_a_data_set_on_the_hub_needs_a_network(monkeypatch):
    def offline(name, revision):
        raise ConnectionError(f"no network to fetch {name}")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    told = "hub:me/photos cannot be read .no network to fetch me/photos.*save_to_disk"
    with pytest.raises(DedtError, match=told):
        data.find(data.detect("hub:me/photos"), "hub:me/photos")


def test_subfolders_of_a_class_are_told(tmp_path):
    for i, name in enumerate(("pets/cat", "pets/dog", "cars/van", "cars/bus/old")):
        (tmp_path / name).mkdir(parents=True)
        photo(i).save(tmp_path / name / "0.png")
    found = data.find("folder", tmp_path)
    assert found.class_names == ("cars", "pets")
    assert "subfolders are part of their class in 'cars', 'pets'" in found.reading.line
