"""The pairs are equal, the parameters are checked, and every chapter runs under the smoke profile."""

import json
import subprocess
import sys
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
CHAPTERS = [path.stem for path in NOTEBOOKS if path.stem[0].isdigit()]
RESULT_PAGES = ("08_table1", "09_figure2")

sys.path.insert(0, str(ROOT / "tools"))
from pair import derive  # noqa: E402
from readme import filled  # noqa: E402


@pytest.fixture
def surroundings(tmp_path_factory, monkeypatch):
    """One store and one results folder for all chapters, whichever worker runs them."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen") else shared
    monkeypatch.setenv("DEDT_STORE", str(shared / "notebook-store"))
    monkeypatch.setenv("DEDT_RESULTS", str(shared / "notebook-results"))


def run(name, output, **parameters):
    source = ROOT / "notebooks" / f"{name}.ipynb"
    return papermill.execute_notebook(
        source, output, parameters, cwd=ROOT / "notebooks", progress_bar=False, kernel_name="python3"
    )


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_ipynb_is_what_the_py_says(source):
    assert source.with_suffix(".ipynb").read_text() == derive(source)


def test_every_ipynb_has_its_py():
    assert {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")} == {p.stem for p in NOTEBOOKS}


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_fits_the_page(source):
    assert max(map(len, source.read_text().splitlines())) <= 100
    code = [
        line
        for cell in json.loads(source.with_suffix(".ipynb").read_text())["cells"]
        if cell["cell_type"] == "code" and "remove-cell" not in cell["metadata"].get("tags", [])
        for line in cell["source"]
    ]
    assert max(len(line.rstrip("\n")) for line in code) <= 78


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_under_smoke(name, tmp_path, surroundings):
    compute = {"compute": True} if name in RESULT_PAGES else {}
    executed = run(name, tmp_path / f"{name}.ipynb", profile="smoke", **compute)
    shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not [o for o in shown if o.get("name") == "stderr"]


def test_the_grid_passes_the_parameters_that_the_cell_takes(tmp_path, surroundings):
    known = papermill.inspect_notebook(ROOT / "notebooks" / "cell.ipynb")
    passed = {word for line in open(ROOT / "Snakefile") for word in line.split("-p ")[1:]}
    assert {word.split()[0] for word in passed} == set(known)
    run("cell", tmp_path / "log.ipynb", profile="smoke", row="moderate", percent=10, seed=0)


def test_a_mistyped_parameter_stops_the_notebook(tmp_path, surroundings):
    with pytest.raises(papermill.PapermillExecutionError, match="proflie; this notebook takes: profile"):
        run("01_data", tmp_path / "log.ipynb", proflie="smoke")


def test_an_unknown_profile_stops_the_notebook(tmp_path, surroundings):
    with pytest.raises(papermill.PapermillExecutionError, match="Unknown profile 'digit'"):
        run("01_data", tmp_path / "log.ipynb", profile="digit")


def test_a_chapter_shows_the_same_twice(tmp_path, surroundings):
    executed = tmp_path / "03_select.ipynb"
    run("03_select", executed, profile="smoke")
    again = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-p",
        "no:cacheprovider",
        str(executed),
    ]
    finished = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
    assert "passed" in finished.stdout


def test_the_readme_shows_the_committed_results():
    readme = (ROOT / "README.md").read_text()
    assert filled(readme) == readme
