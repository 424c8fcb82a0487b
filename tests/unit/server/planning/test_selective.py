"""Plans of `confidence` and `abstain`: thresholds, and one refusal for each contradiction."""

from pathlib import Path
from typing import Any

import pytest

from probes.artifact import Adapter, Artifact
from server.artifacts import Artifacts
from server.errors import BadControl
from server.planning.plan import ControlSources, Plan, make_plan
from server.planning.refusals import RequestParams
from server.wire.request import Control
from tests.selective_artifacts import save_abstention, save_confidence
from tests.unit.server.support import SERVED, artifacts, save_inquiry

ABSTAIN: dict[str, Any] = {"calibration": "m/abstain", "alpha": 0.1, "promise": "joint"}
PROBABILITY = {**ABSTAIN, "calibration": "m/probability"}


@pytest.fixture
def found(tmp_path: Path) -> Artifacts:
    save_abstention(tmp_path, "m/abstain", SERVED)
    save_abstention(tmp_path, "m/warm", SERVED, temperature=0.7)
    folder = save_confidence(tmp_path, "m/confidence", SERVED)
    save_confidence(tmp_path, "m/other", SERVED, rows=10, window=64, temperature=0.7)
    save_inquiry(tmp_path)
    digest = Artifact.load(folder).manifest.fingerprint
    save_abstention(tmp_path, "m/probability", SERVED, score="probability", probe_hash=digest)
    save_abstention(tmp_path, "m/window", SERVED, score="self_certainty_window_min", window=64)
    return artifacts(tmp_path)


def plan(found: Artifacts, body: dict[str, Any], **params: Any) -> Plan:
    sources = ControlSources(Control.model_validate(body), None, None)
    made = make_plan(sources, {}, found, RequestParams(**params))
    assert made is not None
    return made


def test_the_threshold_is_that_of_the_promise(found: Artifacts) -> None:
    joint = plan(found, {"abstain": ABSTAIN}).abstain
    assert joint is not None
    assert (joint.score, joint.threshold, joint.questions) == ("entropy_mean", 0.59, 100)
    selective = plan(found, {"abstain": {**ABSTAIN, "promise": "selective"}}).abstain
    assert selective is not None
    assert selective.threshold is not None
    assert 0.5 <= selective.threshold < 0.56
    body = {"confidence": {"probe": "m/confidence"}, "abstain": PROBABILITY}
    assert plan(found, body).abstain is not None


def test_the_window_is_the_probes(found: Artifacts) -> None:
    for asked in ({}, {"window": 64}):
        body = {"confidence": {"probe": "m/other", **asked}}
        made = plan(found, body, temperature=0.7).confidence
        assert made is not None
        assert made.window == 64
    plain = plan(found, {"confidence": {}}).confidence
    assert plain is not None
    assert (plain.window, plain.probe) == (2048, None)


HEAT = {"type": "fixed", "temperature": 1.0}
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "without the control of its score": ({"abstain": PROBABILITY}, {}, "entropy.abstain"),
    "of another probe": (
        {"confidence": {"probe": "m/other"}, "abstain": PROBABILITY},
        {"temperature": 0.7},
        "entropy.abstain.calibration",
    ),
    "of another window": (
        {"confidence": {}, "abstain": {**ABSTAIN, "calibration": "m/window"}},
        {},
        "entropy.confidence.window",
    ),
    "alpha too small": ({"abstain": {**ABSTAIN, "alpha": 0.009}}, {}, "entropy.abstain.alpha"),
    "alpha too small to select": (
        {"abstain": {**ABSTAIN, "alpha": 0.02, "promise": "selective"}},
        {},
        "entropy.abstain.alpha",
    ),
    "at another temperature": (
        {"abstain": {**ABSTAIN, "calibration": "m/warm"}},
        {"temperature": 0.5},
        "temperature",
    ),
    "at no temperature": ({"abstain": {**ABSTAIN, "calibration": "m/warm"}}, {}, "temperature"),
    "with a law": ({"temperature": HEAT, "abstain": ABSTAIN}, {}, "entropy.abstain.calibration"),
    "with a truncation": ({"abstain": ABSTAIN}, {"truncating": ("top_p",)}, "top_p"),
    "with tools": ({"abstain": ABSTAIN}, {"has_tools": True}, "tools"),
    "on a route without choices": ({"abstain": ABSTAIN}, {"has_choices": False}, "entropy.abstain"),
    "without a trace": ({"abstain": ABSTAIN, "trace": "none"}, {}, "entropy.trace"),
    "confidence without a report": ({"confidence": {}, "trace": "none"}, {}, "entropy.trace"),
    "with tokens in a stream": (
        {"abstain": ABSTAIN, "trace": "tokens"},
        {"streams": True},
        "entropy.trace",
    ),
    "unknown calibration": (
        {"abstain": {**ABSTAIN, "calibration": "m/no"}},
        {},
        "entropy.abstain.calibration",
    ),
    "of another kind": (
        {"abstain": {**ABSTAIN, "calibration": "m/confidence"}},
        {},
        "entropy.abstain.calibration",
    ),
    "unknown probe": ({"confidence": {"probe": "m/no"}}, {}, "entropy.confidence.probe"),
    "for an adapter": (
        {"confidence": {"probe": "m/confidence"}},
        {"adapter": Adapter("a", "h")},
        "entropy.confidence.probe",
    ),
    "probe with another window": (
        {"confidence": {"probe": "m/other", "window": 65}},
        {"temperature": 0.7},
        "entropy.confidence.window",
    ),
    "probe with a law": (
        {"temperature": HEAT, "confidence": {"probe": "m/confidence"}},
        {},
        "entropy.confidence.probe",
    ),
    "in an inquiry": ({"confidence": {}, "inquiry": {"task": "m/pets"}}, {}, "entropy.inquiry"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_contradiction_names_its_field(case: str, found: Artifacts) -> None:
    body, params, param = WRONG[case]
    with pytest.raises(BadControl) as caught:
        plan(found, body, **params)
    assert caught.value.param == param
    assert str(caught.value).startswith(f"`{param}`")
