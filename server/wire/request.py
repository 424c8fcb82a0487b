"""The wire: the field `entropy` of a request."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from probes.difficulty.strategies import Strategies
from probes.inquiry.words import TOLERANCE, Predictor, Queries
from probes.laws import TemperatureLaw
from probes.strict import RequestModel


class DifficultyControl(RequestModel):
    """Read how hard the question is and answer it by the strategy of its class (DiffAdapt)."""

    probe: str | None = Field(None, max_length=200)
    """Id of a `difficulty-probe` artifact; default: the served model's own."""
    mode: Literal["act", "shadow"] = "act"
    """`shadow` decides and reports, and changes nothing."""
    effort: bool = False
    """Let the request's `reasoning_effort` pick the class: none, minimal and low are easy, medium
    is normal, high, xhigh and max are hard. The probe reads a request without one."""
    strategies: Strategies | None = None
    """Replaces the strategies stored with the probe."""


_Bound = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Far beyond any residual stream, and a number that the worker's float32 can hold."""
_AMOUNTS = ("strength", "strength_relative", "clamp")


def _one_amount(schema: dict[str, Any]) -> None:
    """Say in the schema that a vector has exactly one amount."""
    schema["oneOf"] = [
        {
            "required": [amount],
            "properties": {
                name: {"not": {"type": "null"}} if name == amount else {"type": "null"}
                for name in _AMOUNTS
            },
        }
        for amount in _AMOUNTS
    ]


class Steer(RequestModel):
    """One steering vector with exactly one of the three amounts."""

    model_config = ConfigDict(json_schema_extra=_one_amount)

    vector: str = Field(max_length=200)
    """Id of a `steering-vector` artifact."""
    strength: float | None = Field(None, ge=-1000.0, le=1000.0)
    """Multiples of the vector; a negative strength negates it."""
    strength_relative: float | None = Field(None, ge=-10.0, le=10.0)
    """Multiples of the mean norm of the residual stream, which is stored with the vector."""
    clamp: tuple[_Bound, _Bound] | None = None
    """Hold the component of the stream along the vector between these two numbers instead of
    adding."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, max_length=1000
    )
    """Steer only these of the vector's layers; default: all of them."""
    positions: Literal["answer", "all"] = "answer"
    """`answer` steers from the last token of the prompt on (EAST), `all` the whole prompt too. The
    same for all vectors of a request."""

    @field_validator("clamp")
    @classmethod
    def _in_order(cls, clamp: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if clamp is None else (min(clamp), max(clamp))

    @model_validator(mode="after")
    def _has_one_amount(self) -> Self:
        if sum(getattr(self, amount) is not None for amount in _AMOUNTS) != 1:
            raise ValueError("set exactly one of strength, strength_relative and clamp")
        return self


class InquiryControl(RequestModel):
    """Ask questions until the answer is known (C-IP); the messages are the state of the game."""

    task: str = Field(max_length=200)
    """Id of an `inquiry-calibration` artifact."""
    confidence_level: float = Field(0.9, gt=0.0, lt=1.0)
    """Probability with which the prediction set holds the true label."""
    max_turns: int = Field(20, ge=0, le=1000)
    """Largest number of questions before the final answer."""
    predictor: Predictor | None = None
    """Source of the label probabilities; default: the table of the task's own answers where all of
    them are known and the questions are closed, else the one that the artifact names first."""
    queries: Queries = "closed"
    """`closed` asks the task's own questions; `open` those that the model proposes at each turn."""
    max_candidates: int = Field(64, ge=1, le=1000)
    """Largest number of questions whose answers the predictor `direct` looks ahead at, two forward
    passes each; the likelihoods of their statements rank them."""
    policy: Literal["set_size", "entropy"] = "set_size"
    """What the next question shall make small: the expected prediction set (`set_size`, C-IP) or
    the expected entropy (`entropy`, information pursuit)."""
    tolerance: float = Field(TOLERANCE, ge=0.0, le=1.0)
    """Relative: expected sets larger than the smallest by up to this share tie with it, and the
    lowest expected entropy decides among them. 0 is as published. Of the policy `set_size`."""


Trace = Literal["none", "summary", "tokens"]


def _no_contradictions(schema: dict[str, Any]) -> None:
    """Say in the schema which controls exclude each other."""
    pairs = [("inquiry", "temperature"), ("inquiry", "difficulty")]
    schema["allOf"] = [{"not": {"required": list(pair)}} for pair in pairs]
    array = next(one for one in schema["properties"]["steering"]["anyOf"] if "items" in one)
    array["anyOf"] = [
        {"items": {"properties": {"positions": {"const": "answer"}}}},
        {"items": {"properties": {"positions": {"const": "all"}}, "required": ["positions"]}},
    ]


class Control(RequestModel):
    """The field `entropy` of a request; a profile is the same with a name."""

    model_config = ConfigDict(json_schema_extra=_no_contradictions)

    profile: str | None = Field(None, max_length=100)
    """Start from this profile; the keys set beside it override the profile's."""
    temperature: TemperatureLaw | None = None
    """How the temperature follows the entropy; default: the request's own temperature."""
    difficulty: DifficultyControl | None = None
    """How the answer follows the difficulty of the question."""
    steering: tuple[Steer, ...] | None = Field(None, min_length=1, max_length=8)
    """Vectors added to the residual stream while the answer is decoded."""
    inquiry: InquiryControl | None = None
    """Ask questions instead of answering."""
    trace: Trace = "summary"
    """How much of the measurement comes back: nothing, a summary, or every token."""
