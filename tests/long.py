"""Whether the long tests run: `make test-long`."""

import os


def is_long() -> bool:
    """Whether LONG_TESTS is 1."""
    return os.environ.get("LONG_TESTS") == "1"
