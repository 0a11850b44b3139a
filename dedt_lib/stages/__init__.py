"""The method's stages: data -> embed -> select -> reweight -> train -> sample -> evaluate, one file a word.

Every stage says in one place how it is made, what decides it and what it takes (:mod:`dedt_lib.stages.base`).
"""

from .base import Cost, Given, Stage, closure
from .lab import Lab

__all__ = ["Cost", "Given", "Lab", "Stage", "closure"]
