"""Decisions per second beside chat requests with structured output, on a running server.

For 1, 8 and 64 questions over one input of about 1,000 tokens: one request of `/v1/decisions` (one
and two orders) against one chat request per question, sent together, whose answer a JSON schema
restricts to the options. Every repetition has an input of its own, so that no cache of an earlier
one helps.

    python -m benchmarks.decisions.speed --url http://127.0.0.1:8000/v1 --out decisions-speed
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openai import OpenAI

from benchmarks.machine import describe, markdown
from clients.connection import connect, first_model
from training.common.report import markdown_table
from training.datasets.tickets import TEAMS, tickets

_COUNTS = (1, 8, 64)
_TICKETS = 27
"""Tickets in one input; about 1,000 tokens."""


def text(number: int) -> str:
    """An input of about 1,000 tokens."""
    found = [one["input"] for one in tickets(_TICKETS, 1000 + number)]
    return "\n".join(f"{place}: {one}" for place, one in enumerate(found, 1))


def question(number: int) -> str:
    """One of 64 questions about an input."""
    return f"Which team should handle ticket {number % _TICKETS + 1}? (check {number + 1})"


def decisions(client: OpenAI, model: str, given: str, count: int, orders: int) -> None:
    """All questions in one request."""
    asked: list[Any] = [
        {
            "type": "choice",
            "instructions": question(number),
            "choices": [{"value": team} for team in TEAMS],
        }
        for number in range(count)
    ]
    control = {"orders": orders}
    client.decisions.create(
        model=model, input=given, questions=asked, extra_body={"entropy": control}
    )


def chats(client: OpenAI, model: str, given: str, count: int) -> None:
    """One chat request for each question, all at once."""
    schema: dict[str, Any] = {"type": "object", "properties": {"team": {"enum": list(TEAMS)}}}
    schema |= {"required": ["team"], "additionalProperties": False}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "team", "schema": schema}}

    def ask(number: int) -> None:
        client.chat.completions.create(
            model=model,
            temperature=0,
            max_completion_tokens=32,
            messages=[{"role": "user", "content": f"{given}\n\n{question(number)} Reply as JSON."}],
            response_format=wanted,
        )

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(ask, range(count)))


def seconds(run: Callable[[], None]) -> float:
    """Duration of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(client: OpenAI, model: str, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Seconds of each way and number of questions, in turn in every round."""
    found: dict[str, dict[int, list[float]]] = {}
    number = 0
    for _ in range(rounds):
        for count in _COUNTS:
            ways: dict[str, Callable[[str, int], None]] = {
                "decisions, one order": lambda given, n: decisions(client, model, given, n, 1),
                "decisions, two orders": lambda given, n: decisions(client, model, given, n, 2),
                "chat, JSON schema": lambda given, n: chats(client, model, given, n),
            }
            for name, way in ways.items():
                number += 1
                given = text(number)
                took = seconds(lambda way=way, given=given, n=count: way(given, n))  # type: ignore[misc]
                found.setdefault(name, {}).setdefault(count, []).append(took)
                print(name, count, round(took, 2), flush=True)
    return found


def page(facts: dict[str, Any], found: dict[str, dict[int, list[float]]]) -> str:
    """The result as Markdown."""
    rows = []
    chat = {n: statistics.median(took) for n, took in found["chat, JSON schema"].items()}
    for name, counts in found.items():
        for count, took in counts.items():
            middle = statistics.median(took)
            rows.append(
                [
                    name,
                    str(count),
                    f"{1000 * middle / count:.0f}",
                    f"{count / middle:.2f}",
                    f"{chat[count] / middle:.2f}",
                ]
            )
    head = ("way", "questions", "ms per question", "decisions/s", "times as fast as chat")
    return "\n".join(
        ["# Speed of decisions\n", *markdown(facts), "", markdown_table(head, rows), ""]
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    facts = describe("benchmarks.decisions.speed")
    client = connect(options.url)
    found = measure(client, first_model(client), options.rounds)
    Path(f"{options.out}.json").write_text(json.dumps(facts | {"seconds": found}, indent=1))
    Path(f"{options.out}.md").write_text(page(facts, found))


if __name__ == "__main__":
    main()
