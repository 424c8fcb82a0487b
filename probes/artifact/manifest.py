"""The manifest of an artifact: what its tensors are, where they come from, which model they fit."""

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from probes.artifact.identity import ModelIdentity, text_hash
from probes.decisions.calibration import DecisionSpec
from probes.difficulty.strategies import ProbeSpec
from probes.drift import DriftInput, MonitoredInput, ReferenceHistogram
from probes.inquiry.artifact import InquirySpec
from probes.selective.abstention import AbstentionSpec
from probes.selective.confidence import ConfidenceSpec
from probes.steering import SteeringSpec

SCHEMA_VERSION = 1
Kind = Literal[
    "entropy-statistics",
    "difficulty-probe",
    "steering-vector",
    "inquiry-calibration",
    "decision-calibration",
    "abstention",
    "confidence",
]

_SPECS: dict[Kind, str | None] = {
    "entropy-statistics": None,
    "difficulty-probe": "probe",
    "steering-vector": "steering",
    "inquiry-calibration": "inquiry",
    "decision-calibration": "decision",
    "abstention": "abstention",
    "confidence": "confidence",
}
"""Field of the manifest that describes the tensors of each kind."""


_INPUTS: dict[Kind, DriftInput] = {"entropy-statistics": "entropy", "difficulty-probe": "state"}
"""What is monitored of the requests that use an artifact, by its kind."""


class Manifest(BaseModel):
    """Kind, origin and model of an artifact."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    kind: Kind
    schema_version: int = SCHEMA_VERSION
    model: str
    """Name of the model it was made with; informative only."""
    identity: ModelIdentity
    """Fingerprints of that model, which are compared with the served one."""
    adapter_hash: str | None = None
    """Fingerprint of the LoRA adapter that it was made with; None for the base model."""
    tensors_hash: str | None = None
    """sha256 of `weights.safetensors`; None in artifacts of earlier releases."""
    data_hash: str
    """sha256 of the training data."""
    seed: int
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    versions: dict[str, str] = Field(default_factory=dict)
    """Package versions it was made with."""
    settings: dict[str, float | int | str] = Field(default_factory=dict)
    """Settings of the job that made it."""
    probe: ProbeSpec | None = None
    """For a difficulty probe: its input, labels and strategies."""
    steering: SteeringSpec | None = None
    """For a steering vector: its size and the norms of its layers."""
    inquiry: InquirySpec | None = None
    """For an inquiry calibration: its task and predictors."""
    decision: DecisionSpec | None = None
    """For a decision calibration: its questions."""
    abstention: AbstentionSpec | None = None
    """For an abstention: its score and what the answers were made with."""
    confidence: ConfidenceSpec | None = None
    """For a confidence probe: its features and what the answers were made with."""
    metrics: dict[str, float | int] = Field(default_factory=dict)
    """Measurements of the job."""
    reference: ReferenceHistogram | None = None
    """Histogram of the training data: entropies of tokens, or distances of the states that a
    difficulty probe reads. None in artifacts of other kinds and of earlier releases."""

    def monitored(self, name: str) -> MonitoredInput | None:
        """What is compared with the training data; None without a histogram of it.

        Args:
            name: Id of the artifact.
        """
        if self.reference is None:
            return None
        return MonitoredInput(name, _INPUTS[self.kind], self.reference)

    @property
    def fingerprint(self) -> str | None:
        """The sha256 of what the artifact does: its spec and its tensors; None if unknown."""
        if self.tensors_hash is None:
            return None
        field = _SPECS[self.kind]
        spec = None if field is None else getattr(self, field).model_dump_json()
        return text_hash(f"{self.kind}\n{spec}\n{self.tensors_hash}")

    @model_validator(mode="after")
    def _describes_its_kind(self) -> Self:
        if self.reference is not None and self.kind not in _INPUTS:
            raise ValueError(f"reference does not belong to a {self.kind}")
        own = _SPECS[self.kind]
        for field in filter(None, _SPECS.values()):
            if (getattr(self, field) is not None) != (field == own):
                what = "is missing" if field == own else f"does not belong to a {self.kind}"
                raise ValueError(f"{field} {what}")
        return self
