"""What an objective needs and decides, as its settings declare it. No torch in here."""

from enum import StrEnum
from typing import ClassVar

from probes.strict import StrictModel
from training.objectives.controller import Actuator


class RequiredTensor(StrEnum):
    """A tensor that the trainer has to measure for an objective, beyond what it has anyway."""

    OLD_LOGPROBS = "old_logprobs"
    """(N, T): log-probabilities under the policy that sampled."""
    OLD_ENTROPY = "old_entropy"
    """(N, T), nats: of the policy that sampled. Costs one more scoring pass."""
    RESCORED_LOGPROBS = "rescored_logprobs"
    """(N, T): under the policy that sampled, at `Objective.temperature`."""
    PROXY_LOGPROBS = "proxy_logprobs"
    """(N, T): `Objective.measure` of the sampling policy's full logits; no gradient."""
    NUCLEUS_ENTROPY = "nucleus_entropy"
    """(B, T), nats: `Objective.measure` of the full logits of the training forward; gradient."""
    CORRECT = "correct"
    """(N,) bool: the grader's verdict."""
    ANSWERS = "answers"
    """(N,) int: cluster of equivalent final answers within the group; -1 where there is none."""
    STEPS = "steps"
    """(N, T) int: number of the step that a token belongs to, -1 outside any. A step is a turn
    of an agent, or a sentence of an answer without tools."""
    PLANNING = "planning"
    """(N, T) bool: the token is part of a strategy phrase."""
    PHASES = "phases"
    """(N, T) int: 0 in the thinking phase, 1 in the answer, -1 in the tag between them."""
    BELIEFS = "beliefs"
    """(N, 2, K): probabilities over K hypotheses before and after; rows sum to 1. Each completion
    has its own, from a dialogue rollout."""


class Claim(StrEnum):
    """What only one objective of a run can decide; the value says it to the user."""

    CLIP = "the clip range"
    BASELINE = "the group baseline"
    REWARD = "the reward"
    ENTROPY = "which way the entropy goes"
    SAMPLES = "which samples are drawn at another temperature"


class ObjectiveSettings(StrictModel):
    """Base of the settings of one objective."""

    needs: ClassVar[frozenset[RequiredTensor]] = frozenset()
    """What the trainer measures for it."""
    batch_needs: ClassVar[frozenset[RequiredTensor]] = frozenset()
    """What its `batch_statistics` reads of the rollout; empty if it has none."""
    decides: ClassVar[frozenset[Claim]] = frozenset()
    """What no other objective of the run may decide."""
    acts_on: ClassVar[tuple[str, ...]] = ()
    """"groups" for rewards and advantages of whole groups, "tokens" for the loss of each token."""
    inert_on_policy: ClassVar[bool] = False
    """Without effect while each rollout serves one optimizer step: the ratio is then 1."""
    actuator: ClassVar[Actuator | None] = None
    """What an entropy controller can drive in it."""
    checked: ClassVar[str] = ""
    """What value and gradient were compared with: TRL, public code or the paper's formula."""
    experimental: ClassVar[str] = ""
    """What was never checked against the authors' formula; empty if nothing."""

    type: str
    """Name of the objective."""

    def claims(self) -> frozenset[Claim]:
        """What this objective decides alone, as configured."""
        return self.decides
