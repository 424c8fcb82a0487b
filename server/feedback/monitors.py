"""Moves the metrics of feedback."""

from server.feedback.evidence import ALARM
from server.feedback.store import Judgment
from server.metrics import definitions as m


def observe_feedback(judgment: Judgment) -> None:
    """Record feedback on an answer."""
    facts, right = judgment.facts, str(judgment.right).lower()
    m.FEEDBACK.labels(facts.kind, right).inc()
    if facts.entropy is not None:
        m.FEEDBACK_ENTROPY.labels(right).observe(facts.entropy)
    for source, probability in (facts.predicted or {}).items():
        m.FEEDBACK_PREDICTED.labels(source, right).observe(probability)
    if facts.difficulty is not None:
        m.FEEDBACK_DIFFICULTY.labels(facts.difficulty, right).inc()
    prediction = facts.prediction
    if judgment.covered is None or judgment.evidence is None or prediction is None:
        return
    labels = (facts.kind, prediction.artifact)
    m.FEEDBACK_SETS.labels(*labels).inc()
    m.FEEDBACK_COVERED.labels(*labels).inc(judgment.covered)
    m.FEEDBACK_LEVELS.labels(*labels).inc(prediction.level or 0.0)
    m.COVERAGE_EVIDENCE.labels(*labels).set(judgment.evidence)
    m.COVERAGE_ALARM.labels(*labels).set(judgment.evidence >= ALARM)
