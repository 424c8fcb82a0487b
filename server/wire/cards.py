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


class ServerFacts(ReportModel):
    """`GET /v1/entropy/server`: what answers depend on beside their request."""

    entrostat: str
    """Version of Entrostat."""
    vllm: str
    """Version of vLLM."""
    torch: str
    """Version of PyTorch."""
    model: str
    """First name of the served base model."""
    dtype: str
    """Type of its weights and activations."""
    config_hash: str | None
    """SHA-256 of the model's config; null if its files cannot be read."""
    weights_hash: str | None
    """SHA-256 of samples of the weights on the disk when the server started."""
    tokenizer_hash: str | None
    """SHA-256 of the tokenizer's files."""
    chat_template_hash: str | None
    """SHA-256 of the served chat template."""
    weight_updates: int
    """Loads of weights after the start; above 0, `weights_hash` is not that of the weights in
    use."""


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
