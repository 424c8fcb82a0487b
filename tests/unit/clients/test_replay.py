"""Replay of a decision log: what counts as equal, what is named as the cause, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.decision_log import (
    LoggedDecision,
    UnreadableLine,
    causes,
    difference,
    read_log,
)
from clients.replay import replay

SERVER = {"vllm": "0.32.0", "weights_hash": "w" * 64}


def line(**fields: Any) -> LoggedDecision:
    report = {"entropy_mean": 1.0, "num_tokens": 2, "fallback": "trace_lost,steering_skipped"}
    return LoggedDecision.model_validate(
        {
            "format": 1,
            "kind": "completion",
            "id": "a",
            "route": "/v1/chat/completions",
            "status": 200,
            "model": "m",
            "control": {"trace": "summary"},
            "server": SERVER,
            "parameters": {"temperature": 0},
            "artifacts": {"m/probe": "p" * 64},
            "choices": [{"index": 0, "finish_reason": "stop", "report": report}],
            "body": {
                "model": "m@cool",
                "messages": [],
                "stream": True,
                "entropy": {"trace": "none"},
            },
            **fields,
        }
    )


def answer(**report: Any) -> dict[str, Any]:
    full = {"entropy_mean": 1.0, "num_tokens": 2, "fallback": "trace_lost", "law": None, **report}
    return {"choices": [{"index": 0, "entropy": full}]}


def test_the_request_is_repeated_with_the_resolved_control_and_whole() -> None:
    cached = line(usage={"cached_tokens": 32})
    assert cached.request() == {
        "model": "m",
        "messages": [],
        "entropy": {"trace": "summary"},
        "return_token_ids": True,
    }


def test_a_prompt_that_was_not_cached_is_computed_again() -> None:
    """A cached prompt rounds differently: 33 of 50 replays differed in bfloat16."""
    first, second = (line().request()["cache_salt"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("report", "found"),
    [
        ({}, None),
        ({"entropy_mean": 1.0005, "profile": "cool", "law": None}, None),
        ({"entropy_mean": 1.1}, "choice 0.entropy_mean: 1.0, now 1.1"),
        ({"num_tokens": 3}, "choice 0.num_tokens: 2, now 3"),
        ({"law": "edt"}, "choice 0.law: None, now edt"),
        ({"fallback": None}, "choice 0.fallback: trace_lost, now None"),
    ],
)
def test_decisions_are_equal_and_measurements_nearly(
    report: dict[str, Any], found: str | None
) -> None:
    assert difference(line(), answer(**report), 1e-3) == found


def test_other_tokens_differ_even_with_equal_measurements() -> None:
    digest = "4b1e8d02b9f5d8d56d5a1ee1da52ae0fd6cb1dfad4f5c8ae6b8f2ac4fcbb2a45"
    choice = {"index": 0, "finish_reason": "stop", "answer_hash": digest, "tokens": 2}
    now = answer()
    now["choices"][0]["token_ids"] = [1, 2, 3]
    found = difference(line(choices=[choice]), now, 1e-3)
    assert found == "choice 0: other tokens (2, now 3)"


def test_a_missing_choice_differs() -> None:
    assert difference(line(), {"choices": []}, 1e-3) == "choice 0 is missing"


@pytest.mark.parametrize(
    ("fields", "now", "artifacts", "found"),
    [
        ({}, SERVER, {"m/probe": "p" * 64}, []),
        ({}, SERVER, {}, ["the artifact m/probe is gone"]),
        (
            {},
            SERVER,
            {"m/probe": "q" * 64},
            ["the artifact m/probe changed: pppppppppppp, now qqqqqqqqqqqq"],
        ),
        ({}, {**SERVER, "vllm": "0.32.1"}, {"m/probe": "p" * 64}, ["vllm: 0.32.0, now 0.32.1"]),
        (
            {"parameters": {"temperature": 0.7}},
            SERVER,
            {"m/probe": "p" * 64},
            ["the answer was sampled without a seed"],
        ),
        ({"parameters": {"temperature": 0.7, "seed": 1}}, SERVER, {"m/probe": "p" * 64}, []),
    ],
)
def test_what_changed_since_is_named(
    fields: dict[str, Any], now: dict[str, Any], artifacts: dict[str, str], found: list[str]
) -> None:
    assert causes(line(**fields), now, artifacts) == found


def test_a_torn_line_and_a_line_of_an_administrator_stop_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = line().model_dump_json()
    path.write_text(f'{{"half": \n{json.dumps({"kind": "admin"})}\n{whole}\n[1]\n')
    found = list(read_log(path))
    assert [one.number for one in found if isinstance(one, UnreadableLine)] == [1, 4]
    assert [one.id for one in found if isinstance(one, LoggedDecision)] == ["a"]


@pytest.mark.parametrize("text", [None, "", "{}\n", 'null\n{"kind": "admin"}\n'])
def test_a_file_without_decisions_is_refused(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as end:
        replay(path, url="http://127.0.0.1:9/v1", limit=None, id=None, tolerance=0.0)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_is_away_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(line().model_dump_json())
    with pytest.raises(SystemExit) as end:
        replay(path, url="http://127.0.0.1:9/v1", limit=None, id=None, tolerance=0.0)
    assert end.value.code == 2
    assert "no server answers at http://127.0.0.1:9/v1" in capsys.readouterr().err
