"""Artifacts of a server: loaded at start and checked against the served model."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from probes.artifact import (
    Adapter,
    Artifact,
    ArtifactError,
    Kind,
    Manifest,
    ModelIdentity,
    find_artifacts,
    text_hash,
    without_controls,
)
from probes.decisions.calibration import DecisionCalibration
from probes.difficulty.probe import Head
from probes.difficulty.strategies import ProbeSpec
from probes.drift import MonitoredInput
from probes.inquiry.artifact import Inquiry
from probes.laws import HapoStatistics
from probes.selective.abstention import Abstention
from probes.selective.confidence import ConfidenceProbe
from probes.selective.state import StateReader
from probes.steering import SteeringVector
from server.errors import BadControl
from server.examined import ExaminedArtifact, UsableArtifact, differs
from server.metrics import observe
from server.metrics.drift import export_reference
from server.misfit import misfit
from server.served_model import ModelFacts, served_identity
from server.settings import settings
from server.wire.cards import ArtifactCard
from server.worker.message import WorkerArtifact

logger = logging.getLogger("vllm.entrostat")
T = TypeVar("T")

_COMMANDS: dict[Kind, str] = {
    "entropy-statistics": "train-probe temperature",
    "difficulty-probe": "train-probe difficulty",
    "steering-vector": "train-steering",
    "inquiry-calibration": "train-probe inquiry",
    "decision-calibration": "train-probe decisions",
    "abstention": "train-probe abstain",
    "confidence": "train-probe confidence",
}
"""Command that produces each kind."""

STALE = "the weights of the model were updated after the start: train it again, or restart"
"""Reason of every artifact after an update of the weights."""


def shipped_artifacts() -> Path:
    """Folder of the built-in artifacts."""
    return Path(__file__).resolve().parent.parent / "artifacts"


class Artifacts:
    """Artifacts by id. Incompatible ones are listed with the reason."""

    def __init__(
        self,
        roots: list[Path],
        served: ModelIdentity,
        model: ModelFacts,
        *,
        any_template: bool = False,
    ) -> None:
        """Load all artifacts; one that cannot be used never raises, whatever is wrong with it.

        Args:
            roots: Folders of artifacts, in order of precedence.
            served: Identity of the served model.
            model: The served model.
            any_template: Whether to accept artifacts for any chat template.
        """
        self.dtype = model.dtype
        self.served = served
        self._model, self._any_template = model, any_template
        self._stale = False
        # Replaced as a whole by every change: threads plan decisions with them.
        self._usable: dict[str, UsableArtifact] = {}
        self._cards: dict[str, ArtifactCard] = {}
        for name, folder in find_artifacts(roots).items():
            self.offer(name, self.examine(partial(Artifact.load, folder)))

    def examine(self, load: Callable[[], Artifact]) -> ExaminedArtifact:
        """Load an artifact and compare it with the model; never raises, whatever is wrong with it.

        Args:
            load: Reads it.
        """
        manifest = None
        try:
            artifact = load()
            manifest = artifact.manifest
            reason = manifest.identity.mismatch(self.served, any_template=self._any_template)
            if reason is None and self._stale:
                reason = STALE
            if reason is None:
                contents = artifact.contents()
                reason = misfit(manifest, contents, self._model)
                if reason is None:
                    return ExaminedArtifact(manifest, UsableArtifact(artifact, contents), None)
        except ArtifactError as error:
            manifest, reason = error.manifest, str(error)
        except Exception as error:  # the server runs on whatever a foreign folder holds
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return ExaminedArtifact(manifest, None, reason)

    def offer(self, name: str, found: ExaminedArtifact) -> None:
        """List an artifact, and use it if it can be."""
        if found.usable is not None:
            self._usable = {**self._usable, name: found.usable}
        self._list(name, found.manifest, found.reason)

    def withdraw(self, name: str) -> None:
        """Forget an artifact."""
        self._usable = _without(self._usable, name)
        self._cards = _without(self._cards, name)

    def _list(self, name: str, manifest: Manifest | None, reason: str | None) -> None:
        if reason is not None:
            other = manifest is not None and reason.startswith("made for another model")
            level = logging.INFO if other else logging.WARNING
            logger.log(level, "entrostat: artifact %s is not used: %s", name, reason)
        card = ArtifactCard(
            id=name,
            kind="unknown" if manifest is None else manifest.kind,
            model="unknown" if manifest is None else without_controls(manifest.model),
            adapter=None if manifest is None else manifest.adapter_hash,
            hash=None if manifest is None else manifest.fingerprint,
            usable=reason is None,
            reason=reason,
        )
        self._cards = {**self._cards, name: card}

    @property
    def cards(self) -> list[ArtifactCard]:
        """All artifacts found, including incompatible ones."""
        return list(self._cards.values())

    def __len__(self) -> int:
        return len(self._usable)

    def count_states(self) -> None:
        """Update the metrics of artifacts: by state, and the training data of usable ones."""
        stale = sum(card.reason == STALE for card in self._cards.values())
        observe.observe_artifacts(len(self), len(self._cards) - len(self) - stale, stale)
        for name, one in self._usable.items():
            if (monitored := one.artifact.manifest.monitored(name)) is not None:
                export_reference(monitored)

    def mark_stale(self) -> None:
        """Refuse all artifacts from now on: the weights they were made with are gone."""
        self._stale = True
        for name in list(self._usable):
            self._refuse(name, STALE)

    def hapo_statistics(
        self, name: str | None, param: str, adapter: Adapter | None = None
    ) -> HapoStatistics:
        """Return the statistics with this id, or the first that fit.

        Args:
            name: Id, or None.
            param: Field of the request that asks for them.
            adapter: LoRA adapter that the request names as its model.

        Raises:
            BadControl: They do not exist or are incompatible.
        """
        return self._contents(HapoStatistics, name, "entropy-statistics", param, adapter)

    def difficulty_probe(
        self, name: str | None, param: str, adapter: Adapter | None = None
    ) -> tuple[str, ProbeSpec]:
        """Return id and spec of the probe with this id, or of the first that fits.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        artifact = self._find(name, "difficulty-probe", param, adapter).artifact
        assert artifact.manifest.probe is not None  # a manifest without it is not loaded
        return artifact.id, artifact.manifest.probe

    def monitored(
        self, name: str | None, kind: Kind, param: str, adapter: Adapter | None = None
    ) -> MonitoredInput | None:
        """What is compared with the training data of an artifact; None without its histogram.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        found = self._find(name, kind, param, adapter).artifact
        return found.manifest.monitored(found.id)

    def heads(self) -> dict[str, Head]:
        """Heads of all usable difficulty probes, by id."""
        found = {name: one.contents for name, one in self._usable.items()}
        return {name: head for name, head in found.items() if isinstance(head, Head)}

    def state_readers(self) -> dict[str, StateReader]:
        """What usable confidence probes read from the hidden state, by id."""
        found = {name: one.reader for name, one in self._usable.items()}
        return {name: reader for name, reader in found.items() if reader is not None}

    def steering_vector(
        self, name: str, param: str, adapter: Adapter | None = None
    ) -> SteeringVector:
        """Return the steering vector with this id.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        return self._contents(SteeringVector, name, "steering-vector", param, adapter)

    def steering_vectors(self) -> dict[str, dict[int, Tensor]]:
        """All usable steering vectors, by id and layer."""
        return {
            name: {number: layer.vector for number, layer in one.contents.layers.items()}
            for name, one in self._usable.items()
            if isinstance(one.contents, SteeringVector)
        }

    def for_workers(self) -> dict[str, WorkerArtifact]:
        """The probes and vectors, which workers need too, by id; refused ones with the reason."""
        found = {
            card.id: WorkerArtifact(hash="", layers=[], reason=card.reason)
            for card in self._cards.values()
            if not card.usable
        }
        needed = {name: one.for_workers() for name, one in self._usable.items()}
        return found | {name: one for name, one in needed.items() if one is not None}

    def keep_common(self, workers: Iterable[Mapping[str, WorkerArtifact] | None]) -> None:
        """Keep only probes and vectors that every worker has loaded with the same contents.

        The processes read the folders at different times, and only workers know the class of the
        model. Artifacts that differ are listed as unusable.

        Args:
            workers: Artifacts of each worker; None for a worker that needs none.
        """
        for theirs in workers:
            if theirs is None:
                continue
            for name, mine in self.for_workers().items():
                reason = differs(mine, theirs.get(name))
                if mine["reason"] is None and reason is not None:
                    self._refuse(name, reason)

    def _refuse(self, name: str, reason: str) -> None:
        logger.warning("entrostat: artifact %s is not used: %s", name, reason)
        self._usable = _without(self._usable, name)
        card = self._cards[name].model_copy(update={"usable": False, "reason": reason})
        self._cards = {**self._cards, name: card}

    def inquiry(self, name: str, param: str, adapter: Adapter | None = None) -> Inquiry:
        """Return the task with this id, its predictor and its calibration.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        return self._contents(Inquiry, name, "inquiry-calibration", param, adapter)

    def decision(
        self, name: str, param: str, adapter: Adapter | None = None
    ) -> DecisionCalibration:
        """Return the decision calibration with this id.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        return self._contents(DecisionCalibration, name, "decision-calibration", param, adapter)

    def _contents(
        self, kept: type[T], name: str | None, kind: Kind, param: str, adapter: Adapter | None
    ) -> T:
        found = self._find(name, kind, param, adapter).contents
        assert isinstance(found, kept)
        return found

    def abstention(self, name: str, param: str, adapter: Adapter | None = None) -> Abstention:
        """Return the calibration of an abstention with this id.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        return self._contents(Abstention, name, "abstention", param, adapter)

    def confidence(
        self, name: str, param: str, adapter: Adapter | None = None
    ) -> tuple[ConfidenceProbe, str | None]:
        """Return the confidence probe with this id, and its fingerprint.

        Raises:
            BadControl: It does not exist or is incompatible.
        """
        found = self._find(name, "confidence", param, adapter)
        assert isinstance(found.contents, ConfidenceProbe)
        return found.contents, found.artifact.manifest.fingerprint

    def _find(
        self, name: str | None, kind: Kind, param: str, adapter: Adapter | None
    ) -> UsableArtifact:
        if name is None:
            for one in self._usable.values():
                manifest = one.artifact.manifest
                if manifest.kind == kind and _other_model(manifest, adapter) is None:
                    return one
            raise BadControl(f"`{param}`: {self._none_fits(kind, adapter)}", param)
        found = self._get(name, param)
        manifest = found.artifact.manifest
        if manifest.kind != kind:
            raise BadControl(
                f"`{param}`: `{name}` is of the kind {manifest.kind}, not {kind}", param
            )
        if (reason := _other_model(manifest, adapter)) is not None:
            raise BadControl(f"`{param}`: `{name}` {reason}", param)
        return found

    def _none_fits(self, kind: Kind, adapter: Adapter | None) -> str:
        stale = any(card.reason == STALE and card.kind == kind for card in self._cards.values())
        model = "this model" if adapter is None else f"the adapter `{adapter.name}`"
        hint = STALE if stale else f"make one with `{_COMMANDS[kind]}`"
        return f"no {kind.replace('-', ' ')} for {model}: {hint}"

    def _get(self, name: str, param: str) -> UsableArtifact:
        if name in self._usable:
            return self._usable[name]
        if name in self._cards:
            raise BadControl(
                f"`{param}`: `{name}` cannot be used: {self._cards[name].reason}", param
            )
        raise BadControl(
            f"`{param}`: unknown artifact `{name}`; GET /v1/entropy/artifacts lists them", param
        )


def _without(items: Mapping[str, T], name: str) -> dict[str, T]:
    return {key: one for key, one in items.items() if key != name}


def _other_model(manifest: Manifest, adapter: Adapter | None) -> str | None:
    """Why an artifact does not belong to the request's model, base or adapter; None if it does."""
    made_for = manifest.adapter_hash
    if adapter is None:
        return None if made_for is None else "was made for a LoRA adapter, not for the base model"
    if made_for is not None and made_for == adapter.hash:
        return None
    other = "the base model" if made_for is None else "another LoRA adapter"
    return f"was made for {other}, not for the adapter `{adapter.name}`"


def load_artifacts(
    model_config: Any,
    chat_template: str | None = None,
    steered: Sequence[int] | None = None,
    *,
    any_template: bool = False,
    family: str | None = None,
) -> Artifacts:
    """Load the built-in artifacts and those of `--artifacts`.

    Args:
        model_config: vLLM's model config.
        chat_template: The served chat template, if it is not the model's.
        steered: See `ModelFacts`.
        any_template: Whether to accept artifacts for any chat template: a worker does not know the
            served template and must load every artifact that an API server may use.
        family: See `ModelFacts`.
    """
    roots = [shipped_artifacts()]
    if (own := settings().artifacts) is not None:
        roots.insert(0, own)
    served = served_identity(model_config)
    if chat_template is not None:
        served = served.model_copy(update={"chat_template_hash": text_hash(chat_template)})
    model = ModelFacts(
        hidden_size=model_config.get_hidden_size(),
        dtype=model_config.dtype,
        num_layers=model_config.get_total_num_hidden_layers(),
        family=family,
        steered=steered,
    )
    return Artifacts(roots, served, model, any_template=any_template)
