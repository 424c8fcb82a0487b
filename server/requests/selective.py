"""Adds the calibrated confidence and the verdict to a report, and replaces withheld answers."""

import math
from typing import Any

from probes.selective.scores import score_value, uncertainty
from probes.selective.state import PromptState
from server.metrics import observe
from server.planning.selective import AbstentionPlan, ConfidencePlan
from server.requests.sse import only_sets_role, sse
from server.wire.report import AbstentionReport, Report, join_fallbacks


def add_probability(
    report: Report, plan: ConfidencePlan, state: PromptState | None, *, complete: bool
) -> None:
    """Add the probability that the probe predicts, and whether the prompt is unlike its questions.

    Args:
        report: Has `confidence` with its scores.
        plan: Adds nothing if it has no probe.
        state: What the probe read at the end of the prompt; None if nothing.
        complete: Whether every token was measured; otherwise there is no probability.
    """
    found, probe = report.confidence, plan.probe
    if probe is None or found is None:
        return
    scores = _scores(report)
    probability = probe.probability(scores, state) if complete else math.nan
    found.probe = plan.name
    if probe.spec.state is not None and state is not None and math.isfinite(state.distance):
        found.state_distance = state.distance
        found.out_of_distribution = state.distance > probe.spec.state.threshold
        observe.count_prompt_state(found.out_of_distribution)
    if math.isnan(probability):
        report.fallback = join_fallbacks(report.fallback, "uncalibrated")
        return
    setattr(found, probe.spec.predicts, probability)
    found.outside = probe.outside(scores)


def add_verdict(report: Report, plan: AbstentionPlan, *, complete: bool) -> None:
    """Decide whether the answer is given. One without a score is not.

    Args:
        report: Has the scores.
        plan: The threshold.
        complete: Whether every token was measured; otherwise the answer has no score.
    """
    doubt = uncertainty(plan.score, score_value(_scores(report), plan.score))
    known = complete and math.isfinite(doubt)
    if not known:
        report.fallback = join_fallbacks(report.fallback, "uncalibrated")
    control = plan.control
    report.abstain = AbstentionReport(
        abstained=not (known and plan.threshold is not None and doubt <= plan.threshold),
        score=plan.score,
        uncertainty=doubt if known else None,
        threshold=plan.threshold,
        promise=control.promise,
        alpha=control.alpha,
        delta=control.delta if control.promise == "selective" else None,
        calibration=control.calibration,
        questions=plan.questions,
    )
    observe.count_verdict(report.abstain.abstained)


def _scores(report: Report) -> dict[str, Any]:
    """Every score of a report, by name."""
    found = dict(report)
    return found if report.confidence is None else found | dict(report.confidence)


def replace_answer(choice: Any, report: Report | None, plan: AbstentionPlan) -> None:
    """Replace the answer of a choice by the text of the control if it is withheld.

    Args:
        choice: Of vLLM's response model; changed.
        report: Its report.
        plan: The control.
    """
    verdict = None if report is None else report.abstain
    if verdict is not None and not verdict.abstained:
        return
    message = getattr(choice, "message", None)
    said = choice.text if message is None else message.content
    if verdict is not None and not plan.control.withhold:
        verdict.answer = said
    if message is None:
        choice.text = plan.control.text
    else:
        choice.message = type(message)(role=message.role, content=plan.control.text)
    choice.finish_reason = "stop"
    for field in ("logprobs", "stop_reason", "token_ids", "routed_experts"):
        if hasattr(choice, field):
            setattr(choice, field, None)


class HeldStream:
    """Holds back the events of each choice until its verdict."""

    def __init__(self, plan: AbstentionPlan) -> None:
        self._plan = plan
        self._held: dict[int, list[str]] = {}
        self._texts: dict[int, list[str]] = {}

    def feed(self, data: dict[str, Any]) -> str:
        """What to send now: nothing before the verdict, then all of the answer or the text instead.

        Args:
            data: A parsed event; the last one of a choice has its report.
        """
        parts = data.get("choices") or ()
        if not parts or all(map(only_sets_role, parts)):
            return sse(data)
        part = parts[0]  # vLLM sends one choice in an event
        index = part["index"]
        held = self._held.setdefault(index, [])
        self._texts.setdefault(index, []).append(_said(part))
        if part.get("finish_reason") is None:
            held.append(sse(data))
            return ""
        verdict = (part.get("entropy") or {}).get("abstain")
        if verdict is not None and not verdict["abstained"]:
            return "".join([*held, sse(data)])
        if verdict is not None and not self._plan.control.withhold:
            verdict["answer"] = "".join(self._texts[index])
        return sse(_replaced(data, part, self._plan.control.text))


def _said(part: dict[str, Any]) -> str:
    return (part.get("delta") or {}).get("content") or part.get("text") or ""


def _replaced(data: dict[str, Any], part: dict[str, Any], text: str) -> dict[str, Any]:
    """The event that ends a withheld choice, with the text."""
    ended: dict[str, Any] = {key: part[key] for key in ("index", "entropy") if key in part}
    ended["delta" if "delta" in part else "text"] = {"content": text} if "delta" in part else text
    ended |= {"logprobs": None, "finish_reason": "stop"}
    return {**data, "choices": [ended]}
