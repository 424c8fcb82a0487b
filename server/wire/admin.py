"""Wire format: requests and responses of the routes under `/v1/entropy/admin`."""

from typing import Literal

from probes.strict import RequestModel
from server.wire.cards import ArtifactCard, ProfileCard
from server.wire.report import ReportModel


class AdminProfileCard(ProfileCard):
    """A profile and where it comes from."""

    source: Literal["file", "uploaded"]
    """`file`: built in, or of `--profiles`. `uploaded`: by `PUT`, until the server stops."""


class AdminState(ReportModel):
    """`GET /v1/entropy/admin/state`, and the response to every change."""

    profiles: list[AdminProfileCard]
    """All profiles."""
    artifacts: list[ArtifactCard]
    """All artifacts found."""
    uploaded_artifacts: list[str]
    """Ids of those that were uploaded."""
    switched_off: list[str]
    """Controls that no request gets."""


class SwitchRequest(RequestModel):
    """`PUT /v1/entropy/admin/switches/{control}`."""

    on: bool
    """Whether requests may use the control."""
