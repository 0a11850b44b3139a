"""What a stage is: what it reads, what decides it, how it is made and read, and what it costs.

Stages refer to each other, so a recipe is a graph: the store walks it to make what is missing, ``dedt plan``
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
    """What a stage takes of one kind of work.

    Attributes:
        kind: A kind of work, one of ``plan.KINDS``.
        what: The work in words.
        network: The network whose time it is; "" if its time is not counted.
        steps: Steps of the optimiser.
        images: Passes over an image; of sampling the samples.
        evaluations: Forward passes of one image; a backward pass counts two.
        pairs: Pairs of images whose distance is taken.
        bytes: Kept on disk.
        scratch: Bytes beside that while it runs.
        runs: 0 for what belongs to the work of another stage, else 1.
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
    """One stage on a :class:`~dedt_lib.stages.lab.Lab`; its fields, those of a frozen dataclass, say which one.

    A new stage says what it reads (:meth:`inputs`), which settings decide it beside (:meth:`decides`), how it
    fills its folder (:meth:`work`), what is read from there (:meth:`load`), what it takes (:meth:`cost`), and
    what it cannot do without (:meth:`check`).
    """

    lab: "Lab"

    name: ClassVar[str]
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = False
    together: ClassVar[bool] = False
    """Whether all processes of a run do the work together."""
    file: ClassVar[str]
    """Where its result is in its folder, JSON or an array, if it has no ``load`` of its own."""
    mapped: ClassVar[Literal["r"] | None] = None
    """Whether that array is memory-mapped ("r")."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, eq=False)(cls)

    def inputs(self) -> dict[str, "Stage"]:
        """The stages that it reads, by their part in it."""
        return {}

    def decides(self) -> dict[str, Any]:
        """Its own settings, as JSON: whatever changes its result beside the inputs."""
        return {}

    def check(self) -> None:
        """Raise DedtError for what the profile and the numbers of images do not allow, before any work."""

    def work(self, folder: Path) -> dict[str, Any] | None:
        """Fill ``folder``; may return facts for the manifest."""
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        """What the stage gives to others, read from its folder: by default what is in its ``file``."""
        if self.file.endswith(".json"):
            return read_json(folder / self.file)
        return np.load(folder / self.file, mmap_mode=self.mapped)

    def cost(self) -> Iterable[Cost]:
        """What it takes, known before anything is computed."""
        raise NotImplementedError

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that its address is made of."""
        read = {part: stage.address for part, stage in self.inputs().items()}
        return {"version": self.version, **self.decides(), "inputs": read}

    @cached_property
    def address(self) -> str:
        """Sixteen hex digits that name its result."""
        return address(self.name, self.identity)

    @property
    def folder(self) -> Path:
        """Where its result is, made now if it was not there."""
        return self.lab.folder(self)

    def result(self) -> Any:
        """What :meth:`load` reads, once for a lab."""
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
    """The cost of a stage that takes next to nothing, or what the plan leaves out."""
    return ()


class Given(Stage):
    """Published weights: nothing is computed, and their content is their address.

    On an imagined lab the network is of the same make, without its weights, and its name is its address.
    """

    weights: str

    @property
    def role(self) -> str:
        """What the network is in a run: its name among a manifest's weights."""
        raise NotImplementedError

    def read(self) -> Any:
        """The network with its weights."""
        raise NotImplementedError

    def outline(self) -> Any:
        """A network of the same make without weights."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        """What tells it from others of its kind."""
        return self.weights

    def key(self) -> str:
        """Sixteen hex digits of the weights."""
        return key_of(self.result())

    def facts(self) -> dict[str, Any]:
        """Where the weights came from, by content."""
        return self.result().published.facts

    cost = uncounted  # what is downloaded is not counted

    @cached_property
    def address(self) -> str:
        return self.called if self.lab.imagined else self.remember("key", self.key)

    def remember(self, what: str, make: Callable[[], Any]) -> Any:
        """``make()``, once for a lab."""
        return self.lab.remember((what, type(self), self.called), make)

    @property
    def folder(self) -> Path:
        raise NotImplementedError("Published weights have no folder in the store.")

    def result(self) -> Any:
        return self.remember("network", self.outline if self.lab.imagined else self.read)

    def manifest(self) -> dict[str, Any]:
        return {"key": self.address, "identity": {"weights": self.weights}, **NO_TIME}


def defaults(make: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of ``make`` that need not be given, with their values: they decide a class of one's own."""
    found = inspect.signature(make).parameters.values()
    return {argument.name: argument.default for argument in found if argument.default is not argument.empty}


def closure(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages and all that they read, each once, those that are read first: address -> stage."""
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
    """The stages and all that they read, each as often as it is read: without an address or any data."""
    for stage in stages:
        yield stage
        yield from walk(stage.inputs().values())


def givens(stages: Iterable[Stage]) -> list[Given]:
    """The published weights behind the stages, each once."""
    found = [stage for stage in walk(stages) if isinstance(stage, Given)]
    return list({(type(given), given.weights, given.role): given for given in found}.values())


def published(stages: Iterable[Stage]) -> dict[str, Any]:
    """Facts on all published weights behind the stages: {"weights": {role: facts}}, {} without any."""
    facts = {stage.role: stage.facts() for stage in givens(stages) if not stage.lab.imagined}
    return {"weights": facts} if facts else {}


def size(network: nn.Module) -> int:
    """Bytes of a network's state, as it is."""
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())
