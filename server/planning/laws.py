"""Resolves the control `temperature`: one law, or one for each phase of a reasoning model."""

from typing import TYPE_CHECKING, NamedTuple

from probes.drift import MonitoredInput
from probes.laws import HapoLaw, TemperatureLaw, law_row
from server.planning.refusals import (
    RequestParams,
    refuse_phases,
    refuse_temperature,
)
from server.planning.thinking import ThinkingMarks
from server.wire.request import PhaseLaws

if TYPE_CHECKING:  # imports torch
    from server.artifacts import Artifacts


class PhasePlan(NamedTuple):
    """The law while the model thinks."""

    law: TemperatureLaw | None
    tag: int
    """Tag of the law in the worker's tables."""
    parameters: tuple[float, ...]
    marks: ThinkingMarks


class LawPlan(NamedTuple):
    """The temperature law of a request."""

    law: TemperatureLaw | None
    """That of the answer, if there are laws by phase."""
    tag: int
    parameters: tuple[float, ...]
    phases: PhasePlan | None = None
    monitored: MonitoredInput | None = None
    """What the entropies of the tokens are compared with; None for laws by phase."""


def plan_laws(
    temperature: TemperatureLaw | PhaseLaws | None, artifacts: "Artifacts", params: RequestParams
) -> LawPlan:
    """Resolve the laws to numbers for the worker.

    Equal laws by phase are one law on a model whose phases are not known.

    Raises:
        BadControl: A law contradicts the request, lacks its statistics, or needs a phase that is
            not known.
    """
    refuse_temperature(temperature, params)
    if not isinstance(temperature, PhaseLaws):
        row = _row(temperature, "entropy.temperature", artifacts, params)
        return LawPlan(temperature, *row, monitored=_monitored(temperature, artifacts, params))
    refuse_phases(temperature, params)
    answer = _row(temperature.answer, "entropy.temperature.answer", artifacts, params)
    if params.thinking is None:
        return LawPlan(temperature.answer, *answer)
    thinking = _row(temperature.thinking, "entropy.temperature.thinking", artifacts, params)
    phases = PhasePlan(temperature.thinking, *thinking, params.thinking)
    return LawPlan(temperature.answer, *answer, phases)


def _row(
    law: TemperatureLaw | None, param: str, artifacts: "Artifacts", params: RequestParams
) -> tuple[int, tuple[float, ...]]:
    statistics = None
    if isinstance(law, HapoLaw):
        statistics = artifacts.hapo_statistics(law.statistics, param, params.adapter)
    return law_row(law, statistics)


def _monitored(
    law: TemperatureLaw | None, artifacts: "Artifacts", params: RequestParams
) -> MonitoredInput | None:
    if not isinstance(law, HapoLaw):
        return None
    param = "entropy.temperature"
    return artifacts.monitored(law.statistics, "entropy-statistics", param, params.adapter)
