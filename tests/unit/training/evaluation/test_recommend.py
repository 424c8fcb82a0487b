import tomllib
from typing import Any

import numpy as np
import pytest

from server.profiles import parse_profiles
from tests.unit.training.evaluation.worlds import coin, made_up
from training.datasets.problem import Problem
from training.evaluation.arms import EvaluationArm, Json, make_arms
from training.evaluation.config import EvaluateConfig
from training.evaluation.page import write_text_of
from training.evaluation.recommend import Recommendation, profile_file, recommend
from training.evaluation.results import DrawnAnswers, EvaluationResult, analyze

QUESTIONS = 150
CONFIG = EvaluateConfig(tasks=("quiz",), temperatures=("0.3", "0.7", "1.3"), min_p=0)
PLAIN_ONLY = CONFIG.model_copy(update={"against": "plain"})
PROFILES: dict[str, Json] = {
    "steady": {
        "temperature": {"type": "entropy_target", "entropy_target": 1.0, "side": "ceiling"},
        "trace": "summary",
    },
    "thrifty": {"difficulty": {"mode": "act", "effort": False, "probe": None}},
}
PLAIN = {
    **{"T = 0.3": 0.4, "T = 0.7": 0.4, "T = 1.3": 0.3, "steady": 0.4},
    **{"steady: mean T": 0.4, "steady: shuffled T": 0.4, "thrifty": 0.4},
    **{f"thrifty: always {name}": 0.4 for name in ("easy", "normal", "hard")},
}


def answers(shares: dict[str, float], seed: int) -> dict[str, Any]:
    return {
        name: made_up(
            coin(share, QUESTIONS, 4, seed + n),
            entropy=np.random.default_rng(seed + n + 1000).random((QUESTIONS, 4)),
            labels=["easy"] * QUESTIONS,
        )
        for n, (name, share) in enumerate(shares.items())
    }


def found(shares: dict[str, float]) -> tuple[EvaluationResult, list[EvaluationArm]]:
    arms, skipped = make_arms(CONFIG, PROFILES)
    problems = [
        Problem(task=f"kind {n % 5}", prompt=f"number {n}?", answer="1", grader="numeric")
        for n in range(QUESTIONS)
    ]
    drawn = DrawnAnswers(answers(shares, 0), answers(shares, 100), (problems, problems))
    return analyze(CONFIG, arms, drawn, skipped), arms


def recommended(shares: dict[str, float]) -> tuple[Recommendation, str]:
    result, arms = found(shares)
    chosen = recommend(result, arms, CONFIG.temperature)
    return chosen, profile_file(chosen, "model on task", result.flag)


def test_where_nothing_differs_there_is_no_profile_and_the_file_says_why() -> None:
    chosen, text = recommended(PLAIN)
    assert chosen.profiles == {}
    assert tomllib.loads(text) == {}
    assert "None proven" in text
    assert "no profile" in text


def test_a_law_that_beats_all_of_its_controls_becomes_a_profile_that_the_server_loads() -> None:
    chosen, text = recommended(PLAIN | {"steady": 0.7})
    assert list(chosen.profiles) == ["recommended-steady"]
    (profile,) = parse_profiles(text, "recommended.toml").values()
    assert profile.temperature is not None
    assert profile.temperature.model_dump()["entropy_target"] == 1.0


@pytest.mark.parametrize("stock", [0.2, 0.9])
def test_a_truncation_has_to_beat_stock_min_p(stock: float) -> None:
    config = CONFIG.model_copy(update={"min_p": 0.1})
    arms, skipped = make_arms(config, {"cut": {"truncation": {"type": "p_less"}}})
    problems = [
        Problem(task="t", prompt=f"number {n}?", answer="1", grader="numeric")
        for n in range(QUESTIONS)
    ]
    shares = {"T = 0.3": 0.4, "T = 0.7": 0.4, "T = 1.3": 0.3, "cut": 0.9}
    shares["min_p = 0.1, T = 1"] = stock
    drawn = DrawnAnswers(answers(shares, 0), answers(shares, 100), (problems, problems))
    result = analyze(config, arms, drawn, skipped)
    chosen = recommend(result, arms, config.temperature)
    assert list(chosen.profiles) == (["recommended-cut"] if stock < 0.5 else [])
    if chosen.profiles:
        (profile,) = parse_profiles(profile_file(chosen, "", None), "f").values()
        assert profile.truncation is not None


def test_a_profile_of_any_name_stays_one_profile() -> None:
    chosen = Recommendation({"my law 0.5": PROFILES["steady"]}, {})
    assert list(parse_profiles(profile_file(chosen, "", None), "f")) == ["my law 0.5"]


@pytest.mark.parametrize("control", ["steady: mean T", "steady: shuffled T", "T = 0.3"])
def test_a_law_that_one_control_equals_is_not_recommended(control: str) -> None:
    chosen, _ = recommended(PLAIN | {"steady": 0.7, control: 0.7})
    assert "recommended-steady" not in chosen.profiles


def test_a_better_fixed_temperature_is_recommended() -> None:
    chosen, text = recommended(PLAIN | {"T = 0.3": 0.7})
    assert list(chosen.profiles) == ["recommended-temperature"]
    law = parse_profiles(text, "recommended.toml")["recommended-temperature"].temperature
    assert law is not None
    assert law.model_dump()["temperature"] == 0.3


def test_a_router_that_beats_everything_is_recommended() -> None:
    chosen, text = recommended(PLAIN | {"thrifty": 0.7})
    assert list(chosen.profiles) == ["recommended-thrifty"]
    assert parse_profiles(text, "recommended.toml")["recommended-thrifty"].difficulty is not None


def test_a_flag_that_works_is_a_profile_with_its_thresholds() -> None:
    arms, _ = make_arms(CONFIG, {})
    right = {name: coin(0.4, QUESTIONS, 4, n) for n, name in enumerate(("a", "b"))}
    noise = np.random.default_rng(5).random((QUESTIONS, 4))
    halves = [
        {arm.name: made_up(one, entropy=noise - one) for arm in arms} for one in right.values()
    ]
    problems = [
        Problem(task="t", prompt=f"{n}?", answer="1", grader="numeric") for n in range(QUESTIONS)
    ]
    result = analyze(CONFIG, arms, DrawnAnswers(halves[0], halves[1], (problems, problems)), [])
    chosen = recommend(result, arms, CONFIG.temperature)
    text = profile_file(chosen, "model on task", result.flag)
    assert "recommended-flag" in parse_profiles(text, "recommended.toml")
    assert "surest 25%" in text
    assert "None proven: no law" in text


def beside_plain(share: float) -> tuple[EvaluationResult, list[EvaluationArm]]:
    arms, skipped = make_arms(PLAIN_ONLY, {"steady": PROFILES["steady"]})
    problems = [
        Problem(task="t", prompt=f"number {n}?", answer="1", grader="numeric")
        for n in range(QUESTIONS)
    ]
    shares = {"T = 0.7": 0.5, "steady": share}
    drawn = DrawnAnswers(answers(shares, 0), answers(shares, 100), (problems, problems))
    return analyze(PLAIN_ONLY, arms, drawn, skipped), arms


@pytest.mark.parametrize(("share", "says"), [(0.9, "No loss shown"), (0.2, "**Loss shown**")])
def test_against_plain_all_questions_score_and_no_law_is_recommended(
    share: float, says: str
) -> None:
    result, arms = beside_plain(share)
    assert result.num_scoring == 2 * QUESTIONS
    counted = result.profiles["steady"][0]
    assert counted.is_above == (share > 0.5)
    assert counted.is_below == (share < 0.5)
    chosen = recommend(result, arms, PLAIN_ONLY.temperature)
    assert chosen.profiles == {}
    assert says in chosen.sentences["no loss by `steady`"]
    assert not any("law" in goal for goal in chosen.sentences)
    page = write_text_of(result, arms, PLAIN_ONLY, chosen, "# Model on task", "figure.png")
    assert "## Profiles beside the plain request" in page
    assert "random order" not in page
    assert "that chose" not in page


def test_the_page_names_every_arm_and_every_control() -> None:
    result, arms = found(PLAIN)
    chosen = recommend(result, arms, CONFIG.temperature)
    page = write_text_of(result, arms, CONFIG, chosen, "# Model on task", "figure.png")
    for name in PLAIN:
        assert f"| {name} |" in page
    for control in ("its temperatures in random order", "split oracle", "table by kind"):
        assert control in page
    assert "nan" not in page
