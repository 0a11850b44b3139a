"""One training run on several devices: how rows of a batch are shared out, and results are combined.

In a run started by ``accelerate launch`` every process draws the same global batch and computes its own rows;
losses and gradients are then summed.  The result therefore does not depend on the number of processes, except
for the rounding of sums in another order.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from .errors import DedtError

if TYPE_CHECKING:
    from .models.batch import Batch


class Processes:
    """This process, one of ``count``; ``Processes()`` is a single one."""

    def __init__(self, rank: int = 0, count: int = 1, device: str | None = None) -> None:
        self.rank, self.count, self.device = rank, count, device

    @classmethod
    def from_environment(cls, device: str | None = None) -> Self:
        """The processes that ``accelerate launch`` or ``torchrun`` started, or this one alone.

        Raises:
            DedtError: WORLD_SIZE says that there are several, and no launcher has set the rest.
        """
        size = os.environ.get("WORLD_SIZE") or "1"
        if size == "1":
            return cls(device=device)
        if not size.isdecimal() or not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
            raise DedtError(
                f"WORLD_SIZE={size} is set, but not by a launcher: unset it, or start several processes by "
                "accelerate launch."
            )
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available() or device == "cpu")
        return cls(state.process_index, state.num_processes, str(state.device))

    @property
    def main(self) -> bool:
        """Whether this is the main process, which writes the files."""
        return self.rank == 0

    @property
    def hides_bars(self) -> bool | None:
        """Argument ``disable`` of tqdm: only the main process has bars, in a notebook or at a terminal."""
        return None if self.main and "JPY_SESSION_NAME" not in os.environ else not self.main

    def rows(self, total: int) -> slice:
        """The slice of a batch of ``total`` rows that this process computes."""
        bounds = [total * k // self.count for k in (self.rank, self.rank + 1)]
        return slice(*bounds)

    def mine(self, batch: "Batch") -> "Batch":
        """The rows of this process in a :class:`~dedt_lib.models.batch.Batch`."""
        return batch if self.count == 1 else batch.rows(self.rows(len(batch)))

    def gather(self, values: torch.Tensor, total: int) -> torch.Tensor:
        """The rows [total, ...] of all processes, given those of this process."""
        if self.count == 1:
            return values
        everyone = torch.zeros((total, *values.shape[1:]), dtype=values.dtype, device=values.device)
        everyone[self.rows(total)] = values
        torch.distributed.all_reduce(everyone)
        return everyone

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in one message."""
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
        """Whether ``flag`` is true in any process; waits for all processes and their devices."""
        if self.count == 1:
            return bool(flag)
        total = torch.tensor(int(bool(flag)), device=self.device)
        torch.distributed.all_reduce(total)
        return total.item() > 0

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.count > 1:
            torch.distributed.barrier()
