"""What an objective may do; `batch` has what it is given.

An objective acts at up to three moments, and does nothing at those it does not override:

1. `shape_rewards` and `shape_advantages` see a whole generation batch of all processes with its
   groups together, once per generation;
2. `on_tokens` sees a micro-batch with its gradient and changes a `LossPlan`;
3. `on_step_end` sees what the optimizer step measured and may move the objective's state.
"""

from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from training.objectives.batch import LossPlan, MicroBatch, RolloutBatch, StepStatistics
from training.objectives.distributed import Ranks
from training.objectives.requirements import ObjectiveSettings

C_co = TypeVar("C_co", bound=ObjectiveSettings, covariant=True)


class Objective(Generic[C_co]):
    """One way to act on the training objective. Everything here is: do nothing."""

    state: ClassVar[tuple[str, ...]] = ()
    """Attributes that belong in a checkpoint: numbers, or None."""

    def __init__(self, config: C_co) -> None:
        self.config = config
        self.drive = 0.0
        """The controller's output, added to what `config.actuator` names."""
        self.total_steps = 150
        """Optimizer steps of the run; the trainer sets it."""

    @property
    def temperature(self) -> float | None:
        """Sampling temperature of the extra rollouts or of the rescoring that it asks for."""
        return None

    def shape_rewards(self, rollout: RolloutBatch) -> Tensor:
        """Rewards (N,) to train on."""
        return rollout.rewards

    def shape_advantages(self, rollout: RolloutBatch) -> Tensor:
        """Advantages (N, T) to train on."""
        return rollout.advantages

    def measure(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        """The number per token that `needs` asks for of full logits.

        Works on any part of a batch, so a caller short of memory may cut it into pieces.

        Args:
            logits: Divided by the rollout temperature, shape (..., vocab).
            token_ids: The sampled tokens, shape (...).
        """
        raise NotImplementedError(f"{type(self).__name__} asks for no logits")

    def batch_statistics(self, tokens: MicroBatch, plan: LossPlan) -> Tensor:
        """What `on_tokens` needs to know of all tokens of a batch, one row per sequence.

        With gradient accumulation the trainer computes it once per rollout batch, under the policy
        that sampled, so that the size of a micro-batch changes nothing. Without, `on_tokens` calls
        it on the micro-batch.

        Args:
            tokens: The batch; in a rollout, old log-probabilities and entropies.
            plan: With the shaped advantages.

        Returns:
            Shape (B, T) or (B, k).
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics of a batch")

    def statistics_of(self, tokens: MicroBatch, plan: LossPlan) -> Tensor:
        """The rollout's statistics if the trainer computed them, else the micro-batch's."""
        found = tokens.statistics.get(self.config.type)
        return self.batch_statistics(tokens, plan) if found is None else found

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """The plan for a micro-batch of training, changed. Never called in evaluation."""
        return plan

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """An optimizer step with at least one token is done."""

    def state_dict(self) -> dict[str, float | None]:
        """Everything that a resumed run needs, as JSON."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: It is not the state of this objective.
        """
        if set(state) != set(self.state):
            raise ValueError(f"{type(self).__name__} keeps {sorted(self.state)}, not {[*state]}")
        for name, value in state.items():
            setattr(self, name, value)
