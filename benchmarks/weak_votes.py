"""What ending weak samples of a vote is worth, beside plain votes of as many tokens or samples.

Every question is put to a running server as a plain vote and as votes with `percentile`, all with
the same seeds. The controls are random subsets of the plain vote's samples. An interrupted run is
continued by the same command.

    python -m benchmarks.weak_votes --task words --max-tokens 200 --window 16 --out weak-votes-words
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from openai import OpenAI

from benchmarks.difficulty.page import interval_cell
from benchmarks.machine import describe, markdown
from benchmarks.votes import winner
from clients.connection import connect, first_model
from clients.entropy import controls, report
from clients.selective import vote
from training.common.files import write_text
from training.common.metrics import Floats, interval, resample_weights
from training.common.report import markdown_table
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem
from training.selective.rows import with_instruction

PERCENTILES = (0, 10, 50, 90)
"""0 is the plain vote; 10 is DeepConf's "high", 90 its "low"."""
WARMUP = 4
"""Samples of a vote that end by themselves."""
_SUBSETS = 200
"""Random subsets of a plain vote's samples."""
_HEAD = ("percentile", "weak samples", "tokens", "right", "minus plain", "minus as many tokens",
         "minus as many votes")  # fmt: skip


class VoteResult(NamedTuple):
    """How one vote ended."""

    right: bool
    tokens: int
    """Of all samples."""
    weak: int
    """Samples without a vote."""
    answers: list[tuple[bool, int]]
    """Whether each answer is right, and its votes; samples without an answer are not in it."""


def cast(
    client: OpenAI, problem: Problem, asked: Mapping[str, Any], body: dict[str, object]
) -> VoteResult:
    """Put one question to a vote.

    Args:
        client: Connected to the server.
        problem: The question.
        asked: Of the request.
        body: The control.
    """
    answer = client.chat.completions.create(**asked, extra_body=body)
    own = report(answer.choices[0])
    assert own is not None
    assert own.vote is not None
    answers = [(problem.is_right(row.answer or ""), row.votes or 0) for row in own.vote.table or []]
    right = problem.is_right(answer.choices[0].message.content or "")
    return VoteResult(right, own.vote.tokens or 0, own.vote.weak or 0, answers)


def subset_accuracy(plain: VoteResult, samples: int, size: float, seed: int) -> float:
    """Probability that the majority of a random subset of a plain vote's samples is right.

    Args:
        plain: The vote.
        samples: Of it.
        size: Of the subset; between two whole numbers the result is interpolated.
        seed: Of the subsets.
    """
    keys: list[str | None] = []
    for number, (_, votes) in enumerate(plain.answers):
        keys += [str(number)] * votes
    keys += [None] * (samples - len(keys))
    draw = np.random.default_rng(seed)
    found = []
    for whole in (math.floor(size), math.ceil(size)):
        right = 0
        for _ in range(_SUBSETS):
            chosen = [keys[one] for one in draw.permutation(samples)[:whole].tolist()]
            best = chosen[winner(chosen, [1.0] * whole)]
            right += best is not None and plain.answers[int(best)][0]
        found.append(right / _SUBSETS)
    return float(np.interp(size, [math.floor(size), math.floor(size) + 1], found))


def page(
    facts: dict[str, Any], ended: Sequence[Mapping[int, VoteResult]], samples: int, settings: str
) -> str:
    """The result as Markdown.

    Args:
        facts: From `benchmarks.machine.describe`.
        ended: The votes on each question, by percentile.
        samples: Of every vote.
        settings: A line about the run.
    """
    weights = resample_weights(len(ended), 0)

    def cell(values: Floats, form: str) -> str:
        return interval_cell(interval(float(values.mean()), weights @ values), form)

    plain = [one[0] for one in ended]
    right, tokens = _column([one.right for one in plain]), _column([one.tokens for one in plain])
    lines = []
    for percentile in PERCENTILES:
        votes = [one[percentile] for one in ended]
        own, cost = _column([one.right for one in votes]), _column([one.tokens for one in votes])
        weak = _column([one.weak for one in votes])
        line = [str(percentile), f"{weak.mean():.2f}", cell(cost, ".0f"), cell(own, ".3f")]
        if not percentile:
            line += [""] * 3
        else:
            size = min(samples, max(1.0, samples * cost.mean() / tokens.mean()))
            line.append(cell(own - right, "+.3f"))
            for sizes in ([size] * len(ended), (samples - weak).tolist()):
                control = [
                    subset_accuracy(one, samples, kept, seed)
                    for seed, (one, kept) in enumerate(zip(plain, sizes, strict=True))
                ]
                line.append(cell(own - _column(control), "+.3f"))
        lines.append(line)
    made = "\n".join(markdown(facts))
    return f"""# Ending weak samples of a vote

{made}
- {settings}

{len(ended)} questions, votes of {samples} samples, the first {WARMUP} of which are the warm-up. "As
many tokens" and "as many votes" are majorities of random subsets of the plain vote's samples that
cost as many tokens, or have as many votes as were left. Intervals are 95 % bootstraps over
questions.

{markdown_table(_HEAD, lines)}
"""


def _column(values: Sequence[Any]) -> Floats:
    return np.array(values, dtype=float)


def main() -> None:
    """Ask and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--task", default="words")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--instruction", default="")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--label", default="", help="name of the model on the page")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    chosen = parser.parse_args()
    facts, client = describe("benchmarks.weak_votes"), connect(chosen.url)
    model = first_model(client)
    problems = load_problems((chosen.task,), chosen.questions, 2, None)
    settings = (
        f"{chosen.label or model} on {chosen.task}, at most {chosen.max_tokens} tokens, "
        f"windows of {chosen.window}, temperature 0.7, instruction: {chosen.instruction or 'none'}"
    )
    store = Path(f"{chosen.out}.json")
    kept = json.loads(store.read_text()) if store.exists() else {}
    rows: dict[str, Any] = kept["votes"] if kept.get("settings") == settings else {}
    saving = Lock()

    def ask(number: int) -> None:
        if str(number) in rows:
            return
        prompt = with_instruction(problems[number].prompt, chosen.instruction)
        asked = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": chosen.max_tokens,
            "temperature": 0.7,
            "seed": chosen.samples * number,
        }
        found = {}
        for percentile in PERCENTILES:
            rule = {"percentile": percentile, "warmup": WARMUP, "window": chosen.window}
            body = controls(vote=vote(chosen.samples, **(rule if percentile else {})))
            found[percentile] = cast(client, problems[number], asked, body)
        with saving:
            rows[str(number)] = found
            write_text(store, json.dumps(facts | {"settings": settings, "votes": rows}))
            print(f"{len(rows)} of {len(problems)} questions", flush=True)

    with ThreadPoolExecutor(chosen.concurrency) as pool:
        list(pool.map(ask, range(len(problems))))
    ended = [
        {int(percentile): VoteResult(*one) for percentile, one in votes.items()}
        for votes in rows.values()
    ]
    write_text(Path(f"{chosen.out}.md"), page(facts, ended, chosen.samples, settings))


if __name__ == "__main__":
    main()
