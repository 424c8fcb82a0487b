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
from probes.inquiry.likelihood import UNKNOWN, new_answer_logprobs
from probes.inquiry.prompts import proposal_prompt, proposal_schema, read_proposals
from probes.inquiry.pursuit import fresh_questions, wording
from probes.inquiry.task import Query, Task
from server.inquiry.engine_reads import Reads

logger = logging.getLogger("vllm.entrostat")

PROPOSALS = 5
"""At each turn, as published."""
_TEMPERATURE = 0.7
"""As published."""
_ATTEMPTS = 3
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
        ValueError: The engine failed.
    """
    task = inquiry.task
    known = set(map(wording, task.questions))
    asked = [query for question, _ in heard if (query := task.open_query(question)) is not None]
    asked = [query for query in asked if wording(query.question) not in known]
    asked = [asked[at] for at in fresh_questions([one.question for one in asked], ())]
    fresh = await propose(task, heard, count, reads) if count else []
    new = [*asked, *fresh]
    if not new:
        return Open(inquiry, None)
    begun = [reads.tokens(label.phrase) for label in task.labels]
    said = [reads.tokens_after(f" {query.property}") for query in new]
    pairs = [(before, words) for before in begun for words in said]
    found = torch.tensor(await reads.continuations(pairs), dtype=torch.float64)
    columns = found.reshape(len(begun), len(said))
    logprobs = torch.cat(
        [inquiry.logprobs, new_answer_logprobs(columns, inquiry.table, inquiry.model)]
    )
    longer = task.model_copy(update={"queries": (*task.queries, *new)})
    first = len(task.queries) + len(asked)
    candidates = list(range(first, first + len(fresh))) or None
    return Open(inquiry._replace(task=longer, logprobs=logprobs), candidates)


async def propose(
    task: Task, heard: Sequence[tuple[str, int]], count: int, reads: Reads
) -> list[Query]:
    """Questions that the model makes up, all new by their wording; possibly none.

    Args:
        task: What they are about.
        heard: Questions and answers so far; none of them is asked again, in either form.
        count: How many to ask for.
        reads: The engine.

    Raises:
        ValueError: The engine failed.
    """
    said = [(question, answer) for question, answer in heard if answer != UNKNOWN]
    prompt = reads.tokens(proposal_prompt(task, said))
    past = _properties(task, [question for question, _ in heard])
    for attempt in range(_ATTEMPTS):
        text = await reads.sample(prompt, proposal_schema(count), _TEMPERATURE, attempt)
        endings = read_proposals(text)
        fresh = [endings[at] for at in fresh_questions(endings, past)]
        if fresh:
            return [task.proposed(ending) for ending in fresh]
    logger.warning("entrostat: no new question after %d attempts", _ATTEMPTS)
    return []


def _properties(task: Task, questions: Sequence[str]) -> list[str]:
    """What the questions ask about."""
    own = {wording(query.question): query for query in task.queries}
    found = [own.get(wording(one)) or task.open_query(one) for one in questions]
    return [query.property for query in found if query is not None]
