"""The decision log of the shared server, and its replay."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from clients.replay import replay
from tests.conftest import PUSH, SPOKEN_PROBE, TEAMS, Server
from tests.integration.support import MODEL, PROMPTS, ask, decide
from tests.waiting import wait_until

ANIMALS = f"{MODEL}/animals"


def logged(server: Server, ids: set[str]) -> list[dict[str, Any]]:
    """Their lines in the decision log, once all are written."""
    found: dict[str, dict[str, Any]] = {}

    def complete() -> bool:
        for text in server.decisions.read_text().splitlines():
            line = json.loads(text)
            if line.get("id") in ids:
                found[line["id"]] = line
        return set(found) == ids

    wait_until(complete)
    return list(found.values())


def log_of(lines: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(server: Server, path: Path) -> int:
    """Exit code of `entrostat replay`."""
    try:
        replay(path, url=f"{server.url}/v1", limit=None, id=None, tolerance=1e-3)
    except SystemExit as end:
        return int(str(end.code))
    return 0


def requests_of_every_kind(server: Server, client: OpenAI) -> set[str]:
    """Ids of answers under each kind of control, on each route, seeded or greedy."""
    target = {"type": "entropy_target", "entropy_target": 1.0}
    seeded: dict[str, Any] = {"seed": 7, "max_tokens": 6}
    ids = {
        ask(client, PROMPTS[0], {"temperature": target}, temperature=1.0, **seeded).id,
        ask(
            client, PROMPTS[1], {"temperature": {"type": "edt"}}, temperature=1.0, n=2, **seeded
        ).id,
        ask(client, PROMPTS[2], {"difficulty": {"probe": SPOKEN_PROBE}}, **seeded).id,
        ask(client, PROMPTS[3], {"steering": [{"vector": PUSH, "strength": 0.1}]}, **seeded).id,
        ask(client, "hi", {"inquiry": {"task": ANIMALS}}).id,
        ask(client, PROMPTS[4], None, model=f"{MODEL}@cool", **seeded).id,
        decide(client, TEAMS)[0],
    }
    stream = ask(client, PROMPTS[5], {"trace": "tokens"}, stream=True, temperature=0, max_tokens=6)
    ids |= {chunk.id for chunk in stream}
    control = {"entropy": {"temperature": {"type": "hapo"}}}
    text = client.completions.create(
        model=MODEL, prompt="Once", max_tokens=6, seed=3, extra_body=control
    )
    made = client.responses.create(
        model=MODEL, input="hi", max_output_tokens=6, temperature=0, extra_body=control, store=False
    )
    body = {"model": MODEL, "max_tokens": 6, "temperature": 0, **control}
    body["messages"] = [{"role": "user", "content": "hi"}]
    message = httpx.post(f"{server.url}/v1/messages", json=body, timeout=60).json()
    return {*ids, text.id, made.id, message["id"]}


def test_a_replay_gives_the_same_answers(
    server: Server, client: OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = logged(server, requests_of_every_kind(server, client))
    assert {line["kind"] for line in lines} == {"completion", "inquiry", "decision"}
    assert {line["server"]["weights_hash"] for line in lines} != {None}
    code = run(server, log_of(lines, tmp_path))
    assert capsys.readouterr().out == f"{len(lines)} equal, 0 different, 0 not replayed\n"
    assert code == 0


def test_a_replay_names_what_changed(
    server: Server, client: OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    difficulty = {"difficulty": {"probe": SPOKEN_PROBE}}
    answer = ask(client, PROMPTS[6], difficulty, temperature=0, max_tokens=4)
    (line,) = logged(server, {answer.id})
    report = line["choices"][0]["report"]
    other = next(one for one in ("easy", "normal", "hard") if one != report["difficulty"]["label"])
    report["difficulty"]["label"] = other
    line["artifacts"][SPOKEN_PROBE] = "0" * 64
    assert run(server, log_of([line], tmp_path)) == 1
    said = capsys.readouterr().out
    assert f"the artifact {SPOKEN_PROBE} changed: {'0' * 12}, now" in said
    assert (
        f"difficulty.label: {other}, now {answer.choices[0].entropy['difficulty']['label']}" in said
    )
    del line["body"]
    assert run(server, log_of([line], tmp_path)) == 1
    assert "its body was not logged" in capsys.readouterr().out
