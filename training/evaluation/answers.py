"""The answers of an arm as arrays, graded."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from clients.parts import tokens_of
from probes.graders import GraderName, final_span, stated_answer
from training.common.metrics import Floats
from training.common.rollout_store import RolloutStore
from training.common.server_pool import RolloutRecord
from training.datasets.problem import Problem
from training.evaluation.collect import AnswerGrid
from training.evaluation.estimators import majority_at_k, pass_at_k


class ArmAnswers(NamedTuple):
    """All answers of an arm; arrays have the shape (questions, samples) unless noted."""

    right: Floats
    tokens: Floats
    """Generated tokens, that of a pre-pass included."""
    entropy_mean: Floats
    """Nats per token."""
    entropy_max: Floats
    varentropy_mean: Floats
    """Nats^2 per token; like the following NaN where the arm did not ask for log-probabilities."""
    logprob_mean: Floats
    logprob_sum: Floats
    final_entropy_mean: Floats
    """Of the part that the grader reads as the answer, of the whole where it finds none."""
    final_varentropy_mean: Floats
    final_logprob_mean: Floats
    final_logprob_sum: Floats
    cut: Floats
    """Whether the answer reached the limit of tokens."""
    wrong_votes: list[tuple[int, ...]]
    """Votes for each wrong answer, by question."""
    temperatures: Floats
    """Of all tokens, flat."""
    labels: list[str | None]
    """Class that a router chose, by question."""
    texts: list[tuple[str, ...]]
    """By question."""

    def pass_at(self, k: int) -> Floats:
        """pass@k of every question."""
        size = self.right.shape[1]
        return np.array([pass_at_k(int(row.sum()), size, k) for row in self.right])

    def majority_at(self, k: int) -> Floats:
        """maj@k of every question."""
        rows = zip(self.right, self.wrong_votes, strict=True)
        return np.array([majority_at_k(int(row.sum()), wrong, k) for row, wrong in rows])

    def distinct(self) -> Floats:
        """Number of different answers to every question."""
        rows = zip(self.right, self.wrong_votes, strict=True)
        return np.array([float(row.any()) + len(wrong) for row, wrong in rows])

    def vote_share(self) -> Floats:
        """Share of the votes of the most frequent answer, by question."""
        rows = zip(self.right, self.wrong_votes, strict=True)
        most = [max(int(row.sum()), *wrong, 0) for row, wrong in rows]
        return np.array([votes / self.right.shape[1] for votes in most])

    def share_equal(self, other: "ArmAnswers") -> float:
        """Share of answers with the same text as the other arm's, question by question."""
        pairs = [
            mine == theirs
            for row, other_row in zip(self.texts, other.texts, strict=True)
            for mine, theirs in zip(row, other_row, strict=True)
        ]
        return sum(pairs) / len(pairs)

    def majority_right(self) -> Floats:
        """Probability that the most frequent of all answers is right, by question."""
        return self.majority_at(self.right.shape[1])


def join(first: ArmAnswers, second: ArmAnswers) -> ArmAnswers:
    """The answers of one arm to two sets of questions."""

    def both(of: Callable[[ArmAnswers], Floats]) -> Floats:
        return np.concatenate([of(first), of(second)])

    return ArmAnswers(
        right=both(lambda arm: arm.right),
        tokens=both(lambda arm: arm.tokens),
        entropy_mean=both(lambda arm: arm.entropy_mean),
        entropy_max=both(lambda arm: arm.entropy_max),
        varentropy_mean=both(lambda arm: arm.varentropy_mean),
        logprob_mean=both(lambda arm: arm.logprob_mean),
        logprob_sum=both(lambda arm: arm.logprob_sum),
        final_entropy_mean=both(lambda arm: arm.final_entropy_mean),
        final_varentropy_mean=both(lambda arm: arm.final_varentropy_mean),
        final_logprob_mean=both(lambda arm: arm.final_logprob_mean),
        final_logprob_sum=both(lambda arm: arm.final_logprob_sum),
        cut=both(lambda arm: arm.cut),
        wrong_votes=[*first.wrong_votes, *second.wrong_votes],
        temperatures=both(lambda arm: arm.temperatures),
        labels=[*first.labels, *second.labels],
        texts=[*first.texts, *second.texts],
    )


def graded_lines(
    problems: Sequence[Problem], kinds: Sequence[str], answers: ArmAnswers, temperature: float
) -> str:
    """The graded answers of an arm as JSONL, which `train-probe abstain` reads.

    Args:
        problems: Its questions.
        kinds: Kind of every question.
        answers: The arm.
        temperature: Of the arm.
    """
    columns = {
        "entropy_mean": answers.entropy_mean,
        "entropy_max": answers.entropy_max,
        "varentropy_mean": answers.varentropy_mean,
        "logprob_mean": answers.logprob_mean,
        "logprob_sum": answers.logprob_sum,
        "num_tokens": answers.tokens,
    }
    known = {name: column for name, column in columns.items() if not np.isnan(column).any()}
    return "".join(
        json.dumps(
            {
                "question": problem.prompt,
                "kind": kind,
                "right": bool(answers.right[row, sample]),
                **{name: float(column[row, sample]) for name, column in known.items()},
                "temperature": temperature,
            }
        )
        + "\n"
        for row, (problem, kind) in enumerate(zip(problems, kinds, strict=True))
        for sample in range(answers.right.shape[1])
    )


def read_answers(
    problems: Sequence[Problem],
    questions: Sequence[int],
    arm: int,
    grid: AnswerGrid,
    store: RolloutStore,
) -> ArmAnswers:
    """Grade the answers of an arm to some questions."""
    records = [
        [store.rollouts[grid.number(arm, q, sample)] for sample in range(grid.num_samples)]
        for q in questions
    ]
    graded = [
        [problems[q].is_right(record.text) for record in row]
        for q, row in zip(questions, records, strict=True)
    ]
    figures = np.array(
        [
            [_figures(record, problems[q].grader) for record in row]
            for q, row in zip(questions, records, strict=True)
        ]
    )
    columns = np.moveaxis(figures.reshape(len(questions), grid.num_samples, -1), -1, 0)
    votes = [
        _wrong_votes(problems[q], row, right)
        for q, row, right in zip(questions, records, graded, strict=True)
    ]
    temperatures = [t for row in records for one in row for t in one.temperatures if t is not None]
    tokens, entropy_mean, entropy_max, varentropy_mean, logprob_mean, logprob_sum, *rest = columns
    final_entropy_mean, final_varentropy_mean, final_logprob_mean, final_logprob_sum, cut = rest
    return ArmAnswers(
        right=np.array(graded, dtype=np.float64),
        tokens=tokens,
        entropy_mean=entropy_mean,
        entropy_max=entropy_max,
        varentropy_mean=varentropy_mean,
        logprob_mean=logprob_mean,
        logprob_sum=logprob_sum,
        final_entropy_mean=final_entropy_mean,
        final_varentropy_mean=final_varentropy_mean,
        final_logprob_mean=final_logprob_mean,
        final_logprob_sum=final_logprob_sum,
        cut=cut,
        wrong_votes=votes,
        temperatures=np.array(temperatures),
        labels=[row[0].difficulty for row in records],
        texts=[tuple(record.text for record in row) for row in records],
    )


def _figures(record: RolloutRecord, grader: GraderName) -> tuple[float, ...]:
    """The columns of `ArmAnswers` from `tokens` to `cut`, in their order."""
    return (
        len(record.entropies) + record.prepass,
        float(np.mean(record.finite_entropies)),
        max(record.finite_entropies),
        *_means(record, slice(None))[1:],
        *_means(record, _final_tokens(record, grader)),
        record.finish_reason == "length",
    )


def _final_tokens(record: RolloutRecord, grader: GraderName) -> slice:
    """The tokens that the grader reads, or all of them."""
    span = final_span(record.text, grader)
    part = None if span is None else tokens_of(record.pieces or (), record.text, *span)
    return slice(None) if part is None else part


def _means(record: RolloutRecord, part: slice) -> tuple[float, float, float, float]:
    """Mean entropy, varentropy and log-probability over some tokens, and the sum of the last."""
    logprobs = (record.logprobs or [])[part]
    if not logprobs:
        return (float("nan"),) * 4
    return (
        _mean(record.entropies[part]),
        _mean((record.varentropies or [])[part]),
        float(np.mean(logprobs)),
        sum(logprobs),
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _wrong_votes(
    problem: Problem, row: Sequence[RolloutRecord], right: Sequence[bool]
) -> tuple[int, ...]:
    """Votes for each wrong answer; a text without an answer votes for itself alone."""
    wrong = [
        stated_answer(record.text, problem.grader) or f"none {record.number}"
        for record, is_right in zip(row, right, strict=True)
        if not is_right
    ]
    return tuple(sorted(Counter(wrong).values(), reverse=True))
