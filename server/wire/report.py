"""The wire: the report that comes back with an answer."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from probes.difficulty.strategies import DifficultyWord
from probes.inquiry.words import Policy, Predictor, Queries, StopReason


class ReportModel(BaseModel):
    """Base of everything that the server answers with."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def join_fallbacks(*reasons: str | None) -> str | None:
    """The field `fallback` for several reasons; None stands for none."""
    return ",".join(dict.fromkeys(filter(None, reasons))) or None


class TokenReport(ReportModel):
    """One sampled token."""

    entropy: float | None
    """Nats, of the distribution after penalties and masks at T = 1; None if it had none."""
    temperature: float | None
    """Applied temperature; 0 for a greedy request."""


class StrategyReport(ReportModel):
    """How the class of the question changed the request."""

    temperature: float | None
    """T0; None where the request's own temperature or its law applies."""
    max_tokens: int
    """Tokens that the answer may have."""
    prompt: bool
    """Whether the strategy added text after the question."""


class DifficultyReport(ReportModel):
    """The difficulty of the question, and the strategy that followed."""

    label: DifficultyWord | None
    """None if the probe gave no answer in time."""
    probabilities: dict[DifficultyWord, float] | None = None
    """None if `reasoning_effort` picked the class, or the model's state was not finite."""
    mode: Literal["act", "shadow"]
    """As requested."""
    source: Literal["probe", "effort", "fallback"]
    """Where the class comes from; `fallback` if the probe did not answer in time."""
    strategy: StrategyReport | None = None
    """What was applied, in shadow mode what would have been; None without a label."""
    prepass_tokens: int | None = None
    """Tokens of the prompt that the probe read ahead of the answer; None where it read the
    answer's own prompt."""


class SteeringReport(ReportModel):
    """One vector that steered the answer."""

    vector: str
    """Its id."""
    hash: str
    """The sha256 of its contents."""
    layers: list[int]
    """Layers that were steered."""
    positions: Literal["answer", "all"]
    """As requested."""
    strength: float | None = None
    """As requested: multiples of the vector."""
    strength_relative: float | None = None
    """As requested: multiples of the mean norm of the stream."""
    clamp: tuple[float, float] | None = None
    """As requested: limits of the component along the vector."""


class HeardReport(ReportModel):
    """One question of an inquiry and how its reply was read."""

    query: str
    """The question."""
    answer: str
    """One of the task's answers, or `unknown`: counts as no information."""


class InquiryReport(ReportModel):
    """Where an inquiry stands."""

    task: str
    """Also the id of the calibration."""
    introduction: str | None = None
    """What the task tells a person to do; in the first turn only."""
    action: Literal["ask", "answer"]
    """What the assistant does in this turn."""
    turn: int
    """Questions asked, this one included."""
    query: str | None = None
    """What is asked now."""
    label: str | None = None
    """The label of the final answer."""
    reason: StopReason | None = None
    """Why there is no further question."""
    prediction_set: list[str]
    """Labels that may be true at this confidence level, the most probable first."""
    probabilities: dict[str, float]
    """Of all labels."""
    heard: list[HeardReport]
    """Each question and how its reply was read."""
    expected_size: float | None = None
    """Of the prediction set after the next answer, in labels."""
    runner_up: str | None = None
    """What would be asked without `query`."""
    runner_up_size: float | None = None
    """Expected size of the prediction set after it, in labels."""
    confidence_level: float
    """As requested."""
    predictor: Predictor
    """Source of the label probabilities."""
    policy: Policy
    """As requested."""
    queries: Queries
    """As requested."""
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
    """Spent on this turn."""


class Report(ReportModel):
    """`choices[i].entropy` of an answer. In a stream, chunks carry `tokens` alone."""

    profile: str | None = None
    """The profile that applied."""
    law: str | None = None
    """Type of the temperature law; None if the request's own temperature applied."""
    entropy_mean: float | None = None
    """Nats per token."""
    entropy_max: float | None = None
    """Highest entropy of a token, nats."""
    temperature_mean: float | None = None
    """Of the temperatures that were applied."""
    base_temperature: float | None = None
    """T0: the temperature that the request, its strategy or the model's defaults set."""
    temperature_change_mean: float | None = None
    """Mean of |T - T0|."""
    share_heated: float | None = None
    """Share of tokens drawn above T0."""
    share_cooled: float | None = None
    """Share of tokens drawn below T0."""
    num_tokens: int | None = None
    """Tokens measured."""
    num_clamped: int | None = None
    """Tokens whose entropy is not the target: drawn at a temperature limit, or left at T0 by a
    one-sided target. None without a target."""
    entropy_target: float | None = None
    """The target in nats, if the law has one."""
    tokens: list[TokenReport] | None = None
    """Every token, with the trace `tokens`."""
    difficulty: DifficultyReport | None = None
    """How hard the question is, if the request asked."""
    steering: list[SteeringReport] | None = None
    """What steered the answer, if the request asked."""
    inquiry: InquiryReport | None = None
    """Where the inquiry stands, if the request asked."""
    fallback: str | None = None
    """Why control or measurement is incomplete, as codes separated by commas; None when nothing
    is missing."""
