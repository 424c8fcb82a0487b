"""Settings of `train-probe decisions`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from training.common.config import ServedJobConfig


class DecisionsConfig(ServedJobConfig):
    """Which rows, how they are read, and the level that is reported."""

    quick: ClassVar[Mapping[str, Any]] = {"limit": 120, "read": "letters", "level": 0.8}
    minutes: ClassVar[str] = "about 4 minutes with the defaults, 2 with --quick"
    arguments: ClassVar[tuple[str, ...]] = ("rows",)

    rows: str = "tickets"
    """tickets, dialogues (tickets with answered follow-ups), triage (patients with answered
    questions), comparisons, quiz (four options), or a JSONL or CSV file of labeled rows; see
    docs/reference/decisions.md."""
    instructions: str | None = None
    """The question, for rows that have none: their values become the options of a choice."""
    limit: int = Field(720, ge=20)
    """Number of rows to read, drawn with the seed."""
    read: Literal["letters", "statements", "both"] | None = None
    """What is read; by default, what predicts the fitting rows best."""
    orders: int = Field(2, ge=1, le=8)
    """Orders of the options that are averaged."""
    level: float = Field(0.9, gt=0, lt=1)
    """Confidence level of the report; a server takes any that the rows allow."""
