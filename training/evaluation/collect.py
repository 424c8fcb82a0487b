"""Draws the answers of all arms: half of the questions choose, the other half score."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from probes.difficulty.strategies import append_text
from training.common.rollout_store import RolloutStore
from training.common.server_pool import SampleRequest, request_seed
from training.datasets.problem import Problem
from training.evaluation.arms import EvaluationArm


class AnswerGrid(NamedTuple):
    """How answers are numbered: by arm, then question, then sample."""

    num_questions: int
    num_samples: int

    def number(self, arm: int, question: int, sample: int) -> int:
        """Number of an answer."""
        return (arm * self.num_questions + question) * self.num_samples + sample


class AnswerDraw(NamedTuple):
    """Answers to draw: some arms, some questions, and the tokens that they may take."""

    grid: AnswerGrid
    arms: dict[int, EvaluationArm]
    """By their index in the grid."""
    questions: Sequence[int]
    budget: int
    """Most tokens in the store afterwards."""
    longest: int
    """Most tokens of an answer."""

    def numbers(self) -> Iterator[tuple[int, int, int]]:
        """Arm, question and sample of every answer, all arms of a question together."""
        for question in self.questions:
            for arm in self.arms:
                for sample in range(self.grid.num_samples):
                    yield arm, question, sample

    def meter(self) -> Callable[[RolloutStore], int]:
        """A function that returns the progress in percent of the answers or of the budget."""
        wanted = {self.grid.number(*one) for one in self.numbers()}
        others: int | None = None

        def percent(store: RolloutStore) -> int:
            nonlocal others
            if others is None:  # counted once: only wanted answers are added from then on
                others = len(store.rollouts.keys() - wanted)
            answered = (len(store.rollouts) - others) / max(len(wanted), 1)
            return int(100 * max(answered, min(store.num_tokens / self.budget, 1.0)))

        return percent

    def complete(self, store: RolloutStore) -> list[int]:
        """Questions that every arm has answered in full."""
        samples = range(self.grid.num_samples)
        return [
            question
            for question in self.questions
            if all(
                self.grid.number(arm, question, sample) in store.rollouts
                for arm in self.arms
                for sample in samples
            )
        ]


def halves(kinds: Sequence[str]) -> tuple[list[int], list[int]]:
    """Questions that choose and questions that score, each kind split evenly.

    Args:
        kinds: Kind of every question.
    """
    seen: dict[str, int] = {}
    parts: tuple[list[int], list[int]] = ([], [])
    for question, kind in enumerate(kinds):
        turn = seen.get(kind, len(seen) % 2)
        parts[turn].append(question)
        seen[kind] = 1 - turn
    return parts


def pending(
    draw: AnswerDraw, problems: Sequence[Problem], text: str, seed: int, store: RolloutStore
) -> Iterator[SampleRequest]:
    """Requests still to be made, as far as the budget goes even if every answer is the longest.

    The same sample of a question has the same seed in every arm, which pairs the arms.
    """
    issued: set[int] = set()
    for arm, question, sample in draw.numbers():
        number = draw.grid.number(arm, question, sample)
        if number in store.rollouts:
            continue
        issued = {one for one in issued if one not in store.rollouts}
        if store.num_tokens + (len(issued) + 1) * draw.longest > draw.budget:
            return
        issued.add(number)
        content = append_text(problems[question].prompt, text)
        yield SampleRequest(
            number,
            [{"role": "user", "content": content}],
            request_seed(seed, question * draw.grid.num_samples + sample),
            draw.arms[arm].sampling,
        )
