"""The strategy normal with smaller budgets, from answers that are there already."""

from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from benchmarks.difficulty.arms import Arm
from training.common.rollout_store import RolloutStore
from training.datasets.problem import Problem

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def fixed_budgets(
    problems: list[Problem], normal: RolloutStore, samples: int, max_tokens: int, checkpoint: Path
) -> list[Arm]:
    """One arm for each share of `max_tokens`: a seeded answer's beginning stays the same.

    Args:
        problems: The questions.
        normal: Answers of the strategy normal, numbered as by `training.difficulty.labels.pending`.
        samples: Answers to each question.
        max_tokens: The whole budget.
        checkpoint: Whose tokenizer cuts the answers.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    arms = []
    for share in _SHARES:
        limit = max(1, int(share * max_tokens))
        figures = np.zeros((len(problems), samples, 2))
        for number, rollout in normal.rollouts.items():
            question, sample = divmod(number, samples)
            text, length = rollout.text, len(rollout.entropies)
            if length > limit:
                text = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)[:limit])
            figures[question, sample] = problems[question].is_right(text), min(length, limit)
        arms.append(Arm(f"budget {limit}", *np.moveaxis(figures.mean(1), -1, 0)))
    return arms
