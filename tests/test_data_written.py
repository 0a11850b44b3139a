"""Tables, lists, captions, tar files and folders in the forms that people and programs write."""

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from test_data_sources import number_of, photo

from dedt_lib import data
from dedt_lib.data import lists
from dedt_lib.data.look import look
from dedt_lib.errors import DedtError


def png(i):
    """The PNG bytes of photo number i."""
    return tiny.png(photo(i))


def photos(folder, *numbers):
    """Write photos with these numbers, named after them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        (folder / f"{i:02d}.png").write_bytes(png(i))
    return folder


def tar(path, *members):
    """Write a tar file of (name, content) pairs in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def listed(path, **asked):
    """The Listing of a path, whose kind is detected."""
    return data.find(data.detect(path), path, **asked)


def numbers(found):
    return [number_of(image) for image in found.decode(4, 3).images]


# ---- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", ['"Welcome sign', '"Sunset" they said', '"a 24" monitor'])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "metadata.csv"])
def test_a_quote_that_opens_a_value_does_not_swallow_rows(tmp_path, caption, name):
    photos(tmp_path, *range(4))
    between = "\t" if name.endswith("tsv") else ","
    rows = [("file_name", "text"), *((f"{i:02d}.png", caption if i == 1 else f"photo {i}") for i in range(4))]
    (tmp_path / name).write_text("".join(f"{between.join(row)}\n" for row in rows))
    with pytest.raises(DedtError, match="quotes inside it are doubled"):
        listed(tmp_path / name if name.startswith("list") else tmp_path)


def test_rows_of_no_split_are_not_trained_on_in_silence(tmp_path):
    photos(tmp_path, *range(4))

    def found(*said):
        rows = [("file_name", "split"), *((f"{i:02d}.png", split) for i, split in enumerate(said))]
        (tmp_path / "metadata.csv").write_text("".join(f"{','.join(row)}\n" for row in rows))
        return listed(tmp_path)

    for other in ("", "extra"):
        with pytest.raises(
            DedtError, match=f"in some rows it says {other or 'nothing'}: write train or test"
        ):
            found("train", "test", "train", other)
    names = "PublicTest, Training"
    assert f"the column 'split' with {names}" in found("Training", "PublicTest", "Training", "").reading.line
    assert len(found("train", "train", "train", "test").ids) == 3


def test_blanks_around_a_label_are_no_part_of_it(tmp_path):
    photos(tmp_path, *range(4))
    rows = [
        {"file_name": f"0{i}.png", "label": label} for i, label in enumerate(("cat", "cat ", " dog", "dog"))
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = listed(tmp_path)
    assert found.class_names == ("cat", "dog") and found.labels.tolist() == [0, 0, 1, 1]


def test_prompts_and_exif_data_are_no_classes(tmp_path):
    photos(tmp_path, *range(40))
    long = "ugly deformed jpeg artifacts text signature cropped"
    for name, values in (
        ("negative_prompt", ("blurry", "ugly")),
        ("style", (long, f"{long} face")),
        ("meta", ("{}", '{"a": 1}')),
    ):
        rows = [{"file_name": f"{i:02d}.png", name: values[i % 2]} for i in range(40)]
        (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        assert not listed(tmp_path).class_names
    rows = [{"file_name": f"{i:02d}.png", "style": ("oil on canvas", "ink")[i % 2]} for i in range(40)]
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert listed(tmp_path).class_names == ("ink", "oil on canvas")


def test_half_an_emoji_is_a_character_too_few_and_not_an_error(tmp_path):
    photos(tmp_path, 0, 1)
    rows = [{"file_name": f"0{i}.png", "text": text} for i, text in enumerate(("nice \ud83d", "plain"))]
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert listed(tmp_path).captions == ("nice ?", "plain")


def test_parquet_files_may_hold_paths_in_place_of_bytes(tmp_path):
    photos(tmp_path / "photos", 0, 1, 2)
    rows = [{"bytes": None, "path": str(tmp_path / "photos" / f"0{i}.png")} for i in range(3)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 0]}), tmp_path / "train.parquet")
    assert numbers(listed(tmp_path / "train.parquet")) == [0, 1, 2]


# ---- tar files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_parts_of_a_sample_may_lie_anywhere_in_a_tar(tmp_path, seed):
    members = [(f"./{i}.png", png(i)) for i in range(6)]
    members += [(f"./{i}.txt", b"photo %d" % i) for i in range(6)]
    members += [(f"./{i}.cls", b"%d" % (i % 2)) for i in range(6)]
    order = np.random.default_rng(seed).permutation(len(members))
    found = listed(tar(tmp_path / "a.tar", *(members[i] for i in order)))
    seen = numbers(found)
    assert sorted(seen) == list(range(6)) and found.captions == tuple(f"photo {i}" for i in seen)
    assert found.ids == tuple(f"a.tar/./{i}" for i in seen) and found.labels.tolist() == [i % 2 for i in seen]


def test_the_first_image_of_a_sample_in_a_tar_wins_and_the_others_are_counted(tmp_path):
    names = ["1.png", "1.seg.png", "img.1.png", "img.2.png", "Shot 2024-01-02 at 10.00.33.png"]
    found = listed(tar(tmp_path / "a.tar", *((name, png(i)) for i, name in enumerate(names))))
    assert found.ids == ("a.tar/1", "a.tar/img.1", "a.tar/img.2", "a.tar/Shot 2024-01-02 at 10.00.33")
    assert numbers(found) == [0, 2, 3, 4] and found.reading.seen == 5
    assert found.reading.left_out == {"further images of a sample (same name up to the first dot)": 1}


def test_what_is_appended_to_a_tar_replaces_what_has_its_name(tmp_path):
    old, new = ([("1.png", png(i)), ("1.cls", b"%d" % i)] for i in (0, 1))
    found = listed(tar(tmp_path / "a.tar", *old, ("2.png", png(2)), ("2.cls", b"0"), *new))
    assert found.ids == ("a.tar/2", "a.tar/1") and numbers(found) == [2, 1]
    assert found.labels.tolist() == [0, 1]
    assert found.reading.left_out == {"replaced by a later member of the same name": 1}


def test_a_tar_of_a_folder_holds_its_links_and_nothing_hidden(tmp_path):
    photos(tmp_path / "all", 0, 1)
    photos(tmp_path / "all" / ".thumbs", 2), photos(tmp_path / "all" / "@eaDir", 3)
    os.link(tmp_path / "all" / "01.png", tmp_path / "all" / "02.png")
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        out.add(tmp_path / "all", "all")
    found = listed(tmp_path / "a.tar")
    assert sorted(found.ids) == [f"a.tar/all/{i:02d}" for i in range(3)]
    assert sorted(numbers(found)) == [0, 1, 1]


@pytest.mark.parametrize(
    "column, values, classes",
    [
        *((column, ["train", "val", "test"], ()) for column in ("split", "part")),
        ("status", ["success"], ()),
        ("made", ["2024"], ()),
        ("license", ["CC-BY", "CC0"], ()),
        ("size", ["1,5", "2,25", "1,5", "3,0"], ()),
        ("Datum", ["1.1.", "1.1.", "2.1.", "2.1."], ()),
        ("label", ["10.0", "0.0", "2.0", "1.0"], ("0", "1", "2", "10")),  # pandas' integers with gaps
        ("Art", ["a", "b"], ("a", "b")),
    ],
)
def test_which_columns_of_a_table_are_classes(tmp_path, column, values, classes):
    photos(tmp_path, *range(12))
    lines = [f"file_name;{column}", *(f"{i:02d}.png;{values[i % len(values)]}" for i in range(12))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    assert listed(tmp_path).class_names == classes
    told = f"classes from the column '{column}'" in listed(tmp_path).reading.line
    assert told == bool(classes)  # and unless the column was asked for
    assert not classes or "from the column" not in listed(tmp_path, label=column).reading.line


def test_tars_in_folders_of_splits_are_read(tmp_path):
    for split in ("train", "val"):
        tar(tmp_path / split / "0000.TAR", ("0.png", png(3)))
    assert listed(tmp_path).ids == ("train/0000.TAR/0",)
    assert listed(tmp_path, split="test").ids == ("val/0000.TAR/0",)


# ---- labels ----------------------------------------------------------------------------------------------


def jsonl(root, column, values):
    photos(root, *range(len(values)))
    rows = [{"file_name": f"{i:02d}.png", column: value} for i, value in enumerate(values)]
    tiny.write_jsonl(root / "metadata.jsonl", rows)


def parquet(root, column, values):
    images = [{"bytes": png(0)}] * len(values)
    pq.write_table(pa.table({"image": images, column: values}), root / "train.parquet")


def saved(root, column, values):
    made = datasets.Dataset.from_dict({"image": [photo(0)] * len(values), column: values})
    made.cast_column("image", datasets.Image()).save_to_disk(root)


def shard(root, column, values):
    rows = [(f"{i}.json", json.dumps({column: value}).encode()) for i, value in enumerate(values)]
    tar(root / "a.tar", *((f"{i}.png", png(i)) for i in range(len(rows))), *rows)


WRITERS = pytest.mark.parametrize("write", [jsonl, parquet, saved, shard])


@WRITERS
@pytest.mark.parametrize(
    "values, names, labels",
    [
        ([1.0, 0.0] * 3, ("0", "1"), [1, 0] * 3),
        ([True, False] * 3, ("False", "True"), [1, 0] * 3),
        ([10.0, 2.0, 1.0] * 2, ("1", "2", "10"), [2, 1, 0] * 2),
        (["10", "9", "1"] * 2, ("1", "9", "10"), [2, 1, 0] * 2),
    ],
)
def test_labels_may_be_whole_numbers_of_any_type(tmp_path, write, values, names, labels):
    write(tmp_path, "label", values)
    found = listed(tmp_path)
    assert found.class_names == names and found.labels.tolist() == labels


@WRITERS
def test_what_is_no_label_is_said(tmp_path, write):
    write(tmp_path, "label", [0.5, 1.0] * 3)
    found = listed(tmp_path)
    assert found.class_names == ()
    assert "'label' holds values other than text and whole numbers" in found.reading.line
    with pytest.raises(DedtError, match="'label' holds values other than .* so it cannot be the label"):
        listed(tmp_path, label="label")
    with pytest.raises(DedtError, match="no column 'kind' for --label. The columns are: label"):
        listed(tmp_path, label="kind")


@WRITERS
def test_a_missing_number_is_a_missing_label(tmp_path, write):
    write(tmp_path, "label", [1.0, 0.0, None, 1.0, float("nan"), 0.0])
    with pytest.raises(DedtError, match=r"2 of 6 images .* have no label.*\(.*2.*: None, .*4.*: None\)"):
        listed(tmp_path)


@WRITERS
def test_other_columns_of_such_numbers_are_no_classes_unless_asked_for(tmp_path, write):
    write(tmp_path, "weight", [1.0] * 6)
    assert listed(tmp_path).class_names == () and listed(tmp_path, label="weight").class_names == ("1",)


@pytest.mark.parametrize("write", [jsonl, shard])
def test_numbers_among_texts_are_texts(tmp_path, write):
    write(tmp_path, "label", ["0", 1, 0, "1", "cat", "cat"])
    assert listed(tmp_path).class_names == ("0", "1", "cat")
    assert listed(tmp_path).labels.tolist() == [0, 1, 0, 1, 2, 2]


def test_of_several_captions_of_an_image_the_first_is_used_and_it_is_said(tmp_path):
    jsonl(tmp_path, "text", [["a", "b"], ["c"], []])
    found = listed(tmp_path)
    assert found.captions == ("a", "c", "")
    assert "images with several captions, of which the first is used: 1" in found.reading.line
    jsonl(tmp_path, "text", [[1, 2]] * 3)
    assert "'text' holds values other than text and whole numbers" in listed(tmp_path).reading.line


# ---- tables and lists ------------------------------------------------------------------------------------


ROWS = "file_name,label,text\n00.png,ant,on a leaf\n01.png,bee,flies\n02.png,ant,sits\n03.png,bee,off\n"


@pytest.mark.parametrize(
    "text, encoding",
    [
        (ROWS, "utf-8-sig"),
        (ROWS, "utf-16"),
        (ROWS.replace(",", ";"), "utf-8"),
        (ROWS.replace(",", "\t"), "utf-8"),
        (ROWS.replace(",", " , "), "utf-8"),
        (ROWS.replace("file_name,label,text", "File_Name,Label,Text"), "utf-8"),
        (ROWS.replace("\n", "\r\n\r\n"), "utf-8"),
    ],
)
@pytest.mark.parametrize("name", ["metadata.csv", "some.CSV"])
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, text, encoding, name):
    file = photos(tmp_path, *range(4)) / name
    file.write_bytes(text.encode(encoding))
    found = listed(tmp_path if name == "metadata.csv" else file)
    assert found.class_names == ("ant", "bee") and found.labels.tolist() == [0, 1, 0, 1]
    assert found.captions == ("on a leaf", "flies", "sits", "off") and numbers(found) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("metadata.csv", "name,label\n00.png,ant\n", "no column 'file_name' .* columns are: name, label"),
        ("some.csv", "name,label\n0,ant\n", "no column 'file_name' or 'path' or .* columns are: name, label"),
        ("metadata.csv", "file_name,label\n", "has no rows"),
        ("some.csv", "", "has no rows"),
        ("some.csv", "Bildname;Art;Laenge\na.png;Ameise;1,5\n", "columns are: Bildname, Art, Laenge"),
        ("some.csv", "path;Art;Art\na.png;ant;bee\n", "the header has Art more than once"),
        ("metadata.csv", "file_name,text\n00.png,red, and big\n", "row 1 has more values than the header"),
        ("metadata.csv", "file_name,text\n00.png,a\n ,b\n", "no path under 'file_name' in row 2"),
        ("some.jsonl", '{"path": "00.png"}\n{', "line 2: "),
        ("some.jsonl", '["00.png"]\n', "entry 1 is not a JSON object"),
        ("some.jsonl", '{"path": "00.png"}\n7\n', "line 2 is not a JSON object"),
        ("metadata.csv", ROWS.replace("ant", "\xe4nt").encode("cp1252"), "save it as UTF-8 text"),
        ("some.txt", "nowhere.png\n04.png\n", "None of the 2 images .* exists .nowhere.png, 04.png"),
        ("some.txt", "a.png\n./a.png\n", "more than once .a.png, ./a.png"),
        ("some.csv", "path\na.png\n./a.png\n", "more than once .a.png, ./a.png"),
        ("metadata.csv", "file_name\na.png\n./a.png\n", "more than once .a.png.: list"),
        ("metadata.parquet", "PAR1", "metadata.parquet is not a complete Parquet file"),
    ],
)
def test_lists_that_cannot_be_used_say_what_is_there(tmp_path, name, text, message):
    photos(tmp_path, 0)
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DedtError, match=message):
        listed(tmp_path if name.startswith("metadata") else tmp_path / name)


@pytest.mark.parametrize(
    "name, text",
    [
        ("some.jsonl", '\ufeff{"image": "00.png", "text": "a\u2028b"}\n{"image": "01.png", "text": "x"}\n'),
        ("some.csv", "file,path_type\n00.png,a\n01.png,a\n"),
        ("some.TXT", "\ufeff00.png\r\n01.png\r\n"),
        ("some.txt", "sub\\00.png\n01.png\n"),
        ("metadata.csv", "file_name\nsub\\00.png\n01.png\n"),
    ],
)
def test_paths_are_found_as_they_are_meant(tmp_path, name, text):
    for folder in (tmp_path, tmp_path / "sub"):
        photos(folder, 0, 1)
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert numbers(listed(tmp_path if name == "metadata.csv" else tmp_path / name)) == [0, 1]


def test_names_of_a_list_are_cut_at_line_ends_only(tmp_path):
    name = "a\u2028b\x85.png"
    (tmp_path / name).write_bytes(png(3))
    (tmp_path / "some.txt").write_text(f"{name}\n", encoding="utf-8")
    assert listed(tmp_path / "some.txt").ids == (name,)


@pytest.mark.parametrize("first", ["00.png", "../out/00.png"])
def test_folders_of_a_table_are_classes_only_if_each_image_lies_in_one(tmp_path, first):
    for folder in (".", "ant", "bee", "../out"):
        photos(tmp_path / "in" / folder, 0)
    in_classes = ["ant/00.png", "bee/00.png"]
    for names, classes in ((in_classes, ("ant", "bee")), ([first, *in_classes], ())):
        (tmp_path / "in" / "metadata.csv").write_text("\n".join(["file_name", *names]))
        found = listed(tmp_path / "in")
        assert found.class_names == classes
        assert ("folders are not used as classes" in found.reading.line) == (not classes)


# ---- captions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_captions_are_read_in_usual_encodings_and_what_is_none_is_said(tmp_path, inside):
    texts = ["ant\xe9".encode(code) for code in ("utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-16-le")]
    texts.append(b"0 0.5 0.25 1 1e-3\n1 .5 .5 1 1\n")
    if inside:
        captions = [(f"{i}.txt", text) for i, text in enumerate(texts)]
        path = tar(tmp_path / "a.tar", *((f"{i}.png", png(i)) for i in range(6)), *captions)
    else:
        path = photos(tmp_path / "a", *range(6))
        for i, text in enumerate(texts):
            (path / f"{i:02d}.txt").write_bytes(text)
    found = listed(path)
    assert found.captions == ("ant\xe9",) * 3 + ("",) * 3
    assert "text files not used as captions, because they are not UTF-8: " in found.reading.line
    assert "text files not used as captions, because they hold only numbers: " in found.reading.line
    assert found.reading.left_out == ({} if inside else {"not images": 3})


def test_a_list_may_spell_an_accent_in_another_way_than_the_file(tmp_path):
    composed, apart = (unicodedata.normalize(form, "caf\xe9.png") for form in ("NFC", "NFD"))
    for there, said in ((composed, apart), (apart, composed)):
        folder = tmp_path / there
        folder.mkdir()
        (folder / there).write_bytes(png(3))
        (folder / "list.csv").write_text(f"path\n{said}\n", encoding="utf-8")
        assert numbers(listed(folder / "list.csv")) == [3]


def test_captions_that_are_named_by_the_whole_file_are_found(tmp_path):
    photo(0).save(tmp_path / "a.png"), photo(1).save(tmp_path / "b.png")
    (tmp_path / "a.png.txt").write_text("a leaf"), (tmp_path / "b.txt").write_text("")
    (tmp_path / "a.txt").write_text("of another image")
    photo(2).save(tmp_path / "a.jpg"), photo(3).save(tmp_path / "c.png")
    (tmp_path / "c.TXT").write_text("a bee")
    found = listed(tmp_path)
    assert found.captions == ("of another image", "a leaf", "", "a bee")
    assert "3 captions in text files" in found.reading.line
    assert "1 empty text files beside images" in found.reading.line and not found.reading.left_out


@pytest.mark.parametrize("name", ["list.json", "list.jsonl", "list.csv", "list.txt"])
def test_lists_are_read_as_people_write_them(tmp_path, name):
    photos(tmp_path / "my photos", 0, 1)
    paths = [f"my photos/0{i}.png" for i in range(2)]
    rows = [{"image_path": path, "text": "a leaf"} for path in paths]
    text = {
        ".json": json.dumps(rows, indent=1),
        ".jsonl": "\n".join(map(json.dumps, rows)),
        ".csv": "image_path,text\n" + "".join(f"{path},a leaf\n" for path in paths),
        ".txt": f'"my photos\\00.png"\n  {paths[1]}  \n',
    }[Path(name).suffix]
    (tmp_path / name).write_text(text)
    assert listed(tmp_path / name).ids == tuple(paths)


def test_settings_of_a_generator_are_no_classes(tmp_path):
    photos(tmp_path, *range(20))
    rows = "".join(f"{i:02d}.png,a leaf {i},{7.5 + i % 2},{20 + i % 2},{0.25 * (i % 3)}\n" for i in range(20))
    (tmp_path / "metadata.csv").write_text(f"file_name,prompt,cfg_scale,steps,weightiness\n{rows}")
    found = listed(tmp_path)
    assert not found.class_names and "captions from the column 'prompt'" in found.reading.line


def test_a_caption_that_is_a_number_is_a_caption(tmp_path):
    photos(tmp_path, *range(3))
    (tmp_path / "metadata.csv").write_text("file_name,text\n00.png,a red cat\n01.png,12.50\n02.png,open\n")
    assert listed(tmp_path).captions == ("a red cat", "12.50", "open")


def test_a_folder_around_the_folders_of_classes_is_told(tmp_path):
    for name in ("cat", "dog"):
        photos(tmp_path / "outer" / "photos" / name, 1, 2)
    (tmp_path / "outer" / "log").mkdir()
    line = listed(tmp_path / "outer").reading.line
    assert "the only class is 'photos', with the subfolders 'cat', 'dog'" in line
    assert f"give the path {tmp_path / 'outer' / 'photos'}" in line
    assert "the only class" not in listed(tmp_path / "outer", label="none").reading.line


def test_folders_may_be_called_as_files_are(tmp_path):
    for name in ("x.tar", "x.parquet"):
        photos(tmp_path / name / "a", 1)
        assert data.detect(tmp_path / name) == "folder" and listed(tmp_path / name).class_names == ("a",)


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
    assert len(found.ids) == 3
    assert f"not read, because the folder also holds images: {stray}" in found.reading.line
    assert sum(found.reading.left_out.values()) == 1


def test_tables_in_the_folders_of_classes_are_said_to_be_not_read(tmp_path):
    for name in ("ant", "bee"):
        photos(tmp_path / name, 1, 2)
        (tmp_path / name / "metadata.csv").write_text("file_name,text\n1.png,small\n")
    assert "not read: ant/metadata.csv, bee/metadata.csv; only a table" in listed(tmp_path).reading.line


def test_a_copy_of_a_hub_data_set_is_not_its_pictures(tmp_path):
    photos(tmp_path / "assets", 7)
    (tmp_path / "data").mkdir()
    rows = {"image": [{"bytes": png(i)} for i in range(3)], "label": [0, 1, 0]}
    pq.write_table(pa.table(rows), tmp_path / "data" / "train-00000-of-00001-0123456789abcdef.parquet")
    assert len(listed(tmp_path).ids) == 3


def test_a_folder_with_a_link_to_itself_is_the_folder_that_it_is(tmp_path):
    (photos(tmp_path, *range(3)) / "self").symlink_to(".")
    found = listed(tmp_path)
    assert len(found.ids) == 3 and found.reading.left_out == {"links to a folder that was already read": 1}


def test_class_folders_of_fewer_images_than_lie_beside_them_are_refused(tmp_path):
    photos(tmp_path, *range(4)), photos(tmp_path / "raw", *range(3))
    more = "4 images beside its folders and only 3 in them.*move .*--label none"
    with pytest.raises(DedtError, match=more):
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
        with pytest.raises(DedtError, match=f"The folder holds {name}: unpack archives first"):
            listed(tmp_path)


def test_a_flat_test_folder_beside_classes_is_told(tmp_path):
    photos(tmp_path / "train" / "ant", 0), photos(tmp_path / "test", 1)
    said = listed(tmp_path).reading.line
    assert "test has no class folders with images, but the training images have the classes ant" in said


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    photos(tmp_path / "ant", 0)
    stat, closed = os.stat, f"{tmp_path / 'ant'}{os.sep}"

    def refusing(path, *args, **options):
        if str(path).startswith(closed):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **options)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", refusing)
    assert data.detect(tmp_path) == "folder"
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DedtError, match="cannot be read .Permission denied.: change its permissions"):
        listed(tmp_path)


def test_upper_case_parquet_is_parquet(tmp_path):
    parquet(tmp_path, "label", ["a", "b"] * 2)
    (tmp_path / "train.parquet").rename(tmp_path / "x.PARQUET")
    assert listed(tmp_path / "x.PARQUET").class_names == ("a", "b")


# ---- splits and classes that could be confused ------------------------------------------------------------


def test_no_classes_are_asked_for_of_a_table_beside_folders_too(tmp_path):
    photos(tmp_path / "cat", 0, 1), photos(tmp_path / "dog", 2, 3)
    names = ["cat/00.png", "cat/01.png", "dog/02.png", "dog/03.png"]
    tiny.write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": name} for name in names])
    assert listed(tmp_path).class_names == ("cat", "dog")
    assert listed(tmp_path, label="none").class_names == ()


def test_a_table_that_names_splits_is_refused(tmp_path):
    photos(tmp_path / "train", 0, 1), photos(tmp_path / "test", 2)
    names = ["train/00.png", "train/01.png", "test/02.png"]
    tiny.write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": name} for name in names])
    with pytest.raises(DedtError, match="lists images of several splits .test, train.: put a separate table"):
        listed(tmp_path)


def test_of_several_held_out_splits_the_first_in_order_is_taken(tmp_path):
    for place, name in enumerate(("dev", "test", "train")):
        photos(tmp_path / "tables" / name, place)
        (tmp_path / "tables" / name / "metadata.csv").write_text(f"file_name\n{place:02d}.png\n")
        tar(tmp_path / "tars" / f"{name}-0000.tar", (f"{place}.png", png(place)))
    for source in ("tables", "tars"):
        held_out = data.find(data.detect(tmp_path / source), tmp_path / source, "test")
        assert numbers(held_out) == [1] and numbers(listed(tmp_path / source)) == [2]
    assert "other splits, left out: dev" in listed(tmp_path / "tars").reading.line
    splits = {name: datasets.Dataset.from_dict({"image": [photo(0)]}) for name in ("train", "test", "extra")}
    splits = {name: some.cast_column("image", datasets.Image()) for name, some in splits.items()}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert "other splits, left out: extra" in listed(tmp_path / "saved").reading.line
    both = {name: splits["train"] for name in ("training", "train")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both")
    assert "other splits, left out: training" in listed(tmp_path / "both").reading.line


def test_a_link_in_a_tar_to_what_is_not_there_is_an_error(tmp_path):
    path = tar(tmp_path / "a.tar", ("0.png", png(0)))
    with tarfile.open(path, "a") as out:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.LNKTYPE, "gone.png"
        out.addfile(link)
    with pytest.raises(DedtError, match="a.tar is not a complete tar file"):
        listed(path)


def test_a_cleaned_list_of_rows_is_of_the_file_that_was_looked_at(tmp_path):
    rows = {"image": [{"bytes": png(i)} for i in range(3)]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    cleaned, path = tmp_path / "c.dedt.json", tmp_path / "train.parquet"
    lists.write_cleaned(cleaned, "parquet", path, {"train-00000": "bad"}, listing=listed(path))
    assert numbers(listed(cleaned)) == [1, 2]
    pq.write_table(pa.table({"image": rows["image"][::-1]}), tmp_path / "train.parquet")
    with pytest.raises(DedtError, match="train.parquet has changed since .*c.dedt.json was written"):
        listed(cleaned)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    photos(tmp_path / "captioned", 0)
    (tmp_path / "captioned" / "metadata.csv").write_text("file_name,text\n00.png,a leaf\n")
    assert data.detect("~/captioned") == "metadata" and listed("~/captioned").captions == ("a leaf",)
    found = listed("~/captioned")
    lists.write_cleaned(tmp_path / "c.dedt.json", "metadata", "~/captioned", {}, listing=found)
    assert listed(tmp_path / "c.dedt.json").ids == found.ids


def test_a_table_may_say_its_delimiter_first(tmp_path):
    photos(tmp_path, 0, 1)
    (tmp_path / "some.csv").write_text("sep=;\r\npath;label\r\n00.png;ant\r\n01.png;ant\r\n")
    assert listed(tmp_path / "some.csv").class_names == ("ant",)


def test_one_name_in_two_spellings_is_one_class(tmp_path):
    names = [unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD")]
    for i, name in enumerate(names):
        photos(tmp_path / "folders" / name, i)
    photos(tmp_path / "folders" / "Spinne", 2)
    found = listed(tmp_path / "folders")
    assert found.class_names == (names[0], "Spinne") and found.labels.tolist() == [0, 0, 1]
    assert "differ only in how accents are encoded" in found.reading.line
    photos(tmp_path, *range(4))
    rows = [f"{i:02d}.png,{name}" for i, name in enumerate([*names, *names])]
    (tmp_path / "some.csv").write_text("\n".join(["path,label", *rows]))
    assert listed(tmp_path / "some.csv").class_names == (names[0],)


def test_a_second_table_is_named(tmp_path):
    photos(tmp_path, 0, 1)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "00.png"}\n{"file_name": "01.png"}\n')
    (tmp_path / "metadata.csv").write_text("file_name\n00.png\n")
    assert "not read, because metadata.jsonl is used: metadata.csv" in listed(tmp_path).reading.line


@pytest.mark.parametrize(
    "name, label, message",
    [
        ("some.xlsx", "", "is a spreadsheet: save its sheet as CSV"),
        ("nowhere", "", "nowhere does not exist"),
        (".", "Art", "columns of Labels.csv, give the path of the file"),
    ],
)
def test_paths_of_something_else_say_what_to_do(tmp_path, name, label, message):
    photos(tmp_path, 0)
    (tmp_path / "some.xlsx").write_bytes(b"PK")
    (tmp_path / "Labels.csv").write_text("Art\nant\n")
    with pytest.raises(DedtError, match=message):
        data.find("folder", tmp_path / name, label=label)


def test_a_parquet_file_that_names_no_files_is_no_table(tmp_path):
    photos(tmp_path / "ant", 0)
    pq.write_table(pa.table({"image_name": ["a"], "prompt": ["b"]}), tmp_path / "metadata.parquet")
    assert data.detect(tmp_path) == "folder" and listed(tmp_path).class_names == ("ant",)


def test_splits_may_spell_their_classes_in_two_ways(tmp_path):
    for split, form in (("train", "NFD"), ("test", "NFC")):
        for i, name in enumerate(("\xe9clair", "fig")):
            photos(tmp_path / split / unicodedata.normalize(form, name), i)
    found = data.find("folder", tmp_path, "test")
    assert found.class_names == data.find("folder", tmp_path).class_names == ("fig", "\xe9clair")


def test_an_archive_that_changes_while_it_is_looked_at_is_refused(tmp_path):
    found = listed(tar(tmp_path / "0.tar", *((f"{i}.png", png(i)) for i in range(3))))
    assert found.files.content
    os.utime(tmp_path / "0.tar", (1, 1))
    with pytest.raises(DedtError, match="0.tar has changed during the run"):
        look(found)
