"""Settings from the environment: the only reader of `ENTROSTAT_*`.

Command-line flags write these variables before any other process starts, so that API servers,
engine cores and workers all see the same values.
"""

import secrets
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_cache() -> Path:
    return Path.home() / ".cache" / "entrostat"


def _new_secret() -> SecretStr:
    return SecretStr(secrets.token_hex(32))


class Settings(BaseSettings):
    """Settings of the server, read from environment variables."""

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
    steering_queue: int = Field(1024, ge=0)
    """Steered requests that may wait in one API server; further ones are answered with 503."""
    cache_secret: SecretStr = Field(default_factory=_new_secret, min_length=16)
    """Goes into the prefix-cache salts of steered requests, so that no client can compute one.
    `entrostat serve` draws one for all API servers of a deployment."""


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
