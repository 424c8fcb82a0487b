"""Combines the objectives of a run into the one object that a trainer calls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from training.objectives.catalog import ObjectiveConfig, refuse_contradictions
from training.objectives.core.batch import LossPlan, MicroBatch, RolloutBatch, StepStatistics
from training.objectives.core.controller import Actuator
from training.objectives.core.distributed import Ranks, SingleProcess
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import Claim, ObjectiveSettings, RequiredTensor
from training.objectives.groups.baselines import group_advantages
from training.objectives.registry import build_objective
from training.objectives.steer import entropy_change

State = dict[str, dict[str, float | None]]


class Objectives:
    """The objectives of a run, applied one after the other in the order of the config.

    A trainer calls `shape` once per generation batch, `plan` once per training micro-batch,
    `end_step` once per optimizer step, and keeps `state_dict` in its checkpoints.
    """

    def __init__(
        self,
        configs: Sequence[ObjectiveConfig],
        actuator: Actuator | None = None,
        *,
        accumulates: bool = False,
    ) -> None:
        """Build the objectives.

        Args:
            configs: Settings, in the order in which the objectives are applied.
            actuator: What a controller changes; None without a controller.
            accumulates: Whether an optimizer step has several micro-batches. If so,
                `rollout_statistics` computes the statistics of a batch.
        """
        self.members: dict[str, Objective[ObjectiveSettings]] = {
            config.type: build_objective(config) for config in refuse_contradictions(configs)
        }
        self._actuator = actuator
        self._accumulates = accumulates
        self._totals: Tensor | None = None

    @property
    def needs(self) -> frozenset[RequiredTensor]:
        """The tensors that the trainer has to measure."""
        needs = [member.config.needs for member in self.members.values()]
        if self._accumulates:
            needs += [member.config.batch_needs for member in self.members.values()]
        return frozenset().union(*needs)

    @property
    def shares_statistics(self) -> bool:
        """Whether `rollout_statistics` returns anything."""
        return self._accumulates and any(one.config.batch_needs for one in self.members.values())

    def set_total_steps(self, total_steps: int) -> None:
        """Set the number of optimizer steps of the run."""
        for member in self.members.values():
            member.total_steps = total_steps

    @property
    def acts_on_tokens(self) -> bool:
        """Whether any objective changes the loss of a micro-batch."""
        return any(_overrides(member, "on_tokens") for member in self.members.values())

    @property
    def acts_on_groups(self) -> bool:
        """Whether any objective changes rewards or advantages of a generation batch."""
        methods = ("shape_rewards", "shape_advantages")
        return any(_overrides(m, method) for m in self.members.values() for method in methods)

    def set_controller_output(self, output: float) -> None:
        """Pass the controller's output to the objective with the actuator."""
        for member in self.members.values():
            if self._actuator is not None and member.config.actuator is self._actuator:
                member.controller_output = output

    def shape(self, rollout: RolloutBatch) -> RolloutBatch:
        """Shape rewards, recompute group advantages if rewards changed, then shape advantages.

        An objective that claims the baseline recomputes the advantages, so it always runs first.
        """
        members = self.members.values()
        for member in members:
            rollout = replace(rollout, rewards=member.shape_rewards(rollout))
        if any(_overrides(member, "shape_rewards") for member in members):
            rollout = replace(rollout, advantages=group_advantages(rollout))
        for member in sorted(members, key=lambda one: Claim.BASELINE not in one.config.claims()):
            rollout = replace(rollout, advantages=member.shape_advantages(rollout))
        return rollout

    def rollout_statistics(
        self,
        tokens: MicroBatch,
        advantages: Float[Tensor, " sequences *tokens"],
        epsilon_low: float,
        epsilon_high: float,
    ) -> dict[str, Shaped[Tensor, "sequences _"]]:
        """Statistics of the whole rollout batch, for `MicroBatch.statistics`.

        Args:
            tokens: All tokens of this process's rollout, under the sampling policy.
            advantages: Shaped advantages, (N,) or (N, T).
            epsilon_low: The trainer's clip range.
            epsilon_high: The trainer's clip range.

        Returns:
            Per objective, a tensor with one row per sequence.
        """
        tokens = tokens.without_padding()
        plan = _plain_plan(tokens, advantages, epsilon_low, epsilon_high)
        return {
            name: member.batch_statistics(tokens, plan)
            for name, member in self.members.items()
            if member.config.batch_needs
        }

    def plan(
        self,
        tokens: MicroBatch,
        advantages: Float[Tensor, " sequences *tokens"],
        epsilon_low: float,
        epsilon_high: float,
    ) -> LossPlan:
        """Plan the loss of a training micro-batch.

        Args:
            tokens: The micro-batch; values at padding are ignored.
            advantages: Shape (B,) or (B, T), without gradient.
            epsilon_low: The trainer's clip range.
            epsilon_high: The trainer's clip range.
        """
        tokens = tokens.without_padding()
        plan = _plain_plan(tokens, advantages, epsilon_low, epsilon_high)
        advantages = plan.advantages
        for member in self.members.values():
            plan = member.on_tokens(tokens, plan)
        totals = _totals(tokens, advantages)
        self._totals = totals if self._totals is None else self._totals + totals
        return plan

    def end_step(self, ranks: Ranks | None = None) -> StepStatistics:
        """Finish an optimizer step and return its statistics, equal on all processes.

        If no token of the step has a loss, all means are NaN. The objectives keep their state then,
        and where a sampled token has probability 0: their states are saved and must stay finite.
        """
        if self._totals is None:
            raise RuntimeError("end_step was called before plan")
        ranks = ranks or SingleProcess()
        step = _step(ranks.sum(self._totals))
        self._totals = None
        if all(map(math.isfinite, step)):
            for member in self.members.values():
                member.on_step_end(step, ranks)
        return step

    def state_dict(self) -> State:
        """State for a checkpoint, JSON-serializable; call it between steps."""
        return {name: member.state_dict() for name, member in self.members.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float | None]]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: The state belongs to other objectives.
        """
        if list(state) != list(self.members):
            raise ValueError(
                f"the checkpoint was written with objectives {list(state)}, the run has "
                f"{list(self.members)}"
            )
        for name, member in self.members.items():
            member.load_state_dict(state[name])


def _plain_plan(
    tokens: MicroBatch, advantages: Float[Tensor, " sequences *tokens"], low: float, high: float
) -> LossPlan:
    """A plan for the trainer's unmodified loss."""
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(tokens.mask.shape)
    advantages = advantages.masked_fill(~tokens.mask, 0.0)
    return LossPlan(
        advantages=advantages,
        weight=torch.ones_like(advantages),
        epsilon_low=low,
        epsilon_high=high,
    )


def _overrides(member: Objective[ObjectiveSettings], method: str) -> bool:
    return getattr(type(member), method) is not getattr(Objective, method)


def _totals(
    tokens: MicroBatch, advantages: Float[Tensor, "sequences tokens"]
) -> Float[Tensor, "6"]:
    """Sums over the tokens of a micro-batch, (6,) float64; see `_step` for their meaning."""
    logprobs, entropy = tokens.logprobs.detach(), tokens.entropy.detach()
    change = entropy_change(logprobs, tokens.old_logprobs, entropy, advantages)
    columns = (torch.ones_like(entropy), entropy, logprobs, advantages, logprobs * advantages)
    stacked = torch.stack([*columns, change]).double()
    return (stacked * tokens.mask).sum((1, 2))


def _step(totals: Float[Tensor, "6"]) -> StepStatistics:
    count, *sums = totals.tolist()
    means = (value / count if count else math.nan for value in sums)
    entropy, logprob, advantage, product, change = means
    covariance = product - logprob * advantage
    return StepStatistics(int(count), entropy, -logprob, covariance, change)
