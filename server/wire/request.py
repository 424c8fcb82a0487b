"""The wire: what a request may ask for under `entropy`, and what comes back.

Everything here is strict: an unknown key is a mistake worth an error, not something to ignore.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from probes.difficulty.strategies import DifficultyWord, Strategies
from probes.inquiry.words import (
    TOLERANCE,
    EmptySets,
    LabelWeights,
    Policy,
    Predictor,
    Queries,
    StopReason,
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FixedTemperature(_Strict):
    """The same temperature for every token, whatever the request's own says."""

    type: Literal["fixed"] = "fixed"
    temperature: float = Field(ge=0.01, le=2.0)
    """Dimensionless."""


class Hapo(_Strict):
    """HAPO: heat uncertain tokens and cool certain ones by at most `tau`, relative to T0."""

    type: Literal["hapo"] = "hapo"
    tau: float = Field(0.05, ge=0.0, lt=1.0)
    """Relative half-width: T stays inside [T0 (1 - tau), T0 (1 + tau)]."""
    statistics: str | None = Field(None, max_length=200)
    """Id of an `entropy-statistics` artifact; None takes the served model's own."""
    compat: Literal["published"] | None = None
    """`published` reproduces the public code, which also heats certain tokens."""


class Edt(_Strict):
    """EDT: T = T0 base^(theta / H)."""

    type: Literal["edt"] = "edt"
    theta: float = Field(0.5, gt=0.0, le=100.0)
    """Nats; how much entropy it takes to approach T0."""
    base: float = Field(0.8, gt=0.0, lt=1.0)


class Dynatemp(_Strict):
    """llama.cpp's dynamic temperature: T0 - range for no entropy, T0 + range for the most."""

    type: Literal["dynatemp"] = "dynatemp"
    range: float = Field(0.5, ge=0.0, le=2.0)
    """Half-width of the temperatures around T0."""
    exponent: float = Field(1.0, gt=0.0, le=10.0)
    """Applied to H / ln(vocabulary)."""


class EntropyTarget(_Strict):
    """Solve T for every token so that the distribution it is drawn from has this entropy."""

    type: Literal["entropy_target"] = "entropy_target"
    entropy_target: float = Field(gt=0.0, le=15.0)
    """Nats."""
    temperature_min: float = Field(0.1, ge=0.01, le=10.0)
    temperature_max: float = Field(2.0, ge=0.01, le=10.0)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.temperature_min >= self.temperature_max:
            raise ValueError(
                f"temperature_min ({self.temperature_min}) must be smaller than "
                f"temperature_max ({self.temperature_max})"
            )
        return self


TemperatureLaw = Annotated[
    FixedTemperature | Hapo | Edt | Dynatemp | EntropyTarget, Field(discriminator="type")
]


class DifficultyControl(_Strict):
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


class Steer(_Strict):
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


class InquiryControl(_Strict):
    """Ask questions until the answer is known (C-IP); the messages are the state of the game."""

    task: str = Field(max_length=200)
    """Id of an `inquiry-calibration` artifact."""
    confidence_level: float = Field(0.9, gt=0.0, lt=1.0)
    """How often the prediction set shall hold the true label."""
    max_turns: int = Field(20, ge=0, le=1000)
    """Most questions; then comes the final answer."""
    predictor: Predictor | None = None
    """None takes the one that the artifact names first."""
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


class Control(_Strict):
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


class TokenReport(BaseModel):
    """One token, as it was drawn."""

    entropy: float | None
    """Nats, of the distribution after penalties and masks at T = 1; None if it had none."""
    temperature: float | None
    """Applied; 0 for greedy."""


class StrategyReport(BaseModel):
    """What a class of difficulty made of a request."""

    temperature: float | None
    """T0; None where the request's own or its law rules."""
    max_tokens: int
    prompt: bool
    """Whether text was put after the question."""


class DifficultyReport(BaseModel):
    """How hard the question was found to be, and what followed."""

    label: DifficultyWord | None
    """None if the probe gave no answer in time."""
    probabilities: dict[DifficultyWord, float] | None = None
    """None if `reasoning_effort` picked the class, or the model's state was not finite."""
    mode: Literal["act", "shadow"]
    source: Literal["probe", "effort", "fallback"]
    strategy: StrategyReport | None = None
    """What was applied, in shadow mode what would have been; None without a label."""
    prepass_tokens: int | None = None
    """Tokens of the prompt that the probe read ahead of the answer; None where it read the
    answer's own prompt."""


class SteeringReport(BaseModel):
    """One vector that steered the answer."""

    vector: str
    hash: str
    """The sha256 of its contents."""
    layers: list[int]
    positions: Literal["answer", "all"]
    strength: float | None = None
    strength_relative: float | None = None
    clamp: tuple[float, float] | None = None


class HeardReport(BaseModel):
    """One question of an inquiry and what its reply was taken for."""

    query: str
    answer: str
    """One of the task's answers, or `unknown`: counts as no information."""


class InquiryReport(BaseModel):
    """Where an inquiry stands."""

    task: str
    """Also the id of the calibration."""
    action: Literal["ask", "answer"]
    turn: int
    """Questions asked, this one included."""
    query: str | None = None
    """What is asked now."""
    label: str | None = None
    """The final answer."""
    reason: StopReason | None = None
    """Why there is no further question."""
    prediction_set: list[str]
    """Labels that may be true at this confidence level, the most probable first."""
    probabilities: dict[str, float]
    """Of all labels."""
    heard: list[HeardReport]
    expected_size: float | None = None
    """Of the prediction set after the next answer, in labels."""
    runner_up: str | None = None
    """What would be asked without `query`."""
    runner_up_size: float | None = None
    confidence_level: float
    predictor: Predictor
    policy: Policy
    queries: Queries
    num_candidates: int
    """Questions that were compared in this turn."""
    calibrated: bool
    """Whether histories like this one were calibrated: not if it is longer than any that was, then
    the longest one's threshold holds, and not if the model made up one of its questions."""
    forwards: int = 0
    """Forward passes of the model that this turn consists of, cached readings among them."""
    prompt_tokens: int = 0
    """Tokens of their prompts."""
    seconds: float


class Report(BaseModel):
    """`choices[i].entropy` of an answer. In a stream, chunks carry `tokens` alone."""

    profile: str | None = None
    law: str | None = None
    """Type of the temperature law; None if the request's own temperature ruled."""
    entropy_mean: float | None = None
    """Nats per token."""
    entropy_max: float | None = None
    temperature_mean: float | None = None
    num_tokens: int | None = None
    """Tokens measured."""
    num_clamped: int | None = None
    """Tokens whose entropy target was out of reach: drawn at the nearer temperature limit."""
    tokens: list[TokenReport] | None = None
    difficulty: DifficultyReport | None = None
    steering: list[SteeringReport] | None = None
    inquiry: InquiryReport | None = None
    fallback: str | None = None
    """Why control or measurement is incomplete; None when all is well."""


class ArtifactCard(BaseModel):
    """One line of `GET /v1/entropy/artifacts`."""

    id: str
    kind: str
    model: str
    usable: bool
    """Whether it fits the served model."""
    reason: str | None = None
    """Why not."""


class ArtifactList(BaseModel):
    """`GET /v1/entropy/artifacts`."""

    object: Literal["list"] = "list"
    data: list[ArtifactCard]


class ProfileCard(BaseModel):
    """One line of `GET /v1/entropy/profiles`."""

    id: str
    control: Control


class ProfileList(BaseModel):
    """`GET /v1/entropy/profiles`."""

    object: Literal["list"] = "list"
    data: list[ProfileCard]


class Readiness(BaseModel):
    """`GET /ready`."""

    ready: bool
    steps: int | None = None
    """Sampling steps of the engine since it started."""
    artifacts: int
    """Artifacts loaded for the served model."""
    reason: str | None = None
