"""One training run on several devices: who computes which rows of a batch, and how sums come together.

A run started by ``accelerate launch`` draws the same global batch in every process; each computes the rows
that are its own, and losses and gradients are summed.  So the result does not depend on the number of
processes, but for the rounding of sums in another order.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from .models.batch import Batch


class Processes:
    """This process among ``count``.  ``Processes()`` is alone."""

    def __init__(self, rank: int = 0, count: int = 1, device: str | None = None) -> None:
        self.rank, self.count, self.device = rank, count, device

    @classmethod
    def from_environment(cls, device: str | None = None) -> Self:
        """The processes that ``accelerate launch`` or ``torchrun`` started, or this one alone."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls(device=device)
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available() or device == "cpu")
        return cls(state.process_index, state.num_processes, str(state.device))

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def hides_bars(self) -> bool | None:
        """What tqdm's ``disable`` takes: the main process has bars in a notebook, and elsewhere at a terminal."""
        return None if self.main and "JPY_SESSION_NAME" not in os.environ else not self.main

    def rows(self, total: int) -> slice:
        """The slice of a batch of ``total`` rows that this process computes."""
        bounds = [total * k // self.count for k in (self.rank, self.rank + 1)]
        return slice(*bounds)

    def mine(self, batch: "Batch") -> "Batch":
        """This process's part of a :class:`~dedt_lib.models.batch.Batch`."""
        return batch if self.count == 1 else batch.rows(self.rows(len(batch)))

    def gather(self, values: torch.Tensor, total: int) -> torch.Tensor:
        """The rows [total, ...] of all processes, from this one's."""
        if self.count == 1:
            return values
        everyone = torch.zeros((total, *values.shape[1:]), dtype=values.dtype, device=values.device)
        everyone[self.rows(total)] = values
        torch.distributed.all_reduce(everyone)
        return everyone

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in one message."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        message = torch.cat([parameter.grad.flatten() for parameter in parameters])
        torch.distributed.all_reduce(message)
        for parameter, part in zip(parameters, message.split([p.numel() for p in parameters])):
            parameter.grad.copy_(part.view_as(parameter))

    def from_main(self, value: Any) -> Any:
        """The main process's ``value``, in every process."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in any of the processes; waits for them and their devices."""
        if self.count == 1:
            return bool(flag)
        total = torch.tensor(int(bool(flag)), device=self.device)
        torch.distributed.all_reduce(total)
        return total.item() > 0

    def wait(self) -> None:
        """Go on only when every process is here."""
        if self.count > 1:
            torch.distributed.barrier()
