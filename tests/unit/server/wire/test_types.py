"""No field converts a value of another JSON type."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from probes.laws import LAWS
from probes.truncations import TRUNCATIONS
from server.errors import describe
from server.wire.decisions import AbstainControl, DecisionControl
from server.wire.feedback import FeedbackRequest
from server.wire.request import (
    AbstentionControl,
    ConfidenceControl,
    Control,
    DifficultyControl,
    InquiryControl,
    SemanticControl,
    Steer,
    VoteControl,
)

MODELS: list[type[BaseModel]] = [
    *LAWS.values(),
    *TRUNCATIONS.values(),
    DifficultyControl,
    Steer,
    InquiryControl,
    ConfidenceControl,
    AbstentionControl,
    SemanticControl,
    VoteControl,
    DecisionControl,
    AbstainControl,
    FeedbackRequest,
]
WRONG: dict[str, list[Any]] = {
    "number": [True, False, "1", "NaN", [1.0], {}],
    "integer": [True, False, "1", 1.5, [1], {}],
    "boolean": [0, 1, 1.0, "true", "", []],
}


def type_of(schema: dict[str, Any]) -> str | None:
    """The only type of a field beside null."""
    types = {one.get("type") for one in schema.get("anyOf", [schema])} - {"null"}
    return types.pop() if len(types) == 1 else None


FIELDS = [
    (model, name, kind)
    for model in MODELS
    for name, schema in model.model_json_schema()["properties"].items()
    if (kind := type_of(schema)) in WRONG
]


@pytest.mark.parametrize(("model", "name", "kind"), FIELDS, ids=str)
def test_a_value_of_another_type_is_refused_at_its_field(
    model: type[BaseModel], name: str, kind: str
) -> None:
    for value in WRONG[kind]:
        with pytest.raises(ValidationError) as refused:
            model.model_validate({name: value})
        assert name in {str(error["loc"][0]) for error in refused.value.errors() if error["loc"]}


def test_every_kind_of_field_is_found() -> None:
    assert {kind for *_, kind in FIELDS} == set(WRONG)
    assert len(FIELDS) > 30


def test_an_integer_may_be_written_as_a_float_and_the_other_way_round() -> None:
    control = Control.model_validate(
        {"vote": {"n": 3.0}, "temperature": {"type": "fixed", "temperature": 1}}
    )
    assert control.vote is not None
    assert (control.vote.n, type(control.vote.n)) == (3, int)
    steer = Steer.model_validate({"vector": "a/b", "clamp": [-1, 2.0], "layers": [1.0]})
    assert (steer.clamp, steer.layers) == ((-1.0, 2.0), (1,))


def test_a_refusal_speaks_of_lists_and_objects_as_json_does() -> None:
    for body, kind in (({"steering": 3}, "list"), ({"vote": 3}, "object")):
        with pytest.raises(ValidationError) as refused:
            Control.model_validate(body)
        message = str(describe(refused.value, "entropy"))
        assert kind in message
        assert "tuple" not in message
