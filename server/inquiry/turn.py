"""One turn of an inquiry in the API server: replies are understood, the next question is chosen."""

import logging
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from probes.inquiry.likelihood import UNKNOWN
from probes.inquiry.prompts import MEANINGS, reply_prompt
from probes.inquiry.pursuit import wording
from probes.inquiry.task import Task
from probes.inquiry.turn import Turn, likelihood_outlook, take_turn
from server.inquiry.conversation import Exchange, literal
from server.inquiry.direct import direct_outlook
from server.inquiry.engine_reads import Reads
from server.inquiry.open_questions import PROPOSALS, with_open_questions
from server.planning.plan import InquiryPlan
from server.wire.request import HeardReport, InquiryReport

logger = logging.getLogger("vllm.entrostat")

UNKNOWN_WEIGHT = 8.0
"""How much more likely than it says a model is to mean `unknown`, a word it seldom uses."""
SURE = 0.65
"""A reply means what has at least this probability among the meanings, else unknown: an answer
misheard costs the game, one not heard a question. Of 40 short replies, many of them nonsense or in
other languages, the default model hears 29 as meant with these two numbers, and 2 as an answer that
was not given; with 1 and 0.5 it is 25 and 15."""


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
    weighted = {**logprobs, UNKNOWN: logprobs[UNKNOWN] + math.log(UNKNOWN_WEIGHT)}
    best = max(weighted, key=lambda meaning: weighted[meaning])
    total = sum(math.exp(value - weighted[best]) for value in weighted.values())
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
    heard, complete = await understand(plan.inquiry.task, exchanges, reads)
    fallback = None if complete else "reply_unread"
    task = plan.inquiry.task
    own = set(map(wording, task.questions))
    if plan.control.queries == "open":
        turn, plan, found = await _open_turn(plan, heard, reads)
    else:
        turn, plan, found = await _turn(plan, heard, None, reads)
    report = _report(plan, heard, turn, reads, time.perf_counter() - start)
    report.calibrated &= all(wording(one.question) in own for one in heard)
    text = report.query or task.guess.replace("{label}", task.names[turn.guess])
    return text, report, found or fallback


async def _turn(
    plan: InquiryPlan, heard: Sequence[Heard], candidates: Sequence[int] | None, reads: Reads
) -> tuple[Turn, InquiryPlan, str | None]:
    """Choose among the candidates; returns the plan that was kept, and what went wrong."""
    places = {wording(query): at for at, query in enumerate(plan.inquiry.task.questions)}
    history = [(places[wording(one.question)], one.answer) for one in heard]
    outlook = likelihood_outlook(plan.inquiry.logprobs, history, candidates)
    fallback = None
    if plan.predictor == "direct":
        try:
            outlook = await direct_outlook(plan, history, outlook, reads)
        except ValueError as error:
            logger.warning("entrostat: direct prediction failed: %s", error)
            plan = plan._replace(predictor="likelihood", calibration=plan.spare)
            fallback = "direct_unavailable"
    return take_turn(outlook, history, plan.calibration, plan.rule), plan, fallback


async def _open_turn(
    plan: InquiryPlan, heard: Sequence[Heard], reads: Reads
) -> tuple[Turn, InquiryPlan, str | None]:
    """Propose questions and choose among them, unless the game is over; as `_turn`.

    Where the model proposes nothing new, the task's own questions are asked.
    """
    own = plan.inquiry
    try:
        grown = await with_open_questions(own, heard, 0, reads)
        turn, played, fallback = await _turn(plan._replace(inquiry=grown.inquiry), heard, (), reads)
        if turn.stop in ("singleton", "budget"):
            return turn, played, fallback
        count = min(PROPOSALS, plan.control.max_candidates)
        grown = await with_open_questions(own, heard, count, reads)
    except ValueError as error:
        logger.warning("entrostat: open questions failed: %s", error)
        heard = [one for one in heard if own.task.open_query(one.question) is None]
        turn, played, _ = await _turn(plan, heard, None, reads)
        return turn, played, "open_unavailable"
    candidates = grown.candidates
    turn, played, fallback = await _turn(
        plan._replace(inquiry=grown.inquiry), heard, candidates or range(len(own.logprobs)), reads
    )
    return turn, played, fallback if candidates else fallback or "no_proposals"


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
        queries=plan.control.queries,
        num_candidates=0 if turn.selection is None else len(turn.selection.gain),
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
