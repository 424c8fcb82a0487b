"""Difficulty of a question for a model, predicted from the model's hidden state (DiffAdapt).

DiffAdapt (arXiv 2510.19669): a small head on the final hidden state at the end of the prompt
classifies a question as easy, normal or hard, and each class has a strategy. The paper does not
publish its prompts, thresholds and feature normalization; every probe stores those it uses.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from probes.difficulty.strategies import Difficulty, Outcomes, Thresholds
from probes.tensors import check_single_precision, check_tensors

MARGIN = 0.05
"""Smallest probability difference at which the likeliest class is chosen."""


def default_thresholds(
    accuracy: Float[Tensor, " questions"], entropy: Float[Tensor, " questions"]
) -> Thresholds:
    """Thresholds from a model's own answers: alpha 0.7, gamma 0.3, beta the median entropy.

    The median is over questions with an accuracy of at least alpha. The paper's thresholds are not
    published.

    Args:
        accuracy: Share of right answers per question, shape (questions,).
        entropy: Mean entropy of its answers, nats per token, shape (questions,).

    Raises:
        ValueError: No question reaches alpha, so beta is undefined.
    """
    solved = entropy[accuracy >= 0.7]
    if not len(solved):
        raise ValueError("no question is answered right seven times of ten")
    return Thresholds(alpha=0.7, beta=float(solved.double().quantile(0.5)), gamma=0.3)


def classify(
    accuracy: Float[Tensor, " questions"],
    entropy: Float[Tensor, " questions"],
    thresholds: Thresholds,
) -> Int[Tensor, " questions"]:
    """Label questions from the model's own answers (DiffAdapt, section 3).

    Normal if acc >= alpha and E <= beta; else hard if acc < gamma; else easy. A question solved
    with high entropy is thus easy: the model overthinks it.

    Args:
        accuracy: Shape (questions,).
        entropy: Nats per token, shape (questions,).
        thresholds: Of this model.

    Returns:
        Values of `Difficulty`, int64, shape (questions,).
    """
    normal = (accuracy >= thresholds.alpha) & (entropy <= thresholds.beta)
    rest = torch.where(accuracy < thresholds.gamma, Difficulty.HARD.value, Difficulty.EASY.value)
    return torch.where(normal, Difficulty.NORMAL.value, rest)


def classify_by_outcomes(
    accuracy: Float[Tensor, "classes questions"],
    tokens: Float[Tensor, "classes questions"],
    outcomes: Outcomes,
) -> Int[Tensor, " questions"]:
    """Label questions by the outcome of every strategy (the oracle of DiffAdapt, section 5).

    The label is the strategy with the fewest tokens among those whose accuracy is not below that of
    normal; hard if no strategy is accurate enough, because giving up early is then best. Unlike
    `classify` it assumes nothing about entropy.

    Args:
        accuracy: Share of right answers by the strategy of each class, shape (3, questions).
        tokens: Mean length of these answers, shape (3, questions).
        outcomes: Tolerance and minimum accuracy.

    Returns:
        Values of `Difficulty`, int64, shape (questions,).
    """
    equal = accuracy >= accuracy[Difficulty.NORMAL] - outcomes.tolerance
    cost = torch.where(equal, tokens, torch.inf)
    hopeless = accuracy.amax(0) < outcomes.gamma
    return torch.where(hopeless, Difficulty.HARD.value, cost.argmin(0))


def predicted_class(probabilities: Float[Tensor, "rows classes"]) -> Int[Tensor, " rows"]:
    """The likeliest class of every row, or normal if the margin is below `MARGIN`.

    Args:
        probabilities: Shape (rows, 3); a row may hold NaN.

    Returns:
        Values of `Difficulty`, int64, shape (rows,).
    """
    top = probabilities.nan_to_num(0.0).topk(2, dim=-1)
    clear = top.values[:, 0] - top.values[:, 1] >= MARGIN
    return torch.where(clear, top.indices[:, 0], Difficulty.NORMAL.value)


class Forecast(NamedTuple):
    """What each strategy is expected to give."""

    accuracy: Tensor
    """Share of right answers by strategy, in [0, 1], shape (rows, 3)."""
    tokens: Tensor
    """Length of an answer over the mean length under the strategy normal, >= 0, likewise."""


def route(forecast: Forecast, kept: Tensor, price: Tensor) -> Tensor:
    """The strategy with the highest accuracy minus price times tokens.

    Args:
        forecast: Of every row; a row may hold NaN, and is normal.
        kept: Strategies that may be chosen, 0 or 1, shape (3,).
        price: Accuracy that a normal answer's worth of tokens may cost, shape (rows,).

    Returns:
        Values of `Difficulty`, int64, shape (rows,).
    """
    worth = forecast.accuracy - price.unsqueeze(1) * forecast.tokens
    best = worth.masked_fill(kept == 0, -torch.inf).argmax(-1)
    return torch.where(worth.isfinite().all(-1), best, Difficulty.NORMAL.value)


class Head(NamedTuple):
    """A linear probe, or one with a hidden layer, over standardized features.

    The class is softmax((W2 relu(W1 x + b1) + b2) / temperature) with x = (h - mean) / scale; a
    linear probe has only W2 and b2. Accuracy and tokens of every strategy are Wr x + br.
    """

    mean: Float[Tensor, " features"]
    """Shape (features,)."""
    scale: Float[Tensor, " features"]
    weight: Float[Tensor, "classes units"]
    """W2, shape (3, features or units)."""
    bias: Float[Tensor, " classes"]
    temperature: Float[Tensor, ""]
    """Calibration of the probabilities, a scalar."""
    hidden_weight: Float[Tensor, "units features"] | None = None
    """W1, shape (units, features)."""
    hidden_bias: Float[Tensor, " units"] | None = None
    router_weight: Float[Tensor, "figures features"] | None = None
    """Wr, shape (6, features): the accuracy of each strategy, then its relative tokens. None in
    probes that saw the answers of one strategy only."""
    router_bias: Float[Tensor, " figures"] | None = None
    """br, shape (6,)."""
    router_kept: Float[Tensor, " strategies"] | None = None
    """1 for strategies that may be chosen, 0 for dominated ones, shape (3,)."""

    def forecast(self, hidden: Float[Tensor, "rows features"]) -> Forecast:
        """Expected accuracy and tokens of every strategy.

        Args:
            hidden: Hidden states of any floating type, shape (rows, features).

        Returns:
            float32, shape (rows, 3) each; NaN for a state that is not finite, and for a probe
            without a router.
        """
        if self.router_weight is None:
            nothing = hidden.new_full((len(hidden), 3), torch.nan, dtype=torch.float32)
            return Forecast(nothing, nothing)
        x = (hidden.float() - self.mean) / self.scale
        found = F.linear(x, self.router_weight, self.router_bias)
        found = torch.where(found.isfinite().all(-1, keepdim=True), found, torch.nan)
        return Forecast(found[:, :3].clamp(0, 1), found[:, 3:].clamp_min(0))

    def probabilities(
        self, hidden: Float[Tensor, "rows features"]
    ) -> Float[Tensor, "rows classes"]:
        """Class probabilities.

        Args:
            hidden: Hidden states of any floating type, shape (rows, features).

        Returns:
            float32, shape (rows, 3); NaN for a state that is not finite.
        """
        x = (hidden.float() - self.mean) / self.scale
        if self.hidden_weight is not None:
            x = torch.relu(F.linear(x, self.hidden_weight, self.hidden_bias))
        scores = F.linear(x, self.weight, self.bias) / self.temperature
        return torch.where(scores.isfinite().all(-1, keepdim=True), scores, torch.nan).softmax(-1)

    def distance(self, hidden: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
        """Root mean square of the standardized features: about 1 for a training question.

        Args:
            hidden: Hidden states of any floating type, shape (rows, features).

        Returns:
            float32, shape (rows,); NaN for a state that is not finite.
        """
        found = ((hidden.float() - self.mean) / self.scale).square().mean(-1).sqrt()
        return torch.where(found.isfinite(), found, torch.nan)

    def to(self, device: torch.device) -> "Head":
        """The same on a device, in float32."""
        parts = self.tensors().items()
        return Head(**{key: part.to(device, torch.float32) for key, part in parts})

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to store in an artifact."""
        return {key: part for key, part in self._asdict().items() if part is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], features: int) -> Self:
        """Build a head from the result of `tensors`.

        Args:
            tensors: By name.
            features: The model's hidden size.

        Raises:
            ValueError: A tensor is missing, unexpected, of another shape, or has unusable values;
                names it.
        """
        known = {key: tensors[key] for key in cls._fields if key in tensors}
        units = features
        shapes: dict[str, tuple[int, ...]] = {"mean": (features,), "scale": (features,)}
        if "hidden_bias" in known:
            units = known["hidden_bias"].numel()
            shapes |= {"hidden_weight": (units, features), "hidden_bias": (units,)}
        shapes |= {"weight": (3, units), "bias": (3,), "temperature": ()}
        if any(key.startswith("router_") for key in tensors):
            shapes |= {"router_weight": (6, features), "router_bias": (6,), "router_kept": (3,)}
        check_tensors(tensors, shapes)
        for key, tensor in known.items():
            check_single_precision(key, tensor, positive=key in ("scale", "temperature"))
        kept = known.get("router_kept")
        if kept is not None and not (((kept == 0) | (kept == 1)).all() and kept.any()):
            raise ValueError("the tensor `router_kept` needs zeros and at least one 1")
        return cls(**known)
