"""Classes of difficulty and what follows from each: data, without torch, for wire and manifests."""

import math
from enum import IntEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from probes.strict import RequestModel

MIN_TOKENS = 16
"""No budget is smaller than this."""


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


class Strategy(RequestModel):
    """How questions of one class are answered."""

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


class Strategies(RequestModel):
    """A strategy per class. The temperatures and budgets are the paper's."""

    easy: Strategy = Strategy(temperature=0.5, budget=0.4)
    """Of easy questions."""
    normal: Strategy = Strategy(temperature=0.8, budget=1.0)
    """Of questions that are neither easy nor hard."""
    hard: Strategy = Strategy(temperature=0.4, budget=0.5)
    """Of hard questions."""

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


class Outcomes(BaseModel):
    """Which strategy a question's label names where all three were tried on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Accuracy that a cheaper strategy may lose against normal."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.3
    """A question that no strategy answers so often is hard."""


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
    labels: Thresholds | Outcomes
    """How the questions that it was trained on were labelled."""
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
