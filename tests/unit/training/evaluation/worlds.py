"""Answers made up so that the truth about them is known."""

import numpy as np

from training.evaluation.answers import ArmAnswers


def made_up(
    right: np.ndarray,
    *,
    tokens: float | np.ndarray = 10.0,
    entropy: np.ndarray | None = None,
    labels: list[str | None] | None = None,
) -> ArmAnswers:
    """Answers of an arm; every wrong answer differs from the others."""
    column = np.ones_like(right)
    measured = column if entropy is None else entropy
    return ArmAnswers(
        right=right,
        tokens=column * tokens,
        entropy_mean=measured,
        entropy_max=measured * 2,
        varentropy_mean=measured * 3,
        logprob_mean=-measured,
        logprob_sum=-measured * 10,
        final_entropy_mean=measured,
        final_varentropy_mean=measured * 3,
        final_logprob_mean=-measured,
        final_logprob_sum=-measured * 10,
        cut=column * 0,
        wrong_votes=[(1,) * int((1 - row).sum()) for row in right],
        temperatures=np.array([0.5, 0.7]),
        labels=labels or [None] * len(right),
        texts=[tuple(f"{q} {s} {x}" for s, x in enumerate(row)) for q, row in enumerate(right)],
    )


def coin(share: float | np.ndarray, questions: int, samples: int, seed: int) -> np.ndarray:
    """Answers that are right with a probability, independently."""
    draw = np.random.default_rng(seed).random((questions, samples))
    return (draw < np.reshape(share, (-1, 1))).astype(float)
