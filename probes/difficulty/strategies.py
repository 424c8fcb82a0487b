"""Difficulty classes and their strategies; plain data for the wire and manifests, without torch."""

import math
from enum import IntEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from probes.strict import RequestModel

MIN_TOKENS = 16
"""Smallest budget, in tokens."""
MAX_PRICE = 100.0
"""Highest price of a normal answer's worth of tokens, in accuracy; above 1 the cheapest wins."""


THINKING_SHARE = 0.75
"""Share of a strategy's tokens for the thinking, where it names none."""
_ANSWER_SHARE, _MIN_ANSWER, _MAX_ANSWER = 0.25, 64, 1024
"""Tokens that the thinking leaves to the answer: a share, and its limits."""


class Difficulty(IntEnum):
    """How hard a question is; the value is the column of the class."""

    EASY = 0
    NORMAL = 1
    HARD = 2

    @property
    def word(self) -> "DifficultyWord":
        """The name on the wire."""
        return _WORDS[self]


DifficultyWord = Literal["easy", "normal", "hard"]
Rule = Literal["worth", "diffadapt"]
"""What chooses a strategy: expected accuracy and tokens, or the paper's classes."""
_WORDS: tuple[DifficultyWord, ...] = ("easy", "normal", "hard")


class Strategy(RequestModel):
    """How questions of one class are answered."""

    prompt: str = Field("", max_length=2000)
    """Text added after the question; empty adds nothing."""
    temperature: float = Field(ge=0.01, le=2.0)
    """T0 of a request that names none."""
    budget: float = Field(gt=0.0, le=1.0)
    """Share of the request's `max_tokens`."""
    thinking: StrictBool | Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """On a model that thinks before it answers: false ends the thinking where it starts, a number
    is the largest share of the strategy's tokens for it, true means 0.75. A quarter of the tokens,
    but 64 to 1,024, always remains for the answer. Unset is true where the server knows the tokens
    that start and end the thinking; elsewhere there is no limit."""

    def thinking_tokens(self, ceiling: int) -> int:
        """Largest number of tokens for the thinking, out of a request's `max_tokens`."""
        if self.thinking is False:
            return 0
        total = self.max_tokens(ceiling)
        share = self.thinking if isinstance(self.thinking, float) else THINKING_SHARE
        answer = min(max(math.floor(_ANSWER_SHARE * total), _MIN_ANSWER), _MAX_ANSWER)
        return max(0, min(math.floor(share * total), total - answer - 1))  # 1: ends the thinking

    def max_tokens(self, ceiling: int) -> int:
        """Tokens out of `ceiling`, rounded down, at least `MIN_TOKENS`, at most `ceiling`."""
        return min(ceiling, max(MIN_TOKENS, math.floor(self.budget * ceiling)))


def append_text(question: str, text: str) -> str:
    """Append a strategy's text to a question; the question's own tokens do not change."""
    return f"{question}\n\n{text}" if text else question


class Strategies(RequestModel):
    """A strategy per class. The temperatures and budgets are the paper's."""

    easy: Strategy = Strategy(temperature=0.5, budget=0.4)
    """Of easy questions."""
    normal: Strategy = Strategy(temperature=0.8, budget=1.0)
    """Of questions that are neither easy nor hard."""
    hard: Strategy = Strategy(temperature=0.4, budget=0.5)
    """Of hard questions."""

    def for_class(self, difficulty: Difficulty) -> Strategy:
        """The strategy of a class."""
        strategy: Strategy = getattr(self, difficulty.word)
        return strategy

    @property
    def all(self) -> tuple[Strategy, Strategy, Strategy]:
        """In the order of `Difficulty`."""
        return self.easy, self.normal, self.hard

    @property
    def change_prompt(self) -> bool:
        """Whether the class must be known before the prompt is."""
        return any(strategy.prompt for strategy in self.all)


class Thresholds(BaseModel):
    """Thresholds that classify a question by the accuracy and entropy of a model's answers."""

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
    """Parameters of labels that come from the outcomes of all three strategies."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Accuracy that a cheaper strategy may lose against normal."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.3
    """A question is hard if no strategy reaches this accuracy."""


class RouterSpec(BaseModel):
    """How a router by worth was fitted; its weights are tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    price: Annotated[float, Field(ge=0, le=MAX_PRICE)]
    """Default price: the highest at which the accuracy on questions that the router was not fitted
    to is not below that of the strategy normal; 0, the most accurate choice, if there is none."""
    normal_tokens: Annotated[float, Field(gt=0)]
    """Mean length of the training answers under the strategy normal, the unit of the price."""
    dropped: tuple[DifficultyWord, ...] = ()
    """Strategies that are never chosen: another one is right at least as often with fewer tokens
    on average, and leaving them out loses no accuracy on held-out questions."""


class ProbeSpec(BaseModel):
    """Input, labels and strategies of a difficulty probe; part of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    """`final`: the input of the output head."""
    normalized: bool
    """Whether the state is taken after the final norm."""
    position: str
    """`last_prompt_token`, of the chat with the unchanged question."""
    features: int
    """Size of the hidden state."""
    labels: Thresholds | Outcomes
    """How its training questions were labeled."""
    strategies: Strategies
    router: RouterSpec | None = None
    """None in probes that saw the answers of one strategy only, or were made before release 0.2."""

    @model_validator(mode="before")
    @classmethod
    def _accept_earlier_spelling(cls, data: Any) -> Any:
        """Artifacts of version 0.1.0 have `normalised`."""
        if isinstance(data, dict) and "normalised" in data and "normalized" not in data:
            data = {"normalized" if key == "normalised" else key: data[key] for key in data}
        return data

    def unreadable(self, features: int) -> str | None:
        """Name the first field that a server of this release cannot provide, or None.

        Args:
            features: The served model's hidden size.
        """
        wanted = {
            "layer": "final",
            "normalized": True,
            "position": "last_prompt_token",
            "features": features,
        }
        for field, value in wanted.items():
            if getattr(self, field) != value:
                return f"{field} is {getattr(self, field)!r}, a server reads {value!r}"
        return None
