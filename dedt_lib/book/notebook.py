"""What the notebooks need of their surroundings."""

import ast

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
