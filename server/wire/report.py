"""The wire: the report that comes back with an answer."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from probes.difficulty.strategies import DifficultyWord
from probes.inquiry.words import Policy, Predictor, Queries, StopReason


class ReportModel(BaseModel):
    """Base of everything that the server answers with."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class TokenReport(ReportModel):
    """One token, as it was drawn."""

    entropy: float | None
    """Nats, of the distribution after penalties and masks at T = 1; None if it had none."""
    temperature: float | None
    """Applied; 0 for greedy."""


class StrategyReport(ReportModel):
    """What a class of difficulty made of a request."""

    temperature: float | None
    """T0; None where the request's own or its law rules."""
    max_tokens: int
    prompt: bool
    """Whether text was put after the question."""


class DifficultyReport(ReportModel):
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


class SteeringReport(ReportModel):
    """One vector that steered the answer."""

    vector: str
    hash: str
    """The sha256 of its contents."""
    layers: list[int]
    positions: Literal["answer", "all"]
    strength: float | None = None
    strength_relative: float | None = None
    clamp: tuple[float, float] | None = None


class HeardReport(ReportModel):
    """One question of an inquiry and what its reply was taken for."""

    query: str
    answer: str
    """One of the task's answers, or `unknown`: counts as no information."""


class InquiryReport(ReportModel):
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


class Report(ReportModel):
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
