"""What the operator changes in the running server acts on the next request."""

import json

import httpx
import pytest
from openai import BadRequestError, OpenAI

from tests.conftest import ADMIN_KEY, PUSH, Server
from tests.integration.support import MODEL, ask, report
from tests.waiting import wait_until


def change(server: Server, method: str, path: str, body: object = None) -> None:
    headers = {"X-Entropy-Admin-Key": ADMIN_KEY}
    url = f"{server.url}/v1/entropy/admin/{path}"
    answer = httpx.request(method, url, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text


def test_a_control_that_is_switched_off_is_skipped_and_named(
    server: Server, client: OpenAI
) -> None:
    steering = {"steering": [{"vector": PUSH, "strength": 0.2}]}
    change(server, "PUT", "switches/steering", {"on": False})
    try:
        off = report(ask(client, "hi", steering, max_tokens=2))
    finally:
        change(server, "PUT", "switches/steering", {"on": True})
    on = report(ask(client, "hi", steering, max_tokens=2))
    assert (off["fallback"], off["steering"]) == ("steering_skipped", None)
    assert (on["fallback"], on["steering"][0]["vector"]) == (None, PUSH)


def test_an_uploaded_profile_serves_until_it_is_removed(server: Server, client: OpenAI) -> None:
    change(server, "PUT", "profiles/fresh", {"temperature": {"type": "edt"}})
    try:
        names = {model.id for model in client.models.list()}
        answer = ask(client, "hi", None, model=f"{MODEL}@fresh", max_tokens=2, temperature=1.0)
    finally:
        change(server, "DELETE", "profiles/fresh")
    assert f"{MODEL}@fresh" in names
    assert (report(answer)["profile"], report(answer)["law"]) == ("fresh", "edt")
    with pytest.raises(BadRequestError):
        ask(client, "hi", {"profile": "fresh"}, max_tokens=2)

    def actions() -> list[str]:
        lines = map(json.loads, server.decisions.read_text().splitlines())
        return [one["action"] for one in lines if one.get("subject") == "fresh"]

    wait_until(lambda: actions() == ["profile_uploaded", "profile_removed"])
