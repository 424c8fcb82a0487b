"""One turn of an inquiry in the API server: interpret the replies, choose the next question."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from probes.inquiry.label_tokens import Tokens
from probes.inquiry.likelihood import UNKNOWN
from probes.inquiry.prompts import MEANINGS, NEUTRAL_REPLIES, reply_prompt
from probes.inquiry.replies import literal_answer
from probes.inquiry.task import Task
from probes.inquiry.turn import Turn, likelihood_lookahead, take_turn
from server.inquiry.conversation import Exchange
from server.inquiry.cost import refuse_costly
from server.inquiry.direct import direct_lookahead, label_tokens
from server.inquiry.engine_reads import ReadError, Reads
from server.inquiry.open_questions import PROPOSALS, with_open_questions
from server.inquiry.report import turn_report
from server.planning.inquiry import InquiryPlan
from server.wire.report import InquiryReport

logger = logging.getLogger("vllm.entrostat")

UNKNOWN_WEIGHT = 8.0
"""How much more likely than it says a model is to mean `unknown`, a word it seldom uses."""
SURE = 0.8
"""A reply means what has at least this probability among the meanings, else unknown: a wrong
answer costs the game, an unknown one a question. With these two the default model takes 1 of 96
noise texts for an answer (65 without calibration, at 0.65), and understands 2 of 20 roundabout
replies that the rules leave to it, none of them wrongly (12 and 1 without)."""


class InterpretedReply(NamedTuple):
    """A question and what its reply was taken for."""

    question: str
    answer: int


class Interpretation(NamedTuple):
    """The replies of a game."""

    replies: list[InterpretedReply]
    complete: bool
    """Whether all of them were read; those that the engine failed to read are `UNKNOWN`."""


def literal_answers(task: Task, exchanges: Sequence[Exchange]) -> list[int | None]:
    """Answers of the replies that need no model; None leaves one to the model."""
    return [literal_answer(task, one.question, one.reply) for one in exchanges]


def num_readings(exchanges: Sequence[Exchange], answers: Sequence[int | None]) -> int:
    """Prompts that the model reads to interpret the replies, neutral ones among them."""
    free = [one for one, answer in zip(exchanges, answers, strict=True) if answer is None]
    return len(free) + len(NEUTRAL_REPLIES) * len({one.question for one in free})


async def interpret(
    task: Task, exchanges: Sequence[Exchange], answers: Sequence[int | None], reads: Reads
) -> Interpretation:
    """Map every reply onto an answer, those that no rule understands by the model in one batch.

    Args:
        task: Whose questions were asked.
        exchanges: The game so far.
        answers: From `literal_answers`.
        reads: The engine.
    """
    free = [one for one, answer in zip(exchanges, answers, strict=True) if answer is None]
    found = await _meanings(task, free, reads)
    meanings = iter(found or [UNKNOWN] * len(free))
    replies = [
        InterpretedReply(one.question, next(meanings) if answer is None else answer)
        for one, answer in zip(exchanges, answers, strict=True)
    ]
    return Interpretation(replies, found is not None)


async def _meanings(task: Task, exchanges: Sequence[Exchange], reads: Reads) -> list[int] | None:
    """What replies mean; None if the engine cannot say."""
    if not exchanges:
        return []
    questions = list(dict.fromkeys(one.question for one in exchanges))
    neutral = [(question, reply) for question in questions for reply in NEUTRAL_REPLIES]
    asked = [*neutral, *((one.question, one.reply) for one in exchanges)]
    try:
        words = [one[0] for one in await reads.tokens(list(MEANINGS.values()), start=False)]
        prompts = await reads.tokens([reply_prompt(task, *one) for one in asked])
        found = torch.tensor(await reads.logprobs(prompts, words), dtype=torch.float64)
    except ReadError as error:
        logger.warning("entrostat: replies could not be read: %s", error)
        return None
    shape = (len(questions), len(NEUTRAL_REPLIES), len(MEANINGS))
    bias = dict(zip(questions, found[: len(neutral)].reshape(shape).mean(1), strict=True))
    free = zip(exchanges, found[len(neutral) :], strict=True)
    return [meaning_of(logprobs - bias[one.question]) for one, logprobs in free]


def meaning_of(evidence: torch.Tensor) -> int:
    """The meaning with most of the probability, `UNKNOWN` if none has enough.

    Args:
        evidence: How much likelier each of `MEANINGS` is after this reply than after neutral ones,
            in nats, shape (3,).

    Source: contextual calibration, Zhao et al. (arXiv 2102.09690).
    """
    weights = torch.tensor([0.0, 0.0, math.log(UNKNOWN_WEIGHT)], dtype=evidence.dtype)
    probabilities = (evidence + weights).softmax(-1)  # NaN, as of an engine's -inf, is not sure
    best = int(probabilities.argmax())
    return list(MEANINGS)[best] if float(probabilities[best]) >= SURE else UNKNOWN


async def inquire(
    plan: InquiryPlan, exchanges: Sequence[Exchange], reads: Reads
) -> tuple[str, InquiryReport, str | None]:
    """Play one turn.

    Args:
        plan: What is wanted.
        exchanges: The game so far.
        reads: The engine.

    Returns:
        What the assistant says, the report, and what went wrong, if anything.

    Raises:
        BadControl: The turn would take too many engine requests.
    """
    start = time.perf_counter()
    task = plan.inquiry.task
    answers = await asyncio.to_thread(literal_answers, task, exchanges)
    plan, labels, fallback = await _with_labels(plan, reads)
    refuse_costly(plan, exchanges, num_readings(exchanges, answers), labels)
    heard, complete = await interpret(task, exchanges, answers, reads)
    if not complete:
        fallback = fallback or "reply_unread"
    if plan.control.queries == "open":
        outcome = await _open_turn(plan, heard, labels, reads)
    else:
        outcome = await _turn(plan, heard, None, labels, reads)
    report = turn_report(outcome.plan, heard, outcome.turn, reads, time.perf_counter() - start)
    report.calibrated &= all(
        plan.inquiry.lookup.question(one.question) is not None for one in heard
    )
    text = report.query or task.guess.replace("{label}", task.names[outcome.turn.guess])
    return text, report, outcome.fallback or fallback


class _Outcome(NamedTuple):
    """A turn, the plan that was followed, and what went wrong."""

    turn: Turn
    plan: InquiryPlan
    fallback: str | None


async def _with_labels(
    plan: InquiryPlan, reads: Reads
) -> tuple[InquiryPlan, list[Tokens], str | None]:
    """The tokens that `direct` reads; without them the plan goes on with `likelihood`."""
    if plan.predictor != "direct":
        return plan, [], None
    try:
        return plan, await label_tokens(plan.inquiry.task.names, reads), None
    except ReadError as error:
        return _without_direct(plan, error), [], "direct_unavailable"


def _without_direct(plan: InquiryPlan, error: ValueError) -> InquiryPlan:
    logger.warning("entrostat: direct prediction failed: %s", error)
    return plan._replace(predictor="likelihood", calibration=plan.spare)


async def _turn(
    plan: InquiryPlan,
    heard: Sequence[InterpretedReply],
    candidates: Sequence[int] | None,
    labels: Sequence[Tokens],
    reads: Reads,
) -> _Outcome:
    """Choose among the candidates."""
    history = [
        (place, one.answer)
        for one in heard
        if (place := plan.inquiry.lookup.question(one.question)) is not None
    ]
    lookahead = likelihood_lookahead(plan.inquiry.logprobs, history, candidates)
    fallback = None
    if plan.predictor == "direct":
        try:
            lookahead = await direct_lookahead(plan, history, lookahead, labels, reads)
        except ValueError as error:
            plan, fallback = _without_direct(plan, error), "direct_unavailable"
    return _Outcome(take_turn(lookahead, history, plan.calibration, plan.rule), plan, fallback)


async def _open_turn(
    plan: InquiryPlan,
    heard: Sequence[InterpretedReply],
    labels: Sequence[Tokens],
    reads: Reads,
) -> _Outcome:
    """Propose questions and choose among them, unless the game is over.

    Where the model proposes nothing new, the task's own questions are asked.
    """
    own = plan.inquiry
    try:
        grown = await with_open_questions(own, heard, 0, reads)
        outcome = await _turn(plan._replace(inquiry=grown.inquiry), heard, (), labels, reads)
        if outcome.turn.stop in ("singleton", "budget"):
            return outcome
        count = min(PROPOSALS, plan.control.max_candidates)
        grown = await with_open_questions(own, heard, count, reads)
    except ReadError as error:
        logger.warning("entrostat: open questions failed: %s", error)
        outcome = await _turn(plan, heard, None, labels, reads)
        return outcome._replace(fallback="open_unavailable")
    candidates = grown.candidates or range(len(own.logprobs))
    outcome = await _turn(plan._replace(inquiry=grown.inquiry), heard, candidates, labels, reads)
    if grown.candidates:
        return outcome
    return outcome._replace(fallback=outcome.fallback or "no_proposals")
