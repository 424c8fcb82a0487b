"""Wire format: responses of the routes under `/v1/entropy` and of `/ready`."""

from typing import Literal

from server.wire.report import ReportModel
from server.wire.request import Control


class ArtifactCard(ReportModel):
    """One artifact in `GET /v1/entropy/artifacts`."""

    id: str
    """Id to use in requests."""
    kind: str
    """Kind of artifact: `entropy-statistics`, `difficulty-probe`, `steering-vector`,
    `inquiry-calibration`, `decision-calibration`, `abstention` or `confidence`."""
    model: str
    """The model that the artifact was made for."""
    adapter: str | None = None
    """Fingerprint of the LoRA adapter that the artifact was made for; None for the base model."""
    hash: str | None = None
    """SHA-256 of its spec and tensors; None for artifacts of earlier releases."""
    usable: bool
    """Whether it is compatible with the served model, whose weights were not updated since."""
    reason: str | None = None
    """Why it is incompatible."""


class ArtifactList(ReportModel):
    """`GET /v1/entropy/artifacts`."""

    object: Literal["list"] = "list"
    """As in OpenAI's lists."""
    data: list[ArtifactCard]
    """All artifacts found, including incompatible ones."""


class ProfileCard(ReportModel):
    """One profile in `GET /v1/entropy/profiles`."""

    id: str
    """Name of the profile."""
    control: Control
    """The controls that the profile sets."""
    warning: str | None = None
    """What its temperature law was measured to harm; None if nothing was."""


class ProfileList(ReportModel):
    """`GET /v1/entropy/profiles`."""

    object: Literal["list"] = "list"
    """As in OpenAI's lists."""
    data: list[ProfileCard]
    """All profiles."""


class Readiness(ReportModel):
    """`GET /ready`."""

    ready: bool
    """Whether the engine is making progress."""
    steps: int | None = None
    """Sampling steps since the engine started."""
    artifacts: int
    """Number of artifacts loaded for the served model."""
    reason: str | None = None
    """Why the server is not ready."""
