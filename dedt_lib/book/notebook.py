"""Helpers for the notebooks and the book: checked parameters, links to headings, sliders, described figures."""

import ast
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ..errors import DedtError
from ..extensions import load_extensions

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


def check_parameters(*known: str) -> None:
    """Load the extensions; raise DedtError if papermill injected a parameter that is not ``known``.

    For a mistyped name, papermill itself only writes a line to its log, and the notebook runs with the
    default.  The injected cell is found in IPython's history of executed cells.
    """
    from IPython import get_ipython

    load_extensions()
    shell = get_ipython()
    executed = shell.user_ns.get("In", []) if shell else []
    for source in executed:
        if source.startswith("# Parameters"):
            names = [target.id for node in ast.parse(source).body for target in node.targets]
            unknown = sorted(set(names) - set(known))
            if unknown:
                raise DedtError(
                    f"Unknown parameter(s) {', '.join(unknown)}; this notebook takes: {', '.join(known)}."
                )


def heading_id(title: str) -> str:
    """The anchor of a heading in JupyterLab; the book uses the same one, so that links work in both."""
    return title.replace(" ", "-")


def dial(
    name: str,
    settings: Mapping[Any, Any],
    draw: Callable[[Mapping[Any, Any]], Figure],
    printed: Sequence[Any] | None = None,
) -> Figure:
    """One figure of several settings; in JupyterLab, a slider above it shows the settings one at a time.

    All pictures are drawn in advance and the browser switches between them, so the slider reacts at once.  A
    static page, or a kernel that was not started by a Jupyter server, shows the figure alone.

    Args:
        name: Name of the setting, shown beside the slider.
        settings: Setting -> what is drawn for it.
        draw: Function that draws a mapping such as ``settings`` as a Figure.
        printed: The settings in the figure (default: all).
    """
    if "JPY_SESSION_NAME" in os.environ:  # a Jupyter server sets it, papermill does not
        from IPython.display import display
        from ipywidgets import Image, SelectionSlider, Stack, VBox, jslink

        slider = SelectionSlider(description=name, options=[str(setting) for setting in settings])
        fits = {"max_width": "100%"}
        pictures = Stack(
            [Image(value=_png(draw({k: v})), layout=fits) for k, v in settings.items()], layout=fits
        )
        jslink((slider, "index"), (pictures, "selected_index"))
        display(VBox([slider, pictures]))
    return draw({key: settings[key] for key in (settings if printed is None else printed)})


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


# ---- a Sphinx extension: book/_config.yml names this module ------------------------------------------


def complete(app: "Sphinx", page: "nodes.document") -> None:
    """Give figures an alternative text that names their section, and tables links that stay on the page.

    A number and its % stay on one line.
    Every figure of the notebooks is led by a paragraph that describes it, so a reader who hears the page is
    sent there.
    """
    from docutils import nodes

    for image in page.findall(nodes.image):
        if not image.get("alt"):
            above, section = image.parent, None
            while above is not None and section is None:
                section = above.next_node(nodes.title) if isinstance(above, nodes.section) else None
                above = above.parent
            image["alt"] = (
                f"Figure: {section.astext() if section else 'see the text'} (described in the text before)"
            )
    prefix = app.env.docname.rpartition("/")[2]
    for table in page.findall(nodes.raw):
        if table["format"] == "html":  # the book on paper is one page, with the ids of all
            own = re.sub(r"(?<=id='|f='#)run-", f"{prefix}-run-", table.astext())
            table.children = [nodes.Text(re.sub(r"(?<=\d) %", "&nbsp;%", own))]
    for text in list(page.findall(nodes.Text)):
        verbatim = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
        if " %" in text and not isinstance(text.parent, verbatim):
            text.parent.replace(text, nodes.Text(re.sub(r"(?<=\d) %", "\u00a0%", text)))


def setup(app: "Sphinx") -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("doctree-read", complete)
    return {"parallel_read_safe": True}
