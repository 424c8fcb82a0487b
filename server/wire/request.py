"""The wire: the field `entropy` of a request."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from probes.difficulty.strategies import Strategies
from probes.inquiry.words import (
    TOLERANCE,
    EmptySets,
    LabelWeights,
    Policy,
    Predictor,
    Queries,
)
from probes.laws import TemperatureLaw
from probes.strict import RequestModel


class DifficultyControl(RequestModel):
    """Read how hard the question is and answer it by the strategy of its class (DiffAdapt)."""

    probe: str | None = Field(None, max_length=200)
    """Id of a `difficulty-probe` artifact; None takes the served model's own."""
    mode: Literal["act", "shadow"] = "act"
    """`shadow` decides and reports, and changes nothing."""
    effort: bool = False
    """Whether the request's `reasoning_effort` picks the class: low easy, medium normal, high hard.
    A request without one is read by the probe."""
    strategies: Strategies | None = None
    """Instead of those stored with the probe."""


_Bound = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Far beyond any residual stream, and a number that the worker's float32 can hold."""


class Steer(RequestModel):
    """One steering vector and how much of it; say exactly one of the three amounts."""

    vector: str = Field(max_length=200)
    """Id of a `steering-vector` artifact."""
    strength: float | None = Field(None, ge=-1000.0, le=1000.0)
    """Multiples of the vector; negative turns it round."""
    strength_relative: float | None = Field(None, ge=-10.0, le=10.0)
    """Multiples of the mean norm of the residual stream, which is stored with the vector."""
    clamp: tuple[_Bound, _Bound] | None = None
    """Hold the stream's component along the vector inside this band instead of adding."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Only these of the vector's layers; None takes all of them."""
    positions: Literal["answer", "all"] = "answer"
    """From the last token of the prompt on (EAST), or the prompt's other tokens too. The same for
    all vectors of a request."""

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        amounts = (self.strength, self.strength_relative, self.clamp)
        if sum(amount is not None for amount in amounts) != 1:
            raise ValueError("say exactly one of strength, strength_relative and clamp")
        if self.clamp is not None and self.clamp[0] > self.clamp[1]:
            raise ValueError(f"clamp: {self.clamp[0]} must not be larger than {self.clamp[1]}")
        return self


class InquiryControl(RequestModel):
    """Ask questions until the answer is known (C-IP); the messages are the state of the game."""

    task: str = Field(max_length=200)
    """Id of an `inquiry-calibration` artifact."""
    confidence_level: float = Field(0.9, gt=0.0, lt=1.0)
    """How often the prediction set shall hold the true label."""
    max_turns: int = Field(20, ge=0, le=1000)
    """Most questions; then comes the final answer."""
    predictor: Predictor | None = None
    """None takes the table of the task's own answers where all of them are known and the questions
    are closed, else the one that the artifact names first."""
    queries: Queries = "closed"
    """`closed` asks the task's own questions; `open` those that the model proposes at each turn."""
    max_candidates: int = Field(64, ge=1, le=1000)
    """Most questions that the predictor `direct` looks ahead at, two forwards each: those which
    promise most by the likelihoods of their statements."""
    policy: Policy = "set_size"
    """What the next question shall make small: `set_size` is C-IP, `entropy` plain IP."""
    tolerance: float = Field(TOLERANCE, ge=0.0, le=1.0)
    """Expected sets that are larger than the smallest by this share tie with it, and ties go to the
    lower expected entropy; 0 is as published. Of the policy `set_size`."""
    empty: EmptySets = "full"
    """What a prediction set counts as that no label passes; `raw` is as published."""
    label_weights: LabelWeights = "posterior"
    """Whose answers are imagined: by the labels' probability, or `uniform` as published."""


Trace = Literal["none", "summary", "tokens"]


class Control(RequestModel):
    """The `entropy` field of a request; a profile is the same thing with a name."""

    profile: str | None = Field(None, max_length=100)
    """Start from this profile; what is set beside it here wins."""
    temperature: TemperatureLaw | None = None
    """How the temperature follows the entropy; None leaves it as the request says."""
    difficulty: DifficultyControl | None = None
    """How the answer follows the difficulty of the question; None leaves it alone."""
    steering: tuple[Steer, ...] | None = Field(None, min_length=1, max_length=8)
    """Vectors added to the residual stream while the answer is decoded."""
    inquiry: InquiryControl | None = None
    """Ask questions instead of answering; None answers."""
    trace: Trace = "summary"
    """How much of the measurement comes back: nothing, a summary, or every token."""
