"""From a trace to what the client reads. Pure."""

import math
from collections.abc import Sequence

from probes.laws import EntropyTargetLaw
from server.planning.plan import Plan
from server.requests.telemetry import Token
from server.wire.report import Report, TokenReport


def token_reports(tokens: Sequence[Token]) -> list[TokenReport]:
    """Tokens as the client sees them, ready for JSON."""
    return [
        TokenReport(entropy=_number(entropy), temperature=_number(temperature))
        for entropy, temperature in tokens
    ]


def summarise(plan: Plan, tokens: Sequence[Token], produced: int) -> Report:
    """The report of one completion.

    Args:
        plan: What ruled it.
        tokens: Its trace, as far as it arrived.
        produced: How many tokens it has.
    """
    entropies = [entropy for entropy, _ in tokens if math.isfinite(entropy)]
    temperatures = [temperature for _, temperature in tokens if math.isfinite(temperature)]
    return Report(
        profile=plan.profile,
        law=None if plan.law is None else plan.law.type,
        entropy_mean=_mean(entropies),
        entropy_max=max(entropies, default=None),
        temperature_mean=_mean(temperatures),
        num_tokens=len(tokens),
        num_clamped=_num_clamped(plan, temperatures),
        tokens=token_reports(tokens) if plan.trace == "tokens" else None,
        steering=None if plan.steering is None else plan.steering.reports,
        fallback=_fallback(tokens, produced),
    )


def _fallback(tokens: Sequence[Token], produced: int) -> str | None:
    if any(not math.isfinite(temperature) for _, temperature in tokens):
        return "control_failed"
    if any(not math.isfinite(entropy) for entropy, _ in tokens):
        return "no_entropy"
    return "trace_lost" if len(tokens) < produced else None


def _num_clamped(plan: Plan, temperatures: Sequence[float]) -> int | None:
    if not isinstance(plan.law, EntropyTargetLaw):
        return None
    limits = (plan.law.temperature_min, plan.law.temperature_max)
    return sum(
        any(math.isclose(temperature, limit, rel_tol=1e-5) for limit in limits)
        for temperature in temperatures
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
