"""Open questions: the model proposes what to ask, and the table grows by what it proposed.

A question of the task has a fitted row in the artifact. One that the model made up has none: the
statements about it are read now, and what holds for all fitted questions is taken to hold for it.
No calibration saw such questions, so the report says that the level is not promised.
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
"""At each turn, as published."""
_TEMPERATURE = 0.7
"""As published."""
ATTEMPTS = 3
"""The published code asks for proposals until they are valid."""


class Open(NamedTuple):
    """An inquiry with the questions that are not the task's own."""

    inquiry: Inquiry
    """Task and predictor with the further questions at the end."""
    candidates: list[int] | None
    """Places of the proposals; None where there is none, and the task's own are asked."""


async def with_open_questions(
    inquiry: Inquiry, heard: Sequence[tuple[str, int]], count: int, reads: Reads
) -> Open:
    """Add the open questions of the history, and new ones.

    Args:
        inquiry: From the artifact.
        heard: Questions and answers so far, open ones among them.
        count: How many questions to propose; 0 proposes none.
        reads: The engine.

    Raises:
        ReadError: The engine failed.
    """
    task = inquiry.task
    asked = asked_openly(inquiry, [question for question, _ in heard])
    fresh = await propose(inquiry, heard, count, reads) if count else []
    new = [*asked, *fresh]
    if not new:
        return Open(inquiry, None)
    begun = await reads.tokens([label.phrase for label in task.labels])
    said = await reads.tokens([f" {query.property}" for query in new], start=False)
    pairs = [(before, words) for before in begun for words in said]
    found = torch.tensor(await reads.continuations(pairs), dtype=torch.float64)
    columns = found.reshape(len(begun), len(said))
    logprobs = torch.cat(
        [inquiry.logprobs, new_answer_logprobs(columns, inquiry.table, inquiry.model)]
    )
    longer = task.model_copy(update={"queries": (*task.queries, *new)})
    first = len(task.queries) + len(asked)
    candidates = list(range(first, first + len(fresh))) or None
    grown = inquiry._replace(task=longer, lookup=TaskIndex(longer), logprobs=logprobs)
    return Open(grown, candidates)


def asked_openly(inquiry: Inquiry, questions: Sequence[str]) -> list[Query]:
    """Those of the questions that are not the task's own, each once."""
    found = [
        query
        for one in questions
        if inquiry.lookup.question(one) is None and (query := inquiry.task.open_query(one))
    ]
    return [found[at] for at in fresh_questions([one.question for one in found], ())]


async def propose(
    inquiry: Inquiry, heard: Sequence[tuple[str, int]], count: int, reads: Reads
) -> list[Query]:
    """Questions that the model makes up, all new by their wording; possibly none.

    Args:
        inquiry: What they are about.
        heard: Questions and answers so far; none of them is asked again, in either form.
        count: How many to ask for.
        reads: The engine.

    Raises:
        ReadError: The engine failed.
    """
    task = inquiry.task
    said = [(question, answer) for question, answer in heard if answer != UNKNOWN]
    (prompt,) = await reads.tokens([proposal_prompt(task, said)])
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
    """What the questions ask about."""
    found: list[str] = []
    for one in questions:
        place = inquiry.lookup.question(one)
        query = inquiry.task.open_query(one) if place is None else inquiry.task.queries[place]
        if query is not None:
            found.append(query.property)
    return found
