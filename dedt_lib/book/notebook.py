"""What the notebooks need of their surroundings."""

import ast
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ..errors import DedtError


def check_parameters(*known: str) -> None:
    """Raise DedtError if papermill injected a parameter that is not ``known``.

    papermill itself passes a mistyped name on with no more than a line in its log, and the notebook then
    runs with the default.  The injected cell is found in IPython's history of executed cells.
    """
    from IPython import get_ipython

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
    """What JupyterLab calls a heading in a link; the book calls it the same, so that links lead there in both."""
    return title.replace(" ", "-")


def dial(
    name: str,
    settings: Mapping[Any, Any],
    draw: Callable[[Mapping[Any, Any]], Figure],
    printed: Sequence[Any] | None = None,
) -> Figure:
    """Several settings in one figure; in JupyterLab a slider above it shows them one at a time.

    Every picture is drawn once, and the browser chooses among them, so turning waits for nothing.  A static
    page has the figure alone.  So has a kernel that no Jupyter server started.

    Args:
        name: What is dialled.
        settings: Setting -> what is drawn for it.
        draw: Some of the settings, as such a mapping -> Figure.
        printed: The settings that are in the figure (default: all).
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
