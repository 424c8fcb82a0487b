"""Results of a steering job, for its report."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from probes.artifact import Artifact
from probes.steering import ActionEntropy
from training.common.metrics import Interval
from training.steering.fit import Candidate, Choice, StrengthCurve
from training.steering.generations import SteeredGenerations


class ControlResult(NamedTuple):
    """Effect of the vectors of one kind at the chosen strength."""

    entropy: tuple[float, ...]
    action_probability_mass: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the entropies."""
        return float(np.mean(self.entropy))

    @property
    def spread(self) -> float:
        """Standard deviation of the entropies."""
        return float(np.std(self.entropy, ddof=1)) if len(self.entropy) > 1 else 0.0


class Effect(NamedTuple):
    """Differences in entropy at the chosen strength, nats, with intervals over episodes."""

    change: Interval
    """Of the vector, against the unsteered model."""
    negated: Interval
    """Of the negated vector, likewise."""
    above_shuffled: Interval
    """Of the vector, against the mean of the shuffled vectors."""
    above_gaussian: Interval


class TaskResult(NamedTuple):
    """Results on the held-out episodes of one task."""

    steps: int
    episodes: int
    actions: int
    curve: StrengthCurve
    controls: dict[str, ControlResult]
    temperatures: dict[float, tuple[float, float]]
    """Entropy and probability of any action without a vector, at other temperatures."""
    effect: Effect
    by_story: dict[str, tuple[float, float, float]]
    """Unsteered, steered and shuffled entropy by the story of the episodes; empty for a task of one
    wording."""

    def transfers(self, choice: Choice) -> bool:
        """Whether the entropy rises, more than with all controls and more than chance explains."""
        entropy = self.curve.interpolate(choice.strength)[0]
        controls = [one for name in ("shuffled", "Gaussian") for one in self.controls[name].entropy]
        lowest = min(self.effect.change.low, self.effect.above_shuffled.low)
        return min(lowest, self.effect.above_gaussian.low) > 0 and entropy > max(controls)

    def below(self, choice: Choice, control: str) -> int:
        """How many vectors of a control have less entropy than the vector."""
        entropy = self.curve.interpolate(choice.strength)[0]
        return sum(one < entropy for one in self.controls[control].entropy)


class SteeringResult(NamedTuple):
    """Contents of the report."""

    artifact: Artifact
    choice: Choice
    curves: dict[int, StrengthCurve]
    """On the validation runs, by layer."""
    compared: list[Candidate]
    """Likewise, beside shuffled vectors."""
    share: float
    tests: dict[str, TaskResult]
    """By task, the vector's own first."""
    generations: SteeredGenerations
    estimates: tuple[Tensor, ActionEntropy]
    """Of the runs that were learned from: by the chosen estimator, and off the logits."""
    size: float
    """Length of the vector, in multiples of the stream's norm."""
    residue: float
    """Length of the vector of equal weights, likewise."""
    command: str
    num_wordings: int
    """Different wordings that were learned from; 0 if the episodes name none."""
