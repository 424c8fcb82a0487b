"""The predictor `direct`: the model is asked for the label, now and after every possible answer."""

import torch

from probes.inquiry import label_probabilities
from probes.inquiry_prompts import label_prompt
from probes.inquiry_turn import History, Outlook
from probes.likelihood import NO, UNKNOWN, YES
from probes.lookahead import answer_weights, information_gain
from server.inquiry_reads import Reads
from server.plan import InquiryPlan


class LabelsAlike(ValueError):
    """Two labels begin with the same token, so that the next token does not tell them apart."""


async def direct_outlook(
    plan: InquiryPlan, history: History, outlook: Outlook, reads: Reads
) -> Outlook:
    """Predictions read from the model, all candidates and answers in one batch.

    Args:
        plan: What is wanted.
        history: What was asked.
        outlook: By `likelihood`: which questions are left, and how likely each answer is.
        reads: The engine.

    Raises:
        LabelsAlike: The labels cannot be told apart by one token.
        ValueError: The engine failed.

    Source: C-IP (arXiv 2507.03279), the predictor.
    """
    task = plan.inquiry.task
    tokens = [reads.tokens_after(" " + name)[0] for name in task.names]
    if len(set(tokens)) < len(tokens):
        raise LabelsAlike("labels begin with the same token")
    chosen = most_promising(outlook, plan.control.max_candidates)
    questions = [outlook.questions[place] for place in chosen]
    said = [(task.questions[question], answer) for question, answer in history if answer != UNKNOWN]
    histories = [said]
    for question in questions:
        histories += [[*said, (task.questions[question], answer)] for answer in (YES, NO)]
    prompts = [reads.tokens(label_prompt(task, one)) for one in histories]
    rows = torch.tensor(await reads.logprobs(prompts, tokens), dtype=torch.float64)
    probabilities = label_probabilities(rows)
    after = probabilities[1:].reshape(len(questions), 2, len(tokens))
    return Outlook(questions, probabilities[0], after, outlook.answers[chosen])


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
