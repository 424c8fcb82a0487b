"""The settings that every job has. Imports neither torch nor numpy, so that `--help` is fast."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from probes.strict import StrictModel


def _split(value: object) -> object:
    """`a, b` as its parts; other values as they are."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list in TOML, or a text with commas."""


class JobConfig(StrictModel):
    """The settings that every job has. A field's docstring is the help of its option."""

    quick: ClassVar[Mapping[str, Any]] = {}
    """Values of `--quick`: a small run that shows whether everything works."""
    arguments: ClassVar[tuple[str, ...]] = ("model",)
    """Fields that are given without a dash."""
    hidden: ClassVar[tuple[str, ...]] = ("serve_flags", "command")
    """Fields that are not options."""
    aliases: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Further names of options, by field."""
    minutes: ClassVar[str] = ""
    """How long the defaults and the quick size take for the default model on two cores."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Seed of everything random: the same seed makes the same requests."""
    out: Path = Path("artifacts")
    """Folder of artifacts."""
    name: str | None = None
    """Id of the artifact, MODEL/NAME."""
    runs: Path = Path("runs")
    """Folder of runs; re-running the same command resumes the run."""
    command: str = ""
    """The command line, for the report."""
    fresh: bool = False
    """Discard the contents of the run folder and start over."""


class ServedJobConfig(JobConfig):
    """The settings of jobs that read a model through a server."""

    model: str | None = None
    """Checkpoint folder to serve; without it the embedded default."""
    server: CommaSeparated = ()
    """Addresses of running servers, separated by commas, to use instead of starting one."""
    serve_flags: tuple[str, ...] = ()
    """Flags of `entrostat serve`, given after `--`."""
    checkpoint: Path | None = None
    """Folder of the model's files, where the server's own folder is not on this machine."""
    concurrency: int = Field(16, ge=1)
    """Requests in flight at once."""
