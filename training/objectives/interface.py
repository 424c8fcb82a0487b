"""What an objective may do; `batch` has what it is given.

An objective acts at up to three moments, and does nothing at those it does not override:

1. `shape_rewards` and `shape_advantages` see a whole generation batch of all processes with its
   groups together, once per generation;
2. `on_tokens` sees a micro-batch with its gradient and changes a `Plan` of the loss;
3. `on_step_end` sees what the optimiser step measured and may move the objective's state.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from training.objectives.batch import Need, Plan, Rollout, Step, Tokens
from training.objectives.controller import Actuator
from training.objectives.distributed import Ranks


class Slot(StrEnum):
    """What only one objective of a run can decide; the value says it to the user."""

    CLIP = "the clip range"
    BASELINE = "the group baseline"
    REWARD = "the reward"
    ENTROPY = "which way the entropy goes"
    SAMPLES = "which samples are drawn at another temperature"


class Config(BaseModel):
    """Base of the settings of one objective; `type` is its name in the table."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: str


C_co = TypeVar("C_co", bound=Config, covariant=True)


class Objective(Generic[C_co]):
    """One way to act on the training objective. Everything here is: do nothing."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    slots: ClassVar[frozenset[Slot]] = frozenset()
    state: ClassVar[tuple[str, ...]] = ()
    """Attributes that belong in a checkpoint: numbers, or None."""
    inert_on_policy: ClassVar[bool] = False
    """Without effect while each batch serves one optimiser step: the ratio is then 1."""
    experimental: ClassVar[str] = ""
    """What about it was never checked against the authors' formula; empty if nothing."""
    checked: ClassVar[str] = ""
    """What its value and gradient were compared with: TRL, public code or the paper's formula."""
    batch_needs: ClassVar[frozenset[Need]] = frozenset()
    """What `batch_statistics` reads of the rollout; empty if it has none."""
    actuator: ClassVar[Actuator | None] = None
    """What an entropy controller can drive in it."""

    def __init__(self, config: C_co) -> None:
        self.config = config
        self.drive = 0.0
        """The controller's output, added to what `actuator` names."""
        self.total_steps = 150
        """Optimiser steps of the run; the trainer sets it."""

    @property
    def temperature(self) -> float | None:
        """Sampling temperature of the extra rollouts or of the rescoring that it asks for."""
        return None

    def claims(self) -> frozenset[Slot]:
        """What this objective decides alone, as configured."""
        return self.slots

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """Rewards (N,) to train on."""
        return rollout.rewards

    def shape_advantages(self, rollout: Rollout) -> Tensor:
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

    def batch_statistics(self, tokens: Tokens, plan: Plan) -> Tensor:
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

    def statistics_of(self, tokens: Tokens, plan: Plan) -> Tensor:
        """The rollout's statistics if the trainer computed them, else the micro-batch's."""
        found = tokens.statistics.get(self.config.type)
        return self.batch_statistics(tokens, plan) if found is None else found

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """The plan for a micro-batch of training, changed. Never called in evaluation."""
        return plan

    def on_step_end(self, step: Step, ranks: Ranks) -> None:
        """An optimiser step with at least one token is done."""

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
