"""What goes wrong in training, told to the person who started it."""


class TrainingError(RuntimeError):
    """A job cannot start or go on; the message is one sentence and says what to do about it."""
