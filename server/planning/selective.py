"""Resolves the controls `confidence` and `abstain` to their artifacts and a threshold."""

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from probes.selective.scores import CONFIDENCE_SCORES, PREDICTED, ScoreName
from server.errors import BadControl
from server.planning.refusals import RequestParams
from server.wire.request import AbstentionControl, Control

if TYPE_CHECKING:  # these import torch
    from probes.selective.confidence import ConfidenceProbe
    from server.artifacts import Artifacts

_MEASURED_ON_PLAIN = ("temperature", "truncation", "difficulty", "steering")
"""Controls that change which answers are sampled; calibrations are made without them."""


class ConfidencePlan(NamedTuple):
    """What the report says about confidence."""

    window: int
    name: str | None = None
    """Id of the probe."""
    probe: "ConfidenceProbe | None" = None
    probe_hash: str | None = None

    @property
    def state(self) -> str | None:
        """Id of the probe if it reads the hidden state at the end of the prompt."""
        return self.name if self.probe is not None and self.probe.reader is not None else None


class AbstentionPlan(NamedTuple):
    """When the answer is replaced."""

    control: AbstentionControl
    score: ScoreName
    threshold: float | None
    questions: int


def plan_confidence(
    control: Control, artifacts: "Artifacts", params: RequestParams
) -> ConfidencePlan:
    """Resolve the probe.

    Args:
        control: A control with `confidence` set.
        artifacts: Artifacts of the served model.
        params: The request's other parameters.

    Raises:
        BadControl: No artifact fits, or it was made with other settings than the request's.
    """
    wanted = control.confidence
    assert wanted is not None
    if control.inquiry is not None:
        _refuse("entropy.inquiry", "`entropy.confidence` needs a sampled answer: leave one out")
    if control.trace == "none":
        _refuse("entropy.trace", '"none" reports nothing, `entropy.confidence` included')
    if wanted.probe is None:
        return ConfidencePlan(wanted.window)
    param = "entropy.confidence.probe"
    probe, digest = artifacts.confidence(wanted.probe, param, params.adapter)
    _refuse_other_settings(control, probe.spec.temperature, param, params)
    window = wanted.window
    if probe.spec.window is not None:
        if "window" in wanted.model_fields_set and window != probe.spec.window:
            _refuse(
                "entropy.confidence.window", f"`{wanted.probe}` was made with {probe.spec.window}"
            )
        window = probe.spec.window
    return ConfidencePlan(window, wanted.probe, probe, digest)


def plan_abstain(
    control: Control,
    confidence: ConfidencePlan | None,
    artifacts: "Artifacts",
    params: RequestParams,
) -> AbstentionPlan:
    """Resolve the calibration and compute the threshold.

    Args:
        control: A control with `abstain` set.
        confidence: Plan of the control `confidence`; None without it.
        artifacts: Artifacts of the served model.
        params: The request's other parameters.

    Raises:
        BadControl: No artifact fits, it cannot promise alpha, it was made with other settings than
            the request's, or the request cannot wait for a verdict.
    """
    from probes.selective.abstention import CannotPromise  # imports torch

    wanted = control.abstain
    assert wanted is not None
    _refuse_unsupported(control, params)
    param = "entropy.abstain.calibration"
    found = artifacts.abstention(wanted.calibration, param, params.adapter)
    spec = found.spec
    _refuse_other_settings(control, spec.temperature, param, params)
    if spec.score in CONFIDENCE_SCORES:
        if confidence is None:
            _refuse("entropy.abstain", f"the score `{spec.score}` needs the control `confidence`")
        if spec.score in PREDICTED and confidence.probe_hash != spec.probe_hash:
            _refuse(param, "made with another probe than `entropy.confidence.probe`")
        if spec.window is not None and confidence.window != spec.window:
            _refuse("entropy.confidence.window", f"`{wanted.calibration}` needs {spec.window}")
    try:
        threshold = found.threshold(wanted.promise, wanted.alpha, wanted.delta)
    except CannotPromise as error:
        raise BadControl(f"`entropy.abstain.alpha`: {error}", "entropy.abstain.alpha") from error
    return AbstentionPlan(wanted, spec.score, threshold, spec.rows)


def _refuse_unsupported(control: Control, params: RequestParams) -> None:
    if not params.has_choices:
        _refuse("entropy.abstain", "answered in /v1/chat/completions and /v1/completions only")
    if control.inquiry is not None:
        _refuse("entropy.inquiry", "`entropy.abstain` needs a sampled answer: leave one out")
    if control.trace == "none":
        _refuse("entropy.trace", '"none" measures nothing that `entropy.abstain` could use')
    if control.trace == "tokens" and params.streams:
        _refuse("entropy.trace", '"tokens" in a stream would show the tokens of a withheld answer')
    if params.has_tools:
        _refuse("tools", "`entropy.abstain` would drop calls of tools: leave one out")


def _refuse_other_settings(
    control: Control, temperature: float | None, param: str, params: RequestParams
) -> None:
    """Refuse a request whose answers are sampled in another way than the calibration's."""
    for field in _MEASURED_ON_PLAIN:
        set_to = getattr(control, field)
        if set_to is not None and getattr(set_to, "mode", "act") == "act":
            _refuse(param, f"it was made without `entropy.{field}`: leave one out")
    for field in params.truncating:
        _refuse(field, f"`{param}` was made without it: leave one out")
    if temperature is not None and params.temperature != temperature:
        own = "unset" if params.temperature is None else params.temperature
        _refuse("temperature", f"is {own}; the calibration was made at {temperature:g}: set that")


def _refuse(param: str, reason: str) -> NoReturn:
    raise BadControl(f"`{param}`: {reason}", param)
