"""Server-sent events as vLLM writes them: read one, write one, make the last one."""

import json
from typing import Any


def only_opens(choice: dict[str, Any]) -> bool:
    """Whether this part of a chunk names the role and says nothing yet; its token comes next."""
    delta = choice.get("delta") or {}
    return "role" in delta and not delta.get("content") and choice.get("finish_reason") is None


def sse(data: dict[str, Any]) -> str:
    """One event without a name."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def parse(event: str) -> tuple[str | None, Any]:
    """Event name and payload of a server-sent event; payload None for a comment."""
    kind = None
    for line in event.split("\n"):  # the text may hold other line ends, which JSON need not escape
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            text = line[6:]
            return kind, text if text == "[DONE]" else json.loads(text)
    return kind, None


def summary_chunk(last: dict[str, Any], reports: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """A last chunk without text that carries the summary of every choice."""
    empty: dict[str, Any] = {"delta": {}} if "delta" in last["choices"][0] else {"text": ""}
    chunk: dict[str, Any] = {
        key: last[key] for key in ("id", "object", "created", "model") if key in last
    }
    chunk["choices"] = [
        {
            "index": position,
            **empty,
            "logprobs": None,
            "finish_reason": None,
            "entropy": {**report, "tokens": None},
        }
        for position, report in reports.items()
    ]
    return chunk
