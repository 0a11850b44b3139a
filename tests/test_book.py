"""The book is built by plain Sphinx and MyST-NB alone, and printed where there is a browser."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from docutils import nodes
from docutils.utils import new_document

from dedt_lib.book.sphinx_extension import complete

ROOT = Path(__file__).resolve().parent.parent


def test_plain_sphinx_builds_the_book_without_a_warning(tmp_path):
    source, out = tmp_path / "source", tmp_path / "page"
    shutil.copytree(ROOT / "book", source / "book")
    shutil.copytree(ROOT / "notebooks", source / "notebooks", ignore=shutil.ignore_patterns("*.py"))
    shutil.copy(ROOT / "_toc.yml", source)
    options = "-q -W -n --keep-going -b singlehtml -c".split()
    command = [sys.executable, "-m", "sphinx", *options, source / "book", source, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (out / "book" / "intro.html").read_text()
    listed = re.findall(r"file: (\S+)", (ROOT / "_toc.yml").read_text())
    assert [name for name in listed if f'href="#document-{name}"' not in page] == []  # the table of contents


def test_the_reference_has_every_module_from_which_a_chapter_imports():
    listed = set(re.findall(r"automodule:: (\S+)", (ROOT / "book" / "api.md").read_text()))
    used = set()
    for chapter in (ROOT / "notebooks").glob("*.py"):
        for module, names in re.findall(r"^from (dedt_lib\S*) import ([\w, ]+)$", chapter.read_text(), re.M):
            below = {f"{module}.{name}" for name in names.split(", ")}
            used |= {name for name in below if is_module(name)} or {module}
    there = listed | {module.rpartition(".")[0] for module in listed}  # a package is there by its modules
    assert used <= there | {"dedt_lib"}


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_make_pdf_says_what_to_install_before_it_computes_anything():
    done = subprocess.run(["make", "pdf", "BROWSER="], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "apt install chromium" in done.stdout


def test_figures_have_an_alternative_text_and_percentages_stay_whole():
    page = new_document("page")
    title, text = nodes.title("", "Neighbours"), nodes.paragraph("", "at 10 % of")
    pictures = nodes.image(uri="a.png"), nodes.image(uri="b.png", alt="own")
    page += nodes.section("", title, text, *pictures, nodes.paragraph("", "", nodes.literal("", "10 %")))
    link = "<a href='#run-random-10'>1.2</a><span id='run-random-10'>10 %</span>"
    page += nodes.raw("", link, format="html")
    complete(SimpleNamespace(env=SimpleNamespace(docname="notebooks/08_table1")), page)
    assert [image["alt"] for image in pictures] == [
        "Figure: Neighbours (described in the text before)",
        "own",
    ]
    assert "at 10\u00a0% of" in page.astext() and "10 %" in page.astext()
    own = "<a href='#08_table1-run-random-10'>1.2</a><span id='08_table1-run-random-10'>10&nbsp;%</span>"
    assert own in page.astext()
