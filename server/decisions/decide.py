"""One request for decisions: read all questions over one input, judge, answer."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from probes.decisions.question import context
from probes.decisions.scores import OptionLogprobs
from server.decisions.answers import Answer, JudgedQuestion, answer, judge
from server.decisions.asking import UncertainQuestion, next_questions
from server.decisions.frame import ChatFrame
from server.decisions.reading import (
    MAX_READS,
    AskedRead,
    QuestionTrees,
    build_trees,
    longest_prompt,
    num_reads,
    read_options,
)
from server.errors import BadControl
from server.inquiry.engine_reads import ReadError, Reads
from server.planning.decisions import DecisionPlan
from server.wire.decisions import DecisionUsage, InputTokensDetails


class DecisionOutcome(NamedTuple):
    """Answers in the order of the questions, their verdicts, and the tokens that they took."""

    answers: list[Answer]
    verdicts: list[JudgedQuestion | None]
    usage: DecisionUsage


async def decide(
    plan: DecisionPlan,
    text: str,
    names: Sequence[str | None],
    frame: ChatFrame,
    reads: Reads,
) -> DecisionOutcome:
    """Answer every question of a plan.

    Args:
        plan: Plan of the request.
        text: The input.
        names: Names of the questions.
        frame: The chat template.
        reads: Reads from the engine.

    Raises:
        BadControl: The input or a question is too long, an option cannot be read, or too many
            engine requests would be needed.
        ReadError: The engine failed.
    """
    asked = [
        AskedRead(one.question, one.settings, f"questions.{place}")
        for place, one in enumerate(plan.questions)
    ]
    trees = await build_trees(asked, frame, reads)
    before = await _input_tokens(text, trees, frame, reads)
    await asyncio.to_thread(_refuse_costly, plan, trees)
    found = await read_options(before, trees, reads)
    count = reads.forwards
    found = await _with_priors(plan, trees, found, frame, reads)
    verdicts = await asyncio.to_thread(_judged, plan, found)
    asks = await _follow_ups(plan, before, trees, found, verdicts, frame, reads)
    answers = await asyncio.to_thread(_answered, plan, names, verdicts, asks)
    return DecisionOutcome(answers, verdicts, _usage(before, count, reads))


async def _input_tokens(
    text: str, trees: Sequence[QuestionTrees], frame: ChatFrame, reads: Reads
) -> tuple[int, ...]:
    """Tokens of the chat's head and the input.

    Raises:
        BadControl: With the longest question, they are too many for the model.
    """
    try:
        tokens = await frame.content(context(text), reads)
    except ReadError as error:
        raise BadControl(f"`input`: {error}", "input") from error
    longest = await asyncio.to_thread(longest_prompt, trees)
    room = reads.max_tokens - 1 - len(frame.head) - longest
    if len(tokens) > room:
        raise BadControl(
            f"`input`: it has {len(tokens)} tokens; the model takes {reads.max_tokens}, which "
            f"leaves {max(room, 0)} beside the longest question",
            "input",
        )
    return (*frame.head, *tokens)


def _refuse_costly(plan: DecisionPlan, trees: Sequence[QuestionTrees]) -> None:
    cost = num_reads(trees) * (2 if any(one.settings.prior for one in plan.questions) else 1)
    if cost > MAX_READS:
        raise BadControl(
            f"`questions`: {cost} engine requests would be needed, at most {MAX_READS} are made: "
            "ask fewer questions, or set `entropy.orders` to 1",
            "questions",
        )


async def _with_priors(
    plan: DecisionPlan,
    trees: Sequence[QuestionTrees],
    found: Sequence[OptionLogprobs],
    frame: ChatFrame,
    reads: Reads,
) -> list[OptionLogprobs]:
    """Add what the model says about an empty input; after the first request from the read cache."""
    wanted = [place for place, one in enumerate(plan.questions) if one.settings.prior]
    complete = list(found)
    if not wanted:
        return complete
    empty = (*frame.head, *await frame.content(context(""), reads))
    priors = await read_options(empty, [trees[place] for place in wanted], reads)
    for place, prior in zip(wanted, priors, strict=True):
        complete[place] = found[place]._replace(
            letters_prior=prior.letters, statements_prior=prior.statements
        )
    return complete


def _judged(plan: DecisionPlan, found: Sequence[OptionLogprobs]) -> list[JudgedQuestion | None]:
    return [judge(plan, *pair) for pair in zip(plan.questions, found, strict=True)]


async def _follow_ups(
    plan: DecisionPlan,
    before: tuple[int, ...],
    trees: Sequence[QuestionTrees],
    found: Sequence[OptionLogprobs],
    verdicts: Sequence[JudgedQuestion | None],
    frame: ChatFrame,
    reads: Reads,
) -> list[str | None]:
    asks: list[str | None] = [None] * len(verdicts)
    uncertain = {
        place: UncertainQuestion(
            verdict, trees[place], (found[place].letters_prior, found[place].statements_prior)
        )
        for place, verdict in enumerate(verdicts)
        if verdict is not None and verdict.abstained
    }
    if plan.asks and uncertain:
        try:
            named = await next_questions(plan, before, list(uncertain.values()), frame, reads)
        except ReadError as error:  # the input with an answer is too long
            raise BadControl(f"`entropy.ask`: {error}", "entropy.ask") from error
        for place, question in zip(uncertain, named, strict=True):
            asks[place] = question
    return asks


def _answered(
    plan: DecisionPlan,
    names: Sequence[str | None],
    verdicts: Sequence[JudgedQuestion | None],
    asks: Sequence[str | None],
) -> list[Answer]:
    return [
        answer(plan, name, verdict, ask)
        for name, verdict, ask in zip(names, verdicts, asks, strict=True)
    ]


def _usage(before: Sequence[int], count: int, reads: Reads) -> DecisionUsage:
    """Tokens of a request; those that other requests cached are not counted as cached.

    Args:
        before: Tokens of the shared input.
        count: Prompts that begin with it.
        reads: Knows all prompts.
    """
    size = reads.block_size
    shared = len(before) // size * size if size else 0
    return DecisionUsage(
        input_tokens=reads.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=shared * max(count - 1, 0), cache_write_tokens=shared
        ),
        total_tokens=reads.prompt_tokens,
    )
