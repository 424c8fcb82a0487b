"""Durations: their format, and when one is long."""

LONG = 4 * 3600.0
"""Seconds above which a warning is printed for a run."""


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units, such as "3 h 20 min".

    Args:
        seconds: At least 0.
    """
    seconds = round(seconds)
    for name, size, smaller, part in (
        ("days", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= size:
            whole, rest = divmod(round(seconds / part), size // part)
            unit = "day" if name == "days" and whole == 1 else name
            return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
    return f"{seconds} s"
