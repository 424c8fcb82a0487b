"""A profile selected by model name or header never makes a valid request fail."""

from typing import Any

import pytest

from probes.artifact import Adapter
from server.errors import BadControl
from server.planning.plan import ControlSources, Plan, make_plan
from server.planning.refusals import RequestParams
from server.profiles import Profiles
from server.wire.request import Control
from tests.unit.server.support import artifacts

SHIPPED = Profiles()
OPERATORS = {
    "cool": Control.model_validate({"temperature": {"type": "fixed", "temperature": 0.3}}),
    "game": Control.model_validate({"inquiry": {"task": "no/such"}}),
    "by-effort": Control.model_validate({"difficulty": {"effort": True}}),
}
PROFILES = {**SHIPPED, **OPERATORS}
QUESTION = {"role": "user", "content": "Why?"}
ORDINARY: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature of LlamaIndex": {"temperature": 0.1},
    "temperature 0.7": {"temperature": 0.7},
    "hot": {"temperature": 2.0},
    "greedy": {"temperature": 0.0},
    "tool turn": {"last_message": {"role": "tool", "tool_call_id": "1", "content": "4"}},
    "assistant prefill": {"last_message": {"role": "assistant", "content": "The answer is"}},
    "empty text": {"last_message": {"role": "user", "content": ""}},
    "null text": {"last_message": {"role": "user", "content": None}},
    "image alone": {"last_message": {"role": "user", "content": [{"type": "image_url"}]}},
    "no messages": {"last_message": None},
    "/v1/responses": {"answers_one_chat": False, "supports_inquiry": False, "last_message": None},
    "/v1/messages": {"supports_inquiry": False},
    "an adapter": {"adapter": Adapter("lora", "h")},
    "n = 4": {"num_choices": 4},
    "tools": {"unsupported_by_inquiry": ("tools",)},
    "beam search": {"beam_search": True},
    "background": {"background": True},
    "unknown effort": {"reasoning_effort": "heroic"},
}
each_request = pytest.mark.parametrize("request_", ORDINARY.values(), ids=list(ORDINARY))
each_profile = pytest.mark.parametrize("profile", PROFILES)


def plan(sources: ControlSources, params: dict[str, Any]) -> Plan:
    request_params = RequestParams(**{"last_message": QUESTION, **params})
    found = make_plan(sources, PROFILES, artifacts(), request_params)
    assert found is not None
    return found


@each_profile
@each_request
@pytest.mark.parametrize("place", ["suffix", "header"])
def test_a_profile_by_name_or_header_never_refuses_and_reports_what_it_skipped(
    profile: str, request_: dict[str, Any], place: str
) -> None:
    by_place = {"suffix": None, "header": None, place: profile}
    found = plan(ControlSources(None, **by_place), request_)
    control = PROFILES[profile]
    assert found.profile == profile
    for field, applied in {
        "temperature": found.law,
        "difficulty": found.difficulty,
        "steering": found.steering,
        "inquiry": found.inquiry,
    }.items():
        asked = getattr(control, field) is not None
        reported = f"{field}_skipped" in found.skipped or "all_skipped" in found.skipped
        assert (applied is not None) == (asked and not reported)
    assert found.trace == "none" or not {"all_skipped", "report_skipped"} & set(found.skipped)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 0.7, 1.3, 2.0])
@pytest.mark.parametrize("side", ["ceiling", "floor", "both"])
def test_an_entropy_target_can_be_combined_with_every_temperature(
    side: str, temperature: float
) -> None:
    law = {"type": "entropy_target", "entropy_target": 1.0, "side": side}
    body = Control.model_validate({"temperature": law})
    found = plan(ControlSources(body, None, None), {"temperature": temperature})
    assert (found.law, found.skipped) == (body.temperature, ())


@pytest.mark.parametrize(
    ("body", "params", "param"),
    [
        (
            {"temperature": {"type": "fixed", "temperature": 0.3}},
            {"temperature": 0.1},
            "temperature",
        ),
        ({"profile": "cool"}, {"temperature": 0.1}, "temperature"),
        ({"difficulty": {}}, ORDINARY["tool turn"], "entropy.difficulty"),
        ({"profile": "by-effort"}, {"reasoning_effort": "heroic"}, "reasoning_effort"),
        ({}, {"beam_search": True, "reasoning_effort": None}, "use_beam_search"),
        ({}, {"background": True}, "background"),
        ({"inquiry": {"task": "t"}, "difficulty": {}}, {}, "entropy.difficulty"),
        ({"inquiry": {"task": "t"}}, {"num_choices": 2}, "n"),
        ({"inquiry": {"task": "t"}}, {"unsupported_by_inquiry": ("tools",)}, "tools"),
    ],
)
def test_a_control_of_the_body_that_contradicts_the_request_is_refused(
    body: dict[str, Any], params: dict[str, Any], param: str
) -> None:
    for sources in (
        ControlSources(Control.model_validate(body), None, None),
        ControlSources(Control.model_validate({**body, "trace": "summary"}), "adaptive", None),
    ):
        if param in ("entropy.difficulty", "use_beam_search") and sources.suffix:
            continue  # the artifact is missing, or only the report is skipped with its profile
        with pytest.raises(BadControl) as caught:
            plan(sources, params)
        assert caught.value.param == param


def test_an_empty_question_is_still_the_users_message() -> None:
    body = Control.model_validate({"difficulty": {}})
    with pytest.raises(BadControl, match="has no text"):
        plan(ControlSources(body, None, None), ORDINARY["empty text"])


def test_an_inquiry_of_the_body_skips_the_sampling_controls_of_the_profile() -> None:
    body = Control.model_validate({"inquiry": {"task": "no/such"}})
    with pytest.raises(BadControl) as caught:  # not because of the profile's law
        plan(ControlSources(body, "cool", None), {})
    assert caught.value.param == "entropy.inquiry.task"
