"""Which way of grouping samples makes semantic entropy tell wrong answers best.

Takes the run folder of `train-probe semantic`: several answers to each question, of which the first
is graded and the others are grouped by their words, by their answers, and by what the model
says of pairs of them. All ways see the same samples. Pairs are read through a server or from the
files of the model, and kept in the run folder; with `--minutes` the same command continues. Without
`--url` and `--checkpoint` nothing is asked.

    python -m benchmarks.semantic.clusters runs/selective-... --url http://127.0.0.1:8000/v1 \
        --title "the quiz, 0.5B" --out semantic-clusters-quiz
"""

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import describe
from benchmarks.semantic.page import RANDOM, Drawn, Grouping, page
from benchmarks.semantic.reads import OutOfTimeError, PairReads, Server
from probes.selective.pairs import agree, group_texts, is_same
from probes.selective.scores import AnswerKind, Cluster
from probes.selective.semantic import cluster_ids
from probes.selective.votes import answer_key
from training.common.files import write_text
from training.common.rollout_store import RolloutStore
from training.common.server_pool import RolloutRecord
from training.datasets.problem import Problem
from training.selective.rows import with_instruction

KEYS: dict[str, AnswerKind] = {"answer, exact": "exact", "answer": "auto"}
JUDGES: tuple[Cluster, ...] = ("judge", "entailment")
_RANDOM_DRAWS = 20
_AT_ONCE = 8
"""Questions under way."""


class Question(NamedTuple):
    """One question and the answers to it."""

    prompt: str
    drawn: Drawn
    texts: list[str]
    """Of the answers that are grouped."""


class ModelGroups(NamedTuple):
    """How one question's answers were grouped by what the model says."""

    ids: list[int]
    same: list[bool]
    """What it said of each pair."""
    agreed: list[bool]
    """Whether it said so in both orders."""
    tokens: int
    """Of all prompts."""


def load(run: Path) -> list[Question]:
    """The questions of a run folder that have all their answers."""
    settings = json.loads((run / "settings.json").read_text("utf-8"))
    samples, found = settings["samples"], []
    with RolloutStore(run / "traces.jsonl") as store:
        for place, one in enumerate(settings["problems"]):
            numbers = range(place * samples, (place + 1) * samples)
            if all(number in store.rollouts for number in numbers):
                problem = Problem.model_validate(one)
                prompt = with_instruction(problem.prompt, settings["instruction"])
                records = [store.rollouts[number] for number in numbers]
                texts = [record.text for record in records[1:]]
                found.append(Question(prompt, drawn(problem, records), texts))
    return found


def drawn(problem: Problem, records: Sequence[RolloutRecord]) -> Drawn:
    """Grades and scores of the answers to one question."""
    right = [problem.is_right(record.text) for record in records]
    scores = [
        {name: value for name, value in (record.scores or {}).items() if value is not None}
        for record in records
    ]
    logprobs = [one["logprob_mean"] for one in scores[1:]]
    return Drawn(right[0], scores[0], len(problem.prompt), logprobs, right[1:])


def by_key(question: Question, kind: AnswerKind) -> list[int]:
    """Groups of samples with equal answers."""
    return cluster_ids([answer_key(text, kind) for text in question.texts])


async def by_model(question: Question, how: Cluster, reads: PairReads) -> ModelGroups:
    """Groups of samples by what the model says of pairs."""
    same, agreed, tokens = list[bool](), list[bool](), 0

    async def compare(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        nonlocal tokens
        found = await reads.both(how, question.prompt, pairs)
        said = [is_same(how, one.said, two.said) for one, two in found]
        same.extend(said)
        agreed.extend(agree(one.said, two.said) for one, two in found)
        tokens += sum(one.prompt_tokens + two.prompt_tokens for one, two in found)
        return said

    return ModelGroups(await group_texts(question.texts, compare), same, agreed, tokens)


async def at_random(question: Question, rate: float, seed: int) -> list[list[int]]:
    """Groups by a judge that says yes to any pair with the same probability, drawn repeatedly."""
    chance = random.Random(f"{seed}:{question.prompt}")

    async def compare(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [chance.random() < rate for _ in pairs]

    return [await group_texts(question.texts, compare) for _ in range(_RANDOM_DRAWS)]


async def model_groups(
    questions: Sequence[Question], reads: PairReads, ways: Sequence[Cluster] = JUDGES
) -> dict[int, dict[Cluster, ModelGroups]]:
    """By question, those that were read in every way; the others need more time."""
    found: dict[int, dict[Cluster, ModelGroups]] = {}

    free = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with free:  # a run that is ended has whole questions
            try:
                both = [await by_model(questions[number], how, reads) for how in ways]
            except OutOfTimeError:
                return
        found[number] = dict(zip(ways, both, strict=True))

    await asyncio.gather(*map(one, range(len(questions))))
    return dict(sorted(found.items()))


async def groupings(
    questions: Sequence[Question], every: Sequence[dict[Cluster, ModelGroups]]
) -> list[Grouping]:
    """Every way to group the samples of the questions."""
    found = [
        Grouping(name, [[by_key(one, kind)] for one in questions]) for name, kind in KEYS.items()
    ]
    for how in every[0]:
        each = [one[how] for one in every]
        same = [said for one in each for said in one.same]
        agreed = [said for one in each for said in one.agreed]
        pairs, tokens = len(same) / len(each), sum(one.tokens for one in each) / len(each)
        share = sum(agreed) / max(len(agreed), 1)
        found.append(Grouping(how, [[one.ids] for one in each], pairs, tokens, share))
        rate = sum(same) / max(len(same), 1)
        drawn = [await at_random(one, rate, 0) for one in questions]
        found.append(Grouping(f"{RANDOM}, as often as {how}", drawn))
    return found


async def _run(options: argparse.Namespace) -> None:
    facts = describe("benchmarks.semantic.clusters")
    questions = load(options.run)[: options.questions]
    ask = None if options.url is None else Server(options.url).ask
    if options.checkpoint is not None:
        from benchmarks.semantic.local import LocalModel

        ask = LocalModel(options.checkpoint).ask
    path, minutes, places = options.run / "pairs.jsonl", options.minutes, options.concurrency
    reads = PairReads(path, ask, minutes, places)
    found = await model_groups(questions, reads, list(filter(None, options.ways.split(","))))
    print(f"{len(found)} of {len(questions)} questions", flush=True)
    if len(found) > 1:
        complete = [questions[number] for number in found]
        ways = await groupings(complete, list(found.values()))
        text = page(options.title, facts, [one.drawn for one in complete], ways)
        write_text(Path(f"{options.out}.md"), text)


def main() -> None:
    """Group and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--url", help="of a server with the model that gave the answers")
    parser.add_argument("--checkpoint", type=Path, help="folder of that model, without a server")
    parser.add_argument("--ways", default=",".join(JUDGES), help="to ask the model; may be empty")
    parser.add_argument("--questions", type=int, default=1000, help="at most")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--title", required=True, help="task and model")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
