"""Reductions over the processes that `accelerate` started."""

import gc
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from training.objectives.core.distributed import Ranks, SingleProcess

if TYPE_CHECKING:
    from accelerate import Accelerator


def ranks_of(accelerator: "Accelerator") -> Ranks:
    """Return the `Ranks` of a run."""
    return Processes(accelerator) if accelerator.num_processes > 1 else SingleProcess()


def shut_down(trainer: Any) -> None:
    """Shut down torch.distributed at the end of a run; the trainer cannot train afterwards.

    The model wrapper is released first. If it held the last reference to the process group, the
    group would be destroyed while the GIL is held, waiting for a gloo thread that needs the GIL to
    free the tensors of the last reduction: an occasional deadlock at exit.
    """
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    gc.collect()
    trainer.accelerator.end_training()


class Processes:
    """`Ranks` over several processes."""

    def __init__(self, accelerator: "Accelerator") -> None:
        self._accelerator: Any = accelerator
        self.index = int(accelerator.process_index)
        self.size = int(accelerator.num_processes)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over processes."""
        return self._all_reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over processes."""
        return self._all_reduce(values, dist.ReduceOp.MAX)

    def gather(self, values: Tensor) -> list[Tensor]:
        """The 1-D tensors of all processes; shorter ones are padded for the exchange."""
        own = values.detach()
        length = torch.tensor([len(own)], device=own.device)
        lengths: list[int] = self._accelerator.gather(length).tolist()
        longest = max(lengths)
        padded = torch.nn.functional.pad(own, (0, longest - len(own)))
        rows = self._accelerator.gather(padded[None])
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def _all_reduce(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        copy = values.detach().clone()
        dist.all_reduce(copy, op=operation)
        return copy
