"""Fit EAST vectors and their controls, and choose layer and strength. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from probes.steering import Weighted, action_entropy, east, random_direction, shuffled

CONTROLS = 20
"""Shuffled vectors, and as many Gaussian ones."""
SHORTLIST = 5
"""Number of layers that are compared with shuffled vectors."""
TRIALS = 10
"""Shuffled vectors per candidate layer; the test uses others."""

Floats = NDArray[np.float64]


class UnsteeredSteps(NamedTuple):
    """Readings of the unsteered model at the steps of some episodes."""

    logprobs: Tensor
    """Of every action, shape (steps, actions)."""
    states: Tensor
    """Behind each layer at the last prompt token, shape (steps, layers, hidden)."""
    runs: Tensor
    """Episode of each step, shape (steps,)."""


class Vector(NamedTuple):
    """A direction and the norm of the residual stream that it is added to."""

    layer: int
    direction: Tensor
    """Float64, shape (hidden,)."""
    norm: float
    """Mean norm of the residual stream behind the layer."""

    def offsets(self, strength: float) -> dict[int, Tensor]:
        """The vector to add for a strength in multiples of the stream's norm."""
        scaled = self.direction * (strength * self.norm / float(self.direction.norm()))
        return {self.layer: scaled.float()}

    def with_direction(self, direction: Tensor) -> "Vector":
        """A copy with another direction."""
        return self._replace(direction=direction.double())


def equal_weights(entropy: Tensor, groups: Tensor) -> Tensor:
    """Entropies with the same sum in every group of steps, shape (steps,).

    EAST with these weights is the mean of the vectors of the groups: a wording whose steps are
    uncertain does not count for more than another. Groups without any entropy keep none.

    Args:
        entropy: Of every step, nats; NaN where there is none.
        groups: Number of each step's group, from 0, shape (steps,).
    """
    known = entropy.nan_to_num(0.0).double()
    sums = known.new_zeros(int(groups.max()) + 1).index_add_(0, groups, known)
    return entropy / sums.clamp_min(1e-12)[groups]


def fit_vectors(read: UnsteeredSteps, entropy: Tensor, layers: Sequence[int]) -> dict[int, Vector]:
    """EAST at every layer.

    Args:
        read: Of the runs to learn from.
        entropy: Over the actions at every step, nats; NaN where there is none.
        layers: Those of `read.states`.

    Raises:
        ValueError: There is no entropy signal.
    """
    found = {}
    for place, layer in enumerate(layers):
        states = read.states[:, place]
        norm = float(states.double().norm(dim=-1).mean())
        found[layer] = Vector(layer, east(Weighted(states, entropy, read.runs)), norm)
    if not any(float(vector.direction.norm()) > 1e-9 * vector.norm for vector in found.values()):
        raise ValueError("no entropy signal: the entropy is the same at all steps of every run")
    return found


def control_vectors(
    read: UnsteeredSteps, entropy: Tensor, place: int, vector: Vector
) -> dict[str, list[Vector]]:
    """Control vectors, scaled to the norm of the vector.

    Args:
        read: What it was fitted on.
        entropy: Likewise.
        place: Of its layer among those of `read.states`.
        vector: The real one.
    """
    steps = Weighted(read.states[:, place], entropy, read.runs)
    known = steps.states[entropy.isfinite()].double()
    order = entropy[entropy.isfinite()].argsort()
    quarter = max(1, len(order) // 4)
    contrast = known[order[-quarter:]].mean(0) - known[order[:quarter]].mean(0)
    direction = vector.direction
    return {
        "shuffled": [vector.with_direction(shuffled(direction, seed)) for seed in range(CONTROLS)],
        "Gaussian": [
            vector.with_direction(random_direction(direction, seed)) for seed in range(CONTROLS)
        ],
        "uncentered": [vector.with_direction(east(steps, centered=False))],
        "top against bottom quarter": [vector.with_direction(contrast)],
    }


def shuffled_trials(vector: Vector) -> list[Vector]:
    """Shuffled vectors for the selection."""
    seeds = range(CONTROLS, CONTROLS + TRIALS)
    return [vector.with_direction(shuffled(vector.direction, seed)) for seed in seeds]


def uniform_residue(read: UnsteeredSteps, place: int) -> float:
    """Norm of the vector with equal weights, which is 0 except for rounding."""
    even = torch.ones(len(read.runs), dtype=torch.float64)
    return float(east(Weighted(read.states[:, place], even, read.runs)).norm())


class StrengthCurve(NamedTuple):
    """Effect of a vector at each strength."""

    strengths: tuple[float, ...]
    """Ascending, in multiples of the stream's norm, 0 among them."""
    entropy: tuple[float, ...]
    """Over the actions, nats, mean over steps."""
    action_probability_mass: tuple[float, ...]
    """Probability of any action, mean over steps."""

    @classmethod
    def from_logprobs(cls, strengths: Sequence[float], logprobs: Tensor) -> "StrengthCurve":
        """From log-probabilities of shape (strengths, steps, actions)."""
        found = action_entropy(logprobs)
        return cls(
            tuple(strengths),
            tuple(found.entropy.mean(1).tolist()),
            tuple(found.action_probability_mass.mean(1).tolist()),
        )

    def interpolate(self, strength: float) -> tuple[float, float]:
        """Entropy and probability of any action at a strength of the curve."""
        place = self.strengths.index(strength)
        return self.entropy[place], self.action_probability_mass[place]

    def valid(self, share: float) -> list[int]:
        """Indices around 0 with valid answers.

        Args:
            share: Of the unsteered probability of any action that must remain.
        """
        zero = self.strengths.index(0.0)
        least = share * self.action_probability_mass[zero]
        low = high = zero
        while low > 0 and self.action_probability_mass[low - 1] >= least:
            low -= 1
        while (
            high + 1 < len(self.action_probability_mass)
            and self.action_probability_mass[high + 1] >= least
        ):
            high += 1
        return list(range(low, high + 1))

    def largest_valid_strength(self, share: float) -> float:
        """The largest strength with valid answers."""
        return self.strengths[self.valid(share)[-1]]

    def spearman_correlation(self, share: float) -> float:
        """Spearman correlation of strength and entropy where answers are valid; NaN below 3."""
        places = self.valid(share)
        if len(places) < 3:
            return float("nan")
        return spearman(
            np.array([self.strengths[place] for place in places]),
            np.array([self.entropy[place] for place in places]),
        )

    def entropy_span(self, share: float) -> float:
        """Entropy at the upper end of the valid strengths less that at the lower end."""
        places = self.valid(share)
        return self.entropy[places[-1]] - self.entropy[places[0]]


class Choice(NamedTuple):
    """Layer and strength of a vector."""

    layer: int
    strength: float
    """In multiples of the stream's norm."""


class Candidate(NamedTuple):
    """A choice and its effect on the validation episodes."""

    choice: Choice
    entropy: float
    """Mean entropy over actions, nats."""
    shuffled: tuple[float, ...] = ()
    """The same with shuffled vectors."""

    @property
    def margin(self) -> float:
        """Nats above the mean and two standard deviations of the shuffled ones."""
        return self.entropy - float(np.mean(self.shuffled) + 2 * np.std(self.shuffled, ddof=1))


def candidates(curves: Mapping[int, StrengthCurve], share: float) -> list[Candidate]:
    """The valid strengths that raise entropy, of the layers at which it rises most.

    Layers count at which entropy follows strength steadily (Spearman 0.95 or more where answers are
    valid, the negative strengths included, at which it has to fall); all of them if none does.

    Args:
        curves: On validation runs, by layer.
        share: Share of the unsteered probability of valid answers that must remain.
    """
    steady = {
        layer: one for layer, one in curves.items() if one.spearman_correlation(share) >= 0.95
    }
    found = dict[int, list[Candidate]]()
    for layer, curve in (steady or curves).items():
        places = [at for at in curve.valid(share) if curve.strengths[at] > 0]
        raised = [at for at in places if curve.entropy[at] > curve.interpolate(0.0)[0]]
        found[layer] = [
            Candidate(Choice(layer, curve.strengths[at]), curve.entropy[at]) for at in raised
        ]
    rises = {layer: max(one.entropy for one in mine) for layer, mine in found.items() if mine}
    best = sorted(rises, key=lambda layer: -rises[layer])[:SHORTLIST]
    return [candidate for layer in sorted(best) for candidate in found[layer]]


def spearman(one: Floats, other: Floats) -> float:
    """Rank correlation; 0 where one of the two is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
