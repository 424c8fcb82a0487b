"""Prometheus metrics, served by vLLM's `/metrics`. No label takes a value from a client."""

from prometheus_client import Counter, Gauge, Histogram

from server.wire.report import Report
from server.worker.message import WorkerStatus

_REQUESTS = Counter(
    "entrostat_requests",
    "Requests under control, by temperature law and profile.",
    ["law", "profile"],
)
_FALLBACKS = Counter(
    "entrostat_fallbacks", "Completions whose control or trace was incomplete.", ["reason"]
)
_ENTROPY = Histogram(
    "entrostat_entropy_nats",
    "Mean entropy per token of a completion.",
    buckets=(0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8),
)
_TEMPERATURE = Histogram(
    "entrostat_temperature",
    "Mean applied temperature of a completion.",
    buckets=(0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2),
)
_CLAMPED = Counter("entrostat_clamped_tokens", "Tokens whose entropy target was out of reach.")
_REFUSED = Counter("entrostat_refused", "Requests refused for their `entropy` field.")
_DROPPED = Counter(
    "entrostat_telemetry_dropped_frames", "Frames of the workers that could not be read."
)
_QUEUE_FULL = Counter(
    "entrostat_steering_queue_full", "Steered requests refused with 503 because too many wait."
)
_TURNS = Counter("entrostat_inquiry_turns", "Turns of inquiries, by action.", ["action"])
_DECISIONS = Counter(
    "entrostat_decisions", "Answered questions of /v1/decisions, by outcome.", ["outcome"]
)
_VERDICTS = Counter(
    "entrostat_abstentions", "Answers under the control `abstain`, by outcome.", ["outcome"]
)
_FAILURES = Gauge(
    "entrostat_worker_failures",
    "What went wrong in the workers since they started, by cause.",
    ["cause"],
    multiprocess_mode="max",
)
_WEIGHT_UPDATES = Gauge(
    "entrostat_weight_updates",
    "Times that weights were loaded after the start; artifacts are refused after the first.",
    multiprocess_mode="max",
)


def count_request(law: str | None, profile: str | None) -> None:
    """Count one controlled request, by the type of its temperature law and its profile."""
    _REQUESTS.labels(law or "none", profile or "none").inc()


def observe_completion(report: Report) -> None:
    """Record one traced completion."""
    for reason in (report.fallback or "").split(","):
        if reason:
            _FALLBACKS.labels(reason).inc()
    if report.entropy_mean is not None:
        _ENTROPY.observe(report.entropy_mean)
    if report.temperature_mean is not None:
        _TEMPERATURE.observe(report.temperature_mean)
    _CLAMPED.inc(report.num_clamped or 0)


def count_inquiry_turn(action: str) -> None:
    """Count one turn of an inquiry."""
    _TURNS.labels(action).inc()


def count_decision(outcome: str) -> None:
    """Count one question of a decision."""
    _DECISIONS.labels(outcome).inc()


def count_verdict(abstained: bool) -> None:
    """Count one answer under the control `abstain`."""
    _VERDICTS.labels("abstained" if abstained else "answered").inc()


def count_refusal() -> None:
    """Count one request refused with 400."""
    _REFUSED.inc()


def count_dropped_frame() -> None:
    """Count one telemetry frame that could not be read."""
    _DROPPED.inc()


def count_queue_full() -> None:
    """Count one request refused with 503."""
    _QUEUE_FULL.inc()


def observe_workers(status: WorkerStatus) -> None:
    """Record the status of the workers."""
    _FAILURES.labels("control").set(status["failures"])
    _FAILURES.labels("trace").set(status["lost"])
    _WEIGHT_UPDATES.set(status["weight_updates"])
