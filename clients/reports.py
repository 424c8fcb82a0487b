"""Types of the report that a server returns with an answer."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, model_validator


class _Reading(BaseModel):
    """Keeps unknown fields in `model_extra` and treats null as absent."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        return value


class Token(_Reading):
    """One generated token."""

    entropy: float | None = None
    """Nats, at temperature 1; None where it was not a number."""
    temperature: float | None = None
    """Temperature at which the token was sampled."""
    varentropy: float | None = None
    """Variance of -ln p at temperature 1, nats^2; None where it was not a number."""


class AppliedStrategy(_Reading):
    """How the class of the question changed the request."""

    temperature: float | None = None
    """None where the request's own temperature or its law applied."""
    max_tokens: int = 0
    prompt: bool = False
    """Whether text was added after the question."""
    thinking_tokens: int | None = None
    """Limit of the thinking; None if the strategy set none."""


class DifficultyDecision(_Reading):
    """The difficulty of the question, and the strategy that followed."""

    label: str | None = None
    """easy, normal or hard; None if the probe did not answer in time."""
    probabilities: dict[str, float] | None = None
    labels: str | None = None
    """What chose: worth or diffadapt; None if no probe did."""
    price: float | None = None
    expected_accuracy: dict[str, float] | None = None
    """With worth: by strategy."""
    expected_tokens: dict[str, float] | None = None
    mode: str | None = None
    baseline: bool | None = None
    """Whether the server left this answer alone to measure what the strategies save."""
    source: str | None = None
    """probe, effort or fallback."""
    strategy: AppliedStrategy | None = None
    prepass_tokens: int | None = None
    """Prompt tokens that the probe read before the answer; None where it read the answer's own
    prompt."""


class Steering(_Reading):
    """One vector that steered the answer."""

    vector: str
    hash: str | None = None
    """The sha256 of its contents."""
    layers: tuple[int, ...] = ()
    positions: str | None = None
    strength: float | None = None
    strength_relative: float | None = None
    clamp: tuple[float, float] | None = None


class AnsweredQuestion(_Reading):
    """One question of an inquiry and how its reply was interpreted."""

    query: str = ""
    answer: str = "unknown"


class InquiryStatus(_Reading):
    """State of an inquiry after a turn."""

    task: str | None = None
    """Id of its calibration artifact."""
    introduction: str | None = None
    """The task's instructions for the user; in the first turn only."""
    action: str = "ask"
    """ask or answer."""
    turn: int = 0
    query: str | None = None
    label: str | None = None
    """The final answer."""
    reason: str | None = None
    """Why there is no further question: singleton, budget, exhausted or no_gain."""
    prediction_set: tuple[str, ...] = ()
    """Labels that may be true at this confidence level, the most probable first."""
    probabilities: dict[str, float] = {}
    heard: tuple[AnsweredQuestion, ...] = ()
    expected_size: float | None = None
    """Of the prediction set after the next answer, in labels."""
    runner_up: str | None = None
    """The second-best question."""
    runner_up_size: float | None = None
    """Expected size of the prediction set after it."""
    confidence_level: float | None = None
    predictor: str | None = None
    """table, likelihood or direct."""
    policy: str | None = None
    queries: str | None = None
    num_candidates: int = 0
    """Questions that were compared in this turn."""
    calibrated: bool = True
    """Whether histories like this one were calibrated."""
    forwards: int = 0
    """Forward passes of the model in this turn."""
    prompt_tokens: int = 0
    """Tokens of their prompts."""
    seconds: float | None = None


class Confidence(_Reading):
    """How sure the model was of its answer, at temperature 1."""

    self_certainty_mean: float | None = None
    """Nats per token; the higher the surer."""
    self_certainty_window_min: float | None = None
    """Lowest mean over `window` consecutive tokens."""
    collision_mean: float | None = None
    """Mean probability that two samples of a token are equal."""
    logprob_min: float | None = None
    """Lowest log-probability of a token, nats."""
    window: int | None = None
    probe: str | None = None
    """Id of the probe that made the probability."""
    probability: float | None = None
    """Calibrated probability that the answer is right; None without a probe that predicts it."""
    high_entropy: float | None = None
    """Probability that answers to this prompt disagree; None without a probe that predicts it."""
    outside: tuple[str, ...] | None = None
    """Scores beyond those of all answers that the probe was fitted to."""
    state_distance: float | None = None
    """Mahalanobis distance of the prompt to the questions that the probe was fitted to."""
    out_of_distribution: bool | None = None
    """Whether the prompt is unlike these questions; None without a probe that reads the state."""


class AbstentionVerdict(_Reading):
    """Whether the answer was given, and what is promised."""

    abstained: bool = False
    score: str = ""
    """Name of the score that decided."""
    uncertainty: float | None = None
    """The score, negated if it rises with certainty."""
    threshold: float | None = None
    """Largest uncertainty that is answered."""
    promise: str = ""
    """`joint` or `selective`."""
    alpha: float | None = None
    delta: float | None = None
    calibration: str = ""
    """Id of the artifact."""
    questions: int | None = None
    """Number of calibration questions."""
    answer: str | None = None
    """The answer that was replaced, if the request wanted to see it."""


class VoteRow(_Reading):
    """Equal answers of a vote."""

    answer: str = ""
    votes: int = 0
    weight: float = 0.0
    """Sum of the weights of the votes."""


class Vote(_Reading):
    """The vote that chose the answer."""

    answer: str | None = None
    """None if no sample has an answer."""
    weight: str = "none"
    """What a vote counted."""
    n: int | None = None
    finished: int | None = None
    """Samples that ended; the others were aborted."""
    agreement: float | None = None
    """Share of the winner among the samples that ended and have a vote."""
    stopped: str = "none"
    """Rule that aborted the rest."""
    tokens: int | None = None
    """Of all samples."""
    cached_tokens: int | None = None
    """Prompt tokens that the samples found in the prefix cache."""
    table: tuple[VoteRow, ...] = ()
    """The heaviest answers first."""
    no_answer: int | None = None
    """Samples without an answer."""
    threshold: float | None = None
    """Lowest window of self-certainty that a vote needs, nats."""
    weak: int = 0
    """Samples below it, which have no vote."""


class Cluster(_Reading):
    """Samples that say the same."""

    answer: str | None = None
    share: float = 0.0


class SemanticEntropy(_Reading):
    """How much several answers disagree."""

    entropy: float | None = None
    """Nats."""
    estimator: str = "discrete"
    cluster: str = "answer"
    """What grouped the samples."""
    pairs: int | None = None
    """Pairs that the model was asked about."""
    judge_agreement: float | None = None
    """Share of these pairs of which it says the same in both orders."""
    agreement: float | None = None
    """Share of the samples in the largest cluster."""
    saturated: bool = False
    """Whether all samples differ: the entropy then says nothing."""
    clusters: tuple[Cluster, ...] = ()
    """The most probable first."""
    n: int | None = None
    tokens: int | None = None
    """Of the samples, the answer and the replies about pairs."""
    cached_tokens: int | None = None
    """Prompt tokens that they found in the prefix cache."""


class Measurements(_Reading):
    """What was measured at some tokens, and what the temperature law did to them."""

    law: str | None = None
    """Type of the temperature law; "phases" if each phase has its own."""
    entropy_mean: float | None = None
    """Nats, like every entropy here."""
    entropy_max: float | None = None
    temperature_mean: float | None = None
    sampled_entropy_mean: float | None = None
    """At the applied temperature, before top_k, top_p and min_p: what a target aims at."""
    varentropy_mean: float | None = None
    """Mean of the variance of -ln p at temperature 1, nats^2."""
    logprob_mean: float | None = None
    """Mean log-probability of the sampled tokens at temperature 1: a flag for wrong answers."""
    logprob_sum: float | None = None
    """Log-probability of the answer."""
    base_temperature: float | None = None
    """T0: set by the request, its strategy or the model's defaults."""
    temperature_change_mean: float | None = None
    """Mean of |T - T0|."""
    share_heated: float | None = None
    """Share of tokens sampled above T0."""
    share_cooled: float | None = None
    """Share of tokens sampled below T0."""
    num_tokens: int = 0
    num_clamped: int | None = None
    """Tokens that missed the target: at a temperature limit, or left at T0 by a one-sided target.
    None without a target."""
    entropy_target: float | None = None
    """The target of the law, nats."""


class EntropyReport(Measurements):
    """What the server measured and changed while it generated one choice."""

    profile: str | None = None
    truncation: str | None = None
    """Type of the truncation; None without one."""
    tokens: tuple[Token, ...] | None = None
    """Every token in order; None unless the request asked for the trace "tokens"."""
    phases: dict[str, Measurements] | None = None
    """By phase, "thinking" and "answer"; None unless the request has laws by phase."""
    difficulty: DifficultyDecision | None = None
    """None unless the request asked for it."""
    steering: tuple[Steering, ...] | None = None
    """None unless the answer was steered."""
    confidence: Confidence | None = None
    """None unless the request asked for it."""
    abstain: AbstentionVerdict | None = None
    """None unless the request asked for it."""
    vote: Vote | None = None
    """None unless the request asked for it."""
    semantic: SemanticEntropy | None = None
    """None unless the request asked for it."""
    inquiry: InquiryStatus | None = None
    """None unless the request asked for it."""
    fallback: str | None = None
    """Why a control was skipped or a measurement is incomplete, as codes separated by commas; None
    if nothing is missing."""


def report(choice: BaseModel) -> EntropyReport | None:
    """Read the report of a choice, or of a response of the Responses API.

    Args:
        choice: `answer.choices[i]`, or the return value of `responses.create`.

    Returns:
        None if the server sent no report.
    """
    raw = (choice.model_extra or {}).get("entropy")
    return None if raw is None else EntropyReport.model_validate(raw)
