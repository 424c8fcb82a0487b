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
    control, name, param = _resolve(wanted, profiles)
    if control is None:
        return None
    law = control.temperature
    _refuse_contradictions(law, temperature, param)
    tag, parameters = _parameters(law, artifacts, f"{param}.temperature")
    return Plan(name, law, tag, parameters, control.trace)


def _resolve(
    wanted: Wanted, profiles: Mapping[str, Control]
) -> tuple[Control | None, str | None, str]:
    sources = [
        (wanted.body.profile if wanted.body else None, "entropy.profile"),
        (wanted.suffix, "model"),
        (wanted.header, "X-Entropy-Profile"),
    ]
    name, param = next(((n, p) for n, p in sources if n is not None), (None, "entropy"))
    if name is None:
        return wanted.body, None, "entropy"
    if name not in profiles:
        known = ", ".join(sorted(profiles))
        raise BadControl(f"`{param}`: unknown profile `{name}`; known: {known}", param)
    profile = profiles[name]
    if wanted.body is None:
        return profile, name, param
    said = {field: getattr(wanted.body, field) for field in wanted.body.model_fields_set}
    return profile.model_copy(update=said), name, "entropy"


def _refuse_contradictions(
    law: TemperatureLaw | None, temperature: float | None, param: str
) -> None:
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
            f"`temperature` ({temperature}) contradicts `{param}.temperature` of type fixed "
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
            statistics = artifacts.hapo_statistics(law.statistics, f"{param}.statistics")
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
