"""Base classes of user-written data: configs, requests, profiles, task files.

An attribute docstring is the field's description in the JSON schema, in `/openapi.json` and in the
generated reference pages.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, model_validator


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class RequestModel(StrictModel):
    """A strict model that clients send as JSON: a key whose value is null counts as absent."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        return value
