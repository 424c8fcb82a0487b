import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.laws import ShuffledLaw
from training.evaluation.arms import MAX_BINS, Json, make_arms, matched, shuffled_law
from training.evaluation.config import EvaluateConfig

CONFIG = EvaluateConfig(tasks=("quiz",))
STEADY: Json = {"temperature": {"type": "entropy_target", "entropy_target": 1.0}}
ROUTED: Json = {"difficulty": {"probe": "m/difficulty"}}


@given(st.lists(st.floats(0.05, 2.0), min_size=1, max_size=300))
def test_a_shuffled_law_has_the_mean_of_the_temperatures_and_is_one_of_the_servers(
    temperatures: list[float],
) -> None:
    law = ShuffledLaw.model_validate(shuffled_law(temperatures))
    assert len(law.temperatures) <= MAX_BINS
    mean = np.average(law.temperatures, weights=law.weights)
    assert mean == pytest.approx(np.mean(temperatures), abs=1e-4)


def test_a_law_comes_with_two_controls_and_a_router_with_its_strategies() -> None:
    profiles: dict[str, Json] = {"steady": STEADY, "thrifty": ROUTED}
    arms, skipped = make_arms(CONFIG, profiles)
    kinds = [arm.kind for arm in arms]
    assert kinds.count("fixed") == len(CONFIG.curve)
    assert kinds[-7:] == [
        *("law", "mean", "shuffled"),
        *("router", "strategy", "strategy", "strategy"),
    ]
    assert skipped == []


def test_a_truncation_is_one_arm_at_the_temperature_of_the_request() -> None:
    cut: Json = {"truncation": {"type": "p_less"}, "trace": "summary"}
    arms, skipped = make_arms(CONFIG, {"cut": cut})
    assert [arm.kind for arm in arms[len(CONFIG.curve) :]] == ["min_p", "truncation"]
    assert arms[-1].sampling == (
        0.7,
        CONFIG.max_tokens,
        {"truncation": {"type": "p_less"}},
        {},
        False,
    )
    assert skipped == []


def test_a_profile_without_matched_controls_is_named_with_the_reason() -> None:
    profiles: dict[str, Json] = {
        "push": {"steering": [{"vector": "v", "strength": 1.0}]},
        "cool": {"temperature": {"type": "fixed", "temperature": 0.2}},
        "first": ROUTED,
        "second": ROUTED,
    }
    _, skipped = make_arms(CONFIG, profiles)
    assert [one.name for one in skipped] == ["push", "cool", "second"]
    assert "steering" in skipped[0].reason


def test_against_plain_every_profile_is_one_arm_without_controls() -> None:
    config = EvaluateConfig(tasks=("quiz",), against="plain")
    profiles: dict[str, Json] = {
        "steady": STEADY,
        "cool": {"temperature": {"type": "fixed", "temperature": 0.2}},
        "thrifty": ROUTED,
        "second": ROUTED,
        "push": {"steering": [{"vector": "v", "strength": 1.0}], "trace": "summary"},
        "watch": {"trace": "summary"},
    }
    arms, skipped = make_arms(config, profiles)
    assert [(arm.name, arm.kind) for arm in arms] == [
        ("T = 0.7", "fixed"),
        *((name, "profile") for name in ("steady", "cool", "thrifty", "second", "push")),
    ]
    assert [one.name for one in skipped] == ["watch"]
    samplings = [arm.sampling for arm in arms if arm.sampling is not None]
    assert [one.temperature for one in samplings] == [0.7, 0.7, 0.7, None, None, 0.7]
    assert [one.logprobs for one in samplings] == [True, *[False] * 5]


def test_trees_draw_from_the_whole_distribution_whatever_the_model_prefers() -> None:
    arms, _ = make_arms(EvaluateConfig(tasks=("quiz",), trees=True, min_p=0.0), {"steady": STEADY})
    for arm in arms:
        if arm.sampling is not None:
            assert arm.sampling.logprobs
            assert arm.sampling.further == {
                "top_logprobs": 20,
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
            }


def test_only_the_plain_arm_asks_for_log_probabilities() -> None:
    arms, _ = make_arms(CONFIG, {})
    plain = [arm for arm in arms if arm.sampling is not None and arm.sampling.logprobs]
    assert [arm.name for arm in plain] == ["T = 0.7"]


def test_the_controls_of_a_law_get_its_temperatures() -> None:
    arms, _ = make_arms(CONFIG, {"steady": STEADY})
    _, mean, shuffled = arms[-3:]
    done = [matched(arm, [0.2, 0.6, 0.6, 0.6], CONFIG).sampling for arm in (mean, shuffled)]
    assert done[0] is not None
    assert done[0].temperature == 0.5
    assert done[1] is not None
    assert done[1].control["temperature"] == {
        "type": "shuffled",
        "temperatures": [0.2, 0.6],
        "weights": [1.0, 3.0],
    }
