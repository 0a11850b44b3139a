"""``python -m dedt_lib`` is ``dedt``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
