"""Files of one's own, named in ``$DEDT_EXTENSIONS``, that enter classes into the registries."""

import os
import sys

from .errors import DedtError
from .files import at_home


def load_extensions() -> None:
    """Run the Python files in ``$DEDT_EXTENSIONS``, each once, in their order.

    Raises:
        DedtError: A path is relative or missing, or its file fails.
    """
    for name in filter(None, os.environ.get("DEDT_EXTENSIONS", "").split(os.pathsep)):
        file = at_home(name)
        if not (file.is_absolute() and file.suffix == ".py" and file.is_file()):
            raise DedtError(
                f"DEDT_EXTENSIONS must hold absolute paths of Python files, but there is no {file}."
            )
        if str(file) not in sys.modules:
            _run(str(file))


def _run(file: str) -> None:
    """Run a file as a module that is named by its path."""
    import importlib.util  # here, because without extensions nobody waits for it
    import traceback

    spec = importlib.util.spec_from_file_location(file, file)
    assert spec and spec.loader
    sys.modules[file] = module = importlib.util.module_from_spec(spec)  # where a dataclass looks for its own
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[file]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = f", line {frames[-1].lineno}," if frames else ""
        raise DedtError(f"{file}{line} in DEDT_EXTENSIONS fails: {type(error).__name__}: {error}") from error
