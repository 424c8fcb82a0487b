"""The JSON schema describes every field, and the server accepts what the schema allows."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from pydantic import BaseModel, TypeAdapter

from probes.laws import LAWS
from probes.strict import RequestModel
from server.errors import BadControl
from server.planning.plan import ControlSources, make_plan
from server.planning.refusals import RequestParams
from server.wire.cards import ArtifactList, ProfileList, Readiness
from server.wire.decisions import DecisionControl, DecisionRequest, DecisionResponse
from server.wire.report import Report
from server.wire.request import Control, DifficultyControl, InquiryControl, Steer
from tests.unit.server.support import artifacts

QUESTION = {"role": "user", "content": "Why?"}
MISSING = ("unknown artifact", "no ", "unknown profile", "the tokens that start and end")
"""Prefixes of errors about what this server lacks, which a schema cannot validate."""


class UnknownName(Exception):
    """A control needs an artifact, a profile or a reasoning parser that this server lacks."""


def plan(control: Control) -> None:
    try:
        sources = ControlSources(control, None, None)
        make_plan(sources, {}, artifacts(), RequestParams(last_message=QUESTION, max_samples=256))
    except BadControl as error:
        if str(error).partition(": ")[2].startswith(MISSING):
            raise UnknownName from error
        raise


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")


def openapi(model: type[BaseModel]) -> dict[str, Any]:
    schema = schema_of(model)
    schemas = schema.pop("$defs", {})
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "wire", "version": "1"},
        "paths": {"/": {"post": {"requestBody": body, "responses": {"200": {"description": ""}}}}},
        "components": {"schemas": schemas},
    }


PARTS: list[type[RequestModel]] = [
    Steer,
    DifficultyControl,
    InquiryControl,
    DecisionControl,
    *LAWS.values(),
]


def check(model: type[RequestModel], number: int, accept: Callable[[Any], None]) -> None:
    """Call `accept` with random bodies that the schema of a model allows."""
    operation = schemathesis.openapi.from_dict(openapi(model))["/"]["POST"]
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)

    @seed(number)
    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def every(case: Any) -> None:
        accept(case.body)

    every()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("part", PARTS, ids=lambda model: model.__name__)
def test_every_part_that_the_schema_allows_is_accepted(
    part: type[RequestModel], number: int
) -> None:
    def accept(body: Any) -> None:
        part.model_validate(body)

    check(part, number, accept)


@pytest.mark.parametrize("number", range(3))
def test_every_control_that_the_schema_allows_is_well_formed(number: int) -> None:
    def accept(body: Any) -> None:
        with contextlib.suppress(UnknownName):
            plan(Control.model_validate(body))

    check(Control, number, accept)


@pytest.mark.parametrize(
    "model",
    [
        Control,
        Report,
        ArtifactList,
        ProfileList,
        Readiness,
        DecisionRequest,
        DecisionResponse,
    ],
    ids=lambda model: model.__name__,
)
def test_every_field_of_the_wire_format_has_a_description(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    parts = {model.__name__: schema, **schema.get("$defs", {})}
    missing = [
        f"{name}.{field}"
        for name, part in parts.items()
        for field, value in part.get("properties", {}).items()
        if "description" not in value
    ]
    assert missing == []
