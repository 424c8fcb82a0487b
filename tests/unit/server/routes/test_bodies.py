"""What a body costs the event loop is bounded before the cost arises."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, TypeAdapter, ValidationError
from vllm.exceptions import VLLMValidationError

from server.routes import anthropic, openai
from server.routes.bodies import (
    FEWER_ITEMS,
    MAX_CONTAINERS,
    MAX_GRAMMAR,
    MAX_ITEMS,
    MAX_KEYS,
    MAX_VALUES,
    BoundedRoute,
    RefusedBody,
)
from server.routes.failures import shape_errors
from server.settings import settings
from server.wire.request import Control

MODELS: list[type[BaseModel]] = [
    anthropic.ControlledMessagesRequest,
    openai.ControlledBatchRequest,
    openai.ControlledChatRequest,
    openai.ControlledCompletionRequest,
    openai.ControlledResponsesRequest,
]
LONGEST = 1000
"""Items and characters that a field of `entropy` may have."""
NUMBERS = {"integer", "number", "boolean"}


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()

    async def count(body: Annotated[Any, Body()]) -> int:
        return len(body)

    app.router.route_class = BoundedRoute
    app.post("/count")(count)
    shape_errors(app)
    return TestClient(app)


def post(client: TestClient, content: bytes) -> tuple[int, Any]:
    answer = client.post("/count", content=content, headers={"content-type": "application/json"})
    return answer.status_code, answer.json()


def refusal(client: TestClient, content: bytes) -> tuple[int, str | None]:
    status, body = post(client, content)
    assert status >= 400, body
    return status, body["error"]["param"]


# -- every field of the wire ---------------------------------------------------------------------


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from nodes(one)


def variants(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The alternatives of a schema, with references replaced."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    alternatives = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    for one in alternatives:
        yield from variants(one, root)
    if not alternatives:
        yield schema


def list_fields() -> Iterator[tuple[type[BaseModel], str]]:
    """Every field that takes a list of other things than numbers."""
    for model in MODELS:
        root = model.model_json_schema()
        for field, schema in root["properties"].items():
            for one in variants(schema, root):
                items = list(variants(one.get("items", {}), root))
                if one.get("type") == "array" and any(i.get("type") not in NUMBERS for i in items):
                    yield model, field


FIELDS = sorted(set(list_fields()), key=str)


def test_the_fields_are_found() -> None:
    found = {field for _, field in FIELDS}
    assert {"messages", "tools", "prompt", "input", "stop", "bad_words"} <= found


@pytest.mark.parametrize(("model", "field"), FIELDS, ids=lambda one: getattr(one, "__name__", one))
@pytest.mark.parametrize("item", ["x", {"a": 1}, [{"a": 1}], {"a": [1, 2]}], ids=str)
def test_a_list_with_too_many_items_is_refused_before_it_is_validated(
    client: TestClient, model: type[BaseModel], field: str, item: Any
) -> None:
    content = json.dumps({field: [item] * (MAX_ITEMS + 1)}).encode()
    assert refusal(client, content) == (400, field)
    most = FEWER_ITEMS.get(field, MAX_ITEMS)
    assert post(client, json.dumps({field: ["x"] * most}).encode())[0] == 200
    assert refusal(client, json.dumps({field: ["x"] * (most + 1)}).encode()) == (400, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("structured_outputs", {"regex": "(a|b)?" * 200}),
        ("structured_outputs", {"json": {"type": "string", "pattern": "(a|b)?" * 200}}),
        ("structured_outputs", {"json": '{"pattern": "' + "a?" * 501 + '"}'}),
        ("structured_outputs", {"json": {"patternProperties": {"a?" * 501: {}}}}),
        ("response_format", {"json_schema": {"schema": {"pattern": "a?" * 501}}}),
        ("text", {"format": {"schema": {"items": [{"pattern": "a?" * 501}]}}}),
        ("tools", [{"function": {"parameters": {"pattern": "a?" * 501}}}]),
    ],
)
def test_a_long_regular_expression_is_refused(client: TestClient, field: str, value: Any) -> None:
    """vLLM gives up after 5 s, but its thread goes on."""
    assert refusal(client, json.dumps({field: value}).encode()) == (400, field)
    short = json.dumps({field: value}).replace("(a|b)?" * 200, "a").replace("a?" * 501, "a?" * 500)
    assert post(client, short.encode())[0] == 200


def test_only_a_grammar_of_bounded_size_is_decoded(client: TestClient) -> None:
    long = json.dumps({"pattern": "a" * 1001})
    for text, says in ((long, "regular expression"), (long + " " * MAX_GRAMMAR, "characters")):
        _, answer = post(client, json.dumps({"response_format": {"json": text}}).encode())
        assert says in answer["error"]["message"]
    assert post(client, json.dumps({"tools": [{"json": long}]}).encode())[0] == 200


@pytest.mark.parametrize(
    "prompts", [{"prompt": ["a"] * 64}, {"prompt": [[1, 2]] * 64}, {"messages": [[{}]] * 64}]
)
def test_prompts_times_answers_are_bounded(client: TestClient, prompts: Any) -> None:
    """512 prompts with n = 1024 would be half a million engine requests in one turn."""
    for n in (17, "17", 17.0, " 17 "):
        assert refusal(client, json.dumps({**prompts, "n": n}).encode()) == (400, "n")
    for other in (16, None, "16", True, "many", [17]):
        assert post(client, json.dumps({**prompts, "n": other}).encode())[0] == 200
    assert post(client, b'{"prompt": [1, 2, 3], "n": 1024}')[0] == 200


@pytest.mark.parametrize(("model", "field"), FIELDS, ids=lambda one: getattr(one, "__name__", one))
def test_a_list_of_wrong_items_has_the_errors_of_its_first_one(
    model: type[BaseModel], field: str
) -> None:
    """A union of message types has dozens of errors for one wrong item."""

    def num_errors(count: int) -> int:
        item = {"type": "nothing", "role": "nobody"}
        try:
            TypeAdapter(model).validate_python({field: [item] * count})
        except ValidationError as error:
            return error.error_count()
        except VLLMValidationError:
            return 1
        return 0

    assert num_errors(MAX_ITEMS) <= num_errors(1) + 1


@pytest.mark.parametrize("field", ["structured_outputs", "response_format", "text"])
@pytest.mark.parametrize(
    "grammar",
    [
        {"regex": "a" * MAX_GRAMMAR},
        {"choice": ["x"] * MAX_GRAMMAR},
        {"json": {"a" * MAX_GRAMMAR: 1}},
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_long_grammar_is_refused_before_vllm_checks_it(
    client: TestClient, field: str, grammar: dict[str, Any]
) -> None:
    assert refusal(client, json.dumps({field: grammar}).encode()) == (400, field)
    assert post(client, json.dumps({field: {"regex": "a" * 1000}}).encode())[0] == 200


def test_every_list_and_string_of_the_entropy_field_has_a_limit() -> None:
    schema = TypeAdapter(Control).json_schema()
    for node in nodes(schema):
        if node.get("type") == "array":
            assert node.get("maxItems", LONGEST + 1) <= LONGEST, node
        if node.get("type") == "string" and not {"enum", "const"} & set(node):
            assert node.get("maxLength", LONGEST * 3) < LONGEST * 3, node
        if node.get("type") == "object":
            assert node.get("additionalProperties") is False, node


def calls(content: Any) -> int:
    """Python calls until a control is accepted or refused."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        openai.ControlledChatRequest.model_validate(
            {"messages": [{"role": "user", "content": "a"}], "entropy": content}
        )
    except (ValueError, VLLMValidationError):
        pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {f"k{i}": 1 for i in range(n)},
        lambda n: {"k" * n: 1},
        lambda n: {"temperature": {f"k{i}": 1 for i in range(n)}},
        lambda n: {"steering": [{"vector": "a", "strength": 1}] * n},
        lambda n: {"steering": [{"vector": "a", "strength": 1, "layers": ["x"] * n}]},
        lambda n: {"temperature": {"type": "shuffled", "temperatures": ["x"] * n}},
        lambda n: {"profile": "a" * n},
    ],
)
def test_refusing_a_control_takes_the_same_work_at_any_size(make: Any) -> None:
    assert calls(make(100_000)) <= calls(make(10_000)) + 100 <= 10_000


# -- the whole body --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"[]," * MAX_CONTAINERS + b"1]",
        b"[" + b'{"a":1},' * MAX_CONTAINERS + b"1]",
        b"[" + b"1," * MAX_VALUES + b"1]",
        b"{" + b",".join(b'"%d":1' % i for i in range(MAX_KEYS + 1)) + b"}",
        b"[" * 900_00 + b"]" * 900_00,
        b"[" * 40_000 + b"]" * 40_000,
        b'{"n": ' + b"1" * 5000 + b"}",
    ],
    ids=["arrays", "objects", "values", "keys", "deep", "less deep", "digits"],
)
def test_a_body_of_too_many_values_is_refused(client: TestClient, content: bytes) -> None:
    assert refusal(client, content) == (400, "body")


@pytest.mark.parametrize("text", ["[{" * 60_000, ',"\\' * 600_000, ":" * 200_000, '\\"[' * 60_000])
def test_text_may_have_any_characters(client: TestClient, text: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "x": text}).encode()
    assert post(client, body) == (200, 2)


def test_a_body_with_too_many_bytes_is_refused_with_413(client: TestClient) -> None:
    content = b'"' + b"a" * settings().max_body + b'"'
    assert refusal(client, content)[0] == 413

    def parts() -> Iterator[bytes]:  # no content-length
        for start in range(0, len(content), 1 << 20):
            yield content[start : start + (1 << 20)]

    answer = client.post("/count", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("content", [b"", b"{", b"[1,]", b"nul", b"\xff", b'{"a"}'])
def test_what_is_no_json_is_refused_as_ever(client: TestClient, content: bytes) -> None:
    status, _ = post(client, content)
    assert status in (400, 422)


def test_a_refusal_names_its_field() -> None:
    assert RefusedBody(400, "too long", "messages").param == "messages"


def test_a_refused_body_names_its_field_although_vllm_handles_http_errors() -> None:
    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def without_a_field(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": {"param": None}}, status_code=400)

    @app.get("/")
    async def refuse() -> None:
        raise RefusedBody(400, "too long", "messages")

    shape_errors(app)
    assert TestClient(app).get("/").json()["error"]["param"] == "messages"
