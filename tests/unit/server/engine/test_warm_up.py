"""Nothing is compiled in somebody's request."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from server.engine.controller import Controller
from server.worker.message import KEY, difficulty_control
from tests.unit.server.engine.support import (
    ALL_LAWS,
    CPU,
    EDT,
    ENTROPY_TARGET,
    SHUFFLED,
    TRUNCATIONS,
    Record,
    asking,
    random_logits,
    while_thinking,
)
from tests.unit.server.engine.test_difficulty import Model, head

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
