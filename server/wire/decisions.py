"""Wire format of `/v1/decisions`: OpenAI's request and response, and our key `entropy`."""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictStr, model_validator

from probes.strict import RequestModel
from server.wire.decision_input import InputImage, InputItem, InputJson
from server.wire.report import ReportModel

MAX_QUESTIONS = 400
MAX_CHOICES = 255


class QuestionText(RequestModel):
    """A part of a question with text."""

    type: Literal["input_text"]
    """Always `input_text`."""
    text: str
    """The text."""


QuestionPart = Annotated[QuestionText | InputImage | InputJson, Field(discriminator="type")]


class _AskedQuestion(RequestModel):
    instructions: str | list[QuestionPart]
    """The question, or the statement to judge."""
    name: str | None = Field(None, max_length=1000)
    """Returned with the answer."""


class PredicateQuestion(_AskedQuestion):
    """How likely is a statement about the input to be true?"""

    type: Literal["predicate"]
    """Always `predicate`."""


class ChoiceOption(RequestModel):
    """One option of a choice."""

    value: StrictStr | StrictBool
    """Its name; the text `true` and the boolean are different values."""
    description: str | None = None
    """What it means."""


class ChoiceQuestion(_AskedQuestion):
    """Which of the options fits the input?"""

    type: Literal["choice"]
    """Always `choice`."""
    choices: list[ChoiceOption] = Field(min_length=2, max_length=MAX_CHOICES)
    """The options, all different."""

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        if len({(type(one.value), one.value) for one in self.choices}) < len(self.choices):
            raise ValueError("two choices have the same value")
        return self


class ScoreLevel(RequestModel):
    """One level of a scale."""

    label: str
    """Its name."""
    description: str | None = None
    """What it means."""


class ScoreQuestion(_AskedQuestion):
    """Which level of a scale does the input reach?"""

    type: Literal["score"]
    """Always `score`."""
    levels: list[ScoreLevel] = Field(min_length=2, max_length=10)
    """The levels, the lowest first."""


AskedQuestion = Annotated[
    PredicateQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")
]


class CacheOptions(RequestModel):
    """Accepted for OpenAI's clients; vLLM caches every whole block of a prompt."""

    mode: Literal["implicit", "explicit"] | None = None
    """Accepted; changes nothing."""
    ttl: Literal["30m"] | None = None
    """Accepted; changes nothing."""


class AbstainControl(RequestModel):
    """When an answer counts as too uncertain to act on."""

    max_set_size: int = Field(1, ge=1, le=MAX_CHOICES)
    """Abstain if the prediction set has more values than this. Needs a calibration."""
    min_probability: float = Field(0.0, ge=0.0, le=1.0)
    """Abstain if the most probable value has a lower probability than this."""
    min_label_mass: float = Field(0.0, ge=0.0, le=1.0)
    """Abstain if the reply is a label with a lower probability than this."""
    answer: Literal["best", "refusal"] = "best"
    """What the answer is then: the most probable value, or OpenAI's `refusal`."""


class FollowUp(RequestModel):
    """A question that could be put to somebody who knows more than the input says."""

    question: str = Field(min_length=1, max_length=2000)
    """The question."""
    answers: tuple[Annotated[str, Field(min_length=1, max_length=500)], ...] = Field(
        ("yes", "no"), min_length=2, max_length=10
    )
    """Its possible answers."""


class FollowUpTask(RequestModel):
    """The questions of an inquiry task, as those that could be put to somebody."""

    task: str = Field(max_length=200)
    """Id of an `inquiry-calibration` artifact. Its questions could be asked, except for those that
    the input contains already."""


class DecisionControl(RequestModel):
    """The field `entropy` of a decision: how it is read, calibrated, and when to abstain or ask."""

    calibration: str | None = Field(None, max_length=200)
    """Id of a `decision-calibration` artifact. Questions that it does not have are answered
    uncalibrated."""
    confidence_level: float = Field(0.9, gt=0.0, lt=1.0)
    """Probability that the prediction set contains the right value."""
    coverage: Literal["marginal", "by_class"] = "marginal"
    """`marginal` keeps the level over all inputs, `by_class` for each right value. Values with too
    few calibration rows share one threshold."""
    score: Literal["lac", "aps"] = "lac"
    """Conformity score: `lac` gives the smallest sets, `aps` sets that adapt to the input."""
    read: Literal["letters", "statements", "both"] | None = None
    """What is read: the probability of each option's label, of its own text, or both. Default: that
    of the calibration, or `letters`."""
    orders: int | None = Field(None, ge=1, le=8)
    """Orders of the options that are averaged. Default: that of the calibration, or 2."""
    prior: bool | None = None
    """Whether to subtract what the model says about an empty input. Default: that of the
    calibration, or true."""
    abstain: AbstainControl | None = None
    """When an answer counts as too uncertain; default: if the prediction set of a calibrated
    question has more than one value."""
    ask: (
        Annotated[tuple[FollowUp, ...], Field(min_length=1, max_length=16)] | FollowUpTask | None
    ) = None
    """Questions that could be asked, or the task that has them. Where an answer abstains, the one
    that is expected to shrink its prediction set most is named."""
    reads: bool = False
    """Whether to return the log-probabilities that were read."""


class DecisionRequest(RequestModel):
    """OpenAI's request, with the fields `entropy` and `cache_salt`."""

    model: str | None = None
    """Name of the model; default: the one that is served."""
    input: str | list[InputItem]
    """A text, or messages, calls and outputs, which every question is about."""
    questions: list[AskedQuestion] = Field(min_length=1, max_length=MAX_QUESTIONS)
    """The questions; answers have the same order."""
    prompt_cache_key: str | None = Field(None, max_length=1000)
    """Requests with different keys share no cached prompts."""
    prompt_cache_options: CacheOptions | None = None
    """Accepted; changes nothing."""
    safety_identifier: str | None = Field(None, max_length=64)
    """Accepted; neither stored nor read."""
    cache_salt: str | None = Field(None, min_length=1, max_length=1000)
    """As in vLLM's other requests: requests with different salts share no cached prompts."""
    entropy: DecisionControl | None = None
    """Calibration, prediction sets, abstention."""

    @model_validator(mode="after")
    def _outputs_have_calls(self) -> Self:
        calls = set[tuple[str, str]]()
        for item in self.input if isinstance(self.input, list) else ():
            if item.type in ("function_call", "custom_tool_call"):
                calls.add((item.type, item.call_id))
            elif item.type != "message" and (
                (item.type.removesuffix("_output"), item.call_id) not in calls
            ):
                raise ValueError(f"input: no earlier call has the call_id `{item.call_id[:100]}`")
        return self


class OptionReads(ReportModel):
    """Log-probabilities in nats, in the order of the options."""

    letters: list[list[float]]
    """Of each option's label, for each order of the options."""
    letters_prior: list[list[float]]
    """The same after an empty input."""
    statements: list[float]
    """Of each option's text."""
    statements_prior: list[float]
    """The same after an empty input."""


class DecisionReport(ReportModel):
    """The field `entropy` of an answer; present if the request has it."""

    prediction_set: list[str | bool | int] | None
    """Values that cannot be ruled out at the confidence level; null without a calibration."""
    confidence_level: float | None
    """Probability that the set contains the right value; null without a calibration."""
    calibrated: bool
    """Whether the calibration has this question."""
    abstained: bool
    """Whether the answer is too uncertain to act on."""
    raw: list[float]
    """Uncalibrated probability of each option, in their order."""
    entropy: float
    """Entropy of the answer's distribution, in nats."""
    label_mass: float | None
    """Probability that the model's reply is a label at all; null for `statements`."""
    next_question: str | None = None
    """Question of `ask` that is expected to shrink the set most; null if none helps, or the answer
    does not abstain."""
    reads: OptionReads | None = None
    """What was read, if requested."""


class _Answer(ReportModel):
    name: str | None = None
    """Name of the question."""
    entropy: DecisionReport | None = None
    """Uncertainty of the answer; present if the request has the field."""


class PredicateAnswer(_Answer):
    """Answer to a predicate."""

    type: Literal["predicate"] = "predicate"
    """Always `predicate`."""
    probability: float
    """Probability that the statement is true."""


class ChoiceProbability(ReportModel):
    """Probability of one choice."""

    value: StrictStr | StrictBool
    """The choice."""
    probability: float
    """Its probability."""


class ChoiceAnswer(_Answer):
    """Answer to a choice."""

    type: Literal["choice"] = "choice"
    """Always `choice`."""
    choice: StrictStr | StrictBool
    """The most probable value."""
    confidence: float
    """Its probability, uncalibrated times `label_mass`."""
    probabilities: list[ChoiceProbability]
    """Of every choice, in their order; the sum is 1."""


class LevelProbability(ReportModel):
    """Probability of one level."""

    label: str
    """Name of the level."""
    probability: float
    """Its probability."""
    value: int
    """Its place on the scale; the lowest level is 0."""


class ScoreAnswer(_Answer):
    """Answer to a score."""

    type: Literal["score"] = "score"
    """Always `score`."""
    score: float
    """Expected place on the scale; the lowest level is 0."""
    confidence: float
    """Probability of the most probable level, uncalibrated times `label_mass`."""
    probabilities: list[LevelProbability]
    """Of every level, in their order; the sum is 1."""


class RefusalAnswer(_Answer):
    """No answer: it would abstain and the request prefers a refusal, or logits were not numbers."""

    type: Literal["refusal"] = "refusal"
    """Always `refusal`."""


class InputTokensDetails(ReportModel):
    """Tokens of the input by origin."""

    cached_tokens: int
    """Tokens of the shared input that questions after the first reused."""
    cache_write_tokens: int
    """Tokens of the shared input in whole cache blocks."""


class OutputTokensDetails(ReportModel):
    """Always zero: a decision writes no text."""

    reasoning_tokens: int = 0
    """Always 0."""


class DecisionUsage(ReportModel):
    """Tokens of a request."""

    input_tokens: int
    """Tokens of all prompts, including the shared input of each."""
    input_tokens_details: InputTokensDetails
    """Of which were cached."""
    output_tokens: int = 0
    """Always 0."""
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    """Always zero."""
    total_tokens: int
    """As `input_tokens`."""


class DecisionResponse(ReportModel):
    """OpenAI's response."""

    model: str
    """Name of the model."""
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer | RefusalAnswer]
    """One answer for each question, in their order."""
    usage: DecisionUsage
    """Tokens of the request."""
