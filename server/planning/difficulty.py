"""Resolves the control `difficulty` to a probe, its strategies and a class."""

from typing import TYPE_CHECKING, NamedTuple

from probes.difficulty.strategies import Difficulty, Strategies
from server.planning.refusals import RequestParams, effort_class, refuse_missing_question
from server.wire.request import DifficultyControl

if TYPE_CHECKING:
    from server.artifacts import Artifacts


class DifficultyPlan(NamedTuple):
    """How the difficulty of the question changes the answer."""

    probe: str
    """Id of the probe's artifact."""
    strategies: Strategies
    shadow: bool
    """Whether to report the class without acting on it."""
    picked: Difficulty | None
    """The class selected by `reasoning_effort`; None uses the probe."""
    sets_temperature: bool
    """Whether the strategy sets the base temperature: only if the request does not."""


def plan_difficulty(
    control: DifficultyControl, artifacts: "Artifacts", params: RequestParams
) -> DifficultyPlan:
    """Resolve the probe and the class that the request selects.

    Raises:
        BadControl: No probe fits, or the request has no question to classify.
    """
    refuse_missing_question(params)
    picked = effort_class(params) if control.effort else None
    probe, spec = artifacts.difficulty_probe(
        control.probe, "entropy.difficulty.probe", params.adapter
    )
    return DifficultyPlan(
        probe=probe,
        strategies=control.strategies or spec.strategies,
        shadow=control.mode == "shadow",
        picked=picked,
        sets_temperature=params.temperature is None,
    )
