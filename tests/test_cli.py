"""The command line, called in this process, on the smoke profile with a temporary store."""

import contextlib
import errno
import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from PIL import Image

from dedt_lib import plan
from dedt_lib import store as store_module
from dedt_lib.book import grid, results
from dedt_lib.config.profile import load_profile
from dedt_lib.config.recipe import Recipe
from dedt_lib.encoders import SmallClassifier
from dedt_lib.errors import DedtError
from dedt_lib.experiment import Experiment
from dedt_lib.processes import Processes
from dedt_lib.selection import Coreset
from dedt_lib.shell import cli, printing
from dedt_lib.store import Store

STAGES = ("embed", "select", "reweight", "train", "sample", "evaluate")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def dedt(store, capsys):
    """A function that runs one command and returns (exit status, standard output, standard error)."""

    def command(*argv):
        status = cli.main([*map(str, argv), "--store", str(store)])
        return status, *capsys.readouterr()

    return command


@pytest.fixture
def dedt_plan(capsys):
    """A function that runs ``dedt plan`` and returns (exit status, standard output, standard error)."""

    def command(*argv):
        status = cli.main(["plan", *map(str, argv)])
        return status, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An image folder: two classes of noise, one brighter than the other, in odd sizes."""
    root, noise = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for brightness, name in ((0, "dark"), (100, "light")):
        (root / name).mkdir()
        for i in range(20):
            pixels = noise.integers(brightness, brightness + 100, (9 + i % 3, 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("verb", STAGES)
def test_each_verb_prints_its_result_and_writes_its_files(verb, dedt, tmp_path):
    status, printed, _ = dedt(verb, "--profile", "smoke", "--method", "random", "--out", tmp_path)
    assert status == 0
    samples = load_profile("smoke").sample.count
    text, files = {
        "embed": ("features each", "features.npy labels.npy"),
        "select": ("images kept", "coreset.parquet coreset.json"),
        "reweight": ("effective classes", "weights.json coreset.parquet coreset.json"),
        "train": ("steps: ", "model.safetensors"),
        "sample": (f"{samples} samples of shape 1 x 8 x 8", "samples.npy sample_labels.npy samples.png"),
        "evaluate": ("between halves of the real images", "metrics.json"),
    }[verb]
    assert text in printed
    assert (f"FID of {samples} samples (seed 0) against" in printed) == (verb == "evaluate")
    assert {path.name for path in tmp_path.iterdir()} == set(files.split())


@pytest.mark.parametrize("verb", STAGES)
def test_on_a_full_disk_what_out_held_before_stays(verb, dedt, tmp_path, monkeypatch):
    chosen = ("coreset.parquet", "coreset.json", "weights.json")
    names = ("features.npy", "labels.npy", "model.safetensors", "samples.npy", "samples.png", "metrics.json")
    names = chosen if verb in ("select", "reweight") else names
    for name in names:
        (tmp_path / name).write_text("before")
    dedt(verb, "--profile", "smoke", "--method", "random")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", full)
    status, _, error = dedt(verb, "--profile", "smoke", "--method", "random", "--out", tmp_path)
    assert status == 2 and error.startswith(f"dedt: No space left on the disk while writing {tmp_path}")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "before")


def test_a_trained_stable_diffusion_is_written_as_a_pipeline(dedt, tmp_path, monkeypatch):
    training = {"steps": 3, "losses": np.ones(3), "key": "k", "training_seconds": 1.0, "device": "cpu"}
    monkeypatch.setattr(Experiment, "train", lambda self: SmallClassifier(1, 10))
    monkeypatch.setattr(Experiment, "training", lambda self: training)
    monkeypatch.setattr(Experiment, "save_pipeline", lambda self, folder: folder.mkdir())
    choice = ("--profile", "smoke", "--model", "stable-diffusion", "--method", "random", "--out", tmp_path)
    status, printed, _ = dedt("train", *choice)
    assert status == 0 and "model stable-diffusion" in printed and "wrote pipeline" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_samples_of_a_latent_model_are_measured_by_more_than_fid(dedt, tmp_path):
    choice = ("--profile", "smoke", "--model", "mdt", "--method", "random")
    status, printed, _ = dedt("evaluate", *choice, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert status == 0 and f"CMMD: {metrics['cmmd']:.3g}" in printed
    assert f"KID: {metrics['kid']:.3g}" in printed


@pytest.mark.parametrize("annealing", [False, True])
def test_the_control_at_equal_steps_says_how_many_it_took(annealing, dedt):
    options = ["--early-stopping", "--ratio", "0.1", *(["--annealing"] if annealing else [])]
    status, printed, _ = dedt("train", "--profile", "smoke", *options)
    # Eight epochs of 50 digits in batches of 25, or seven of 50 and one of all 500; the full run takes 160.
    steps = 7 * 2 + 20 if annealing else 8 * 2
    assert status == 0 and f"the weights after {steps} of the 160 steps" in printed


def test_reweight_writes_weights_that_sum_to_one(dedt, tmp_path):
    _, printed, _ = dedt("reweight", "--profile", "smoke", "--method", "random", "--out", tmp_path)
    facts = json.loads((tmp_path / "weights.json").read_text())
    assert sum(facts["class_weights"]) == pytest.approx(1)
    np.testing.assert_allclose(Coreset.load(tmp_path).weights, facts["class_weights"])
    assert f"{10 * facts['class_weights'][0]:.3f}" in printed


def test_run_of_an_image_folder_from_images_to_metrics(dedt, photos, tmp_path):
    given = ("--profile", "smoke", "--data", photos, "--set", "data.channels=3", "--out", tmp_path)
    status, printed, _ = dedt("run", *given, "--ratio", 0.2, "--reweighting")
    assert status == 0
    assert "dark" in printed and "light" in printed
    assert "FID of 100 samples (seed 0) against all 40 training images" in printed
    recipe = "moderate at ratio 0.2, encoder resnet18, scope class, centre median, reweighting, seed 0"
    assert recipe in printed
    assert Coreset.load(tmp_path).counts.tolist() == [4, 4]
    assert np.load(tmp_path / "samples.npy").shape[1:] == (3, 8, 8)
    assert np.load(tmp_path / "features.npy").shape[0] == len(np.load(tmp_path / "labels.npy")) == 40
    cell = json.loads((tmp_path / "cell.json").read_text())
    assert cell["fid"] == json.loads((tmp_path / "metrics.json").read_text())["fid"]
    assert cell["class_names"] == ["dark", "light"]
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.height > sheet.width > 64


def test_a_folder_holds_the_results_of_one_coreset(dedt, tmp_path):
    choice = ("--profile", "smoke", "--method", "random", "--out", tmp_path)
    assert dedt("select", *choice, "--ratio", 0.2)[0] == 0
    assert dedt("select", *choice, "--ratio", 0.1)[0] == 0  # chosen again
    status, _, error = dedt("sample", *choice, "--ratio", 0.2)
    assert status == 2 and "holds results of another coreset (coreset.json)" in error
    assert dedt("sample", *choice, "--ratio", 0.1)[0] == 0
    status, _, error = dedt("select", *choice, "--ratio", 0.2)
    assert status == 2 and "another coreset (samples.npy, samples.png)" in error
    assert Coreset.load(tmp_path).ratio == 0.1
    status, _, error = dedt("train", *choice, "--ratio", 0.1, "--early-stopping")
    assert status == 2 and "holds results of another coreset" in error
    status, _, error = dedt("reweight", *choice, "--ratio", 0.1)
    assert status == 2 and "trained without class weights" in error
    weighted = (*choice[:-1], tmp_path / "weighted", "--ratio", 0.1)
    assert dedt("reweight", *weighted)[0] == 0
    status, _, error = dedt("train", *weighted)
    assert status == 2 and "add --reweighting" in error
    assert dedt("train", *weighted, "--reweighting")[0] == 0


def test_stages_are_shared_and_listed(dedt):
    dedt("select", "--profile", "smoke", "--method", "random", "--seed", 7)
    _, before, _ = dedt("show")
    dedt("select", "--profile", "smoke", "--method", "random", "--seed", 7)
    _, after, _ = dedt("show")
    assert before == after
    assert "method=random ratio=0.1 scope=class seed=7" in after


def show(store, capsys):
    assert cli.main(["show", "--store", str(store)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"identity": 3}', b"\xff", b'{"stage": '])
def test_show_lists_whatever_a_manifest_holds_beside_the_others(content, tmp_path, capsys):
    assert "empty" in show(tmp_path, capsys)
    folder = Store(tmp_path).run("coreset", {"a": 1}, lambda folder: None)
    Store(tmp_path).run("coreset", {"a": 2}, lambda folder: None)
    (folder / "manifest.json").write_bytes(content)
    printed = show(tmp_path, capsys)
    assert "damaged" in printed and "a=2" in printed


@pytest.mark.parametrize("content", ["[1]", '{"identity": "x"}'])
def test_show_names_a_folder_that_is_not_a_result(tmp_path, capsys, content):
    foreign = tmp_path / "encoder" / "notes"
    foreign.mkdir(parents=True)
    (foreign / "manifest.json").write_text(content)
    assert "not written by dedt" in show(tmp_path, capsys)


def stopping(*options, store, ready, signum=signal.SIGTERM):
    """Start ``dedt`` and signal it once the file ``ready`` exists; its exit status and standard error."""
    command = [sys.executable, "-m", "dedt_lib", *options, "--store", str(store)]
    heard = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, env=tiny.environment(), **heard)
    while not list(store.glob(ready)) and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signum)
    error = child.communicate(timeout=60)[1]
    return child.returncode, error


def test_a_run_that_is_asked_to_stop_says_so_and_goes_on_from_there(tmp_path, store, capsys):
    options = ("train", "--profile", "smoke", "--method", "random", "--ratio", "1")
    options += ("--set", "unet.epochs=4", "--set", "train.checkpoint_every=1000000")
    # A file of EMA weights shows that training has begun; checkpoints come too late for that here.
    status, error = stopping(*options, store=tmp_path, ready="training/*.work/ema-*")
    assert status == 143
    assert error.splitlines()[-1] == "stopped by signal 15; run the same command again to continue"
    (checkpoint,) = tmp_path.glob("training/*.work/.checkpoint.safetensors")
    assert 0 < tiny.step_of(checkpoint) < 80
    assert cli.main([*options, "--store", str(tmp_path)]) == 0
    assert cli.main([*options, "--store", str(store)]) == 0
    (resumed,) = tmp_path.glob("training/*/model.safetensors")
    assert resumed.read_bytes() == (store / resumed.relative_to(tmp_path)).read_bytes()


@pytest.mark.parametrize("signum, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_outside_of_training_stops_at_once(signum, status, monkeypatch, capsys):
    monkeypatch.setitem(cli.VERBS, "show", lambda: signal.raise_signal(signum))
    assert cli.main(["show"]) == status
    assert capsys.readouterr().err == f"stopped by signal {signum}; run the same command again to continue\n"


def test_windows_is_told_to_use_wsl(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        assert cli.main(["show"]) == 2
    assert capsys.readouterr().err == "dedt: it does not run on Windows itself: use it in WSL\n"


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "show", interrupt)
    assert cli.main(["show"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_cell_of_a_table_is_written_where_the_book_reads_it(dedt, tmp_path, monkeypatch):
    monkeypatch.setenv("DEDT_RESULTS", str(tmp_path))
    chosen = ("--profile", "smoke", "--ratio", 0.1, "--seed", 0)
    status, printed, _ = dedt("run", "table1", "--row", "random", *chosen)
    assert status == 0 and "wrote random-10-0 to" in printed
    recorded = (tmp_path / "smoke" / "cells.jsonl").read_bytes()
    result = json.loads(recorded)
    assert result["row"] == "random"
    status, printed, _ = dedt("run", "table1", "--row", "random", *chosen)
    assert status == 0 and "has a result of random-10-0, which stays" in printed
    assert (tmp_path / "smoke" / "cells.jsonl").read_bytes() == recorded


@pytest.fixture
def named_cells(monkeypatch):
    """Replace the run of a cell by an error that names the profile, the images and the cell."""

    def stub(profile, *cell, store, report):
        raise DedtError(f"{profile.name} {profile.data.path} {cell}")

    monkeypatch.setattr(results, "run_cell", stub)


def test_a_table_takes_its_images_from_the_command_line_where_the_profile_has_none(dedt, photos, named_cells):
    row = ("run", "table5", "--row", "sd-moderate", "--profile", "imagenette")
    assert dedt(*row, "--data", photos)[2] == f"dedt: imagenette {photos} {('sd-moderate', 0.2, 0)}\n"
    assert "Give one with --data PATH" in dedt(*row)[2]
    assert "cannot be combined" in dedt(*row, "--data", photos, "--set", "unet.epochs=1")[2]


@pytest.mark.parametrize(
    "command", [["run", "table5", "--row", "sd-moderate", "--profile", "imagenette"], ["sample"]]
)
def test_samples_are_not_written_among_the_training_images(command, dedt, photos, named_cells):
    told = f"--out {photos / 'out'} is inside {photos}, the folder of the training images"
    assert (
        told in dedt(*command, "--data", photos, "--out", photos / "out")[2] and not (photos / "out").exists()
    )


def test_the_commands_for_images_that_are_to_be_given_ask_for_them(capsys):
    assert cli.main(["cells", "--profile", "imagenette"]) == 0
    commands = capsys.readouterr().out.splitlines()[2:]
    assert commands and all(command.endswith("--profile imagenette --data PATH") for command in commands)


def options(command):
    """The parsed options of a command: name -> value."""
    return vars(cli.make_parser(command.split()[0]).parse_args(command.split()))


def test_images_may_stand_first_or_be_left_out():
    assert str(options("select photos")["images"]) == "photos" and options("run photos")["table"] == "photos"
    assert options("select --ratio 0.1")["images"] is None and "images" not in options("run photos")


def listed(capsys, *given):
    """(table, cell) of each command that ``dedt cells`` prints; every command must parse."""
    assert cli.main(["cells", "--profile", "smoke", *given]) == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [line.split("dedt ")[1] for line in printed if "dedt run" in line]
    parsed = [options(command) for command in commands]
    return [(given["table"], (given["row"], given["ratio"], given["seed"])) for given in parsed]


@pytest.mark.parametrize("table", grid.TABLES)
def test_cells_lists_every_cell_with_a_command_that_parses(table, capsys):
    expected = [(table, cell) for cell in grid.cells(table, "smoke")]
    assert listed(capsys, "--table", table) == expected


def test_cells_of_all_tables_are_listed_once_each_under_a_table_that_has_them(capsys):
    found = listed(capsys)
    assert [cell for _, cell in found] == grid.all_cells("smoke")
    assert all(cell in grid.cells(table, "smoke") for table, cell in found)


@pytest.mark.parametrize("table", grid.TABLES)
def test_every_row_of_every_table_can_be_run(table, dedt, named_cells):
    for row, ratio, seed in grid.cells(table, "smoke"):
        options = ("--row", row, "--seed", seed, "--profile", "smoke")
        assert dedt("run", table, *options, "--ratio", ratio)[2] == f"dedt: smoke  {(row, ratio, seed)}\n"
        first = (grid.TABLES[table][row] or grid.row_ratios(row, "smoke"))[0]
        assert dedt("run", table, *options)[2] == f"dedt: smoke  {(row, first, seed)}\n"


# ---- what a recipe is called, and what is printed of a result --------------------------------------


def test_every_field_of_a_recipe_is_an_option_with_its_description(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in Recipe.model_fields.items():
        description = " ".join(field.description.split())
        assert cli.flag(name) in shown and description.replace("-", "") in shown.replace("-", "")
    assert options("train").keys() == {"verb", "action", "images"}


@pytest.mark.parametrize(
    "command, description",
    [
        ("--method random --ratio 0.2 --seed 3", "random at ratio 0.2, scope class, seed 3"),
        (
            "--encoder ddae --centre mean --band nearest --scope global",
            "moderate at ratio 0.1, encoder ddae, scope global, centre mean, band nearest, seed 0",
        ),
        (
            "--method gaussian --reweighting --weighting draw --burn-in 0 --annealing",
            "gaussian at ratio 0.1, encoder resnet18, scope class, reweighting by draw, burn-in 0, "
            "annealing, seed 0",
        ),
        ("--infobatch ratio --ratio 0.4", "InfoBatch that keeps 0.4 of the well-learned samples, seed 0"),
        ("--infobatch budget --annealing", "InfoBatch that keeps 0.1 of all samples, annealing, seed 0"),
        ("--early-stopping --annealing", "all data, as many steps as at ratio 0.1, annealing, seed 0"),
        ("--early-stopping --unguided", "all data, as many steps as at ratio 0.1, unguided, seed 0"),
        ("--model mdt --method random --ratio 0.2", "random at ratio 0.2, scope class, model mdt, seed 0"),
    ],
)
def test_a_recipe_is_described_by_its_options(command, description):
    given = options(f"train {command}")
    recipe = {name: given[name] for name in given.keys() & Recipe.model_fields.keys()}
    assert printing.describe(Experiment(tiny.profile(), device="cpu", **recipe)) == description


def cell(**recipe):
    """A result such as ``Experiment.cell`` returns."""
    cost = {"seconds": 12.3, "cpu_seconds": 21.0, "images": 2400, "evaluations": 7200}
    return {
        "recipe": Recipe(**recipe).model_dump(),
        "fid": 1.5,
        "floor": {"fid": 0.25},
        "copies": None,
        "protocol": "FID of 100 samples",
        "class_counts": [3, 4],
        "class_names": ["a", "b"],
        "class_weights": None,
        "steps": 16,
        "realised": 0.4125,
        "costs": {"train": cost},
    }


@pytest.mark.parametrize(
    "recipe, what, realised",
    [
        ({}, "coreset", False),
        ({"annealing": True}, "coreset", True),
        ({"infobatch": "ratio"}, "all data", True),
        ({"early_stopping": True}, "all data", False),
    ],
)
def test_a_result_names_its_protocol_its_costs_and_the_data_it_saw(recipe, what, realised, capsys):
    printing.print_cell(cell(**recipe))
    printed = capsys.readouterr().out
    assert "FID: 1.5" in printed and "FID of 100 samples" in printed
    assert f"{what}: 7 images, 16 steps" in printed
    assert ("images seen: 41.2%" in printed) == realised
    assert "12.3" in printed and "21.0" in printed and "2.40 k" in printed and "7.20 k" in printed


def test_a_result_of_latents_has_more_metrics_and_of_many_classes_fewer_words(capsys):
    more = {"cmmd": 0.914, "cmmd_unbiased": 0.901, "kid": 0.0123, "precision": 0.5, "recall": 0.25}
    many = {"class_names": [f"n{k}" for k in range(50)], "class_weights": [0.01] * 25 + [0.03] * 25}
    printing.print_cell({**cell(model="mdt", reweighting=True), **more, **many})
    printed = capsys.readouterr().out
    assert "CMMD: 0.914 (unbiased: 0.901)" in printed
    assert "KID: 0.0123, precision: 0.500, recall: 0.250" in printed
    assert "class weights: 0.50 to 1.50" in printed
    printing.print_cell({**cell(model="mdt"), **more, "cmmd": None})
    assert "CMMD" not in capsys.readouterr().out


FOUND = {"copies": 0.02, "copies_threshold": 16.3, "held_out": 295, "leaks": 2}
FOUND |= {"copies_features": 0.03, "copies_features_threshold": 0.8}


@pytest.mark.parametrize(
    "metrics, said",
    [
        (
            FOUND,
            ["2.00% of the samples", "features of FID: 3.00%", "16.3 grey levels", "295 held-out images"],
        ),
        (FOUND, ["left out: 2 held-out images found among the training images"]),
        ({"copies": 0.02}, ["2.00% of the samples"]),
        ({"copies": None}, ["not counted, because there are no held-out images"]),
        ({**FOUND, "copies": None, "leaks": 9}, ["because all 9 held-out images are training images"]),
    ],
)
def test_near_copies_are_printed_with_what_tells_them(metrics, said, capsys):
    printing.print_copies(metrics)
    printed = capsys.readouterr().out
    assert all(words in printed for words in said)


def test_the_sheet_of_samples_has_a_column_for_each_class():
    images = np.full((5, 1, 32, 32), 40, np.uint8) * np.arange(1, 6, dtype=np.uint8)[:, None, None, None]
    sheet = np.asarray(printing.contact_sheet(images, np.array([0, 0, 1, 0, 0]), 2, rows=3))
    assert sheet.shape == (3 * 36 - 4, 2 * 36 - 4)
    assert [sheet[36 * row, 0] for row in range(3)] == [40, 80, 160]
    assert [sheet[36 * row, 36] for row in range(3)] == [120, 235, 235]
    many = printing.contact_sheet(images, np.arange(5), 30)
    assert many.size == (10 * 36 - 4, 32)


def test_of_several_processes_only_the_main_one_prints():
    for rank, text in ((0, "once\n"), (1, "")):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            with cli.printing_once(Processes(rank, 2)):
                print("once")
        assert printed.getvalue() == text


@pytest.mark.parametrize(
    "value, text",
    [
        (0, ""),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_999, "1.00 MB"),
        (153.6e6, "154 MB"),
        (2.345e10, "23.4 GB"),
    ],
)
def test_numbers_are_shown_with_three_digits(value, text):
    assert printing.scaled(value, "B") == text


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (99, "99 s"), (120, "2 min"), (7.2e6, "2,000.0 h")])
def test_times_are_shown_in_the_unit_that_one_thinks_in(seconds, text):
    assert printing.duration(seconds) == text


# ---- the plan --------------------------------------------------------------------------------------


def columns(printed, what):
    """The words of the line of ``dedt plan`` that ends in ``what``."""
    return next(line for line in printed.splitlines() if line.endswith(f"  {what}")).split()


def test_the_plan_of_the_paper_needs_neither_data_nor_time(dedt_plan, monkeypatch, tmp_path):
    monkeypatch.setenv("DEDT_DATA", str(tmp_path / "none"))
    row = ("--row", "moderate-reweighted", "--seed", 0)
    status, printed, _ = dedt_plan("table1", "--profile", "paper", *row)
    assert status == 0 and "table1, profile paper: 4 cells" in printed
    assert "cifar10: 50,000 images in 10 classes" in printed
    assert columns(printed, "all the data")[:3] == ["reference", "1", "782,000"]
    assert columns(printed, "group DRO")[:3] == ["proxy", "4", "788,000"]
    assert "10.00 (0.81)" in printed and "--probe" in printed
    assert not (tmp_path / "none").exists()


def test_the_plan_of_imagenet_needs_no_images(dedt_plan):
    status, printed, _ = dedt_plan("table4", "--profile", "imagenet", "--seed", 0)
    assert status == 0 and "imagenet: 1,281,167 images in 1,000 classes" in printed
    assert columns(printed, "all the data")[:3] == ["reference", "1", "300,300"]
    assert columns(printed, "4x32x32, mirrored too")[0] == "latents"
    assert "10.00 (0.90)" in printed and "mdt-full" not in printed and "(MDT)" not in printed


def test_the_plan_of_a_table_that_the_profile_is_not_made_for_says_so(dedt_plan):
    status, printed, _ = dedt_plan("table4", "--profile", "paper", "--row", "mdt-random")
    assert status == 0 and "the profile is made for table1, table2" in printed
    assert "made for" not in dedt_plan("table1", "--profile", "paper", "--row", "random")[1]


def test_the_plan_of_several_models_tells_their_runs_apart(dedt_plan):
    _, printed, _ = dedt_plan("--profile", "smoke", "--row", "random", "--row", "mdt-random")
    assert columns(printed, "coreset (U-Net)") != columns(printed, "coreset (MDT)")
    assert columns(printed, "U-Net")[0] == columns(printed, "MDT")[0] == "total"


def test_the_plan_gives_a_range_for_infobatch(dedt_plan):
    _, printed, _ = dedt_plan("--profile", "smoke", "--row", "infobatch-annealed", "--ratio", 0.1)
    assert columns(printed, "InfoBatch by ratio, annealed")[2:5] == ["52", "..", "160"]
    assert "a .. b" in printed and "1.00 .. 3.08" in printed


def test_the_plan_shows_hours_when_it_has_measured(dedt_plan, monkeypatch):
    def probe(runs, until):
        return {(work.kind, work.network): 3600.0 for work in plan.plan(runs, until=until)}

    monkeypatch.setattr(plan, "probe", probe)
    cell = ("--row", "random", "--ratio", 0.1)
    _, printed, _ = dedt_plan("--profile", "smoke", "--set", "data.per_class=30", *cell, "--probe")
    assert columns(printed, "coreset")[2:] == ["16", "240", "720", "168", "kB", "16.0", "h", "coreset"]
    assert "3.6e+06 ms  step of the U-Net" in printed and "hours:" not in printed


def test_the_plan_says_how_many_cells_are_done(dedt_plan, tmp_path, monkeypatch):
    monkeypatch.setenv("DEDT_RESULTS", str(tmp_path))
    assert "done" not in dedt_plan("table3", "--profile", "smoke")[1]
    monkeypatch.setattr(results, "done", lambda profile: {"full-100-0"})
    assert "7 cells; 1 of them done" in dedt_plan("table3", "--profile", "smoke")[1]


def test_the_plan_of_ones_own_images_counts_them(dedt_plan, photos):
    _, printed, _ = dedt_plan("--profile", "smoke", "--data", photos, "--set", "data.channels=3")
    assert "folder: 40 images in 2 classes" in printed


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["table9"], "Unknown table 'table9'"),
        (["--row", "best"], "Unknown row 'best'"),
        (["table1", "--ratio", "0.17"], "No cell has this row, ratio and seed"),
        (["--data", "no-such-folder"], "does not exist"),
        (["--set", "data.image_size=16"], "set image_size = 8"),
    ],
)
def test_a_plan_of_nothing_is_one_line_and_status_two(argv, complaint, dedt_plan):
    status, printed, complained = dedt_plan(*argv)
    assert status == 2 and printed == "" and complaint in complained and complained.count("\n") == 1


# ---- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["select", "--profile", "large"], "Unknown profile 'large'"),
        (["select", "--set", "proflie=1"], "unknown parameter 'proflie'"),
        (["select", "--set", "unet.epochs=many"], "unet.epochs: "),
        (["select", "--set", "epochs"], "KEY=VALUE"),
        (["select", "--ratio", "0"], "ratio: "),
        (["select", "--ratio", "2"], "ratio: "),
        (["select", "--method", "best"], "method: "),
        (["select", "--encoder", "vgg"], "encoder: "),
        (["select", "--centre", "middle"], "centre: "),
        (["select", "--band", "all"], "band: "),
        (["train", "--weighting", "twice"], "weighting: "),
        (["train", "--infobatch", "0.1"], "infobatch: "),
        (["train", "--infobatch", "ratio", "--reweighting"], "infobatch has no coreset"),
        (["select", "--infobatch", "ratio"], "use no coreset"),
        (["select", "--data", "no-such-folder"], "does not exist"),
        (["train", "--reweighting", "--early-stopping"], "no coreset to reweight"),
        (["run", "table1"], "Choose a row with --row NAME"),
        (["run", "table1", "--row", "best"], "Unknown row 'best'"),
        (["run", "table9", "--row", "random"], "'table9' is neither a table nor"),
        (["run", "table1", "--row", "random", "--ratio", "0.17"], "no cell random-17-0"),
        (["run", "table1", "--row", "random", "--set", "unet.epochs=1"], "cannot be combined"),
        (["run", "table1", "--row", "random", "--burn-in", "0"], "--burn-in cannot be combined"),
        (["run", "--row", "random"], "--row needs a table"),
        (["run", ".", "--row", "random"], "--row needs a table"),
    ],
)
def test_bad_input_is_one_line_and_status_two(argv, complaint, dedt):
    status, printed, complained = dedt(*argv)
    assert status == 2 and printed == ""
    assert complained.startswith("dedt: ") and complaint in complained
    assert complained.count("\n") == 1


@pytest.mark.parametrize("argv", [["select", ""], ["select", "--out", ""], ["embed", "--data", ""]])
def test_an_empty_path_is_not_the_current_folder(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    assert "the path is empty" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made_is_noticed_before_the_work(dedt, tmp_path):
    (tmp_path / "file").write_text("")
    status, printed, complained = dedt("train", "--profile", "smoke", "--out", tmp_path / "file")
    assert status == 2 and printed == "" and str(tmp_path / "file") in complained


LONG = """
from dedt_lib.shell import cli
def show():
    print('x' * 10**6)
cli.VERBS['show'] = show
cli.main(['show'])
"""


def test_a_reader_that_has_enough_is_no_error():
    piped = f'{sys.executable} -c "{LONG}" | head -c 1'
    done = subprocess.run(piped, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("x", "")


@pytest.mark.parametrize(
    "error, status, said",
    [
        (BrokenPipeError, 141, "the pipe was closed; run without a pipe"),
        (MemoryError, 2, "dedt: out of memory: close"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            2,
            "dedt: out of memory: close",
        ),
    ],
    ids=str,
)
def test_what_ends_a_verb_is_told(monkeypatch, capsys, tmp_path, error, status, said):
    def ended(*arguments):
        raise error

    monkeypatch.setattr(cli.os, "dup2", lambda *_: None)
    monkeypatch.setattr("dedt_lib.data.export.export", ended)
    argv = ["export", str(tmp_path), "--to", "links", "--out", str(tmp_path / "out")]
    assert cli.main(argv) == status and said in capsys.readouterr().err


def test_other_errors_are_not_hidden(monkeypatch, tmp_path):
    monkeypatch.setattr("dedt_lib.data.export.export", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["export", str(tmp_path), "--to", "links", "--out", str(tmp_path / "out")])


def test_values_of_set_are_toml_or_plain_text():
    assert cli.toml_value("1e-3") == 1e-3
    assert cli.toml_value("[0.1, 0.4]") == [0.1, 0.4]
    assert cli.toml_value("true") is True
    assert cli.toml_value("my photos/here") == "my photos/here"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_each_verb_shows_an_example(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    assert f"dedt {verb}" in capsys.readouterr().out.partition("example:")[2]


QUICK = """
import sys
from dedt_lib.shell import cli
try:
    cli.main(["--help"])
except SystemExit:
    assert not {"torch", "numpy", "pydantic"} & set(sys.modules)
try:
    cli.main(["train", "--help"])
except SystemExit:
    assert not {"torch", "PIL", "dedt_lib.data", "dedt_lib.config.profile"} & set(sys.modules)
assert cli.main(["train", "--data", "no-such-folder"]) == 2
assert cli.main(["cells", "--profile", "smoke"]) == cli.main(["profile", "short"]) == 0
assert "torch" not in sys.modules
"""


def test_help_mistakes_cells_and_profiles_do_not_load_torch():
    done = tiny.python("-c", QUICK)
    assert done.returncode == 0, done.stderr
    assert tiny.python("-m", "dedt_lib", "--version").stdout.startswith("dedt ")


def test_an_experiment_loads_no_library_that_only_training_needs():
    code = "import sys, dedt_lib.experiment; sys.exit(bool({'diffusers', 'transformers', 'timm'} & {*sys.modules}))"
    assert tiny.python("-c", code).returncode == 0


def test_a_printed_profile_says_where_values_come_from_and_is_a_profile(capsys, tmp_path):
    assert cli.main(["profile", "short", "--set", "unet.epochs=5", "--set", "data.path=/here"]) == 0
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    of_files = {"steps = 50 # short.toml", "layers = 2 # paper.toml", "depth = 12 # default"}
    assert {*of_files, "epochs = 5 # --set", 'path = "/here" # --set'} <= set(lines)
    (tmp_path / "mine.toml").write_text(printed)
    expected = load_profile("short", **{"unet.epochs": 5, "data.path": "/here"})
    assert load_profile(tmp_path / "mine.toml") == expected


def test_a_percentage_is_told_how_it_is_written(capsys):
    with pytest.raises(SystemExit):
        cli.main(["select", "photos", "--ratio", "10%"])
    assert "'10%' is not a number; 10 % is written 0.1" in capsys.readouterr().err
