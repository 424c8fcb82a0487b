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
from server.inquiry.cost import refuse_expensive_turn
from server.inquiry.direct import direct_lookahead, label_tokens
from server.inquiry.engine_reads import ReadError, Reads
from server.inquiry.open_questions import PROPOSALS, add_open_questions
from server.inquiry.report import turn_report
from server.planning.inquiry import InquiryPlan
from server.wire.report import InquiryReport

logger = logging.getLogger("vllm.entrostat")

UNKNOWN_WEIGHT = 8.0
"""Prior weight of `unknown`, whose token a model underestimates."""
SURE = 0.8
"""Minimum probability of a meaning; below it the reply counts as unknown, because a wrong answer
costs the game and an unknown one a question. With both constants, the default model interprets 1 of
96 noise texts as an answer (65 without calibration, at 0.65) and 2 of 20 indirect replies that no
rule matches, none of them wrongly (without calibration: 12 and 1)."""


class InterpretedReply(NamedTuple):
    """A question and the answer that its reply was mapped to."""

    question: str
    answer: int


class Interpretation(NamedTuple):
    """The replies of a game."""

    replies: list[InterpretedReply]
    complete: bool
    """False if the engine failed; the replies that needed it are then `UNKNOWN`."""


def literal_answers(task: Task, exchanges: Sequence[Exchange]) -> list[int | None]:
    """Answers of the replies that match a rule; None for those that need the model."""
    return [literal_answer(task, one.question, one.reply) for one in exchanges]


def num_readings(exchanges: Sequence[Exchange], answers: Sequence[int | None]) -> int:
    """Number of prompts needed to interpret the replies, neutral replies included."""
    free = [one for one, answer in zip(exchanges, answers, strict=True) if answer is None]
    return len(free) + len(NEUTRAL_REPLIES) * len({one.question for one in free})


async def interpret(
    task: Task, exchanges: Sequence[Exchange], answers: Sequence[int | None], reads: Reads
) -> Interpretation:
    """Map every reply to an answer; the model reads those that match no rule, in one batch.

    Args:
        task: The task of the game.
        exchanges: The game so far.
        answers: Result of `literal_answers`.
        reads: Reads from the engine.
    """
    free = [one for one, answer in zip(exchanges, answers, strict=True) if answer is None]
    found = await _interpret_replies(task, free, reads)
    meanings = iter(found or [UNKNOWN] * len(free))
    replies = [
        InterpretedReply(one.question, next(meanings) if answer is None else answer)
        for one, answer in zip(exchanges, answers, strict=True)
    ]
    return Interpretation(replies, found is not None)


async def _interpret_replies(
    task: Task, exchanges: Sequence[Exchange], reads: Reads
) -> list[int] | None:
    """The meaning of each reply; None if the engine fails."""
    if not exchanges:
        return []
    questions = list(dict.fromkeys(one.question for one in exchanges))
    neutral = [(question, reply) for question in questions for reply in NEUTRAL_REPLIES]
    asked = [*neutral, *((one.question, one.reply) for one in exchanges)]
    try:
        choices = [one[0] for one in await reads.tokens(list(MEANINGS.values()), start=False)]
        prompts = await reads.tokens([reply_prompt(task, *one) for one in asked])
        found = torch.tensor(await reads.logprobs(prompts, choices), dtype=torch.float64)
    except ReadError as error:
        logger.warning("entrostat: replies could not be read: %s", error)
        return None
    shape = (len(questions), len(NEUTRAL_REPLIES), len(MEANINGS))
    bias = dict(zip(questions, found[: len(neutral)].reshape(shape).mean(1), strict=True))
    free = zip(exchanges, found[len(neutral) :], strict=True)
    return [most_probable_meaning(logprobs - bias[one.question]) for one, logprobs in free]


def most_probable_meaning(evidence: torch.Tensor) -> int:
    """The most probable meaning; `UNKNOWN` if its probability is below `SURE`.

    Args:
        evidence: Log-probability of each of `MEANINGS` after this reply minus its mean after
            neutral replies, in nats, shape (3,).

    Source: contextual calibration, Zhao et al. (arXiv 2102.09690).
    """
    weights = torch.tensor([0.0, 0.0, math.log(UNKNOWN_WEIGHT)], dtype=evidence.dtype)
    probabilities = (evidence + weights).softmax(
        -1
    )  # NaN, from an engine's -inf, compares false below
    best = int(probabilities.argmax())
    return list(MEANINGS)[best] if float(probabilities[best]) >= SURE else UNKNOWN


async def inquire(
    plan: InquiryPlan, exchanges: Sequence[Exchange], reads: Reads
) -> tuple[str, InquiryReport, str | None]:
    """Take one turn: interpret the replies, then ask a question or give the final answer.

    Args:
        plan: Plan of the turn.
        exchanges: The game so far.
        reads: Reads from the engine.

    Returns:
        The assistant's message, the report, and a fallback code or None.

    Raises:
        BadControl: The turn needs too many engine requests.
    """
    start = time.perf_counter()
    task = plan.inquiry.task
    answers = await asyncio.to_thread(literal_answers, task, exchanges)
    plan, labels, fallback = await _tokenize_labels(plan, reads)
    refuse_expensive_turn(plan, exchanges, num_readings(exchanges, answers), labels)
    heard, complete = await interpret(task, exchanges, answers, reads)
    if not complete:
        fallback = fallback or "reply_unread"
    if plan.control.queries == "open":
        outcome = await _choose_open_question(plan, heard, labels, reads)
    else:
        outcome = await _choose_question(plan, heard, None, labels, reads)
    report = turn_report(outcome.plan, heard, outcome.turn, reads, time.perf_counter() - start)
    report.calibrated &= all(
        plan.inquiry.lookup.question(one.question) is not None for one in heard
    )
    text = report.query or task.guess.replace("{label}", task.names[outcome.turn.guess])
    return text, report, outcome.fallback or fallback


class _Outcome(NamedTuple):
    """A turn, the plan that was used, and a fallback code or None."""

    turn: Turn
    plan: InquiryPlan
    fallback: str | None


async def _tokenize_labels(
    plan: InquiryPlan, reads: Reads
) -> tuple[InquiryPlan, list[Tokens], str | None]:
    """The tokens that `direct` reads; on failure the plan falls back to `likelihood`."""
    if plan.predictor != "direct":
        return plan, [], None
    try:
        return plan, await label_tokens(plan.inquiry.task.names, reads), None
    except ReadError as error:
        return _fall_back_to_likelihood(plan, error), [], "direct_unavailable"


def _fall_back_to_likelihood(plan: InquiryPlan, error: ValueError) -> InquiryPlan:
    logger.warning("entrostat: direct prediction failed: %s", error)
    return plan._replace(predictor="likelihood", calibration=plan.spare)


async def _choose_question(
    plan: InquiryPlan,
    heard: Sequence[InterpretedReply],
    candidates: Sequence[int] | None,
    labels: Sequence[Tokens],
    reads: Reads,
) -> _Outcome:
    """Choose a question among the candidates, or stop."""
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
            plan, fallback = _fall_back_to_likelihood(plan, error), "direct_unavailable"
    return _Outcome(take_turn(lookahead, history, plan.calibration, plan.rule), plan, fallback)


async def _choose_open_question(
    plan: InquiryPlan,
    heard: Sequence[InterpretedReply],
    labels: Sequence[Tokens],
    reads: Reads,
) -> _Outcome:
    """Propose questions and choose among them, unless the game is over.

    If the model proposes nothing new, choose among the task's questions.
    """
    own = plan.inquiry
    try:
        grown = await add_open_questions(own, heard, 0, reads)
        outcome = await _choose_question(
            plan._replace(inquiry=grown.inquiry), heard, (), labels, reads
        )
        if outcome.turn.stop in ("singleton", "budget"):
            return outcome
        count = min(PROPOSALS, plan.control.max_candidates)
        grown = await add_open_questions(own, heard, count, reads)
    except ReadError as error:
        logger.warning("entrostat: open questions failed: %s", error)
        outcome = await _choose_question(plan, heard, None, labels, reads)
        return outcome._replace(fallback="open_unavailable")
    candidates = grown.candidates or range(len(own.logprobs))
    outcome = await _choose_question(
        plan._replace(inquiry=grown.inquiry), heard, candidates, labels, reads
    )
    if grown.candidates:
        return outcome
    return outcome._replace(fallback=outcome.fallback or "no_proposals")
