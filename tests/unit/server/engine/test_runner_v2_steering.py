import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.cpu import buffer_utils as cpu_buffer_utils
from vllm.v1.worker.gpu import buffer_utils
from vllm.v1.worker.gpu.model_runner import BatchReqState, GPUModelRunner
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsProcRequestState,
)
from vllm.v1.worker.gpu.states import RequestState

from server.engine.runner_v2 import EntropyProcessorV2
from server.worker.message import KEY
from tests.unit.server.engine.support import (
    CPU,
    VOCAB,
    asking,
)
from tests.unit.server.engine.test_runner_v2 import NUM_SLOTS
from tests.unit.server.engine.test_steering import added, make
from tests.unit.server.engine.test_steering import asking as steered


class Host:
    """vLLM's own request slots, and what its runner does to them before a forward pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int = NUM_SLOTS) -> None:
        names = list(inspect.signature(GPUModelRunner.prepare_inputs).parameters)
        assert names[1:3] == ["scheduler_output", "batch_req_state"]
        assert {"idx_mapping_np", "num_scheduled_tokens"} <= set(BatchReqState.__annotations__)
        monkeypatch.setattr(buffer_utils, "UvaBuffer", cpu_buffer_utils.UvaBuffer)
        self.req_states = RequestState(
            max_num_reqs=NUM_SLOTS,
            max_model_len=32,
            max_num_batched_tokens=16,
            num_speculative_steps=0,
            vocab_size=VOCAB,
            device=CPU,
        )
        state = LogitsProcRequestState.from_request_state(self.req_states)
        config: Any = SimpleNamespace()
        self.processor = EntropyProcessorV2(config, state)
        self.prepared: list[tuple[Any, ...]] = []
        self.sample = None
        self.processor.bind(self)
        control, self.layers = make(rows, NUM_SLOTS)
        self.processor.steer(control)

    def prepare_inputs(self, *arguments: Any) -> str:
        self.prepared.append(arguments)
        return "inputs"

    def add(self, name: str, tokens: int, steering: Any = None, *, prompt: int = 3) -> None:
        """A request with so many tokens to be computed, those after its prompt once answered."""
        self.req_states.add_request(name, prompt, list(range(tokens)), 0, 9)
        extra = {KEY: {**asking(trace=0)[KEY], "steering": steering}} if steering else None
        slot = self.req_states.req_id_to_index[name]
        self.processor.add_request(slot, SamplingParams(extra_args=extra))

    def step(self, **counts: int) -> list[float]:
        """Tokens of each request; what the first layer adds to each token's first feature."""
        slots = [self.req_states.req_id_to_index[name] for name in counts]
        batch = SimpleNamespace(
            idx_mapping_np=np.array(slots, dtype=np.int32),
            num_scheduled_tokens=np.array(list(counts.values()), dtype=np.int32),
        )
        prepare: Any = self.prepare_inputs
        assert prepare("scheduled", batch, "graph", 0) == "inputs"
        assert self.prepared[-1][2:] == ("graph", 0)
        self.req_states.num_computed_tokens_np[slots] += batch.num_scheduled_tokens
        return added(self.layers[0], sum(counts.values()))[:, 0].tolist()


def test_tokens_are_marked_before_the_inputs_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.add("a", 3, steered("m/a", 2.0))
    host.add("b", 3)
    host.add("c", 3, steered("m/a", 5.0, everywhere=True))
    assert host.step(b=1, a=2, c=2) == [0, 0, 0, 5, 5]
    assert host.step(c=1, a=1, b=2) == [5, 2, 0, 0]
    assert host.step(a=1, b=1) == [2, 0]


def test_a_preempted_request_comes_back_steered(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.add("a", 3, steered("m/a", 2.0))
    assert host.step(a=3) == [0, 0, 2]
    host.req_states.remove_request("a")
    host.add("b", 3)
    host.add("a", 6, steered("m/a", 2.0))  # three of them are answered already
    assert host.step(b=3, a=6) == [0, 0, 0, 0, 0, 2, 2, 2, 2]


def test_a_request_that_left_keeps_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """V2 does not tell a processor who leaves; one row has to do for one after another."""
    host = Host(monkeypatch, rows=1)
    for factor in (1.0, 2.0, 3.0):
        name = f"r{factor:.0f}"
        host.add(name, 3, steered("m/a", factor))
        host.add(f"plain{name}", 3)
        assert host.step(**{f"plain{name}": 3, name: 3}) == [0, 0, 0, 0, 0, factor]
        host.req_states.remove_request(name)
        host.req_states.remove_request(f"plain{name}")
