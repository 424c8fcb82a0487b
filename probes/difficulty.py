"""Difficulty: how hard a question is for a model, read from its own hidden state (DiffAdapt).

DiffAdapt (arXiv 2510.19669): a small head on the final hidden state at the end of the prompt says
whether a question is easy, normal or hard, and each class has a strategy. The paper's wording of
the prompts, its thresholds and its feature's normalisation are not published; what is used here is
stored with every probe.
"""

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

MIN_TOKENS = 16
"""No budget is smaller than this."""
MARGIN = 0.05
"""Two classes whose probabilities differ by less are not told apart."""


class Difficulty(IntEnum):
    """How hard a question is; the value is the class's column."""

    EASY = 0
    NORMAL = 1
    HARD = 2

    @property
    def word(self) -> "DifficultyWord":
        """The name on the wire."""
        return _WORDS[self]


DifficultyWord = Literal["easy", "normal", "hard"]
_WORDS: tuple[DifficultyWord, ...] = ("easy", "normal", "hard")


class Strategy(BaseModel):
    """How questions of one class are answered."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str = Field("", max_length=2000)
    """Put after the question; empty leaves it as it is."""
    temperature: float = Field(ge=0.01, le=2.0)
    """T0 of a request that names none."""
    budget: float = Field(gt=0.0, le=1.0)
    """Share of the request's `max_tokens`."""

    def max_tokens(self, ceiling: int) -> int:
        """Tokens out of `ceiling`, rounded down, at least `MIN_TOKENS`, at most `ceiling`."""
        return min(ceiling, max(MIN_TOKENS, math.floor(self.budget * ceiling)))


def with_text(question: str, text: str) -> str:
    """A question with a strategy's text after it, so that its own tokens stay as they were."""
    return f"{question}\n\n{text}" if text else question


class Strategies(BaseModel):
    """A strategy per class. The temperatures and budgets are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    easy: Strategy = Strategy(temperature=0.5, budget=0.4)
    normal: Strategy = Strategy(temperature=0.8, budget=1.0)
    hard: Strategy = Strategy(temperature=0.4, budget=0.5)

    def of(self, difficulty: Difficulty) -> Strategy:
        """The strategy of a class."""
        strategy: Strategy = getattr(self, difficulty.word)
        return strategy

    @property
    def all(self) -> tuple[Strategy, Strategy, Strategy]:
        """By the value of `Difficulty`."""
        return self.easy, self.normal, self.hard

    @property
    def change_prompt(self) -> bool:
        """Whether the class must be known before the prompt is."""
        return any(strategy.prompt for strategy in self.all)


class Thresholds(BaseModel):
    """Where accuracy and entropy of a model's own answers put a question."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    alpha: Annotated[float, Field(ge=0, le=1)]
    """Least accuracy of a normal question."""
    beta: Annotated[float, Field(ge=0)]
    """Largest entropy of a normal question, nats per token."""
    gamma: Annotated[float, Field(ge=0, le=1)]
    """A question with less accuracy is hard; at most alpha."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.gamma > self.alpha:
            raise ValueError(f"gamma ({self.gamma}) must not be larger than alpha ({self.alpha})")
        return self


def default_thresholds(accuracy: Tensor, entropy: Tensor) -> Thresholds:
    """Thresholds from a model's own answers: alpha 0.7, gamma 0.3, beta their median entropy.

    The median is over questions with at least alpha. The paper's thresholds are not published.

    Args:
        accuracy: Share of right answers per question, shape (questions,).
        entropy: Mean entropy of its answers, nats per token, shape (questions,).

    Raises:
        ValueError: No question reaches alpha, so that there is nothing to take beta from.
    """
    solved = entropy[accuracy >= 0.7]
    if not len(solved):
        raise ValueError("no question is answered right seven times of ten")
    return Thresholds(alpha=0.7, beta=float(solved.double().quantile(0.5)), gamma=0.3)


def classify(accuracy: Tensor, entropy: Tensor, thresholds: Thresholds) -> Tensor:
    """Label questions from the model's own answers (DiffAdapt, section 3).

    Normal if acc >= alpha and E <= beta; else hard if acc < gamma; else easy. So a question that is
    solved with much entropy is easy: the model thinks too much about it.

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


def decide(probabilities: Tensor) -> Tensor:
    """The class of every row: the likeliest, or normal where that is not clear.

    Args:
        probabilities: Shape (rows, 3); a row may hold NaN.

    Returns:
        Values of `Difficulty`, int64, shape (rows,).
    """
    top = probabilities.nan_to_num(0.0).topk(2, dim=-1)
    clear = top.values[:, 0] - top.values[:, 1] >= MARGIN
    return torch.where(clear, top.indices[:, 0], Difficulty.NORMAL.value)


class Head(NamedTuple):
    """A linear probe, or one with a hidden layer, over standardised features.

    softmax((W2 relu(W1 x + b1) + b2) / temperature) with x = (h - mean) / scale; a linear probe has
    W2 and b2 alone.
    """

    mean: Tensor
    """Shape (features,)."""
    scale: Tensor
    weight: Tensor
    """W2, shape (3, features or units)."""
    bias: Tensor
    temperature: Tensor
    """Calibration of the probabilities, a scalar."""
    hidden_weight: Tensor | None = None
    """W1, shape (units, features)."""
    hidden_bias: Tensor | None = None

    def probabilities(self, hidden: Tensor) -> Tensor:
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
        """What to store."""
        return {key: part for key, part in self._asdict().items() if part is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], features: int) -> Self:
        """Read what `tensors` gave.

        Args:
            tensors: By name.
            features: The model's hidden size.

        Raises:
            ValueError: One is missing, has another shape or is not finite; names it.
        """
        known = {key: tensors[key] for key in cls._fields if key in tensors}
        units = features
        shapes: dict[str, tuple[int, ...]] = {"mean": (features,), "scale": (features,)}
        if "hidden_bias" in known:
            units = known["hidden_bias"].numel()
            shapes |= {"hidden_weight": (units, features), "hidden_bias": (units,)}
        shapes |= {"weight": (3, units), "bias": (3,), "temperature": ()}
        for key, shape in shapes.items():
            if key not in known:
                raise ValueError(f"the tensor `{key}` is missing")
            if known[key].shape != shape:
                found = tuple(known[key].shape)
                raise ValueError(f"the tensor `{key}` has shape {found} instead of {shape}")
            if not bool(known[key].isfinite().all()):
                raise ValueError(f"the tensor `{key}` holds no finite numbers")
        return cls(**known)


class ProbeSpec(BaseModel):
    """What a difficulty probe reads and what follows from it; part of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    """`final`: what goes into the output head."""
    normalised: bool
    """Whether the state is taken after the final norm."""
    position: str
    """`last_prompt_token`, of the chat with the question as it is."""
    features: int
    """Size of the hidden state."""
    thresholds: Thresholds
    strategies: Strategies

    def unreadable(self, features: int) -> str | None:
        """Name the first field that a server of this release cannot provide, or None.

        Args:
            features: The served model's hidden size.
        """
        wanted = {
            "layer": "final",
            "normalised": True,
            "position": "last_prompt_token",
            "features": features,
        }
        for field, value in wanted.items():
            if getattr(self, field) != value:
                return f"{field} is {getattr(self, field)!r}, a server reads {value!r}"
        return None
