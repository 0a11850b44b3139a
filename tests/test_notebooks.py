"""Notebooks: .py and .ipynb agree, parameters are checked, and every chapter runs under the smoke profile."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pair
import papermill
import pytest
import tiny
from pair import derive
from readme import filled

from dedt_lib.book import grid, results
from dedt_lib.book.notebook import heading_id

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
CHAPTERS = [path.stem for path in NOTEBOOKS if path.stem != "cell"]
SOLUTIONS = [name for name in CHAPTERS if name.startswith("solutions_")]
RESULT_PAGES = (
    "08_table1", "09_table2", "10_table3", "11_figure2", "12_shape", "16_table4", "18_table5", "20_controls",
)  # fmt: skip
EXTRA = {"02_embed": {"encoders": "resnet18 inceptionv3 clip-rn50 ddae"}}
EXTRA |= {path.stem: {"compute": True} for path in NOTEBOOKS if "\ncompute = False\n" in path.read_text()}
FEWER = {"09_table2": {"epochs": 8}}
EXTRA["09_table2"] |= FEWER["09_table2"]


@pytest.fixture
def surroundings(tmp_path_factory, monkeypatch):
    """One store and one results folder for all chapters, shared by all test workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen") else shared
    monkeypatch.setenv("DEDT_STORE", str(shared / "notebook-store"))
    monkeypatch.setenv("DEDT_RESULTS", str(shared / "notebook-results"))


def run(name, output, **parameters):
    source = ROOT / "notebooks" / f"{name}.ipynb"
    how = {"cwd": ROOT / "notebooks", "progress_bar": False, "kernel_name": "python3"}
    return papermill.execute_notebook(source, output, parameters, **how)


def nbval(notebook, mode):
    """Run each cell of a notebook as a test; with ``--nbval`` the outputs must equal those in the file."""
    options = f"{mode} --nbval-current-env --nbval-cell-timeout=900 -p no:cacheprovider -p chapter_outputs -q"
    finished = tiny.python("-m", "pytest", *options.split(), notebook.name, cwd=notebook.parent)
    assert finished.returncode == 0, finished.stdout[-5000:]
    assert "passed" in finished.stdout


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_ipynb_is_what_the_py_says(source):
    assert source.with_suffix(".ipynb").read_text() == derive(source)


def test_every_ipynb_has_its_py_and_every_chapter_its_place():
    assert {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")} == {p.stem for p in NOTEBOOKS}
    listed = re.findall(r"notebooks/(\w+)$", (ROOT / "_toc.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == CHAPTERS


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
    source = papermill.iorw.load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    parameters = {"profile": "smoke", **EXTRA.get(name, {})}
    chapter = papermill.parameterize.parameterize_notebook(source, parameters)
    nbformat.write(chapter, tmp_path / f"{name}.ipynb")
    nbval(tmp_path / f"{name}.ipynb", "--nbval-lax")


@pytest.mark.parametrize("name", CHAPTERS)
def test_code_is_led_by_a_sentence_and_a_chapter_ends_with_something_to_try(name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    hidden = [c for c in cells if "remove-cell" in c["metadata"].get("tags", [])]
    visible = [c for c in cells if c not in hidden and "parameters" not in c["metadata"].get("tags", [])]
    kinds = "".join(c["cell_type"][0] for c in visible)
    assert kinds[0] == "m" and "ccc" not in kinds
    assert name in SOLUTIONS or "## Try it" in "".join(visible[-1]["source"])


def test_every_exercise_has_its_solution_and_every_solution_its_exercise():
    """The heading that an exercise links to must link back, as often as exercises link to it."""
    prose = {name: (ROOT / "notebooks" / f"{name}.py").read_text() for name in CHAPTERS}
    exercises = Counter(
        (name, *link)
        for name in CHAPTERS
        for link in re.findall(r"\[Solution\]\((solutions_\w+)\.ipynb#([\w-]+)\)", prose[name])
    )
    solved = Counter(
        (chapter, name, heading_id(heading))
        for name in SOLUTIONS
        for heading, section in re.findall(r"^# ## (.+)\n((?s:.+?))(?=^# ## |\Z)", prose[name], re.MULTILINE)
        for chapter in re.findall(r"\[Exercise\]\((\w+)\.ipynb\)", section)
    )
    assert exercises and exercises == solved


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_reads_the_same_in_jupyterlab(name):
    """No MyST role or directive, links only to existing files, no hidden code but the parameter check."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert not re.findall(r"\{[\w:-]+\}`|^(?:`{3,}|:{3,})\{|^\(\S+\)=$", prose, re.MULTILINE)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert [link for link in links if not (ROOT / "notebooks" / link).is_file()] == []
    hidden = [c for c in cells if {"remove-cell", "hide-input"} & {*c["metadata"].get("tags", [])}]
    assert len(hidden) == 1 and hidden[0]["source"][-1].startswith("check_parameters(")


@pytest.mark.parametrize("name", RESULT_PAGES)
def test_a_page_of_results_shows_what_is_there(name, tmp_path, surroundings, monkeypatch):
    """Only the main rows have results: no other encoder, no control, nothing annealed."""
    few = Path(os.environ["DEDT_RESULTS"]).with_name("few-results")
    monkeypatch.setenv("DEDT_RESULTS", str(few))
    for row, ratio in (("full", 1.0), ("random", 0.1), ("moderate", 0.1), ("moderate-reweighted", 0.1)):
        results.run_cell("smoke", row, ratio, 0)
    run(name, tmp_path / f"{name}.ipynb", profile="smoke", **FEWER.get(name, {}))


def made_up_results(folder, seeds):
    """Write the committed results of the first seeds, and noisy copies of them for further seeds."""
    noise, lines = np.random.default_rng(0), []
    for line in (ROOT / "results" / "digits" / "cells.jsonl").read_text().splitlines():
        first = json.loads(line)
        for seed in range(first["recipe"]["seed"], seeds, 3) if first["recipe"]["seed"] < 3 else ():
            cell = {**first, "profile": "smoke", "recipe": {**first["recipe"], "seed": seed}}
            cell["fid"] *= 1 + 0.01 * noise.normal()
            cell["cell"] = grid.cell_name(cell["row"], cell["recipe"]["ratio"], seed)
            lines.append(json.dumps(cell))
    (folder / "smoke").mkdir(parents=True)
    (folder / "smoke" / "cells.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "seeds, said",
    [
        (1, "There is one seed, so there are no intervals"),
        (3, "A verdict needs 5 seeds and there are 3"),
        (5, "after Holm's correction for the"),
    ],
)
@pytest.mark.parametrize("name", RESULT_PAGES)
def test_a_page_of_results_holds_for_any_number_of_seeds(
    name, seeds, said, tmp_path, surroundings, monkeypatch
):
    made_up_results(tmp_path, seeds)
    monkeypatch.setenv("DEDT_RESULTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    source = (ROOT / "notebooks" / f"{name}.py").read_text()
    source = source.replace('profile = "digits"', 'profile = "smoke"').replace("epochs = 16", "epochs = 8")
    names = {"__name__": name}
    exec(compile(source, name, "exec"), names)
    if page := names.get("page"):
        assert (said if seeds == 1 or not page.added else "so they get no verdict") in page.summary()


def test_the_grid_passes_the_parameters_that_the_cell_takes(tmp_path, surroundings):
    known = papermill.inspect_notebook(ROOT / "notebooks" / "cell.ipynb")
    passed = {word for line in open(ROOT / "Snakefile") for word in re.split("-[pr] ", line)[1:]}
    assert {word.split()[0] for word in passed} == set(known)
    run("cell", tmp_path / "log.ipynb", profile="smoke", row="moderate", percent=10, seed=0)


@pytest.mark.parametrize(
    "mistyped, said",
    [
        ({"proflie": "smoke"}, "proflie; this notebook takes: profile"),
        ({"profile": "digit"}, "Unknown profile 'digit'"),
    ],
)
def test_a_mistyped_parameter_or_value_stops_the_notebook(mistyped, said, tmp_path, surroundings):
    with pytest.raises(papermill.PapermillExecutionError, match=said):
        run("01_data", tmp_path / "log.ipynb", **mistyped)


def test_a_chapter_shows_the_same_twice(tmp_path, surroundings):
    run("03_select", tmp_path / "03_select.ipynb", profile="smoke")
    nbval(tmp_path / "03_select.ipynb", "--nbval")


@pytest.mark.parametrize(
    "cell, said", [("1 + 1", "shows no picture"), ("import warnings; warnings.warn('oh')", "oh")]
)
def test_a_chapter_without_a_picture_or_with_a_warning_fails(cell, said, tmp_path):
    chapter = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(chapter, tmp_path / "chapter.ipynb")
    with pytest.raises(AssertionError, match=said):
        nbval(tmp_path / "chapter.ipynb", "--nbval-lax")


def test_the_readme_shows_the_committed_results():
    readme = (ROOT / "README.md").read_text()
    assert filled(readme) == readme


def test_a_notebook_that_was_edited_elsewhere_is_kept(tmp_path, capsys):
    (tmp_path / "a.py").write_text("# %%\n1 + 1\n")
    pair.main(tmp_path)
    notebook = nbformat.read(tmp_path / "a.ipynb", 4)
    pair.main(tmp_path)
    assert not (tmp_path / "mine").exists()
    notebook.cells.append(nbformat.v4.new_code_cell("my_answer = 3"))
    nbformat.write(notebook, tmp_path / "a.ipynb")
    os.utime(tmp_path / "a.py", (0, 0))
    pair.main(tmp_path)
    assert "my_answer" in (tmp_path / "mine" / "a.ipynb").read_text()
    assert (tmp_path / "a.ipynb").read_text() == derive(tmp_path / "a.py")
    assert "a.ipynb has outputs or other cells: moved to" in capsys.readouterr().out
    notebook = nbformat.read(tmp_path / "a.ipynb", 4)
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(notebook, tmp_path / "a.ipynb")
    os.utime(tmp_path / "a.ipynb", (0, 0))
    pair.main(tmp_path)
    assert '"2"' in (tmp_path / "mine" / "a.ipynb").read_text()
