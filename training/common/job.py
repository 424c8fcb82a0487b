"""What every job does before it starts: checks, servers, the model's fingerprint."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console

from clients.local_server import local_server, serve_command
from probes.artifact import ModelIdentity
from training.common.config import JobConfig, ServedJobConfig
from training.common.errors import TrainingError
from training.common.server_pool import ServedModel

_MAX_ID = 200
"""Characters of an artifact's id that a request can name."""
_ARTIFACT_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_job(config: JobConfig) -> None:
    """Refuse what can be refused before anything is started; `--dry-run` calls it as well.

    Raises:
        TrainingError: A name, an address or a folder is wrong, or two options contradict.
    """
    if config.name is not None:
        check_name(config.name)
    for folder in (config.out, config.runs):
        check_writable(folder)


def check_served_job(config: ServedJobConfig) -> None:
    """As `check_job`, and what concerns the server.

    Raises:
        TrainingError: Likewise.
    """
    check_job(config)
    check_addresses(config.server)
    if config.server and (config.model is not None or config.serve_flags):
        raise TrainingError(
            "--server uses running servers: leave out MODEL and the flags after `--`"
        )
    if config.checkpoint is not None:
        model_identity(config.checkpoint)
    elif config.model is not None and not Path(config.model).is_dir():
        raise TrainingError(
            f"{config.model} is not a folder on this machine: name a copy of its files with "
            "--checkpoint"
        )


@contextmanager
def job_servers(config: ServedJobConfig, console: Console) -> Iterator[tuple[str, ...]]:
    """Addresses of the job's servers; starts one while the block runs if none is named.

    Raises:
        TrainingError: A folder cannot be written.
        LocalServerError: The server did not start.
    """
    for folder in (config.out, config.runs):
        make_writable(folder)
    if config.server:
        yield config.server
        return
    command = serve_command(config.model, config.serve_flags)
    with local_server(command, config.runs / "server.log", console) as url:
        yield (url,)


def check_addresses(servers: tuple[str, ...]) -> None:
    """Refuse a malformed server address.

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
    if not _ARTIFACT_ID.fullmatch(artifact_id) or len(artifact_id) > _MAX_ID:
        raise TrainingError(
            f"--name `{artifact_id[:_MAX_ID]}`: write MODEL/NAME in letters, digits and `._-`, "
            f"such as smollm2-135m/entropy, {_MAX_ID} characters at most"
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder that could not be made or written to; makes nothing.

    Raises:
        TrainingError: It, or the nearest folder above it that exists, cannot be written.
    """
    existing = folder.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:  # a name is too long
        raise TrainingError(f"{folder}: cannot be written: {error.strerror}") from error
    if not existing.is_dir():
        raise TrainingError(f"{folder}: cannot be written: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TrainingError(f"{folder}: cannot be written: permission denied for {existing}")


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


def load_tokenizer(checkpoint: Path, **options: Any) -> Any:
    """The tokenizer of a chat model.

    Args:
        checkpoint: The model's folder.
        **options: As for `AutoTokenizer.from_pretrained`.

    Raises:
        TrainingError: There is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, **options)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{checkpoint}: its tokenizer cannot be loaded: {reason}") from error
    if tokenizer.chat_template is None:
        raise TrainingError(
            f"{checkpoint}: its tokenizer has no chat template, which every question is asked in"
        )
    return tokenizer


def model_identity(checkpoint: Path) -> ModelIdentity:
    """Fingerprint of the model that an artifact belongs to.

    Raises:
        TrainingError: The folder contains no model.
    """
    if not (checkpoint / "config.json").is_file():
        raise TrainingError(f"{checkpoint} is not a checkpoint: it has no config.json")
    states = [(file.name, file.stat()) for file in sorted(checkpoint.iterdir())]
    try:
        return _fingerprint(
            checkpoint, tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
        )
    except ValueError as error:
        raise TrainingError(f"{checkpoint}: cannot be read: {error}") from error


@lru_cache(maxsize=8)
def _fingerprint(checkpoint: Path, files: tuple[tuple[str, int, int], ...]) -> ModelIdentity:
    """Computed once a run; `files` are part of the key, so that a changed file is read again."""
    return ModelIdentity.from_checkpoint(checkpoint)


def served_folder(served: ServedModel, checkpoint: Path | None) -> Path:
    """Folder with the files of the served model.

    Args:
        served: What the server reports about itself.
        checkpoint: A copy of its files, where its own folder is not on this machine.

    Raises:
        TrainingError: There is no such folder on this machine.
    """
    folder = checkpoint or Path(served.root)
    if not folder.is_dir():
        raise TrainingError(
            f"the server has its model from `{served.root}`, which is not a folder on this "
            "machine: name a copy of the same files with --checkpoint"
        )
    return folder


def identify_served(served: ServedModel, checkpoint: Path | None) -> ModelIdentity:
    """Fingerprint of the served model.

    Raises:
        TrainingError: The files are not on this machine.
    """
    return model_identity(served_folder(served, checkpoint))


def default_checkpoint() -> Path:
    """The embedded model; the server's command makes it, since training imports no server.

    Raises:
        TrainingError: It cannot be had.
    """
    command = [str(Path(sys.executable).with_name("entrostat")), "model"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise TrainingError(
            "the embedded model cannot be had: name the folder of another one"
        ) from error
    return Path(done.stdout.strip())
