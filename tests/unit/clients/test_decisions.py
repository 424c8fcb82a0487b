"""The typed helpers, against the real routes on an engine of characters."""

import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
import uvicorn
from openai import OpenAI

from clients.connection import ClientError
from clients.decisions import choice, decide, decide_or_ask, predicate, score
from tests.unit.server.decisions.support import CharacterEngine, client_of
from tests.unit.server.support import artifacts, save_inquiry

TEAM = choice("Who?", {"cat": "small", "dog": "big"}, name="team")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """The SDK's client of the routes, over HTTP."""
    root = tmp_path_factory.mktemp("artifacts")
    save_inquiry(root)
    app: Any = client_of(CharacterEngine(), artifacts(root)).app
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    server.should_exit = True
    thread.join()


def test_answers_come_by_name_and_type(client: OpenAI) -> None:
    questions = [
        TEAM,
        predicate("Is it?", name="paid"),
        score("How?", ["low", "high"], name="mood"),
    ]
    found = decide(client, "text", questions, model="m")
    assert found["team"].value in ("cat", "dog")
    assert isinstance(found["paid"].value, bool)
    assert 0 <= float(found["mood"].value or 0) <= 1
    assert all(0.5 <= one.probability <= 1 for one in found.values())
    assert not any(one.calibrated or one.abstained for one in found.values())


def test_a_refused_request_is_one_sentence(client: OpenAI) -> None:
    with pytest.raises(ClientError, match="unknown artifact"):
        decide(client, "text", [TEAM], model="m", calibration="no/such")


def test_the_loop_asks_each_question_once_and_stops_at_its_limit(client: OpenAI) -> None:
    said: list[str] = []

    def reply(question: str) -> str:
        said.append(question)
        return "yes"

    options: Any = {"model": "m", "abstain": {"min_probability": 0.999}}
    turn = decide_or_ask(client, "text", TEAM, ["Big?", "Old?", "Far?"], reply, **options)
    assert len(set(said)) == len(said) == len(turn.asked) <= 3
    none = decide_or_ask(client, "text", TEAM, ["Big?"], reply, max_questions=0, **options)
    assert none.asked == ()
    sure = decide_or_ask(client, "text", TEAM, ["Big?"], reply, model="m")
    assert sure.asked == ()


def test_the_loop_asks_the_questions_of_a_task(client: OpenAI) -> None:
    turn = decide_or_ask(
        client,
        "text",
        TEAM,
        "m/pets",
        lambda _: "yes",
        max_questions=5,
        model="m",
        abstain={"min_probability": 0.999},
    )
    asked = [question for question, _ in turn.asked]
    assert set(asked) <= {"Does it bark?", "Can it swim?", "Is it nice?"}
    assert 0 < len(set(asked)) == len(asked)
    with pytest.raises(ClientError, match="unknown artifact"):
        decide(client, "text", [TEAM], model="m", ask="no/task")
