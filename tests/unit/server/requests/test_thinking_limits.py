"""Strategies that limit the thinking of a model."""

import math
from pathlib import Path
from typing import Any

import pytest

from probes.difficulty.strategies import Difficulty, Strategies, Strategy
from server.errors import BadControl
from server.planning.difficulty import plan_difficulty
from server.planning.refusals import RequestParams
from server.planning.thinking import ThinkingMarks
from server.wire.request import DifficultyControl
from tests.unit.server.requests.difficulty_run import EASY, HARD, NORMAL, PLAIN, Run
from tests.unit.server.support import artifacts, save_probe

REQUEST = RequestParams(last_message={"role": "user", "content": "Why?"})
THINKING = Strategies(
    easy=Strategy(temperature=0.5, budget=0.4, thinking=False),
    normal=Strategy(temperature=0.8, budget=1.0),
    hard=Strategy(temperature=0.4, budget=0.5, thinking=0.25),
)


@pytest.mark.parametrize(
    ("decided", "ceiling", "expected"),
    [
        (EASY, 1000, 0),
        (NORMAL, 1000, 749),  # a quarter is for the answer, and a token ends the thinking
        (HARD, 1000, 125),
        (NORMAL, 100, 35),  # at least 64 tokens are for the answer
        (NORMAL, 50, 0),
        (NORMAL, 8000, 6000),  # at most 1,024 are kept back: the share of 0.75 is the limit
    ],
)
async def test_a_strategy_limits_the_thinking_so_that_an_answer_follows(
    decided: Difficulty, ceiling: int, expected: int
) -> None:
    run = Run(THINKING, decided=decided, ceiling=ceiling, limits_thinking=True)
    _, params, part = await run.prepare()
    assert params.thinking_token_budget == expected
    assert expected == 0 or params.max_tokens - expected > 64
    assert (part, len(run.engine.asked)) == (None, 1)  # the class must be known before the answer
    report = await run.run.report(0)
    assert report.strategy is not None
    assert report.strategy.thinking_tokens == expected


async def test_the_thinking_budget_of_the_request_wins() -> None:
    run = Run(THINKING, decided=EASY, limits_thinking=True)
    _, params, _ = await run.prepare(thinking_token_budget=7)
    assert params.thinking_token_budget == 7
    report = await run.run.report(0)
    assert report.strategy is not None
    assert report.strategy.thinking_tokens is None


async def test_a_model_that_does_not_think_gets_no_limit() -> None:
    run = Run(PLAIN, picked=EASY)
    _, params, _ = await run.prepare()
    assert params.thinking_token_budget is None


def test_limits_of_an_unknown_thinking_are_refused(tmp_path: Path) -> None:
    save_probe(tmp_path, "tiny/probe")
    own = DifficultyControl(strategies=THINKING)
    with pytest.raises(BadControl, match="--reasoning-parser") as refused:
        plan_difficulty(own, artifacts(tmp_path), REQUEST)
    assert refused.value.param == "entropy.difficulty.strategies.easy.thinking"
    known = REQUEST._replace(thinking=ThinkingMarks(5, 6))
    assert plan_difficulty(own, artifacts(tmp_path), known).limits_thinking
    assert plan_difficulty(DifficultyControl(), artifacts(tmp_path), known).limits_thinking
    assert not plan_difficulty(DifficultyControl(), artifacts(tmp_path), REQUEST).limits_thinking


@pytest.mark.parametrize("thinking", [1, 0, 1.0, -0.5, "yes", math.nan])
def test_what_is_no_limit_of_thinking_is_refused(thinking: Any) -> None:
    with pytest.raises(ValueError, match="thinking"):
        Strategy.model_validate({"temperature": 1, "budget": 1, "thinking": thinking})
