"""Open questions: the model proposes questions, which are added to the table of the task.

The task's questions have fitted rows in the artifact. For a proposed question, the statement
log-probabilities are read from the engine and converted with the parameters fitted on all
questions. Proposed questions are not calibrated, so the report sets `calibrated` to false.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from probes.inquiry.artifact import Inquiry
from probes.inquiry.index import TaskIndex
from probes.inquiry.likelihood import UNKNOWN, new_answer_logprobs
from probes.inquiry.prompts import proposal_prompt, proposal_schema, read_proposals
from probes.inquiry.pursuit import fresh_questions
from probes.inquiry.task import Query
from server.inquiry.engine_reads import Reads

logger = logging.getLogger("vllm.entrostat")

PROPOSALS = 5
"""Proposals per turn, as published."""
_TEMPERATURE = 0.7
"""As published."""
ATTEMPTS = 3
"""Attempts to get a new question; the published code retries without a limit."""


class Open(NamedTuple):
    """An inquiry extended by open questions."""

    inquiry: Inquiry
    """Task and predictor with the open questions appended."""
    candidates: list[int] | None
    """Indices of the proposals; None if there are none and the task's questions are used."""


async def add_open_questions(
    inquiry: Inquiry, heard: Sequence[tuple[str, int]], count: int, reads: Reads
) -> Open:
    """Add the open questions of the history and new proposals.

    Args:
        inquiry: The inquiry from the artifact.
        heard: Questions and answers so far, open ones among them.
        count: Number of questions to propose.
        reads: Reads from the engine.

    Raises:
        ReadError: The engine failed.
    """
    task = inquiry.task
    asked = asked_open_questions(inquiry, [question for question, _ in heard])
    fresh = await propose(inquiry, heard, count, reads) if count else []
    new = [*asked, *fresh]
    if not new:
        return Open(inquiry, None)
    phrases = await reads.tokens([label.phrase for label in task.labels])
    properties = await reads.tokens([f" {query.property}" for query in new], start=False)
    pairs = [(phrase, one) for phrase in phrases for one in properties]
    found = torch.tensor(await reads.continuations(pairs), dtype=torch.float64)
    columns = found.reshape(len(phrases), len(properties))
    logprobs = torch.cat(
        [inquiry.logprobs, new_answer_logprobs(columns, inquiry.table, inquiry.model)]
    )
    longer = task.model_copy(update={"queries": (*task.queries, *new)})
    first = len(task.queries) + len(asked)
    candidates = list(range(first, first + len(fresh))) or None
    grown = inquiry._replace(task=longer, lookup=TaskIndex(longer), logprobs=logprobs)
    return Open(grown, candidates)


def asked_open_questions(inquiry: Inquiry, questions: Sequence[str]) -> list[Query]:
    """The open questions among the given ones, without duplicates."""
    found = [
        query
        for one in questions
        if inquiry.lookup.question(one) is None and (query := inquiry.task.open_query(one))
    ]
    return [found[at] for at in fresh_questions([one.question for one in found], ())]


async def propose(
    inquiry: Inquiry, heard: Sequence[tuple[str, int]], count: int, reads: Reads
) -> list[Query]:
    """Sample new questions from the model; may return none.

    Args:
        inquiry: The inquiry that the questions are for.
        heard: Questions and answers so far; none is repeated, whether closed or open.
        count: Number of questions to request.
        reads: Reads from the engine.

    Raises:
        ReadError: The engine failed.
    """
    task = inquiry.task
    known = [(question, answer) for question, answer in heard if answer != UNKNOWN]
    (prompt,) = await reads.tokens([proposal_prompt(task, known)])
    past = _properties(inquiry, [question for question, _ in heard])
    for attempt in range(ATTEMPTS):
        text = await reads.sample(prompt, proposal_schema(count), _TEMPERATURE, attempt)
        endings = read_proposals(text)
        fresh = [endings[at] for at in fresh_questions(endings, past)]
        if fresh:
            return [task.proposed(ending) for ending in fresh]
    logger.warning("entrostat: no new question after %d attempts", ATTEMPTS)
    return []


def _properties(inquiry: Inquiry, questions: Sequence[str]) -> list[str]:
    """The property that each question asks about."""
    found: list[str] = []
    for one in questions:
        place = inquiry.lookup.question(one)
        query = inquiry.task.open_query(one) if place is None else inquiry.task.queries[place]
        if query is not None:
            found.append(query.property)
    return found
