import pytest

from training.common.progress import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (59.4, "59 seconds"),
        (59.6, "1 minute"),
        (90, "1 minute"),
        (3600, "1 hour"),
        (3600 + 20 * 60, "1 hour and 20 minutes"),
        (86_400, "1 day"),
        (86_400 + 59 * 60, "1 day"),
        (5199 * 60, "3 days and 14 hours"),
    ],
)
def test_a_duration_is_told_in_days_hours_and_minutes(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
