"""From the control `difficulty` to how the answer follows the difficulty of the question."""

from typing import TYPE_CHECKING, NamedTuple

from probes.difficulty.strategies import Difficulty, Strategies
from server.planning.refusals import RequestParams, effort_class, refuse_unread_question
from server.wire.request import DifficultyControl

if TYPE_CHECKING:
    from server.artifacts import Artifacts


class DifficultyPlan(NamedTuple):
    """How the answer follows the difficulty of the question."""

    probe: str
    """Id of its artifact."""
    strategies: Strategies
    shadow: bool
    """Whether to report and change nothing."""
    picked: Difficulty | None
    """The class that `reasoning_effort` names; None asks the probe."""
    sets_temperature: bool
    """Whether the strategy's temperature is T0: not where the request names its own."""


def plan_difficulty(
    control: DifficultyControl, artifacts: "Artifacts", params: RequestParams
) -> DifficultyPlan:
    """Resolve the probe and the class that the request names.

    Raises:
        BadControl: No probe fits, or there is no question that it could read.
    """
    refuse_unread_question(params)
    picked = effort_class(params) if control.effort else None
    probe, spec = artifacts.difficulty_probe(control.probe, "entropy.difficulty.probe")
    return DifficultyPlan(
        probe=probe,
        strategies=control.strategies or spec.strategies,
        shadow=control.mode == "shadow",
        picked=picked,
        sets_temperature=params.temperature is None,
    )
