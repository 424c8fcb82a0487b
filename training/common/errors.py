"""Errors of training jobs that are shown to the user."""


class TrainingError(RuntimeError):
    """A job cannot start or continue; the message is one sentence with the remedy."""
