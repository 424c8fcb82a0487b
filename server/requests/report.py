"""Builds the report of a completion from its trace. Pure."""

import math
from collections.abc import Iterable, Sequence

from probes.confidence import lowest_window
from probes.laws import EntropyTargetLaw
from server.planning.plan import Plan
from server.planning.selective import ConfidencePlan
from server.requests.selective import add_probability, add_verdict
from server.requests.telemetry import TracedToken
from server.wire.report import ConfidenceReport, Report, TokenReport, join_fallbacks


def token_reports(tokens: Sequence[TracedToken]) -> list[TokenReport]:
    """Convert tokens to reports; NaN becomes None."""
    return [
        TokenReport(
            entropy=_finite_or_none(token.entropy), temperature=_finite_or_none(token.temperature)
        )
        for token in tokens
    ]


def summarize(
    plan: Plan, tokens: Sequence[TracedToken], produced: int, base: float | None = None
) -> Report:
    """Build the report of one completion.

    Args:
        plan: The plan that was applied.
        tokens: Trace records that have arrived.
        produced: Number of tokens of the completion.
        base: Base temperature T0; None if unknown.
    """
    entropies = _finite(token.entropy for token in tokens)
    temperatures = _finite(token.temperature for token in tokens)
    logprobs = _finite(token.logprob for token in tokens)
    fallback = _fallback(tokens, produced)
    report = Report(
        profile=plan.profile,
        law=None if plan.law is None else plan.law.type,
        truncation=None if plan.truncation is None else plan.truncation.type,
        entropy_mean=_mean(entropies),
        entropy_max=max(entropies, default=None),
        temperature_mean=_mean(temperatures),
        sampled_entropy_mean=_mean(_finite(token.sampled_entropy for token in tokens)),
        varentropy_mean=_mean(_finite(token.varentropy for token in tokens)),
        logprob_mean=_mean(logprobs),
        logprob_sum=math.fsum(logprobs) if logprobs else None,
        num_tokens=len(tokens),
        **_changes(temperatures, base),
        num_clamped=_num_clamped(plan, temperatures, base),
        entropy_target=plan.law.entropy_target if isinstance(plan.law, EntropyTargetLaw) else None,
        tokens=token_reports(tokens) if plan.trace == "tokens" else None,
        steering=None if plan.steering is None else plan.steering.reports,
        fallback=join_fallbacks(*plan.skipped, fallback),
    )
    if plan.confidence is not None:
        report.confidence = _confidence(plan.confidence, tokens, logprobs)
        add_probability(report, plan.confidence, complete=fallback is None)
    if plan.abstain is not None:
        add_verdict(report, plan.abstain, complete=fallback is None)
    return report


def _confidence(
    plan: ConfidencePlan, tokens: Sequence[TracedToken], logprobs: Sequence[float]
) -> ConfidenceReport:
    certainties = _finite(token.self_certainty for token in tokens)
    return ConfidenceReport(
        self_certainty_mean=_mean(certainties),
        self_certainty_window_min=lowest_window(certainties, plan.window),
        collision_mean=_mean(_finite(token.collision for token in tokens)),
        logprob_min=min(logprobs, default=None),
        window=plan.window,
    )


def _fallback(tokens: Sequence[TracedToken], produced: int) -> str | None:
    if any(not math.isfinite(token.temperature) for token in tokens):
        return "control_failed"
    if any(not math.isfinite(token.entropy) for token in tokens):
        return "no_entropy"
    return "trace_lost" if len(tokens) < produced else None


def _changes(temperatures: Sequence[float], base: float | None) -> dict[str, float | None]:
    """Statistics of how the law changed T0."""
    found: dict[str, float | None] = {"base_temperature": base}
    if base is not None and temperatures:
        changed = [one - base for one in temperatures if not _equal(one, base)]
        found |= {
            "temperature_change_mean": math.fsum(map(abs, changed)) / len(temperatures),
            "share_heated": sum(change > 0 for change in changed) / len(temperatures),
            "share_cooled": sum(change < 0 for change in changed) / len(temperatures),
        }
    return found


def _num_clamped(plan: Plan, temperatures: Sequence[float], base: float | None) -> int | None:
    if not isinstance(plan.law, EntropyTargetLaw):
        return None
    ends = [plan.law.temperature_min, plan.law.temperature_max]
    if plan.law.side != "both" and base is not None:
        ends.append(base)
    return sum(any(_equal(one, end) for end in ends) for one in temperatures)


def _equal(temperature: float, other: float) -> bool:
    """Whether two temperatures are equal up to float32 rounding."""
    return math.isclose(temperature, other, rel_tol=1e-5)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
