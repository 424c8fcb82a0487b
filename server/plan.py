"""From what a request says to what the engine does. Pure: no I/O, no clock, no engine."""

from collections.abc import Mapping
from typing import NamedTuple, assert_never

from probes.temperature import Law, law_parameters
from server.artifacts import Artifacts
from server.errors import BadControl
from server.protocol import (
    Control,
    Dynatemp,
    Edt,
    EntropyTarget,
    FixedTemperature,
    Hapo,
    TemperatureLaw,
)


class Plan(NamedTuple):
    """What to do for one request."""

    profile: str | None
    law: TemperatureLaw | None
    tag: Law
    parameters: list[float]
    trace: str


class Wanted(NamedTuple):
    """Where a request names a profile, strongest first."""

    body: Control | None
    suffix: str | None
    header: str | None


def split_model(model: str | None, served: set[str]) -> tuple[str | None, str | None]:
    """Split `NAME@PROFILE`; a served name that itself contains `@` stays whole."""
    if model is None or model in served or "@" not in model:
        return model, None
    name, _, profile = model.rpartition("@")
    return name, profile


def make_plan(
    wanted: Wanted,
    profiles: Mapping[str, Control],
    artifacts: Artifacts,
    temperature: float | None,
) -> Plan | None:
    """Resolve body over suffix over header into a plan.

    Args:
        wanted: What the request says.
        profiles: By name.
        artifacts: For laws that need one.
        temperature: The request's own, if it names one.

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
        said = {} if body is None else {f: getattr(body, f) for f in body.model_fields_set}
        control = profiles[name].model_copy(update=said)
        if "temperature" in said:
            param = "entropy.temperature"
    _refuse_contradictions(control.temperature, temperature)
    tag, parameters = _parameters(control.temperature, artifacts, param)
    return Plan(name, control.temperature, tag, parameters, control.trace)


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
    if isinstance(law, EntropyTarget) and temperature != 1:
        raise BadControl(
            f"`temperature` ({temperature}) contradicts an entropy target, which solves the "
            "temperature of every token: leave it out",
            "temperature",
        )
    if isinstance(law, FixedTemperature) and temperature != law.temperature:
        raise BadControl(
            f"`temperature` ({temperature}) contradicts the fixed temperature of `entropy` "
            f"({law.temperature}): leave one out",
            "temperature",
        )


def _parameters(
    law: TemperatureLaw | None, artifacts: Artifacts, param: str
) -> tuple[Law, list[float]]:
    match law:
        case None:
            return Law.NONE, law_parameters(Law.NONE)
        case FixedTemperature():
            return Law.FIXED, law_parameters(Law.FIXED, temperature=law.temperature)
        case Hapo():
            statistics = artifacts.hapo_statistics(law.statistics, param)
            return Law.HAPO, law_parameters(
                Law.HAPO,
                **statistics._asdict(),
                tau=law.tau,
                published=float(law.compat == "published"),
            )
        case Edt():
            return Law.EDT, law_parameters(Law.EDT, theta=law.theta, base=law.base)
        case Dynatemp():
            return Law.DYNATEMP, law_parameters(
                Law.DYNATEMP, range=law.range, exponent=law.exponent
            )
        case EntropyTarget():
            return Law.ENTROPY_TARGET, law_parameters(
                Law.ENTROPY_TARGET, **law.model_dump(exclude={"type"})
            )
        case _:
            assert_never(law)
