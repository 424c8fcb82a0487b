"""Nothing is compiled in somebody's request, and the host waits for no copy."""

from itertools import product
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from server.engine import controller
from server.engine.controller import Controller
from server.engine.step import logprobs
from server.worker.message import KEY, difficulty_control
from tests.unit.server.engine.support import (
    ALL_LAWS,
    CPU,
    EDT,
    ENTROPY_TARGET,
    FIXED,
    MIROSTAT,
    SHUFFLED,
    TRUNCATIONS,
    Record,
    asking,
    random_logits,
    while_thinking,
)
from tests.unit.server.engine.test_difficulty import Model, head
from tests.unit.server.engine.test_runner_v1 import Runner

SLOTS, VOCAB = 8, 512


def num_graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.fixture(scope="module")
def warm() -> Controller:
    record: Any = Record()
    record.publish_decisions = lambda *columns: None
    controller = Controller(SLOTS, VOCAB, CPU, record)
    controller.read_difficulty(Model(), {"m/probe": head()})
    before = num_graphs()
    controller.kernels.warm_up()
    assert num_graphs() > before
    return controller


def test_no_request_compiles_a_graph(warm: Controller) -> None:
    """Over every law, batch size, with and without a probe, alone and beside plain requests."""
    before = num_graphs()
    kinds: list[dict[str, Any]] = [
        *({"law": law} for law in (*ALL_LAWS, SHUFFLED)),
        *({"law": None, "truncation": cut} for cut in TRUNCATIONS),
        {"law": None, "confidence": True},
        *({"law": law, "phases": while_thinking(EDT, (1, 2), thinking=True)} for law in ALL_LAWS),
        {"law": EDT, "phases": while_thinking(ENTROPY_TARGET, (1, 2), thinking=True)},
    ]
    for kind, size, probed, beside in product(
        kinds, (1, 2, 3, 6, SLOTS), (False, True), (False, True)
    ):
        rows = np.arange(1, size) if beside else np.arange(size)
        for slot in range(SLOTS):
            warm.remove(slot)
        for slot in rows.tolist():
            extra = asking(**kind, trace=slot + 1)
            if probed:
                extra[KEY]["difficulty"] = difficulty_control(probe="m/probe", trace=1)
            warm.add(slot, extra, 1.0)
        warm.flush()
        with torch.inference_mode():
            logits = random_logits(size, VOCAB)
            for group in warm.groups(np.arange(size)):
                measured = warm.control(logits, group, np.zeros(len(group.slots), np.int64))
                warm.publish(measured, warm.learn(measured, torch.zeros(len(group.slots))))
        assert num_graphs() == before, (kind, size, probed, beside)
    assert warm.failures == 0


def test_the_host_never_waits_for_a_copy_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device, `torch.tensor` waits for it; `to(..., non_blocking=True)` does not."""
    runner = Runner()
    made = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
    for name, make_tensor in made.items():

        def on_the_host(*values: Any, _make: Any = make_tensor, **options: Any) -> Tensor:
            assert options.get("device") is None
            found: Tensor = _make(*values, **options)
            return found

        monkeypatch.setattr(torch, name, on_the_host)
    thinking = while_thinking(SHUFFLED, (1, 2))
    requests = [
        asking(ENTROPY_TARGET, 1, confidence=True),
        asking(SHUFFLED, 2),
        asking(FIXED, 3, truncation=MIROSTAT),
        {KEY: {**asking(FIXED, 4, phases=thinking)[KEY], **histogram()}},
    ]
    for number, extra in enumerate(requests):
        runner.add(str(number), extra)
    for step in range(3):
        runner.sample(random_logits(len(requests), seed=step))
    assert runner.controller.failures == 0
    assert len(runner.record) == 4


@pytest.mark.parametrize("trace", [0, 7])
def test_log_probabilities_are_computed_only_for_a_report(
    trace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laws by phase need the sampled tokens, not their probabilities."""
    runner, counted = Runner(), Mock(side_effect=logprobs)
    monkeypatch.setattr(controller, "logprobs", counted)
    runner.add("a", asking(FIXED, trace, phases=while_thinking(ENTROPY_TARGET, (1, 2))))
    runner.sample(random_logits(1))
    assert (runner.controller.failures, counted.call_count) == (0, int(trace > 0))


def histogram() -> dict[str, Any]:
    return {"shuffled": asking(SHUFFLED)[KEY]["shuffled"]}
