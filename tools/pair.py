"""Derive each notebooks/*.ipynb from its .py: no outputs, cell ids 0, 1, 2, ..

Only in this direction: ``jupytext --sync`` would let a newer .ipynb overwrite an edited .py.  JupyterLab
saves both files; a notebook with outputs, or whose cells were edited elsewhere, is moved to
``notebooks/mine/NAME.ipynb``.
"""

from pathlib import Path

import jupytext
import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def derive(source):
    """The text of the .ipynb for a py:percent file."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    notebook.metadata.setdefault("language_info", {"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = str(number)
    return nbformat.writes(notebook, version=4) + "\n"


def edited(source, target, text):
    """Whether ``target`` has outputs, or is newer than its source and has other cells than ``text``."""
    if not target.exists():
        return False
    ours, theirs = (nbformat.reads(t, 4).cells for t in (target.read_text(), text))
    if any(cell.get("outputs") for cell in ours):
        return True
    newer = target.stat().st_mtime > source.stat().st_mtime
    return newer and [(cell.cell_type, cell.source) for cell in ours] != [
        (cell.cell_type, cell.source) for cell in theirs
    ]


def main(folder=NOTEBOOKS):
    for source in sorted(folder.glob("*.py")):
        target, text = source.with_suffix(".ipynb"), derive(source)
        if edited(source, target, text):
            (folder / "mine").mkdir(exist_ok=True)
            target.replace(folder / "mine" / target.name)
            print(f"{target.name} has outputs or other cells: moved to {folder.name}/mine/{target.name}")
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
            print(f"paired {target.name}")


if __name__ == "__main__":
    main()
