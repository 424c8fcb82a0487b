"""One of the two processes that `test_distributed` starts, with gloo on the CPU."""

import gc
import json
import sys
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch.nn.parallel import DistributedDataParallel

from tests.unit.training.policy import tiny_policy as tiny
from training.objectives.catalog import ObjectiveList
from training.policy.distributed import Processes, shut_down
from training.policy.trainer import EntropyGRPOTrainer


def check_ranks(processes: Processes) -> None:
    """Sums, maxima and gathers of unequal lengths."""
    own = torch.arange(3.0) + processes.index
    assert processes.sum(own).tolist() == [1.0, 3.0, 5.0]
    assert processes.max(own).tolist() == [1.0, 2.0, 3.0]
    parts = processes.gather(torch.full((2 + processes.index,), float(processes.index)))
    assert [part.tolist() for part in parts] == [[0.0, 0.0], [1.0, 1.0, 1.0]]


def main(folder: Path, per_device: int, names: str) -> None:
    """Train two steps and write the measurements of each."""
    trainer = EntropyGRPOTrainer(
        tiny.model(),
        tiny.reward,
        tiny.settings(
            folder, per_device_train_batch_size=per_device, num_iterations=2, max_steps=4
        ),
        objectives=TypeAdapter(ObjectiveList).validate_python(names.split(",")),
        grader=tiny.has_e,
        train_dataset=tiny.dataset(),
        processing_class=tiny.tokenizer(),
    )
    if trainer.accelerator.num_processes > 1:
        check_ranks(Processes(trainer.accelerator))
    trainer.train()
    if trainer.accelerator.is_main_process:
        rows = [row for row in trainer.state.log_history if "grad_norm" in row]
        total = sum(float(p.detach().double().sum()) for p in trainer.model.parameters())
        (folder / "result.json").write_text(json.dumps({"rows": rows, "weights": total}))
    sums = torch.stack([p.detach().double().sum() for p in trainer.model.parameters()])
    everyone = trainer.accelerator.gather(sums[None])
    assert torch.equal(everyone[0], everyone[-1]), "the processes have different weights"
    shut_down(trainer)
    wrapped = [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
    assert not wrapped, "a wrapper of the model outlives the process group"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
