"""Statistics over the processes that `accelerate` started."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from training.objectives.ranks import Alone, Ranks

if TYPE_CHECKING:
    from accelerate import Accelerator


def ranks_of(accelerator: "Accelerator") -> Ranks:
    """The processes of a run."""
    return Processes(accelerator) if accelerator.num_processes > 1 else Alone()


class Processes:
    """Several processes, as `objectives.ranks.Ranks`."""

    def __init__(self, accelerator: "Accelerator") -> None:
        self._accelerator: Any = accelerator
        self.index = int(accelerator.process_index)
        self.size = int(accelerator.num_processes)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over processes."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def gather(self, values: Tensor) -> list[Tensor]:
        """The 1-D tensors of all processes; the shorter ones travel padded."""
        own = values.detach()
        length = torch.tensor([len(own)], device=own.device)
        lengths: list[int] = self._accelerator.gather(length).tolist()
        longest = max(lengths)
        padded = torch.nn.functional.pad(own, (0, longest - len(own)))
        rows = self._accelerator.gather(padded[None])
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        copy = values.detach().clone()
        dist.all_reduce(copy, op=operation)
        return copy
