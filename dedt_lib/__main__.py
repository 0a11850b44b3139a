"""``python -m dedt_lib`` is ``dedt``."""

import sys

from .shell.cli import main

if __name__ == "__main__":
    sys.exit(main())
