"""From a folder of photographs to a coreset, its report, and files for trainers."""

import dataclasses
import io
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import webdataset
from PIL import Image, ImageDraw
from torchvision.datasets import ImageFolder

from dedt_lib import data, encoders
from dedt_lib.book import figures
from dedt_lib.clusters import cluster
from dedt_lib.config import Recipe, load_profile
from dedt_lib.data import export, look
from dedt_lib.data.example import sample_photographs
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.pages.look import findings
from dedt_lib.pages.report import OF_WEIGHTS, _commands, options_of, write_report
from dedt_lib.selection import Coreset
from dedt_lib.shell.cli import main
from dedt_lib.shell.printing import print_doubts
from dedt_lib.stages import Lab
from dedt_lib.stages.embed import Embed, encoder
from dedt_lib.store import Store

NASTY = "<b>cats & dogs"


def picture(seed, size=(96, 72)):
    """A substitute for a photograph: smooth colours with shapes, different for each seed."""
    rng = np.random.default_rng(seed)
    few = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = few.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 20)
        draw.ellipse((x, y, x + 18, y + 18), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def pictures(root, seeds, size=(96, 72)):
    """Write pictures into a folder; ``seeds`` maps a path in it to the seed of the picture."""
    for name, seed in seeds.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, size).save(root / name)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of photographs with captions, with every fault that ``dedt look`` should find."""
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(("sea", NASTY)):
        (root / name).mkdir()
        for i in range(14 if k else 22):
            file = root / name / f"p {i:02d}.jpg"
            picture(100 * k + i).save(file, quality=92)
            file.with_suffix(".txt").write_text(f"{name} number {i}")
    sea = root / "sea"
    (sea / "copy.jpg").write_bytes((sea / "p 03.jpg").read_bytes())
    picture(4).resize((90, 68)).save(sea / "smaller.jpg", quality=70)
    Image.new("RGB", (96, 72), (128, 128, 128)).save(sea / "blank.png")
    Image.fromarray((np.asarray(picture(77)) * 0.06).astype(np.uint8)).save(sea / "night.png")
    (sea / "torn.jpg").write_bytes((sea / "p 05.jpg").read_bytes()[:300])
    return root


@pytest.fixture(scope="module")
def kept(folder, tmp_path_factory):
    """The store and the coreset that ``dedt select`` makes from these photographs, without the torn one."""
    store, out = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("coreset")
    argv = ["select", str(folder), "--ratio", "0.5", "--out", str(out), "--store", str(store), "--skip-bad"]
    assert main([*argv, "--scope", "class"]) == 0
    return store, out


def test_a_cleaned_list_takes_the_look_and_the_features_of_its_folder(folder, tmp_path):
    def done():
        return {
            path.parent for kind in ("look", "features") for path in tmp_path.glob(f"store/{kind}/*/*.json")
        }

    store = ["--store", str(tmp_path / "store")]
    argv = ["look", str(folder), "--drop", "duplicates,bad,blank", "--out", str(tmp_path / "checked"), *store]
    assert main(argv) == 0
    before, (cleaned,) = done(), tmp_path.glob("checked/*.dedt.json")
    choice = ["--ratio", "0.4", "--scope", "class"]
    assert main(["select", str(cleaned), *choice, "--out", str(tmp_path / "own"), *store]) == 0
    assert done() == before and len(before) == 2
    shutil.copytree(folder, tmp_path / "left")  # the same images in a folder of their own
    for name in json.loads(cleaned.read_text())["left_out"]:
        (tmp_path / "left" / name).unlink()
    assert main(["select", str(tmp_path / "left"), *choice, "--out", str(tmp_path / "plain"), *store]) == 0
    own, plain = (Coreset.load(tmp_path / name) for name in ("own", "plain"))
    assert own.keeps_as(plain) and len(done()) == 4
    np.testing.assert_allclose(own.scores, plain.scores, rtol=1e-4)


def test_images_that_change_between_look_and_embedding_are_refused(tmp_path):
    root = pictures(tmp_path / "photos", {f"{'ab'[i % 2]}/{i}.png": i for i in range(6)})
    lab = Lab(load_profile("photos", **{"data.path": str(root)}), store=Store(tmp_path / "store"))
    assert lab.photos
    before = (root / "a/4.png").read_bytes()
    picture(99).save(root / "a/4.png")
    with pytest.raises(DedtError, match="4.png has changed during the run: run again"):
        Embed(lab, encoder(lab)).result()
    (root / "a/4.png").write_bytes(before)
    assert len(Embed(lab, encoder(lab)).result()) == 6


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    "error, said",
    [
        (PermissionError(13, "Permission denied"), "can no longer be read .*Permission denied"),
        (MemoryError(), "Out of memory while decoding .*3.png"),
        (None, "3.png.* has changed during the run"),
    ],
    ids=str,
)
def test_what_is_no_fault_of_an_image_is_not_kept(tmp_path, monkeypatch, decode, error, said):
    root = pictures(tmp_path / "photos", {f"{i}.png": i for i in range(6)})
    listing, store = data.find("folder", root), Store(tmp_path / "store")
    assert listing.files.digests
    read = Path.read_bytes

    def fails(path):
        if path.name == "3.png" and error:
            raise error
        return read(path) + b"?" * (path.name == "3.png")

    def go(folder):
        if decode:
            return listing.decode(16, 3, store)
        folder.mkdir(exist_ok=True)
        return look.look(listing, folder).table

    with monkeypatch.context() as patch, pytest.raises(DedtError, match=said):
        patch.setattr(Path, "read_bytes", fails)
        go(tmp_path / "look")
    assert len(go(tmp_path / "look")) == 6


def test_the_look_finds_what_is_there(folder):
    seen = look.look(data.find("folder", folder))
    table = seen.table.assign(name=[name.rpartition("/")[2] for name in seen.table["id"]]).set_index("name")
    assert seen.readable.sum() == len(table) - 1 and "runcated" in table["error"]["torn.jpg"]
    assert table["blank"]["blank.png"] and table["dark"]["night.png"] and table["dark"].sum() <= 2
    assert not table.loc["p 00.jpg", ["blank", "dark", "light", "blurry"]].any().any()
    exact, near = look.groups_of_copies(seen.table), look.groups_of_copies(seen.table, look.NEAR)
    names = ("p 03.jpg", "copy.jpg", "p 04.jpg", "smaller.jpg")
    third, copy, fourth, smaller = (list(seen.table["id"]).index(f"sea/{name}") for name in names)
    assert exact[copy] == exact[third] and exact[smaller] == smaller and near[smaller] == near[fourth]
    assert (exact != np.arange(len(exact))).sum() == 1
    leaked = look.leaks(seen.table, seen.table.iloc[[copy, smaller]])
    assert leaked.tolist() == [True, True]


def test_a_killed_look_goes_on(folder, tmp_path, monkeypatch, capfd):
    listing, see, seen = data.find("folder", folder), look._see, []
    whole, n = look.look(listing), len(listing.ids)
    monkeypatch.setattr(look, "PART", 4)

    def stops(item, digests):
        seen.append(item[0])
        if item[0] == listing.ids[10]:
            raise KeyboardInterrupt
        return see(item, digests)

    monkeypatch.setattr(look, "_see", stops)
    with pytest.raises(KeyboardInterrupt):
        look.look(listing, tmp_path)
    parts = sorted(path.name for path in tmp_path.glob("*.parquet") if path.name[0] == ".")
    assert parts == [".part-00000000.parquet", ".part-00000004.parquet"]
    with open(tmp_path / parts[0], "r+b") as file:  # damage one of the parts
        file.write(b"?")
    seen.clear()
    monkeypatch.setattr(look, "_see", lambda item, digests: seen.append(item[0]) or see(item, digests))
    resumed = look.look(listing, tmp_path)
    assert sorted(seen) == sorted({*listing.ids} - {*listing.ids[4:8]}) and len(seen) == n - 4
    assert "is damaged" in capfd.readouterr().err
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    assert np.array_equal(resumed.thumbnails, whole.thumbnails)


def test_what_is_near_is_near_in_blocks_too():
    a, b = np.random.default_rng(0).integers(0, 2**64, (2, 40), dtype=np.uint64)
    a[7] = b[30] ^ np.uint64(0b1011)
    bits = [[bin(int(x) ^ int(y)).count("1") for y in b] for x in a]
    near = [min(row) <= 3 for row in bits]
    assert look._is_near(a, b, 3, block=7).tolist() == near and near.count(True) == 1


def seen_as(hashes, digests=None, error=""):
    """The table of a look that found these perceptual hashes."""
    n = len(hashes)
    digests = digests or [f"{i}" for i in range(n)]
    columns = {"id": [f"i{i}" for i in range(n)], "digest": digests, "phash": np.array(hashes)}
    return pd.DataFrame(columns | {"error": error, "blank": False})


def test_a_film_is_no_single_near_copy():
    film = seen_as([2**i - 1 for i in range(20)])  # one bit between neighbours, 19 from first to last
    assert look.groups_of_copies(film, 6).tolist() == [0] * 7 + [7] * 7 + [14] * 6
    assert look.groups_of_copies(film).tolist() == list(range(20))
    classes = np.array([0, 1] * 10)  # alternating, so two bits between neighbours of a class
    assert look.groups_of_copies(film, 6, classes).tolist()[:10] == [0, 1, 0, 1, 0, 1, 0, 1, 8, 9]
    # A held-out frame is compared with every training frame, not with those that would stay.
    assert look.leaks(film.iloc[:7], film.iloc[7:]).tolist() == [True] * 6 + [False] * 7


def test_a_copy_of_a_copy_is_one_of_what_stays():
    table = seen_as([0, 0, 2**6 - 1, 2**6 - 1], ["a", "a", "b", "b"])
    assert look.groups_of_copies(table, 6).tolist() == [0] * 4
    assert look.groups_of_copies(table).tolist() == [0, 0, 2, 2]


def test_dedt_look_writes_a_page_and_a_cleaned_list(folder, kept, tmp_path, capsys):
    argv = ["look", str(folder), "--drop", "duplicates,bad,blank", "--out", str(tmp_path), "--quick"]
    assert main([*argv, "--store", str(kept[0])]) == 0
    said = capsys.readouterr().out
    assert re.search(r"duplicates +1 ", said) and re.search(r"bad +1 ", said) and "classes" in said
    # A hundred epochs of one batch, which holds a tenth of the forty readable images.
    assert re.search(r"run +100 steps .* dedt run \S+ --ratio \S+ --dry-run", said)
    assert not (kept[0] / "training").exists()
    page = (tmp_path / "look.html").read_text()
    assert NASTY not in page and "&lt;b&gt;cats &amp; dogs" in page and "torn.jpg" in page
    assert not remote(page)
    (cleaned,) = tmp_path.glob("*.dedt.json")
    found = data.find(data.detect(cleaned), cleaned)
    assert found.reading.left_out["bad"] == found.reading.left_out["duplicates"] == 1
    assert not {"sea/torn.jpg", "sea/blank.png"} & set(found.ids)
    assert len({"sea/copy.jpg", "sea/p 03.jpg"} & set(found.ids)) == 1
    assert main(["look", str(folder), "--drop", "ugly"]) == 2
    assert "Unknown kinds in --drop: ugly" in capsys.readouterr().err


def test_the_whole_look_goes_round_what_cannot_be_read(folder, kept, tmp_path, capsys):
    assert main(["look", str(folder), "--out", str(tmp_path), "--store", str(kept[0])]) == 0
    assert re.search(r"bad +1 ", capsys.readouterr().out)


def test_the_sample_photographs_have_faults_to_find(tmp_path):
    store = Store(tmp_path)
    path = sample_photographs(store)
    photos = load_profile("photos", **{"data.source": data.detect(path), "data.path": str(path)})
    found = findings(Lab(photos, store=store), quick=True)
    names = {kind: {found.listing.ids[i] for i in places} for kind, places in found.places.items()}
    assert len(found.table) == 166 and not found.listing.class_names
    assert names["duplicates"] == {"china-copy.jpg", "flower-copy.jpg"}
    assert {"china-smaller.jpg", "flower-smaller.jpg"} <= names["near"]
    assert "night.jpg" in names["dark"] and names["blank"] == {"blank.png"}
    figure = figures.faults(found)
    shown = [axes.texts[0].get_text() for axes in figure.axes]
    assert shown == ["no fault", *(kind for kind in names if names[kind])]


def test_the_first_of_each_class_are_embedded_anew(folder, kept):
    where = {"data.path": str(folder), "data.skip_bad": True, "data.per_class": 3}
    x = Experiment(load_profile("photos", **where), store=Store(kept[0]), ratio=0.5)
    assert len(x.embed()) == len(x.select().labels) == 6


def remote(page):
    """External addresses that a page would load."""
    return re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:)[^"'> ]+|url\(|@import""", page)


def test_the_report_shows_class_weights_around_one_and_asks_for_no_others(kept, tmp_path):
    coreset = Coreset.load(kept[1])
    weighted = coreset.with_weights(np.array([0.75, 0.25]))
    photos = SimpleNamespace(name="photos", reading=data.Reading.of(0), encoded=lambda: [])
    of_coreset = SimpleNamespace(embedding=None)
    settings = SimpleNamespace(batch_size=1)
    made = {"coreset": of_coreset, "profile": load_profile("photos"), "recipe": Recipe()}
    write_report(SimpleNamespace(settings=settings, **made), weighted, photos, tmp_path)
    page = (tmp_path / "report.html").read_text()
    each = weighted.image_weights
    assert re.findall(r">(\d\.\d{3})<", page) == ["1.500", f"{each[0]:.3f}", "0.500", f"{each[1]:.3f}"]
    assert ("Most batches of the proxy have no image of" in page) == (
        min(coreset.counts) * 2 < sum(coreset.counts)
    )
    assert "--to torch" in page and "--to imagefolder" not in page
    before, after = ({words for words, _ in _commands(some, tmp_path)} for some in (coreset, weighted))
    assert before - after == {"class weights"}


@pytest.mark.parametrize(
    "options",
    [
        " photographs",
        " photographs --method gaussian --scope class --seed 3 --label none --skip-bad",
        " photographs --burn-in 0 --balancing",
        " --profile digits --set unet.epochs=7 --set 'data.class_names=[\"a b\"]'",
    ],
)
def test_the_next_commands_repeat_the_options(options, capsys):
    class Asked(Exception):
        """Raised in place of making an experiment."""

    def asked(budget, **how):
        raise Asked(budget, how)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Asked) as made:
        patch.setattr("dedt_lib.shell.cli.check_data", lambda budget: None)
        patch.setattr("dedt_lib.experiment.Experiment", asked)
        main(shlex.split(f"train --ratio 0.3{options}"))
    budget, how = made.value.args
    recipe = Recipe(**{name: how[name] for name in how.keys() & Recipe.model_fields.keys()})
    experiment = SimpleNamespace(profile=budget, recipe=recipe)
    asked = [word.replace("0", "0.0") if word == "0" else word for word in shlex.split(options)]
    asked = sorted(word for word in asked if word != "photographs")
    assert sorted(shlex.split(options_of(experiment))) == asked
    assert "--balancing" not in options_of(experiment, *OF_WEIGHTS)


def test_the_next_commands_name_a_profile_by_its_file(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text('extends = "photos"\nunet.epochs = 7\n')
    changed = load_profile(load_profile(own), **{"unet.epochs": 8})
    said = options_of(SimpleNamespace(profile=changed, recipe=Recipe()))
    assert shlex.split(said) == ["--profile", str(own), "--set", "unet.epochs=8"]


def test_a_class_without_a_kept_image_is_said_and_not_trained_on(kept, tmp_path, capsys):
    coreset = Coreset.load(kept[1])
    bare = dataclasses.replace(coreset, indices=np.flatnonzero(coreset.kept & (coreset.labels == 0)))
    print_doubts(bare)
    assert "warning: no image of sea is kept, so no model can" in capsys.readouterr().out
    assert {words for words, _ in _commands(bare, tmp_path)} == {"files for a trainer", "another ratio"}


def test_select_writes_what_was_kept_and_a_report_that_opens_offline(folder, kept):
    table = pd.read_parquet(kept[1] / "coreset.parquet")
    facts = json.loads((kept[1] / "coreset.json").read_text())
    assert facts["source"]["path"] == str(folder) and facts["reading"]["left_out"]
    assert all((folder / name).is_file() for name in table["id"])
    row = table.set_index("id").loc["sea/p 03.jpg"]
    assert row["caption"] == "sea number 3" and row["class_name"] == "sea"
    assert table["id"][row["original"]] == "sea/copy.jpg" and row["why"] == "exact copy of sea/copy.jpg"
    assert table["why"].str.contains(r"number \d+ of \d+|exact copy of").all()
    page = (kept[1] / "report.html").read_text()
    assert NASTY not in page and "&lt;b&gt;cats" in page and not remote(page)
    assert page.count("<img") <= 4 * 20 and "dedt export" in page and "prefers-color-scheme: dark" in page


def test_photographs_without_classes_are_clustered(folder, kept, tmp_path, capsys):
    argv = ["select", str(folder), "--label", "none", "--skip-bad", "--ratio", "0.5", "--out", str(tmp_path)]
    assert main([*argv, "--store", str(kept[0])]) == 0
    table = pd.read_parquet(tmp_path / "coreset.parquet")
    assert table["class_name"].str.startswith("cluster ").all() and table["class"].max() >= 1
    assert "no classes" in capsys.readouterr().out


def test_clusters_are_those_of_separate_clouds():
    rng = np.random.default_rng(0)
    centres = 5 * np.eye(3, 40)
    truth = np.repeat([0, 1, 2], (30, 20, 10))
    features = centres[truth] + 0.1 * rng.normal(size=(60, 40))
    assert cluster(features, 3).tolist() == truth.tolist()
    assert cluster(features[:2], 5).max() == 1


# ---- exports, each opened by the library it is meant for ---------------------------------------------


@pytest.fixture
def exported(kept, tmp_path):
    table = pd.read_parquet(kept[1] / "coreset.parquet")
    return lambda to: told(kept[1], to, tmp_path), table[table["kept"]].set_index("id")


def test_a_list_and_links_lead_to_the_files(folder, exported):
    write, table = exported
    paths = (write("list") / "images.txt").read_text().splitlines()
    assert sorted(paths) == sorted(str(folder / name) for name in table.index)
    links = list(write("links").rglob("*.jpg"))
    jpegs = [folder / name for name in table.index if name.endswith("jpg")]
    assert {link.resolve() for link in links} == {path.resolve() for path in jpegs}
    with_caption = [link for link in links if "number" in str(link)]
    assert all(link.is_symlink() and link.with_suffix(".txt").read_text() for link in with_caption)


def test_datasets_reads_an_imagefolder_and_a_saved_set(folder, exported):
    write, table = exported
    read = datasets.load_dataset("imagefolder", data_dir=str(write("imagefolder")), split="train")
    saved = datasets.load_from_disk(write("datasets"))
    for rows in (read, saved):
        assert len(rows) == len(table) and set(rows["id"]) == set(table.index)
        for row in rows:
            original = Image.open(folder / row["id"]).convert("RGB")
            assert np.array_equal(row["image"].convert("RGB"), original)
            assert row["text"] == (table["caption"][row["id"]] or table["class_name"][row["id"]])
            assert row["weight"] == table["weight"][row["id"]]
    assert saved.features["label"].names == [NASTY, "sea"]
    assert read[0]["label"] in saved.features["label"].names
    # train_text_to_image.py of diffusers needs the columns image and text in its --train_data_dir.
    assert {"image", "text"} <= set(read.column_names)


def test_webdataset_reads_its_tars(exported):
    write, table = exported
    (tar,) = write("webdataset").glob("*.tar")
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("pil"))
    assert {sample["json"]["id"] for sample in samples} == set(table.index)
    for sample in samples:
        assert sample["cls"] == table["class"][sample["json"]["id"]]
        assert (sample.get("jpg") or sample.get("png")).mode == "RGB"


def test_kohya_folders_say_their_repeats(exported):
    root = exported[0]("kohya")
    folders = [path for path in root.iterdir() if path.is_dir()]
    assert all(re.fullmatch(r"\d+_.+", path.name) for path in folders)
    images = [path for path in root.rglob("*") if path.suffix in (".jpg", ".png")]
    assert len(images) == len(exported[1])
    assert all(p.with_suffix(".txt").is_file() for p in images if p.name.startswith("sea%2Fp"))


def test_torch_draws_by_the_weights(exported):
    write, table = exported
    root = write("torch")
    weights, images = np.load(root / "weights.npy"), ImageFolder(root / "images")
    assert len(images) == len(weights) == len(table)
    names = [export.safe(name) for name in table.index]
    by_file = dict(zip(names, table["weight"]))
    for (path, _), weight in zip(images.samples, weights):
        assert by_file[path.rpartition("/")[2]] == weight
    generator = torch.Generator().manual_seed(0)
    drawn = torch.utils.data.WeightedRandomSampler(weights, 20, generator=generator)
    assert set(drawn) <= set(range(len(weights)))


def test_weights_become_repeats(tmp_path):
    items = [
        export.Item(
            f"{i}", f"{i}", None, tiny.png(picture(i)), ".png", i, "abc"[i], "said" * (i == 1), weight
        )
        for i, weight in enumerate((0.5, 1.4, 9))
    ]
    export.to_kohya(iter(items), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10_c", "1_a", "3_b", "repeats.json"]
    assert sorted(file.name for file in (tmp_path / "3_b").iterdir()) == ["1.png", "1.txt"]
    error = json.loads((tmp_path / "repeats.json").read_text())["largest relative error"]
    assert error == pytest.approx(max(abs(np.array([1, 3, 10]) / 14 / (np.array([0.5, 1.4, 9]) / 10.9) - 1)))


def chosen(tmp_path, root, *options):
    """The coreset of all images of a folder, as ``dedt select`` writes it."""
    where = ["--out", str(tmp_path / "all"), "--store", str(tmp_path / "store")]
    assert main(["select", str(root), "--ratio", "1", "--method", "random", *where, *options]) == 0
    return tmp_path / "all"


def told(coreset, to, tmp_path):
    assert main(["export", str(coreset), "--to", to, "--out", str(tmp_path / to)]) == 0
    return tmp_path / to


def test_clusters_are_no_captions_and_no_classes(tmp_path):
    photos = pictures(tmp_path / "photos", {f"{i}.png": i for i in range(6)})
    coreset = chosen(tmp_path, photos, "--label", "none")
    lines = (told(coreset, "imagefolder", tmp_path) / "train" / "metadata.jsonl").read_text()
    assert {json.loads(line)["text"] for line in lines.splitlines()} == {""} and "label" not in lines
    assert [path.name for path in told(coreset, "kohya", tmp_path).glob("*_*")] == ["1_"]
    assert "label" not in datasets.load_from_disk(told(coreset, "datasets", tmp_path)).features


def test_a_single_class_keeps_its_name(tmp_path):
    coreset = chosen(tmp_path, pictures(tmp_path / "corgis", {f"corgi/{i}.png": i for i in range(3)}))
    assert [path.name for path in told(coreset, "kohya", tmp_path).glob("*_*")] == ["1_corgi"]


def test_trainers_find_every_image_whatever_its_suffix(tmp_path):
    (tmp_path / "all kinds" / "a").mkdir(parents=True)
    for suffix, how in {"gif": "GIF", "ico": "ICO", "jfif": "JPEG", "jp2": "JPEG2000", "PNG": "PNG"}.items():
        picture(1, (32, 32)).save(tmp_path / "all kinds" / "a" / f"same.{suffix}", how)
    coreset = chosen(tmp_path, tmp_path / "all kinds")
    root = told(coreset, "torch", tmp_path)
    assert len(ImageFolder(root / "images")) == len(np.load(root / "weights.npy")) == 5
    names = {path.name for path in told(coreset, "kohya", tmp_path).rglob("a%2Fsame*")}
    assert names == {f"a%2Fsame.{end}" for end in ("gif.png", "ico.png", "jfif.jpg", "jp2.png", "PNG.png")}


def test_stems_are_short_and_no_two_are_alike():
    ids = ["a.jpg", "a.png", "A.gif", ".b.jpg", "b.jpg", "shard.tar/00.1"]
    ids += ["c" * 300 + ".png", "c" * 301 + ".png"]
    stems = export.stems(ids)
    assert stems[:6] == ["a.jpg", "a.png", "A.gif", "%2Eb", "b", "shard.tar%2F00.1"]
    for alike in (["photo.jpg", "photo.png", "photo.jpg.jpg"], ["IMG_1.JPG", "img_1.jpg"]):
        assert len({stem.lower() for stem in export.stems(alike)}) == len(alike)
    assert len(set(map(str.lower, stems))) == len(ids) and max(map(len, stems)) <= export.LONGEST


def test_classes_that_are_numbers_stay_these_numbers(tmp_path):
    photos = pictures(tmp_path / "digits", {"3/x.png": 3, "10/x.png": 10, "-11/x.png": 11})
    (tar,) = told(chosen(tmp_path, photos), "webdataset", tmp_path).glob("*.tar")
    samples = webdataset.WebDataset(str(tar), shardshuffle=False).decode()
    assert all(f"{sample['cls']}" == sample["json"]["label"] for sample in samples)


def test_a_list_keeps_captions_and_odd_names_or_says_why_not(tmp_path, capsys):
    photos = pictures(tmp_path / "photos", {os.fsdecode(b"caf\xe9.png"): 0, "plain.png": 1})
    odd, plain = photos / os.fsdecode(b"caf\xe9.png"), photos / "plain.png"
    plain.with_suffix(".txt").write_text("plain, as said")
    out = told(chosen(tmp_path, photos), "list", tmp_path)
    rows = (out / "weights.csv").read_bytes()
    assert b"caf\xe9.png" in rows and b'"plain, as said"' in rows
    assert rows.startswith(b"path,id,weight,caption")
    listed = (out / "images.txt").read_bytes().splitlines()
    assert sorted(map(os.fsdecode, listed)) == [str(odd), str(plain)]
    odd.rename(odd.with_name("a\nb.png"))
    (tmp_path / "second").mkdir()
    coreset = chosen(tmp_path / "second", photos)
    assert main(["export", str(coreset), "--to", "list", "--out", str(tmp_path / "out")]) == 2
    assert "has a line break in its name" in capsys.readouterr().err


def test_pictures_of_cameras_are_jpegs():
    two = io.BytesIO()
    picture(0).save(two, "MPO", save_all=True, append_images=[picture(1)])
    assert Image.open(two).format == "MPO" and export.suffix_of(two.getvalue()) == ".jpg"


def test_an_empty_class_is_told_before_a_reference_is_trained(tmp_path, capsys):
    photos = pictures(tmp_path / "photos", {f"many/{i}.png": i for i in range(20)})
    pictures(photos, {f"few/{i}.png": 20 + i for i in range(2)}, size=(40, 40))
    options = ["--method", "random", "--scope", "global", "--ratio", "0.1", "--store", str(tmp_path / "s")]
    for seed in map(str, range(4)):  # with random selection, some seed keeps none of the class "few"
        assert main(["select", str(photos), *options, "--seed", seed]) == 0
        if "few" in (said := capsys.readouterr().out).partition("warning: no image of ")[2]:
            break
    else:
        pytest.fail(f"every seed keeps one: {said}")
    assert main(["reweight", str(photos), *options, "--seed", seed]) == 2
    assert "Class(es) few keep no image at ratio 0.1" in capsys.readouterr().err
    assert not list((tmp_path / "s").glob("training/*"))


def test_an_image_that_changed_since_is_not_exported(tmp_path, capsys):
    photos = pictures(tmp_path / "photos", {f"{i}.png": i for i in range(3)})
    coreset = chosen(tmp_path, photos)
    pictures(photos, {"1.png": 9})
    assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 2
    assert "1.png in" in (said := capsys.readouterr().err) and "has changed since it was selected" in said
    inside = photos / "out"
    assert main(["export", str(coreset), "--to", "links", "--out", str(inside)]) == 2
    assert "is inside the image folder" in capsys.readouterr().err and not inside.exists()


def test_an_export_names_an_image_of_a_list_that_is_gone(tmp_path, capsys):
    photos = pictures(tmp_path / "photos", {f"{i}.png": i for i in range(3)})
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"photos/{i}.png\n" for i in range(3)))
    coreset = chosen(tmp_path, listed)
    (photos / "1.png").unlink()
    assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 2
    assert "1.png in" in (said := capsys.readouterr().err) and "select again" in said


def test_an_image_that_is_in_another_class_by_now_is_not_exported(tmp_path, capsys):
    table = tmp_path / "photos" / "metadata.csv"
    table.parent.mkdir()
    for i in range(6):
        picture(i).save(table.parent / f"{i}.png")

    def write(classes, said="said"):
        rows = (f"{i}.png,{label},{said} {i}\n" for i, label in enumerate(classes))
        table.write_text("file_name,label,text\n" + "".join(rows))

    write("aaabbb")
    coreset = chosen(tmp_path, table.parent)
    for classes, count in {"aabbbb": 1, "bbbbbb": 3, "bbbaaa": 6}.items():
        write(classes)
        assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 2
        assert f"Kept images have changed class ({count}), such as" in capsys.readouterr().err
    write("xxxyyy", "said better")  # renaming a class does not change it
    lines = (told(coreset, "imagefolder", tmp_path) / "train" / "metadata.jsonl").read_text().splitlines()
    assert {json.loads(line)["text"] for line in lines} == {f"said better {i}" for i in range(6)}


def test_copies_in_other_classes_are_conflicts_and_no_duplicates(tmp_path, capsys):
    own = {"a/own.png": 2, "a/own again.png": 2, "b/own.png": 3, "b/own again.png": 3}
    photos = pictures(tmp_path / "photos", {"a/same.png": 1, "b/same.png": 1, **own})
    options = ["--quick", "--out", str(tmp_path), "--store", str(tmp_path / "s")]
    assert main(["look", str(photos), *options, "--drop", "duplicates"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"duplicates +2 ", said) and re.search(r"conflicts +2 ", said)
    assert "2 images each" not in said
    list_ = tmp_path / "photos.dedt.json"
    left = {"a/own again.png", "a/same.png", "b/own again.png", "b/same.png"}
    assert set(data.find("list", list_).ids) == left
    # A look at the cleaned list leaves out more, and the new list does not refer to itself.
    assert main(["look", str(list_), *options, "--drop", "conflicts"]) == 0
    assert set(data.find("list", list_).ids) == {"a/own again.png", "b/own again.png"}


def test_a_cleaned_list_remembers_that_there_are_no_classes(tmp_path):
    photos = pictures(tmp_path / "photos", {"a/own.png": 1, "b/own.png": 2})
    where = ["--out", str(tmp_path), "--store", str(tmp_path / "s")]
    assert main(["look", str(photos), "--label", "none", "--quick", "--drop", "bad", *where]) == 0
    assert data.find("list", tmp_path / "photos.dedt.json").class_names == ()


def test_a_folder_of_which_nothing_can_be_read_is_refused(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "photos" / name).write_text("no image")
    argv = ["select", str(tmp_path / "photos"), "--skip-bad", "--ratio", "1", "--store", str(tmp_path / "s")]
    assert main(argv) == 2 and "All 2 images in" in capsys.readouterr().err


def test_an_export_that_cannot_be_whole_leaves_nothing(kept, folder, tmp_path, capsys):
    coreset = shutil.copytree(kept[1], tmp_path / "coreset")
    table = pd.read_parquet(coreset / "coreset.parquet")
    table.loc[table["kept"].idxmax(), ["id", "content"]] = "sea/gone.jpg", "0"
    table.to_parquet(coreset / "coreset.parquet")
    assert main(["export", str(coreset), "--to", "links", "--out", str(tmp_path / "out")]) == 2
    assert "1 images of the coreset are no longer in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", str(coreset), "--to", "zip", "--out", str(tmp_path / "out")]) == 2
    assert main(["export", str(kept[1]), "--to", "list", "--out", str(coreset)]) == 2
    assert "not empty" in capsys.readouterr().err


# ---- published networks ------------------------------------------------------------------------------


def test_efficientnet_lite0_is_the_network_of_its_package():
    network = encoders.load_pretrained("efficientnet-lite0")
    x = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        features = network.features(x)
    assert features.shape == (1, 1280)
    # Features of the package's own network (efficientnet-lite-pytorch 0.1.0) for the same input.
    golden = np.load(__file__.replace("test_photos.py", "golden/lite0.npy"))
    np.testing.assert_allclose(features.numpy(), golden, atol=1e-4)


def test_networks_of_timm_and_open_clip_are_read_from_their_files(tmp_path):
    import open_clip
    import timm
    from safetensors.torch import save_file
    from timm.models import save_for_hf

    x = torch.rand(2, 3, 40, 40) * 2 - 1
    own = timm.create_model("resnet10t", num_classes=10).eval()
    save_for_hf(own, tmp_path / "timm", safe_serialization=True)
    own.reset_classifier(0)
    read = encoders.load_pretrained(f"timm:{tmp_path / 'timm'}")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    clip = open_clip.CLIP(**config).eval()
    (tmp_path / "clip").mkdir()
    state = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(state, tmp_path / "clip" / "open_clip_model.safetensors")
    settings = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(settings))
    tower = encoders.load_pretrained(f"open_clip:{tmp_path / 'clip'}")
    with torch.no_grad():
        torch.testing.assert_close(read.features(x), own(read.preprocess(x)))
        torch.testing.assert_close(tower.features(x), clip.encode_image(tower.preprocess(x)))
    assert read.size == 176 and tower.size == 32 and tower.std.flatten().tolist() == [0.25] * 3
    (tmp_path / "timm" / "config.json").write_text("{}")
    with pytest.raises(DedtError, match="timm cannot read the network in"):
        encoders.load_pretrained(f"timm:{tmp_path / 'timm'}")


def test_each_encoder_sees_photographs_at_its_own_size(folder, kept, monkeypatch):
    sizes, plain = [], encoders.Pretrained.features

    def features(network, images):
        sizes.append(tuple(images.shape[2:]))
        return plain(network, images)

    monkeypatch.setattr(encoders.Pretrained, "features", features)
    profile = load_profile("photos", **{"data.path": str(folder), "data.skip_bad": True})
    x = Experiment(profile, store=Store(kept[0] / "other"), ratio=0.5)
    x.select()
    assert set(sizes) == {(224, 224)} and x.lab.shape == (3, 32, 32)
    assert not (kept[0] / "other" / "images").exists()


def test_an_imagined_lab_reads_no_photograph(folder):
    profile = load_profile("photos", **{"data.source": "folder", "data.path": str(folder)})
    lab = Lab(profile, counts=[4, 4])
    assert Embed(lab, encoder(lab)).seen is lab.images


def test_held_out_images_are_numbered_as_the_training_images(tmp_path):
    names = [f"{name}/{i}.png" for name in ("ant", "bee", "cat") for i in range(4)]
    for split, first in (("train", 0), ("test", 50)):
        pictures(tmp_path / "a" / split, {name: first + k for k, name in enumerate(names)})
    for file in (tmp_path / "a" / "train" / "ant").iterdir():
        file.write_bytes(b"torn")
    (tmp_path / "a" / "test" / "cat" / "0.png").write_bytes(b"torn")
    changes = {"data.source": "folder", "data.path": str(tmp_path / "a"), "data.skip_bad": True}
    lab = Lab(load_profile("photos", **changes), store=Store(tmp_path / "store"), report=tmp_path)
    assert lab.class_names == lab.test.class_names == ("bee", "cat")
    assert lab.test.labels.tolist() == [0] * 4 + [1] * 3
    unreadable, of_test = ((tmp_path / f"{start}unreadable.dedt.txt").read_text() for start in ("", "test-"))
    assert unreadable.count("train/ant/") == 4 and "test" not in unreadable
    assert of_test.count("\n") == 1 and "test/cat/0.png" in of_test


def test_clusters_need_a_network_that_is_not_trained_on_them(tmp_path):
    picture(0).save(tmp_path / "a.png")
    changes = {"data.source": "folder", "data.path": str(tmp_path), "select.cluster_encoder": "resnet18"}
    with pytest.raises(DedtError, match="'resnet18' would first have to be trained on these clusters"):
        assert Lab(load_profile("photos", **changes), store=Store(tmp_path / "store")).photos


def test_samples_do_not_go_among_the_images(tmp_path, capsys):
    picture(0).save(tmp_path / "a.png")
    assert main(["run", str(tmp_path), "--out", str(tmp_path / "everything")]) == 2
    assert "everything is inside" in capsys.readouterr().err
    assert not (tmp_path / "everything").exists()


def test_a_webdataset_may_be_written_under_any_name(kept, tmp_path):
    export.export(kept[1], "webdataset", tmp_path / "100% mine")
    assert (tmp_path / "100% mine" / "train-000000.tar").exists()
