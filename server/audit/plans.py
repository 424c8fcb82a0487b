"""What a line says of a plan: the numbers that the controls were resolved to."""

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from probes.artifact import Adapter
from probes.laws import HapoLaw
from server.planning.difficulty import DifficultyPlan
from server.planning.plan import Plan
from server.wire.cards import ArtifactCard
from server.wire.request import Control, PhaseLaws

if TYPE_CHECKING:
    from server.planning.inquiry import InquiryPlan


def dumped(model: BaseModel | None) -> dict[str, Any] | None:
    """A model as JSON values, without the fields that are not set."""
    return None if model is None else model.model_dump(mode="json", exclude_none=True)


def plan_facts(plan: Plan) -> dict[str, Any]:
    """What the controls of a plan were resolved to."""
    found: dict[str, Any] = {"law": plan.law_type}
    if plan.law is not None:
        found["law_row"] = list(plan.parameters)
    if plan.phases is not None:
        found["thinking_row"] = list(plan.phases.parameters)
    if plan.difficulty is not None:
        found["difficulty"] = _difficulty(plan.difficulty)
    if plan.steering is not None:
        found["steering"] = [dumped(one) for one in plan.steering.reports]
    if plan.abstain is not None:
        kept = ("score", "threshold", "questions")
        found["abstain"] = {name: getattr(plan.abstain, name) for name in kept}
    if plan.confidence is not None:
        found["confidence"] = {"probe": plan.confidence.name, "window": plan.confidence.window}
    if plan.inquiry is not None:
        found["inquiry"] = _inquiry(plan.inquiry)
    return {name: value for name, value in found.items() if value is not None}


def _difficulty(plan: DifficultyPlan) -> dict[str, Any]:
    return {
        "probe": plan.probe,
        "shadow": plan.shadow,
        "picked": None if plan.picked is None else plan.picked.word,
        "price": None if plan.router is None else plan.router.price,
        "normal_tokens": None if plan.router is None else plan.router.normal_tokens,
        "strategies": dumped(plan.strategies),
    }


def _inquiry(plan: "InquiryPlan") -> dict[str, Any]:
    return {
        "task": plan.control.task,
        "predictor": plan.predictor,
        "confidence_level": plan.control.confidence_level,
    }


def used_artifacts(
    plan: Plan, cards: Iterable[ArtifactCard], adapter: Adapter | None
) -> dict[str, str | None]:
    """Fingerprints of the artifacts that a plan uses, by id.

    Args:
        plan: A plan.
        cards: All artifacts of the server.
        adapter: LoRA adapter that the request names as its model.
    """
    cards, names = list(cards), set(_named(plan))
    made_for = None if adapter is None else adapter.hash
    for law in _laws(plan.control):
        if isinstance(law, HapoLaw):
            fit = (
                one.id
                for one in cards
                if one.usable and one.kind == "entropy-statistics" and one.adapter == made_for
            )
            names.add(law.statistics or next(fit, ""))
    return fingerprints(names, cards)


def fingerprints(names: Collection[str], cards: Iterable[ArtifactCard]) -> dict[str, str | None]:
    """Fingerprints of artifacts, by id; None for artifacts of earlier releases."""
    return {one.id: one.hash for one in cards if one.id in names}


def _named(plan: Plan) -> Iterator[str]:
    if plan.difficulty is not None:
        yield plan.difficulty.probe
    if plan.steering is not None:
        yield from (one.vector for one in plan.steering.reports)
    if plan.inquiry is not None:
        yield plan.inquiry.control.task
    if plan.confidence is not None and plan.confidence.name is not None:
        yield plan.confidence.name
    if plan.abstain is not None:
        yield plan.abstain.control.calibration


def _laws(control: Control | None) -> Iterator[Any]:
    temperature = None if control is None else control.temperature
    if isinstance(temperature, PhaseLaws):
        yield from (temperature.thinking, temperature.answer)
    else:
        yield temperature
