"""One turn of an inquiry in the API server: replies are understood, the next question is chosen."""

import logging
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from probes.inquiry import wording
from probes.inquiry_prompts import MEANINGS, reply_prompt
from probes.inquiry_task import Task
from probes.inquiry_turn import Turn, likelihood_outlook, take_turn
from probes.likelihood import UNKNOWN
from server.inquiry_chat import Exchange, literal
from server.inquiry_direct import direct_outlook
from server.inquiry_reads import Reads
from server.plan import InquiryPlan
from server.protocol import HeardReport, InquiryReport

logger = logging.getLogger("vllm.entrostat")

SURE = 0.5
"""A reply means what the model gives at least this probability, among the meanings; else unknown:
taking a no for a yes costs more than asking on."""


class Heard(NamedTuple):
    """A question and what its reply was taken for."""

    question: str
    answer: int


async def understand(
    task: Task, exchanges: Sequence[Exchange], reads: Reads
) -> tuple[list[Heard], bool]:
    """Map every reply onto an answer, those in free text by the model in one batch.

    Returns:
        What was heard, and whether all of it was read; what the engine failed to read is `UNKNOWN`
        this time.
    """
    answers: list[int | None] = []
    for exchange in exchanges:
        said = literal(task, exchange.reply)
        answers.append(said if wording(exchange.reply) else UNKNOWN)
    free = [one for one, answer in zip(exchanges, answers, strict=True) if answer is None]
    found = await _meanings(task, free, reads)
    meanings = iter(found or [UNKNOWN] * len(free))
    heard = [
        Heard(one.question, next(meanings) if answer is None else answer)
        for one, answer in zip(exchanges, answers, strict=True)
    ]
    return heard, found is not None


async def _meanings(task: Task, exchanges: Sequence[Exchange], reads: Reads) -> list[int] | None:
    """What replies mean; None if the engine cannot say."""
    if not exchanges:
        return []
    words = {meaning: reads.tokens_after(text)[0] for meaning, text in MEANINGS.items()}
    prompts = [reads.tokens(reply_prompt(task, one.question, one.reply)) for one in exchanges]
    try:
        found = await reads.logprobs(prompts, list(words.values()))
    except ValueError:
        logger.exception("entrostat: replies could not be read")
        return None
    return [meaning_of(dict(zip(words, logprobs, strict=True))) for logprobs in found]


def meaning_of(logprobs: dict[int, float]) -> int:
    """The meaning with most of the probability, `UNKNOWN` if none has enough.

    Args:
        logprobs: Nats, by `YES`, `NO` and `UNKNOWN`.
    """
    best = max(logprobs, key=lambda meaning: logprobs[meaning])
    total = sum(math.exp(value - logprobs[best]) for value in logprobs.values())
    return best if 1 / total >= SURE else UNKNOWN


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
    """
    start = time.perf_counter()
    task = plan.inquiry.task
    heard, complete = await understand(task, exchanges, reads)
    places = {wording(question): place for place, question in enumerate(task.questions)}
    history = [(places[wording(one.question)], one.answer) for one in heard]
    outlook = likelihood_outlook(plan.inquiry.logprobs, history)
    fallback = None if complete else "reply_unread"
    if plan.predictor == "direct":
        try:
            outlook = await direct_outlook(plan, history, outlook, reads)
        except ValueError as error:
            logger.warning("entrostat: direct prediction failed: %s", error)
            plan = plan._replace(predictor="likelihood", calibration=plan.spare)
            fallback = "direct_unavailable"
    turn = take_turn(outlook, history, plan.calibration, plan.rule)
    report = _report(plan, heard, turn, reads, time.perf_counter() - start)
    text = report.query or task.guess.replace("{label}", task.names[turn.guess])
    return text, report, fallback


def _report(
    plan: InquiryPlan, heard: Sequence[Heard], turn: Turn, reads: Reads, seconds: float
) -> InquiryReport:
    task = plan.inquiry.task
    names, questions = task.names, task.questions
    asks = turn.stop is None
    asked = len({wording(one.question) for one in heard})
    report = InquiryReport(
        task=plan.control.task,
        action="ask" if asks else "answer",
        turn=asked + asks,
        label=None if asks else names[turn.guess],
        reason=turn.stop,
        prediction_set=[
            names[label]
            for label in turn.probabilities.argsort(descending=True, stable=True).tolist()
            if turn.members[label]
        ],
        probabilities=dict(zip(names, turn.probabilities.tolist(), strict=True)),
        heard=[
            HeardReport(
                query=one.question,
                answer="unknown" if one.answer == UNKNOWN else task.answers[one.answer],
            )
            for one in heard
        ],
        confidence_level=plan.control.confidence_level,
        predictor=plan.predictor,
        policy=plan.rule.policy,
        calibrated=plan.calibration.is_calibrated(turn.length),
        forwards=reads.forwards,
        prompt_tokens=reads.prompt_tokens,
        cached_tokens=reads.cached_tokens,
        seconds=seconds,
    )
    if asks and turn.selection is not None and turn.question is not None:
        sizes = turn.selection.expected_size
        report.query = questions[turn.question]
        report.expected_size = float(sizes[turn.selection.chosen])
        if turn.runner_up is not None and turn.selection.runner_up is not None:
            report.runner_up = questions[turn.runner_up]
            report.runner_up_size = float(sizes[turn.selection.runner_up])
    return report
