"""vLLM's `LLM` in one process with our processor in it, every published record kept."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from probes.laws import TemperatureLaw
from probes.truncations import Truncation
from server.requests.telemetry import TracedToken
from server.worker.message import CONFIG_KEY, KEY, EngineControl, PhaseMessage
from tests.integration.runners.engines import Engine
from tests.unit.server.engine.support import asking

if TYPE_CHECKING:
    from server.engine.controller import Controller


class Kept:
    """Stands where the publisher stands and keeps every record, in the order of the steps."""

    lost = 0

    def __init__(self) -> None:
        self.tokens: dict[tuple[int, int, int], list[TracedToken]] = defaultdict(list)
        """By trace, choice and token index."""
        self.decisions: dict[tuple[int, int], list[tuple[int, list[float]]]] = defaultdict(list)
        """By trace and choice: class and its figures."""

    def publish(
        self, values: Sequence[Tensor | None], slots: Any, indices: Any, directory: Any
    ) -> None:
        unknown = torch.full((len(slots),), torch.nan)
        columns: list[Any] = [slots, indices, *(unknown if c is None else c for c in values)]
        for slot, index, *measured in zip(*(c.tolist() for c in columns), strict=True):
            if index >= 0 and directory.traces[slot]:
                key = int(directory.traces[slot]), int(directory.choices[slot]), index
                self.tokens[key].append(TracedToken._make(measured))

    def publish_decisions(
        self, classes: Tensor, figures: Tensor, slots: Any, directory: Any
    ) -> None:
        columns = (classes.tolist(), figures.tolist(), slots.tolist())
        for label, row, slot in zip(*columns, strict=True):
            key = int(directory.traces[slot]), int(directory.choices[slot])
            self.decisions[key].append((label, row))

    def trace(self, trace: int, choice: int, length: int) -> Tensor:
        """What was measured at an answer's tokens, shape (length, fields of `TracedToken`).

        Raises:
            AssertionError: A token has no record, or one beyond the answer has.
        """
        rows = [self.tokens.get((trace, choice, index), []) for index in range(length)]
        missing = [index for index, row in enumerate(rows) if not row]
        assert not missing, f"tokens {missing} of {length} have no record"
        return torch.tensor([row[-1] for row in rows])

    def beyond(self, trace: int, choice: int, length: int) -> list[int]:
        """Indices behind an answer's end that have a record."""
        return sorted(i for t, c, i in self.tokens if (t, c) == (trace, choice) and i >= length)


class InProcess(NamedTuple):
    """A started engine."""

    engine: Engine
    llm: Any
    runner: Any
    controller: "Controller"
    kept: Kept


def start(engine: Engine, checkpoint: str, **options: Any) -> InProcess:
    """Start the default model in float32 with our processor.

    Args:
        engine: Which runner, and how.
        checkpoint: Folder of the model.
        **options: Further arguments of `vllm.LLM`.
    """
    from vllm import LLM

    defaults: dict[str, Any] = {
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 8,
        "block_size": 32,
        "kv_cache_memory_bytes": 1 << 28,
        "distributed_executor_backend": "uni",
    }
    version = 2 if engine.v2 else 1
    processor = f"server.engine.runner_v{version}:EntropyProcessorV{version}"
    llm = LLM(
        checkpoint,
        logits_processors=[processor],
        additional_config={CONFIG_KEY: {}},
        **defaults | engine.options() | options,
    )
    scheduler = llm.llm_engine.vllm_config.scheduler_config
    assert scheduler.async_scheduling == engine.asynchronous
    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    assert hasattr(worker.model_runner, "input_batch") != engine.v2
    controller, kept = worker.entrostat_processor.controller, Kept()
    controller.report_to(kept)
    return InProcess(engine, llm, worker.model_runner, controller, kept)


def control(
    law: TemperatureLaw | None = None,
    *,
    trace: int = 0,
    choices: int = 1,
    difficulty: Any = None,
    steering: Any = None,
    truncation: Truncation | None = None,
    phases: PhaseMessage | None = None,
    seed: int = 0,
    confidence: bool = False,
) -> dict[str, Any]:
    """`extra_args` of a controlled request."""
    extra = asking(
        law,
        trace,
        choices=choices,
        seed=seed,
        truncation=truncation,
        confidence=confidence,
        phases=phases,
    )[KEY]
    return {KEY: EngineControl(extra | {"difficulty": difficulty, "steering": steering})}
