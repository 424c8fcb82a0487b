import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.laws import (
    NO_LAW,
    NO_ROW,
    EntropyTargetLaw,
    FixedLaw,
    HapoLaw,
    Side,
    TemperatureLaw,
)
from server.planning.plan import Plan
from server.planning.selective import ConfidencePlan
from server.requests.report import summarize, token_reports
from server.requests.telemetry import TracedToken
from server.wire.request import Trace

NAN = math.nan
numbers = st.floats(0, 12)
maybe = st.just(NAN) | numbers
tokens = st.lists(st.builds(TracedToken, maybe, maybe, maybe, maybe, maybe), max_size=30)


def ruled_by(law: TemperatureLaw | None, trace: Trace = "summary") -> Plan:
    return Plan("calm", law, NO_LAW, NO_ROW, trace)


def token(entropy: float, temperature: float, sampled_entropy: float = NAN) -> TracedToken:
    return TracedToken(entropy, temperature, sampled_entropy)


PLAIN = ruled_by(None)
STEADY = ruled_by(EntropyTargetLaw(entropy_target=1.0, side="both"))


MEASURED = [
    TracedToken(0.5, 0.9, 0.25, -0.5, 1.0),
    TracedToken(2.5, 1.1, 3.0, -1.0, 2.0),
    TracedToken(1.5, 1.0, NAN, NAN, 1.5),
]


def test_a_summary_has_the_mean_and_the_maximum_of_its_tokens() -> None:
    report = summarize(ruled_by(HapoLaw()), MEASURED, produced=3)
    assert report.model_dump() == {
        "profile": "calm",
        "law": "hapo",
        "truncation": None,
        "entropy_mean": 1.5,
        "entropy_max": 2.5,
        "temperature_mean": pytest.approx(1.0),
        "sampled_entropy_mean": 1.625,
        "varentropy_mean": 1.5,
        "logprob_mean": -0.75,
        "logprob_sum": -1.5,
        "num_tokens": 3,
        "num_clamped": None,
        "entropy_target": None,
        "base_temperature": None,
        "temperature_change_mean": None,
        "share_heated": None,
        "share_cooled": None,
        "tokens": None,
        "phases": None,
        "difficulty": None,
        "steering": None,
        "confidence": None,
        "abstain": None,
        "vote": None,
        "semantic": None,
        "inquiry": None,
        "fallback": None,
    }


def test_the_report_of_a_request_without_a_law_has_no_law() -> None:
    assert summarize(PLAIN, [token(1.0, 0.7)], produced=1).law is None


@pytest.mark.parametrize(
    ("trace", "shown"), [("none", False), ("summary", False), ("tokens", True)]
)
def test_tokens_are_reported_only_if_requested(trace: Trace, shown: bool) -> None:
    report = summarize(ruled_by(None, trace), [token(1.0, 0.0), token(2.0, NAN)], produced=2)
    tokens = report.model_dump()["tokens"]
    assert (tokens is not None) == shown
    if tokens is not None:
        assert [(one["entropy"], one["temperature"]) for one in tokens] == [(1.0, 0.0), (2.0, None)]


def test_an_answer_without_tokens_has_no_statistics_and_no_fallback() -> None:
    report = summarize(PLAIN, [], produced=0)
    assert (report.entropy_mean, report.entropy_max, report.temperature_mean) == (None,) * 3
    assert (report.num_tokens, report.fallback) == (0, None)


@pytest.mark.parametrize(
    ("tokens", "produced", "fallback"),
    [
        ([token(1.0, 1.0)], 1, None),
        ([token(1.0, 0.0)], 1, None),
        ([token(1.0, 1.0)], 2, "trace_lost"),
        ([], 2, "trace_lost"),
        ([token(NAN, 1.0), token(1.0, 1.0)], 2, "no_entropy"),
        ([token(NAN, 1.0)], 2, "no_entropy"),
        ([token(1.0, 1.0), token(NAN, NAN)], 2, "control_failed"),
        ([token(NAN, 1.0), token(NAN, NAN)], 3, "control_failed"),
    ],
)
def test_the_most_severe_reason_is_the_fallback(
    tokens: list[TracedToken], produced: int, fallback: str | None
) -> None:
    assert summarize(PLAIN, tokens, produced).fallback == fallback


def test_tokens_at_either_temperature_limit_of_a_target_are_counted_as_clamped() -> None:
    temperatures = [0.1, 0.10000000149, 0.1001, 1.0, 1.999, 2.0, 2.0000001, NAN]
    report = summarize(STEADY, [token(1.0, t) for t in temperatures], produced=8)
    assert report.num_clamped == 4


def test_a_report_has_statistics_of_the_temperature_change() -> None:
    drawn = [0.5, 0.700000001, 0.7, 0.9, 1.1, NAN]
    report = summarize(ruled_by(HapoLaw()), [token(1.0, t) for t in drawn], 6, base=0.7)
    assert report.base_temperature == 0.7
    assert (report.share_heated, report.share_cooled) == (0.4, 0.2)
    assert report.temperature_change_mean == pytest.approx((0.2 + 0.2 + 0.4) / 5)


@pytest.mark.parametrize(("side", "clamped"), [("ceiling", 3), ("floor", 3), ("both", 1)])
def test_tokens_that_a_one_sided_target_leaves_at_t0_count_as_clamped(
    side: Side, clamped: int
) -> None:
    law = EntropyTargetLaw(entropy_target=1.25, side=side)
    report = summarize(ruled_by(law), [token(1.0, t) for t in (0.1, 0.7, 0.7, 0.5)], 4, base=0.7)
    assert (report.num_clamped, report.entropy_target) == (clamped, 1.25)


@pytest.mark.parametrize("law", [None, FixedLaw(temperature=2.0), HapoLaw()])
def test_only_an_entropy_target_reports_clamped_tokens(law: TemperatureLaw | None) -> None:
    assert summarize(ruled_by(law), [token(1.0, 2.0)], produced=1).num_clamped is None


@given(tokens=tokens, missing=st.integers(0, 3))
def test_a_report_is_always_json_and_its_mean_never_exceeds_its_maximum(
    tokens: list[TracedToken], missing: int
) -> None:
    report = summarize(ruled_by(None, "tokens"), tokens, len(tokens) + missing)
    json.dumps(report.model_dump(), allow_nan=False)
    assert report.num_tokens == len(tokens)
    if report.entropy_mean is not None and report.entropy_max is not None:
        assert report.entropy_mean <= report.entropy_max + 1e-9
    assert (report.entropy_mean is None) == all(math.isnan(one.entropy) for one in tokens)


def test_nan_is_reported_as_null() -> None:
    (found,) = token_reports([token(NAN, NAN)])
    assert (found.entropy, found.temperature, found.varentropy) == (None, None, None)


def test_every_token_has_its_own_figures() -> None:
    (found,) = token_reports([TracedToken(2.5, 1.1, 3.0, -1.0, 2.0)])
    assert found.model_dump() == {"entropy": 2.5, "temperature": 1.1, "varentropy": 2.0}


def test_features_of_confidence_are_reported_if_requested() -> None:
    tokens = [
        TracedToken(0.5, 0.9, 0.25, -0.5, 1.0, 2.0, 0.5),
        TracedToken(2.5, 1.1, 3.0, -1.5, 2.0, 1.0, 0.25),
        TracedToken(1.5, 1.0, NAN, NAN, 1.5, NAN, NAN),
        TracedToken(1.5, 1.0, 1.0, -0.25, 1.5, 6.0, 0.75),
    ]
    assert summarize(PLAIN, tokens, produced=4).confidence is None
    asked = PLAIN._replace(confidence=ConfidencePlan(2))
    report = summarize(asked, tokens, produced=4).confidence
    assert report is not None
    assert report.model_dump() == {
        "self_certainty_mean": 3.0,
        "self_certainty_window_min": 1.5,
        "collision_mean": 0.5,
        "logprob_min": -1.5,
        "window": 2,
        "probe": None,
        "probability": None,
        "high_entropy": None,
        "outside": None,
        "state_distance": None,
        "out_of_distribution": None,
    }
    nothing = summarize(asked, [], produced=0).confidence
    assert nothing is not None
    assert nothing.self_certainty_window_min is None
