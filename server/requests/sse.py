"""Parses and writes server-sent events in vLLM's format."""

import json
from typing import Any


def only_sets_role(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk only sets the role; its token is in the next chunk."""
    delta = choice.get("delta") or {}
    return "role" in delta and not delta.get("content") and choice.get("finish_reason") is None


def sse(data: dict[str, Any]) -> str:
    """Format one unnamed event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def parse(event: str) -> tuple[str | None, Any]:
    """Return the name and payload of an event; the payload of a comment is None."""
    kind = None
    for line in event.split("\n"):  # not splitlines: JSON leaves U+2028 and others unescaped
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            text = line[6:]
            return kind, text if text == "[DONE]" else json.loads(text)
    return kind, None
