"""Builders of the temperature laws of a request; `clients.entropy` exports them."""

from collections.abc import Iterable
from typing import Literal

Law = dict[str, str | float | list[float]]
"""A temperature law in its JSON form; the functions below build one."""
PhaseLaws = dict[str, Law | None]
"""A temperature law for each phase of a reasoning model; `by_phase` builds one."""


def law(type: str, **parameters: float | str | list[float]) -> Law:
    """Build any law from its `type`; the functions below are shorthands for the known laws."""
    return {"type": type, **parameters}


def fixed(temperature: float) -> Law:
    """Use one temperature for every token; the entropy is still measured."""
    return {"type": "fixed", "temperature": temperature}


def hapo(tau: float = 0.05, *, statistics: str | None = None) -> Law:
    """Heat uncertain tokens and cool certain ones, by at most the share `tau`.

    Args:
        tau: Largest relative change of the request's temperature.
        statistics: Id of an `entropy-statistics` artifact; None selects the model's own.

    Source: HAPO (arXiv 2509.16591).
    """
    law: Law = {"type": "hapo", "tau": tau}
    if statistics is not None:
        law["statistics"] = statistics
    return law


def edt(theta: float = 0.5, base: float = 0.8) -> Law:
    """T = T0 base^(theta / H): the lower the entropy, the lower the temperature.

    Source: EDT (arXiv 2403.14541).
    """
    return {"type": "edt", "theta": theta, "base": base}


def dynatemp(range: float = 0.5, exponent: float = 1.0) -> Law:
    """T between T0 - range and T0 + range by the entropy as a share of ln(vocabulary).

    Source: llama.cpp, `--dynatemp-range`.
    """
    return {"type": "dynatemp", "range": range, "exponent": exponent}


def entropy_target(
    nats: float,
    *,
    side: Literal["ceiling", "floor", "both"] = "ceiling",
    temperature_min: float = 0.1,
    temperature_max: float = 2.0,
) -> Law:
    """Keep the entropy of every token's distribution at most, at least or exactly at a target.

    Args:
        nats: The target.
        side: "ceiling" only cools, "floor" only heats the request's own temperature; "both" does
            both.
        temperature_min: Tokens are not cooled below this temperature.
        temperature_max: Tokens are not heated above this temperature.
    """
    return {
        "type": "entropy_target",
        "entropy_target": nats,
        "temperature_min": temperature_min,
        "temperature_max": temperature_max,
        "side": side,
    }


def shuffled(temperatures: Iterable[float], weights: Iterable[float] | None = None) -> Law:
    """Draw every token's temperature from a histogram, whatever its entropy: a control.

    Args:
        temperatures: At most 64. A request with a `seed` draws the same ones again.
        weights: How often each is drawn, relative to the others; None draws all equally often.
    """
    law: Law = {"type": "shuffled", "temperatures": list(temperatures)}
    if weights is not None:
        law["weights"] = list(weights)
    return law


def by_phase(*, thinking: Law | None = None, answer: Law | None = None) -> PhaseLaws:
    """Use one law while a reasoning model thinks and another for its answer.

    Args:
        thinking: Law of the thinking; None uses the request's own temperature.
        answer: Law of the answer; None uses the request's own temperature.
    """
    return {"thinking": thinking, "answer": answer}
