"""Everything an evaluation found, and the analysis that makes it from the answers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from training.common.metrics import resample_weights
from training.datasets.problem import Problem
from training.evaluation.answers import ArmAnswers, join
from training.evaluation.arms import STRATEGIES, EvaluationArm, SkippedProfile, fixed_name
from training.evaluation.config import EvaluateConfig
from training.evaluation.flag import FlagResult, measure_flag
from training.evaluation.laws import (
    PLAIN,
    ArmFigures,
    Difference,
    TreeFigures,
    arm_figures,
    beside_plain,
    by_trees,
    differences,
    most_accurate,
    tree_figures,
)
from training.evaluation.router import (
    RoutedQuestions,
    RouterResult,
    measure_router,
    routed_questions,
)
from training.evaluation.trees import TreeAnswers


class DrawnAnswers(NamedTuple):
    """Answers to the questions of both halves, by the name of the arm."""

    choosing: dict[str, ArmAnswers]
    """Of the arms that have a part in choosing."""
    scoring: dict[str, ArmAnswers]
    problems: tuple[list[Problem], list[Problem]]
    """Questions that choose and questions that score."""
    trees: TreeAnswers | None = None
    """Of the questions that score, if they were asked for."""


class EvaluationResult(NamedTuple):
    """Results of an evaluation; `profiles` and `laws` exclude each other."""

    arms: dict[str, ArmFigures]
    """On the questions that score; against `plain`, on all."""
    best_fixed: str
    """The fixed temperature that is most accurate on the questions that choose."""
    best_law: str | None
    """Likewise, among the laws and truncations."""
    fixed: list[Difference]
    """`best_fixed` minus the plain request."""
    laws: dict[str, list[Difference]]
    flag: FlagResult | None
    routers: dict[str, RouterResult]
    skipped: list[SkippedProfile]
    num_choosing: int
    num_scoring: int
    profiles: Mapping[str, list[Difference]] = {}
    """Profiles minus the plain request."""
    trees: Mapping[str, TreeFigures] = {}
    """Of the arms that answer trees have figures of."""


SHUFFLED = "its temperatures in random order"
MEAN = "its mean temperature"
BEST = "best fixed temperature"
MIN_P = "stock min_p"


def kind_of(problem: Problem) -> str:
    """Kind of a question: its task, and its level where it has one."""
    return f"{problem.task} {problem.level}" if problem.level else problem.task


def analyze(
    config: EvaluateConfig,
    arms: Sequence[EvaluationArm],
    drawn: DrawnAnswers,
    skipped: list[SkippedProfile],
) -> EvaluationResult:
    """Compare every control with its matched controls, or with the plain request."""
    if config.against == "plain":
        return _analyze_plain(config, arms, drawn, skipped)
    scoring, seed = drawn.scoring, config.seed
    curve = [fixed_name(t) for t in config.curve]
    plain = fixed_name(config.temperature)
    laws = [arm.name for arm in arms if arm.kind in ("law", "truncation")]
    best = most_accurate(drawn.choosing, curve)
    weights = resample_weights(len(drawn.problems[1]), seed)
    compared = {
        law: [
            *by_trees(law, _controls(law, arms, plain, best), drawn.trees, seed),
            *differences(
                law, scoring, _controls(law, arms, plain, best), curve, config.votes, seed
            ),
        ]
        for law in laws
    }
    figures = {
        name: arm_figures(one, scoring[plain], config.votes, weights)
        for name, one in scoring.items()
    }
    against = differences(best, scoring, {PLAIN: plain}, curve, config.votes, seed)[:1]
    return EvaluationResult(
        figures,
        best,
        most_accurate(drawn.choosing, laws) if laws else None,
        [] if best == plain else against,
        compared,
        _flag(drawn, plain, seed),
        {arm.name: _router(arm.name, drawn, seed) for arm in arms if arm.kind == "router"},
        skipped,
        len(drawn.problems[0]),
        len(drawn.problems[1]),
        trees=tree_figures(drawn.trees, scoring, seed),
    )


def _analyze_plain(
    config: EvaluateConfig,
    arms: Sequence[EvaluationArm],
    drawn: DrawnAnswers,
    skipped: list[SkippedProfile],
) -> EvaluationResult:
    answers = {name: join(one, drawn.scoring[name]) for name, one in drawn.choosing.items()}
    plain, k, seed = fixed_name(config.temperature), config.votes, config.seed
    number = len(answers[plain].right)
    weights = resample_weights(number, seed)
    return EvaluationResult(
        arms={name: arm_figures(one, answers[plain], k, weights) for name, one in answers.items()},
        best_fixed=plain,
        best_law=None,
        fixed=[],
        laws={},
        flag=_flag(drawn, plain, seed),
        routers={},
        skipped=skipped,
        num_choosing=0,
        num_scoring=number,
        profiles={
            arm.name: beside_plain(answers[arm.name], answers[plain], k, seed)
            for arm in arms
            if arm.kind == "profile"
        },
    )


def _controls(law: str, arms: Sequence[EvaluationArm], plain: str, best: str) -> dict[str, str]:
    own = {arm.kind: arm.name for arm in arms if arm.of == law}
    min_p = next((arm.name for arm in arms if arm.kind == "min_p"), "")
    named = {
        SHUFFLED: own.get("shuffled", ""),
        MEAN: own.get("mean", ""),
        f"{BEST}, {best}": best if best != plain else "",
        f"{PLAIN}, {plain}": plain,
        MIN_P: min_p,
    }
    return {called: arm for called, arm in named.items() if arm}


def _flag(drawn: DrawnAnswers, plain: str, seed: int) -> FlagResult | None:
    """The flag on all questions, fitted on one half and scored on the other, in both directions."""
    first, second = drawn.choosing[plain], drawn.scoring[plain]
    both = join(first, second)
    problems = [*drawn.problems[0], *drawn.problems[1]]
    half = np.repeat([0.0, 1.0], [len(first.right), len(second.right)])
    kinds = [kind_of(problem) for problem in problems]
    return measure_flag(both, kinds, [len(one.prompt) for one in problems], half, seed)


def _router(name: str, drawn: DrawnAnswers, seed: int) -> RouterResult:
    def half(answers: Mapping[str, ArmAnswers], problems: list[Problem]) -> RoutedQuestions:
        strategies = {word: answers[f"{name}: always {word}"] for word in STRATEGIES}
        texts = [problem.prompt for problem in problems]
        kinds = [kind_of(problem) for problem in problems]
        return routed_questions(texts, kinds, answers[name], strategies)

    seen, new = half(drawn.choosing, drawn.problems[0]), half(drawn.scoring, drawn.problems[1])
    return measure_router(seen, new, list(STRATEGIES), seed)
