"""A chapter run in a real JupyterLab and a real browser, if there is one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import websocket

ROOT = Path(__file__).resolve().parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Without this setting JupyterLab draws only the cells that fit the window.
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


class Tab:
    """A page in the browser, controlled by Chromium's DevTools protocol."""

    def __init__(self, address):
        self.socket, self.asked = websocket.create_connection(address, timeout=60), 0

    def __call__(self, script):
        """The value of a line of JavaScript."""
        self.asked += 1
        how = {"expression": script, "returnByValue": True}
        self.socket.send(json.dumps({"id": self.asked, "method": "Runtime.evaluate", "params": how}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.asked:
            pass
        return answer["result"]["result"].get("value")

    def wait(self, script):
        """Wait until the line of JavaScript is true."""
        until(lambda: self(script), script)


def until(there, what):
    """Call ``there`` until it returns something true, and return that; fail after three minutes."""
    for _ in range(360):
        try:
            if found := there():
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"Waited three minutes for {what}.")


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def ended(process):
    process.terminate()
    process.wait()


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab server on the folder ``book``."""
    for name, values in WHOLE.items():
        file = tmp_path / "settings" / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    port = free_port()
    (tmp_path / "book").mkdir()
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    options += [
        f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
        f"--ServerApp.root_dir={tmp_path / 'book'}",
        "--LabApp.expose_app_in_browser=True",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options]
    home = {**os.environ, "HOME": str(tmp_path)}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home)
    address = f"http://localhost:{port}"
    until(lambda: urllib.request.urlopen(f"{address}/api"), "JupyterLab")
    yield address
    ended(server)


@pytest.fixture
def open_tab(tmp_path):
    """A function that opens an address in a browser and returns its Tab."""
    started = []

    def opened(address):
        port = free_port()
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        options += [f"--remote-debugging-port={port}", "--remote-allow-origins=*", "--window-size=1400,4000"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen([BROWSER, *options, address], **quiet))

        def pages():
            listed = json.load(urllib.request.urlopen(f"http://localhost:{port}/json"))
            return [page["webSocketDebuggerUrl"] for page in listed if page["type"] == "page"]

        return Tab(until(pages, "the browser")[0])

    yield opened
    for process in started:
        ended(process)


DIAL = """
import numpy as np
from dedt_lib.book import figures
from dedt_lib.book.notebook import dial

dial("share", {0.1: np.ones(2), 0.4: np.full(2, 4)}, lambda counts: figures.class_counts(counts, ["a", "b"]))
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_chapter_shows_its_outputs_a_slider_and_no_markup_in_jupyterlab(lab, open_tab, tmp_path):
    """The chapter is a page of results, with a dial added as the last cell."""
    name = "08_table1.ipynb"
    chapter = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    chapter.cells.append(nbformat.v4.new_code_cell(DIAL))
    nbformat.write(chapter, tmp_path / "book" / name)

    tab = open_tab(f"{lab}/lab/tree/{name}?reset")
    cells = "document.querySelectorAll('.jp-Notebook .jp-Cell').length"
    tab.wait(f"{cells} == {len(chapter.cells)}")
    tab.wait("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'")
    tab("window.jupyterapp.commands.execute('notebook:run-all-cells'); true")
    tab.wait("document.querySelector('.jp-OutputArea .widget-slider') !== null")
    tab.wait("document.querySelector('.jp-OutputArea img.widget-image') !== null")

    words = " ".join(" ".join(Words(tab("document.documentElement.outerHTML")).found).split())
    sources = [cell.source for cell in chapter.cells if cell.cell_type == "markdown"]
    assert all(source.partition("\n")[0].lstrip("# ") in words for source in sources if source[0] == "#")
    assert "Differences are means over the seeds" in words  # output of a cell
    assert not any(mark in words for mark in ("{glue", "{cite", "{ref", "```", "**", "](", "$"))
