"""Derive each notebooks/*.ipynb from its .py: no outputs, cell ids 0, 1, 2, ..

Always in this direction: ``jupytext --sync`` would let a newer .ipynb overwrite an edited .py.
"""

from pathlib import Path

import jupytext
import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def derive(source):
    """The text of the .ipynb that belongs to a py:percent file."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    notebook.metadata.setdefault("language_info", {"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = str(number)
    return nbformat.writes(notebook, version=4) + "\n"


def main():
    for source in sorted(NOTEBOOKS.glob("*.py")):
        target, text = source.with_suffix(".ipynb"), derive(source)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
            print(f"paired {target.name}")


if __name__ == "__main__":
    main()
