"""The wire: the answers of the routes below `/v1/entropy`, and of `/ready`."""

from typing import Literal

from server.wire.report import ReportModel
from server.wire.request import Control


class ArtifactCard(ReportModel):
    """One line of `GET /v1/entropy/artifacts`."""

    id: str
    """What requests name."""
    kind: str
    """What it is: `entropy-statistics`, `difficulty-probe`, `steering-vector` or
    `inquiry-calibration`."""
    model: str
    """The model it was made for."""
    usable: bool
    """Whether it fits the served model."""
    reason: str | None = None
    """Why it does not fit."""


class ArtifactList(ReportModel):
    """`GET /v1/entropy/artifacts`."""

    object: Literal["list"] = "list"
    """As in OpenAI's lists."""
    data: list[ArtifactCard]
    """Every artifact that was found."""


class ProfileCard(ReportModel):
    """One line of `GET /v1/entropy/profiles`."""

    id: str
    """Name of the profile."""
    control: Control
    """What it stands for."""


class ProfileList(ReportModel):
    """`GET /v1/entropy/profiles`."""

    object: Literal["list"] = "list"
    """As in OpenAI's lists."""
    data: list[ProfileCard]
    """Every profile."""


class Readiness(ReportModel):
    """`GET /ready`."""

    ready: bool
    """Whether the engine makes progress."""
    steps: int | None = None
    """Sampling steps of the engine since it started."""
    artifacts: int
    """Artifacts loaded for the served model."""
    reason: str | None = None
    """Why the server is not ready."""
