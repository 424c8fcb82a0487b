"""One turn of an inquiry in the API server: replies are understood, the next question is chosen."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from probes.inquiry import wording
from probes.inquiry_prompts import MEANINGS, reply_prompt
from probes.inquiry_task import Task
from probes.inquiry_turn import Turn, likelihood_outlook, take_turn
from probes.likelihood import UNKNOWN
from server.inquiry_chat import Exchange, literal
from server.inquiry_reads import Reads
from server.plan import InquiryPlan
from server.protocol import HeardReport, InquiryReport

logger = logging.getLogger("vllm.entrostat")

SURE = 0.5
"""A reply means what the model gives at least this probability, among the meanings; else unknown:
taking a no for a yes costs more than asking on."""
_MEMORY = 10_000


class Heard(NamedTuple):
    """A question and what its reply was taken for."""

    question: str
    answer: int


class Ear:
    """Understands replies; what it understood once it remembers, since each turn repeats them."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], int] = OrderedDict()

    async def understand(
        self, task: Task, exchanges: Sequence[Exchange], reads: Reads
    ) -> tuple[list[Heard], bool]:
        """Map every reply onto an answer, the new ones by the model in one batch.

        Returns:
            What was heard, and whether all of it was read; what the engine failed to read is
            `UNKNOWN` this time.
        """
        keys = [(task.name, wording(one.question), one.reply) for one in exchanges]
        new = {}
        for key, exchange in zip(keys, exchanges, strict=True):
            said = literal(task, exchange.reply)
            if said is not None or not wording(exchange.reply):
                self._remember(key, UNKNOWN if said is None else said)
            elif key not in self._known:
                new[key] = exchange
        found, complete = await _meanings(task, list(new.values()), reads)
        for key, answer in zip(new, found, strict=False):  # none if the engine failed
            self._remember(key, answer)
        answers = [self._known.get(key, UNKNOWN) for key in keys]
        heard = [Heard(one.question, said) for one, said in zip(exchanges, answers, strict=True)]
        return heard, complete

    def _remember(self, key: tuple[str, str, str], answer: int) -> None:
        self._known[key] = answer
        self._known.move_to_end(key)
        while len(self._known) > _MEMORY:
            self._known.popitem(last=False)


async def _meanings(
    task: Task, exchanges: Sequence[Exchange], reads: Reads
) -> tuple[list[int], bool]:
    """What replies mean; nothing, and False, if the engine cannot say."""
    if not exchanges:
        return [], True
    words = {meaning: reads.tokens_after(text)[0] for meaning, text in MEANINGS.items()}
    prompts = [reads.tokens(reply_prompt(task, one.question, one.reply)) for one in exchanges]
    try:
        found = await reads.logprobs(prompts, list(words.values()))
    except ValueError:
        logger.exception("entrostat: replies could not be read")
        return [], False
    return [meaning_of(dict(zip(words, logprobs, strict=True))) for logprobs in found], True


def meaning_of(logprobs: dict[int, float]) -> int:
    """The meaning with most of the probability, `UNKNOWN` if none has enough.

    Args:
        logprobs: Nats, by `YES`, `NO` and `UNKNOWN`.
    """
    best = max(logprobs, key=lambda meaning: logprobs[meaning])
    total = sum(math.exp(value - logprobs[best]) for value in logprobs.values())
    return best if 1 / total >= SURE else UNKNOWN


async def inquire(
    plan: InquiryPlan, exchanges: Sequence[Exchange], reads: Reads, ear: Ear
) -> tuple[str, InquiryReport, str | None]:
    """Play one turn.

    Args:
        plan: What is wanted.
        exchanges: The game so far.
        reads: The engine.
        ear: Of this server.

    Returns:
        What the assistant says, the report, and what went wrong, if anything.
    """
    start = time.perf_counter()
    task = plan.inquiry.task
    heard, complete = await ear.understand(task, exchanges, reads)
    places = {wording(question): place for place, question in enumerate(task.questions)}
    history = [(places[wording(one.question)], one.answer) for one in heard]
    turn = take_turn(
        likelihood_outlook(plan.inquiry.logprobs, history), history, plan.calibration, plan.rule
    )
    report = _report(plan, heard, turn, reads, time.perf_counter() - start)
    text = report.query or task.guess.replace("{label}", task.names[turn.guess])
    return text, report, None if complete else "reply_unread"


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
