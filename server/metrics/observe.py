"""Moves the metrics, from what the API server knows when an answer is complete."""

from server.metrics import definitions as m
from server.metrics.predicted import predicted_accuracy, router_forecast
from server.wire.report import DifficultyReport, InquiryReport, Report, VoteReport
from server.worker.message import WorkerStatus


def count_request(law: str | None, profile: str | None) -> None:
    """Count one controlled request, by the type of its temperature law and its profile."""
    m.REQUESTS.labels(law or "none", profile or "none").inc()


def observe_completion(report: Report) -> None:
    """Record one completion from its report."""
    for reason in (report.fallback or "").split(","):
        if reason:
            m.FALLBACKS_TOTAL.labels(reason).inc()
    if report.entropy_mean is not None:
        m.ENTROPY.observe(report.entropy_mean)
    if report.temperature_mean is not None:
        m.TEMPERATURE.observe(report.temperature_mean)
    tokens = report.num_tokens or 0
    m.TOKENS.inc(tokens)
    m.HEATED.inc(round(tokens * (report.share_heated or 0.0)))
    m.COOLED.inc(round(tokens * (report.share_cooled or 0.0)))
    m.CLAMPED.inc(report.num_clamped or 0)
    if report.difficulty is not None:
        count_strategy(report.difficulty)
        _observe_length(report.difficulty, report.num_tokens)
    for source, probability in predicted_accuracy(report).items():
        m.PREDICTED_ACCURACY.labels(source).observe(probability)
    if report.vote is not None:
        _observe_vote(report.vote)
    if report.semantic is not None and report.semantic.entropy is not None:
        m.SEMANTIC_ENTROPY.observe(report.semantic.entropy)


def count_strategy(difficulty: DifficultyReport) -> None:
    """Count one answer by the class of its question."""
    m.STRATEGIES.labels(difficulty.label or "unknown", difficulty.source).inc()


def _observe_length(difficulty: DifficultyReport, tokens: int | None) -> None:
    """Record the length of an answer whose strategy was applied, or that was left alone."""
    if tokens is not None and (difficulty.baseline or difficulty.mode == "act"):
        arm = "baseline" if difficulty.baseline else "strategy"
        m.DIFFICULTY_TOKENS.labels(arm).observe(tokens)
    if (forecast := router_forecast(difficulty)) is not None:
        m.PREDICTED_TOKENS.observe(forecast[1])


def _observe_vote(vote: VoteReport) -> None:
    """Record the table of a vote."""
    m.VOTES.labels("no_answer" if vote.answer is None else "answered").inc()
    m.VOTE_SAMPLES.observe(vote.finished)
    m.VOTE_ANSWERS.observe(len(vote.table))
    if vote.agreement is not None:
        m.VOTE_AGREEMENT.observe(vote.agreement)


def observe_prepass(seconds: float, tokens: int) -> None:
    """Record one pass that classified a question before its answer."""
    m.PREPASS_SECONDS.observe(seconds)
    m.PREPASS_TOKENS.inc(tokens)


def observe_inquiry(turn: InquiryReport) -> None:
    """Record one turn of an inquiry."""
    m.INQUIRY_TURNS.labels(turn.action).inc()
    m.INQUIRY_SECONDS.observe(turn.seconds)
    m.INQUIRY_SET_SIZE.observe(len(turn.prediction_set))


def observe_decision(outcome: str, set_size: int | None, label_mass: float | None) -> None:
    """Record one question of a decision.

    Args:
        outcome: A value of the label `outcome`.
        set_size: Number of values in the prediction set; None without a calibration.
        label_mass: Probability that the reply is a label; None if no labels were read.
    """
    m.DECISIONS.labels(outcome).inc()
    if set_size is not None:
        m.DECISION_SET_SIZE.observe(set_size)
    if label_mass is not None:
        m.DECISION_LABEL_MASS.observe(label_mass)


def count_verdict(abstained: bool) -> None:
    """Count one answer under the control `abstain`."""
    m.ABSTENTIONS.labels("abstained" if abstained else "answered").inc()


def count_prompt_state(out_of_distribution: bool) -> None:
    """Count one prompt that a confidence probe compared with its training questions."""
    m.PROMPT_STATES.labels("true" if out_of_distribution else "false").inc()


def count_refusal(param: str) -> None:
    """Count one request refused with 400.

    Args:
        param: The field that the error names, such as `entropy.steering.0.vector`.
    """
    root, _, rest = param.partition(".")
    control = rest.partition(".")[0]
    known = root == "entropy" and control in m.CONTROLS
    m.REFUSED.labels(control if known else "request").inc()


def count_dropped_frame() -> None:
    """Count one telemetry frame that could not be read."""
    m.DROPPED_FRAMES.inc()


def count_queue_full() -> None:
    """Count one request refused with 503."""
    m.STEERING_QUEUE_FULL.inc()


def count_steered(change: int) -> None:
    """Count a steered request that begins (1) or ends (-1)."""
    m.STEERED_IN_FLIGHT.inc(change)


def set_steering_slots(count: int) -> None:
    """Record how many distinct steering configs may run at once."""
    m.STEERING_SLOTS.set(count)


def set_steering_slots_used(count: int) -> None:
    """Record how many distinct steering configs run now."""
    m.STEERING_SLOTS_USED.set(count)


def observe_steering_wait(seconds: float) -> None:
    """Record how long a steered call waited for a slot."""
    m.STEERING_WAIT.observe(seconds)


def observe_workers(status: WorkerStatus) -> None:
    """Record the status of the workers."""
    m.WORKER_FAILURES.labels("control").set(status["failures"])
    for cause in m.LOST:
        m.WORKER_FAILURES.labels(f"trace_{cause}").set(status["lost"].get(cause, 0))
    m.WEIGHT_UPDATES.set(status["weight_updates"])


def observe_artifacts(usable: int, refused: int, stale: int) -> None:
    """Record how many artifacts there are in each state."""
    for state, count in (("usable", usable), ("refused", refused), ("stale", stale)):
        m.ARTIFACTS.labels(state).set(count)


def set_versions(version: str, vllm: str) -> None:
    """Record the versions of this server."""
    m.INFO.labels(version, vllm).set(1)


def count_refused_feedback(reason: str) -> None:
    """Count feedback that was not counted, by a value of the label `reason`."""
    m.FEEDBACK_REFUSED.labels(reason).inc()


def count_lost_answers(count: int) -> None:
    """Count answers whose ids could not be kept for feedback."""
    m.FEEDBACK_LOST.inc(count)


def count_written_line() -> None:
    """Count a line of the decision log."""
    m.LOG_LINES.inc()


def count_lost_line(reason: str) -> None:
    """Count a line that the decision log lost, by a value of the label `reason`."""
    m.LOG_LOST.labels(reason).inc()
