"""Class weights from losses: one module per rule.

The values that the options of group DRO can take are here, because the configuration needs nothing else and
PyTorch is slow to import.  Everything else is imported from the module of the rule at the first access.
"""

import importlib
from typing import Any

CLIPS = ("sample", "class", "element")
ABSENT = ("previous", "zero")
SCORES = ("train", "eval")


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(importlib.import_module(".group_dro", __name__), name)
