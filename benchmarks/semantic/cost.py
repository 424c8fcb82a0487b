"""Seconds that a question takes with semantic entropy, by the way of grouping the samples.

The ways alternate for every question, so that a slow minute meets all of them. Run it on a machine
with nothing beside it.

    python -m benchmarks.semantic.cost --questions 10 --out semantic-cost
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from openai import OpenAI

from benchmarks.difficulty.page import interval_cell
from benchmarks.machine import describe, markdown
from clients.connection import connect, first_model
from clients.entropy import controls, report
from clients.selective import semantic
from training.common.files import write_text
from training.common.metrics import interval, resample_weights
from training.common.report import markdown_table
from training.datasets.loaders import load_problems

NO_SAMPLES = "no samples"
CONTROLS: dict[str, Callable[[int], dict[str, object]]] = {
    NO_SAMPLES: lambda samples: controls(),
    "answer": lambda samples: controls(semantic=semantic(samples, temperature=0.7)),
    "entailment": lambda samples: controls(
        semantic=semantic(samples, temperature=0.7, cluster="entailment")
    ),
    "judge": lambda samples: controls(semantic=semantic(samples, temperature=0.7, cluster="judge")),
}


class Cost(NamedTuple):
    """Of one question."""

    seconds: float
    pairs: int
    """That the model was asked about."""
    tokens: int
    """Of the samples, the answer and the replies about pairs."""


def ask(client: OpenAI, model: str, prompt: str, body: dict[str, object], length: int) -> Cost:
    """One request."""
    begin = time.perf_counter()
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=length,
        temperature=0.7,
        seed=0,
        extra_body=body,
    )
    seconds, said = time.perf_counter() - begin, report(answer.choices[0])
    own = said and said.semantic
    tokens = answer.usage.completion_tokens if answer.usage else 0
    return Cost(seconds, (own.pairs or 0) if own else 0, tokens)


def table(found: dict[str, list[Cost]]) -> str:
    """One line for each way."""
    lines = []
    for way, costs in found.items():
        seconds, pairs, tokens = np.array(costs, dtype=float).T
        resampled = resample_weights(len(costs), 0) @ seconds
        cell = interval_cell(interval(float(seconds.mean()), resampled), ".2f")
        lines.append([way, cell, f"{pairs.mean():.1f}", f"{tokens.mean():.0f}"])
    return markdown_table(("cluster", "seconds for a question", "pairs", "generated tokens"), lines)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--task", default="quiz")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    facts, client = describe("benchmarks.semantic.cost"), connect(options.url)
    model, length = first_model(client), options.max_tokens
    first, *problems = load_problems((options.task,), max(options.questions + 1, 20), 1, None)
    bodies = {way: body(options.samples) for way, body in CONTROLS.items()}
    for body in bodies.values():  # what is set up once
        ask(client, model, first.prompt, body, length)
    found: dict[str, list[Cost]] = {way: [] for way in bodies}
    for problem in problems[: options.questions]:
        for way, body in bodies.items():
            found[way].append(ask(client, model, problem.prompt, body, length))
    made = "\n".join(markdown(facts))
    text = f"""# Seconds of semantic entropy

{made}

{options.questions} questions of `{options.task}`, {options.samples} samples of at most
{length} tokens, one request at a time. Intervals are 95 % bootstraps over questions.

{table(found)}
"""
    write_text(Path(f"{options.out}.md"), text)


if __name__ == "__main__":
    main()
