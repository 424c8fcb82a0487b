"""The base class of an objective; `batch` has the types of its inputs.

An objective overrides the methods of one or more of three stages:

1. `shape_rewards` and `shape_advantages` receive the generation batch of all processes, with whole
   groups, once per generation;
2. `on_tokens` receives a micro-batch with its gradient and returns a modified `LossPlan`;
3. `on_step_end` receives the statistics of the optimizer step and may update the state.
"""

from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from training.objectives.core.batch import LossPlan, MicroBatch, RolloutBatch, StepStatistics
from training.objectives.core.distributed import Ranks
from training.objectives.core.requirements import ObjectiveSettings

C_co = TypeVar("C_co", bound=ObjectiveSettings, covariant=True)


class Objective(Generic[C_co]):
    """Base class of objectives; the default methods change nothing."""

    state: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that are saved in a checkpoint; their values are numbers or None."""

    def __init__(self, config: C_co) -> None:
        self.config = config
        self.controller_output = 0.0
        """The controller's output, added to the value that `config.actuator` names."""
        self.total_steps = 150
        """Optimizer steps of the run; the trainer sets it."""

    @property
    def temperature(self) -> float | None:
        """Temperature of the extra rollouts or of the rescoring; None without either."""
        return None

    def shape_rewards(self, rollout: RolloutBatch) -> Float[Tensor, " sequences"]:
        """Rewards (N,) to train on."""
        return rollout.rewards

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Advantages (N, T) to train on."""
        return rollout.advantages

    def measure(
        self, logits: Float[Tensor, "*batch vocabulary"], token_ids: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """The tensor of `needs` that is computed from full logits, one number per token.

        Can be called on parts of a batch, to save memory.

        Args:
            logits: Divided by the rollout temperature, shape (..., vocab).
            token_ids: The sampled tokens, shape (...).
        """
        raise NotImplementedError(f"{type(self).__name__} needs no logits")

    def batch_statistics(self, tokens: MicroBatch, plan: LossPlan) -> Shaped[Tensor, "sequences _"]:
        """Statistics of all tokens of a batch that `on_tokens` needs, one row per sequence.

        With gradient accumulation, the trainer computes them once per rollout batch under the
        sampling policy, so they do not depend on the size of a micro-batch. Otherwise, `on_tokens`
        computes them on the micro-batch.

        Args:
            tokens: The batch; for a rollout batch, with old log-probabilities and entropies.
            plan: The plan with the shaped advantages.

        Returns:
            Shape (B, T) or (B, k).
        """
        raise NotImplementedError(f"{type(self).__name__} has no batch statistics")

    def statistics_of(self, tokens: MicroBatch, plan: LossPlan) -> Shaped[Tensor, "sequences _"]:
        """The rollout's statistics if the trainer computed them, else the micro-batch's."""
        found = tokens.statistics.get(self.config.type)
        return self.batch_statistics(tokens, plan) if found is None else found

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Return the modified plan of a training micro-batch. Not called in evaluation."""
        return plan

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Update the state after an optimizer step with at least one token."""

    def state_dict(self) -> dict[str, float | None]:
        """State for a checkpoint, JSON-serializable."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: The keys are not those of this objective's state.
        """
        if set(state) != set(self.state):
            raise ValueError(
                f"expected the state {sorted(self.state)} for {type(self).__name__}, found "
                f"{[*state]}"
            )
        for name, value in state.items():
            setattr(self, name, value)
