"""The decision log of the shared server, and its replay."""

import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from clients.replay import replay
from probes.artifact import ModelIdentity
from tests.conftest import PUSH, ROUTED_PROBE, SPOKEN_PROBE, TEAMS, Server
from tests.integration.support import MODEL, PROMPTS, ask, decide
from tests.integration.test_admin import change, upload
from tests.long import is_long
from tests.selective_artifacts import ANSWERS, CONFIDENCE, DECLINES, STATE, save_abstention
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


LAWS: tuple[dict[str, Any], ...] = (
    {"type": "hapo"},
    {"type": "edt"},
    {"type": "dynatemp", "range": 0.4},
    {"type": "entropy_target", "entropy_target": 1.0},
    {"type": "shuffled", "temperatures": [0.5, 1.5]},
)
PROMISE = {"promise": "joint", "alpha": 0.4}
CONTROLS: dict[str, tuple[dict[str, Any], ...]] = {
    "law": tuple({"temperature": one} for one in LAWS),
    "truncation": tuple(
        {"truncation": {"type": one}} for one in ("mirostat", "top_n_sigma", "p_less")
    ),
    "difficulty": (
        {"difficulty": {"probe": SPOKEN_PROBE}},
        {"difficulty": {"probe": ROUTED_PROBE, "labels": "worth"}},
    ),
    "steering": ({"steering": [{"vector": PUSH, "strength": 0.1}]},),
    "vote": ({"vote": {"n": 3, "answer": "line"}},),
    "semantic": ({"semantic": {"n": 3, "answer": "line"}},),
    "confidence": ({"confidence": {"probe": CONFIDENCE}}, {"confidence": {"probe": STATE}}),
    "abstention": (
        {"abstain": {"calibration": DECLINES, **PROMISE}},
        {"abstain": {"calibration": ANSWERS, **PROMISE}, "confidence": {"probe": CONFIDENCE}},
    ),
}
"""By kind of control; an answer has one of them."""
FIFTY = 50


def fifty(client: OpenAI, kind: str) -> set[str]:
    """Ids of fifty answers of a kind, to as many questions."""
    replies = random.Random(0)
    ids = set()
    for number in range(FIFTY):
        question = f"What is {number} plus {7 * number % 31}?"
        if kind == "decision":
            ids.add(decide(client, TEAMS, f"My order {question[8:-1]} is late.")[0])
        elif kind == "inquiry":
            turns = [replies.choice(("Yes", "No", "I do not know")) for _ in range(number % 4)]
            ids.add(inquire(client, turns))
        else:
            controls = CONTROLS[kind]
            control = controls[number % len(controls)]
            fixed: dict[str, Any] = {"seed": number, "temperature": 1.0, "max_tokens": 6}
            ids.add(ask(client, question, control, **fixed).id)
    return ids


def inquire(client: OpenAI, replies: list[str]) -> str:
    """Id of the last turn of an inquiry with these replies."""
    messages: list[Any] = [{"role": "user", "content": "Guess my animal."}]
    extra = {"entropy": {"inquiry": {"task": ANIMALS}}}
    answer = client.chat.completions.create(model=MODEL, messages=messages, extra_body=extra)
    for reply in replies:
        messages += [
            {"role": "assistant", "content": answer.choices[0].message.content},
            {"role": "user", "content": reply},
        ]
        answer = client.chat.completions.create(model=MODEL, messages=messages, extra_body=extra)
    return str(answer.id)


@pytest.mark.skipif(not is_long(), reason="answers 50 requests of every kind twice: LONG_TESTS=1")
@pytest.mark.parametrize("kind", [*CONTROLS, "inquiry", "decision"])
def test_fifty_answers_of_each_kind_are_reproduced(
    server: Server, client: OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    lines = logged(server, fifty(client, kind))
    run(server, log_of(lines, tmp_path))
    said = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{kind}: {said}", end="")
    assert said == f"{FIFTY} equal, 0 different, 0 not replayed\n"


def test_an_artifact_that_was_replaced_is_the_cause(
    server: Server,
    client: OpenAI,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A calibration under the same name that declines what the one before answered."""
    name, identity = f"{MODEL}/replaced", ModelIdentity.from_checkpoint(checkpoint)
    control = {"abstain": {"calibration": name, "promise": "joint", "alpha": 0.5}}
    lines: list[dict[str, Any]] = []
    for scale in (1e9, 1e-9):
        folder = save_abstention(tmp_path / str(scale), name, identity, scale=scale)
        uploaded = upload(server, name, folder)
        assert uploaded.status_code == 200, uploaded.text
        try:
            if not lines:
                answer = ask(client, "hi", control, temperature=0, max_tokens=4)
                lines = logged(server, {answer.id})
                assert run(server, log_of(lines, tmp_path)) == 0
            else:
                assert run(server, log_of(lines, tmp_path)) == 1
        finally:
            change(server, "DELETE", f"artifacts/{name}")
    said = capsys.readouterr().out
    assert "abstain.abstained: False, now True" in said
    assert f"cause: the artifact {name} changed: " in said
    assert run(server, log_of(lines, tmp_path)) == 1
    assert f"the artifact {name} is gone" in capsys.readouterr().out
