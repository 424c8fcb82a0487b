"""Resolves the control `inquiry` to a task, its calibration and a question-selection rule."""

from typing import TYPE_CHECKING, NamedTuple

from probes.conformal import SetRule
from probes.inquiry.artifact import Inquiry, TooFewSamples
from probes.inquiry.table import CredibleSets
from probes.inquiry.turn import Rule
from probes.inquiry.words import Predictor
from server.errors import BadControl
from server.planning.refusals import (
    RequestParams,
    refuse_inquiry_with_sampling,
    refuse_unsupported_inquiry,
)
from server.wire.request import Control, InquiryControl

if TYPE_CHECKING:
    from server.artifacts import Artifacts


class InquiryPlan(NamedTuple):
    """How to take the next turn of an inquiry."""

    control: InquiryControl
    inquiry: Inquiry
    predictor: Predictor
    calibration: SetRule
    spare: SetRule
    """Calibration of `likelihood`, the fallback predictor, which needs no engine."""
    rule: Rule
    optional: bool = False
    """Whether to answer a conversation that is not an inquiry without the inquiry."""


def plan_inquiry(control: Control, artifacts: "Artifacts", params: RequestParams) -> InquiryPlan:
    """Resolve the task, the predictor and their thresholds.

    Args:
        control: A control with `inquiry` set.
        artifacts: Artifacts of the served model.
        params: The request's other parameters.

    Raises:
        BadControl: No artifact fits, it has too few calibration samples, or the request cannot be
            an inquiry.
    """
    wanted = control.inquiry
    assert wanted is not None
    refuse_inquiry_with_sampling(control)
    refuse_unsupported_inquiry(params)
    inquiry = artifacts.inquiry(wanted.task, "entropy.inquiry.task", params.adapter)
    predictor = _predictor(wanted, inquiry)
    level = wanted.confidence_level
    calibration: SetRule
    spare: SetRule
    if predictor == "table" and inquiry.known is not None:
        inquiry = inquiry._replace(logprobs=inquiry.known)
        calibration = spare = CredibleSets(level)
    else:
        assert predictor != "table"  # not available without a table
        try:
            calibration = inquiry.calibration(predictor, level)
            spare = inquiry.calibration("likelihood", level)
        except TooFewSamples as error:
            raise BadControl(
                f"`entropy.inquiry.confidence_level`: {error}", "entropy.inquiry.confidence_level"
            ) from error
    rule = Rule(wanted.policy, budget=wanted.max_turns, tolerance=wanted.tolerance)
    return InquiryPlan(wanted, inquiry, predictor, calibration, spare, rule)


def _predictor(wanted: InquiryControl, inquiry: Inquiry) -> Predictor:
    available = inquiry.available(wanted.queries)
    predictor = wanted.predictor or available[0]
    if predictor not in available:
        missing = "table of answers" if predictor == "table" else f"calibration for `{predictor}`"
        raise BadControl(
            f"`entropy.inquiry.predictor`: `{wanted.task}` has no {missing} for "
            f"{wanted.queries} questions, only {', '.join(available)}",
            "entropy.inquiry.predictor",
        )
    return predictor
