"""Wire format of the `input` of `/v1/decisions`: a text, or messages and tool calls."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from probes.strict import RequestModel

MAX_JSON_LEVELS = 32
MAX_JSON_VALUES = 10_000
MAX_JSON_BYTES = 256 << 10


class CacheBreakpoint(RequestModel):
    """Accepted for OpenAI's clients; vLLM caches every whole block of a prompt."""

    mode: Literal["explicit"]
    """Always `explicit`."""


class InputText(RequestModel):
    """A part of a message with text."""

    type: Literal["input_text"]
    """Always `input_text`."""
    text: str
    """The text."""
    prompt_cache_breakpoint: CacheBreakpoint | None = None
    """Accepted; changes nothing."""


class InputImage(RequestModel):
    """A part of a message with an image; refused, because decisions read text."""

    type: Literal["input_image"]
    """Always `input_image`."""
    image_url: str
    """Address of the image."""
    detail: Literal["low", "high", "auto", "original"] | None = None
    """Level of detail."""
    prompt_cache_breakpoint: CacheBreakpoint | None = None
    """Accepted; changes nothing."""


class InputJson(RequestModel):
    """A part of a message with JSON, which the model reads as text."""

    type: Literal["input_json"]
    """Always `input_json`."""
    data: dict[str, JsonValue] | list[dict[str, JsonValue]]
    """At most 32 levels, 10,000 values and 256 KiB."""

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        levels, values = _size(self.data)
        if levels > MAX_JSON_LEVELS:
            raise ValueError(f"JSON of {levels} levels: at most {MAX_JSON_LEVELS} are read")
        if values > MAX_JSON_VALUES:
            raise ValueError(f"JSON of {values} values: at most {MAX_JSON_VALUES} are read")
        size = len(compact_json(self.data).encode(errors="surrogatepass"))
        if size > MAX_JSON_BYTES:
            raise ValueError(f"JSON of {size} bytes: at most {MAX_JSON_BYTES} are read")
        return self


def compact_json(data: object) -> str:
    """JSON without spaces."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _size(data: Any) -> tuple[int, int]:
    """Container levels and number of values."""
    deepest, values, left = 0, 0, [(data, 1)]
    while left:
        value, level = left.pop()
        values += 1
        if isinstance(value, dict | list):
            deepest = max(deepest, level)
            inner = value.values() if isinstance(value, dict) else value
            left += [(one, level + 1) for one in inner]
    return deepest, values


class OutputText(RequestModel):
    """A part of an assistant message."""

    type: Literal["output_text"]
    """Always `output_text`."""
    text: str
    """The text."""


class OutputRefusal(RequestModel):
    """A refusal in an assistant message."""

    type: Literal["refusal"]
    """Always `refusal`."""
    refusal: str
    """The text."""


Part = Annotated[InputText | InputImage | InputJson, Field(discriminator="type")]
OutputPart = Annotated[OutputText | OutputRefusal, Field(discriminator="type")]
ToolPart = Annotated[InputText | InputImage, Field(discriminator="type")]


class UserMessage(RequestModel):
    """A user's message."""

    type: Literal["message"] = "message"
    """Always `message`."""
    role: Literal["user"]
    """Always `user`."""
    content: str | list[Part]
    """A text, or parts."""


class DeveloperMessage(RequestModel):
    """A developer's or system message."""

    type: Literal["message"] = "message"
    """Always `message`."""
    role: Literal["developer", "system"]
    """Who wrote it."""
    content: str | list[InputText]
    """A text, or parts."""


class AssistantMessage(RequestModel):
    """A message of an assistant."""

    type: Literal["message"] = "message"
    """Always `message`."""
    role: Literal["assistant"]
    """Always `assistant`."""
    content: str | list[OutputPart]
    """A text, or parts."""
    phase: Literal["commentary", "final_answer"] | None = None
    """Accepted; changes nothing."""


class _ToolItem(RequestModel):
    call_id: str
    """Connects a call and its output."""
    id: str | None = None
    """Accepted; changes nothing."""
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    """Accepted; changes nothing."""


class FunctionCall(_ToolItem):
    """A call of a function."""

    type: Literal["function_call"]
    """Always `function_call`."""
    name: str
    """Name of the function."""
    arguments: str
    """Arguments as JSON."""
    namespace: str | None = None
    """Accepted; changes nothing."""


class FunctionOutput(_ToolItem):
    """What a function returned; an earlier call must have its `call_id`."""

    type: Literal["function_call_output"]
    """Always `function_call_output`."""
    output: str | list[ToolPart]
    """A text, or parts."""


class CustomCall(_ToolItem):
    """A call of a custom tool."""

    type: Literal["custom_tool_call"]
    """Always `custom_tool_call`."""
    name: str
    """Name of the tool."""
    input: str
    """What the tool was given."""
    namespace: str | None = None
    """Accepted; changes nothing."""


class CustomOutput(_ToolItem):
    """What a custom tool returned; an earlier call must have its `call_id`."""

    type: Literal["custom_tool_call_output"]
    """Always `custom_tool_call_output`."""
    output: str | list[ToolPart]
    """A text, or parts."""


_ROLES = {"developer": "developer", "system": "developer", "assistant": "assistant"}


def _kind(item: Any) -> str | None:
    """Tag of an input item, from its type or, for a message, its role."""
    found: Mapping[str, Any] = item if isinstance(item, Mapping) else getattr(item, "__dict__", {})
    kind = found.get("type") or "message"
    if kind != "message":
        return kind if isinstance(kind, str) else None
    return _ROLES.get(str(found.get("role")), "user")


InputItem = Annotated[
    Annotated[UserMessage, Tag("user")]
    | Annotated[DeveloperMessage, Tag("developer")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")]
    | Annotated[CustomCall, Tag("custom_tool_call")]
    | Annotated[CustomOutput, Tag("custom_tool_call_output")],
    Discriminator(_kind),
]
"""One item of an input."""
