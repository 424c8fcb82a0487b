"""A shipped profile chosen by model name or header answers whatever the plain model answers."""

from typing import Any

import httpx
import pytest

from server.profiles import Profiles
from tests.conftest import Server
from tests.integration.support import MODEL, together

PROFILES = Profiles()
USER = {"role": "user", "content": "What is 12 plus 7?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
CHAT, TOOLS = "/v1/chat/completions", [{"type": "function", "function": {"name": "add"}}]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (CHAT, {"messages": [USER]}),
    "temperature of LlamaIndex": (CHAT, {"messages": [USER], "temperature": 0.1}),
    "temperature 0.7": (CHAT, {"messages": [USER], "temperature": 0.7}),
    "hot": (CHAT, {"messages": [USER], "temperature": 2.0}),
    "greedy": (CHAT, {"messages": [USER], "temperature": 0}),
    "two choices": (CHAT, {"messages": [USER], "n": 2}),
    "tools": (CHAT, {"messages": [USER], "tools": TOOLS}),
    "effort": (CHAT, {"messages": [USER], "reasoning_effort": "low"}),
    "tool turn": (
        CHAT,
        {"messages": [USER, CALLED, {"role": "tool", "tool_call_id": "call_1", "content": "19"}]},
    ),
    "prefill": (
        CHAT,
        {
            "messages": [USER, {"role": "assistant", "content": "The sum is"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    "empty text": (CHAT, {"messages": [{"role": "user", "content": ""}]}),
    "stream": (CHAT, {"messages": [USER], "stream": True}),
    "completion": ("/v1/completions", {"prompt": "12 plus 7 is"}),
    "prompts": ("/v1/completions", {"prompt": ["12 plus 7 is", "3 plus 4 is"]}),
    "batch": (f"{CHAT}/batch", {"messages": [[USER], [USER]]}),
    "response": ("/v1/responses", {"input": "What is 12 plus 7?"}),
    "message": ("/v1/messages", {"messages": [USER]}),
}
WITHOUT_A_QUESTION = {
    *("tool turn", "prefill", "empty text", "completion", "prompts", "batch", "response")
}
"""Bodies in which a difficulty probe has nothing to read."""


@pytest.mark.parametrize("place", ["model name", "header"])
def test_every_shipped_profile_answers_every_ordinary_body(server: Server, place: str) -> None:
    def post(profile: str, name: str) -> httpx.Response:
        path, fields = BODIES[name]
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        by_name = place == "model name"
        body = {"model": f"{MODEL}@{profile}" if by_name else MODEL, limit: 3, **fields}
        headers = {} if by_name else {"X-Entropy-Profile": profile}
        return httpx.post(server.url + path, json=body, headers=headers, timeout=120)

    cases = [(profile, name) for profile in PROFILES for name in BODIES]
    answers = together([lambda case=case: post(*case) for case in cases])
    for (profile, name), answer in zip(cases, answers, strict=True):
        assert answer.status_code == 200, f"{profile}, {name}: {answer.text}"
        assert answer.headers["x-entropy-profile"] == profile
        skipped = PROFILES[profile].difficulty is not None and name in WITHOUT_A_QUESTION
        expected = "difficulty_skipped" if skipped else None
        assert answer.headers.get("x-entropy-fallback") == expected, f"{profile}, {name}"
        assert '"num_tokens":' in answer.text, f"{profile}, {name}: no report"
