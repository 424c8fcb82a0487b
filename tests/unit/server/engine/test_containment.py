"""No exception of ours ends the engine: faults are injected at every entry point of the worker.

vLLM calls these inside its step, where an exception ends the engine and all requests in it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from server.engine.steering import SteeringControl
from server.worker.message import KEY
from tests.unit.server.engine import test_runner_v1 as v1
from tests.unit.server.engine import test_runner_v2 as v2
from tests.unit.server.engine.support import ENTROPY_TARGET, VOCAB, asking, bits, random_logits
from tests.unit.server.engine.test_difficulty import Model, head, with_probe
from tests.unit.server.engine.test_steering import added, make
from tests.unit.server.engine.test_steering import asking as steering

SWAP = MoveDirectionality.SWAP


class OnV1:
    """A V1 runner with steering and a difficulty probe, driven as vLLM drives it."""

    def __init__(self) -> None:
        self.runner = v1.Runner()
        self.controller = self.runner.controller
        self.processor: Any = self.runner.processor
        self.tables, self.layers = make(4, v1.NUM_ROWS)
        self.runner._prepare_inputs = lambda *_: None  # type: ignore[attr-defined]
        self.processor.steer(self.tables)
        self.controller.read_difficulty(Model(), {"m/probe": head()})

    def cycle(self, extra: dict[str, Any]) -> Tensor:
        """A plain request and another one join, swap, decode and leave; the plain row's logits."""
        batch, counts = self.runner.input_batch, np.ones(2, dtype=np.int64)
        self.runner.add("plain")
        self.runner.add("0_other", extra)
        self.runner.refresh()
        batch.swap_states(0, 1)
        self.runner.refresh()
        self.runner._prepare_inputs(None, counts)  # type: ignore[attr-defined]
        self.controller.tap.hidden = torch.zeros(2, 8)
        logits = random_logits(2)
        for rows in (logits, random_logits(2)):
            self.processor.before_sampling(rows)
            self.processor.after_sampling(torch.zeros(2, dtype=torch.long))
        batch.remove_request("0_other")
        self.runner.refresh()
        batch.remove_request("plain")
        self.runner.refresh()
        return logits[1]


class OnV2:
    """The same on V2, whose requests leave without a word."""

    def __init__(self) -> None:
        self.runner = v2.Runner()
        self.controller = self.runner.controller
        self.processor: Any = self.runner.processor
        self.tables, self.layers = make(4, v2.NUM_SLOTS)
        states: Any = self.runner.req_states
        states.num_computed_tokens_np = np.full(v2.NUM_SLOTS, 5)
        states.prompt_len = self.runner.lengths
        self.runner.prepare_inputs = lambda *_: None  # type: ignore[attr-defined]
        self.processor.steer(self.tables)
        self.controller.read_difficulty(Model(), {"m/probe": head()})

    def cycle(self, extra: dict[str, Any]) -> Tensor:
        self.runner.add(0, name="plain")
        self.runner.add(1, extra, name="0_other")
        batch: Any = type("Batch", (), {})()
        batch.idx_mapping_np = np.array([1, 0])
        batch.num_scheduled_tokens = np.ones(2, dtype=np.int64)
        self.runner.prepare_inputs(None, batch)  # type: ignore[attr-defined]
        self.controller.tap.hidden = torch.zeros(2, 8)
        logits = self.runner.step(random_logits(2), [(1, 5), (0, 5)])
        self.runner.step(random_logits(2), [(1, 6), (0, 6)])
        del self.runner.req_states.index_to_req_id[1]
        self.runner.add(1, name="next")
        return logits[1]


def full() -> dict[str, Any]:
    """A request that uses every table."""
    control = asking(ENTROPY_TARGET, trace=7, choices=2)[KEY]
    return {KEY: {**control, "steering": steering(), "difficulty": with_probe()[KEY]["difficulty"]}}


ENTRIES = [
    *(("laws", name) for name in ("add", "set_base", "remove", "swap", "solving", "flush")),
    *(("traces", name) for name in ("add", "remove", "swap", "name_choice", "is_traced")),
    *(
        ("steering", name)
        for name in ("add", "remove", "swap", "assign_rows", "_take_row", "write_row")
    ),
    *(
        ("difficulty", name)
        for name in ("add", "remove", "swap", "flush", "is_active", "read_prompts")
    ),
    *(("difficulty", name) for name in ("base", "may_end", "limit")),
    *(("kernels", "decide"), ("kernels", "sampled_entropy"), ("publisher", "publish")),
]


UNHEARD = {
    ("publisher", "publish"),  # then the answer's trace is incomplete, and says so
    ("difficulty", "read_prompts"),  # then the answer has no class, and says so
    ("laws", "remove"),  # its request has left
}
"""Faults that another fallback reports."""


def explode(*_: Any, **__: Any) -> Any:
    raise KeyError("injected")


@pytest.mark.parametrize("kind", [OnV1, OnV2])
@pytest.mark.parametrize(("part", "name"), ENTRIES)
def test_a_fault_at_any_entry_point_leaves_the_engine_and_the_neighbor_alone(
    kind: Callable[[], Any], part: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = kind()
    calls: list[str] = []

    def fault(*_: Any, **__: Any) -> Any:
        calls.append(name)
        explode()

    monkeypatch.setattr(getattr(worker.controller, part), name, fault)
    plain = worker.cycle(full())
    assert torch.equal(bits(plain), bits(random_logits(2)[1]))
    assert worker.controller.failures >= min(len(calls), 1)
    if calls and part != "traces" and (part, name) not in UNHEARD:
        reported = [
            one.temperature for (trace, *_), one in worker.runner.record.items() if trace == 7
        ]
        assert any(np.isnan(reported)) or not reported
    monkeypatch.undo()
    worker.cycle(asking())  # and it goes on


MALFORMED: list[Any] = [
    {},
    {"law": 1},
    "text",
    7,
    {**asking()[KEY], "law": 99},
    {**asking()[KEY], "parameters": [1.0]},
    {**asking()[KEY], "parameters": [float("nan")] * len(asking()[KEY]["parameters"])},
    {**asking()[KEY], "choices": None},
    {**asking()[KEY], "trace": -1},
    {**asking()[KEY], "address": None},
    {**asking()[KEY], "steering": {"key": "k"}},
    {**asking()[KEY], "steering": {**steering(), "add": [("m/a", 0, float("inf"))]}},
    {**asking()[KEY], "steering": {**steering(), "add": [("m/unknown", 0, 1.0)]}},
    {**asking()[KEY], "difficulty": {"probe": "m/unknown"}},
    {**asking()[KEY], "difficulty": {"probe": "m/probe", "trace": 3}},
]


@pytest.mark.parametrize("kind", [OnV1, OnV2])
@pytest.mark.parametrize("control", MALFORMED)
def test_a_malformed_or_unknown_control_fails_its_own_request_alone(
    kind: Callable[[], Any], control: Any
) -> None:
    worker = kind()
    plain = worker.cycle({KEY: control})
    assert torch.equal(bits(plain), bits(random_logits(2)[1]))
    if control not in ({**asking()[KEY], "law": 99}, {**asking()[KEY], "address": None}):
        assert worker.controller.failures > 0
    assert not worker.controller.is_active(slice(0, 2)) or kind is OnV2


@pytest.mark.parametrize("kind", [OnV1, OnV2])
def test_a_failed_control_is_told_in_the_trace_of_its_request_alone(kind: Any) -> None:
    worker = kind()
    worker.cycle({KEY: {**asking()[KEY], "steering": {**steering(), "add": [("m/x", 0, 1.0)]}}})
    reported = [one.temperature for (trace, *_), one in worker.runner.record.items() if trace == 7]
    assert reported
    assert np.isnan(reported).all()
    worker.runner.record.clear()
    worker.cycle(asking())
    reported = [one.temperature for (trace, *_), one in worker.runner.record.items() if trace == 7]
    assert reported
    assert not np.isnan(reported).any()


def test_a_steering_that_went_wrong_once_is_never_silently_unsteered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its blocks in the prefix cache are unsteered; who finds them there hears that it failed."""
    worker = OnV1()
    extra = {KEY: {**asking()[KEY], "steering": steering()}}
    monkeypatch.setattr(SteeringControl, "write_row", explode)
    worker.cycle(extra)
    monkeypatch.undo()
    worker.runner.record.clear()
    worker.cycle(extra)
    assert all(np.isnan(one.temperature) for one in worker.runner.record.values())
    worker.runner.record.clear()
    worker.cycle({KEY: {**asking()[KEY], "steering": steering("m/b")}})
    assert not any(np.isnan(one.temperature) for one in worker.runner.record.values())


def test_a_batch_update_that_is_malformed_is_survived() -> None:
    worker = OnV1()
    odd = SamplingParams(extra_args={KEY: {"choices": 2}})
    update = BatchUpdate(2, removed=[], added=[(0, odd, [1], [])], moved=[(0, 1, SWAP)])
    worker.processor.update_state(update)
    worker.processor.before_sampling(torch.zeros(2, VOCAB))
    assert worker.controller.failures > 0


def test_a_fault_while_rows_are_assigned_steers_nobody_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = OnV1()
    worker.cycle({KEY: {**asking()[KEY], "steering": steering(everywhere=True)}})
    monkeypatch.setattr(worker.tables, "assign_rows", explode)
    worker.runner.record.clear()
    worker.cycle({KEY: {**asking()[KEY], "steering": steering(everywhere=True)}})
    assert not added(worker.layers[0], 2).any()
    assert all(np.isnan(one.temperature) for one in worker.runner.record.values())
