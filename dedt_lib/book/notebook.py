"""Helpers for the notebooks: checked parameters, links to headings, sliders."""

import ast
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ..errors import DedtError
from ..extensions import load_extensions


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
