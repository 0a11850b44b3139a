"""A chapter that ran, opened in a real JupyterLab by a real browser, where there is one."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Without it JupyterLab draws only the cells that fit the window.
WHOLE = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"}}


class Words(HTMLParser):
    """The text of a page's rendered prose and outputs, without its code."""

    def __init__(self, page):
        super().__init__()
        self.found, self.depth = [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if self.depth or "jp-RenderedHTMLCommon" in (dict(attributes).get("class") or "").split():
            self.depth += tag not in ("img", "br", "hr", "input", "link", "meta")

    def handle_endtag(self, tag):
        self.depth -= self.depth > 0

    def handle_data(self, data):
        if self.depth:
            self.found.append(data)


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab on an empty folder."""
    for name, values in WHOLE.items():
        file = tmp_path / "settings" / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    (tmp_path / "book").mkdir()
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    options += [
        f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
        f"--ServerApp.root_dir={tmp_path / 'book'}",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options]
    home = {**os.environ, "HOME": str(tmp_path)}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home)
    address = f"http://localhost:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api")
            break
        except OSError:
            time.sleep(0.5)
    yield address
    server.terminate()
    server.wait()


DIAL = """
import numpy as np
from dedt_lib.book import figures
from dedt_lib.book.notebook import dial

dial("share", {0.1: np.ones(2), 0.4: np.full(2, 4)}, lambda counts: figures.class_counts(counts, ["a", "b"]))
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_chapter_shows_a_slider_and_no_markup_in_jupyterlab(lab, tmp_path, monkeypatch):
    """A chapter with one more cell, a dial, whose slider needs JupyterLab's extension and the state that was saved."""
    monkeypatch.setenv("JPY_SESSION_NAME", "as a Jupyter server sets it")
    name = "08_table1.ipynb"
    chapter = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    chapter.cells.append(nbformat.v4.new_code_cell(DIAL))
    nbformat.write(chapter, tmp_path / name)
    done = papermill.execute_notebook(
        tmp_path / name, tmp_path / "book" / name, cwd=ROOT / "notebooks", progress_bar=False
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    options += ["--window-size=1400,4000", "--virtual-time-budget=60000", "--dump-dom"]
    address = f"{lab}/lab/tree/{name}?reset"
    page = subprocess.run([BROWSER, *options, address], capture_output=True, text=True, timeout=300).stdout
    words = " ".join(" ".join(Words(page).found).split())
    headings = [
        cell.source.partition("\n")[0].lstrip("# ") for cell in done.cells if cell.source.startswith("#")
    ]
    assert all(heading in words for heading in headings)
    assert "Differences are means over the seeds" in words  # made by a cell
    assert re.search('class="[^"]*widget-slider', page) and re.search('<img[^>]*widget-image', page)
    assert not any(mark in words for mark in ("{glue", "{cite", "{ref", "```", "**", "](", "$"))
