"""Bounds the work that a request body causes on the event loop, before the work is done.

Parsing and validating hold Python's lock, so that a thread does not help: other requests wait. vLLM
has no limit on a body; these limits aim at pauses below 0.2 s and are far above what a model can
read.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from fastapi import HTTPException, Request
from fastapi.routing import APIRoute

from server.settings import settings

MAX_CONTAINERS = 50_000
"""Objects and arrays of a body."""
MAX_KEYS = 100_000
"""Keys of all objects of a body."""
MAX_VALUES = 500_000
"""Values of a body, such as token ids."""
MAX_DIGITS = 640
"""Digits of an integer, whose conversion takes quadratic time."""
MAX_ITEMS = 2048
"""Items of one field that are validated one by one: messages with their parts, tools, prompts."""
FEWER_ITEMS = {"prompt": 512, "input": 1024}
"""Of fields whose items cost more: a prompt is a request to the engine."""
MAX_SEQUENCES = 1024
"""Answers to several prompts, `n` for each: the loop creates all of them at once."""
MAX_GRAMMAR = 100_000
"""Characters and values of the grammar that an answer must follow, which vLLM checks at once."""
MAX_PATTERN = 1000
"""Characters of a regular expression: compiling takes quadratic time, in a thread that vLLM leaves
running after 5 s. Minutes after one of 96,000 characters, the engine core had 10 GB and answered
others slowly (one run on a busy machine)."""
_PATTERNS = frozenset({"regex", "pattern"})
_ENCODED = frozenset({"json", "structural_tag"})
"""Keys whose value may also be a JSON text."""
_GRAMMARS = ("structured_outputs", "response_format", "text")
_NUMBERS = frozenset({int, float, bool})
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_scanner = ThreadPoolExecutor(1, "entrostat-body")
"""One thread, so that large bodies take turns instead of Python's lock."""


class Bounds(NamedTuple):
    """How much of each a body may have."""

    containers: int = MAX_CONTAINERS
    keys: int = MAX_KEYS
    values: int = MAX_VALUES


_BOUNDS = Bounds()


class RefusedBody(HTTPException):
    """The body is too large; `param` names the field, if it is one field."""

    def __init__(self, status_code: int, message: str, param: str | None = None) -> None:
        super().__init__(status_code, message)
        self.param = param


class BoundedRequest(Request):
    """A request whose body is bounded before it is parsed."""

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            RefusedBody: It has more bytes than `ENTROSTAT_MAX_BODY`.
        """
        if not hasattr(self, "_body"):
            limit, parts, size = settings().max_body, list[bytes](), 0
            declared = self.headers.get("content-length", "")
            if declared.isdecimal() and int(declared[:20]) > limit:
                raise _too_many_bytes(limit)
            async for part in self.stream():
                size += len(part)
                if size > limit:
                    raise _too_many_bytes(limit)
                parts.append(part)
            self._body = b"".join(parts)
        return self._body

    async def bounded_body(self, bounds: Bounds = _BOUNDS) -> bytes:
        """Read a body whose parsing takes a bounded time.

        Raises:
            RefusedBody: It has more than the bounds.
        """
        body = await self.body()
        if _may_exceed(body, bounds) and await _in_one_thread(_exceeds, body, bounds):
            raise RefusedBody(
                400,
                f"the body has more than {bounds.containers} objects and arrays, {bounds.keys} "
                f"keys or {bounds.values} values",
                "body",
            )
        return body

    async def json(self) -> Any:
        """Parse the body.

        Raises:
            RefusedBody: It has too many values, or is nested too deeply.
        """
        if not hasattr(self, "_json"):
            body = await self.bounded_body()
            try:
                parsed = json.loads(body)
            except RecursionError as error:
                raise RefusedBody(400, "the body is nested too deeply", "body") from error
            except json.JSONDecodeError:
                raise
            except ValueError as error:
                message = f"the body cannot be read: {error}"[:200]
                raise RefusedBody(400, message, "body") from error
            _refuse_items(parsed)
            self._json = parsed
        return self._json


class BoundedRoute(APIRoute):
    """A route that reads its body through `BoundedRequest`."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The handler that Starlette calls."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Any:
            return await handle(BoundedRequest(request.scope, request.receive))

        return handle_bounded


async def _in_one_thread(
    scan: Callable[[bytes, Bounds], bool], body: bytes, bounds: Bounds
) -> bool:
    return await asyncio.get_running_loop().run_in_executor(_scanner, scan, body, bounds)


def _too_many_bytes(limit: int) -> RefusedBody:
    return RefusedBody(413, f"the body has more than {limit} bytes (ENTROSTAT_MAX_BODY)")


def _may_exceed(body: bytes, bounds: Bounds) -> bool:
    """Whether the limits are exceeded if no bracket or comma belongs to a string."""
    return (
        body.count(b"[") + body.count(b"{") > bounds.containers
        or body.count(b":") > bounds.keys
        or body.count(b",") >= bounds.values
    )


def _exceeds(body: bytes, bounds: Bounds) -> bool:
    """Whether the limits are exceeded. Skips strings, in which text may have any character."""
    containers = keys = commas = strings = position = 0
    while position < len(body):
        end = body.find(b'"', position)
        end = len(body) if end < 0 else end
        containers += body.count(b"[", position, end) + body.count(b"{", position, end)
        keys += body.count(b":", position, end)
        commas += body.count(b",", position, end)
        if containers > bounds.containers or keys > bounds.keys or commas >= bounds.values:
            return True
        strings += 1
        if strings > containers + keys + commas + 1:  # two without a separator: no JSON
            return False
        string = _STRING.match(body, end)
        position = len(body) if string is None else string.end()
    return False


def _refuse_items(body: Any) -> None:
    """Refuse too many items of a field or answers, or a grammar beyond `MAX_GRAMMAR`.

    Raises:
        RefusedBody: Names the field.
    """
    if not isinstance(body, Mapping):
        return
    for field, value in body.items():
        most = FEWER_ITEMS.get(field, MAX_ITEMS)
        if isinstance(value, list) and _num_items(value, most) > most:
            name = field[:100]
            raise RefusedBody(
                400, f"`{name}`: at most {most} items are read, with their parts", name
            )
    prompts = _num_prompts(body)
    if prompts > 1 and prompts * _num_answers(body.get("n")) > MAX_SEQUENCES:
        message = f"`n`: at most {MAX_SEQUENCES} answers to {prompts} prompts"
        raise RefusedBody(400, message, "n")
    for name in _GRAMMARS:
        if isinstance(body.get(name), Mapping) and _size(body[name]) > MAX_GRAMMAR:
            raise RefusedBody(400, f"`{name}`: more than {MAX_GRAMMAR} characters", name)
    for name in (*_GRAMMARS, "tools"):  # after their size: a grammar may be a JSON text
        if _has_long_pattern(body.get(name), decode=name != "tools"):
            message = f"`{name}`: a regular expression has more than {MAX_PATTERN} characters"
            raise RefusedBody(400, message, name)


def _num_answers(value: Any) -> int:
    """`n` as pydantic reads it, which takes `"17"` and `17.0` for a number; 0 if it does not."""
    with suppress(TypeError, ValueError, OverflowError):
        return int(value)
    return 0


def _parsed(value: Any) -> Any:
    """The value, or what it stands for if it is a JSON text."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _has_long_pattern(value: Any, *, decode: bool) -> bool:
    """Whether a regular expression anywhere in nested objects is longer than `MAX_PATTERN`.

    Args:
        value: What was parsed.
        decode: Whether to look into JSON texts as well, of a value of bounded size.
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            for key, part in one.items():
                if key in _PATTERNS and isinstance(part, str) and len(part) > MAX_PATTERN:
                    return True
                if (
                    key == "patternProperties"
                    and isinstance(part, dict)
                    and any(len(name) > MAX_PATTERN for name in part)
                ):
                    return True
                waiting.append(_parsed(part) if decode and key in _ENCODED else part)
        elif isinstance(one, list):
            waiting += one
    return False


def _size(value: Any) -> int:
    """Characters and values of nested objects. Stops counting above `MAX_GRAMMAR`."""
    size, waiting = 0, [value]
    while waiting and size <= MAX_GRAMMAR:
        one = waiting.pop()
        size += len(one) if isinstance(one, str | list | dict) else 1
        if isinstance(one, dict):
            size += sum(map(len, one))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return size


def _num_prompts(body: Mapping[str, Any]) -> int:
    """Prompts of `/v1/completions`, or conversations of a batch."""
    texts, chats = body.get("prompt"), body.get("messages")
    return max(
        sum(not isinstance(one, int) for one in texts) if isinstance(texts, list) else 0,
        sum(isinstance(one, list) for one in chats) if isinstance(chats, list) else 0,
    )


def _num_items(values: list[Any], most: int) -> int:
    """Number of items in a list and, recursively, in the lists of its items.

    Numbers count only inside of objects: a prompt of token ids is validated at once. Counting stops
    above `most`.
    """
    count, waiting = 0, [(values, False)]
    while waiting and count <= most:
        items, inside = waiting.pop()
        if not inside and _NUMBERS.issuperset(map(type, items)):
            continue
        for item in items:
            if isinstance(item, list):
                waiting.append((item, inside))
            elif isinstance(item, dict):
                waiting += [(one, True) for one in item.values() if isinstance(one, list)]
            count += 1
            if count > most:
                break
    return count
