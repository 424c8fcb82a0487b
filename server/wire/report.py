"""Wire format: the report in a response."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from probes.difficulty.strategies import DifficultyWord, Rule
from probes.inquiry.words import Policy, Predictor, Queries, StopReason
from probes.selective.scores import Cluster, Estimator, Promise, ScoreName, StopRule, VoteWeight


class ReportModel(BaseModel):
    """Base class of the response models."""

    model_config = ConfigDict(use_attribute_docstrings=True)


FALLBACKS = (
    "all_skipped",
    "temperature_skipped",
    "truncation_skipped",
    "difficulty_skipped",
    "steering_skipped",
    "inquiry_skipped",
    "confidence_skipped",
    "abstain_skipped",
    "vote_skipped",
    "semantic_skipped",
    "report_skipped",
    "control_failed",
    "no_entropy",
    "probe_unavailable",
    "reply_unread",
    "direct_unavailable",
    "no_proposals",
    "open_unavailable",
    "no_answer",
    "judge_failed",
    "uncalibrated",
    "trace_lost",
)
"""Codes of the field `fallback`."""


def join_fallbacks(*reasons: str | None) -> str | None:
    """Join reasons to a value of the field `fallback`; None if there are none."""
    return ",".join(dict.fromkeys(filter(None, reasons))) or None


class TokenReport(ReportModel):
    """One sampled token."""

    entropy: float | None
    """Entropy in nats of the distribution at T = 1, after penalties and masks; None if not
    measured."""
    temperature: float | None
    """Applied temperature; 0 for a greedy request."""
    varentropy: float | None = None
    """Variance of -ln p at T = 1, in nats^2; None if not measured."""


class StrategyReport(ReportModel):
    """Settings of the strategy for the class of the question."""

    temperature: float | None
    """Base temperature T0; None if the request's own temperature or law applies."""
    max_tokens: int
    """Maximum number of tokens of the answer."""
    prompt: bool
    """Whether the strategy added text after the question."""
    thinking_tokens: int | None = None
    """Largest number of tokens for the thinking; None if the strategy did not limit it: the model
    does not think, the request has a `thinking_token_budget`, or the mode is `shadow`."""


class DifficultyReport(ReportModel):
    """The difficulty of the question, and the strategy that was applied."""

    label: DifficultyWord | None
    """The strategy chosen; None if the probe did not answer in time."""
    probabilities: dict[DifficultyWord, float] | None = None
    """Probability of each class; None if no class was asked for (`labels` is `worth`, or
    `reasoning_effort` selected the strategy), or the hidden state was not finite."""
    labels: Rule | None = None
    """What chose the strategy; None if no probe did."""
    price: float | None = None
    """With `worth`: the price that was used."""
    expected_accuracy: dict[DifficultyWord, float] | None = None
    """With `worth`: expected share of right answers by each strategy."""
    expected_tokens: dict[DifficultyWord, float] | None = None
    """With `worth`: expected length of an answer by each strategy, on the training questions'
    `max_tokens`."""
    mode: Literal["act", "shadow"]
    """As requested; `shadow` also with `baseline`."""
    baseline: bool | None = None
    """True if the server left this answer alone to measure what the strategies save
    (`--baseline-share`)."""
    source: Literal["probe", "effort", "fallback"]
    """Source of the class; `fallback` if the probe did not answer in time."""
    strategy: StrategyReport | None = None
    """The strategy applied, or in shadow mode the one that would apply; None without a label."""
    prepass_tokens: int | None = None
    """Prompt tokens of a separate pass for the probe; None if the probe read the prompt of the
    answer itself."""


class SteeringReport(ReportModel):
    """One steering vector applied to the answer."""

    vector: str
    """Id of the vector."""
    hash: str
    """SHA-256 of the vector's contents."""
    layers: list[int]
    """Steered layers."""
    positions: Literal["answer", "all"]
    """As requested."""
    strength: float | None = None
    """As requested, in multiples of the vector."""
    strength_relative: float | None = None
    """As requested, in multiples of the mean norm of the residual stream."""
    clamp: tuple[float, float] | None = None
    """As requested: bounds of the component along the vector."""


class HeardReport(ReportModel):
    """One question of an inquiry and the answer that its reply was mapped to."""

    query: str
    """The question."""
    answer: str
    """One of the task's answers, or `unknown`, which carries no information."""


class InquiryReport(ReportModel):
    """The state of an inquiry."""

    task: str
    """Id of the task and its calibration."""
    introduction: str | None = None
    """The task's instructions for the user; in the first turn only."""
    action: Literal["ask", "answer"]
    """The assistant's action in this turn."""
    turn: int
    """Number of questions asked, including this one."""
    query: str | None = None
    """The question of this turn."""
    label: str | None = None
    """The label of the final answer."""
    reason: StopReason | None = None
    """Why the inquiry stopped."""
    prediction_set: list[str]
    """Labels in the prediction set at this confidence level, most probable first."""
    probabilities: dict[str, float]
    """Probability of each label."""
    heard: list[HeardReport]
    """Each question so far and the answer that its reply was mapped to."""
    expected_size: float | None = None
    """Expected size of the prediction set after the next answer, in labels."""
    runner_up: str | None = None
    """The second-best question."""
    runner_up_size: float | None = None
    """Expected size of the prediction set after the runner-up, in labels."""
    confidence_level: float
    """As requested."""
    predictor: Predictor
    """Source of the label probabilities."""
    policy: Policy
    """As requested."""
    queries: Queries
    """As requested."""
    num_candidates: int
    """Number of questions compared in this turn."""
    calibrated: bool
    """Whether the calibration covers this history. False if the history is longer than any
    calibrated one (the threshold of the longest is used) or contains a question that the model
    proposed."""
    forwards: int = 0
    """Forward passes of this turn, including cached ones."""
    prompt_tokens: int = 0
    """Prompt tokens of these forward passes."""
    seconds: float
    """Duration of this turn."""


class ConfidenceReport(ReportModel):
    """How sure the model was of its answer. All at T = 1, after penalties and masks."""

    self_certainty_mean: float | None = None
    """Mean over the tokens of KL(U || p), U uniform over the allowed tokens, in nats; the higher
    the surer."""
    self_certainty_window_min: float | None = None
    """Lowest mean of the same over `window` consecutive tokens; of a shorter answer, its mean."""
    collision_mean: float | None = None
    """Mean of the sum of p^2: the probability that two samples of a token are equal."""
    logprob_min: float | None = None
    """Lowest log-probability of a sampled token, in nats."""
    window: int
    """As requested, or that of the probe."""
    probe: str | None = None
    """Id of the probe; None unless requested."""
    probability: float | None = None
    """Calibrated probability that the answer is right; None without a probe that predicts it, or if
    a score is missing."""
    high_entropy: float | None = None
    """Calibrated probability that answers to this prompt disagree (high semantic entropy); None
    without a probe that predicts it."""
    outside: list[ScoreName] | None = None
    """Scores beyond those of all answers that the probe was fitted to; None without a probe."""
    state_distance: float | None = None
    """Mahalanobis distance of the hidden state at the end of the prompt to the questions that the
    probe was fitted to; None without a probe that reads the state."""
    out_of_distribution: bool | None = None
    """Whether the distance is above that of nearly all such questions; None likewise."""


class AbstentionReport(ReportModel):
    """Whether the answer was given, and what is promised."""

    abstained: bool
    """Whether the answer was replaced. An answer without a score is."""
    score: ScoreName
    """Name of the score."""
    uncertainty: float | None
    """The score, negated if it rises with certainty; None if the answer has none."""
    threshold: float | None
    """Largest uncertainty that is answered; None if the calibration allows no answer."""
    promise: Promise
    """As requested."""
    alpha: float
    """As requested."""
    delta: float | None
    """As requested; None with `joint`."""
    calibration: str
    """Id of the artifact."""
    questions: int
    """Number of calibration questions."""
    answer: str | None = None
    """The replaced answer, with `withhold` false."""


class VoteGroupReport(ReportModel):
    """Equal answers."""

    answer: str
    """Their common spelling, at most 200 characters."""
    votes: int
    """How many there are."""
    weight: float
    """Sum of their weights; the number of votes if all weigh the same."""


class VoteReport(ReportModel):
    """The vote that chose the answer; all other fields of the report are of the chosen sample."""

    answer: str | None
    """The winner; None if no sample has an answer."""
    weight: VoteWeight
    """What a vote counted; `none` if a sample was not measured."""
    n: int
    """As requested."""
    finished: int
    """Samples that ended; the others were aborted."""
    agreement: float | None
    """Share of the winner among the samples that ended and have a vote; None without an answer."""
    stopped: StopRule
    """Rule that aborted the rest; `none` if nothing was aborted."""
    tokens: int
    """Tokens of all samples, as in `usage`."""
    cached_tokens: int
    """Prompt tokens that the samples found in the prefix cache, of all together: the samples after
    the first share its prompt up to a whole block."""
    table: list[VoteGroupReport]
    """The heaviest answers first, at most 20."""
    no_answer: int
    """Samples that ended without an answer."""
    threshold: float | None = None
    """Lowest window of self-certainty that a vote needs, nats; None without `percentile`, or if the
    warm-up was not measured."""
    weak: int = 0
    """Samples below it, which have no vote: their text may have ended early."""


class ClusterReport(ReportModel):
    """Samples that say the same."""

    answer: str | None
    """Their common spelling, at most 200 characters; None if the sample has no answer."""
    share: float
    """Probability of the cluster."""


class SemanticReport(ReportModel):
    """How much the samples disagree."""

    entropy: float | None
    """Entropy of the clusters in nats, 0 to ln n; None if a likelihood is missing."""
    estimator: Estimator
    """As requested."""
    cluster: Cluster
    """What grouped the samples; `answer` if the model could not be asked."""
    agreement: float
    """Share of the samples in the largest cluster: what a plain vote shows."""
    saturated: bool
    """Whether every sample is a cluster of its own: the entropy then says nothing."""
    clusters: list[ClusterReport]
    """The most probable first, at most 20."""
    n: int
    """As requested."""
    pairs: int | None = None
    """Pairs of samples that the model was asked about; None if it was not asked."""
    judge_agreement: float | None = None
    """Share of these pairs of which it says the same in both orders; None without a pair."""
    tokens: int
    """Tokens of the samples, the answer and the replies about pairs, as in `usage`."""
    cached_tokens: int
    """Prompt tokens that they found in the prefix cache, of all together."""


class MeasuredReport(ReportModel):
    """What was measured at some tokens of an answer, and what the temperature law did to them."""

    law: str | None = None
    """Type of the temperature law; None if the request's own temperature applied, `phases` if each
    phase has its own."""
    entropy_mean: float | None = None
    """Mean entropy per token, in nats."""
    entropy_max: float | None = None
    """Maximum entropy of a token, in nats."""
    temperature_mean: float | None = None
    """Mean of the applied temperatures."""
    sampled_entropy_mean: float | None = None
    """Mean entropy per token of the distribution at the applied temperature, in nats, before
    `top_k`, `top_p` and `min_p`. A target is met if it equals the target."""
    varentropy_mean: float | None = None
    """Mean per token of the variance of -ln p at T = 1, in nats^2."""
    logprob_mean: float | None = None
    """Mean log-probability of the sampled tokens at T = 1, after penalties and masks, in nats; of
    tokens that vLLM forces, none is known."""
    logprob_sum: float | None = None
    """Sum of the same: the log-probability of the answer."""
    base_temperature: float | None = None
    """Base temperature T0, set by the request, its strategy or the model's defaults."""
    temperature_change_mean: float | None = None
    """Mean of |T - T0|."""
    share_heated: float | None = None
    """Share of tokens sampled above T0."""
    share_cooled: float | None = None
    """Share of tokens sampled below T0."""
    num_tokens: int | None = None
    """Number of tokens measured."""
    num_clamped: int | None = None
    """Number of tokens whose entropy differs from the target: sampled at a temperature limit, or
    left at T0 by a one-sided target. None without a target."""
    entropy_target: float | None = None
    """Entropy target in nats; None if the law has none."""


PhaseName = Literal["thinking", "answer"]


class Report(MeasuredReport):
    """`choices[i].entropy` of a response. Stream chunks before the last contain only `tokens`."""

    profile: str | None = None
    """The profile that applied."""
    truncation: str | None = None
    """Type of the truncation; None without one."""
    tokens: list[TokenReport] | None = None
    """Each token; only with `trace` set to `tokens`."""
    phases: dict[PhaseName, MeasuredReport] | None = None
    """The same by phase, with laws by phase. The token that ends the thinking is its last; the one
    that starts it is not part of it. None without, or if records are missing."""
    difficulty: DifficultyReport | None = None
    """Difficulty of the question; None unless requested."""
    steering: list[SteeringReport] | None = None
    """Steering vectors applied; None unless requested."""
    confidence: ConfidenceReport | None = None
    """Features of confidence; None unless requested."""
    abstain: AbstentionReport | None = None
    """Whether the answer was given; None unless requested."""
    vote: VoteReport | None = None
    """The vote that chose the answer; None unless requested."""
    semantic: SemanticReport | None = None
    """How much several answers disagree; None unless requested."""
    inquiry: InquiryReport | None = None
    """State of the inquiry; None unless requested."""
    fallback: str | None = None
    """Why control or measurement is incomplete, as comma-separated codes; None if it is
    complete."""
