"""What predicted that an answer is right, and how surely."""

from server.wire.report import DifficultyReport, Report


def router_forecast(difficulty: DifficultyReport) -> tuple[float, float] | None:
    """Expected accuracy and tokens of the strategy that a router chose and that was applied."""
    accuracy, tokens, label = (
        difficulty.expected_accuracy,
        difficulty.expected_tokens,
        difficulty.label,
    )
    if difficulty.mode != "act" or label is None or accuracy is None or tokens is None:
        return None
    return accuracy[label], tokens[label]


def predicted_accuracy(report: Report) -> dict[str, float]:
    """Predicted probability that an answer is right, by the value of the label `source`."""
    found: dict[str, float] = {}
    if report.difficulty is not None:
        forecast = router_forecast(report.difficulty)
        if forecast is not None:
            found["router"] = forecast[0]
    if report.confidence is not None and report.confidence.probability is not None:
        found["confidence"] = report.confidence.probability
    return found
