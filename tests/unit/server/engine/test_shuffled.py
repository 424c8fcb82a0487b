"""The law `shuffled` in the worker, on both runners."""

import math

import numpy as np
import pytest
import torch

from probes.laws import TemperatureLaw
from tests.unit.server.engine import test_runner_v1 as v1
from tests.unit.server.engine import test_runner_v2 as v2
from tests.unit.server.engine.support import (
    EDT,
    FIXED,
    SHUFFLED,
    Record,
    asking,
    make_controller,
    random_logits,
    while_thinking,
)


def drawn(record: Record, trace: int = 7, choice: int = 0) -> dict[int, float]:
    """Temperature by token index."""
    return {
        index: reported[1]
        for (t, c, index), reported in record.items()
        if (t, c) == (trace, choice)
    }


def run(seed: int, steps: int = 200, scale: float = 3.0, slot: int = 0) -> dict[int, float]:
    """Temperatures of one completion, over logits of some scale."""
    controller, record = make_controller()
    controller.add(slot, asking(SHUFFLED, seed=seed), 1.0)
    controller.flush()
    (group,) = controller.groups(np.array([slot]))
    for index in range(steps):
        logits = random_logits(1, scale=scale, seed=index)
        before = logits.clone()
        controller.publish(controller.control(logits, group, np.array([index])))
        torch.testing.assert_close(logits, before / record[7, 0, index][1])
    assert controller.failures == 0
    return drawn(record)


def test_a_seed_draws_the_same_temperatures_whatever_the_logits_and_the_slot() -> None:
    once = run(seed=3)
    assert run(seed=3, scale=0.1, slot=5) == once
    assert set(once.values()) == {0.25, 0.5, 2.0}  # 1.0 has no weight
    assert sum(t == 0.5 for t in once.values()) == pytest.approx(100, abs=30)
    other = run(seed=4)
    assert sum(once[i] == other[i] for i in once) == pytest.approx(200 * 3 / 8, abs=30)


def test_other_rows_and_greedy_rows_and_rows_without_entropy_are_as_ever() -> None:
    controller, record = make_controller()
    occupants: list[tuple[TemperatureLaw | None, float]] = [
        (SHUFFLED, 1.0),
        (FIXED, 1.0),
        (SHUFFLED, 0.0),
        (None, 0.8),
    ]
    for slot, (law, base) in enumerate(occupants):
        controller.add(slot, asking(law, trace=slot + 1), base)
    controller.add(4, asking(SHUFFLED, trace=5), 0.9)
    controller.flush()
    logits = random_logits(5)
    logits[4] = math.nan
    for group in controller.groups(np.arange(5)):
        controller.publish(controller.control(logits, group, np.zeros(len(group.slots), np.int64)))
    reported = [record[slot + 1, 0, 0][1] for slot in range(5)]
    assert reported[0] in (0.25, 0.5, 2.0)
    assert reported[1:] == pytest.approx([0.5, 0.0, 0.8, 0.9])


def test_a_recycled_slot_forgets_the_histogram() -> None:
    controller, _ = make_controller()
    controller.add(0, asking(SHUFFLED), 1.0)
    assert controller.groups(np.array([0]))[0].shuffled
    controller.add(0, asking(EDT), 1.0)
    assert not controller.groups(np.array([0]))[0].shuffled


def test_a_malformed_histogram_fails_its_own_request_alone() -> None:
    controller, record = make_controller()
    extra = asking(SHUFFLED)
    extra["entropy"]["shuffled"]["cumulative"] = [0.5, math.nan, 1.0, 1.0]
    controller.add(0, extra, 1.0)
    controller.add(1, asking(FIXED, trace=8), 1.0)
    controller.flush()
    assert controller.failures == 1
    logits = random_logits(2)
    before = logits.clone()
    for group in controller.groups(np.arange(2)):
        controller.publish(controller.control(logits, group, np.zeros(len(group.slots), np.int64)))
    torch.testing.assert_close(logits, before / torch.tensor([[1.0], [0.5]]))
    assert math.isnan(record[7, 0, 0][1])


@pytest.mark.parametrize("thinking", [False, True])
def test_a_phase_draws_from_the_histogram_and_the_other_does_not(thinking: bool) -> None:
    """The law of the thinking phase, from the histogram that the request has beside it."""
    extra = asking(FIXED, phases=while_thinking(SHUFFLED, (1, 2), thinking=thinking))
    extra["entropy"]["shuffled"] = asking(SHUFFLED, seed=3)["entropy"]["shuffled"]
    controller, record = make_controller()
    controller.add(0, extra, 1.0)
    controller.flush()
    (group,) = controller.groups(np.array([0]))
    for index in range(50):
        logits = random_logits(1, seed=index)
        controller.publish(controller.control(logits, group, np.array([index])))
    assert controller.failures == 0
    assert drawn(record) == (run(seed=3, steps=50) if thinking else dict.fromkeys(range(50), 0.5))


@pytest.mark.parametrize("phase", ["answer", "thinking"])
def test_a_law_without_its_histogram_fails_its_own_request_alone(phase: str) -> None:
    extra = asking(SHUFFLED)
    if phase == "thinking":
        extra = asking(FIXED, phases=while_thinking(SHUFFLED, (1, 2)))
    extra["entropy"]["shuffled"] = None
    controller, _ = make_controller()
    controller.add(0, extra, 1.0)
    controller.add(1, asking(FIXED, trace=8), 1.0)
    assert controller.failures == 1
    assert not controller.groups(np.arange(2))[0].shuffled


def test_completions_of_one_request_draw_with_seeds_of_their_own_on_v1() -> None:
    """As vLLM seeds them: seed + i. A preempted completion goes on as if nothing had happened."""
    runner = v1.Runner()
    for name in ("0_a", "1_a"):
        runner.add(name, asking(SHUFFLED, seed=3, choices=2))
    for index in range(12):
        if index == 6:
            runner.input_batch.remove_request("1_a")
            runner.refresh()
            runner.add("1_a", asking(SHUFFLED, seed=3, choices=2))
        runner.input_batch.num_tokens_no_spec[:2] = 3 + index
        runner.sample(random_logits(2, seed=index))
    single = {seed: run(seed, steps=12) for seed in (3, 4)}
    assert drawn(runner.record, choice=0) == single[3]
    assert drawn(runner.record, choice=1) == single[4]


def test_draft_rows_draw_the_temperature_of_their_token_on_v2() -> None:
    runner = v2.Runner()
    runner.add(2, asking(SHUFFLED, seed=3, choices=2), name="1_a")
    for first in (2, 4, 6):  # positions: the prompt has three tokens
        runner.step(random_logits(2, seed=first), [(2, first), (2, first + 1)])
    assert drawn(runner.record, choice=1) == run(seed=4, steps=6)
