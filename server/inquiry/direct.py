"""The predictor `direct`: the model is asked for the label, now and after every possible answer."""

import asyncio
from collections.abc import Sequence

import torch

from probes.inquiry.label_tokens import branches, label_sequences, sequence_logprobs
from probes.inquiry.likelihood import NO, UNKNOWN, YES
from probes.inquiry.lookahead import answer_weights, information_gain
from probes.inquiry.prompts import label_prompt
from probes.inquiry.pursuit import label_probabilities
from probes.inquiry.turn import History, Outlook
from server.inquiry.engine_reads import Reads
from server.planning.plan import InquiryPlan


async def direct_outlook(
    plan: InquiryPlan, history: History, outlook: Outlook, reads: Reads
) -> Outlook:
    """Predictions read from the model, all candidates and answers in one batch after the present.

    Args:
        plan: What is wanted.
        history: What was asked.
        outlook: By `likelihood`: which questions are left, and how likely each answer is.
        reads: The engine.

    Raises:
        ValueError: Two labels have the same tokens, or the engine failed.

    Source: C-IP (arXiv 2507.03279), the predictor.
    """
    task = plan.inquiry.task
    chosen = most_promising(outlook, plan.control.max_candidates)
    questions = [outlook.questions[place] for place in chosen]
    said = [(task.questions[question], answer) for question, answer in history if answer != UNKNOWN]
    histories = [said]
    for question in questions:
        histories += [[*said, (task.questions[question], answer)] for answer in (YES, NO)]
    prompts = [reads.tokens(label_prompt(task, one)) for one in histories]
    now = await _label_logprobs(task.names, prompts[:1], reads)  # first: the others find its blocks
    rows = now + await _label_logprobs(task.names, prompts[1:], reads)
    probabilities = label_probabilities(torch.tensor(rows, dtype=torch.float64))
    after = probabilities[1:].reshape(len(questions), 2, len(task.names))
    return Outlook(questions, probabilities[0], after, outlook.answers[chosen])


async def _label_logprobs(
    names: Sequence[str], prompts: Sequence[Sequence[int]], reads: Reads
) -> list[list[float]]:
    """Log-probability of every label after each prompt, nats."""
    if not prompts:
        return []
    sequences = label_sequences([reads.tokens_after(f" {name}.") for name in names])
    places = branches(sequences)
    found = await asyncio.gather(
        *(
            reads.logprobs([[*prompt, *beginning] for prompt in prompts], tokens)
            for beginning, tokens in places.items()
        )
    )
    return [
        sequence_logprobs(sequences, dict(zip(places, rows, strict=True)))
        for rows in zip(*found, strict=True)
    ]


def most_promising(outlook: Outlook, limit: int) -> list[int]:
    """Places of the questions with the largest gain, in their order.

    Args:
        outlook: Questions left.
        limit: How many to keep.
    """
    if len(outlook.questions) <= limit:
        return list(range(len(outlook.questions)))
    gain = information_gain(outlook.after, answer_weights(outlook.answers, outlook.current))
    return sorted(gain.topk(limit).indices.tolist())
