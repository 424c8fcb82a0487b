"""Answers that the server leaves alone, at random, to measure what strategies save."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from server.metrics import observe
from server.planning.plan import ControlSources, Plan, make_plan
from server.planning.refusals import RequestParams
from server.wire.report import Report
from server.wire.request import Control
from tests.unit.server.requests.difficulty_run import EASY, SPOKEN, Run
from tests.unit.server.support import artifacts, save_probe

PROFILES = {"thrifty": Control.model_validate({"difficulty": {}})}


def planned(folder: Path, mode: str, *, drawn: bool) -> Plan:
    save_probe(folder, "m/probe")
    control = Control.model_validate({"difficulty": {"mode": mode}})
    params = RequestParams(last_message={"role": "user", "content": "Why?"}, is_baseline=drawn)
    plan = make_plan(ControlSources(control, "thrifty", None), PROFILES, artifacts(folder), params)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("mode", "drawn", "shadow", "baseline"),
    [
        ("act", False, False, False),
        ("act", True, True, True),
        ("shadow", False, True, False),
        ("shadow", True, True, False),
    ],
)
def test_an_answer_that_is_drawn_is_left_alone_and_so_is_its_replay(
    tmp_path: Path, mode: str, drawn: bool, shadow: bool, baseline: bool
) -> None:
    plan = planned(tmp_path, mode, drawn=drawn)
    assert plan.difficulty is not None
    assert (plan.difficulty.shadow, plan.difficulty.baseline) == (shadow, baseline)
    assert plan.control is not None
    assert plan.control.difficulty is not None
    assert plan.control.difficulty.mode == ("shadow" if shadow else "act")


@pytest.mark.parametrize(
    ("shadow", "baseline", "arm"),
    [(False, False, "strategy"), (True, True, "baseline"), (True, False, None)],
)
async def test_answers_are_compared_by_arm_and_those_of_a_client_in_shadow_mode_are_not(
    shadow: bool, baseline: bool, arm: str | None
) -> None:
    def tokens(name: str) -> float | None:
        return REGISTRY.get_sample_value("entrostat_difficulty_answer_tokens_sum", {"arm": name})

    before = {name: tokens(name) or 0 for name in ("strategy", "baseline")}
    run = Run(SPOKEN, decided=EASY, shadow=shadow, baseline=baseline)
    await run.prepare(temperature=1.0)
    report = await run.run.report(0)
    assert (report.mode, report.baseline) == ("shadow" if shadow else "act", baseline or None)
    observe.observe_completion(Report(num_tokens=7, difficulty=report))
    after = {name: tokens(name) or 0 for name in before}
    assert {name: after[name] - before[name] for name in before} == {
        name: 7 if name == arm else 0 for name in before
    }
