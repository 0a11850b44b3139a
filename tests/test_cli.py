"""The command line, in process, on the smoke profile with a store of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dedt_lib import cli, tables
from dedt_lib.recipes import load_profile
from dedt_lib.selection import Coreset

STAGES = ("embed", "select", "reweight", "train", "sample", "evaluate")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def dedt(store, capsys):
    """Run one command; returns (exit status, standard output, standard error)."""

    def command(*argv):
        status = cli.main([*map(str, argv), "--store", str(store)])
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
    samples = load_profile("smoke").samples
    expected = {
        "embed": ("features each", {"features.npy", "labels.npy"}),
        "select": ("images kept", {"coreset.parquet", "coreset.json"}),
        "reweight": ("effective classes", {"weights.json", "coreset.parquet", "coreset.json"}),
        "train": ("steps: ", {"model.safetensors"}),
        "sample": (f"{samples} samples of shape 1 x 8 x 8", {"samples.npy", "samples.png"}),
        "evaluate": ("half against half", {"metrics.json"}),
    }
    text, files = expected[verb]
    assert text in printed
    assert {path.name for path in tmp_path.iterdir()} == files


def test_reweight_writes_weights_that_sum_to_one(dedt, tmp_path):
    _, printed, _ = dedt("reweight", "--profile", "smoke", "--method", "random", "--out", tmp_path)
    facts = json.loads((tmp_path / "weights.json").read_text())
    assert sum(facts["class_weights"]) == pytest.approx(1)
    np.testing.assert_allclose(Coreset.load(tmp_path).weights, facts["class_weights"])
    assert f"{10 * facts['class_weights'][0]:.3f}" in printed


def test_run_of_an_image_folder_from_images_to_metrics(dedt, photos, tmp_path):
    options = (
        "--profile",
        "smoke",
        "--data",
        photos,
        "--ratio",
        0.2,
        "--reweighting",
        "--set",
        "channels=3",
    )
    status, printed, _ = dedt("run", *options, "--out", tmp_path)
    assert status == 0
    assert "dark" in printed and "light" in printed
    assert Coreset.load(tmp_path).counts.tolist() == [4, 4]
    assert np.load(tmp_path / "samples.npy").shape[1:] == (3, 8, 8)
    assert np.load(tmp_path / "features.npy").shape[0] == len(np.load(tmp_path / "labels.npy")) == 40
    cell = json.loads((tmp_path / "cell.json").read_text())
    assert cell["fid"] == json.loads((tmp_path / "metrics.json").read_text())["fid"]
    assert cell["class_names"] == ["dark", "light"]
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.height > sheet.width > 64


def test_stages_are_shared_and_listed(dedt):
    dedt("select", "--profile", "smoke", "--method", "random", "--seed", 7)
    _, before, _ = dedt("show")
    dedt("select", "--profile", "smoke", "--method", "random", "--seed", 7)
    _, after, _ = dedt("show")
    assert before == after
    assert "method=random ratio=0.1 scope=class seed=7" in after


def test_show_lists_a_damaged_stage_beside_the_others(tmp_path, capsys):
    assert cli.main(["show", "--store", str(tmp_path)]) == 0
    assert "empty" in capsys.readouterr().out
    damaged = tmp_path / "coreset" / "0123456789abcdef"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text('{"stage": ')
    assert cli.main(["show", "--store", str(tmp_path)]) == 0
    assert "damaged" in capsys.readouterr().out


def test_a_cell_of_a_table_is_written_where_the_book_reads_it(dedt, tmp_path, monkeypatch):
    monkeypatch.setenv("DEDT_RESULTS", str(tmp_path))
    chosen = ("--profile", "smoke", "--ratio", 0.1, "--seed", 0)
    status, printed, _ = dedt("run", "table1", "--row", "random", *chosen)
    assert status == 0 and "random-10-0.json" in printed
    result = json.loads((tmp_path / "smoke" / "cells" / "random-10-0.json").read_text())
    assert result["row"] == "random"


def test_cells_lists_every_cell_with_a_command_that_parses(capsys):
    assert cli.main(["cells", "--table", "table1", "--profile", "smoke"]) == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [line.split("dedt ")[1] for line in printed if "dedt run" in line]
    parsed = [cli.make_parser().parse_args(command.split()) for command in commands]
    assert [(args.row, args.ratio, args.seed) for args in parsed] == tables.cells("table1", "smoke")


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["select", "--profile", "large"], "Unknown profile 'large'"),
        (["select", "--set", "proflie=1"], "unknown parameter 'proflie'"),
        (["select", "--set", "epochs=many"], "epochs: "),
        (["select", "--set", "epochs"], "KEY=VALUE"),
        (["select", "--ratio", "0"], "ratio: "),
        (["select", "--ratio", "2"], "ratio: "),
        (["select", "--method", "best"], "method: "),
        (["select", "--data", "no-such-folder"], "is not a folder"),
        (["train", "--reweighting", "--early-stopping"], "no coreset to reweight"),
        (["run", "table1"], "Say which row"),
        (["run", "table1", "--row", "best"], "Unknown row 'best'"),
        (["run", "table9", "--row", "random"], "Unknown table 'table9'"),
        (["run", "table1", "--row", "random", "--ratio", "0.17"], "no cell random-17-0"),
        (["run", "table1", "--row", "random", "--set", "epochs=1"], "cannot be combined"),
        (["run", "table1", "--row", "random", "--burn-in", "0"], "--burn-in cannot be combined"),
        (["run", "--row", "random"], "--row belongs to a table"),
    ],
)
def test_bad_input_is_one_line_and_status_two(argv, complaint, dedt):
    status, printed, complained = dedt(*argv)
    assert status == 2 and printed == ""
    assert complained.startswith("dedt: ") and complaint in complained
    assert complained.count("\n") == 1


def test_an_output_folder_that_cannot_be_made_is_noticed_before_the_work(dedt, tmp_path):
    (tmp_path / "file").write_text("")
    status, printed, complained = dedt("train", "--profile", "smoke", "--out", tmp_path / "file")
    assert status == 2 and printed == "" and str(tmp_path / "file") in complained


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "open_store", interrupt)
    assert cli.main(["show"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_values_of_set_are_toml_or_plain_text():
    assert cli.toml_value("1e-3") == 1e-3
    assert cli.toml_value("[0.1, 0.4]") == [0.1, 0.4]
    assert cli.toml_value("true") is True
    assert cli.toml_value("my photos/here") == "my photos/here"


@pytest.mark.parametrize("verb", [*STAGES, "run", "cells", "show"])
def test_help_of_each_verb_shows_an_example(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    assert f"dedt {verb}" in capsys.readouterr().out.partition("example:")[2]


def test_the_command_line_starts_without_torch():
    code = "import sys, dedt_lib.cli; dedt_lib.cli.make_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    version = [sys.executable, "-m", "dedt_lib", "--version"]
    assert subprocess.run(version, capture_output=True, text=True).stdout.startswith("dedt ")


@pytest.mark.parametrize("content", ["[1]", '{"recipe": "x"}'])
def test_show_names_a_folder_that_is_not_a_result(tmp_path, capsys, content):
    foreign = tmp_path / "encoder" / "notes"
    foreign.mkdir(parents=True)
    (foreign / "manifest.json").write_text(content)
    assert cli.main(["show", "--store", str(tmp_path)]) == 0
    assert "not a result of dedt" in capsys.readouterr().out
