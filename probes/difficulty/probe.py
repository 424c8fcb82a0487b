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


class Head(NamedTuple):
    """A linear probe, or one with a hidden layer, over standardized features.

    softmax((W2 relu(W1 x + b1) + b2) / temperature) with x = (h - mean) / scale; a linear probe has
    only W2 and b2.
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
        check_tensors(tensors, shapes)
        for key, tensor in known.items():
            check_single_precision(key, tensor, positive=key in ("scale", "temperature"))
        return cls(**known)
