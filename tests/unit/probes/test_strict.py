import math

import pytest
from pydantic import ValidationError

from probes.strict import RequestModel, StrictModel


class Config(StrictModel):
    size: float = 1.0
    """How large, in metres."""


class Body(RequestModel):
    name: str
    size: float = 1.0
    part: Config | None = None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "wide", None])
def test_a_value_that_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"size": value})


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Config.model_validate({"length": 1})


def test_an_instance_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().size = 2.0  # type: ignore[misc]


def test_an_attribute_docstring_is_the_description_in_the_schema() -> None:
    assert Config.model_json_schema()["properties"]["size"]["description"] == (
        "How large, in metres."
    )


def test_null_in_a_request_counts_as_absent() -> None:
    body = Body.model_validate({"name": "a", "size": None, "part": None})
    assert body == Body(name="a")
    assert body.model_fields_set == {"name"}


def test_null_does_not_stand_for_a_required_value() -> None:
    with pytest.raises(ValidationError, match="missing"):
        Body.model_validate({"name": None})
