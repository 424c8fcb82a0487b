"""Wire format: the field `entropy` of a request."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from probes.difficulty.strategies import MAX_PRICE, Rule, Strategies
from probes.inquiry.words import TOLERANCE, Predictor, Queries
from probes.laws import TemperatureLaw
from probes.selective.scores import (
    LONGEST_WINDOW,
    AnswerKind,
    Cluster,
    Estimator,
    Promise,
    StopRule,
    VoteWeight,
)
from probes.strict import RequestModel
from probes.truncations import Truncation


class DifficultyControl(RequestModel):
    """Read the difficulty of the question and apply the strategy that suits it."""

    probe: str | None = Field(None, max_length=200)
    """Id of a `difficulty-probe` artifact; default: the one for the served model."""
    mode: Literal["act", "shadow"] = "act"
    """`shadow` decides and reports without changing the answer."""
    labels: Rule | None = None
    """What chooses the strategy: `worth`, by expected accuracy and tokens, or `diffadapt`, by the
    class of the question as in the paper. Default: `worth` if the probe can and `strategies` is not
    set."""
    price: float | None = Field(
        None, ge=0.0, le=MAX_PRICE, json_schema_extra={"x-slider": [0.0, 1.0]}
    )
    """With `worth`: accuracy that as many tokens as a normal answer has may cost; 0 takes the most
    accurate strategy, 1 nearly always the shortest. Default: the probe's own."""
    effort: bool = False
    """Select the strategy by the request's `reasoning_effort`: none, minimal and low are easy,
    medium is normal, high, xhigh and max are hard. Without `reasoning_effort`, use the probe."""
    strategies: Strategies | None = None
    """Replaces the strategies stored with the probe."""


_Bound = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Larger than any residual stream and representable in the worker's float32."""
_AMOUNTS = ("strength", "strength_relative", "clamp")


def _one_amount(schema: dict[str, Any]) -> None:
    """State in the schema that a vector has exactly one amount."""
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
    """Multiples of the vector; a negative value negates it."""
    strength_relative: float | None = Field(None, ge=-10.0, le=10.0)
    """Multiples of the mean residual-stream norm that is stored with the vector."""
    clamp: tuple[_Bound, _Bound] | None = None
    """Clamp the component of the residual stream along the vector to this range instead of adding
    the vector."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, max_length=1000
    )
    """Steer only these layers of the vector; default: all."""
    positions: Literal["answer", "all"] = "answer"
    """`answer` steers from the last prompt token on (EAST), `all` also steers the prompt. All
    vectors of a request must use the same value."""

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
    """Ask questions until the label is known (C-IP); the messages hold the state of the inquiry."""

    task: str = Field(max_length=200)
    """Id of an `inquiry-calibration` artifact."""
    confidence_level: float = Field(0.9, gt=0.0, lt=1.0)
    """Probability that the prediction set contains the true label."""
    max_turns: int = Field(20, ge=0, le=1000)
    """Maximum number of questions before the final answer."""
    predictor: Predictor | None = None
    """Source of the label probabilities; default: `table` if the task lists all of its answers and
    the questions are closed, otherwise the first predictor of the artifact."""
    queries: Queries = "closed"
    """`closed` uses the task's questions; `open` uses questions that the model proposes at each
    turn."""
    max_candidates: int = Field(64, ge=1, le=1000)
    """Maximum number of candidate questions that the predictor `direct` evaluates, with two forward
    passes each; candidates are preselected by the predictor `likelihood`."""
    policy: Literal["set_size", "entropy"] = "set_size"
    """What the next question minimizes: the expected size of the prediction set (`set_size`, C-IP)
    or the expected entropy (`entropy`, information pursuit)."""
    tolerance: float = Field(TOLERANCE, ge=0.0, le=1.0)
    """Relative tolerance of the policy `set_size`: questions whose expected set size exceeds the
    smallest by up to this share are tied, and the lowest expected entropy breaks the tie. The
    published method uses 0."""


class ConfidenceControl(RequestModel):
    """Report how sure the model is of its answer, beyond the entropy."""

    probe: str | None = Field(None, max_length=200)
    """Id of a `confidence` artifact, which makes a probability of the scores; default: none."""
    window: int = Field(2048, ge=1, le=65536)
    """Tokens over which `self_certainty_window_min` averages (DeepConf: 2048); default: that of the
    probe, if there is one."""


class AbstentionControl(RequestModel):
    """Replace an answer that is too uncertain by a fixed text."""

    calibration: str = Field(max_length=200)
    """Id of an `abstention` artifact."""
    promise: Promise
    """`joint`: an answer is given and wrong with probability at most alpha. `selective`: at most
    alpha of the given answers are wrong, except with probability delta over the calibration."""
    alpha: float = Field(gt=0.0, lt=1.0)
    """Bound of the promise."""
    delta: float = Field(0.1, gt=0.0, lt=1.0)
    """With `selective`: probability that the calibration misleads."""
    text: str = Field("I don't know.", min_length=1, max_length=1000)
    """What is sent instead of the answer."""
    withhold: bool = True
    """Whether to leave the replaced answer out of the report."""


def _not_together(**fields: dict[str, Any]) -> dict[str, Any]:
    """A schema that no object satisfies whose fields all have these values."""
    return {"not": {"properties": fields, "required": list(fields)}}


def _any_but_none(literal: Any) -> dict[str, Any]:
    """A schema of the values of a `Literal` without `none`."""
    return {"enum": [value for value in get_args(literal) if value != "none"]}


MAX_JUDGED = 16
"""Samples that the model compares in pairs: 240 short requests at most."""


class SemanticControl(RequestModel):
    """Measure how much several answers disagree in what they say (semantic entropy)."""

    model_config = ConfigDict(
        json_schema_extra=_not_together(
            n={"minimum": MAX_JUDGED + 1}, cluster={"enum": ["judge", "entailment"]}
        )
    )

    n: int = Field(10, ge=2, le=32)
    """Number of samples, besides the answer."""
    temperature: float = Field(1.0, ge=0.1, le=2.0)
    """Temperature of the samples."""
    top_k: int = Field(50, ge=0, le=1_000_000)
    """The samples keep so many of the most probable tokens; 0 keeps all."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """The samples keep the most probable tokens up to this mass."""
    answer: AnswerKind = "auto"
    """How samples are read and compared, as in `vote`."""
    cluster: Cluster = "answer"
    """What groups samples: equal `answer`; or the served model, which is asked of pairs of them
    whether both say the same (`judge`) or each follows from the other (`entailment`)."""
    estimator: Estimator = "discrete"
    """`discrete` counts samples; `likelihood` weighs them by their mean token probability."""
    reply: Literal["answer", "largest"] = "answer"
    """`answer` sends one more answer by the request's own parameters, `largest` the first sample of
    the largest cluster."""


class VoteControl(RequestModel):
    """Sample several answers and return the most frequent one."""

    model_config = ConfigDict(
        json_schema_extra=_not_together(
            weight=_any_but_none(VoteWeight), stop=_any_but_none(StopRule)
        )
    )

    n: int = Field(8, ge=2, le=256)
    """Number of answers."""
    answer: AnswerKind = "auto"
    """How answers are read and compared: numbers by value and words otherwise (`auto`), or only
    `boxed`, `numeric`, `choice`, the last `line`, `exact` words, or the text as `json`."""
    weight: VoteWeight = "none"
    """What a vote counts: one; the probability of a token of its sample, the exponential of its
    mean log-probability (`probability`); or the self-certainty of its tokens: of all
    (`self_certainty`), of the last window (`tail`), of the lowest tenth of the windows (`bottom`)
    or of the lowest one (`lowest`)."""
    stop: StopRule = "none"
    """When the rest is aborted: never, when the lead cannot be lost (`lead`), when it is probably
    not lost (`beta`: adaptive consistency at .95), or when .95 of at least four votes are equal
    (`consensus`)."""
    percentile: float = Field(0.0, ge=0.0, le=99.0)
    """Above 0: the first `warmup` samples end by themselves; every other one ends as soon as a
    window of it is below this percentile of their lowest windows. Samples below it have no vote."""
    warmup: int = Field(4, ge=2, le=256)
    """With `percentile`: samples that no other one is compared with."""
    window: int = Field(LONGEST_WINDOW, ge=1, le=LONGEST_WINDOW)
    """Tokens of a window, over which the self-certainty is averaged."""

    @property
    def reads_certainty(self) -> bool:
        """Whether the self-certainty of the tokens is needed."""
        return self.percentile > 0 or self.weight not in ("none", "probability")


class PhaseLaws(RequestModel):
    """A temperature law for the thinking and one for the answer of a reasoning model."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    thinking: TemperatureLaw | None = None
    """Law until the token that ends the thinking; default: the request's own temperature."""
    answer: TemperatureLaw | None = None
    """Law of the answer; default: the request's own temperature."""


def _law_or_phases(value: object) -> str:
    """Tag of the union: an object with a phase in it and without a `type` has laws by phase."""
    if isinstance(value, dict):
        by_phase = "type" not in value and not PhaseLaws.model_fields.keys().isdisjoint(value)
        return "phases" if by_phase else "law"
    return "phases" if isinstance(value, PhaseLaws) else "law"


TemperatureControl = Annotated[
    Annotated[TemperatureLaw, Tag("law")] | Annotated[PhaseLaws, Tag("phases")],
    Discriminator(_law_or_phases),
]
"""One law, or one for each phase."""
Trace = Literal["none", "summary", "tokens"]


EXCLUDED_BY = {
    "inquiry": ("temperature", "truncation", "difficulty", "confidence", "abstain"),
    "vote": ("inquiry", "difficulty", "steering", "abstain"),
    "semantic": (
        *("inquiry", "difficulty", "steering", "abstain"),
        *("vote", "temperature", "truncation"),
    ),
}
"""Controls that a control cannot be combined with."""
NEEDS_REPORT = ("abstain", "confidence", "semantic")
"""Controls that nothing would be left of without a report."""


def _no_contradictions(schema: dict[str, Any]) -> None:
    """State in the schema which controls exclude each other."""
    pairs = [(name, other) for name, others in EXCLUDED_BY.items() for other in others]
    unreported = {"properties": {"trace": {"const": "none"}}}
    measured = {"weight": _any_but_none(VoteWeight), "percentile": {"exclusiveMinimum": 0}}
    schema["allOf"] = [
        *({"not": {"required": list(pair)}} for pair in pairs),
        *({"not": {**unreported, "required": ["trace", name]}} for name in NEEDS_REPORT),
        *(
            _not_together(
                trace={"const": "none"}, vote={"properties": {name: one}, "required": [name]}
            )
            for name, one in measured.items()
        ),
    ]
    array = next(one for one in schema["properties"]["steering"]["anyOf"] if "items" in one)
    array["anyOf"] = [
        {"items": {"properties": {"positions": {"const": "answer"}}}},
        {"items": {"properties": {"positions": {"const": "all"}}, "required": ["positions"]}},
    ]


class Control(RequestModel):
    """The field `entropy` of a request. A profile is a named `Control`."""

    model_config = ConfigDict(json_schema_extra=_no_contradictions)

    profile: str | None = Field(None, max_length=100)
    """Start from this profile; other keys of the request override its keys."""
    temperature: TemperatureControl | None = None
    """Temperature as a function of the entropy, one law or one for each phase of a reasoning model;
    default: the request's own temperature."""
    truncation: Truncation | None = None
    """Remove unlikely tokens before sampling; default: keep every token. `top_k`, `top_p` and
    `min_p` act afterwards."""
    difficulty: DifficultyControl | None = None
    """Adapt the answer to the difficulty of the question."""
    steering: tuple[Steer, ...] | None = Field(None, min_length=1, max_length=8)
    """Steering vectors to apply to the residual stream."""
    inquiry: InquiryControl | None = None
    """Ask questions until the label is known."""
    confidence: ConfidenceControl | None = None
    """Report features of confidence."""
    abstain: AbstentionControl | None = None
    """Decline to answer where the answer is too uncertain."""
    vote: VoteControl | None = None
    """Sample several answers and return the most frequent one."""
    semantic: SemanticControl | None = None
    """Measure how much several answers disagree."""
    trace: Trace = "summary"
    """How much of the measurement to return: nothing, a summary, or every token."""
