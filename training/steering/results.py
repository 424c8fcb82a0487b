"""Results of a steering job, for its report."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from probes.artifact import Artifact
from probes.steering import ActionEntropy
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


class TaskResult(NamedTuple):
    """Results on the held-out episodes of one task."""

    steps: int
    actions: int
    curve: StrengthCurve
    controls: dict[str, ControlResult]
    temperatures: dict[float, tuple[float, float]]
    """Entropy and probability of any action without a vector, at other temperatures."""

    def beats_controls(self, choice: Choice) -> bool:
        """Whether the vector beats the mean and 2 sd of the shuffled and the Gaussian ones."""
        entropy = self.curve.interpolate(choice.strength)[0]
        return all(
            entropy > self.controls[name].mean + 2 * self.controls[name].spread
            for name in ("shuffled", "Gaussian")
        )


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
