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
    """TOML file of named controls, added to the built-in ones."""
    artifacts: Path | None = None
    """Folder of artifacts, searched before the built-in ones."""
    trace_timeout: float = Field(2.0, gt=0.0)
    """Seconds to wait for the trace of an answer before responding without it."""
    ready_timeout: float = Field(60.0, gt=0.0)
    """Seconds the engine has to respond to a readiness check; longer than the longest step."""
    playground: bool = True
    """Whether `/` is the playground; `--no-playground` unsets it."""
    supervisor: Path | None = None
    """Socket of the supervisor process; set by `entrostat serve`."""
    steering_queue: int = Field(1024, ge=0)
    """Maximum number of waiting steered requests per API server; further ones receive a 503."""
    max_samples: int = Field(32, ge=2)
    """Maximum number of answers that a request may sample for a vote."""
    max_body: int = Field(32 << 20, ge=1024)
    """Maximum size of a JSON request body in bytes; larger ones receive a 413."""
    decision_log: Path | None = None
    """File of the decision log; `--decision-log` sets it."""
    decision_log_max_bytes: int = Field(64 << 20, ge=1024)
    """Size at which the decision log is rotated."""
    decision_log_files: int = Field(5, ge=1, le=1000)
    """Rotated files of the decision log that are kept."""
    log_prompts: bool = False
    """Whether the decision log has the bodies of requests."""
    baseline_share: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the requests with `difficulty` whose answer is left alone; `--baseline-share`."""
    admin_key: SecretStr | None = Field(None, min_length=16)
    """Key of the routes under `/v1/entropy/admin`, which exist only with it."""
    cache_secret: SecretStr = Field(default_factory=_new_secret, min_length=16)
    """Secret in the prefix-cache salts of steered requests, so that clients cannot compute them.
    `entrostat serve` generates one for all API servers of a deployment."""


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
