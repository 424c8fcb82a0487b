"""Which tokens are thinking, and the report by phase."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.laws import NO_LAW, NO_ROW, EdtLaw, EntropyTargetLaw
from server.planning.laws import PhasePlan
from server.planning.plan import Plan
from server.planning.thinking import ThinkingMarks
from server.requests.phases import PhaseRecord
from server.requests.report import summarize
from server.requests.telemetry import TracedToken
from tests.unit.server.engine.support import thinks

MARKS = ThinkingMarks(1, 2, frozenset((3,)))


@pytest.mark.parametrize(
    ("prompt", "starts"),
    [
        ([], False),
        ([5, 6], False),
        ([5, 1], True),  # the template opens the thinking
        ([5, 1, 7, 7], True),  # a client continues it
        ([5, 1, 7, 2], False),  # a template that skips it
        ([5, 1, 7, 2, 1], True),
        ([1, 7, 3, 5], False),  # quoted in a message that ended
        ([1, 7, 3, 1], True),
    ],
)
def test_a_prompt_opens_the_thinking_behind_its_last_message(
    prompt: list[int], starts: bool
) -> None:
    assert PhaseRecord.of_prompt(MARKS, prompt).starts is starts


@given(
    starts=st.booleans(),
    tokens=st.lists(st.integers(0, 4)),
    cuts=st.lists(st.integers(0, 20), max_size=4),
)
def test_deltas_and_whole_answers_give_the_same_phases(
    starts: bool, tokens: list[int], cuts: list[int]
) -> None:
    expected = thinks(tokens, (1, 2), starts)
    ends = sorted({min(cut, len(tokens)) for cut in cuts} | {len(tokens)})
    deltas, whole = PhaseRecord(MARKS, starts), PhaseRecord(MARKS, starts)
    first = 0
    for end in ends:
        deltas.follow(first, tokens[first:end])
        whole.follow(0, tokens[:end])
        first = end
    assert deltas.thinking == whole.thinking == expected
    assert whole.copy().thinking == []


def test_the_report_is_split_by_phase() -> None:
    target = EntropyTargetLaw(entropy_target=1.0, temperature_min=0.2)
    phases = PhasePlan(EdtLaw(), 3, NO_ROW, MARKS)
    plan = Plan(None, target, NO_LAW, NO_ROW, "summary", phases=phases)
    tokens = [TracedToken(h, t, h) for h, t in ((2.0, 0.9), (1.0, 0.7), (0.5, 0.2), (1.5, 0.5))]
    report = summarize(plan, tokens, 4, 0.7, [True, True, False, False])
    assert report.law == "phases"
    assert (report.num_tokens, report.entropy_mean) == (4, 1.25)
    assert (report.num_clamped, report.entropy_target) == (None, None)
    assert report.phases is not None
    thinking, answer = report.phases["thinking"], report.phases["answer"]
    assert (thinking.law, thinking.num_tokens, thinking.entropy_mean) == ("edt", 2, 1.5)
    assert (thinking.share_heated, thinking.num_clamped) == (0.5, None)
    assert (answer.law, answer.num_tokens, answer.entropy_mean) == ("entropy_target", 2, 1.0)
    assert (answer.num_clamped, answer.entropy_target) == (1, 1.0)
    lost = summarize(plan, tokens[:3], 4, 0.7, [True, True, False, False])
    assert (lost.phases, lost.fallback) == (None, "trace_lost")
    ended = summarize(plan, tokens[:1], 1, 0.7, [True]).phases
    assert ended is not None
    assert (ended["answer"].num_tokens, ended["answer"].entropy_mean) == (0, None)
