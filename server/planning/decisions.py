"""Resolves a decision's field `entropy`: how each question is read, and its calibration."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from probes.decisions.calibration import QuestionCalibration, TooFewRows
from probes.decisions.question import DecisionQuestion, Read
from probes.decisions.scores import ReadSettings
from server.errors import BadControl
from server.wire.decisions import DecisionControl, FollowUpTask

if TYPE_CHECKING:
    from torch import Tensor

    from server.artifacts import Artifacts

_READS: dict[str, tuple[Read, ...]] = {
    "letters": ("letters",),
    "statements": ("statements",),
    "both": ("letters", "statements"),
}


class QuestionPlan(NamedTuple):
    """How to read and calibrate one question."""

    question: DecisionQuestion
    settings: ReadSettings
    calibration: QuestionCalibration | None

    def sets(self, control: DecisionControl, probabilities: "Tensor") -> "Tensor":
        """Prediction sets of calibrated probabilities, bool, shape (..., K)."""
        assert self.calibration is not None
        return self.calibration.sets(
            probabilities,
            control.confidence_level,
            control.score,
            by_class=control.coverage == "by_class",
        )


class PlannedFollowUp(NamedTuple):
    """A question that could be asked."""

    question: str
    answers: tuple[str, ...]
    param: str
    """Its parameter name, such as `entropy.ask.0`."""


class DecisionPlan(NamedTuple):
    """How to answer a request."""

    control: DecisionControl
    reported: bool
    """Whether the request has the field `entropy`."""
    questions: list[QuestionPlan]
    asks: tuple[PlannedFollowUp, ...] = ()


def plan_decision(
    control: DecisionControl | None,
    questions: Sequence[DecisionQuestion],
    text: str,
    artifacts: "Artifacts",
    adapter: str | None,
) -> DecisionPlan:
    """Resolve the calibration, the reads, and the questions that could be asked.

    Args:
        control: The field `entropy`.
        questions: Questions of the request.
        text: The input.
        artifacts: Artifacts of the served model.
        adapter: Name of the LoRA adapter, if the request names one.

    Raises:
        BadControl: No such calibration or task, the calibration is for other reads or for fewer
            rows than the level needs, or the model is an adapter.
    """
    wanted = control or DecisionControl()
    plans = _question_plans(wanted, questions, artifacts, adapter)
    asks = _follow_ups(wanted, text, artifacts)
    return DecisionPlan(wanted, control is not None, plans, asks)


def _follow_ups(
    wanted: DecisionControl, text: str, artifacts: "Artifacts"
) -> tuple[PlannedFollowUp, ...]:
    if not isinstance(wanted.ask, FollowUpTask):
        return tuple(
            PlannedFollowUp(one.question, one.answers, f"entropy.ask.{place}")
            for place, one in enumerate(wanted.ask or ())
        )
    param = "entropy.ask.task"
    task = artifacts.inquiry(wanted.ask.task, param).task
    return tuple(
        PlannedFollowUp(question, task.answers, param)
        for question in task.questions
        if question not in text
    )


def _question_plans(
    wanted: DecisionControl,
    questions: Sequence[DecisionQuestion],
    artifacts: "Artifacts",
    adapter: str | None,
) -> list[QuestionPlan]:
    if wanted.calibration is None:
        settings = _settings(wanted, ReadSettings())
        return [QuestionPlan(one, settings, None) for one in questions]
    param = "entropy.calibration"
    if adapter is not None:
        raise BadControl(
            f"`{param}`: a calibration belongs to the base model, not to `{adapter}`", param
        )
    known = artifacts.decision(wanted.calibration, param).questions
    plans = []
    for one in questions:
        found = known.get(one)
        if found is None:
            plans.append(QuestionPlan(one, _settings(wanted, ReadSettings()), None))
            continue
        _refuse_other_reads(wanted, found.settings)
        _refuse_level(wanted, found)
        plans.append(QuestionPlan(one, found.settings, found))
    return plans


def _settings(wanted: DecisionControl, default: ReadSettings) -> ReadSettings:
    return ReadSettings(
        reads=default.reads if wanted.read is None else _READS[wanted.read],
        orders=default.orders if wanted.orders is None else wanted.orders,
        prior=default.prior if wanted.prior is None else wanted.prior,
    )


def _refuse_other_reads(wanted: DecisionControl, fitted: ReadSettings) -> None:
    changed = _settings(wanted, fitted)
    for field, param in (("reads", "read"), ("orders", "orders"), ("prior", "prior")):
        if getattr(changed, field) != getattr(fitted, field):
            raise BadControl(
                f"`entropy.{param}`: `{wanted.calibration}` was fitted with another value: leave "
                "it out",
                f"entropy.{param}",
            )


def _refuse_level(wanted: DecisionControl, found: QuestionCalibration) -> None:
    try:
        found.thresholds(wanted.confidence_level)
    except TooFewRows as error:
        param = "entropy.confidence_level"
        raise BadControl(f"`{param}`: {error}", param) from error
