"""What asking back is worth: tickets decided at once, or after questions to the customer.

A calibration of the tickets is served. New tickets are decided at once, with the questions that the
server chooses, and with questions in random order under the same rule to stop. A customer answers
yes or no, as the ticket's team has it.

    python -m benchmarks.decisions.ask --calibration smollm2-135m/tickets --out decisions-ask
"""

import argparse
import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from openai import OpenAI

from benchmarks.difficulty.page import interval_cell
from benchmarks.machine import describe, markdown
from clients.connection import connect
from clients.decisions import DecidedAnswer, decide, decide_or_ask
from training.common.metrics import Interval, interval, resample_weights
from training.common.report import markdown_table
from training.datasets.tickets import FOLLOW_UPS, TEAM_QUESTION, tickets

_SEED_OF_CALIBRATION = 0
_LEGEND = """tickets that the calibration has not seen, and a customer who answers yes or no.
"Wrong" counts the most probable team of every ticket; "acted on" is the share whose prediction set
has one team. Intervals are 95 %, a paired bootstrap over tickets."""


class Game(NamedTuple):
    """How one ticket ended."""

    right: bool
    """Whether the most probable team is the right one."""
    abstained: bool
    """Whether the prediction set still has several teams."""
    asked: int
    """Number of questions."""


WAYS = ("at once", "questions in random order", "questions that the server chooses")


def play(
    client: OpenAI, ticket: dict[str, Any], way: str, limit: int, options: dict[str, Any]
) -> Game:
    """Decide one ticket.

    Args:
        client: Connected to the server.
        ticket: From `training.datasets.tickets`.
        way: One of `WAYS`.
        limit: Most questions.
        options: As for `clients.decisions.decide`.
    """
    facts: dict[str, str] = ticket["facts"]
    if way == WAYS[2]:
        turn = decide_or_ask(
            client,
            ticket["input"],
            TEAM_QUESTION,
            list(FOLLOW_UPS),
            facts.__getitem__,
            max_questions=limit,
            **options,
        )
        return _game(turn.answer, ticket, len(turn.asked))
    order = random.Random(ticket["input"]).sample(list(FOLLOW_UPS), len(FOLLOW_UPS))
    text, asked = ticket["input"], 0
    while True:
        (answer,) = decide(client, text, [TEAM_QUESTION], **options).values()
        if not answer.abstained or way == WAYS[0] or asked == limit:
            return _game(answer, ticket, asked)
        text = f"{text}\n\n{order[asked]}\n{facts[order[asked]]}"
        asked += 1


def _game(answer: DecidedAnswer, ticket: dict[str, Any], asked: int) -> Game:
    return Game(answer.value == ticket["team"], answer.abstained, asked)


def new_tickets(number: int) -> list[dict[str, Any]]:
    """Tickets that no calibration with the default seed has seen."""
    seen = {one["input"] for one in tickets(720, _SEED_OF_CALIBRATION)}
    fresh = (one for one in tickets(2 * number, 1) if one["input"] not in seen)
    return list(islice(fresh, number))


def page(facts: dict[str, Any], games: dict[str, list[Game]], settings: str) -> str:
    """The result as Markdown."""
    weights = resample_weights(len(games[WAYS[0]]), 0)
    base = np.array([not one.right for one in games[WAYS[0]]], dtype=float)
    lines = []
    for way, ended in games.items():
        wrong = np.array([not one.right for one in ended], dtype=float)
        acted = np.array([not one.abstained for one in ended], dtype=float)
        bad = (wrong * acted).sum()
        lines.append(
            [
                way,
                interval_cell(interval(wrong.mean(), weights @ wrong), ".3f"),
                "" if way == WAYS[0] else interval_cell(_difference(wrong, base, weights), "+.3f"),
                f"{acted.mean():.3f}",
                f"{bad / acted.sum():.3f}" if acted.any() else "",
                f"{np.mean([one.asked for one in ended]):.2f}",
            ]
        )
    head = ("way", "wrong", "minus at once", "acted on", "wrong among them", "questions")
    return "\n".join(
        [
            "# Decide at once, or ask first\n",
            *markdown(facts),
            f"- {settings}",
            "",
            f"{len(base)} {_LEGEND}",
            "",
            markdown_table(head, lines),
            "",
        ]
    )


def _difference(wrong: Any, base: Any, weights: Any) -> Interval:
    return interval((wrong - base).mean(), weights @ (wrong - base))


def main() -> None:
    """Play and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--calibration", required=True, help="id of a calibration of the tickets")
    parser.add_argument("--level", type=float, default=0.8)
    parser.add_argument("--tickets", type=int, default=150)
    parser.add_argument("--questions", type=int, default=3, help="most questions to a customer")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    chosen = parser.parse_args()
    facts = describe("benchmarks.decisions.ask")
    client, found = connect(chosen.url), new_tickets(chosen.tickets)
    options = {"calibration": chosen.calibration, "confidence_level": chosen.level}
    settings = (
        f"calibration `{chosen.calibration}`, level {chosen.level}, at most {chosen.questions} "
        "questions"
    )
    games: dict[str, list[Game]] = {}
    for way in WAYS:
        with ThreadPoolExecutor(chosen.concurrency) as pool:
            games[way] = list(
                pool.map(
                    lambda one, way=way: play(client, one, way, chosen.questions, options), found
                )
            )
        print(way, sum(one.right for one in games[way]), "right of", len(found), flush=True)
        Path(f"{chosen.out}.json").write_text(json.dumps(facts | {"games": games}, indent=1))
        Path(f"{chosen.out}.md").write_text(page(facts, games, settings))


if __name__ == "__main__":
    main()
