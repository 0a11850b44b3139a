"""Losses to class weights: one file a rule.

The values that the options of group DRO can take are here, because a configuration needs no more and PyTorch
is slow to import; everything else is imported from the rule's file when it is first asked for.
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
