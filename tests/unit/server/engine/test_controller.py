import math
from typing import Any, Final, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.law_functions import apply_laws
from probes.laws import NUM_PARAMETERS, TemperatureLaw, law_row
from server.engine import controller as module
from server.engine.controller import Controller
from tests.unit.server.engine.support import (
    ALL_LAWS,
    EDT,
    ENTROPY_TARGET,
    FIXED,
    STATISTICS,
    VOCAB,
    Record,
    asking,
    bits,
    make_controller,
    random_logits,
)

NUM_SLOTS = 6
slots = st.integers(0, NUM_SLOTS - 1)
laws = st.sampled_from(ALL_LAWS)
IDLE: Final = "idle"
"""Stands for the law of a slot whose request is not controlled."""
Occupant = TemperatureLaw | None | Literal["idle"]


def step(controller: Controller, logits: Tensor) -> None:
    """One sampling step of a runner whose row r is slot r."""
    controller.flush()
    for group in controller.groups(np.arange(len(logits))):
        assert group.host_slots is not None
        indices = np.zeros(len(group.host_slots), np.int64)
        controller.publish(controller.control(logits, group, indices))


def drawn_from(logits: Tensor, base: float) -> Tensor:
    """The distribution the sampler draws from after dividing by the request's temperature."""
    return torch.softmax(logits / base, -1)


# -- slots -------------------------------------------------------------------------------------


class Naive:
    """The same bookkeeping as a dictionary from slot to its entry."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[list[float], int, int, str]] = {}

    def add(self, slot: int, law: Occupant, trace: int) -> None:
        if isinstance(law, str):
            self.held.pop(slot, None)
        else:
            tag, row = law_row(law, STATISTICS)
            self.held[slot] = ([float(tag), 0.75, *row, 0.0], trace, 0, f"ipc:///{trace}")

    def remove(self, slot: int) -> None:
        self.held.pop(slot, None)

    def move(self, source: int, target: int) -> None:
        moved = self.held.pop(source, None)
        self.held.pop(target, None)
        if moved is not None:
            self.held[target] = moved

    def swap(self, one: int, two: int) -> None:
        held = {one: self.held.pop(two, None), two: self.held.pop(one, None)}
        self.held |= {slot: entry for slot, entry in held.items() if entry is not None}

    def name(self, slot: int, choice: int) -> None:
        if slot in self.held:
            row, trace, _, address = self.held[slot]
            self.held[slot] = (row, trace, choice, address)


pairs = st.tuples(slots, slots).filter(lambda pair: pair[0] != pair[1])
operations = st.one_of(
    st.tuples(st.just("add"), slots, st.just(IDLE) | laws, st.integers(1, 2**63)),
    st.tuples(st.just("remove"), slots),
    st.tuples(st.just("move"), pairs),
    st.tuples(st.just("swap"), pairs),
    st.tuples(st.just("name"), slots, st.integers(0, 9)),
)


@given(sequence=st.lists(operations, max_size=25))
@settings(deadline=None, max_examples=100)
def test_slots_hold_what_a_dictionary_would(sequence: list[tuple[Any, ...]]) -> None:
    controller, _ = make_controller(NUM_SLOTS)
    naive = Naive()
    for kind, *values in sequence:
        if kind == "add":
            slot, law, trace = values
            extra = None if isinstance(law, str) else asking(law, trace, f"ipc:///{trace}")
            assert controller.add(slot, extra, 0.75) == (not isinstance(law, str))
            naive.add(slot, law, trace)
        elif kind == "name":
            if values[0] in naive.held:
                slot, choice = values
                controller.name_choice(slot, f"{choice}_name")
                naive.name(*values)
        elif kind == "remove":
            controller.remove(*values)
            naive.remove(*values)
        else:
            getattr(controller, kind)(*values[0])
            getattr(naive, kind)(*values[0])
    controller.flush()
    idle = ([0.0] * (3 + NUM_PARAMETERS), 0, 0, "")
    for slot in range(NUM_SLOTS):
        row, trace, choice, address = naive.held.get(slot, idle)
        assert controller.is_active(slice(slot, slot + 1)) == (slot in naive.held)
        assert controller.laws.device_columns[:, slot].tolist() == pytest.approx(row)
        assert int(controller.traces.directory.traces[slot]) == trace
        assert int(controller.traces.directory.choices[slot]) == choice
        assert controller.traces.directory.addresses[slot] == address


@given(first=laws, seed=st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_a_recycled_slot_leaks_nothing(first: TemperatureLaw | None, seed: int) -> None:
    controller, record = make_controller(NUM_SLOTS)
    controller.add(2, asking(first), 0.7)
    step(controller, random_logits(4))
    record.clear()
    controller.add(2, {"other": 1}, 0.7)  # B takes the slot of A, which nobody removed
    before = random_logits(4, seed=seed)
    after = before.clone()
    step(controller, after)
    assert torch.equal(bits(after), bits(before))
    assert record == {}
    assert controller.groups(np.arange(4)) == []


def test_a_slot_taken_by_another_controlled_request_follows_the_new_one() -> None:
    controller, record = make_controller(NUM_SLOTS)
    controller.add(0, asking(ENTROPY_TARGET, trace=1), 1.0)
    controller.name_choice(0, "3_a")
    controller.add(0, asking(FIXED, trace=2), 1.0)
    before = random_logits(1)
    after = before.clone()
    step(controller, after)
    torch.testing.assert_close(after, before / 0.5)
    assert set(record) == {(2, 0, 0)}


def test_what_a_queued_step_was_given_never_changes_under_it() -> None:
    controller, _ = make_controller(NUM_SLOTS)
    controller.add(0, asking(trace=1), 1.0)
    queued = controller.traces.directory
    controller.swap(0, 1)
    controller.add(0, asking(trace=2), 1.0)
    controller.name_choice(0, "4_a")
    controller.remove(1)
    assert queued.traces.tolist() == [1, 0, 0, 0, 0, 0]
    assert queued.choices.tolist() == [0] * 6
    assert queued.addresses[0] == "ipc:///nowhere"


# -- rows --------------------------------------------------------------------------------------


@given(
    held=st.lists(st.just(IDLE) | laws, min_size=NUM_SLOTS, max_size=NUM_SLOTS),
    num_rows=st.integers(1, NUM_SLOTS),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_every_row_is_drawn_by_its_own_law_and_uncontrolled_ones_are_untouched(
    held: list[Occupant], num_rows: int, seed: int
) -> None:
    controller, record = make_controller(NUM_SLOTS)
    for slot, law in enumerate(held):
        controller.add(slot, None if isinstance(law, str) else asking(law, trace=slot + 1), 0.8)
    before = random_logits(num_rows, seed=seed)
    before[:, 1::3] = -math.inf
    after = before.clone()
    step(controller, after)
    entropy = entropy_from_logits(before)
    for row, law in enumerate(held[:num_rows]):
        if isinstance(law, str):
            assert torch.equal(bits(after[row]), bits(before[row]))
            assert (row + 1, 0, 0) not in record
            continue
        reported_entropy, temperature, sampled_entropy, *_ = record[row + 1, 0, 0]
        drawn = entropy_from_logits(after[row], 0.8).item()
        assert sampled_entropy == pytest.approx(drawn, abs=1e-4)
        assert reported_entropy == pytest.approx(entropy[row].item(), abs=1e-5)
        torch.testing.assert_close(
            drawn_from(after[row], 0.8), torch.softmax(before[row] / temperature, -1)
        )
        if law is ENTROPY_TARGET:
            reached = entropy_from_logits(before[row], temperature).item()
            assert reached == pytest.approx(1.0, abs=0.05)
            continue
        tag, row_of_law = law_row(law, STATISTICS)
        parameters = torch.tensor([row_of_law])
        expected = apply_laws(
            entropy[row : row + 1],
            torch.tensor([0.8]),
            torch.tensor([float(tag)]),
            parameters,
            math.log(VOCAB),
        )
        assert temperature == pytest.approx(expected.item(), rel=1e-5)
    assert len(record) == sum(not isinstance(law, str) for law in held[:num_rows])


@pytest.mark.parametrize("law", ALL_LAWS)
def test_a_greedy_row_is_measured_and_untouched(law: TemperatureLaw | None) -> None:
    controller, record = make_controller()
    controller.add(0, asking(law), 0.0)
    controller.add(1, asking(law, trace=8), 1.0)
    before = random_logits(2)
    after = before.clone()
    step(controller, after)
    assert torch.equal(bits(after[0]), bits(before[0]))
    entropy, temperature, sampled_entropy, *_ = record[7, 0, 0]
    assert entropy == pytest.approx(entropy_from_logits(before[0]).item(), abs=1e-5)
    assert (temperature, sampled_entropy) == (0.0, 0.0)


def test_a_control_without_a_law_measures_and_is_untouched() -> None:
    controller, record = make_controller()
    controller.add(0, asking(None), 0.37)
    before = random_logits(1)
    after = before.clone()
    step(controller, after)
    assert torch.equal(bits(after), bits(before))
    assert record[7, 0, 0][1] == pytest.approx(0.37)


@given(law=laws, seed=st.integers(0, 1000), base=st.floats(0.05, 2))
@settings(deadline=None, max_examples=60)
def test_masked_tokens_stay_masked_and_the_likeliest_stays_the_likeliest(
    law: TemperatureLaw | None, seed: int, base: float
) -> None:
    controller, _ = make_controller()
    controller.add(0, asking(law), base)
    before = random_logits(1, seed=seed)
    before[0, 5:40] = -math.inf
    after = before.clone()
    step(controller, after)
    assert torch.equal(after == -math.inf, before == -math.inf)
    assert not after.isnan().any()
    assert after[0, before[0].argmax()] == after[0].max()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_row_without_a_finite_entropy_is_untouched_and_spoils_no_other(broken: float) -> None:
    controller, record = make_controller()
    for slot in range(2):
        controller.add(slot, asking(ENTROPY_TARGET, trace=slot + 1), 1.0)
    before = random_logits(2)
    before[0, 3] = broken
    after = before.clone()
    step(controller, after)
    assert torch.equal(bits(after[0]), bits(before[0]))
    entropy, temperature, sampled_entropy, *_ = record[1, 0, 0]
    assert math.isnan(entropy)
    assert math.isnan(sampled_entropy)
    assert temperature == 1.0
    reached = entropy_from_logits(after[1]).item()
    assert reached == pytest.approx(1.0, abs=0.05)


def test_a_fully_masked_row_is_untouched() -> None:
    controller, record = make_controller()
    controller.add(0, asking(ENTROPY_TARGET), 1.0)
    logits = torch.full((1, VOCAB), -math.inf)
    step(controller, logits)
    assert (logits == -math.inf).all()
    assert math.isnan(record[7, 0, 0][0])


# -- batches -----------------------------------------------------------------------------------


def test_rows_with_and_without_a_target_are_decided_apart() -> None:
    controller, _ = make_controller()
    held: list[Occupant] = [FIXED, IDLE, ENTROPY_TARGET, None]
    for slot, law in enumerate(held):
        controller.add(slot, None if isinstance(law, str) else asking(law), 1.0)
    closed, solved = controller.groups(np.arange(4))
    assert (closed.slots.tolist(), closed.solve) == ([0, 3], False)
    assert (solved.slots.tolist(), solved.solve) == ([2], True)


def test_a_batch_under_one_kind_of_law_is_one_group_of_every_row() -> None:
    controller, _ = make_controller()
    for slot in range(3):
        controller.add(slot, asking(EDT), 1.0)
    (group,) = controller.groups(np.arange(3))
    assert group.rows is None
    assert group.slots.tolist() == [0, 1, 2]


def test_slots_beyond_the_batch_are_in_no_group() -> None:
    controller, _ = make_controller()
    controller.add(3, asking(), 1.0)
    assert controller.groups(np.arange(3)) == []
    assert len(controller.groups(np.arange(4))) == 1


def test_an_untraced_group_is_controlled_and_measures_and_publishes_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    controller, record = make_controller()
    measures: list[Any] = []
    monkeypatch.setattr(controller.kernels, "sampled_entropy", lambda *row: measures.append(row))
    controller.add(0, asking(FIXED, trace=0), 1.0)
    before = random_logits(1)
    after = before.clone()
    step(controller, after)
    torch.testing.assert_close(after, before / 0.5)
    assert not controller.groups(np.arange(1))[0].traced
    assert measures == []
    assert record == {}


def test_a_muted_controller_controls_and_publishes_nothing() -> None:
    controller, record = make_controller()
    controller.report_to(None)
    controller.add(0, asking(FIXED), 1.0)
    before = random_logits(1)
    after = before.clone()
    step(controller, after)
    torch.testing.assert_close(after, before / 0.5)
    assert record == {}
    assert controller.lost_records == {}


# -- failure -----------------------------------------------------------------------------------


def test_a_failing_control_leaves_the_logits_alone_and_says_so_in_the_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    controller, record = make_controller()
    logged: list[str] = []
    monkeypatch.setattr(module.logger, "error", lambda text, **_: logged.append(text))

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(controller.kernels, "decide", fails)
    for slot in range(2):
        controller.add(slot, asking(trace=slot + 1), 1.0)
    before = random_logits(3)
    after = before.clone()
    for _ in range(3):
        step(controller, after)
    assert torch.equal(bits(after), bits(before))
    assert set(record) == {(1, 0, 0), (2, 0, 0)}
    assert all(math.isnan(value) for values in record.values() for value in values)
    assert controller.failures == 3
    assert len(logged) == 1


def test_a_failure_of_one_step_does_not_outlast_it(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, _ = make_controller()
    controller.add(0, asking(FIXED), 1.0)
    monkeypatch.setattr(module.logger, "error", lambda *_, **__: None)
    with monkeypatch.context() as patch:
        patch.setattr(controller.kernels, "decide", None)
        step(controller, random_logits(1))
    before = random_logits(1)
    after = before.clone()
    step(controller, after)
    torch.testing.assert_close(after, before / 0.5)
    assert isinstance(controller.publisher, Record)


def test_confidence_is_measured_only_in_steps_in_which_a_request_asked() -> None:
    controller, record = make_controller()
    controller.add(0, asking(FIXED, trace=1), 1.0)
    before = random_logits(1)
    step(controller, before.clone())
    assert math.isnan(record[1, 0, 0].self_certainty)
    controller.add(0, asking(FIXED, trace=2, confidence=True), 1.0)
    step(controller, before.clone())
    logp, told = before.log_softmax(-1), record[2, 0, 0]
    assert told.self_certainty == pytest.approx(-logp.mean().item() - math.log(VOCAB), abs=1e-4)
    assert told.collision == pytest.approx(logp.exp().square().sum().item(), abs=1e-5)
    controller.swap(0, 3)
    assert controller.groups(np.array([3]))[0].confident
    controller.add(3, asking(FIXED, trace=3), 1.0)
    assert not controller.groups(np.array([3]))[0].confident
