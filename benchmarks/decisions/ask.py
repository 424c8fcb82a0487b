"""What asking back is worth: decided at once, or after questions.

A calibration of `dialogues` or `triage` is served. New cases are decided at once, with the
questions that the server chooses, and with questions in random order, asked until the answer is
certain enough and as many as were chosen. The answers come from the case. With `--minutes` no case
begins after that time; the same command continues.

    python -m benchmarks.decisions.ask --calibration smollm2-135m/dialogues --out decisions-ask
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from openai import OpenAI

from benchmarks.difficulty.page import interval_cell
from benchmarks.machine import describe, markdown
from clients.connection import connect
from clients.decisions import DecidedAnswer, decide, decide_or_ask
from training.common.files import write_text
from training.common.metrics import Floats, interval, resample_weights
from training.common.report import markdown_table
from training.datasets.tickets import TEAM_QUESTION, tickets
from training.datasets.triage import CONDITION_QUESTION, patients

_SEED_OF_CALIBRATION = 0
_LEGEND = """cases; every case is decided in all ways. "Wrong" counts the most probable value of
every case, "right in it" the cases whose prediction set has the right value at the end, "left" the
values in the set; "acted on" is the share whose set has one value. Intervals are 95 %, a paired
bootstrap over cases."""
AT_ONCE, MATCHED, RANDOM, CHOSEN = WAYS = (
    "at once",
    "in random order, as many as chosen",
    "in random order",
    "chosen by expected set size",
)


class Case(NamedTuple):
    """One input to decide."""

    text: str
    right: str
    facts: dict[str, str]
    """Answers to the questions that may be asked."""


class Game(NamedTuple):
    """How one case ended."""

    right: bool
    """Whether the most probable value is the right one."""
    covered: bool
    """Whether the right value is in the prediction set."""
    left: int
    """Values in the prediction set."""
    asked: int
    """Number of questions."""


def play(
    client: OpenAI, question: dict[str, Any], case: Case, limit: int, **options: Any
) -> dict[str, Game]:
    """Decide one case in all ways.

    Args:
        client: Connected to the server.
        question: The question to decide.
        case: The input and the answers.
        limit: Most questions.
        **options: As for `clients.decisions.decide`.
    """
    order = random.Random(case.text).sample(list(case.facts), len(case.facts))
    text, in_order = case.text, list[Game]()
    for asked in [*order[:limit], None]:
        (answer,) = decide(client, text, [question], **options).values()
        in_order.append(_game(answer, case, len(in_order)))
        if not answer.abstained or asked is None:
            break
        text = f"{text}\n\n{asked}\n{case.facts[asked]}"
    asks, reply = list(case.facts), case.facts.__getitem__
    turn = decide_or_ask(client, case.text, question, asks, reply, max_questions=limit, **options)
    return by_way(in_order, _game(turn.answer, case, len(turn.asked)))


def by_way(in_order: Sequence[Game], chosen: Game) -> dict[str, Game]:
    """One case in all ways.

    Args:
        in_order: After none, one, two, ... questions in random order.
        chosen: After chosen questions.
    """
    matched = in_order[min(chosen.asked, len(in_order) - 1)]
    return {AT_ONCE: in_order[0], MATCHED: matched, RANDOM: in_order[-1], CHOSEN: chosen}


def _game(answer: DecidedAnswer, case: Case, asked: int) -> Game:
    left = answer.prediction_set or ()
    return Game(answer.value == case.right, case.right in left, len(left), asked)


def new_cases(task: str, number: int) -> tuple[dict[str, Any], list[Case]]:
    """The question, and cases that no calibration with the default seed has seen."""
    triage = task == "triage"
    make, value = (patients, "condition") if triage else (tickets, "team")
    seen = {one["input"] for one in make(720, _SEED_OF_CALIBRATION)}
    cases = (Case(one["input"], one[value], one["facts"]) for one in make(4 * number, 1))
    if triage:  # few complaints: the patients differ in their answers
        return CONDITION_QUESTION, list(islice(cases, number))
    return TEAM_QUESTION, list(islice((one for one in cases if one.text not in seen), number))


def page(facts: dict[str, Any], games: list[dict[str, Game]], settings: str) -> str:
    """The result as Markdown.

    Args:
        facts: From `benchmarks.machine.describe`.
        games: How each case ended, by way.
        settings: A line about the run.
    """
    weights = resample_weights(len(games), 0)
    ended = {way: [one[way] for one in games] for way in WAYS}
    wrong = {way: _column([not one.right for one in found]) for way, found in ended.items()}
    covered = {way: _column([one.covered for one in found]) for way, found in ended.items()}
    left = {way: _column([one.left for one in found]) for way, found in ended.items()}

    def cell(values: Floats, form: str) -> str:
        return interval_cell(interval(float(values.mean()), weights @ values), form)

    lines = []
    for number, way in enumerate(WAYS):
        acted = left[way] == 1
        line = [way, cell(wrong[way], ".3f")]
        for base in WAYS[:3]:
            known = WAYS.index(base) < number and (base == AT_ONCE or way == CHOSEN)
            line.append(cell(wrong[way] - wrong[base], "+.3f") if known else "")
        line += [cell(covered[way], ".3f"), f"{left[way].mean():.2f}"]
        line.append(cell(left[way] - left[MATCHED], "+.2f") if way == CHOSEN else "")
        line += [f"{acted.mean():.3f}", f"{wrong[way][acted].mean():.3f}" if acted.any() else ""]
        lines.append([*line, cell(_column([one.asked for one in ended[way]]), ".2f")])
    head = ("questions", "wrong", "minus at once", "minus as many", "minus random", "right in it")
    more = ("left", "left minus as many", "acted on", "wrong among them", "number of questions")
    table = markdown_table((*head, *more), lines)
    made = "\n".join(markdown(facts))
    return f"""# Decide at once, or ask first

{made}
- {settings}

{len(games)} {_LEGEND}

{table}
"""


def _column(values: list[Any]) -> Floats:
    return np.array(values, dtype=float)


def main() -> None:
    """Play and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--task", choices=("tickets", "triage"), default="tickets")
    parser.add_argument("--calibration", required=True, help="id of a calibration of such inputs")
    parser.add_argument("--level", type=float, default=0.8)
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--questions", type=int, default=3, help="most questions")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    chosen = parser.parse_args()
    facts, deadline = describe("benchmarks.decisions.ask"), time.monotonic() + 60 * chosen.minutes
    client = connect(chosen.url)
    question, cases = new_cases(chosen.task, chosen.cases)
    settings = (
        f"calibration `{chosen.calibration}`, level {chosen.level}, at most {chosen.questions} of "
        f"{len(cases[0].facts)} questions, cases that the calibration has not seen"
    )
    store = Path(f"{chosen.out}.json")
    kept = json.loads(store.read_text()) if store.exists() else {}
    ended = kept["games"] if kept.get("settings") == settings else {}
    options = {"calibration": chosen.calibration, "confidence_level": chosen.level}
    saving = Lock()

    def decide_all_ways(number: int) -> None:
        if str(number) in ended or time.monotonic() > deadline:
            return
        case, limit = cases[number], chosen.questions
        found = play(client, question, case, limit, **options)
        with saving:
            ended[str(number)] = found
            write_text(store, json.dumps(facts | {"settings": settings, "games": ended}))

    with ThreadPoolExecutor(chosen.concurrency) as pool:
        list(pool.map(decide_all_ways, range(len(cases))))
    games = [{way: Game(*one) for way, one in ways.items()} for ways in ended.values()]
    write_text(Path(f"{chosen.out}.md"), page(facts, games, settings))
    print(f"{len(games)} of {len(cases)} cases", flush=True)


if __name__ == "__main__":
    main()
