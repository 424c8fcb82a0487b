"""Laws beside the controls that they have to beat, on questions that chose nothing."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from training.common.metrics import (
    Floats,
    Interval,
    interval,
    resample_weights,
    smallest_difference,
)
from training.evaluation.answers import ArmAnswers
from training.evaluation.estimators import at_equal
from training.evaluation.trees import TreeAnswers

PLAIN = "plain request"
ACCURACY, TREE = "accuracy", "accuracy by answer trees"
"""Figures of a difference."""


class ArmFigures(NamedTuple):
    """Figures of one arm."""

    accuracy: Interval
    pass_at_k: Interval
    majority_at_k: Interval
    distinct: Interval
    """Different answers to a question."""
    tokens: Interval
    """Of an answer."""
    temperature_mean: float
    entropy_mean: float
    cut: float
    """Share of answers that reached the limit of tokens."""
    same: float
    """Share of answers with the very text of the plain request of the same seed."""


class Difference(NamedTuple):
    """An arm minus a control on the same questions, and what could have been seen."""

    control: str
    figure: str
    """What is compared, such as accuracy."""
    value: Interval
    smallest: float
    """The difference that so many questions would show in 80 % of experiments."""

    @property
    def is_above(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.value.low > 0

    @property
    def is_below(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.value.high < 0


class TreeFigures(NamedTuple):
    """What answer trees tell about one arm."""

    accuracy: Interval
    unseen: float
    """Probability of the answers that nobody drew, mean over questions."""
    counted_minus_tree: Interval | None
    """The accuracy of its own answers minus that of the trees; None for an arm without answers."""


def tree_figures(
    trees: TreeAnswers | None, answers: Mapping[str, ArmAnswers], seed: int
) -> dict[str, TreeFigures]:
    """Figures of every arm, and whether they agree with its own answers where it has any."""
    if trees is None:
        return {}
    weights = resample_weights(len(trees.questions), seed)

    def over_questions(column: Floats) -> Interval:
        return interval(float(column.mean()), weights @ column)

    return {
        name: TreeFigures(
            over_questions(accuracy),
            float(trees.unseen[name].mean()),
            over_questions(answers[name].right[trees.questions].mean(1) - accuracy)
            if name in answers
            else None,
        )
        for name, accuracy in trees.accuracy.items()
    }


def by_trees(
    law: str, controls: Mapping[str, str], trees: TreeAnswers | None, seed: int
) -> list[Difference]:
    """A law against its controls on the same answers, drawn or not."""
    if trees is None or law not in trees.accuracy:
        return []
    weights = resample_weights(len(trees.questions), seed)
    found = []
    for called, arm in controls.items():
        if arm in trees.accuracy:
            gain = trees.accuracy[law] - trees.accuracy[arm]
            values = weights @ gain
            value = interval(float(gain.mean()), values)
            found.append(Difference(called, TREE, value, smallest_difference(values)))
    return found


def arm_figures(answers: ArmAnswers, plain: ArmAnswers, k: int, weights: Floats) -> ArmFigures:
    """Figures of an arm with intervals over its questions."""

    def over_questions(column: Floats) -> Interval:
        return interval(float(column.mean()), weights @ column)

    return ArmFigures(
        accuracy=over_questions(answers.right.mean(1)),
        pass_at_k=over_questions(answers.pass_at(k)),
        majority_at_k=over_questions(answers.majority_at(k)),
        distinct=over_questions(answers.distinct()),
        tokens=over_questions(answers.tokens.mean(1)),
        temperature_mean=float(answers.temperatures.mean()) if len(answers.temperatures) else 0.0,
        entropy_mean=float(answers.entropy_mean.mean()),
        cut=float(answers.cut.mean()),
        same=answers.share_equal(plain),
    )


def differences(
    name: str,
    answers: Mapping[str, ArmAnswers],
    controls: Mapping[str, str],
    curve: list[str],
    k: int,
    seed: int,
) -> list[Difference]:
    """A law against its controls, paired.

    Args:
        name: Arm of the law.
        answers: Of every arm, to the same questions.
        controls: Arms by what the page calls them; arms that are missing are left out.
        curve: Arms with fixed temperatures. The law's pass@k is compared with that of the curve
            where the curve is as accurate, between two of its points if need be.
        k: Of pass@k.
        seed: Of the resamples.
    """
    law = answers[name]
    weights = resample_weights(len(law.right), seed)
    found = []
    for called, arm in controls.items():
        if arm in answers:
            gain = law.right.mean(1) - answers[arm].right.mean(1)
            values = weights @ gain
            value = interval(float(gain.mean()), values)
            found.append(Difference(called, ACCURACY, value, smallest_difference(values)))
    once = np.full((1, len(law.right)), 1 / len(law.right))
    fixed = [answers[arm] for arm in curve]
    values = _beyond_curve(law, fixed, k, weights)
    beyond = interval(float(_beyond_curve(law, fixed, k, once)[0]), values)
    return [
        *found,
        Difference(
            "fixed temperatures at equal accuracy",
            f"pass@{k}",
            beyond,
            smallest_difference(values),
        ),
    ]


def beside_plain(answers: ArmAnswers, plain: ArmAnswers, k: int, seed: int) -> list[Difference]:
    """A profile against the plain request, paired.

    Args:
        answers: Of the profile.
        plain: Of the plain request, to the same questions.
        k: Of pass@k.
        seed: Of the resamples.
    """
    gains = {
        ACCURACY: answers.right.mean(1) - plain.right.mean(1),
        f"pass@{k}": answers.pass_at(k) - plain.pass_at(k),
        "tokens": answers.tokens.mean(1) - plain.tokens.mean(1),
    }
    found = []
    for figure, gain in gains.items():
        values = resample_weights(len(gain), seed) @ gain
        value = interval(float(gain.mean()), values)
        found.append(Difference(PLAIN, figure, value, smallest_difference(values)))
    return found


def _beyond_curve(law: ArmAnswers, curve: list[ArmAnswers], k: int, weights: Floats) -> Floats:
    accuracy = np.stack([weights @ arm.right.mean(1) for arm in curve], 1)
    passed = np.stack([weights @ arm.pass_at(k) for arm in curve], 1)
    own = weights @ law.right.mean(1)
    return np.asarray(weights @ law.pass_at(k) - at_equal(own, accuracy, passed))


def most_accurate(answers: Mapping[str, ArmAnswers], names: list[str]) -> str:
    """The arm with the highest accuracy; of equal ones the first."""
    return max(names, key=lambda name: float(answers[name].right.mean()))
