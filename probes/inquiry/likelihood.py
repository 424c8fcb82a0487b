"""A predictor based on the model's log-likelihoods of statements.

There is a statement, such as "A zebra has stripes.", for each of K labels and Q yes/no questions. A
small model that is asked for the label answers at chance level, but gives true statements a higher
likelihood than false ones. The table is computed once; a turn then applies Bayes' rule and costs no
forward pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

YES, NO = 0, 1
"""Indices of the answers in `answer_logprobs`."""
UNKNOWN = -1
"""An answer without information."""


class AnswerModel(NamedTuple):
    """ln P(yes) / P(no) = slope * centered log-likelihood + bias, for each question."""

    slope: Float[Tensor, " questions"]
    """Per nat, shape (Q,)."""
    bias: Float[Tensor, " questions"]
    """Nats, shape (Q,)."""
    pooled: Float[Tensor, "2"]
    """Slope and bias fitted to all questions together, shape (2,), for log-likelihoods in units of
    their spread over the labels. Used for questions that were not fitted."""


def center(table: Float[Tensor, "labels questions"]) -> Float[Tensor, "labels questions"]:
    """Center log-likelihoods over the labels and over the questions.

    This removes two effects that do not depend on the truth of a statement: the likelihood of its
    wording, and the likelihood of any property after the label ("A bat" is followed by an animal's
    properties less often than "A zebra").

    Args:
        table: Nats, shape (K, Q). Log-likelihood of the property's tokens given the label, without
            the label's own tokens: the frequency of its name is unrelated to the answer.

    Raises:
        ValueError: A log-likelihood is not finite.
    """
    if not bool(table.isfinite().all()):
        raise ValueError("a log-likelihood is not a finite number")
    return table.double() - table.double().mean(0) - _label_effect(table)


def _label_effect(table: Float[Tensor, "labels questions"]) -> Float[Tensor, "labels 1"]:
    """Effect of a label on the likelihood of any statement, nats, shape (K, 1).

    A label's mean over the questions depends partly on the choice of questions, so it is shrunk
    toward 0 by the share of its variance that sampling noise explains. It is 0 for one question.

    Source: Efron and Morris (1973), the empirical Bayes estimate of many means.
    """
    labels, questions = table.shape
    centered = table.double() - table.double().mean(0)
    mean = centered.mean(1, keepdim=True)
    if questions < 2:
        return torch.zeros_like(mean)
    noise = (centered - mean).square().sum() / ((labels - 1) * (questions - 1) * questions)
    return mean * (1 - noise / mean.var().clamp_min(1e-12)).clamp_min(0)


def fit_answers(
    table: Float[Tensor, "labels questions"],
    answers: Float[Tensor, "labels questions"],
    ridge: float = 1.0,
) -> AnswerModel:
    """Fit the mapping from a statement's log-likelihood to the answer, using known answers.

    Fits one logistic regression per question, on log-likelihoods in units of their spread over the
    labels. There are few labels per question, so the slope is shrunk toward the slope fitted to
    all questions together, and the bias toward 0. Do not use the same labels for conformal
    calibration.

    Args:
        table: Nats, shape (K, Q).
        answers: 1 for yes, 0 for no, NaN where unknown or not to be used, shape (K, Q).
        ridge: Precision of the priors on slope and bias, > 0; 1 has the weight of a few labels.

    Raises:
        ValueError: A log-likelihood is not finite, or an answer is not 1, 0 or NaN.
    """
    answers = answers.double()
    if not bool((answers.isnan() | (answers == 0) | (answers == 1)).all()):
        raise ValueError("an answer must be 1, 0 or NaN")
    centered = center(table)
    spread = _spread(centered)
    scaled = centered / spread
    nothing = torch.zeros(2, dtype=torch.float64)
    pooled = _logistic(scaled.reshape(-1, 1), answers.reshape(-1, 1), nothing, ridge)[0]
    slope, bias = _logistic(scaled, answers, pooled * torch.tensor([1.0, 0.0]), ridge).unbind(-1)
    return AnswerModel(slope / spread, bias, pooled)


def _spread(centered: Float[Tensor, "labels questions"]) -> Float[Tensor, " questions"]:
    spread = centered.std(0, correction=0)
    return torch.where(spread > 1e-9, spread, 1.0)


def _logistic(
    x: Float[Tensor, "rows columns"],
    answers: Float[Tensor, "rows columns"],
    prior: Float[Tensor, "2"],
    ridge: float,
) -> Float[Tensor, "columns 2"]:
    """Ridge logistic regression of each column; (slope, bias) shrink to `prior`. Shape (Q, 2).

    Steps use an upper bound of the Hessian and therefore cannot overshoot.

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


def answer_logprobs(
    table: Float[Tensor, "labels questions"], model: AnswerModel
) -> Float[Tensor, "questions 2 labels"]:
    """ln P(answer | question, label) in the order YES, NO, shape (Q, 2, K).

    Args:
        table: Nats, shape (K, Q).
        model: From `fit_answers`.
    """
    return _yes_no_logprobs(center(table) * model.slope + model.bias)


def new_answer_logprobs(
    columns: Float[Tensor, "labels candidates"],
    table: Float[Tensor, "labels questions"],
    model: AnswerModel,
) -> Float[Tensor, "candidates 2 labels"]:
    """ln P(answer | question, label) of questions that were not fitted, shape (M, 2, K).

    Args:
        columns: Log-likelihoods of their statements, nats, shape (K, M).
        table: Of the fitted questions, shape (K, Q); gives the effect of each label.
        model: From `fit_answers`; its pooled slope and bias are applied to these questions.

    Raises:
        ValueError: A log-likelihood is not finite.
    """
    if not bool(columns.isfinite().all()):
        raise ValueError("a log-likelihood is not a finite number")
    centered = columns.double() - columns.double().mean(0) - _label_effect(table)
    slope, bias = model.pooled.double()
    return _yes_no_logprobs(centered / _spread(centered) * slope + bias)


def _yes_no_logprobs(
    logits: Float[Tensor, "labels questions"],
) -> Float[Tensor, "questions 2 labels"]:
    """ln P of yes and no from the logits of yes; shape (K, Q) to (Q, 2, K)."""
    return torch.nn.functional.logsigmoid(torch.stack([logits.T, -logits.T], 1))


def known_answers(
    answers: Float[Tensor, "labels questions"], flip: float = 0.0
) -> Float[Tensor, "questions 2 labels"]:
    """ln P(answer | question, label) where the answers are known, shape (Q, 2, K).

    Args:
        answers: 1 for yes, 0 for no, NaN where both are possible, shape (K, Q).
        flip: Probability of a wrong answer.
    """
    yes = torch.where(answers.isnan(), 0.5, answers.double() * (1 - 2 * flip) + flip).T
    return torch.stack([yes, 1 - yes], 1).log()


def posterior(
    logprobs: Float[Tensor, "questions answers labels"],
    history: Sequence[tuple[int, int]],
    prior: Float[Tensor, " labels"] | None = None,
) -> Float[Tensor, " labels"]:
    """Label probabilities after a history, by Bayes' rule with independent answers.

    `UNKNOWN` has no effect. If a question was answered several times, only the last known answer
    counts: a repetition is not more evidence. Answers that no label can give return the prior.

    Args:
        logprobs: ln P(answer | question, label), shape (Q, A, K).
        history: Pairs of question and answer index.
        prior: Prior label probabilities, shape (K,); None is uniform.

    Returns:
        Shape (K,).
    """
    num_labels = logprobs.shape[-1]
    if prior is None:
        prior = logprobs.new_full((num_labels,), 1 / num_labels)
    answers = {question: answer for question, answer in history if answer != UNKNOWN}
    evidence = [logprobs[question, answer] for question, answer in sorted(answers.items())]
    return _bayes(prior, torch.stack(evidence).sum(0)) if evidence else prior


def posteriors_after(
    logprobs: Float[Tensor, "questions answers labels"], current: Float[Tensor, " labels"]
) -> Float[Tensor, "questions answers labels"]:
    """Label probabilities after each answer to each question, shape (Q, A, K).

    An answer that no label can give returns `current`.

    Args:
        logprobs: ln P(answer | question, label) of the candidates, shape (Q, A, K).
        current: Label probabilities now, shape (K,).
    """
    return _bayes(current, logprobs)


def _bayes(
    prior: Float[Tensor, "*#batch labels"], evidence: Float[Tensor, "*batch labels"]
) -> Float[Tensor, "*batch labels"]:
    joint = prior.log() + evidence
    possible = (joint > -torch.inf).any(-1, keepdim=True)
    return torch.where(possible, torch.softmax(joint, -1), prior)
