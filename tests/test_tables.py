import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from test_findings import results as frame_of

from dedt_lib.book import grid, paper, results, tables
from dedt_lib.config.profile import load_profile
from dedt_lib.config.recipe import Recipe
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent


def test_a_table_has_every_row_at_its_ratios():
    found = grid.cells("table1", tiny.profile())
    assert ("random", 0.1, 0) in found and ("random", 0.4, 0) in found and ("full", 1.0, 0) in found
    assert [ratio for row, ratio, _ in found if row == "moderate-literal-dro"] == [0.1]
    assert len(found) == len(set(found)) == 9 * 2 + 1 + 1


def test_every_seed_of_the_profile_is_there_and_long_runs_come_first():
    found = grid.cells("table1", tiny.profile(seeds=(0, 3)))
    assert {seed for _, _, seed in found} == {0, 3} and len(found) == 40
    assert [ratio for _, ratio, _ in found] == sorted((ratio for _, ratio, _ in found), reverse=True)


@pytest.mark.parametrize("row", grid.ROWS)
def test_every_row_is_a_valid_recipe_with_a_label(row):
    recipe = grid.cell_recipe(row, 0.1, 2)
    assert Recipe(**recipe).seed == 2 and row in grid.LABELS


@pytest.mark.parametrize("profile", ["smoke", "digits", "paper", "imagenet"])
def test_a_cell_comes_after_the_one_whose_work_it_uses(profile):
    for cell in grid.all_cells(profile):
        before = grid.cell_before(*cell, profile)
        recipe = Recipe(**grid.cell_recipe(*cell))
        assert (before is None) == (not (recipe.reweighting or recipe.early_stopping or recipe.unguided))
        if before:
            own = Recipe(**grid.cell_recipe(*before))
            seed = (
                load_profile(profile).seed_after(recipe.seed)
                if recipe.null == "another-seed"
                else recipe.seed
            )
            assert (own.model, own.seed) == (recipe.model, seed)
            control = (
                {"unguided": False}
                if recipe.unguided
                else {"null": "", "seed": seed}
                if recipe.null
                else None
            )
            assert own == recipe.model_copy(update=control) if control else own.ratio == 1
            assert grid.cell_before(*before, profile) != cell


def test_a_row_of_ones_own_depends_on_no_row_that_is_not_there(monkeypatch):
    for name, recipe in {
        "mine": {"unguided": True},
        "own": {"reweighting": True, "null": "shuffled"},
        "new": {"model": "new"},
    }.items():
        monkeypatch.setitem(grid.ROWS, name, recipe)
        assert grid.cell_before(name, 0.1, 0, "digits") is None
    assert grid.row_ratios("new", "digits") == ()


@pytest.mark.parametrize("ratio, percent", [(0.1, "10"), (0.07, "7"), (0.125, "12.5"), (1.0, "100")])
def test_a_cell_is_named_by_its_percentage(ratio, percent):
    assert grid.cell_name("moderate", ratio, 3) == f"moderate-{percent}-3"


def test_the_book_says_how_many_cells_a_dry_run_shows():
    counts = re.findall(r"^(?:cell|total) +(\d+)$", (ROOT / "book" / "running.md").read_text(), re.MULTILINE)
    cells = len(grid.all_cells("smoke"))
    assert [int(count) for count in counts] == [cells, cells + 1], (
        f"a row was added or removed: write {cells} and {cells + 1} into book/running.md"
    )


def test_unknown_names_and_ratios():
    with pytest.raises(DedtError, match="Unknown table 'table9'. Choose one of: table1"):
        grid.cells("table9", "smoke")
    with pytest.raises(DedtError, match="Unknown row 'best'. Choose one of: random"):
        grid.cell_recipe("best", 0.1, 0)
    for ratio in (0, 2):
        with pytest.raises(DedtError, match="ratio"):
            grid.cell_recipe("random", ratio, 0)


def test_results_are_written_read_and_summed(tmp_path, smoke):
    for row in ("random", "moderate-reweighted"):
        results.run_cell(tiny.profile(), row, 0.1, 0, root=tmp_path, store=smoke.store)
    written = json.loads((tmp_path / "smoke" / "cells.jsonl").read_text().splitlines()[1])
    assert written.pop("cell") == "random-10-0" and not list(tmp_path.glob("*/pending/*.json"))
    frame = results.read_cells(tiny.profile(), root=tmp_path).set_index("row")
    random, reweighted = frame.loc["random"], frame.loc["moderate-reweighted"]
    assert random["fid"] == written["fid"] and random["worst"] == max(written["classwise"])
    assert random["result"] == written and written["row"] == "random"
    assert random["whole_images"] == random["images"] == 240
    assert reweighted["images"] == 240 and reweighted["whole_images"] == 2400 + 240 + 240
    assert reweighted["whole_evaluations"] == 3 * 2400 + 4 * 240 + 3 * 240 and random["realised"] == 0.1
    assert reweighted["whole_cpu_seconds"] > reweighted["cpu_seconds"]


def wait(root, cell, seed):
    """Write a pending result, as a worker of the grid does; its name, JSON and samples."""
    folder = root / "smoke" / "pending"
    folder.mkdir(parents=True, exist_ok=True)
    cell = {**cell, "recipe": {**cell["recipe"], "seed": seed}}
    name = grid.cell_name(cell["row"], cell["recipe"]["ratio"], seed)
    write_json(folder / f"{name}.json", cell)
    images = np.random.default_rng(seed).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    Image.fromarray(np.concatenate(list(images), axis=1)[0]).save(folder / f"{name}.png")
    return name, cell, images


def test_pending_cells_are_read_and_collected_unchanged(smoke, tmp_path):
    cell = {"row": "random", **smoke.cell()}
    waiting = [wait(tmp_path, cell, seed) for seed in (0, 1)]
    folder = tmp_path / "smoke"

    def check():
        kept = results.read_cells(tiny.profile(), root=tmp_path)
        assert list(kept.result) == [cell for _, cell, _ in waiting]
        for name, _, images in waiting:
            row, percent, seed = name.split("-")
            kept = results.read_samples("smoke", row, int(percent) / 100, int(seed), root=tmp_path)
            assert np.array_equal(kept, images)
        assert results.done(tiny.profile(), root=tmp_path) == {"random-10-0", "random-10-1"}

    check()
    for names, count in ((["random-10-1"], 1), ((), 1), ((), 0)):
        assert results.collect(tiny.profile(), names, root=tmp_path) == count
        check()
    lines = (folder / "cells.jsonl").read_text().splitlines()
    sheet = (folder / "samples" / "random.png").read_bytes()
    wait(tmp_path, {**cell, "fid": 7.0}, 1)
    assert results.collect(tiny.profile(), root=tmp_path) == 1
    again = (folder / "cells.jsonl").read_text().splitlines()
    assert again[0] == lines[0] and again[1] != lines[1] and '"fid":7.0' in again[1]
    assert (folder / "samples" / "random.png").read_bytes() == sheet


def test_a_collection_that_was_killed_is_done_again(smoke, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    wait(tmp_path, {"row": "random", **smoke.cell()}, 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        results.collect(tiny.profile(), root=tmp_path)
    assert len(results.read_cells(tiny.profile(), root=tmp_path)) == 1
    assert results.collect(tiny.profile(), root=tmp_path) == 1
    assert len(results.read_cells(tiny.profile(), root=tmp_path)) == 1


def test_a_result_under_the_name_of_another_cell_is_refused(smoke, tmp_path):
    wait(tmp_path, {"row": "random", **smoke.cell()}, 0)
    folder = tmp_path / "smoke" / "pending"
    (folder / "random-10-0.json").rename(folder / "random-20-0.json")
    with pytest.raises(
        DedtError, match="random-20-0.json is not a valid result of a cell.*it belongs to random-10-0"
    ):
        results.collect("smoke", root=tmp_path)


def test_running_a_cell_again_writes_the_same_result(tmp_path, smoke):
    _, first = results.run_cell(tiny.profile(), "random", 0.1, 0, root=tmp_path / "a", store=smoke.store)
    _, again = results.run_cell(tiny.profile(), "random", 0.1, 0, root=tmp_path / "b", store=smoke.store)
    name = "smoke/cells.jsonl"
    assert first == again
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_results_say_how_to_make_them(tmp_path):
    with pytest.raises(DedtError, match="No results in .*PROFILE=smoke"):
        results.read_cells(tiny.profile(), root=tmp_path)


def test_a_damaged_result_is_named(smoke, tmp_path):
    name, *_ = wait(tmp_path, {"row": "random", **smoke.cell()}, 0)
    (tmp_path / "smoke" / "pending" / f"{name}.json").write_text("{")
    for read in (results.read_cells, results.collect):
        with pytest.raises(DedtError, match="random-10-0.json is not a valid result of a cell"):
            read("smoke", root=tmp_path)


@pytest.mark.parametrize(
    "content",
    ["\n", "{", "{}", "[]", "null", "3", '{"row": 1}', '{"recipe": [], "costs": {"train": 3}}', "\xff"],
)
def test_a_result_that_is_none_is_named_and_the_advice_mends_it(content, tmp_path, monkeypatch, smoke):
    root = tmp_path / "results"
    monkeypatch.setenv("DEDT_RESULTS", str(root))
    results.run_cell(tiny.profile(), "random", 0.1, 0, store=smoke.store)
    file = root / "smoke" / "cells.jsonl"
    good = file.read_bytes()
    file.write_text(content, encoding="latin-1")
    advice = f"line 1 of {file} is not a valid result.*Delete it, and run make tables with this profile again"
    with pytest.raises(DedtError, match=advice):
        results.read_cells(tiny.profile())
    file.unlink()
    results.run_cell(tiny.profile(), "random", 0.1, 0, store=smoke.store)
    assert file.read_bytes() == good and len(results.read_cells(tiny.profile())) == 1


def sheet_of_samples(root, shape):
    """Write a picture of samples of the row "random"; its file and its images."""
    file = root / "digits" / "samples" / "random.png"
    file.parent.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    results._write_sheet(file, {"random-10-0": images})
    return file, images


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:50] + b"x" + b[51:]])
def test_a_damaged_picture_of_samples_is_named(damage, tmp_path):
    picture, _ = sheet_of_samples(tmp_path, (1, 8, 8))
    picture.write_bytes(damage(picture.read_bytes()))
    with pytest.raises(
        DedtError, match=f"{picture} is not a readable picture of samples .*Delete it to go without"
    ):
        results.read_samples("digits", "random", 0.1, 0, root=tmp_path)
    picture.unlink()
    assert results.read_samples("digits", "random", 0.1, 0, root=tmp_path) is None


def test_a_class_without_a_value_is_not_the_worst(smoke, tmp_path):
    cell = {"row": "random", **smoke.cell()}
    older = {name: value for name, value in cell.items() if name not in ("copies_features", "leaks")}
    for seed, (kind, values) in enumerate(((cell, [1.0, None, 3.0]), (cell, [None]), (older, []))):
        wait(tmp_path, {**kind, "classwise": values}, seed)
    frame = results.read_cells(tiny.profile(), root=tmp_path)
    assert frame.worst[0] == 3 and frame.worst[1:].isna().all()
    assert frame.copies_features[0] == cell["copies_features"] and frame.copies_features.isna()[2]


# ---- what the book prints ------------------------------------------------------------------------


def test_a_table_prints_mean_and_interval_and_a_dash_for_what_is_missing():
    frame = frame_of(random=[1.0, 3.0], moderate=[0.5])
    frame.loc[2, "ratio"] = 0.2
    table = tables.layout(frame)
    assert table.loc["Uniform random", "10 %"] == "2.00 ± 12.71"  # t is 12.706, the standard error is 1
    assert table.loc["ResNet-18, Moderate-DS", "20 %"] == "0.50 (n = 1)"
    assert table.loc["ResNet-18, Moderate-DS", "10 %"] == "–"


def test_intervals_leave_out_what_has_no_value():
    found = tables.intervals(frame_of(random=[1.0, 3.0, np.nan], moderate=[0.5]), ["row", "ratio"])
    assert found.loc[("random", 0.1)].tolist() == pytest.approx([2, 2 - 12.706205, 2 + 12.706205, 2])
    assert found.loc[("moderate", 0.1), "mean"] == 0.5 and np.isnan(found.loc[("moderate", 0.1), "low"])
    assert len(tables.intervals(frame_of(), "ratio")) == 0


def test_the_papers_numbers_have_columns_of_their_own():
    table = tables.layout(frame_of(random=[1.0], gaussian=[2.0]), published=paper.TABLE_1)
    assert table.loc["Uniform random", "paper, 10 %"] == "8.12"
    assert table.loc["ResNet-18, Gaussian", "paper, 10 %"] == "–"


def test_tables_share_their_runs():
    found = grid.all_cells("digits")
    assert len(found) == len(set(found)) and set(grid.cells("table3", "digits")) < set(found)
    assert set(grid.cells("figure2", "digits")) <= set(grid.cells("table1", "digits"))


@pytest.mark.parametrize("own, other", [("class", "global"), ("global", "class")])
def test_a_profiles_own_scope_is_no_row_of_its_own(own, other):
    rows = grid.table_rows("table1", tiny.profile(**{"select.moderate_scope": own}))
    assert f"moderate-{other}" in rows and f"moderate-{own}" not in rows


@pytest.mark.parametrize("published", [paper.TABLE_1, paper.TABLE_2, paper.TABLE_3])
def test_every_row_of_the_paper_is_here(published):
    assert set(published) <= set(grid.ROWS) and all(len(row) == 4 for row in published.values())


def test_a_speedup_is_the_full_run_over_the_run():
    frame = frame_of(full=[1.0], moderate=[2.0])
    costs = {"images": [80, 8], "evaluations": [240, 24], "seconds": [40.0, 10.0], "cpu_seconds": [60.0, 6.0]}
    whole = {f"whole_{name}": [values[0], 2 * values[0]] for name, values in costs.items()}
    frame = frame.assign(**costs, **whole)
    row = ("ResNet-18, Moderate-DS", "10 %")
    expected = {"images": 10, "network evaluations": 10, "CPU time": 10, "wall clock": 4}
    assert tables.speedups(frame, ["moderate"]).loc[row].to_dict() == pytest.approx(expected)
    assert (tables.speedups(frame, ["moderate"], whole=True).loc[row] == 0.5).all()
    told = tables.whole_speedups(frame, ["moderate", "random"])
    assert told.to_dict() == {"10 %": {"ResNet-18, Moderate-DS": "0.50"}}
    assert tables.whole_speedups(frame[:0], ["moderate"]).empty
    shares = tables.costs(frame.assign(whole_cpu_seconds=[60.0, 15.0]), ["moderate"]).loc[row]
    assert shares.tolist() == pytest.approx([10, 200, 25])


@pytest.mark.parametrize("profile", ["digits", "cifar10-latent"])
def test_the_results_of_a_profile_are_few_files_and_show_samples_of_each_cell(profile):
    assert sum(file.is_file() for file in (ROOT / "results" / profile).rglob("*")) <= 40
    for row, ratio, seed in results.read_cells(profile)[["row", "ratio", "seed"]].itertuples(index=False):
        assert len(results.read_samples(profile, row, ratio, seed)) > 0


@pytest.mark.parametrize("profile", ["digits", "cifar10-latent"])
def test_every_part_of_a_ledger_is_of_the_model_or_of_its_measuring(profile):
    known = {*results.MODEL, "sample", "evaluate"}
    assert all(known >= result["costs"].keys() for result in results.read_cells(profile).result)


def test_only_missing_cells_are_computed(tmp_path, monkeypatch):
    computed = []
    monkeypatch.setattr(results, "results_folder", lambda *_: tmp_path)
    monkeypatch.setattr(results, "run_cell", lambda profile, *cell: computed.append(cell))
    monkeypatch.setattr(results, "done", lambda profile: {"full-100-0"})
    assert results.compute_missing(tiny.profile()) == 19 == len(computed)
    assert ("full", 1.0, 0) not in computed and ("random", 0.1, 0) in computed


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
def test_samples_come_back_from_their_picture(shape, tmp_path, monkeypatch):
    monkeypatch.setenv("DEDT_RESULTS", str(tmp_path))
    _, images = sheet_of_samples(tmp_path, shape)
    assert np.array_equal(results.read_samples("digits", "random", 0.1, 0), images)
    assert results.read_samples("digits", "random", 0.2, 0) is None


def test_large_samples_are_kept_small(tmp_path):
    results._write_sheet(tmp_path / "large.png", {"a-10-0": np.full((3, 3, 256, 256), 7, dtype=np.uint8)})
    with Image.open(tmp_path / "large.png") as picture:
        assert picture.size == (64, 192) and np.asarray(picture).min() == 7


def test_a_reading_is_that_of_the_proxy(smoke):
    experiment = smoke.change(method="moderate", reweighting=True)
    told, found = experiment.reweight(), results.reading(experiment.cell())
    assert found["burn_in"] == told["burn_in"]
    told = {**told, "excess": told["excess"].mean(axis=1), "step": np.arange(len(told["trajectory"]))}
    for name, atol in {"step": 0, "trajectory": 1e-5, "clipped": 1e-4, "excess": 1e-6, "weights": 0}.items():
        np.testing.assert_allclose(found[name], told[name], atol=atol)


def test_results_are_of_one_setting_of_their_profile(tmp_path):
    profile = tiny.profile()
    results.check_settings(profile, root=tmp_path, keep=True)
    free = {"seeds": (0, 1), "unet.ratios": (0.1, 0.2), "train.checkpoint_every": 7, "data.path": "elsewhere"}
    results.check_settings(load_profile(profile, **free), root=tmp_path)
    changed = load_profile(profile, **{"unet.batch_size": 7})
    for use in (results.done, results.read_cells):
        with pytest.raises(DedtError, match=r"unet.batch_size = 25, now 7.*move the folder away"):
            use(changed, root=tmp_path)
    assert results.done(profile, root=tmp_path) == set()
    noted = tmp_path / profile.name / "profile.json"
    older = read_json(noted)
    del older["select.gaussian_ridge"]  # as if the key had been added since: the results had its default
    write_json(noted, older)
    with pytest.raises(DedtError, match="select.gaussian_ridge = .*, now 0.5"):
        results.done(load_profile(profile, **{"select.gaussian_ridge": 0.5}), root=tmp_path)
    results.check_settings(profile, root=tmp_path, keep=True)
    assert "select.gaussian_ridge" in read_json(noted)
    noted.write_text("{")
    with pytest.raises(DedtError, match="restore it with git checkout"):
        results.done(profile, root=tmp_path)
    noted.unlink()
    (noted.parent / "cells.jsonl").write_text("")
    with pytest.raises(DedtError, match="profile.json is missing, so the settings of the results"):
        results.check_settings(changed, root=tmp_path, keep=True)


def test_results_are_of_the_same_images(tmp_path):
    profile = tiny.profile()
    results.check_settings(profile, root=tmp_path, keep=True)
    results.check_settings(profile, root=tmp_path, keep=True, images="a")
    results.check_settings(profile, root=tmp_path)
    with pytest.raises(DedtError, match="were made with other images"):
        results.check_settings(profile, root=tmp_path, images="b")


def test_results_that_wait_are_of_the_same_images(smoke, tmp_path):
    for seed, images in enumerate("ab"):
        recipe = {**smoke.cell()["recipe"], "seed": seed}
        wait(tmp_path, {"row": "random", "images": images, **smoke.cell(), "recipe": recipe}, seed)
    with pytest.raises(DedtError, match="were made with other images"):
        results.collect("smoke", root=tmp_path)
    assert len(list((tmp_path / "smoke" / "pending").glob("*.json"))) == 2
    assert not (tmp_path / "smoke" / "cells.jsonl").exists()


def test_a_profile_that_is_edited_meanwhile_stays_as_it_was_read(tmp_path, monkeypatch, smoke):
    file, root = tmp_path / "mine.toml", tmp_path / "results"
    file.write_text('extends = "smoke"\nunet.epochs = 2\n')
    cell = Experiment.cell

    def edited(experiment):
        file.write_text('extends = "smoke"\nunet.epochs = 3\n')
        return cell(experiment)

    monkeypatch.setattr(Experiment, "cell", edited)
    results.run_cell(file, "random", 0.1, 0, store=smoke.store, root=root)
    noted = json.loads((root / "mine" / "profile.json").read_text())
    assert noted["unet.epochs"] == 2 and noted["images"]
    with pytest.raises(DedtError, match="unet.epochs = 2, now 3"):
        results.done(file, root=root)


def test_results_that_are_committed_say_of_which_values():
    kept = list((ROOT / "results").glob("*/cells.jsonl"))
    assert kept and all(file.with_name("profile.json").exists() for file in kept)


def test_a_line_of_another_profile_or_twice_is_refused(smoke, tmp_path):
    wait(tmp_path, {"row": "random", **smoke.cell()}, 0)
    results.collect("smoke", root=tmp_path)
    file = tmp_path / "smoke" / "cells.jsonl"
    line = file.read_text()
    file.write_text(line + line.replace('"fid":', '"fid":1'))
    with pytest.raises(
        DedtError, match="line 2 of .* is a second result of random-10-0. Delete one of the two"
    ):
        results.read_cells("smoke", root=tmp_path)
    file.write_text(line.replace('"profile":"smoke"', '"profile":"short"'))
    with pytest.raises(DedtError, match="it belongs to profile short"):
        results.read_cells("smoke", root=tmp_path)


def test_a_ratio_of_three_digits_is_the_same_behind_its_name():
    for ratio in (0.333, 1 / 3, 0.1, 0.3, 0.07):
        percent = float(grid.cell_name("random", ratio, 0).split("-")[1])
        assert round(percent / 100, 10) == round(ratio, 10)
    assert round(float(grid.cell_name("random", 0.333, 0).split("-")[1]) / 100, 10) == 0.333


@pytest.mark.parametrize(
    "name, row, message",
    [
        (
            "moderate",
            grid.Row("Mine", {}, "table1"),
            "The row 'moderate' already exists\\. Choose another name",
        ),
        ("mine", grid.Row("Mine", {}, "table9"), "Unknown table 'table9'. Choose one of: table1"),
        ("mine", grid.Row("Mine", {"mthod": "random"}, "table1"), "mthod"),
    ],
)
def test_a_row_that_cannot_be_entered_is_refused(name, row, message):
    with pytest.raises(DedtError, match=message):
        grid.add_row(name, row)
    assert grid.LABELS.get(name) != "Mine"


def test_the_cost_in_evaluations_is_the_same_for_every_seed():
    frame = results.read_cells("digits", root=ROOT / "results")
    rows = set(frame.row) - {"infobatch-annealed"}  # its losses decide how much it sees
    for full in grid.FULL.values():
        same = {row for row in rows if grid.ROWS[row].get("model") == grid.ROWS[full].get("model")}
        speed = tables.speedups_by_seed(frame, same, whole=True, full=full)["network evaluations"]
        assert len(speed) and speed.groupby(level=[0, 1]).agg(np.ptp).max() < 1e-9
