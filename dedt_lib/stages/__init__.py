"""The method's stages: data -> embed -> select -> reweight -> train -> sample -> evaluate, one part each.

A stage is a class that says how its result is made, what decides it and what it costs
(:mod:`dedt_lib.stages.base`).
"""

from .base import Cost, Given, Stage, closure
from .lab import Lab

__all__ = ["Cost", "Given", "Lab", "Stage", "closure"]
