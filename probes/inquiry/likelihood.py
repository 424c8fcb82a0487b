"""A predictor made of the model's own log-likelihoods of statements.

A statement is "A zebra has stripes.", one for each of K labels and Q yes/no questions. Small models
know more than they say: asked for the label they guess, but true statements are more likely to them
than false ones. The table is computed once; after that a turn is Bayes' rule and costs no forward
pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

YES, NO = 0, 1
"""Places of the answers in `answer_logprobs`."""
UNKNOWN = -1
"""An answer that says nothing."""


class AnswerModel(NamedTuple):
    """ln P(yes) / P(no) = slope * centred log-likelihood + bias, for each question."""

    slope: Tensor
    """Per nat, shape (Q,)."""
    bias: Tensor
    """Nats, shape (Q,): some properties are rare."""
    pooled: Tensor
    """Slope and bias of all questions together, shape (2,): of log-likelihoods in units of their
    spread over the labels. What is known of a question that was not fitted."""


def centre(table: Tensor) -> Tensor:
    """Log-likelihoods less their means over the labels and over the questions.

    What is left is how much better a statement fits this label than other statements do, and than
    it fits other labels. How likely its wording is drops out, and how readily anything is said
    after this label: "A bat" is followed by an animal's properties less often than "A zebra".

    Args:
        table: Nats, shape (K, Q). Count the tokens of the property given the label, not those of
            the label: how common its name is says nothing about the answer.

    Raises:
        ValueError: A log-likelihood is not finite.
    """
    if not bool(table.isfinite().all()):
        raise ValueError("a log-likelihood is not a finite number")
    return table.double() - table.double().mean(0) - _readiness(table)


def _readiness(table: Tensor) -> Tensor:
    """How much likelier anything is after a label than after the others, nats, shape (K, 1).

    A label's mean over the questions is partly what these happen to be about: it is drawn to 0 by
    the share of its variance that the spread around it explains. One question says nothing.

    Source: Efron and Morris (1973), the empirical Bayes estimate of many means.
    """
    labels, questions = table.shape
    centred = table.double() - table.double().mean(0)
    mean = centred.mean(1, keepdim=True)
    if questions < 2:
        return torch.zeros_like(mean)
    noise = (centred - mean).square().sum() / ((labels - 1) * (questions - 1) * questions)
    return mean * (1 - noise / mean.var().clamp_min(1e-12)).clamp_min(0)


def fit_answers(table: Tensor, answers: Tensor, ridge: float = 1.0) -> AnswerModel:
    """Learn from known answers how a statement's likelihood turns into the answer.

    Logistic regression for each question, on log-likelihoods in units of their spread over the
    labels. A question has few labels to learn from, so its slope is drawn towards the one that
    fits all questions together, and its bias towards 0. Labels used here must not be used for
    conformal calibration as well.

    Args:
        table: Nats, shape (K, Q).
        answers: 1 for yes, 0 for no, NaN where unknown or not to be used, shape (K, Q).
        ridge: Precision of the priors on slope and bias, > 0; 1 is worth a few labels.

    Raises:
        ValueError: A log-likelihood is not finite, or an answer is not one of these.
    """
    answers = answers.double()
    if not bool((answers.isnan() | (answers == 0) | (answers == 1)).all()):
        raise ValueError("an answer must be 1, 0 or NaN")
    centred = centre(table)
    spread = _spread(centred)
    scaled = centred / spread
    nothing = torch.zeros(2, dtype=torch.float64)
    pooled = _logistic(scaled.reshape(-1, 1), answers.reshape(-1, 1), nothing, ridge)[0]
    slope, bias = _logistic(scaled, answers, pooled * torch.tensor([1.0, 0.0]), ridge).unbind(-1)
    return AnswerModel(slope / spread, bias, pooled)


def _spread(centred: Tensor) -> Tensor:
    spread = centred.std(0, correction=0)
    return torch.where(spread > 1e-9, spread, 1.0)


def _logistic(x: Tensor, answers: Tensor, prior: Tensor, ridge: float) -> Tensor:
    """Ridge logistic regression of each column, (slope, bias) drawn to `prior`; shape (Q, 2).

    Steps with an upper bound of the Hessian, which cannot overshoot.

    Source: Boehning and Lindsay (1988).
    """
    known = ~answers.isnan()
    target = answers.nan_to_num()
    design = torch.stack([x, torch.ones_like(x)], -1) * known.unsqueeze(-1)
    hessian = torch.einsum("kqi,kqj->qij", design, design) / 4
    step = torch.linalg.inv(hessian + ridge * torch.eye(2, dtype=x.dtype))
    theta = prior.expand(x.shape[1], 2)
    for _ in range(1000):
        surprise = (torch.einsum("kqi,qi->kq", design, theta).sigmoid() - target) * known
        gradient = torch.einsum("kq,kqi->qi", surprise, design) + ridge * (theta - prior)
        change = torch.einsum("qij,qj->qi", step, gradient)
        theta = theta - change
        if bool(change.abs().max() < 1e-10):
            break
    return theta


def answer_logprobs(table: Tensor, model: AnswerModel) -> Tensor:
    """ln P(answer | question, label) in the order YES, NO, shape (Q, 2, K).

    Args:
        table: Nats, shape (K, Q).
        model: From `fit_answers`.
    """
    return _both(centre(table) * model.slope + model.bias)


def new_answer_logprobs(columns: Tensor, table: Tensor, model: AnswerModel) -> Tensor:
    """ln P(answer | question, label) of questions that were not fitted, shape (M, 2, K).

    Args:
        columns: Log-likelihoods of their statements, nats, shape (K, M).
        table: Of the fitted questions, shape (K, Q): says how readily anything follows a label.
        model: From `fit_answers`; what holds for all its questions is taken to hold for these.

    Raises:
        ValueError: A log-likelihood is not finite.
    """
    if not bool(columns.isfinite().all()):
        raise ValueError("a log-likelihood is not a finite number")
    centred = columns.double() - columns.double().mean(0) - _readiness(table)
    slope, bias = model.pooled.double()
    return _both(centred / _spread(centred) * slope + bias)


def _both(logits: Tensor) -> Tensor:
    """ln P of yes and of no from the logits of yes; (K, Q) becomes (Q, 2, K)."""
    return torch.nn.functional.logsigmoid(torch.stack([logits.T, -logits.T], 1))


def known_answers(answers: Tensor, flip: float = 0.0) -> Tensor:
    """ln P(answer | question, label) where the answers are known, shape (Q, 2, K).

    Args:
        answers: 1 for yes, 0 for no, NaN where either may come, shape (K, Q).
        flip: Probability of a wrong answer.
    """
    yes = torch.where(answers.isnan(), 0.5, answers.double() * (1 - 2 * flip) + flip).T
    return torch.stack([yes, 1 - yes], 1).log()


def posterior(
    logprobs: Tensor, history: Sequence[tuple[int, int]], prior: Tensor | None = None
) -> Tensor:
    """Label probabilities after a history, by Bayes' rule with independent answers.

    `UNKNOWN` says nothing. Of several answers to one question the last that says something counts:
    said twice is not more evidence. Answers that no label gives together leave the prior.

    Args:
        logprobs: ln P(answer | question, label), shape (Q, A, K).
        history: Pairs of question and answer index.
        prior: Label probabilities before, shape (K,); uniform if none.

    Returns:
        Shape (K,).
    """
    num_labels = logprobs.shape[-1]
    if prior is None:
        prior = logprobs.new_full((num_labels,), 1 / num_labels)
    answers = {question: answer for question, answer in history if answer != UNKNOWN}
    heard = [logprobs[question, answer] for question, answer in sorted(answers.items())]
    return _bayes(prior, torch.stack(heard).sum(0)) if heard else prior


def posteriors_after(logprobs: Tensor, current: Tensor) -> Tensor:
    """Label probabilities after each answer to each question, shape (Q, A, K).

    An answer that no label gives leaves `current`.

    Args:
        logprobs: ln P(answer | question, label) of the candidates, shape (Q, A, K).
        current: Label probabilities now, shape (K,).
    """
    return _bayes(current, logprobs)


def _bayes(prior: Tensor, evidence: Tensor) -> Tensor:
    joint = prior.log() + evidence
    possible = (joint > -torch.inf).any(-1, keepdim=True)
    return torch.where(possible, torch.softmax(joint, -1), prior)
