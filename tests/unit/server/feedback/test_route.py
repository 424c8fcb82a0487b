"""`POST /v1/entropy/feedback` and the metrics that it moves."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from scripts.routes_page import build_app
from server.feedback import service
from server.feedback.evidence import ALARM
from server.feedback.facts import AnswerFacts, completion_facts, prediction_set
from server.feedback.service import FeedbackService
from server.feedback.store import KeptAnswer, owner_of
from server.wire.report import ConfidenceReport, DifficultyReport, Report
from tests.unit.server.metrics.support import value

APP = build_app("--api-key", "one", "two")
PATH = "/v1/entropy/feedback"
TEAMS = {"kind": "decision", "artifact": "m/teams"}


@pytest.fixture
def feedback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeedbackService]:
    monkeypatch.setattr(service, "_PAUSES", (0.0,))
    running = FeedbackService(tmp_path)
    APP.state.entrostat = SimpleNamespace(feedback=running)
    APP.state.args.log_error_stack = False
    yield running
    running.close()


def send(key: str = "one", **body: Any) -> Any:
    client = TestClient(APP, raise_server_exceptions=False)
    return client.post(PATH, json=body, headers={"Authorization": f"Bearer {key}"})


def keep(feedback: FeedbackService, name: str, facts: AnswerFacts, key: str = "one") -> None:
    feedback.keep([KeptAnswer(owner_of(key), name, 0, facts)])


def test_a_verdict_on_a_completion_moves_accuracy_by_entropy_and_by_difficulty(
    feedback: FeedbackService,
) -> None:
    report = Report(
        entropy_mean=0.3,
        difficulty=DifficultyReport(label="hard", mode="act", source="probe"),
        confidence=ConfidenceReport(window=8, probability=0.85),
    )
    keep(feedback, "chatcmpl-1", completion_facts(report))
    names: list[tuple[str, dict[str, str]]] = [
        ("entrostat_feedback_total", {"kind": "completion", "right": "false"}),
        ("entrostat_feedback_entropy_nats_bucket", {"right": "false", "le": "0.5"}),
        ("entrostat_feedback_difficulty_total", {"difficulty": "hard", "right": "false"}),
        (
            "entrostat_feedback_predicted_accuracy_bucket",
            {"source": "confidence", "right": "false", "le": "0.9"},
        ),
    ]
    before = [value(name, **labels) for name, labels in names]
    answer = send(id="chatcmpl-1", right=False)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "object": "entropy.feedback",
        "id": "chatcmpl-1",
        "index": 0,
        "kind": "completion",
        "right": False,
        "covered": None,
    }
    assert [value(name, **labels) for name, labels in names] == [one + 1 for one in before]


def test_misses_raise_the_alarm_of_their_calibration(feedback: FeedbackService) -> None:
    prediction = prediction_set(["a", "b"], [True, False], 0, 0.9, "m/teams")
    sets = value("entrostat_feedback_sets_total", **TEAMS)
    for number in range(40):
        keep(feedback, f"d-{number}", AnswerFacts("decision", prediction=prediction))
        told = send(id=f"d-{number}", value="a" if number < 10 else "b").json()
        assert told["covered"] == (number < 10)
        if number == 9:
            assert value("entrostat_coverage_alarm", **TEAMS) == 0
    assert value("entrostat_coverage_alarm", **TEAMS) == 1
    assert value("entrostat_coverage_evidence", **TEAMS) >= ALARM
    assert value("entrostat_feedback_sets_total", **TEAMS) == sets + 40
    levels = value("entrostat_feedback_levels_total", **TEAMS)
    assert levels == pytest.approx(0.9 * (sets + 40))


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"id": "nothing", "right": True}, 404, "id"),
        ({"id": "known", "index": 1, "right": True}, 404, "id"),
        ({"id": "known", "value": "x"}, 400, "value"),
        ({"id": "known"}, 400, "body"),
        ({"id": "known", "right": True, "value": "x"}, 400, "body"),
        ({"id": "known", "right": 1}, 400, "right"),
        ({"id": "known", "rihgt": True}, 400, "rihgt"),
        ({"id": "", "right": True}, 400, "id"),
        ({"id": "x" * 1001, "right": True}, 400, "id"),
        ({"id": 3, "right": True}, 400, "id"),
        ({"id": "known", "index": -1, "right": True}, 400, "index"),
        ({"right": True}, 400, "id"),
        ({"id": "known", "right": True, "extra": [[[]]]}, 400, "body"),
    ],
)
def test_a_mistake_is_named(
    feedback: FeedbackService, body: dict[str, Any], status: int, param: str
) -> None:
    keep(feedback, "known", AnswerFacts("completion", 0.1))
    answer = send(**body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert len(answer.text) < 1000
    assert send(id="known", right=True).status_code == 200
    assert send(id="known", right=True).status_code == 409


def test_another_key_gets_404_and_no_key_401(feedback: FeedbackService) -> None:
    keep(feedback, "mine", AnswerFacts("completion", 0.1))
    assert send("two", id="mine", right=True).status_code == 404
    assert send("wrong", id="mine", right=True).status_code == 401
    assert send("one", id="mine", right=True).status_code == 200


def test_a_file_that_cannot_be_used_loses_ids_and_no_request(tmp_path: Path) -> None:
    lost = value("entrostat_feedback_lost_answers_total")
    broken = FeedbackService(tmp_path / "missing")
    keep(broken, "a", AnswerFacts("completion", 0.1))
    APP.state.entrostat = SimpleNamespace(feedback=broken)
    assert send(id="a", right=True).status_code == 503
    broken.close()
    assert value("entrostat_feedback_lost_answers_total") == lost + 1


def test_answers_that_wait_for_the_thread_are_bounded(
    feedback: FeedbackService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_MAX_PENDING", 3)
    monkeypatch.setattr(feedback, "_scheduled", True)  # the thread is busy
    lost = value("entrostat_feedback_lost_answers_total")
    for number in range(5):
        keep(feedback, str(number), AnswerFacts("completion", 0.1))
    assert value("entrostat_feedback_lost_answers_total") == lost + 2
