"""Draws the answers of an evaluation in the order that its comparison needs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from training.common.errors import TrainingError
from training.common.rollout_store import RolloutStore
from training.common.sampling import sample_missing
from training.common.server_pool import RolloutRecord, ServerPool
from training.datasets.problem import Problem
from training.evaluation.answers import ArmAnswers, read_answers
from training.evaluation.arms import EvaluationArm, fixed_name, is_computed, matched
from training.evaluation.collect import AnswerDraw, AnswerGrid, halves, pending
from training.evaluation.config import EvaluateConfig
from training.evaluation.results import DrawnAnswers, kind_of
from training.evaluation.trees import TreeAnswers, has_probabilities, measure_trees

MIN_QUESTIONS = 4
"""Least questions of a half that every arm has answered."""


class AnswerSource(NamedTuple):
    """Where the answers to the questions of a task come from and go to."""

    fleet: ServerPool
    run: Path
    problems: list[Problem]
    config: EvaluateConfig
    console: Console

    @property
    def grid(self) -> AnswerGrid:
        """How the answers are numbered."""
        return AnswerGrid(len(self.problems), self.config.samples)

    def wanted(
        self, arms: dict[int, EvaluationArm], questions: Sequence[int], share: float = 1.0
    ) -> AnswerDraw:
        """Answers to draw for a share of the budget."""
        budget = int(share * self.config.budget)
        return AnswerDraw(self.grid, arms, questions, budget, self.config.max_tokens)

    async def draw(self, wanted: AnswerDraw, *, fresh: bool) -> RolloutStore:
        """Sample what the run folder does not have yet."""
        problems, config = self.problems, self.config
        return await sample_missing(
            self.fleet,
            self.run,
            lambda store: pending(wanted, problems, config.instruction, config.seed, store),
            self.console,
            fresh=fresh,
            total=100,
            unit="%",
            done=wanted.meter(),
        )

    def halves(self) -> tuple[list[int], list[int]]:
        """Questions that choose and questions that score."""
        return halves([kind_of(problem) for problem in self.problems])

    def read(
        self, arms: Mapping[int, EvaluationArm], questions: Sequence[int], store: RolloutStore
    ) -> dict[str, ArmAnswers]:
        """The graded answers of arms."""
        return {
            arm.name: read_answers(self.problems, questions, index, self.grid, store)
            for index, arm in arms.items()
        }

    def records(
        self, arms: Mapping[int, EvaluationArm], questions: Sequence[int], store: RolloutStore
    ) -> dict[str, list[list[RolloutRecord]]]:
        """The answers of arms themselves, by question and sample."""
        grid = self.grid
        return {
            arm.name: [
                [store.rollouts[grid.number(i, q, sample)] for sample in range(grid.num_samples)]
                for q in questions
            ]
            for i, arm in arms.items()
        }

    def of(self, questions: Sequence[int]) -> list[Problem]:
        """The questions themselves."""
        return [self.problems[question] for question in questions]


async def draw_halves(
    source: AnswerSource, arms: list[EvaluationArm]
) -> tuple[list[EvaluationArm], DrawnAnswers, int]:
    """One half of the questions chooses, the matched controls among others; the other scores."""
    config, (choosing, scoring) = source.config, source.halves()
    first = {i: arm for i, arm in enumerate(arms) if arm.sampling and arm.kind != "min_p"}
    second = [i for i, arm in enumerate(arms) if not is_computed(arm, config)]
    one = source.wanted(first, choosing, len(first) / (len(first) + len(second)))
    store = await source.draw(one, fresh=config.fresh)
    seen = _enough(one.complete(store), config)
    arms = _with_matched(arms, source.grid, seen, store, config)
    two = source.wanted({i: arms[i] for i in second}, scoring)
    store = await source.draw(two, fresh=False)
    new = _enough(two.complete(store), config)
    source.console.print("grading and comparing the answers")
    old, scored = source.read(first, seen, store), source.read(two.arms, new, store)
    trees = _trees(source, arms, new, store, scored) if config.trees else None
    drawn = DrawnAnswers(old, scored, (source.of(seen), source.of(new)), trees=trees)
    return arms, drawn, store.num_tokens


def _trees(
    source: AnswerSource,
    arms: Sequence[EvaluationArm],
    questions: Sequence[int],
    store: RolloutStore,
    scored: Mapping[str, ArmAnswers],
) -> TreeAnswers | None:
    base = source.config.temperature
    known = {i: arm for i, arm in enumerate(arms) if has_probabilities(arm)}
    drawn = {i: arm for i, arm in known.items() if arm.name in scored}
    records = source.records(drawn, questions, store)
    right = {name: scored[name].right for name in records}
    return measure_trees(list(known.values()), fixed_name(base), base, records, right)


async def draw_all(
    source: AnswerSource, arms: list[EvaluationArm]
) -> tuple[list[EvaluationArm], DrawnAnswers, int]:
    """All arms answer all questions; the halves matter only to the flag.

    Raises:
        TrainingError: The server takes no profile, or the budget covers too few questions.
    """
    if not any(arm.kind == "profile" for arm in arms):
        raise TrainingError("--against plain: the server takes none of these profiles")
    wanted = source.wanted(dict(enumerate(arms)), range(len(source.problems)))
    store = await source.draw(wanted, fresh=source.config.fresh)
    answered = set(wanted.complete(store))
    seen, new = (
        _enough([question for question in half if question in answered], source.config)
        for half in source.halves()
    )
    source.console.print("grading and comparing the answers")
    parts = [source.read(wanted.arms, questions, store) for questions in (seen, new)]
    drawn = DrawnAnswers(parts[0], parts[1], (source.of(seen), source.of(new)))
    return arms, drawn, store.num_tokens


def _enough(questions: list[int], config: EvaluateConfig) -> list[int]:
    if len(questions) < MIN_QUESTIONS:
        raise TrainingError(
            f"--budget {config.budget} covers only {len(questions)} questions of a half, at least "
            f"{MIN_QUESTIONS} are needed: raise it and re-run, or take fewer --samples, --profiles "
            "or --max-tokens"
        )
    return questions


def _with_matched(
    arms: Sequence[EvaluationArm],
    grid: AnswerGrid,
    questions: Sequence[int],
    store: RolloutStore,
    config: EvaluateConfig,
) -> list[EvaluationArm]:
    """All arms; controls get the temperatures that their laws applied to these questions."""
    index = {arm.name: number for number, arm in enumerate(arms)}

    def temperatures(law: str) -> list[float]:
        numbers = (
            grid.number(index[law], question, sample)
            for question in questions
            for sample in range(grid.num_samples)
        )
        found = (t for n in numbers for t in store.rollouts[n].temperatures)
        return [temperature for temperature in found if temperature is not None]

    return [arm if arm.sampling else matched(arm, temperatures(arm.of), config) for arm in arms]
