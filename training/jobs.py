"""What every job settles before it starts: where it may write, what its artifact is called."""

import re
import tempfile
from pathlib import Path

from probes.artifact import ModelIdentity
from training.errors import TrainingError
from training.rollouts import Served

_ARTIFACT_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_addresses(servers: tuple[str, ...]) -> None:
    """Refuse what is not the address of a server.

    Raises:
        TrainingError: One has no scheme.
    """
    for server in servers:
        if not server.startswith(("http://", "https://")):
            raise TrainingError(
                f"--server `{server}`: write an address such as http://127.0.0.1:8000"
            )


def check_name(artifact_id: str) -> None:
    """Refuse an id that would not be found again below a folder of artifacts.

    Raises:
        TrainingError: It is not MODEL/NAME.
    """
    if not _ARTIFACT_ID.fullmatch(artifact_id):
        raise TrainingError(
            f"--name `{artifact_id}`: write MODEL/NAME in letters, digits and `._-`, "
            "such as smollm2-135m/entropy"
        )


def make_writable(folder: Path) -> None:
    """Make a folder and try to write to it.

    Raises:
        TrainingError: That is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written: {error.strerror}") from error


def identify(checkpoint: Path) -> ModelIdentity:
    """Fingerprint the model that an artifact will belong to.

    Raises:
        TrainingError: The folder holds no model.
    """
    if not (checkpoint / "config.json").is_file():
        raise TrainingError(f"{checkpoint} is no checkpoint: there is no config.json in it")
    return ModelIdentity.of(checkpoint)


def identify_served(served: Served, checkpoint: Path | None) -> ModelIdentity:
    """Fingerprint what a server serves.

    Args:
        served: What it says about itself.
        checkpoint: A copy of its files, where its own folder is not on this machine.

    Raises:
        TrainingError: The files are not at hand.
    """
    folder = checkpoint or Path(served.root)
    if not folder.is_dir():
        raise TrainingError(
            f"the server has its model from `{served.root}`, which is no folder on this machine: "
            "name a copy of the same files with --checkpoint"
        )
    return identify(folder)
