"""Artifacts of a server: loaded at start and checked against the served model."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probes.artifact import Artifact, ArtifactError, Kind, ModelIdentity, scan, text_hash
from probes.decisions.calibration import DecisionCalibration
from probes.difficulty.probe import Head
from probes.difficulty.strategies import ProbeSpec
from probes.inquiry.artifact import Inquiry
from probes.laws import HapoStatistics
from probes.steering import LayerVector, SteeringVector, contents_hash, tensor_name
from server.errors import BadControl
from server.settings import settings
from server.wire.cards import ArtifactCard
from server.worker.message import WorkerArtifact

logger = logging.getLogger("vllm.entrostat")


_COMMANDS: dict[Kind, str] = {
    "entropy-statistics": "train-probe temperature",
    "difficulty-probe": "train-probe difficulty",
    "steering-vector": "train-steering",
    "inquiry-calibration": "train-probe inquiry",
    "decision-calibration": "train-probe decisions",
}
"""Command that produces each kind."""


def shipped_artifacts() -> Path:
    """Folder of the built-in artifacts."""
    return Path(__file__).resolve().parent.parent / "artifacts"


class Artifacts:
    """Artifacts by id. Incompatible ones are listed with the reason."""

    def __init__(
        self,
        roots: list[Path],
        served: ModelIdentity,
        hidden_size: int,
        steered: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Load all artifacts.

        Args:
            roots: Folders of artifacts, in order of precedence.
            served: Identity of the served model.
            hidden_size: Hidden size of the served model.
            steered: Layers that can be steered; None for those of the vectors.
            dtype: Type of the served model's activations.
        """
        self.dtype = dtype
        self._hidden_size = hidden_size
        self._steered = steered
        self._loaded: dict[str, Artifact] = {}
        self._cards: dict[str, ArtifactCard] = {}
        self._inquiries: dict[str, Inquiry] = {}
        self._decisions: dict[str, DecisionCalibration] = {}
        self._vectors: dict[str, SteeringVector] = {}
        for name, folder in scan(roots).items():
            self._load(name, folder, served)

    def _load(self, name: str, folder: Path, served: ModelIdentity) -> None:
        try:
            artifact = Artifact.load(folder)
        except ArtifactError as error:
            logger.error("entrostat: artifact refused: %s", error)
            self._cards[name] = ArtifactCard(
                id=name, kind="unknown", model="unknown", usable=False, reason=str(error)
            )
            return
        manifest = artifact.manifest
        field = manifest.mismatch(served)
        reason = None if field is None else f"made for another model: {field} differs"
        reason = reason or _malformed(artifact, self._hidden_size, self._steered, self.dtype)
        if reason is None:
            self._loaded[name] = artifact
            if manifest.steering is not None:
                self._vectors[name] = _steering_vector(artifact)
        else:
            logger.info("entrostat: artifact %s not used: %s", name, reason)
        self._cards[name] = ArtifactCard(
            id=name,
            kind=manifest.kind,
            model=manifest.model,
            usable=reason is None,
            reason=reason,
        )

    @property
    def cards(self) -> list[ArtifactCard]:
        """All artifacts found, including incompatible ones."""
        return list(self._cards.values())

    def __len__(self) -> int:
        return len(self._loaded)

    def hapo_statistics(self, name: str | None, param: str) -> HapoStatistics:
        """Return the statistics with this id, or the first for the served model.

        Raises:
            BadControl: They do not exist or are incompatible.
        """
        artifact = self._find(name, "entropy-statistics", param)
        return HapoStatistics(*artifact.tensors["hapo"].tolist())

    def difficulty_probe(self, name: str | None, param: str) -> tuple[str, ProbeSpec]:
        """Return id and spec of the probe with this id, or of the first for the served model.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        artifact = self._find(name, "difficulty-probe", param)
        assert artifact.manifest.probe is not None  # `_malformed` refused the others
        return artifact.id, artifact.manifest.probe

    def heads(self) -> dict[str, Head]:
        """Heads of all usable difficulty probes, by id."""
        return {
            artifact.id: Head.from_tensors(artifact.tensors, artifact.manifest.probe.features)
            for artifact in self._loaded.values()
            if artifact.manifest.probe is not None
        }

    def steering_vector(self, name: str, param: str) -> SteeringVector:
        """Return the steering vector with this id.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        return self._vectors[self._find(name, "steering-vector", param).id]

    def steering_vectors(self) -> dict[str, dict[int, Tensor]]:
        """All usable steering vectors, by id and layer."""
        return {
            name: {number: layer.vector for number, layer in vector.layers.items()}
            for name, vector in self._vectors.items()
        }

    def for_workers(self) -> dict[str, WorkerArtifact]:
        """The usable probes and vectors, which workers need too, by id."""
        return {
            artifact.id: WorkerArtifact(
                hash=contents_hash(artifact.tensors), layers=self._layers(artifact.id)
            )
            for artifact in self._loaded.values()
            if artifact.manifest.kind in ("difficulty-probe", "steering-vector")
        }

    def _layers(self, name: str) -> list[int]:
        return sorted(self._vectors[name].layers) if name in self._vectors else []

    def keep_common(self, workers: Iterable[Mapping[str, WorkerArtifact] | None]) -> None:
        """Keep only probes and vectors that every worker has loaded with the same contents.

        The processes read the folders at different times. Artifacts that differ are listed as
        unusable.

        Args:
            workers: Artifacts loaded by each worker; None for a worker that needs none.
        """
        for theirs in workers:
            if theirs is None:
                continue
            for name, mine in self.for_workers().items():
                if (reason := _mismatch(mine, theirs.get(name))) is not None:
                    self._refuse(name, reason)

    def _refuse(self, name: str, reason: str) -> None:
        logger.warning("entrostat: artifact %s is not used: %s", name, reason)
        for table in (self._loaded, self._vectors, self._inquiries, self._decisions):
            table.pop(name, None)
        self._cards[name] = self._cards[name].model_copy(update={"usable": False, "reason": reason})

    def inquiry(self, name: str, param: str) -> Inquiry:
        """Return the task with this id, its predictor and its calibration.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        artifact = self._find(name, "inquiry-calibration", param)
        if name not in self._inquiries:
            assert artifact.manifest.inquiry is not None  # `_malformed` refused the others
            self._inquiries[name] = Inquiry.from_tensors(
                artifact.manifest.inquiry, artifact.tensors
            )
        return self._inquiries[name]

    def decision(self, name: str, param: str) -> DecisionCalibration:
        """Return the decision calibration with this id.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        artifact = self._find(name, "decision-calibration", param)
        if name not in self._decisions:
            assert artifact.manifest.decision is not None  # `_malformed` refused the others
            self._decisions[name] = DecisionCalibration.from_tensors(
                artifact.manifest.decision, artifact.tensors
            )
        return self._decisions[name]

    def _find(self, name: str | None, kind: Kind, param: str) -> Artifact:
        if name is None:
            for artifact in self._loaded.values():
                if artifact.manifest.kind == kind:
                    return artifact
            raise BadControl(
                f"`{param}`: no {kind.replace('-', ' ')} for this model: make one with "
                f"`{_COMMANDS[kind]}`",
                param,
            )
        artifact = self._get(name, param)
        if artifact.manifest.kind != kind:
            raise BadControl(
                f"`{param}`: `{name}` is a {artifact.manifest.kind}, not {kind}", param
            )
        return artifact

    def _get(self, name: str, param: str) -> Artifact:
        if name in self._loaded:
            return self._loaded[name]
        if name in self._cards:
            raise BadControl(
                f"`{param}`: `{name}` cannot be used: {self._cards[name].reason}", param
            )
        raise BadControl(
            f"`{param}`: unknown artifact `{name}`; GET /v1/entropy/artifacts lists them", param
        )


def _mismatch(mine: WorkerArtifact, theirs: WorkerArtifact | None) -> str | None:
    if theirs is None:
        return "the engine has not loaded it: it was added while the server started; restart it"
    if theirs != mine:
        return "the engine loaded other contents: it was replaced while the server started; restart"
    return None


def load_artifacts(
    model_config: Any,
    chat_template: str | None = None,
    steered: Sequence[int] | None = None,
    *,
    any_template: bool = False,
) -> Artifacts:
    """Load the built-in artifacts and those of `--artifacts`.

    Args:
        model_config: vLLM's model config.
        chat_template: The served chat template, if it is not the model's.
        steered: See `Artifacts`.
        any_template: Whether to accept artifacts for any chat template: a worker does not know the
            served template and must load every artifact that an API server may use.
    """
    roots = [shipped_artifacts()]
    if (own := settings().artifacts) is not None:
        roots.insert(0, own)
    served = ModelIdentity.from_checkpoint(_checkpoint(model_config))
    if any_template:
        served = served.model_copy(update={"chat_template_hash": None})
    elif chat_template is not None:
        served = served.model_copy(update={"chat_template_hash": text_hash(chat_template)})
    return Artifacts(roots, served, model_config.get_hidden_size(), steered, model_config.dtype)


def _checkpoint(model_config: Any) -> Path:
    checkpoint = Path(model_config.model)
    if checkpoint.is_dir():
        return checkpoint
    from huggingface_hub import snapshot_download  # a hub id, which vLLM has already downloaded

    return Path(
        snapshot_download(model_config.model, revision=model_config.revision, local_files_only=True)
    )


def _malformed(
    artifact: Artifact, hidden_size: int, steered: Sequence[int] | None, dtype: torch.dtype
) -> str | None:
    """Why an artifact for this model cannot be used; None if it can."""
    manifest, tensors = artifact.manifest, artifact.tensors
    if manifest.kind == "steering-vector":
        return _unfit_vector(artifact, hidden_size, steered, dtype)
    if manifest.kind == "difficulty-probe":
        if manifest.probe is None:
            return "manifest.json: probe is missing"
        try:
            Head.from_tensors(tensors, manifest.probe.features)
        except ValueError as error:
            return str(error)
        return manifest.probe.unreadable(hidden_size)
    if manifest.kind == "inquiry-calibration":
        if manifest.inquiry is None:
            return "manifest.json: inquiry is missing"
        try:
            Inquiry.from_tensors(manifest.inquiry, tensors)
        except ValueError as error:
            return str(error)
        return None
    if manifest.kind == "decision-calibration":
        if manifest.decision is None:
            return "manifest.json: decision is missing"
        try:
            DecisionCalibration.from_tensors(manifest.decision, tensors)
        except ValueError as error:
            return str(error)
        return None
    values = tensors.get("hapo")
    if values is None:
        return "the tensor `hapo` is missing"
    if values.shape != (len(HapoStatistics._fields),):
        return f"the tensor `hapo` has shape {tuple(values.shape)} instead of (4,)"
    return None if bool(values.isfinite().all()) else "the tensor `hapo` holds no finite numbers"


def _steering_vector(artifact: Artifact) -> SteeringVector:
    assert artifact.manifest.steering is not None
    layers = {
        layer: LayerVector.measure(artifact.tensors[tensor_name(layer)], norm)
        for layer, norm in artifact.manifest.steering.norms.items()
    }
    return SteeringVector(contents_hash(artifact.tensors), layers)


def _unfit_vector(
    artifact: Artifact, hidden_size: int, steered: Sequence[int] | None, dtype: torch.dtype
) -> str | None:
    spec = artifact.manifest.steering
    if spec is None:
        return "manifest.json: steering is missing"
    for layer, norm in spec.norms.items():
        name = tensor_name(layer)
        if name not in artifact.tensors:
            return f"the tensor `{name}` is missing"
        if artifact.tensors[name].shape != (hidden_size,):
            found = tuple(artifact.tensors[name].shape)
            return f"the tensor `{name}` has shape {found} instead of ({hidden_size},)"
        if (
            reason := LayerVector.measure(artifact.tensors[name], norm).unusable(dtype)
        ) is not None:
            return f"the tensor `{name}` {reason}"
        if steered is not None and layer not in steered:
            return f"layer {layer} is not among --steering-layers"
    return None
