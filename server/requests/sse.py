"""Server-sent events as vLLM writes them: read one, write one."""

import json
from typing import Any


def only_opens(choice: dict[str, Any]) -> bool:
    """Whether this part of a chunk only names the role; the token it was sent for comes next."""
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
