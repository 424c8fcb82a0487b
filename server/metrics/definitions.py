"""All metrics: name, type, labels, help. The reference page is generated from this module.

A label takes its values from the server, never from a client. Values that are known beforehand
are exported as 0 from the start, so that rates and alerts see the first event. With several API
servers, vLLM sums counters and histograms; a gauge says how its values are combined.
"""

from collections.abc import Iterable
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

from prometheus_client import Counter, Gauge, Histogram

from probes.difficulty.strategies import Difficulty
from probes.drift import DriftInput
from server.wire.report import FALLBACKS
from server.wire.request import Control

SIZES = (1, 2, 3, 5, 8, 13, 21, 34, 55)
"""Bucket limits of sizes of prediction sets."""
ENTROPIES = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8)
"""Bucket limits of entropies in nats."""
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Bucket limits of lengths in tokens."""
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
"""Bucket limits of probabilities and shares."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LOST = ("queue_full", "no_receiver", "error")
"""Why a worker's trace record was lost: too many steps waited, no API server took it, or another
error."""
CONTROLS = ("request", *Control.model_fields)
"""Values of the label `control`; `request` stands for all other parameters."""
DIFFICULTIES = (*(one.word for one in Difficulty), "unknown")

_MONITORED = "id of the statistics or of the difficulty probe"
_BIN = "number of the bin, from the lowest values up"

ANSWERS = ("completion", "inquiry", "decision")
RIGHT = ("true", "false")
PREDICTED_BY = ("router", "confidence")

Values = str | Iterable[str]
"""Values of a label: a description, or all of them."""
Combined = Literal["max", "livesum", "mostrecent"]


class MetricFacts(NamedTuple):
    """One metric as Prometheus sees it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: dict[str, str]
    """Description of the values of each label."""
    help: str


METRICS: list[MetricFacts] = []
"""Every metric, in the order of the reference page."""


def _declare(name: str, kind: Any, text: str, labels: dict[str, Values]) -> dict[str, Values]:
    known = {
        key: values if isinstance(values, str) else tuple(values) for key, values in labels.items()
    }
    shown = {
        key: value if isinstance(value, str) else ", ".join(f"`{one}`" for one in value)
        for key, value in known.items()
    }
    METRICS.append(MetricFacts(name, kind, shown, text))
    return {**known}


def _start_at_zero(metric: Any, labels: dict[str, Values]) -> None:
    if labels and not any(isinstance(values, str) for values in labels.values()):
        for combination in product(*labels.values()):
            metric.labels(*combination)


def _counter(name: str, text: str, **labels: Values) -> Counter:
    known = _declare(f"{name}_total", "counter", text, labels)
    metric = Counter(name, text, list(known))
    _start_at_zero(metric, known)
    return metric


def _gauge(name: str, text: str, combined: Combined, **labels: Values) -> Gauge:
    known = _declare(name, "gauge", text, labels)
    metric = Gauge(name, text, list(known), multiprocess_mode=combined)
    _start_at_zero(metric, known)
    return metric


def _histogram(name: str, text: str, buckets: Iterable[float], **labels: Values) -> Histogram:
    known = _declare(name, "histogram", text, labels)
    metric = Histogram(name, text, list(known), buckets=tuple(buckets))
    _start_at_zero(metric, known)
    return metric


INFO = _gauge(
    "entrostat_info",
    "Always 1; the labels are versions.",
    "max",
    version="version of Entrostat",
    vllm="version of vLLM",
)
REQUESTS = _counter(
    "entrostat_requests",
    "Requests with controls.",
    law="type of the temperature law, or `none`",
    profile="name of the profile, or `none`",
)
REFUSED = _counter(
    "entrostat_refused",
    "Requests refused with 400 after parsing: contradictions, unknown profiles or artifacts.",
    control=CONTROLS,
)
FALLBACKS_TOTAL = _counter(
    "entrostat_fallbacks",
    "Completions whose control or measurement was incomplete.",
    reason=FALLBACKS,
)
TOKENS = _counter("entrostat_tokens", "Measured tokens of answers with a report.")
HEATED = _counter("entrostat_heated_tokens", "Tokens sampled above the base temperature.")
COOLED = _counter("entrostat_cooled_tokens", "Tokens sampled below the base temperature.")
CLAMPED = _counter("entrostat_clamped_tokens", "Tokens whose entropy target was out of reach.")
ENTROPY = _histogram(
    "entrostat_entropy_nats", "Mean entropy per token of a completion, in nats.", ENTROPIES
)
TEMPERATURE = _histogram(
    "entrostat_temperature",
    "Mean applied temperature of a completion.",
    (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2),
)
STRATEGIES = _counter(
    "entrostat_strategies",
    "Answers by the difficulty class of the question.",
    difficulty=DIFFICULTIES,
    source=("probe", "effort", "fallback"),
)
DIFFICULTY_TOKENS = _histogram(
    "entrostat_difficulty_answer_tokens",
    "Measured tokens of an answer whose strategy was applied, and of one left alone to compare "
    "(`--baseline-share`).",
    LENGTHS,
    arm=("strategy", "baseline"),
)
PREDICTED_ACCURACY = _histogram(
    "entrostat_predicted_accuracy",
    "Predicted probability that an answer is right: by a router, of the strategy that it chose, or "
    "by a confidence probe.",
    PROBABILITIES,
    source=PREDICTED_BY,
)
PREDICTED_TOKENS = _histogram(
    "entrostat_predicted_tokens",
    "Length of an answer that a router expects of the strategy that it chose.",
    LENGTHS,
)
PREPASS_SECONDS = _histogram(
    "entrostat_prepass_seconds",
    "Seconds of a separate pass that classifies a question before its answer.",
    SECONDS,
)
PREPASS_TOKENS = _counter("entrostat_prepass_tokens", "Prompt tokens of these passes.")
STEERED_IN_FLIGHT = _gauge(
    "entrostat_steered_requests_in_flight",
    "Steered requests that are waiting or running.",
    "livesum",
)
STEERING_SLOTS = _gauge(
    "entrostat_steering_slots",
    "Distinct steering configs that may run at once; 0 without `--max-steering-vectors`.",
    "livesum",
)
STEERING_SLOTS_USED = _gauge(
    "entrostat_steering_slots_used",
    "Distinct steering configs that run now; counted with `--max-steering-vectors` only.",
    "livesum",
)
STEERING_WAIT = _histogram(
    "entrostat_steering_wait_seconds",
    "Seconds that a steered call waited for a slot; with `--max-steering-vectors` only.",
    SECONDS,
)
STEERING_QUEUE_FULL = _counter(
    "entrostat_steering_queue_full", "Steered requests refused with 503 because too many wait."
)
INQUIRY_TURNS = _counter("entrostat_inquiry_turns", "Turns of inquiries.", action=("ask", "answer"))
INQUIRY_SECONDS = _histogram(
    "entrostat_inquiry_turn_seconds", "Seconds of a turn of an inquiry.", SECONDS
)
INQUIRY_SET_SIZE = _histogram(
    "entrostat_inquiry_set_size", "Labels in the prediction set of a turn of an inquiry.", SIZES
)
DECISIONS = _counter(
    "entrostat_decisions",
    "Questions of `/v1/decisions` and `/v1/systemone`.",
    outcome=("answered", "abstained", "unreadable"),
)
ABSTENTIONS = _counter(
    "entrostat_abstentions",
    "Answers under the control `abstain`.",
    outcome=("answered", "abstained"),
)
VOTES = _counter(
    "entrostat_votes",
    "Votes (`vote`); without an answer if no sample has one.",
    outcome=("answered", "no_answer"),
)
VOTE_AGREEMENT = _histogram(
    "entrostat_vote_agreement",
    "Share of the winner among the samples of a vote that ended.",
    PROBABILITIES,
)
VOTE_SAMPLES = _histogram(
    "entrostat_vote_samples", "Samples of a vote that ended; the others were aborted.", SIZES
)
VOTE_ANSWERS = _histogram(
    "entrostat_vote_answers", "Different answers in the table of a vote, at most 20.", SIZES
)
SEMANTIC_ENTROPY = _histogram(
    "entrostat_semantic_entropy_nats",
    "Entropy of the clusters of samples (`semantic`), in nats.",
    ENTROPIES,
)
PROMPT_STATES = _counter(
    "entrostat_prompt_states",
    "Prompts that a confidence probe compared with its training questions.",
    out_of_distribution=RIGHT,
)
DRIFT_OBSERVATIONS = _counter(
    "entrostat_drift_observations",
    "What artifacts with a histogram of their training data were used on, by the bins of that "
    "histogram: tokens of answers under `hapo`, and prompts that a difficulty probe read.",
    artifact=_MONITORED,
    input=get_args(DriftInput),
    bin=_BIN,
)
DRIFT_REFERENCE = _gauge(
    "entrostat_drift_reference_share",
    "Share of the training data in each of these bins.",
    "mostrecent",
    artifact=_MONITORED,
    input=get_args(DriftInput),
    bin=_BIN,
)
DECISION_SET_SIZE = _histogram(
    "entrostat_decision_set_size",
    "Values in the prediction set of a calibrated answer to a question.",
    (0, *SIZES),
)
DECISION_LABEL_MASS = _histogram(
    "entrostat_decision_label_mass",
    "Probability that the reply to a question is one of the labels.",
    (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1),
)
FEEDBACK = _counter(
    "entrostat_feedback",
    "Feedback on answers.",
    kind=ANSWERS,
    right=RIGHT,
)
FEEDBACK_REFUSED = _counter(
    "entrostat_feedback_refused",
    "Feedback that was not counted: unknown answer (404), repeated (409), impossible value (400).",
    reason=("unknown", "repeated", "value"),
)
FEEDBACK_ENTROPY = _histogram(
    "entrostat_feedback_entropy_nats",
    "Mean entropy per token of completions with feedback, in nats.",
    ENTROPIES,
    right=RIGHT,
)
FEEDBACK_PREDICTED = _histogram(
    "entrostat_feedback_predicted_accuracy",
    "Predicted probability that an answer is right, of answers with feedback.",
    PROBABILITIES,
    source=PREDICTED_BY,
    right=RIGHT,
)
FEEDBACK_DIFFICULTY = _counter(
    "entrostat_feedback_difficulty",
    "Feedback on answers by the difficulty class of the question.",
    difficulty=DIFFICULTIES,
    right=RIGHT,
)
FEEDBACK_SETS = _counter(
    "entrostat_feedback_sets",
    "Calibrated prediction sets whose right value was told.",
    kind=("inquiry", "decision"),
    artifact="id of the calibration",
)
FEEDBACK_COVERED = _counter(
    "entrostat_feedback_covered",
    "Those of these sets that had the right value.",
    kind=("inquiry", "decision"),
    artifact="id of the calibration",
)
FEEDBACK_LEVELS = _counter(
    "entrostat_feedback_levels",
    "Sum of the confidence levels of these sets: how many should have had the right value.",
    kind=("inquiry", "decision"),
    artifact="id of the calibration",
)
COVERAGE_EVIDENCE = _gauge(
    "entrostat_coverage_evidence",
    "Evidence that sets cover less often than their level; an alarm from 10,000 on.",
    "mostrecent",
    kind=("inquiry", "decision"),
    artifact="id of the calibration",
)
COVERAGE_ALARM = _gauge(
    "entrostat_coverage_alarm",
    "1 if the evidence is an alarm, else 0.",
    "mostrecent",
    kind=("inquiry", "decision"),
    artifact="id of the calibration",
)
FEEDBACK_LOST = _counter(
    "entrostat_feedback_lost_answers", "Answers whose id could not be kept for feedback."
)
ARTIFACTS = _gauge(
    "entrostat_artifacts",
    "Artifacts: usable, made for another model or damaged (refused), or made with weights that "
    "were replaced (stale).",
    "max",
    state=("usable", "refused", "stale"),
)
WEIGHT_UPDATES = _gauge(
    "entrostat_weight_updates",
    "Loads of weights after the start; artifacts are refused after the first.",
    "max",
)
WORKER_FAILURES = _gauge(
    "entrostat_worker_failures",
    "What went wrong in the workers since they started: a control failed and its request was "
    "decoded without it, or a trace record was lost.",
    "max",
    cause=("control", *(f"trace_{cause}" for cause in LOST)),
)
LOG_LINES = _counter("entrostat_decision_log_lines", "Lines written to the decision log.")
LOG_LOST = _counter(
    "entrostat_decision_log_lost_lines",
    "Lines that the decision log lost: too many waited, the file could not be written, or the line "
    "could not be built.",
    reason=("queue_full", "file", "error"),
)
DROPPED_FRAMES = _counter(
    "entrostat_telemetry_dropped_frames", "Frames of the workers that could not be read."
)
