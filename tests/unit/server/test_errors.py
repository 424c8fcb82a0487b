import json
from typing import Any

import pytest
from pydantic import ValidationError

from probes.laws import LAWS
from server.errors import bad_request, describe
from server.wire.request import Control


def mistake(body: Any, root: str = "entropy") -> tuple[str, str]:
    """Parameter and message of the error for an invalid control."""
    with pytest.raises(ValidationError) as caught:
        Control.model_validate(body)
    error = describe(caught.value, root)
    return error.param, str(error)


def test_a_refusal_has_the_format_of_the_openai_api() -> None:
    response = bad_request("no such thing", "entropy.temperature")
    assert response.status_code == 400
    assert json.loads(bytes(response.body)) == {
        "error": {
            "message": "no such thing",
            "type": "BadRequestError",
            "param": "entropy.temperature",
            "code": 400,
        }
    }


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({"color": 1}, "entropy.color", "unknown key"),
        ({"trace": "loud"}, "entropy.trace", "input should be 'none', 'summary' or 'tokens'"),
        (
            {"temperature": {"type": "hapo", "tau": 2}},
            "entropy.temperature.tau",
            "input should be less than 1",
        ),
        (
            {"temperature": {"type": "hapo", "tua": 2}},
            "entropy.temperature.tua",
            "unknown key",
        ),
        (  # a variant that is no longer offered
            {"temperature": {"type": "hapo", "compat": "published"}},
            "entropy.temperature.compat",
            "unknown key",
        ),
        (  # before the required key that it stands for
            {"temperature": {"type": "entropy_target", "target": 1.0}},
            "entropy.temperature.target",
            "unknown key, did you mean `entropy_target`?",
        ),
        (
            {
                "temperature": {
                    "type": "entropy_target",
                    "entropy_target": 1,
                    "temperature_min": 3,
                }
            },
            "entropy.temperature",
            "temperature_min (3.0) must be smaller than temperature_max (2.0)",
        ),
        ("adaptive", "entropy", "input should be a valid object"),
        (
            {"temperature": {"thinking": {"type": "fixed", "temperature": 9}}},
            "entropy.temperature.thinking.temperature",
            "input should be less than or equal to 2",
        ),
        (
            {"temperature": {"answer": {"type": "edt", "thta": 1}}},
            "entropy.temperature.answer.thta",
            "unknown key, did you mean `theta`?",
        ),
        (
            {"temperature": {"thinking": {"type": "edt"}, "anwser": {"type": "edt"}}},
            "entropy.temperature.anwser",
            "unknown key, did you mean `answer`?; known: thinking, answer",
        ),
        (
            {"temperature": {"thinking": {"type": "warm"}}},
            "entropy.temperature.thinking",
            "input tag 'warm'",
        ),
        ({"temperature": {}}, "entropy.temperature", "unable to extract tag"),
    ],
)
def test_an_error_is_one_sentence_that_starts_with_its_field(
    body: Any, param: str, sentence: str
) -> None:
    got, message = mistake(body)
    assert got == param
    assert message.startswith(f"`{param}`: {sentence}")
    assert "\n" not in message


def test_an_error_for_an_unknown_law_lists_the_known_ones() -> None:
    param, message = mistake({"temperature": {"type": "warm"}})
    assert param == "entropy.temperature"
    assert all(name in message for name in LAWS)


@pytest.mark.parametrize("tag", list(LAWS))
def test_the_tag_of_a_law_is_not_part_of_the_reported_field(tag: str) -> None:
    param, _ = mistake({"temperature": {"type": tag, "color": 1, "entropy_target": 1}})
    assert param.split(".")[:2] == ["entropy", "temperature"]
    assert param.split(".")[2] != tag
    assert len(param.split(".")) == 3


def test_the_error_of_a_profile_starts_with_its_name() -> None:
    assert mistake({"color": 1}, "calm")[0] == "calm.color"


def test_an_error_does_not_repeat_a_long_value() -> None:
    _, message = mistake({"temperature": {"type": [1] * 5000}})
    assert len(message) < 1000
    assert "'entropy_target'" in message
