"""Requests generated from the parameter classes of OpenAI's SDK."""

import types
from collections.abc import Iterable
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from hypothesis import strategies as st
from openai.types.decision_create_params import DecisionCreateParams

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_NAMES = st.text("abcdefghij", min_size=1, max_size=6)
_JSON = st.dictionaries(_NAMES, st.none() | st.booleans() | st.integers() | _TEXT, max_size=3)


def values(hint: Any, key: str = "") -> st.SearchStrategy[Any]:
    """Values of a type of the SDK; `key` is the field that holds them."""
    origin = get_origin(hint)
    if origin in (Required, NotRequired):
        return values(get_args(hint)[0], key)
    if origin is Literal:
        return st.sampled_from(get_args(hint))
    if origin in (Union, types.UnionType):
        return st.one_of([values(one, key) for one in get_args(hint)])
    if hasattr(hint, "__required_keys__"):  # a TypedDict, whichever module made it
        return _objects(hint)
    if origin is dict:
        return _JSON
    if hint is type(None):
        return st.none()
    if hint in (bool, str):
        return st.booleans() if hint is bool else (_NAMES if key == "call_id" else _TEXT)
    if origin is not None and issubclass(origin, Iterable):
        return _lists(get_args(hint)[0], key)
    raise AssertionError(hint)


def _lists(item: Any, key: str) -> st.SearchStrategy[list[Any]]:
    """Lists within the limits that the SDK's documentation states."""
    if key == "choices":
        return st.lists(
            values(item), min_size=2, max_size=4, unique_by=lambda one: repr(one["value"])
        )
    if key == "levels":
        return st.lists(values(item), min_size=2, max_size=10)
    return st.lists(values(item), min_size=1 if key == "questions" else 0, max_size=3)


def _objects(hint: Any) -> st.SearchStrategy[dict[str, Any]]:
    fields = get_type_hints(hint, include_extras=True)
    # Not `__required_keys__`, which knows no markers in annotations that are texts.
    required = {key for key, one in fields.items() if get_origin(one) is Required}
    return st.fixed_dictionaries(
        {key: values(fields[key], key) for key in required},
        optional={key: values(fields[key], key) for key in fields if key not in required},
    )


def requests() -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of `client.decisions.create`, whose tool outputs follow their calls."""
    return _objects(DecisionCreateParams).map(_with_calls)


def _with_calls(body: dict[str, Any]) -> dict[str, Any]:
    if isinstance(body["input"], str):
        return body
    items = []
    for item in body["input"]:
        kind = item.get("type", "message")
        if kind.endswith("_output"):
            call = {"type": kind.removesuffix("_output"), "call_id": item["call_id"], "name": "f"}
            text = {"arguments": "{}"} if kind.startswith("function") else {"input": "x"}
            items.append(call | text)
        items.append(item)
    return body | {"input": items}


def has_image(node: Any) -> bool:
    """Whether a part of a body is an image."""
    if isinstance(node, dict):
        return node.get("type") == "input_image" or any(map(has_image, node.values()))
    return isinstance(node, list) and any(map(has_image, node))
