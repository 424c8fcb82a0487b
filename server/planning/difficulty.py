"""Resolves the control `difficulty` to a probe, its strategies and a class."""

from typing import TYPE_CHECKING, NamedTuple

from probes.difficulty.strategies import Difficulty, RouterSpec, Strategies
from probes.drift import MonitoredInput
from server.errors import BadControl
from server.planning.refusals import RequestParams, effort_class, refuse_missing_question
from server.wire.request import DifficultyControl

if TYPE_CHECKING:
    from server.artifacts import Artifacts


class RouterPlan(NamedTuple):
    """How expected accuracy and tokens choose the strategy."""

    price: float
    """Accuracy that a normal answer's worth of tokens may cost."""
    normal_tokens: float
    """That many."""


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
    router: RouterPlan | None = None
    """None: the class of the question chooses."""
    limits_thinking: bool = False
    """Whether the strategies limit the tokens of the thinking: if the model's marks are known."""
    baseline: bool = False
    """Whether the server, not the request, chose `shadow`: to measure what the strategies save."""
    monitored: MonitoredInput | None = None
    """What the states that the probe reads are compared with."""


def plan_difficulty(
    control: DifficultyControl, artifacts: "Artifacts", params: RequestParams
) -> DifficultyPlan:
    """Resolve the probe and the class that the request selects.

    Raises:
        BadControl: No probe fits, it has no router but the request asks for one, or the request has
            no question to read.
    """
    refuse_missing_question(params)
    picked = effort_class(params) if control.effort else None
    param = "entropy.difficulty.probe"
    probe, spec = artifacts.difficulty_probe(control.probe, param, params.adapter)
    strategies = control.strategies or spec.strategies
    _refuse_thinking(strategies, control, params)
    return DifficultyPlan(
        probe=probe,
        strategies=strategies,
        shadow=control.mode == "shadow" or params.is_baseline,
        baseline=control.mode == "act" and params.is_baseline,
        picked=picked,
        sets_temperature=params.temperature is None,
        router=_plan_router(control, probe, spec.router),
        limits_thinking=params.thinking is not None,
        monitored=artifacts.monitored(probe, "difficulty-probe", param, params.adapter),
    )


def _refuse_thinking(
    strategies: Strategies, control: DifficultyControl, params: RequestParams
) -> None:
    """Refuse strategies that limit a thinking whose tokens are not known."""
    names = [one.word for one in Difficulty if strategies.for_class(one).thinking is not None]
    if not names or params.thinking is not None or control.mode == "shadow":
        return
    param = "entropy.difficulty"
    if control.strategies is not None:
        param += f".strategies.{names[0]}.thinking"
    raise BadControl(
        f"`{param}`: the tokens that start and end this model's thinking are not known: start the "
        "server with the model's --reasoning-parser, or use strategies without `thinking`",
        param,
    )


def _plan_router(
    control: DifficultyControl, probe: str, router: RouterSpec | None
) -> RouterPlan | None:
    """The router that the request asks for; without a wish, the probe's, unless it cannot apply."""
    wanted = control.labels == "worth" or control.price is not None
    param = f"entropy.difficulty.{'labels' if control.labels == 'worth' else 'price'}"
    if control.labels == "diffadapt":
        if control.price is not None:
            raise BadControl(f"`{param}`: belongs to `labels` worth, not to diffadapt", param)
        return None
    if router is None:
        if wanted:
            raise BadControl(
                f"`{param}`: `{probe}` has no expected accuracies: train it with "
                "`train-probe difficulty --labels outcome`, or leave this out",
                param,
            )
        return None
    if control.strategies is not None:
        if wanted:
            raise BadControl(
                f"`{param}`: the expected accuracies are those of the strategies of `{probe}`; "
                "leave out `strategies`, or use `labels` diffadapt",
                param,
            )
        return None
    price = router.price if control.price is None else control.price
    return RouterPlan(price, router.normal_tokens)
