"""Builds the report of a completion from its trace. Pure."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from probes.confidence import lowest_window
from probes.laws import EntropyTargetLaw, TemperatureLaw
from probes.selective.state import PromptState
from server.planning.plan import Plan
from server.planning.selective import ConfidencePlan
from server.requests.selective import add_probability, add_verdict
from server.requests.telemetry import TracedToken
from server.wire.report import (
    ConfidenceReport,
    MeasuredReport,
    PhaseName,
    Report,
    TokenReport,
    join_fallbacks,
)


def token_reports(tokens: Sequence[TracedToken]) -> list[TokenReport]:
    """Convert tokens to reports; NaN becomes None."""
    return [
        TokenReport(
            entropy=_finite_or_none(token.entropy),
            temperature=_finite_or_none(token.temperature),
            varentropy=_finite_or_none(token.varentropy),
        )
        for token in tokens
    ]


def summarize(
    plan: Plan,
    tokens: Sequence[TracedToken],
    produced: int,
    base: float | None = None,
    thinking: Sequence[bool] = (),
    state: PromptState | None = None,
) -> Report:
    """Build the report of one completion.

    Args:
        plan: The plan that was applied.
        tokens: Trace records that have arrived.
        produced: Number of tokens of the completion.
        base: Base temperature T0; None if unknown.
        thinking: Whether each token of the completion is thinking; empty without laws by phase.
        state: What the confidence probe read at the end of the prompt; None if nothing.
    """
    fallback = _fallback(tokens, produced)
    report = Report(
        profile=plan.profile,
        law=plan.law_type,
        truncation=None if plan.truncation is None else plan.truncation.type,
        **_measures(plan.law if plan.phases is None else None, tokens, base),
        tokens=token_reports(tokens) if plan.trace == "tokens" else None,
        phases=_by_phase(plan, tokens, base, thinking),
        steering=None if plan.steering is None else plan.steering.reports,
        fallback=join_fallbacks(*plan.skipped, fallback),
    )
    if plan.confidence is not None:
        report.confidence = _confidence(plan.confidence, tokens)
        add_probability(report, plan.confidence, state, complete=fallback is None)
    if plan.abstain is not None:
        add_verdict(report, plan.abstain, complete=fallback is None)
    return report


def _confidence(plan: ConfidencePlan, tokens: Sequence[TracedToken]) -> ConfidenceReport:
    certainties = _finite(token.self_certainty for token in tokens)
    return ConfidenceReport(
        self_certainty_mean=_mean(certainties),
        self_certainty_window_min=lowest_window(certainties, plan.window),
        collision_mean=_mean(_finite(token.collision for token in tokens)),
        logprob_min=min(_finite(token.logprob for token in tokens), default=None),
        window=plan.window,
    )


def _measures(
    law: TemperatureLaw | None, tokens: Sequence[TracedToken], base: float | None
) -> dict[str, Any]:
    """Fields of a `MeasuredReport` but `law`."""
    entropies = _finite(token.entropy for token in tokens)
    temperatures = _finite(token.temperature for token in tokens)
    logprobs = _finite(token.logprob for token in tokens)
    return {
        "entropy_mean": _mean(entropies),
        "entropy_max": max(entropies, default=None),
        "temperature_mean": _mean(temperatures),
        "sampled_entropy_mean": _mean(_finite(token.sampled_entropy for token in tokens)),
        "varentropy_mean": _mean(_finite(token.varentropy for token in tokens)),
        "logprob_mean": _mean(logprobs),
        "logprob_sum": math.fsum(logprobs) if logprobs else None,
        "num_tokens": len(tokens),
        **_changes(temperatures, base),
        "num_clamped": _num_clamped(law, temperatures, base),
        "entropy_target": law.entropy_target if isinstance(law, EntropyTargetLaw) else None,
    }


def _by_phase(
    plan: Plan, tokens: Sequence[TracedToken], base: float | None, thinking: Sequence[bool]
) -> dict[PhaseName, MeasuredReport] | None:
    if plan.phases is None or len(thinking) != len(tokens):
        return None
    laws: dict[PhaseName, TemperatureLaw | None]
    laws = {"thinking": plan.phases.law, "answer": plan.law}
    found: dict[PhaseName, MeasuredReport] = {}
    for name, law in laws.items():
        own = [
            t for t, thinks in zip(tokens, thinking, strict=True) if thinks == (name == "thinking")
        ]
        found[name] = MeasuredReport(
            law=None if law is None else law.type, **_measures(law, own, base)
        )
    return found


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


def _num_clamped(
    law: TemperatureLaw | None, temperatures: Sequence[float], base: float | None
) -> int | None:
    if not isinstance(law, EntropyTargetLaw):
        return None
    ends = [law.temperature_min, law.temperature_max]
    if law.side != "both" and base is not None:
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
