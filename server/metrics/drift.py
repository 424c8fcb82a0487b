"""Moves the metrics of drift: what is seen, in the bins of what an artifact was made from."""

from collections.abc import Sequence

from probes.drift import MonitoredInput
from server.metrics import definitions as m


def export_reference(monitored: MonitoredInput) -> None:
    """Export the shares of the training data, and start the counts of what is seen at 0."""
    for number, share in enumerate(monitored.reference.shares):
        labels = (monitored.artifact, monitored.input, str(number))
        m.DRIFT_REFERENCE.labels(*labels).set(share)
        m.DRIFT_OBSERVATIONS.labels(*labels)


def observe_inputs(monitored: MonitoredInput, values: Sequence[float]) -> None:
    """Count values by bin."""
    for number, count in enumerate(monitored.reference.count(values)):
        if count:
            labels = (monitored.artifact, monitored.input, str(number))
            m.DRIFT_OBSERVATIONS.labels(*labels).inc(count)
