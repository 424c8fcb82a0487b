"""Artifacts after they were compared with the served model, and with what workers have of them."""

from typing import NamedTuple

from probes.artifact import Artifact, Manifest
from probes.artifact.contents import Contents
from probes.difficulty.probe import Head
from probes.selective.confidence import ConfidenceProbe
from probes.selective.state import StateReader
from probes.steering import SteeringVector, contents_hash
from server.worker.message import WorkerArtifact


class UsableArtifact(NamedTuple):
    """A loaded artifact and the object that it describes."""

    artifact: Artifact
    contents: Contents

    def for_workers(self) -> WorkerArtifact | None:
        """What a worker has of it; None if workers do not need it."""
        vector = self.contents if isinstance(self.contents, SteeringVector) else None
        if vector is None and not isinstance(self.contents, Head) and self.reader is None:
            return None
        layers = [] if vector is None else sorted(vector.layers)
        return WorkerArtifact(hash=contents_hash(self.artifact.tensors), layers=layers, reason=None)

    @property
    def reader(self) -> StateReader | None:
        """What a confidence probe reads from the hidden state."""
        return self.contents.reader if isinstance(self.contents, ConfidenceProbe) else None


class ExaminedArtifact(NamedTuple):
    """An artifact that was found, and why it cannot be used."""

    manifest: Manifest | None
    """None if it cannot be read."""
    usable: UsableArtifact | None
    reason: str | None
    """None if it can be used."""


def differs(mine: WorkerArtifact, theirs: WorkerArtifact | None) -> str | None:
    """Why a worker does not have what an API server has; None if it does."""
    if theirs is None:
        return "the engine has not loaded it: it was added while the server started; restart it"
    if theirs["reason"] is not None:
        return theirs["reason"]
    if theirs != mine:
        return "the engine loaded other contents: it was replaced while the server started; restart"
    return None
