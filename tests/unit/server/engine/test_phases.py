"""Laws by phase in the worker: every token's law is that of its phase, on both runners."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.laws import NUM_PARAMETERS, EntropyTargetLaw, FixedLaw, TemperatureLaw
from tests.unit.server.engine import test_runner_v1 as v1
from tests.unit.server.engine import test_runner_v2 as v2
from tests.unit.server.engine.support import (
    ALL_LAWS,
    DYNATEMP,
    EDT,
    ENTROPY_TARGET,
    VOCAB,
    asking,
    bits,
    make_controller,
    random_logits,
    thinks,
    while_thinking,
)

START, END, WORD = 1, 2, 7
MARKS = (START, END)
HOT, COLD = FixedLaw(temperature=1.4), FixedLaw(temperature=0.5)


def phased(
    law: TemperatureLaw | None = COLD,
    thinking: TemperatureLaw | None = HOT,
    *,
    inside: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """`extra_args` of a request whose answer follows `law`, cold, and its thinking is hot."""
    own = while_thinking(thinking, MARKS, thinking=inside, call=options.get("trace", 7))
    return asking(law, phases=own, **options)


def forced(tokens: list[int]) -> torch.Tensor:
    """Logits of which each row lets the sampler choose one token."""
    logits = torch.full((len(tokens), VOCAB), -torch.inf)
    logits[torch.arange(len(tokens)), tokens] = 0.0
    return logits


@pytest.mark.parametrize(
    ("inside", "tokens", "hot"),
    [
        (True, [7, 7, 2, 8], [1, 1, 1, 0]),  # a template that opens the thinking
        (False, [1, 7, 7, 2, 7], [0, 1, 1, 1, 0]),  # the model opens it
        (False, [8, 8, 8], [0, 0, 0]),  # it does not think
        (True, [7, 2, 8, 1, 7, 2, 8], [1, 1, 0, 0, 1, 1, 0]),  # it thinks again
        (False, [2, 2, 1, 1, 7], [0, 0, 0, 1, 1]),  # tokens that change nothing
        (True, [7, 7, 7], [1, 1, 1]),  # it never ends
    ],
)
@pytest.mark.parametrize("preempted_at", [None, 1, 3])
def test_a_law_follows_the_phases_through_a_preemption(
    inside: bool, tokens: list[int], hot: list[int], preempted_at: int | None
) -> None:
    runner = v1.Runner()
    names = ["0_a", "1_a"]  # two completions of one request; the second never thinks again
    for name in names:
        runner.add(name, phased(inside=inside, choices=2))
    for index, token in enumerate(tokens):
        if index == preempted_at:
            for name in names:
                runner.input_batch.remove_request(name)
            runner.refresh()
            for name in reversed(names):
                runner.add(name, phased(inside=inside, choices=2))
            runner.refresh()
        rows = {name: row for row, name in enumerate(runner.input_batch.req_ids)}
        runner.input_batch.num_tokens_no_spec[:2] = 3 + index
        sampled = [0, 0]
        sampled[rows["0_a"]], sampled[rows["1_a"]] = token, END
        assert runner.sample(forced(sampled)) == sampled
    told = [runner.record[7, 0, index].temperature for index in range(len(tokens))]
    assert told == pytest.approx([1.4 if one else 0.5 for one in hot])
    other = [runner.record[7, 1, index].temperature for index in range(len(tokens))]
    assert other == pytest.approx(
        [1.4 if inside and not index else 0.5 for index in range(9)][: len(other)]
    )
    assert hot == [int(one) for one in thinks(tokens, MARKS, inside)]
    assert runner.controller.failures == 0


def test_a_prompt_in_chunks_and_a_plain_neighbor_change_no_phase() -> None:
    runner = v1.Runner()
    runner.add("plain", None)
    runner.add("a", phased(inside=False))
    runner.refresh()
    runner.input_batch.num_tokens_no_spec[:2] = 3
    runner.discard_request_mask.np[1] = True  # what is sampled here is thrown away
    runner.sample(forced([START, START]))
    runner.discard_request_mask.np[1] = False
    runner.sample(forced([START, WORD]))
    assert runner.record[7, 0, 0].temperature == pytest.approx(0.5)
    assert runner.controller.failures == 0


steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from([START, END, WORD]), max_size=4),  # drafts
        st.integers(0, 4),  # how many of them are accepted
        st.sampled_from([START, END, WORD]),  # the token behind them
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(inside=st.booleans(), traffic=steps, in_parts=st.booleans())
def test_drafts_are_decided_by_the_tokens_before_them_and_rejected_ones_change_nothing(
    inside: bool, traffic: list[tuple[list[int], int, int]], in_parts: bool
) -> None:
    """On V2, beside a request whose thinking goes the other way."""
    runner = v2.Runner()
    runner.add(3, phased(inside=inside))
    runner.add(1, phased(inside=not inside, trace=8))
    swap = {START: END, END: START, WORD: WORD}
    tokens, last = list[int](), WORD
    for drafts, wanted, then in traffic:
        accepted = min(wanted, len(drafts))
        rows = [(3, 2 + len(tokens) + i) for i in range(len(drafts) + 1)]
        rows += [(1, position) for _, position in rows]
        read = [last, *drafts]
        gained = [*drafts[:accepted], then, *[START] * (len(drafts) - accepted)]
        runner.step(
            random_logits(len(rows)),
            rows,
            accepted={3: accepted + 1, 1: accepted + 1},
            tokens=[gained, [swap.get(token, token) for token in gained]],
            read=[*read, *(swap.get(token, token) for token in read)],
            chunk=1 if in_parts else None,
        )
        tokens += gained[: accepted + 1]
        last = then
    for trace, start, own in ((7, inside, tokens), (8, not inside, [swap[t] for t in tokens])):
        hot = thinks(own, MARKS, start)
        told = [runner.record[trace, 0, index].temperature for index in range(len(own))]
        assert told == pytest.approx([1.4 if one else 0.5 for one in hot])
    assert len(runner.record) == 2 * len(tokens)
    assert runner.controller.failures == 0


@pytest.mark.parametrize("law", ALL_LAWS)
@pytest.mark.parametrize("inside", [False, True])
def test_equal_laws_are_one_law_bit_for_bit(law: TemperatureLaw | None, inside: bool) -> None:
    logits, found = random_logits(2), []
    for control in (asking(law), phased(law, law, inside=inside)):
        controller, record = make_controller()
        controller.add(0, control, 0.8)
        controller.flush()
        after = logits.clone()
        for group in controller.groups(np.array([0, 5])):
            controller.publish(controller.control(after, group, np.zeros(1, np.int64)))
        assert controller.failures == 0
        found.append((after, record[7, 0, 0]))
    assert torch.equal(bits(found[0][0]), bits(found[1][0]))
    assert found[0][1][:3] == found[1][1][:3]


@pytest.mark.parametrize(("law", "thinking"), [(EDT, ENTROPY_TARGET), (ENTROPY_TARGET, DYNATEMP)])
def test_a_target_in_one_phase_is_solved_there_alone(
    law: TemperatureLaw, thinking: TemperatureLaw
) -> None:
    for inside, expected in ((False, law), (True, thinking)):
        found = []
        for control in (asking(expected), phased(law, thinking, inside=inside)):
            controller, record = make_controller()
            controller.add(0, control, 0.8)
            controller.flush()
            for group in controller.groups(np.array([0])):
                measured = controller.control(random_logits(1), group, np.zeros(1, np.int64))
                controller.publish(measured)
            found.append(record[7, 0, 0].temperature)
        assert found[0] == pytest.approx(found[1], rel=1e-5)
        assert isinstance(expected, EntropyTargetLaw) or found[0] != pytest.approx(0.8)


def test_a_recycled_slot_has_no_phase_left_and_a_broken_one_fails_alone() -> None:
    controller, record = make_controller(num_slots=2)
    controller.add(0, phased(inside=True), 0.8)
    controller.add(1, asking(EDT, trace=9), 0.8)
    broken = phased(trace=8)
    broken["entropy"]["phases"]["parameters"] = [float("nan")] * NUM_PARAMETERS
    controller.add(0, broken, 0.8)
    assert controller.failures == 1
    controller.add(0, asking(COLD), 0.8)
    controller.flush()
    for group in controller.groups(np.arange(2)):
        assert not group.phased
        indices = np.zeros(len(group.slots), np.int64)
        controller.publish(controller.control(random_logits(2), group, indices))
    assert record[7, 0, 0].temperature == pytest.approx(0.5)
    assert controller.failures == 1
