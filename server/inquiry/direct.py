"""Predictor `direct`: reads label probabilities now and after each possible next answer."""

from collections.abc import Sequence

import torch

from probes.inquiry.label_tokens import Tokens, branches, label_sequences, sequence_logprobs
from probes.inquiry.likelihood import NO, UNKNOWN, YES
from probes.inquiry.lookahead import answer_weights, information_gain
from probes.inquiry.prompts import label_prompt
from probes.inquiry.pursuit import label_probabilities
from probes.inquiry.turn import History, Lookahead
from server.inquiry.engine_reads import ReadError, Reads
from server.planning.inquiry import InquiryPlan


async def label_tokens(names: Sequence[str], reads: Reads) -> list[Tokens]:
    """Tokens that distinguish the labels, from `label_sequences`.

    Raises:
        ReadError: Two labels have the same tokens.
    """
    ended = await reads.tokens([f" {name}." for name in names], start=False)
    try:
        return label_sequences(ended)
    except ValueError as error:
        raise ReadError(str(error)) from error


async def direct_lookahead(
    plan: InquiryPlan,
    history: History,
    lookahead: Lookahead,
    labels: Sequence[Tokens],
    reads: Reads,
) -> Lookahead:
    """Predict the labels for the current history and for each candidate question and answer.

    Args:
        plan: Plan of the turn.
        history: Questions and answers so far.
        lookahead: Result of `likelihood`: remaining questions and their answer probabilities.
        labels: Tokens from `label_tokens`.
        reads: Reads from the engine.

    Raises:
        ReadError: The engine failed.

    Source: C-IP (arXiv 2507.03279), the predictor.
    """
    task = plan.inquiry.task
    chosen = most_informative(lookahead, plan.control.max_candidates)
    questions = [lookahead.questions[place] for place in chosen]
    latest = {question: answer for question, answer in history if answer != UNKNOWN}
    known = [(task.questions[question], answer) for question, answer in latest.items()]
    histories = [known]
    for question in questions:
        histories += [[*known, (task.questions[question], answer)] for answer in (YES, NO)]
    prompts = await reads.tokens([label_prompt(task, one) for one in histories])
    now = await _label_logprobs(
        labels, prompts[:1], reads
    )  # first, so that the others hit its prefix cache
    rows = now + await _label_logprobs(labels, prompts[1:], reads)
    probabilities = label_probabilities(torch.tensor(rows, dtype=torch.float64))
    after = probabilities[1:].reshape(len(questions), 2, len(task.names))
    return Lookahead(questions, probabilities[0], after, lookahead.answers[chosen])


async def _label_logprobs(
    labels: Sequence[Tokens], prompts: Sequence[Sequence[int]], reads: Reads
) -> list[list[float]]:
    """Log-probability of every label after each prompt, nats."""
    places = branches(labels)
    found = [
        await reads.logprobs([[*prompt, *beginning] for prompt in prompts], tokens)
        for beginning, tokens in places.items()
    ]
    return [
        sequence_logprobs(labels, dict(zip(places, rows, strict=True)))
        for rows in zip(*found, strict=True)
    ]


def most_informative(lookahead: Lookahead, limit: int) -> list[int]:
    """Indices of the questions with the largest information gain, in ascending order.

    Args:
        lookahead: Remaining questions.
        limit: Maximum number of questions.
    """
    if len(lookahead.questions) <= limit:
        return list(range(len(lookahead.questions)))
    gain = information_gain(lookahead.after, answer_weights(lookahead.answers, lookahead.current))
    return sorted(gain.topk(limit).indices.tolist())
