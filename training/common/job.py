"""What every job settles before it starts: where it may write, what its artifact is called."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from probes.artifact import ModelIdentity
from training.common.errors import TrainingError
from training.common.local_server import local_server, serve_command
from training.common.server_pool import ServedModel

_ARTIFACT_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every job is told; `training.cli.probe` explains and defaults every field."""

    model: str | None
    servers: tuple[str, ...]
    """Addresses of running servers; empty starts one for `model`."""
    serve_flags: tuple[str, ...]
    checkpoint: Path | None
    seed: int
    concurrency: int
    out: Path
    name: str | None
    runs: Path
    fresh: bool
    command: str
    """How the job was called, for the report."""


def check_job(job: Job) -> None:
    """Refuse what can be refused before anything is started.

    Raises:
        TrainingError: A name, an address or a folder is wrong, or two options contradict.
    """
    if job.name is not None:
        check_name(job.name)
    check_addresses(job.servers)
    if job.servers and (job.model is not None or job.serve_flags):
        raise TrainingError(
            "--server uses what runs already: leave out MODEL and the flags after `--`"
        )
    if job.checkpoint is not None:
        identify(job.checkpoint)
    elif job.model is not None and not Path(job.model).is_dir():
        raise TrainingError(
            f"{job.model} is no folder on this machine: say where its files lie with --checkpoint"
        )


@contextmanager
def servers_of(job: Job, console: Console) -> Iterator[tuple[str, ...]]:
    """Addresses of the job's servers, one of our own among them while the block runs.

    Raises:
        TrainingError: A folder cannot be written, or the server did not start.
    """
    for folder in (job.out, job.runs):
        make_writable(folder)
    if job.servers:
        yield job.servers
        return
    command = serve_command(job.model, job.serve_flags)
    with local_server(command, job.runs / "server.log", console) as url:
        yield (url,)


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


def load_tokenizer(checkpoint: Path, **options: Any) -> Any:
    """The tokenizer of a model that is talked to.

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


def identify(checkpoint: Path) -> ModelIdentity:
    """Fingerprint the model that an artifact will belong to.

    Raises:
        TrainingError: The folder holds no model.
    """
    if not (checkpoint / "config.json").is_file():
        raise TrainingError(f"{checkpoint} is no checkpoint: there is no config.json in it")
    try:
        return ModelIdentity.of(checkpoint)
    except ValueError as error:
        raise TrainingError(f"{checkpoint}: cannot be read: {error}") from error


def identify_served(served: ServedModel, checkpoint: Path | None) -> ModelIdentity:
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
