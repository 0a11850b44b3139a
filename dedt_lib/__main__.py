"""``python -m dedt_lib`` runs the command ``dedt``."""

import sys

from .shell.cli import main

if __name__ == "__main__":
    sys.exit(main())
