"""Artifacts that the operator uploads: a worker takes them between two steps.

Nothing is compiled or hooked here, so an artifact must fit what the start prepared: the output head
is read only if a probe was loaded then, and only layers that were hooked can be steered. A name
keeps its contents until the engine stops, because requests in flight name them.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from probes.artifact import Artifact, artifact_id
from probes.difficulty.probe import Head
from probes.steering import SteeringVector
from server.artifacts import STALE
from server.engine.controller import Controller
from server.engine.states import StateSlots
from server.examined import ExaminedArtifact, UsableArtifact
from server.worker.message import WorkerArtifact

MAX_HELD = 200
"""Uploaded artifacts that a worker takes until the engine stops."""
_RESTART = "put it into the folder of --artifacts and restart"


def load_uploaded(
    processor: Any, folder: str, steered: Sequence[int] | None
) -> WorkerArtifact | None:
    """Load an artifact into a running worker.

    Args:
        processor: The worker's entropy processor; None on a rank that does not sample.
        folder: Of the artifact, which all processes of the deployment can read.
        steered: The layers that are hooked; None if none is.

    Returns:
        What the worker has of it now, or the reason why it has not; None where it needs nothing.
    """
    if processor is None:
        return None
    try:
        return _load(processor, Path(folder), steered)
    except Exception as error:  # an exception here would end the engine and all its requests
        return _refused(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _load(processor: Any, folder: Path, steered: Sequence[int] | None) -> WorkerArtifact:
    controller: Controller = processor.controller
    name = artifact_id(folder)
    found: ExaminedArtifact = processor.examine(partial(Artifact.load, folder))
    if found.usable is None:
        return _refused(found.reason)
    if controller.weight_updates:
        return _refused(STALE)
    mine, held = found.usable.for_workers(), controller.artifacts.get(name)
    if mine is None:
        return _refused("workers need no artifact of this kind")
    if held is not None and held["reason"] is None:
        if held != mine:
            return _refused(f"the engine has other contents of this name: rename it, or {_RESTART}")
        return mine
    if len(processor.uploaded) >= MAX_HELD:
        return _refused(f"the engine took {MAX_HELD} uploaded artifacts: {_RESTART}")
    if (reason := _accept(controller, name, found.usable, steered)) is not None:
        return _refused(reason)
    controller.artifacts = {**controller.artifacts, name: mine}
    processor.uploaded.add(name)
    return mine


def _accept(
    controller: Controller, name: str, usable: UsableArtifact, steered: Sequence[int] | None
) -> str | None:
    """Add an artifact to the table of its kind; returns why that is not possible."""
    contents = usable.contents
    if isinstance(contents, SteeringVector):
        if controller.steering is None:
            return f"no layer was hooked at the start: {_RESTART}"
        for layer in sorted(contents.layers):
            if layer not in (steered or ()):
                return f"layer {layer} was not hooked at the start: {_RESTART}"
        vectors = {number: layer.vector for number, layer in contents.layers.items()}
        controller.steering.add_vector(name, vectors)
        return None
    if isinstance(contents, Head):
        if controller.difficulty is None:
            return f"no difficulty probe was loaded at the start: {_RESTART}"
        controller.difficulty.add_head(name, contents)
        return None
    tables = [one for one in controller.readers if isinstance(one, StateSlots)]
    if not tables or usable.reader is None:
        return f"no probe that reads the state was loaded at the start: {_RESTART}"
    tables[0].add_reader(name, usable.reader)
    return None


def _refused(reason: str | None) -> WorkerArtifact:
    return WorkerArtifact(hash="", layers=[], reason=reason or "it cannot be used")
