"""From what was read to OpenAI's answers and our report."""

from typing import NamedTuple

import torch
from torch import Tensor

from probes.decisions.scores import OptionLogprobs, features, label_mass, probabilities
from probes.entropy import entropy_from_logits
from server.planning.decisions import DecisionPlan, QuestionPlan
from server.wire.decisions import (
    ChoiceAnswer,
    ChoiceProbability,
    DecisionReport,
    LevelProbability,
    OptionReads,
    PredicateAnswer,
    RefusalAnswer,
    ScoreAnswer,
)

Answer = PredicateAnswer | ChoiceAnswer | ScoreAnswer | RefusalAnswer


class JudgedQuestion(NamedTuple):
    """The probabilities of one question's options, and whether to act on them."""

    plan: QuestionPlan
    found: OptionLogprobs
    raw: Tensor
    """Uncalibrated probabilities, shape (K,)."""
    probabilities: Tensor
    """Calibrated ones where the question has a calibration, shape (K,)."""
    members: Tensor | None
    """Prediction set, bool, shape (K,); None without a calibration."""
    abstained: bool

    @property
    def label_mass(self) -> float | None:
        """Probability that the reply is a label; None if no labels were read."""
        return label_mass(self.found, self.plan.settings.orders)


def judge(
    plan: DecisionPlan, question: QuestionPlan, found: OptionLogprobs
) -> JudgedQuestion | None:
    """Probabilities, prediction set and abstention; None if the model's logits are not numbers."""
    if not found.is_readable():
        return None
    evidence = features(found, question.settings)
    raw = current = probabilities(evidence)
    members = None
    if question.calibration is not None:
        current = question.calibration.scaled(evidence)
        members = question.sets(plan.control, current)
    mass = label_mass(found, question.settings.orders)
    return JudgedQuestion(
        question, found, raw, current, members, _abstains(plan, current, members, mass)
    )


def _abstains(
    plan: DecisionPlan, current: Tensor, members: Tensor | None, mass: float | None
) -> bool:
    rule = plan.control.abstain
    largest = 1 if rule is None else rule.max_set_size
    if members is not None and int(members.sum()) > largest:
        return True
    if rule is None:
        return False
    unlike = mass is not None and mass < rule.min_label_mass
    return unlike or float(current.max()) < rule.min_probability


def answer(
    plan: DecisionPlan,
    name: str | None,
    verdict: JudgedQuestion | None,
    next_question: str | None = None,
) -> Answer:
    """The answer to one question.

    Args:
        plan: Plan of the request.
        name: Name of the question.
        verdict: From `judge`.
        next_question: The question to ask, where the answer abstains.
    """
    if verdict is None:
        return RefusalAnswer(name=name)
    report = _report(plan, verdict, next_question) if plan.reported else None
    rule = plan.control.abstain
    if verdict.abstained and rule is not None and rule.answer == "refusal":
        return RefusalAnswer(name=name, entropy=report)
    question, values = verdict.plan.question, verdict.probabilities.tolist()
    if question.kind == "predicate":
        return PredicateAnswer(name=name, entropy=report, probability=values[0])
    best = int(verdict.probabilities.argmax())
    trusted = 1.0 if verdict.members is not None else verdict.label_mass
    confidence = values[best] * (1.0 if trusted is None else trusted)
    if question.kind == "choice":
        return ChoiceAnswer(
            name=name,
            entropy=report,
            choice=question.options[best].value,
            confidence=confidence,
            probabilities=[
                ChoiceProbability(value=one.value, probability=value)
                for one, value in zip(question.options, values, strict=True)
            ],
        )
    return ScoreAnswer(
        name=name,
        entropy=report,
        score=sum(level * value for level, value in enumerate(values)),
        confidence=confidence,
        probabilities=[
            LevelProbability(label=one.text, probability=value, value=level)
            for level, (one, value) in enumerate(zip(question.options, values, strict=True))
        ],
    )


def _report(
    plan: DecisionPlan, verdict: JudgedQuestion, next_question: str | None
) -> DecisionReport:
    calibrated = verdict.members is not None
    values = verdict.plan.question.values
    return DecisionReport(
        prediction_set=(
            None
            if verdict.members is None
            else [
                value
                for value, inside in zip(values, verdict.members.tolist(), strict=True)
                if inside
            ]
        ),
        confidence_level=plan.control.confidence_level if calibrated else None,
        calibrated=calibrated,
        abstained=verdict.abstained,
        raw=verdict.raw.tolist(),
        entropy=float(entropy_from_logits(verdict.probabilities.log())),
        label_mass=verdict.label_mass,
        next_question=next_question,
        reads=_shown(verdict.found) if plan.control.reads else None,
    )


_LOWEST = -1e4


def _shown(found: OptionLogprobs) -> OptionReads:
    """The reads, with impossible tokens as a finite number: JSON has no infinity."""

    def finite(row: "object") -> list[float]:
        values: Tensor = torch.tensor(row, dtype=torch.float64).clamp(min=_LOWEST)
        listed: list[float] = values.tolist()
        return listed

    return OptionReads(
        letters=[finite(row) for row in found.letters],
        letters_prior=[finite(row) for row in found.letters_prior],
        statements=finite(found.statements),
        statements_prior=finite(found.statements_prior),
    )
