"""From what a request says to what the engine does. Pure: no I/O, no clock, no engine."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from probes.conformal import SetRule
from probes.difficulty.strategies import Difficulty, Strategies
from probes.inquiry.artifact import Inquiry, TooFewSamples
from probes.inquiry.table import CredibleSets
from probes.inquiry.turn import Rule
from probes.inquiry.words import Predictor
from probes.laws import EntropyTargetLaw, FixedLaw, HapoLaw, TemperatureLaw, law_row
from server.artifacts import Artifacts
from server.errors import BadControl
from server.planning.steering import SteeringPlan, plan_steering
from server.wire.request import Control, InquiryControl

_EFFORT = {"low": Difficulty.EASY, "medium": Difficulty.NORMAL, "high": Difficulty.HARD}


class Plan(NamedTuple):
    """What to do for one request."""

    profile: str | None
    law: TemperatureLaw | None
    tag: int
    """Of the law, for the worker."""
    parameters: tuple[float, ...]
    trace: str
    difficulty: "DifficultyPlan | None" = None
    steering: SteeringPlan | None = None
    inquiry: "InquiryPlan | None" = None


class DifficultyPlan(NamedTuple):
    """How the answer follows the difficulty of the question."""

    probe: str
    strategies: Strategies
    shadow: bool
    picked: Difficulty | None
    """Chosen by `reasoning_effort`; None asks the probe."""
    sets_temperature: bool
    """Whether the strategy's temperature is T0: not where the request names its own."""


class InquiryPlan(NamedTuple):
    """A game of questions."""

    control: InquiryControl
    inquiry: Inquiry
    predictor: Predictor
    calibration: SetRule
    spare: SetRule
    """Of `likelihood`, which needs no engine, for when the predictor fails."""
    rule: Rule


class Said(NamedTuple):
    """What else the request says that matters here."""

    temperature: float | None = None
    """None if it names none."""
    reasoning_effort: str | None = None


class Wanted(NamedTuple):
    """Where a request names a profile, strongest first."""

    body: Control | None
    suffix: str | None
    header: str | None


def split_model(
    model: str | None, served: Collection[str], profiles: Collection[str]
) -> tuple[str | None, str | None]:
    """Split `NAME@PROFILE` if either is known; any other name stays whole for vLLM to judge."""
    if model is None or model in served:
        return model, None
    name, at, profile = model.rpartition("@")
    return (name, profile) if at and (name in served or profile in profiles) else (model, None)


def make_plan(
    wanted: Wanted,
    profiles: Mapping[str, Control],
    artifacts: Artifacts,
    said: Said,
) -> Plan | None:
    """Resolve body over suffix over header into a plan.

    Args:
        wanted: What the request says.
        profiles: By name.
        artifacts: For laws that need one.
        said: The rest of the request.

    Returns:
        None when the request asks for nothing.

    Raises:
        BadControl: An unknown profile or artifact, or a contradiction.
    """
    named = _named_profile(wanted, profiles)
    body = wanted.body
    if named is None and body is None:
        return None
    control, name, param = body or Control(), None, "entropy.temperature"
    if named is not None:
        name, param = named
        own = {} if body is None else {f: getattr(body, f) for f in body.model_fields_set}
        control = profiles[name].model_copy(update=own)
        if "temperature" in own:
            param = "entropy.temperature"
    _refuse_contradictions(control.temperature, said.temperature)
    tag, parameters = _law_row(control.temperature, artifacts, param)
    with _blamed(named, body):
        inquiry = _inquiry(control, artifacts)
        difficulty = _difficulty(control, artifacts, said)
        steering = control.steering and plan_steering(control.steering, artifacts)
    return Plan(
        name,
        control.temperature,
        tag,
        parameters,
        control.trace,
        difficulty,
        steering or None,
        inquiry,
    )


@contextmanager
def _blamed(named: tuple[str, str] | None, body: Control | None) -> Iterator[None]:
    """Lay a mistake in a field that the client did not send at the door of the profile."""
    try:
        yield
    except BadControl as error:
        field = error.param.split(".")[1]
        if named is None or (body is not None and field in body.model_fields_set):
            raise
        name, param = named
        raise BadControl(f"`{param}`: the profile `{name}` fails: {error}", param) from error


def _difficulty(control: Control, artifacts: Artifacts, said: Said) -> DifficultyPlan | None:
    wanted = control.difficulty
    if wanted is None:
        return None
    probe, spec = artifacts.difficulty_probe(wanted.probe, "entropy.difficulty.probe")
    picked = _EFFORT.get(said.reasoning_effort or "") if wanted.effort else None
    return DifficultyPlan(
        probe=probe,
        strategies=wanted.strategies or spec.strategies,
        shadow=wanted.mode == "shadow",
        picked=picked,
        sets_temperature=said.temperature is None,
    )


def _inquiry(control: Control, artifacts: Artifacts) -> InquiryPlan | None:
    wanted = control.inquiry
    if wanted is None:
        return None
    for field in ("temperature", "difficulty"):
        if getattr(control, field) is not None:
            raise BadControl(
                f"`entropy.{field}` contradicts `entropy.inquiry`, whose questions are chosen and "
                "not sampled: leave one out",
                f"entropy.{field}",
            )
    inquiry = artifacts.inquiry(wanted.task, "entropy.inquiry.task")
    available = inquiry.available(wanted.queries)
    predictor = wanted.predictor or available[0]
    if predictor not in available:
        missing = "table of answers" if predictor == "table" else f"calibration for `{predictor}`"
        raise BadControl(
            f"`entropy.inquiry.predictor`: `{wanted.task}` has no {missing} for "
            f"{wanted.queries} questions, only {', '.join(available)}",
            "entropy.inquiry.predictor",
        )
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
    rule = Rule(
        wanted.policy,
        wanted.empty,
        wanted.label_weights,
        wanted.max_turns,
        tolerance=wanted.tolerance,
    )
    return InquiryPlan(wanted, inquiry, predictor, calibration, spare, rule)


def _named_profile(wanted: Wanted, profiles: Mapping[str, Control]) -> tuple[str, str] | None:
    """The profile that rules and the parameter that names it."""
    sources = [
        (wanted.body.profile if wanted.body else None, "entropy.profile"),
        (wanted.suffix, "model"),
        (wanted.header, "X-Entropy-Profile"),
    ]
    for name, param in sources:
        if name is not None:
            if name not in profiles:
                known = ", ".join(sorted(profiles))
                raise BadControl(f"`{param}`: unknown profile `{name}`; known: {known}", param)
            return name, param
    return None


def _refuse_contradictions(law: TemperatureLaw | None, temperature: float | None) -> None:
    if temperature is None or temperature == 0:  # greedy stays greedy under every law
        return
    if isinstance(law, EntropyTargetLaw) and temperature != 1:
        raise BadControl(
            f"`temperature` ({temperature}) contradicts an entropy target, which solves the "
            "temperature of every token: leave it out",
            "temperature",
        )
    if isinstance(law, FixedLaw) and temperature != law.temperature:
        raise BadControl(
            f"`temperature` ({temperature}) contradicts the fixed temperature of `entropy` "
            f"({law.temperature}): leave one out",
            "temperature",
        )


def _law_row(
    law: TemperatureLaw | None, artifacts: Artifacts, param: str
) -> tuple[int, tuple[float, ...]]:
    statistics = None
    if isinstance(law, HapoLaw):
        statistics = artifacts.hapo_statistics(law.statistics, param)
    return law_row(law, statistics)
