"""Samples of a vote that the worker ends: the golden trace, drafts, slots that change."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from server.engine.weak import WeakSlots
from server.worker.message import WeakMessage
from tests.unit.server.engine import test_runner_v1 as v1
from tests.unit.server.engine import test_runner_v2 as v2
from tests.unit.server.engine.support import CPU, VOCAB, asking, bits, random_logits, request

END = 7
RULE: WeakMessage = {"window": 3, "threshold": 1.5, "stop": END}
TRACE = [3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 3.0]


def row(certainty: float) -> Tensor:
    """Logits of this self-certainty; token 0 is the likeliest."""

    def missing(peak: float) -> float:
        return math.log((math.exp(peak) + VOCAB - 1) / VOCAB) - peak / VOCAB - certainty

    found = torch.zeros(VOCAB)
    found[0] = brentq(missing, 0, 50)
    return found


def first_weak(trace: list[float], window: int, threshold: float) -> int | None:
    """Index of the first token whose full window is below the threshold."""
    for at in range(window - 1, len(trace)):
        if sum(trace[at + 1 - window : at + 1]) / window < threshold:
            return at
    return None


def ended(logits: Tensor) -> list[bool]:
    """Which rows can sample the end alone."""
    alone = logits.isfinite().sum(1) == 1
    return (alone & logits[:, END].isfinite()).tolist()


def test_vllms_sampler_ends_the_golden_trace_at_index_five() -> None:
    runner = v1.Runner()
    runner.add("weak", asking(None, confidence=True, weak=RULE), temperature=0.0)
    runner.add("plain", None, temperature=0.0)
    runner.add("report", asking(None, trace=8, confidence=True), temperature=0.0)
    for index, certainty in enumerate(TRACE):
        runner.refresh()
        runner.input_batch.num_tokens_no_spec[:3] = 3 + index
        tokens = runner.sample(row(certainty).repeat(3, 1))
        assert tokens == [END if index == 5 else 0, 0, 0]
    assert first_weak(TRACE, 3, 1.5) == 5
    found = [runner.record[7, 0, index].self_certainty for index in range(len(TRACE))]
    assert found == pytest.approx(TRACE, abs=1e-5)
    assert runner.controller.failures == 0


def test_the_worker_ends_samples_where_no_trace_is_sent() -> None:
    """Ranks of tensor parallelism that have no publisher must do the same as the others."""
    runner = v1.Runner()
    runner.controller.publisher = None
    runner.add("weak", asking(None, confidence=True, weak=RULE), temperature=0.0)
    tokens = []
    for index, certainty in enumerate(TRACE):
        runner.refresh()
        runner.input_batch.num_tokens_no_spec[:1] = 3 + index
        tokens += runner.sample(row(certainty).unsqueeze(0))
    assert tokens == [0, 0, 0, 0, 0, END, 0]


def test_rejected_drafts_count_for_the_drafts_behind_them_only() -> None:
    runner = v2.Runner()
    runner.add(0, asking(None, confidence=True, weak=RULE))
    runner.add(1, None, "plain")
    logits = torch.stack([*map(row, (3.0, 0.5, 0.5, 3.0)), row(3.0)])
    rows = [(0, 2), (0, 3), (0, 4), (0, 5), (1, 2)]
    assert ended(runner.step(logits, rows, accepted={0: 1})) == [False, False, True, True, False]
    logits = torch.stack([*map(row, (3.0, 3.0, 0.5, 0.5)), row(3.0)])
    rows = [(0, 3), (0, 4), (0, 5), (0, 6), (1, 3)]
    assert ended(runner.step(logits, rows)) == [False, False, False, True, False]
    assert runner.controller.failures == 0


@given(
    st.lists(st.floats(0, 4, width=32), min_size=1, max_size=40),
    st.integers(1, 12),
    st.floats(0.125, 4, width=32),
    st.integers(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_every_window_is_compared_whatever_joins_leaves_and_swaps(
    trace: list[float], window: int, threshold: float, moved: int
) -> None:
    slots, slot = WeakSlots(4, CPU), 1
    other = {**request(), "weak": {"window": 2048, "threshold": 9.0, "stop": END}}
    slots.add(2, other)  # type: ignore[arg-type]
    rule: WeakMessage = {"window": window, "threshold": threshold, "stop": END}
    slots.add(slot, {**request(), "weak": rule})
    found = []
    for index, certainty in enumerate(trace):
        if index == moved:
            slots.swap(slot, 3)
            slots.swap(0, 2)
            slot = 3
        slots.flush()
        logits = random_logits(2)
        numbers = torch.tensor([slot, 0 if index >= moved else 2])
        values = torch.tensor([certainty, 0.0])
        slots.end(logits, None, numbers, np.array([index, index]), values)
        found.append(ended(logits))
    assert not any(beside for _, beside in found)  # its window never fills
    expected = [
        first_weak(trace[: at + 1][-window:], window, threshold) for at in range(len(trace))
    ]
    near = [
        abs(sum(trace[max(0, at + 1 - window) : at + 1]) / window - threshold) < 1e-5
        for at in range(len(trace))
    ]
    for at, (own, _) in enumerate(found):
        assert own is (expected[at] is not None) or near[at]


def test_a_slot_knows_nothing_of_the_request_before() -> None:
    slots = WeakSlots(2, CPU)
    message = {**request(), "weak": RULE}
    for first in (True, False):
        slots.add(0, message)  # type: ignore[arg-type]
        slots.flush()
        for index in range(2 if first else 4):
            logits = random_logits(1)
            before = bits(logits.clone())
            slots.end(logits, None, torch.tensor([0]), np.array([index]), torch.tensor([0.5]))
            assert ended(logits) == [not first and index >= 2]
            assert ended(logits)[0] or torch.equal(bits(logits), before)
    slots.remove(0)
    assert not slots.is_active(slice(None))


@pytest.mark.parametrize("wrong", [{"window": 0}, {"window": 4096}, {"threshold": math.nan}])
def test_a_malformed_rule_is_refused(wrong: dict[str, float]) -> None:
    slots = WeakSlots(2, CPU)
    with pytest.raises(ValueError, match="malformed"):
        slots.add(0, {**request(), "weak": {**RULE, **wrong}})  # type: ignore[typeddict-item]
