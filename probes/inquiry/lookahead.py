"""Expected effect of a question: size of the prediction set, entropy, entropy bound, gain.

Q candidate questions, A answers to each, K labels. Entropies are in nats; the published code uses
bits, which gives the same ranking. Uses float64, so that equal sums of weights agree to 1e-9.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.inquiry.words import LabelWeights


def answer_weights(
    answers: Float[Tensor, "questions answers labels"],
    posterior: Float[Tensor, " labels"],
    labels: LabelWeights = "posterior",
) -> Float[Tensor, "questions answers labels"]:
    """Joint probability of the true label and its answer.

    The published code samples a few labels and averages over their answers; this is the exact
    expectation.

    Args:
        answers: P(answer | question, label), shape (Q, A, K).
        posterior: Label probabilities now, shape (K,).
        labels: Distribution of the label that answers.

    Returns:
        Shape (Q, A, K); sums to 1 for each question.
    """
    weights = posterior if labels == "posterior" else torch.full_like(posterior, 1 / len(posterior))
    return answers * weights


def expected_size(
    sets: Bool[Tensor, "questions answers labels"],
    weights: Float[Tensor, "questions answers labels"],
) -> Float[Tensor, " questions"]:
    """Mean size of the prediction set after the answer, shape (Q,).

    Args:
        sets: Membership after each answer, bool, shape (Q, A, K).
        weights: From `answer_weights`, shape (Q, A, K).

    Source: C-IP (arXiv 2507.03279), the selection rule; its logarithm is monotone and left out.
    """
    return (weights.sum(-1) * sets.sum(-1)).sum(-1)


def expected_entropy(
    posteriors: Float[Tensor, "questions answers labels"],
    weights: Float[Tensor, "questions answers labels"],
) -> Float[Tensor, " questions"]:
    """Mean entropy of the prediction after the answer, in nats, shape (Q,).

    Args:
        posteriors: Label probabilities after each answer, shape (Q, A, K).
        weights: From `answer_weights`, shape (Q, A, K).

    Source: information pursuit, as the baseline of C-IP (arXiv 2507.03279).
    """
    return (weights.sum(-1) * entropy_from_logits(posteriors.log())).sum(-1)


def information_gain(
    posteriors: Float[Tensor, "questions answers labels"],
    weights: Float[Tensor, "questions answers labels"],
) -> Float[Tensor, " questions"]:
    """Information gain of a question, in nats, shape (Q,), >= 0.

    H(mean prediction) - mean H(prediction). If the predictions follow from the weights by Bayes'
    rule, this is the mutual information of label and answer. For any predictor it is 0 exactly if
    all possible answers lead to the same prediction.

    Args:
        posteriors: Label probabilities after each answer, shape (Q, A, K).
        weights: From `answer_weights`, shape (Q, A, K).
    """
    mean = (weights.sum(-1, keepdim=True) * posteriors).sum(-2)
    gain = entropy_from_logits(mean.log()) - expected_entropy(posteriors, weights)
    return gain.clamp_min(0.0)


def entropy_bound(
    sets: Bool[Tensor, "questions answers labels"],
    weights: Float[Tensor, "questions answers labels"],
    confidence_level: float,
    num_samples: int,
) -> Float[Tensor, " questions"]:
    """Upper bound on the entropy of the label from the sizes of its sets, in nats, shape (Q,).

    h(a) + a E[ln(K - |C|) | outside] + (1 - a + 1 / (n + 1)) E[ln |C| | inside], with a = 1 - level
    and h the binary entropy. A case that does not occur contributes 0, as published: a question
    whose sets are all empty looks best, which `empty="full"` prevents.

    Args:
        sets: Membership after each answer, bool, shape (Q, A, K).
        weights: From `answer_weights`, shape (Q, A, K).
        confidence_level: Level of the sets, in (0, 1).
        num_samples: Calibration samples n. The published code puts the number of look-ahead
            samples here, which makes a - 1 / (n + 1) negative.

    Source: C-IP (arXiv 2507.03279), proposition 3.1.
    """
    miss = 1 - confidence_level
    size = sets.sum(-1)
    inside, outside = weights * sets, weights * ~sets
    binary = -miss * math.log(miss) - confidence_level * math.log(confidence_level)
    missed = _mean((sets.shape[-1] - size).clamp_min(1).log(), outside)
    held = _mean(size.clamp_min(1).log(), inside)
    return binary + miss * missed + (confidence_level + 1 / (num_samples + 1)) * held


def _mean(
    values: Float[Tensor, "questions answers"], weights: Float[Tensor, "questions answers labels"]
) -> Float[Tensor, " questions"]:
    """Mean of values (Q, A) under weights (Q, A, K); 0 where there is no weight."""
    total = weights.sum((-2, -1))
    mean = (values * weights.sum(-1)).sum(-1) / total
    return torch.where(total > 0, mean, 0.0)
