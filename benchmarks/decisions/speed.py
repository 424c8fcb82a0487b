"""Decisions per second beside chat requests with structured output, on a running server.

For 1, 8 and 64 questions over one input of about 900 tokens: one request of `/v1/decisions` against
one chat request for each question, whose reply a JSON schema restricts to the options. The bound is
the same chat requests with a reply of one token: no way that reads each question once can be faster
than that. Every repetition has an input of its own, so that no cache of an earlier one helps.

    python -m benchmarks.decisions.speed --url http://127.0.0.1:8000/v1 --out decisions-speed
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from openai import OpenAI

from benchmarks.machine import describe, markdown
from clients.connection import connect, first_model
from clients.scrape import scrape
from training.common.files import write_text
from training.common.report import markdown_table
from training.datasets.tickets import TEAMS, tickets

_COUNTS = (1, 8, 64)
_TICKETS = 27
"""Tickets in one input; about 900 tokens."""
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"team": {"enum": list(TEAMS)}},
    "required": ["team"],
    "additionalProperties": False,
}
_FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "team", "schema": _SCHEMA}}
_CHAT = "chat, JSON schema"
_COUNTERS = {
    "prompt": "vllm:prompt_tokens_total",
    "cached": "vllm:prefix_cache_hits_total",
    "reply": "vllm:generation_tokens_total",
}
_LEGEND = """Tokens are for each question, from the server's counters: of the prompts, of them not
from the prefix cache, and of the replies. "Known questions" were asked before about another input,
so that their reads of an empty input are cached; "new questions" were not. "One token" is the chat
requests with a reply of one token and no schema: it bounds what any way with one read for each
question can reach. "One after another" sends a chat request when the one before is answered; the
others are sent together. Medians of the rounds; for the ratio the smallest and the largest as
well."""


class Run(NamedTuple):
    """One way, once."""

    seconds: float
    prompt: float
    """Tokens of all prompts."""
    cached: float
    """Of them from the prefix cache."""
    reply: float
    """Tokens of all replies."""


Found = dict[str, dict[int, list[Run]]]
"""Runs by way and number of questions."""


def text(number: int) -> str:
    """An input of about 900 tokens."""
    found = [one["input"] for one in tickets(_TICKETS, 1000 + number)]
    return "\n".join(f"{place}: {one}" for place, one in enumerate(found, 1))


def question(number: int, series: int = 0) -> str:
    """One of 64 questions about an input; each series has its own."""
    ticket, check = number % _TICKETS + 1, 64 * series + number + 1
    return f"Which team should handle ticket {ticket}? (check {check})"


class Asker:
    """Asks the same questions in different ways."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self._client = client
        self._model = model
        self._series = 0

    def decide(self, given: str, count: int, orders: int, series: int = 0) -> None:
        """All questions in one request."""
        teams = [{"value": team} for team in TEAMS]
        asked: list[Any] = [
            {"type": "choice", "instructions": question(number, series), "choices": teams}
            for number in range(count)
        ]
        control = {"entropy": {"orders": orders}}
        self._client.decisions.create(
            model=self._model, input=given, questions=asked, extra_body=control
        )

    def decide_new(self, given: str, count: int) -> None:
        """All questions in one request; the server has seen none of them."""
        self._series += 1
        self.decide(given, count, 1, self._series)

    def chat(self, given: str, count: int, together: int, **options: Any) -> None:
        """One chat request for each question."""

        def ask(number: int) -> None:
            content = f"{given}\n\n{question(number)} One of: {', '.join(TEAMS)}. Reply as JSON."
            self._client.chat.completions.create(
                model=self._model,
                temperature=0,
                messages=[{"role": "user", "content": content}],
                **options,
            )

        with ThreadPoolExecutor(together) as pool:
            list(pool.map(ask, range(count)))

    def ways(self) -> dict[str, Callable[[str, int], None]]:
        """Each way, with an input and a number of questions."""
        schema = {"response_format": _FORMAT, "max_completion_tokens": 32}
        return {
            "decisions, known questions": lambda given, n: self.decide(given, n, 1),
            "decisions, known questions, two orders": lambda given, n: self.decide(given, n, 2),
            "decisions, new questions": self.decide_new,
            _CHAT: lambda given, n: self.chat(given, n, n, **schema),
            "chat, JSON schema, one after another": lambda given, n: self.chat(
                given, n, 1, **schema
            ),
            "chat, one token (bound)": lambda given, n: self.chat(
                given, n, n, max_completion_tokens=1
            ),
        }


def measure(client: OpenAI, url: str, rounds: int) -> Found:
    """Every way with every number of questions, in turn in every round."""
    asker, found = Asker(client, first_model(client)), Found()
    asker.decide(text(0), max(_COUNTS), 2)
    for way in asker.ways().values():  # the first use of a grammar compiles it
        way(text(0), 2)
    number = 0
    with httpx.Client() as reader:
        for _ in range(rounds):
            for count in _COUNTS:
                for name, way in asker.ways().items():
                    number += 1
                    given = text(number)
                    before, start = scrape(reader, url), time.perf_counter()
                    way(given, count)
                    took = time.perf_counter() - start
                    counted = scrape(reader, url).since(before)
                    run = Run(took, **{key: counted.total(it) for key, it in _COUNTERS.items()})
                    found.setdefault(name, {}).setdefault(count, []).append(run)
                    print(name, count, *(round(one, 2) for one in run), flush=True)
    return found


def page(facts: dict[str, Any], found: Found, settings: str) -> str:
    """The result as Markdown."""
    rows = []
    for name, counts in found.items():
        for count, runs in counts.items():
            ratios = [
                chat.seconds / run.seconds
                for chat, run in zip(found[_CHAT][count], runs, strict=True)
            ]
            middle = statistics.median(run.seconds for run in runs)
            tokens = [
                statistics.median(one) / count
                for one in zip(
                    *((run.prompt, run.prompt - run.cached, run.reply) for run in runs), strict=True
                )
            ]
            rows.append(
                [
                    name,
                    str(count),
                    f"{1000 * middle / count:.0f}",
                    f"{count / middle:.2f}",
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    *(f"{one:.0f}" for one in tokens),
                ]
            )
    head = ("way", "questions", "ms per question", "decisions/s", "times as fast as chat")
    table = markdown_table((*head, "prompt tokens", "computed", "reply tokens"), rows)
    made = "\n".join(markdown(facts))
    return f"# Speed of decisions\n\n{made}\n- {settings}\n\n{_LEGEND}\n\n{table}\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="entrostat serve", help="how it was started")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    facts = describe("benchmarks.decisions.speed")
    found = measure(connect(options.url), options.url, options.rounds)
    settings = f"server: `{options.server}`, {options.rounds} rounds, {len(TEAMS)} options"
    kept = facts | {"server": options.server, "runs": found}
    write_text(Path(f"{options.out}.json"), json.dumps(kept, indent=1))
    write_text(Path(f"{options.out}.md"), page(facts, found, settings))


if __name__ == "__main__":
    main()
