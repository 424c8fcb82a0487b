"""Lines of the decision log. The reference page is generated from these models."""

from datetime import datetime
from typing import Any, Literal

from pydantic import JsonValue

from server.wire.cards import ServerFacts
from server.wire.report import ReportModel


class AdapterLine(ReportModel):
    """The LoRA adapter that answered."""

    name: str
    """Its name, as in `model`."""
    hash: str | None
    """Fingerprint of its files; null if they cannot be read."""


class UsageLine(ReportModel):
    """What the answer took."""

    prompt_tokens: int = 0
    """Tokens of the prompts; of an inquiry or a decision, of all its forward passes."""
    cached_tokens: int = 0
    """Those of them that the prefix cache had."""
    completion_tokens: int = 0
    """Tokens of all completions, also of samples that a vote did not choose."""
    calls: int = 0
    """Requests to the engine."""


class ChoiceLine(ReportModel):
    """One choice of an answer, or the answer to one question of a decision."""

    index: int
    """Its index in the response."""
    tokens: int | None = None
    """Number of its tokens."""
    finish_reason: str | None = None
    """Why it ended; null if it did not, because the client left or the engine failed."""
    answer_hash: str | None = None
    """SHA-256 of its token ids, written in decimal and joined by commas; with `--log-prompts`
    only, because short answers can be guessed from it."""
    report: dict[str, Any] | None = None
    """Its [report](wire.md) without `tokens`; without `--log-prompts` also without the texts of
    answers and of the conversation."""


class AuditLine(ReportModel):
    """What all lines have."""

    format: Literal[1] = 1
    """Version of the format."""
    time: datetime
    """When the request was planned, in UTC."""
    server: ServerFacts
    """The server, as in `GET /v1/entropy/server`."""


class DecisionLine(AuditLine):
    """One controlled request."""

    kind: Literal["completion", "inquiry", "decision"]
    """What was asked for."""
    id: str
    """Id of the response, which [feedback](../how-to/monitor.md) names; empty if the engine was not
    reached."""
    request_id: str | None = None
    """The header `X-Request-Id` of the request."""
    route: str
    """Path of the request."""
    status: int | None = None
    """HTTP status of the answer; null if the client left before it."""
    seconds: float
    """From the plan to the end of the answer."""
    model: str | None
    """Name of the model, without a profile."""
    adapter: AdapterLine | None = None
    """The LoRA adapter, if the name is one."""
    profile: str | None = None
    """The profile that applied."""
    control: dict[str, Any] | None
    """The controls after the profile, without those that were skipped; null for a decision without
    `entropy`."""
    plan: dict[str, Any]
    """What the controls were resolved to: numbers of the law, probe and strategies, threshold of an
    abstention, predictor of an inquiry."""
    parameters: dict[str, float | int | bool | str]
    """Sampling parameters of the request: numbers, switches and `reasoning_effort`, no text."""
    artifacts: dict[str, str | None]
    """Fingerprint of each artifact that was used, by id; null for artifacts of earlier releases."""
    usage: UsageLine
    """What the answer took."""
    in_flight: int
    """Other controlled requests of this API server that were running when this one began."""
    choices: list[ChoiceLine]
    """The choices of the answer, or the answers to the questions of a decision."""
    fallback: str | None = None
    """All [fallback codes](wire.md#fallbacks) of the answer."""
    body: dict[str, JsonValue] | None = None
    """The body of the request as it was sent; with `--log-prompts` only."""


class AdminLine(AuditLine):
    """One change by the operator, who has the admin key."""

    kind: Literal["admin"] = "admin"
    """Tells these lines apart."""
    action: Literal[
        "profile_uploaded",
        "profile_removed",
        "artifact_uploaded",
        "artifact_removed",
        "switched_off",
        "switched_on",
    ]
    """What was done."""
    subject: str
    """Name of the profile, the artifact or the control."""
    control: dict[str, Any] | None = None
    """Controls of an uploaded profile."""
    hash: str | None = None
    """Fingerprint of an uploaded artifact."""
    client: str | None = None
    """Address that the request came from."""
    request_id: str | None = None
    """The header `X-Request-Id` of the request."""
