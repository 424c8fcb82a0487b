"""Reads metrics of this process."""

from prometheus_client import REGISTRY


def value(name: str, **labels: str) -> float:
    """Value of a sample; 0 if it was never moved."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
