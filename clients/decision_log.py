"""Reads a decision log, repeats a logged request and compares the answers."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, Field, JsonValue, ValidationError

Json = dict[str, JsonValue]
KINDS = ("completion", "inquiry", "decision")
_WITH_TOKEN_IDS = ("/v1/chat/completions", "/v1/completions")
_NOT_REPEATED = ("stream", "stream_options", "background")
"""Fields of a body that say how an answer is sent, not what it is."""
_OF_THE_RUN = {
    "profile",
    "tokens",
    "seconds",
    "forwards",
    "prompt_tokens",
    "prepass_tokens",
    "baseline",
}
"""Fields of a report that say how it was made, or that lines do not have."""


class LoggedChoice(BaseModel):
    """One choice of a line."""

    index: int
    tokens: int | None = None
    finish_reason: str | None = None
    answer_hash: str | None = None
    report: Json | None = None


class LoggedDecision(BaseModel):
    """What a replay needs of a line."""

    format: Literal[1]
    kind: Literal["completion", "inquiry", "decision"]
    id: str
    route: str
    status: int | None = None
    model: str | None = None
    control: Json | None = None
    parameters: Json = Field(default_factory=dict)
    artifacts: dict[str, str | None] = Field(default_factory=dict)
    server: Json
    usage: dict[str, int] = Field(default_factory=dict)
    in_flight: int = 0
    choices: list[LoggedChoice]
    body: Json | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the answer reached its end."""
        ended = all(one.finish_reason for one in self.choices) or self.kind != "completion"
        return self.status is not None and ended

    @property
    def is_unseeded(self) -> bool:
        """Whether chance had a part in the answer that no seed repeats."""
        sampled = self.parameters.get("temperature") != 0
        return self.kind == "completion" and sampled and self.parameters.get("seed") is None

    def request(self) -> Json:
        """The body that asks for the same answer, without a stream and without a profile."""
        assert self.body is not None
        again = {name: one for name, one in self.body.items() if name not in _NOT_REPEATED}
        again["model"] = self.model
        if self.kind != "decision":
            again["entropy"] = self.control
        if self.route in _WITH_TOKEN_IDS and self.kind == "completion":
            again["return_token_ids"] = True
            if not self.usage.get("cached_tokens"):
                again["cache_salt"] = uuid4().hex  # compute the whole prompt, as then
        return again


class UnreadableLine(NamedTuple):
    """A line that is no line of a decision log."""

    number: int
    reason: str


def read_log(path: Path) -> Iterator[LoggedDecision | UnreadableLine]:
    """The decisions of a log, in order; lines of other kinds are skipped.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, text in enumerate(lines, 1):
            try:
                found = json.loads(text)
                if isinstance(found, dict) and found.get("kind", "completion") not in KINDS:
                    continue
                yield LoggedDecision.model_validate(found)
            except ValidationError as error:
                finding = error.errors()[0]
                place = ".".join(map(str, finding["loc"]))
                yield UnreadableLine(number, f"{place}: {finding['msg']}")
            except (ValueError, RecursionError):
                yield UnreadableLine(number, "not JSON")


def difference(logged: LoggedDecision, answer: Mapping[str, Any], tolerance: float) -> str | None:
    """The first difference between a logged answer and a new one; None if they are equal.

    Args:
        logged: A line.
        answer: Body of the new response.
        tolerance: Largest relative or absolute difference of equal measurements.
    """
    for choice in logged.choices:
        now = _choice(logged, answer, choice.index)
        if now is None:
            return f"choice {choice.index} is missing"
        ids = now.get("token_ids")
        if choice.answer_hash is not None and isinstance(ids, list):
            digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
            if digest != choice.answer_hash:
                return f"choice {choice.index}: other tokens" + _count(choice.tokens, len(ids))
        before: Any = choice.report
        if logged.kind == "decision":
            before = None if before is None else before.get("answer")
            after: Any = now
        else:
            after = now.get("entropy")
        if before is not None:
            found = _compare(before, after or {}, f"choice {choice.index}", tolerance)
            if found is not None:
                return found
    return None


def _count(before: int | None, after: int) -> str:
    return "" if before in (None, after) else f" ({before}, now {after})"


def _choice(logged: LoggedDecision, answer: Mapping[str, Any], index: int) -> Any | None:
    """A choice of a response; of one without choices, the response itself."""
    parts = answer.get("answers" if logged.kind == "decision" else "choices")
    if parts is None:
        return answer if index == len(logged.choices) - 1 else {}
    return next((one for at, one in enumerate(parts) if one.get("index", at) == index), None)


def _compare(before: Any, after: Any, place: str, tolerance: float) -> str | None:
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted({*before, *after} - _OF_THE_RUN)
        pairs = [(name, before.get(name), after.get(name)) for name in names]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(at), *pair) for at, pair in enumerate(zip(before, after, strict=True))]
    else:
        return None if _equal(before, after, tolerance) else f"{place}: {before}, now {after}"
    for name, old, new in pairs:
        if name == "fallback":
            old, new = _codes(old), _codes(new)
        if (found := _compare(old, new, f"{place}.{name}", tolerance)) is not None:
            return found
    return None


def _codes(fallback: Any) -> str | None:
    """Fallback codes without those of a profile, which the repeated request does not name."""
    codes = [one for one in str(fallback or "").split(",") if not one.endswith("_skipped")]
    return ",".join(codes) or None


def _equal(before: Any, after: Any, tolerance: float) -> bool:
    if isinstance(before, bool) or isinstance(after, bool):
        return before is after
    if isinstance(before, float) and isinstance(after, int | float):
        return math.isclose(before, after, rel_tol=tolerance, abs_tol=tolerance)
    return bool(before == after)


def causes(
    logged: LoggedDecision, server: Mapping[str, Any], artifacts: Mapping[str, str | None]
) -> list[str]:
    """What is known to have changed since a line was written.

    Args:
        logged: A line.
        server: `GET /v1/entropy/server` of the server that answered again.
        artifacts: Its artifacts' fingerprints, by id.
    """
    found = [_artifact(name, one, artifacts) for name, one in logged.artifacts.items()]
    found += [
        f"{name}: {_short(before)}, now {_short(server.get(name))}"
        for name, before in logged.server.items()
        if before != server.get(name)
    ]
    if logged.is_unseeded:
        found.append("the answer was sampled without a seed")
    return [one for one in found if one]


def _artifact(name: str, before: str | None, artifacts: Mapping[str, str | None]) -> str:
    if name not in artifacts:
        return f"the artifact {name} is gone"
    now = artifacts[name]
    return (
        "" if now == before else f"the artifact {name} changed: {_short(before)}, now {_short(now)}"
    )


def _short(value: Any) -> str:
    """A value, or the beginning of a hash."""
    text = str(value)
    return text[:12] if len(text) == 64 else text


def unknown_cause(logged: LoggedDecision) -> str:
    """What remains if nothing is known to have changed."""
    cached = logged.usage.get("cached_tokens", 0)
    return (
        f"batch shape, by exclusion: it then ran beside {logged.in_flight} other controlled "
        f"requests, with {cached} cached prompt tokens"
    )


def fingerprints(cards: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """Fingerprints of the usable artifacts in `GET /v1/entropy/artifacts`, by id."""
    return {str(one["id"]): one.get("hash") for one in cards if one.get("usable")}
