"""Base classes of user-written data: configs, requests, profiles, task files.

An attribute docstring is the field's description in the JSON schema, in `/openapi.json` and in the
generated reference pages.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema

MAX_KEYS = 100
"""Of an object in a request; no model has as many fields."""


MAX_ITEMS = 1000
"""Numbers of a list that are read; no field has as many."""

_UNCONVERTED = ("int", "float", "bool")
_LISTS = ("list", "set", "frozenset", "tuple")


class FirstError:
    """Mixin of request models whose lists stop validating at their first wrong item.

    A union of message types has up to 236 errors per item: without this, 20 KB of wrong items took
    2.5 s to refuse.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The model's schema, with every list failing fast."""
        schema = handler(source)
        for node in _nodes(schema):
            if node.get("type") in _LISTS:
                node["fail_fast"] = True
        return schema


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in nested dictionaries and lists."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class RequestModel(FirstError, StrictModel):
    """A strict model that clients send as JSON: a key whose value is null counts as absent.

    `true` and `"1"` are no numbers, and 1 is not `true`; an integer may be written `1.0`, as JSON
    schema has it. An object with more than `MAX_KEYS` keys is refused before each of its keys is.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The model's schema, whose numbers and booleans are not converted from other types."""
        schema = super().__get_pydantic_core_schema__(source, handler)
        for node in _nodes(schema):
            if node.get("type") in _UNCONVERTED:
                node["strict"] = True
        return schema

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        if isinstance(value, Mapping):
            if len(value) > MAX_KEYS:
                raise ValueError(f"more than {MAX_KEYS} keys")
            return {key: _numbers(item) for key, item in value.items() if item is not None}
        return value


def _numbers(value: Any) -> Any:
    """A whole number as an integer, which a strict field of either type takes; in lists as well."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple) and len(value) <= MAX_ITEMS:
        return [_numbers(item) if isinstance(item, float) else item for item in value]
    return value
