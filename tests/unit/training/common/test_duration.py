import pytest

from training.common.duration import format_duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (3599, "59 min 59 s"),
        (3599.6, "1 h"),
        (12_000, "3 h 20 min"),
        (86_400, "1 day"),
        (311_940, "3 days 15 h"),
    ],
)
def test_durations_are_formatted_in_two_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
