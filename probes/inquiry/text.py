"""Comparing texts of a task with what people type: case, spaces and punctuation do not count."""

import unicodedata


def wording(text: str) -> str:
    """A text without case, spaces and punctuation: what makes two questions the same."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded)
    return " ".join(words.split())
