"""Compare texts of a task with user input, ignoring case, spaces and punctuation."""

import unicodedata


def normalize_question(text: str) -> str:
    """Normalize case, spaces and punctuation; equal results are the same question."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded)
    return " ".join(words.split())
