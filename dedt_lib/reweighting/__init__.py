"""Class weights from losses: one module per rule.

A new rule is a subclass of ``GroupDRO`` and its entry in ``RULES``, here or in a file of your own.
The values that the options of group DRO can take are here, because the configuration needs nothing else and
PyTorch is slow to import.  Everything else is imported from the module of the rule at the first access.
"""

import importlib
from typing import Any

CLIPS = ("sample", "class", "element")
ABSENT = ("previous", "zero")
SCORES = ("train", "eval")
USUAL = "group-dro"
RULES: dict[str, Any] = {USUAL: None}  # its module fills in the class
"""Name of a rule -> its class."""


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(importlib.import_module(".group_dro", __name__), name)
