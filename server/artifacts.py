"""The artifacts a server may use: found at start, checked against the served model."""

import logging
from pathlib import Path

from probes.artifact import Artifact, ArtifactError, ModelIdentity, scan
from probes.temperature import HapoStatistics
from server.errors import BadControl
from server.protocol import ArtifactCard

logger = logging.getLogger("vllm.entrostat")


def shipped_artifacts() -> Path:
    """Where the artifacts that come with the package lie."""
    return Path(__file__).resolve().parent.parent / "artifacts"


class Artifacts:
    """Artifacts by id. One that does not fit the model stays listed, with the reason."""

    def __init__(self, roots: list[Path], served: ModelIdentity) -> None:
        self._loaded: dict[str, Artifact] = {}
        self._cards: dict[str, ArtifactCard] = {}
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
        reason = reason or _malformed(artifact)
        if reason is None:
            self._loaded[name] = artifact
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
        """Every artifact found, usable or not."""
        return list(self._cards.values())

    def __len__(self) -> int:
        return len(self._loaded)

    def hapo_statistics(self, name: str | None, param: str) -> HapoStatistics:
        """The statistics with this id, or the served model's only ones.

        Raises:
            BadControl: There are none, or they belong to another model.
        """
        if name is None:
            own = [a for a in self._loaded.values() if a.manifest.kind == "entropy-statistics"]
            if not own:
                raise BadControl(
                    f"`{param}`: no entropy statistics for this model: make them with "
                    "`train-probe temperature`",
                    param,
                )
            artifact = own[0]
        else:
            artifact = self._get(name, param)
            if artifact.manifest.kind != "entropy-statistics":
                raise BadControl(
                    f"`{param}`: `{name}` is a {artifact.manifest.kind}, not entropy-statistics",
                    param,
                )
        values = artifact.tensors["hapo"].tolist()
        return HapoStatistics(*values)

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


def _malformed(artifact: Artifact) -> str | None:
    """What is wrong with the numbers of an artifact, or None."""
    values = artifact.tensors.get("hapo")
    if values is None:
        return "the tensor `hapo` is missing"
    if values.shape != (len(HapoStatistics._fields),):
        return f"the tensor `hapo` has shape {tuple(values.shape)} instead of (4,)"
    return None if bool(values.isfinite().all()) else "the tensor `hapo` holds no finite numbers"
