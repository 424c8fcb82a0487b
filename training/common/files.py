"""Text files of the user's."""

from pathlib import Path

from training.common.errors import TrainingError


def read_text(path: Path) -> str:
    """What is in a file.

    Raises:
        TrainingError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
