"""Tensors that an objective needs and settings that it claims. Does not import torch."""

from enum import StrEnum
from typing import ClassVar

from probes.strict import StrictModel
from training.objectives.core.controller import Actuator


class RequiredTensor(StrEnum):
    """A tensor that the trainer has to measure for an objective."""

    OLD_LOGPROBS = "old_logprobs"
    """(N, T): log-probabilities under the sampling policy."""
    OLD_ENTROPY = "old_entropy"
    """(N, T), nats: entropies of the sampling policy. Costs one more scoring pass."""
    RESCORED_LOGPROBS = "rescored_logprobs"
    """(N, T): log-probabilities under the sampling policy at `Objective.temperature`."""
    PROXY_LOGPROBS = "proxy_logprobs"
    """(N, T): `Objective.measure` of the sampling policy's full logits; no gradient."""
    NUCLEUS_ENTROPY = "nucleus_entropy"
    """(B, T), nats: `Objective.measure` of the training forward's full logits; with gradient."""
    CORRECT = "correct"
    """(N,) bool: the grader's verdict."""
    ANSWERS = "answers"
    """(N,) int: cluster of equivalent final answers within the group; -1 without an answer."""
    STEPS = "steps"
    """(N, T) int: number of the step of a token, -1 outside all steps. A step is an agent turn, or
    a sentence of an answer without tools."""
    PLANNING = "planning"
    """(N, T) bool: the token is part of a strategy phrase."""
    PHASES = "phases"
    """(N, T) int: 0 in the thinking phase, 1 in the answer, -1 in the tag between them."""
    BELIEFS = "beliefs"
    """(N, 2, K): probabilities over K hypotheses before and after each completion of a dialogue
    rollout; rows sum to 1."""


class Claim(StrEnum):
    """A setting that only one objective of a run can claim; the value appears in messages."""

    CLIP = "the clip range"
    BASELINE = "the group baseline"
    REWARD = "the reward"
    ENTROPY = "the direction of the entropy"
    SAMPLES = "the temperature of extra samples"


class ObjectiveSettings(StrictModel):
    """Base of the settings of one objective."""

    needs: ClassVar[frozenset[RequiredTensor]] = frozenset()
    """Tensors that the trainer measures for the objective."""
    batch_needs: ClassVar[frozenset[RequiredTensor]] = frozenset()
    """Rollout tensors that `batch_statistics` reads; empty if the objective has no statistics."""
    decides: ClassVar[frozenset[Claim]] = frozenset()
    """Settings that no other objective of the run may claim."""
    acts_on: ClassVar[tuple[str, ...]] = ()
    """"groups" for rewards and advantages of whole groups, "tokens" for the loss of each token."""
    inert_on_policy: ClassVar[bool] = False
    """Whether the objective has no effect with one optimizer step per rollout (ratio 1)."""
    actuator: ClassVar[Actuator | None] = None
    """What an entropy controller can change in the objective."""
    checked: ClassVar[str] = ""
    """Reference of value and gradient: TRL, public code or the formula of the paper."""
    experimental: ClassVar[str] = ""
    """What was not checked against the authors' formula; empty if everything was."""

    type: str
    """Name of the objective."""

    def claims(self) -> frozenset[Claim]:
        """The settings that this objective claims, as configured."""
        return self.decides
