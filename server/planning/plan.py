"""From what a request says to what the engine does. Pure: no I/O, no clock, no engine."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from probes.laws import NO_LAW, NO_ROW, HapoLaw, TemperatureLaw, law_row
from server.errors import BadControl
from server.planning.difficulty import DifficultyPlan, plan_difficulty
from server.planning.refusals import (
    RequestParams,
    refuse_beam_search,
    refuse_late_report,
    refuse_temperature,
)
from server.wire.request import Control, Trace

if TYPE_CHECKING:  # these import torch
    from server.artifacts import Artifacts
    from server.planning.inquiry import InquiryPlan
    from server.planning.steering import SteeringPlan

T = TypeVar("T")


class Plan(NamedTuple):
    """What to do for one request."""

    profile: str | None
    law: TemperatureLaw | None
    tag: int
    """Of the law, for the worker."""
    parameters: tuple[float, ...]
    trace: Trace
    difficulty: DifficultyPlan | None = None
    steering: "SteeringPlan | None" = None
    inquiry: "InquiryPlan | None" = None
    skipped: tuple[str, ...] = ()
    """Fallbacks: what the profile asks for and this request cannot have."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do or to measure."""
        controls = (self.law, self.difficulty, self.steering, self.inquiry)
        return self.trace == "none" and not any(controls)

    def without_inquiry(self) -> "Plan":
        """The plan for a conversation that turns out to be no inquiry."""
        return self._replace(inquiry=None, skipped=(*self.skipped, "inquiry_skipped"))


class ControlSources(NamedTuple):
    """Where a request names controls, strongest first."""

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
    """Where it was named."""

    @property
    def is_lenient(self) -> bool:
        """Whether the request would be answered without it.

        A model name or a header is often set once for many requests; `entropy.profile` belongs to
        this one.
        """
        return self.param != "entropy.profile"


def split_model(
    model: str | None, served: Collection[str], profiles: Collection[str]
) -> tuple[str | None, str | None]:
    """Split `NAME@PROFILE` if either is known; any other name stays whole for vLLM to judge."""
    if model is None or model in served:
        return model, None
    name, at, profile = model.rpartition("@")
    return (name, profile) if at and (name in served or profile in profiles) else (model, None)


def make_plan(
    sources: ControlSources,
    profiles: Mapping[str, Control],
    artifacts: "Artifacts",
    params: RequestParams,
) -> Plan | None:
    """Resolve body over suffix over header into a plan.

    Args:
        sources: Where the request names controls.
        profiles: By name.
        artifacts: Of the served model.
        params: The rest of the request.

    Returns:
        None when the request asks for nothing.

    Raises:
        BadControl: An unknown profile; or a control of the body, or of a profile named there, that
            has no artifact or contradicts the request. Such a control of a profile that the model
            name or the header names is skipped.
    """
    profile = _chosen_profile(sources, profiles)
    if profile is None:
        return (
            None if sources.body is None else _Planner(sources.body, None, artifacts).plan(params)
        )
    own = {} if sources.body is None else _fields_set(sources.body)
    control = profiles[profile.name].model_copy(update=own)
    return _Planner(control, profile, artifacts, frozenset(own)).plan(params)


def _fields_set(control: Control) -> dict[str, object]:
    return {name: getattr(control, name) for name in control.model_fields_set}


class _Planner:
    """Plans the controls of one request, one by one."""

    def __init__(
        self,
        control: Control,
        profile: _Profile | None,
        artifacts: "Artifacts",
        own: frozenset[str] = frozenset(),
    ) -> None:
        """Prepare.

        Args:
            control: The profile's controls with the body's over them.
            profile: None if the body has all of them.
            artifacts: Of the served model.
            own: Fields that come from the body.
        """
        self._control, self._profile = control, profile
        self._artifacts, self._own = artifacts, own
        self._skipped: list[str] = []

    def plan(self, params: RequestParams) -> Plan:
        """Plan every control.

        Raises:
            BadControl: One that must not be skipped does not fit.
        """
        self._make_room_for_an_inquiry()
        if not self._allows("all", lambda: refuse_beam_search(params)):
            return self._result(Control(trace="none"), None)
        control = self._control
        inquiry = self._attempt("inquiry", lambda: self._inquiry(params))
        tag_and_row = self._attempt("temperature", lambda: self._law(params))
        difficulty = self._attempt("difficulty", lambda: self._difficulty(params))
        steering = self._attempt("steering", self._steering)
        if not self._allows("report", lambda: refuse_late_report(control.trace, params)):
            control = control.model_copy(update={"trace": "none"})
        return self._result(control, tag_and_row, difficulty, steering, inquiry)

    def _result(
        self,
        control: Control,
        tag_and_row: tuple[int, tuple[float, ...]] | None,
        difficulty: DifficultyPlan | None = None,
        steering: "SteeringPlan | None" = None,
        inquiry: "InquiryPlan | None" = None,
    ) -> Plan:
        return Plan(
            None if self._profile is None else self._profile.name,
            None if tag_and_row is None else control.temperature,
            *(tag_and_row or (NO_LAW, NO_ROW)),
            control.trace,
            difficulty,
            steering,
            inquiry,
            tuple(self._skipped),
        )

    def _attempt(self, field: str, make: Callable[[], T]) -> T | None:
        """Plan one control; None where it is skipped, and then `_skipped` says so."""
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

    def _allows(self, field: str, refuse: Callable[[], None]) -> bool:
        """Whether a check passes; if it does not and may be skipped, `_skipped` says so."""

        def passes() -> bool:
            refuse()
            return True

        return self._attempt(field, passes) is not None

    def _make_room_for_an_inquiry(self) -> None:
        """Skip the profile's controls of sampling where the body asks for an inquiry."""
        if "inquiry" not in self._own or self._profile is None or not self._profile.is_lenient:
            return
        for field in ("temperature", "difficulty"):
            if field not in self._own and getattr(self._control, field) is not None:
                self._control = self._control.model_copy(update={field: None})
                self._skipped.append(f"{field}_skipped")

    def _law(self, params: RequestParams) -> tuple[int, tuple[float, ...]]:
        law, statistics = self._control.temperature, None
        refuse_temperature(law, params)
        if isinstance(law, HapoLaw):
            statistics = self._artifacts.hapo_statistics(law.statistics, "entropy.temperature")
        return law_row(law, statistics)

    def _difficulty(self, params: RequestParams) -> DifficultyPlan | None:
        wanted = self._control.difficulty
        return None if wanted is None else plan_difficulty(wanted, self._artifacts, params)

    def _steering(self) -> "SteeringPlan | None":
        if self._control.steering is None:
            return None
        from server.planning.steering import plan_steering  # imports torch

        return plan_steering(self._control.steering, self._artifacts)

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
        BadControl: There is none of this name.
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
