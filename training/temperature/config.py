"""Settings of `train-probe temperature`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from training.common.config import ServedJobConfig


class TemperatureConfig(ServedJobConfig):
    """What to sample and what to fit."""

    quick: ClassVar[Mapping[str, Any]] = {"tokens": 2000, "max_tokens": 64}
    minutes: ClassVar[str] = "about 6 minutes with the defaults, 2 with --quick"

    prompts: Path | None = None
    """JSONL file with a `prompt` on every line; without it the shipped prompts."""
    tokens: int = Field(20_000, ge=2000, le=10_000_000)
    """Tokens to sample; fewer than 2000 leave the tails to a handful of tokens."""
    max_tokens: int = Field(256, ge=1)
    """Maximum length of an answer, in tokens."""
    temperature: float = Field(1.0, ge=0.01, le=2.0)
    """Sampling temperature."""
    quantile: float = Field(0.8, ge=0.01, le=0.99)
    """Quantile of ln H that is sampled at the request's temperature (the pivot)."""
    tail: float = Field(0.01, ge=0.0, le=0.2)
    """Share of the tokens beyond each limit."""
