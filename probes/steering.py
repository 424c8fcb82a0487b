"""Steering vectors: directions of the residual stream that change a model's uncertainty (EAST).

EAST (arXiv 2406.00244, equation 1): over episodes of an agent, the entropy-weighted mean deviation
of the last prompt token's state from its episode's mean. Adding it during decoding raises the
entropy over actions; subtracting it lowers the entropy.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple, Self

import torch
from jaxtyping import Float, Int, Num
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from probes.tensors import check_tensors

STEERABLE_MODELS = (
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Models whose decoder layers return the residual stream in two parts, hidden and residual."""


def _plain_number(layer: object) -> object:
    """Refuse other spellings of a number: `01` and `1` would be the same layer."""
    if isinstance(layer, str) and not re.fullmatch(r"0|[1-9][0-9]{0,5}", layer):
        raise ValueError(f"a layer is an integer from 0, not {layer[:40]!r}")
    return layer


LayerNumber = Annotated[int, Field(ge=0), BeforeValidator(_plain_number)]
"""A decoder layer, counted from 0."""


class SteeringSpec(BaseModel):
    """Properties of a steering vector; part of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    features: Annotated[int, Field(gt=0)]
    """Size of the residual stream."""
    norms: dict[LayerNumber, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """Mean norm of the residual stream after each layer that has a vector."""


def tensor_name(layer: int) -> str:
    """Name of a layer's vector in an artifact; layers count from 0."""
    return f"layer_{layer}"


def contents_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the vectors' contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def unit_direction(vector: Float[Tensor, " hidden"]) -> Float[Tensor, " hidden"]:
    """The direction of a vector, float32; the norm is computed in float64 to avoid overflow."""
    exact = vector.double()
    direction: Tensor = exact / exact.norm()
    return direction.float()


def stream_limit(dtype: torch.dtype) -> float:
    """Largest magnitude that a steered residual stream may have.

    Half of the type's maximum leaves room for what later layers add; above 2^40 the sum of squares
    in a normalization overflows float32.
    """
    return min(torch.finfo(dtype).max / 2, 2.0**40)


def is_representable(value: float, dtype: torch.dtype) -> bool:
    """Whether a number is finite in `dtype` and in float32, the type of the computation."""
    return abs(value) <= min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)


class LayerVector(NamedTuple):
    """A steering vector of one layer and the figures that request planning needs."""

    vector: Float[Tensor, " hidden"]
    """Shape (hidden,)."""
    stream_norm: float
    """Mean norm of the residual stream after the layer."""
    norm: float
    largest: float
    """Largest magnitude of an entry."""

    @classmethod
    def measure(cls, vector: Float[Tensor, " hidden"], stream_norm: float) -> Self:
        """Measure a vector in float64.

        Args:
            vector: Of any floating type, shape (hidden,).
            stream_norm: As in the manifest.
        """
        exact = vector.double()
        return cls(vector, stream_norm, float(exact.norm()), float(exact.abs().max()))

    def unusable(self, dtype: torch.dtype) -> str | None:
        """Why the vector cannot steer a model of this type, or None."""
        if not self.norm > 0:
            return "has no length: it has no direction" if self.norm == 0 else "is not finite"
        for name, value in (("entry", self.largest), ("norm", self.norm)):
            if not is_representable(value, torch.float32 if name == "norm" else dtype):
                return f"has the {name} {value:.3g}, which {dtype} cannot hold"
        if self.stream_norm < 0 or not is_representable(self.stream_norm, dtype):
            return f"has the stream norm {self.stream_norm:.3g}, which {dtype} cannot hold"
        return None


class SteeringVector(NamedTuple):
    """A steering vector as loaded by a server."""

    hash: str
    """Of its contents."""
    layers: Mapping[int, LayerVector]

    @classmethod
    def from_tensors(cls, spec: SteeringSpec, tensors: Mapping[str, Tensor]) -> Self:
        """Build a vector from a manifest and its tensors.

        Raises:
            ValueError: A tensor is missing, unexpected, of another shape or not finite.
        """
        check_tensors(tensors, {tensor_name(layer): (spec.features,) for layer in spec.norms})
        layers = {
            layer: LayerVector.measure(tensors[tensor_name(layer)], norm)
            for layer, norm in spec.norms.items()
        }
        return cls(contents_hash(tensors), layers)


class Weighted(NamedTuple):
    """States of an agent's steps and the entropy of each."""

    states: Float[Tensor, "steps hidden"]
    """Residual stream after a layer at the last prompt token, shape (steps, hidden)."""
    entropy: Float[Tensor, " steps"]
    """Over the actions, nats, shape (steps,); NaN where no valid action was seen."""
    runs: Int[Tensor, " steps"]
    """Episode of each step, int64, shape (steps,)."""


def east(steps: Weighted, *, centered: bool = True) -> Float[Tensor, " hidden"]:
    """Entropy-weighted mean of the episode-centered states (eq. 1), float64, shape (hidden,).

    Steps without an entropy or with a non-finite state are excluded from the sums and from their
    episodes' means. Episodes with fewer than two steps contribute nothing.

    Args:
        steps: Of all episodes.
        centered: False skips the centering, as a baseline that should fail.

    Raises:
        ValueError: No step has a positive entropy.
    """
    valid = steps.entropy.isfinite() & steps.states.isfinite().all(-1)
    states, entropy = steps.states[valid].double(), steps.entropy[valid].double()
    _, runs = torch.unique(steps.runs[valid], return_inverse=True)
    total = entropy.sum()
    if not total > 0:
        raise ValueError("no entropy signal: every step was certain, or none was valid")
    if centered:
        states = states - run_means(states, runs)[runs]
    return (entropy.unsqueeze(1) * states).sum(0) / total


def run_means(
    states: Float[Tensor, "steps hidden"], runs: Int[Tensor, " steps"]
) -> Float[Tensor, "episodes hidden"]:
    """Mean state of every episode, shape (runs, hidden).

    Args:
        states: Shape (steps, hidden).
        runs: Numbers from 0 without gaps, shape (steps,).
    """
    count = int(runs.max()) + 1
    sums = states.new_zeros(count, states.shape[1]).index_add_(0, runs, states)
    steps = torch.bincount(runs, minlength=count)
    means: Tensor = sums / steps.unsqueeze(1)
    return means


def sampled_entropy(
    counts: Num[Tensor, "*batch actions"], *, miller_madow: bool = False
) -> Float[Tensor, "*batch"]:
    """Plug-in estimate of the entropy of the actions in M completions, nats.

    Args:
        counts: Occurrences of each action in the valid completions, shape (..., actions).
        miller_madow: Add (S - 1) / 2m for S distinct actions in m completions, which corrects most
            of the estimate's bias.

    Returns:
        Shape (...); NaN where no completion was valid.
    """
    seen = counts.sum(-1, keepdim=True)
    shares = counts / seen
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(-1)
    if miller_madow:
        entropy = entropy + ((counts > 0).sum(-1) - 1) / (2 * seen.squeeze(-1))
    return entropy


class ActionEntropy(NamedTuple):
    """Entropy of the next action, computed from the model's probabilities."""

    entropy: Float[Tensor, "*batch"]
    """Of the actions' renormalized probabilities, nats, shape (...)."""
    action_probability_mass: Float[Tensor, "*batch"]
    """Total probability of all actions, shape (...)."""


def action_entropy(logprobs: Float[Tensor, "*batch actions"]) -> ActionEntropy:
    """Entropy over actions from their log-probabilities (our estimator, not the paper's).

    Args:
        logprobs: Joint log-probability of every action, shape (..., actions).
    """
    shares = logprobs.softmax(-1)
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    return ActionEntropy(entropy, logprobs.logsumexp(-1).exp())


def shuffled(vector: Float[Tensor, " hidden"], seed: int) -> Float[Tensor, " hidden"]:
    """Shuffle the entries: a control of equal norm, mean and spread."""
    order = torch.randperm(len(vector), generator=torch.Generator().manual_seed(seed))
    return vector[order]


def random_direction(vector: Float[Tensor, " hidden"], seed: int) -> Float[Tensor, " hidden"]:
    """A random direction of equal norm."""
    draw = torch.randn(len(vector), generator=torch.Generator().manual_seed(seed)).to(vector)
    scaled: Tensor = draw * (vector.norm() / draw.norm())
    return scaled
