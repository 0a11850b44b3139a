"""The base classes of all stages: inputs, deciding settings, work, result and cost.

Stages refer to each other, so a recipe is a graph.  The store walks it to make what is missing, ``dedt plan``
walks it to add up the costs, and the book draws it.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, dataclass_transform

import numpy as np
from torch import nn

from ..files import address, read_json
from ..weights import key_of

if TYPE_CHECKING:
    from .lab import Lab

NO_TIME = {"seconds": 0.0, "cpu_seconds": 0.0}


@dataclass(frozen=True)
class Cost:
    """The cost of a stage in one kind of work.

    Attributes:
        kind: The kind of work, one of ``plan.KINDS``.
        what: The work in words.
        network: The network that does the work; "" if its time is not counted.
        steps: Optimiser steps.
        images: Images that are processed, once per pass; in sampling the number of samples.
        evaluations: Forward passes of one image; a backward pass counts as two.
        pairs: Pairs of images whose distance is computed.
        bytes: Bytes kept on disk.
        scratch: Further bytes on disk while the stage runs.
        runs: 0 if this work is part of another stage's run, else 1.
    """

    kind: str
    what: str
    network: str = ""
    steps: int = 0
    images: int = 0
    evaluations: int = 0
    pairs: int = 0
    bytes: int = 0
    scratch: int = 0
    runs: int = 1


@dataclass_transform(frozen_default=True, eq_default=False)
@dataclass(frozen=True, eq=False)
class Stage:
    """A stage on a :class:`~dedt_lib.stages.lab.Lab`: a frozen dataclass whose fields identify it.

    A new stage defines the stages it reads (:meth:`inputs`), the settings that also decide its result
    (:meth:`decides`), how it fills its folder (:meth:`work`), what is read from there (:meth:`load`), its
    cost (:meth:`cost`), and what it requires (:meth:`check`).
    """

    lab: "Lab"

    name: ClassVar[str]
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = False
    together: ClassVar[bool] = False
    """Whether all processes of a run share the work."""
    file: ClassVar[str]
    """The file in its folder with the result, JSON or an array, unless it overrides ``load``."""
    mapped: ClassVar[Literal["r"] | None] = None
    """Whether that array is memory-mapped ("r")."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, eq=False)(cls)

    def inputs(self) -> dict[str, "Stage"]:
        """The stages that it reads, by the role they play in it."""
        return {}

    def decides(self) -> dict[str, Any]:
        """Its own settings, as JSON: whatever changes its result apart from the inputs."""
        return {}

    def check(self) -> None:
        """Raise DedtError, before any work, if the profile or the class counts rule the stage out."""

    def work(self, folder: Path) -> dict[str, Any] | None:
        """Fill ``folder``; may return facts for the manifest."""
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        """The result of the stage, read from its folder: by default the content of its ``file``."""
        if self.file.endswith(".json"):
            return read_json(folder / self.file)
        return np.load(folder / self.file, mmap_mode=self.mapped)

    def cost(self) -> Iterable[Cost]:
        """Its costs, known before anything is computed."""
        raise NotImplementedError

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that its address is hashed from."""
        read = {part: stage.address for part, stage in self.inputs().items()}
        return {"version": self.version, **self.decides(), "inputs": read}

    @cached_property
    def address(self) -> str:
        """The hash that names its result: sixteen hex digits."""
        return address(self.name, self.identity)

    @property
    def folder(self) -> Path:
        """The folder of its result, which is computed first if it is missing."""
        return self.lab.folder(self)

    def result(self) -> Any:
        """The result of :meth:`load`, read once per lab."""
        return self.lab.result(self)

    def manifest(self) -> dict[str, Any]:
        """The manifest of its result."""
        return self.lab.store.manifest(self.folder)

    def on(self, lab: "Lab", **changes: Any) -> Self:
        """The same stage on another lab."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {name: value.on(lab) if isinstance(value, Stage) else value for name, value in values.items()}
        return type(self)(**{**moved, "lab": lab, **changes})


def uncounted(stage: Stage) -> Iterable[Cost]:
    """No cost: for stages that take next to nothing or that the plan leaves out."""
    return ()


class Given(Stage):
    """A network with published weights: nothing is computed, and its address is a hash of their content.

    On an imagined lab the network is its :meth:`outline`, and its address is its name.
    """

    weights: str

    @property
    def role(self) -> str:
        """The network's role in a run: its key among the weights in a manifest."""
        raise NotImplementedError

    def read(self) -> Any:
        """The network with its weights."""
        raise NotImplementedError

    def outline(self) -> Any:
        """A network of the same architecture without the published weights."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        """The name that distinguishes it from others of its class."""
        return self.weights

    def key(self) -> str:
        """The hash of the weights: sixteen hex digits."""
        return key_of(self.result())

    def facts(self) -> dict[str, Any]:
        """Where the weights came from: name, commit and SHA-256 of each file."""
        return self.result().published.facts

    cost = uncounted  # downloads are not counted

    @cached_property
    def address(self) -> str:
        return self.called if self.lab.imagined else self.remember("key", self.key)

    def remember(self, what: str, make: Callable[[], Any]) -> Any:
        """The result of ``make()``, called once per lab."""
        return self.lab.remember((what, type(self), self.called), make)

    @property
    def folder(self) -> Path:
        raise NotImplementedError("Published weights have no folder in the store.")

    def result(self) -> Any:
        return self.remember("network", self.outline if self.lab.imagined else self.read)

    def manifest(self) -> dict[str, Any]:
        return {"key": self.address, "identity": {"weights": self.weights}, **NO_TIME}


def defaults(make: Callable[..., Any]) -> dict[str, Any]:
    """The default arguments of ``make``: they identify a class that a user has registered."""
    found = inspect.signature(make).parameters.values()
    known = {argument.name: argument.default for argument in found if argument.default is not argument.empty}
    return known | newer(make)


def newer(make: Callable[..., Any]) -> dict[str, int]:
    """The ``version`` of a registered class, or of that in a ``functools.partial``; {} if it has none or 1."""
    version = getattr(getattr(make, "func", make), "version", 1)
    return {} if version == 1 else {"version": version}


def closure(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages and everything they read, each once and after its inputs: address -> stage."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.address not in found:
            for read in stage.inputs().values():
                visit(read)
            found[stage.address] = stage

    for stage in stages:
        visit(stage)
    return found


def walk(stages: Iterable[Stage]) -> Iterator[Stage]:
    """The stages and everything they read, with repetitions; needs no addresses and no data."""
    for stage in stages:
        yield stage
        yield from walk(stage.inputs().values())


def givens(stages: Iterable[Stage]) -> list[Given]:
    """The published weights behind the stages, each once."""
    found = [stage for stage in walk(stages) if isinstance(stage, Given)]
    return list({(type(given), given.weights, given.role): given for given in found}.values())


def published(stages: Iterable[Stage]) -> dict[str, Any]:
    """Facts about all published weights behind the stages: {"weights": {role: facts}}, or {} if none."""
    facts = {stage.role: stage.facts() for stage in givens(stages) if not stage.lab.imagined}
    return {"weights": facts} if facts else {}


def size(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())
