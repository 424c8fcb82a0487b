"""The wire: the answers of the routes below `/v1/entropy`, and of `/ready`."""

from typing import Literal

from server.wire.report import ReportModel
from server.wire.request import Control


class ArtifactCard(ReportModel):
    """One line of `GET /v1/entropy/artifacts`."""

    id: str
    kind: str
    model: str
    usable: bool
    """Whether it fits the served model."""
    reason: str | None = None
    """Why not."""


class ArtifactList(ReportModel):
    """`GET /v1/entropy/artifacts`."""

    object: Literal["list"] = "list"
    data: list[ArtifactCard]


class ProfileCard(ReportModel):
    """One line of `GET /v1/entropy/profiles`."""

    id: str
    control: Control


class ProfileList(ReportModel):
    """`GET /v1/entropy/profiles`."""

    object: Literal["list"] = "list"
    data: list[ProfileCard]


class Readiness(ReportModel):
    """`GET /ready`."""

    ready: bool
    steps: int | None = None
    """Sampling steps of the engine since it started."""
    artifacts: int
    """Artifacts loaded for the served model."""
    reason: str | None = None
