"""Settings from the environment: the only reader of `ENTROSTAT_*`.

Command-line flags write these variables before any other process starts, so that API servers,
engine cores and workers all see the same values.
"""

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_cache() -> Path:
    return Path.home() / ".cache" / "entrostat"


class Settings(BaseSettings):
    """Everything the server reads from its environment."""

    model_config = SettingsConfigDict(env_prefix="ENTROSTAT_", extra="ignore", frozen=True)

    cache: Path = Field(default_factory=_default_cache)
    """Folder for converted models."""
    profiles: Path | None = None
    """TOML file of named controls; the shipped ones stay available beside it."""
    artifacts: Path | None = None
    """Folder of artifacts, searched before the shipped ones."""
    trace_timeout: float = Field(2.0, gt=0.0)
    """Seconds an answer waits for its trace before it goes out without one."""
    ready_timeout: float = Field(60.0, gt=0.0)
    """Seconds the engine has to answer a readiness question. A long step is slow, not dead."""
    supervisor: Path | None = None
    """Socket of the process that watches the start; set by `entrostat serve` itself."""


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
