"""Resolves a request's controls into a plan. Pure: no I/O, no clock, no engine."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from probes.drift import MonitoredInput
from probes.laws import NO_LAW, NO_ROW, TemperatureLaw
from probes.truncations import Truncation
from server.errors import BadControl
from server.planning.difficulty import DifficultyPlan, plan_difficulty
from server.planning.laws import LawPlan, PhasePlan, plan_laws
from server.planning.refusals import (
    RequestParams,
    refuse_background_report,
    refuse_beam_search,
    refuse_truncation,
)
from server.planning.sampled import plan_semantic, plan_vote
from server.planning.selective import AbstentionPlan, ConfidencePlan, plan_abstain, plan_confidence
from server.wire.request import Control, SemanticControl, Trace, VoteControl

if TYPE_CHECKING:  # these import torch
    from server.artifacts import Artifacts
    from server.planning.inquiry import InquiryPlan
    from server.planning.steering import SteeringPlan

T = TypeVar("T")


class Plan(NamedTuple):
    """What to do for one request."""

    profile: str | None
    law: TemperatureLaw | None
    """That of the answer, if there are laws by phase."""
    tag: int
    """Tag of the law in the worker's tables."""
    parameters: tuple[float, ...]
    trace: Trace
    difficulty: DifficultyPlan | None = None
    steering: "SteeringPlan | None" = None
    inquiry: "InquiryPlan | None" = None
    truncation: Truncation | None = None
    confidence: ConfidencePlan | None = None
    abstain: AbstentionPlan | None = None
    vote: VoteControl | None = None
    semantic: SemanticControl | None = None
    phases: PhasePlan | None = None
    """The law while the model thinks; None if one law holds for the whole answer."""
    monitored: MonitoredInput | None = None
    """What the entropies of the tokens are compared with."""
    skipped: tuple[str, ...] = ()
    """Fallback codes: controls of the profile that this request cannot use."""
    control: Control | None = None
    """The profile's controls, overridden by the body's, without those that are skipped."""

    @property
    def law_type(self) -> str | None:
        """`type` of the temperature law; `phases` if there are two."""
        if self.phases is not None:
            return "phases"
        return self.law.type if self.law else None

    @property
    def laws(self) -> tuple[TemperatureLaw | None, ...]:
        """That of every phase."""
        return (self.law,) if self.phases is None else (self.law, self.phases.law)

    @property
    def is_empty(self) -> bool:
        """Whether the plan controls nothing and measures nothing."""
        laws = (self.law, self.phases)
        controls = (
            *(*laws, self.truncation, self.difficulty, self.steering, self.inquiry),
            self.vote,
        )
        return self.trace == "none" and not any(controls)

    @property
    def extends_prompt(self) -> bool:
        """Whether the conversation may be rendered again with a text after the question."""
        compared = self.semantic is not None and self.semantic.cluster != "answer"
        return self.difficulty is not None or compared

    @property
    def measures_certainty(self) -> bool:
        """Whether the self-certainty of the tokens is measured."""
        votes = self.vote is not None and self.vote.reads_certainty
        return self.confidence is not None or votes

    @property
    def holds_stream(self) -> bool:
        """Whether a stream sends its text only when the answer is complete."""
        return any(one is not None for one in (self.abstain, self.vote, self.semantic))

    def without_inquiry(self) -> "Plan":
        """The same plan for a conversation that is not an inquiry."""
        control = self.control and self.control.model_copy(update={"inquiry": None})
        skipped = (*self.skipped, "inquiry_skipped")
        return self._replace(inquiry=None, skipped=skipped, control=control)


class ControlSources(NamedTuple):
    """Where a request names controls, highest priority first."""

    body: Control | None
    """The field `entropy`."""
    suffix: str | None
    """The profile in the model name."""
    header: str | None
    """The profile in `X-Entropy-Profile`."""


class _Profile(NamedTuple):
    """The profile that a request chose."""

    name: str
    param: str
    """The request field or header that names it."""

    @property
    def is_lenient(self) -> bool:
        """Whether controls that do not fit the request are skipped instead of refused.

        A model name or a header is often set once for many requests, `entropy.profile` for one.
        """
        return self.param != "entropy.profile"


def split_model(
    model: str | None, served: Collection[str], profiles: Collection[str]
) -> tuple[str | None, str | None]:
    """Split `NAME@PROFILE` if either part is known; return any other name unchanged."""
    if model is None or model in served:
        return model, None
    name, at, profile = model.rpartition("@")
    return (name, profile) if at and (name in served or profile in profiles) else (model, None)


def make_plan(
    sources: ControlSources,
    profiles: Mapping[str, Control],
    artifacts: "Artifacts",
    params: RequestParams,
    off: Collection[str] = (),
) -> Plan | None:
    """Make a plan; the body overrides the model suffix, which overrides the header.

    Args:
        sources: Where the request names controls.
        profiles: By name.
        artifacts: Artifacts of the served model.
        params: The request's other parameters.
        off: Controls that the operator switched off; they are skipped, whoever asks for them.

    Returns:
        None when the request names no controls.

    Raises:
        BadControl: The profile is unknown; or a control from the body, or from a profile named in
            the body, has no artifact or contradicts the request. If the model name or the header
            names the profile, such a control is skipped.
    """
    profile = _chosen_profile(sources, profiles)
    if profile is None:
        body = sources.body
        return None if body is None else _Planner(body, None, artifacts, off=off).plan(params)
    own = {} if sources.body is None else _fields_set(sources.body)
    control = profiles[profile.name].model_copy(update=own)
    return _Planner(control, profile, artifacts, frozenset(own), off).plan(params)


def _fields_set(control: Control) -> dict[str, object]:
    return {name: getattr(control, name) for name in control.model_fields_set}


class _Planner:
    """Plans each control of one request."""

    def __init__(
        self,
        control: Control,
        profile: _Profile | None,
        artifacts: "Artifacts",
        own: frozenset[str] = frozenset(),
        off: Collection[str] = (),
    ) -> None:
        """Create a planner.

        Args:
            control: The profile's controls, overridden by the body's.
            profile: None if all controls come from the body.
            artifacts: Artifacts of the served model.
            own: Fields set in the body.
            off: Controls that are skipped in any case.
        """
        self._control, self._profile = control, profile
        self._artifacts, self._own = artifacts, own
        self._skipped: list[str] = []
        self._skip(off)

    def plan(self, params: RequestParams) -> Plan:
        """Plan every control.

        Raises:
            BadControl: A control that cannot be skipped does not fit the request.
        """
        self._make_room_for_an_inquiry()
        if not self._check_or_skip("all", lambda: refuse_beam_search(params)):
            nothing = Control(trace="none")
            return self._result(nothing, None)._replace(control=nothing)
        control = self._control
        inquiry = self._plan_or_skip("inquiry", lambda: self._inquiry(params))
        laws = self._plan_or_skip("temperature", lambda: self._laws(params))
        truncation = self._plan_or_skip("truncation", lambda: self._truncation(params))
        difficulty = self._plan_or_skip("difficulty", lambda: self._difficulty(params))
        steering = self._plan_or_skip("steering", lambda: self._steering(params))
        confidence = self._plan_or_skip("confidence", lambda: self._confidence(params))
        abstain = self._plan_or_skip("abstain", lambda: self._abstain(confidence, params))
        if not self._check_or_skip(
            "report", lambda: refuse_background_report(control.trace, params)
        ):
            control = control.model_copy(update={"trace": "none"})
        vote = self._plan_or_skip("vote", lambda: plan_vote(self._control, params))
        semantic = self._plan_or_skip("semantic", lambda: plan_semantic(self._control, params))
        plan = self._result(control, laws, difficulty, steering, inquiry, truncation)
        plan = plan._replace(confidence=confidence, abstain=abstain, vote=vote, semantic=semantic)
        return plan._replace(control=self._applied(control, difficulty))

    def _result(
        self,
        control: Control,
        laws: LawPlan | None,
        difficulty: DifficultyPlan | None = None,
        steering: "SteeringPlan | None" = None,
        inquiry: "InquiryPlan | None" = None,
        truncation: Truncation | None = None,
    ) -> Plan:
        laws = laws or LawPlan(None, NO_LAW, NO_ROW)
        return Plan(
            None if self._profile is None else self._profile.name,
            laws.law,
            laws.tag,
            laws.parameters,
            control.trace,
            difficulty,
            steering,
            inquiry,
            truncation,
            phases=laws.phases,
            monitored=laws.monitored,
            skipped=tuple(self._skipped),
        )

    def _applied(self, control: Control, difficulty: DifficultyPlan | None) -> Control:
        """The controls without those that are skipped, and without the name of the profile.

        A replay of an answer that was left alone leaves it alone again.
        """
        fields = {one for one in Control.model_fields if f"{one}_skipped" in self._skipped}
        update: dict[str, object] = dict.fromkeys({*fields, "profile"})
        if difficulty is not None and difficulty.baseline and control.difficulty is not None:
            update["difficulty"] = control.difficulty.model_copy(update={"mode": "shadow"})
        return control.model_copy(update=update)

    def _plan_or_skip(self, field: str, make: Callable[[], T]) -> T | None:
        """Plan one control; None if it is skipped, which is recorded in `_skipped`."""
        try:
            return make()
        except BadControl as error:
            profile = self._profile
            from_body = {"all": bool(self._own - {"trace"}), "report": "trace" in self._own}
            if profile is None or from_body.get(field, field in self._own):
                raise
            if profile.is_lenient:
                self._skipped.append(f"{field}_skipped")
                return None
            if not error.param.startswith("entropy."):
                raise  # the request's own field, which the client can change
            message = f"`{profile.param}`: the profile `{profile.name}` fails: {error}"
            raise BadControl(message, profile.param) from error

    def _check_or_skip(self, field: str, refuse: Callable[[], None]) -> bool:
        """Whether a check passes; a failure that may be skipped is recorded in `_skipped`."""

        def passes() -> bool:
            refuse()
            return True

        return self._plan_or_skip(field, passes) is not None

    def _skip(self, off: Collection[str]) -> None:
        """Skip controls, and what needs them: an abstention may need the confidence."""
        fields = {*off, "abstain"} if "confidence" in off and self._control.confidence else {*off}
        for field in sorted(fields):
            if getattr(self._control, field) is not None:
                self._control = self._control.model_copy(update={field: None})
                self._skipped.append(f"{field}_skipped")

    def _make_room_for_an_inquiry(self) -> None:
        """Skip the profile's sampling controls if the body requests an inquiry."""
        if "inquiry" not in self._own or self._profile is None or not self._profile.is_lenient:
            return
        for field in ("temperature", "truncation", "difficulty"):
            if field not in self._own and getattr(self._control, field) is not None:
                self._control = self._control.model_copy(update={field: None})
                self._skipped.append(f"{field}_skipped")

    def _laws(self, params: RequestParams) -> LawPlan:
        return plan_laws(self._control.temperature, self._artifacts, params)

    def _truncation(self, params: RequestParams) -> Truncation | None:
        refuse_truncation(self._control.truncation, params)
        return self._control.truncation

    def _difficulty(self, params: RequestParams) -> DifficultyPlan | None:
        wanted = self._control.difficulty
        return None if wanted is None else plan_difficulty(wanted, self._artifacts, params)

    def _steering(self, params: RequestParams) -> "SteeringPlan | None":
        if self._control.steering is None:
            return None
        from server.planning.steering import plan_steering  # imports torch

        return plan_steering(self._control.steering, self._artifacts, params.adapter)

    def _confidence(self, params: RequestParams) -> ConfidencePlan | None:
        if self._control.confidence is None:
            return None
        return plan_confidence(self._control, self._artifacts, params)

    def _abstain(
        self, confidence: ConfidencePlan | None, params: RequestParams
    ) -> AbstentionPlan | None:
        if self._control.abstain is None:
            return None
        return plan_abstain(self._control, confidence, self._artifacts, params)

    def _inquiry(self, params: RequestParams) -> "InquiryPlan | None":
        if self._control.inquiry is None:
            return None
        from server.planning.inquiry import plan_inquiry  # imports torch

        plan = plan_inquiry(self._control, self._artifacts, params)
        optional = self._profile is not None and self._profile.is_lenient
        return plan._replace(optional=optional and "inquiry" not in self._own)


def _chosen_profile(sources: ControlSources, profiles: Mapping[str, Control]) -> _Profile | None:
    """The profile that applies.

    Raises:
        BadControl: No profile has this name.
    """
    named = [
        (sources.body.profile if sources.body else None, "entropy.profile"),
        (sources.suffix, "model"),
        (sources.header, "X-Entropy-Profile"),
    ]
    for name, param in named:
        if name is not None:
            if name not in profiles:
                known = ", ".join(sorted(profiles))
                raise BadControl(f"`{param}`: unknown profile `{name}`; known: {known}", param)
            return _Profile(name, param)
    return None
