"""Laws by phase: how they resolve, and what is refused."""

from typing import Any

import pytest

from probes.laws import EdtLaw, FixedLaw, HapoLaw, ShuffledLaw, law_row
from server.planning.laws import LawPlan, plan_laws
from server.planning.refusals import RequestParams
from server.planning.thinking import ThinkingMarks
from server.wire.request import Control
from tests.unit.server.planning.test_plan import NO_ARTIFACTS, plan, refusal

MARKS = ThinkingMarks(1, 2, frozenset((3,)))
COLD, EDT = FixedLaw(temperature=0.3), EdtLaw()


def by_phase(**laws: Any) -> dict[str, Any]:
    given = {name: None if law is None else law.model_dump() for name, law in laws.items()}
    return {"temperature": given}


def planned(marks: ThinkingMarks | None = MARKS, **laws: Any) -> LawPlan:
    control = Control.model_validate(by_phase(**laws))
    return plan_laws(control.temperature, NO_ARTIFACTS, RequestParams(thinking=marks))


@pytest.mark.parametrize("thinking", [EDT, None])
@pytest.mark.parametrize("answer", [COLD, None])
def test_each_phase_has_its_law_and_a_phase_without_one_the_requests_temperature(
    thinking: Any, answer: Any
) -> None:
    if (thinking, answer) == (None, None):
        return
    found = planned(thinking=thinking, answer=answer)
    assert (found.law, (found.tag, found.parameters)) == (answer, law_row(answer))
    assert found.phases is not None
    assert found.phases.law == thinking
    assert (found.phases.tag, found.phases.parameters) == law_row(thinking)
    assert found.phases.marks == MARKS


def test_a_phase_may_be_left_out() -> None:
    assert planned(thinking=EDT) == planned(thinking=EDT, answer=None)


def test_different_laws_are_refused_where_the_phases_are_not_known_and_equal_ones_are_one() -> None:
    error = refusal({**by_phase(thinking=EDT, answer=COLD)})
    assert error.param == "entropy.temperature"
    assert "--reasoning-parser" in str(error)
    assert planned(None, thinking=EDT, answer=EDT) == LawPlan(EDT, *law_row(EDT))


def test_a_plan_names_its_laws_phases_and_is_not_empty() -> None:
    found = plan({**by_phase(thinking=EDT), "trace": "none"}, thinking=MARKS)
    assert found is not None
    assert found.law_type == "phases"
    assert not found.is_empty


@pytest.mark.parametrize(
    ("laws", "own", "refused"),
    [
        ({"thinking": COLD, "answer": COLD}, 0.7, True),
        ({"thinking": COLD, "answer": FixedLaw(temperature=0.9)}, 0.7, True),
        ({"thinking": COLD, "answer": FixedLaw(temperature=0.9)}, 0.9, False),
        ({"thinking": COLD, "answer": EDT}, 0.7, False),  # EDT uses it
        ({"thinking": COLD}, 0.7, False),  # the answer uses it
        ({"thinking": COLD, "answer": COLD}, 0, False),  # greedy stays greedy
    ],
)
def test_a_temperature_that_no_phase_uses_is_refused(
    laws: dict[str, Any], own: float, refused: bool
) -> None:
    if refused:
        assert refusal(by_phase(**laws), temperature=own, thinking=MARKS).param == "temperature"
    else:
        assert plan(by_phase(**laws), temperature=own, thinking=MARKS) is not None


def test_two_histograms_and_missing_statistics_are_refused_by_name() -> None:
    first, second = (ShuffledLaw(temperatures=(t,)) for t in (0.5, 1.0))
    assert "shuffled" in str(refusal(by_phase(thinking=first, answer=second), thinking=MARKS))
    assert plan(by_phase(thinking=first, answer=first), thinking=MARKS) is not None
    error = refusal(by_phase(thinking=HapoLaw(), answer=EDT), thinking=MARKS)
    assert error.param == "entropy.temperature.thinking"
