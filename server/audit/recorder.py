"""Collects what one request does until its line in the decision log is written."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, JsonValue
from pydantic_core import from_json

from server.audit.lines import ChoiceLine, DecisionLine, UsageLine
from server.audit.log import DecisionLog
from server.wire.report import Report, join_fallbacks

_NUMBERS = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "n", "stream", "min_tokens", "ignore_eos"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "use_beam_search"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "reasoning_effort"),
    "background",
)
"""Fields of requests that a line repeats: no text of a client."""
_TEXTS: Any = {
    "abstain": {"answer"},
    "vote": {"answer", "table"},
    "semantic": {"clusters": {"__all__": {"answer"}}},
    "inquiry": {"introduction", "query", "runner_up", "heard"},
}
"""Fields of a report that repeat the answer or the conversation."""


def sampling_parameters(request: Any) -> dict[str, float | int | bool | str]:
    """The sampling parameters that a request sets."""
    fields = vars(request)  # reading the attribute of a deprecated field warns
    found = {name: fields.get(name) for name in _NUMBERS}
    return {name: value for name, value in found.items() if isinstance(value, int | float | str)}


def token_hash(tokens: Iterable[int]) -> str:
    """Digest of the tokens of an answer."""
    return hashlib.sha256(",".join(map(str, tokens)).encode()).hexdigest()


class Recorder:
    """One request, from its plan to the end of its answer.

    The event loop only keeps references; lines are built in the thread of the log.
    """

    def __init__(self, log: DecisionLog, body: bytes, facts: dict[str, Any]) -> None:
        """Begin.

        Args:
            log: The decision log.
            body: Body of the request; kept only if the log has prompts.
            facts: Fields of the line that are known now.
        """
        self.status: int | None = None
        """HTTP status of the answer, once there is one."""
        self.response_id = ""
        self._log = log
        self._body = body if log.prompts else None
        self._facts = {"time": datetime.now(UTC), "in_flight": log.in_flight, **facts}
        self._begin = time.monotonic()
        self._ended = False
        self._reports: dict[int, Report] = {}
        self._tokens: dict[tuple[int, int], list[int]] = {}
        self._reasons: dict[tuple[int, int], str | None] = {}
        self._prompts: dict[int, tuple[int, int]] = {}
        log.in_flight += 1

    @property
    def has_texts(self) -> bool:
        """Whether the line may have texts of prompts and answers."""
        return self._log.prompts

    def see(self, call: Any, output: Any, delta: bool) -> None:
        """Note an output of the engine.

        Args:
            call: The engine call.
            output: vLLM's `RequestOutput`.
            delta: Whether it has only the tokens since the last one.
        """
        if id(call) not in self._prompts:
            prompt = len(output.prompt_token_ids or ())
            self._prompts[id(call)] = prompt, output.num_cached_tokens or 0
        for one in output.outputs:
            key = (id(call), one.index)
            self._reasons[key] = one.finish_reason
            if self._log.prompts and delta:
                self._tokens.setdefault(key, []).extend(one.token_ids)
            elif self._log.prompts:
                self._tokens[key] = list(one.token_ids)

    def add(self, response_id: str, index: int, report: Report) -> None:
        """Note the final report of a choice."""
        self.response_id = response_id
        self._reports[index] = report

    def end_completion(self, calls: Sequence[Any], choices: Sequence[Any]) -> None:
        """Write the line of a completion.

        Args:
            calls: All engine calls.
            choices: Those of the response.
        """
        kept = [
            (index, call.produced[completion], (id(call), completion))
            for index, (call, completion) in enumerate(choices)
        ]
        usage = UsageLine(
            prompt_tokens=sum(prompt for prompt, _ in self._prompts.values()),
            cached_tokens=sum(cached for _, cached in self._prompts.values()),
            completion_tokens=sum(sum(call.produced) for call in calls),
            calls=len(calls),
        )
        self.end(usage, lambda: [self._choice(*one) for one in kept])

    def end(self, usage: UsageLine, choices: Callable[[], list[ChoiceLine]]) -> None:
        """Write the line.

        Args:
            usage: What the answer took.
            choices: Makes the choices, in the thread of the log.
        """
        self.discard()
        body, skipped = self._body, self._facts.pop("skipped", ())
        facts = {
            **self._facts,
            "seconds": round(time.monotonic() - self._begin, 6),
            "id": self.response_id,
            "status": self.status,
            "usage": usage,
        }

        def line() -> DecisionLine:
            made = choices()
            codes = [(one.report or {}).get("fallback") or "" for one in made]
            reasons = [*skipped, *(code for one in codes for code in one.split(","))]
            return DecisionLine(
                choices=made, fallback=join_fallbacks(*reasons), body=_read(body), **facts
            )

        self._log.write(line, 0 if body is None else len(body))

    def discard(self) -> None:
        """Stop counting as in flight."""
        self._log.in_flight -= not self._ended
        self._ended = True

    def report(self, report: BaseModel) -> dict[str, Any]:
        """A report as a line has it."""
        left_out = {"tokens": True, **({} if self._log.prompts else _TEXTS)}
        known = {name: one for name, one in left_out.items() if name in type(report).model_fields}
        return report.model_dump(mode="json", exclude=known, exclude_none=True)

    def _choice(self, index: int, tokens: int, key: tuple[int, int]) -> ChoiceLine:
        report, answer = self._reports.get(index), self._tokens.get(key)
        return ChoiceLine(
            index=index,
            tokens=tokens,
            finish_reason=self._reasons.get(key),
            answer_hash=None if answer is None else token_hash(answer),
            report=None if report is None else self.report(report),
        )


def _read(body: bytes | None) -> dict[str, JsonValue] | None:
    """The body of a request; None if it is not kept, or if it is not strict JSON."""
    try:
        found = None if body is None else from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
