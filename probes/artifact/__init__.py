"""Artifacts: what training writes and serving reads, as a folder of data and no code.

`<model>/<name>/manifest.json` describes the artifact and identifies its model;
`<model>/<name>/weights.safetensors` holds the tensors. An artifact is valid only for the model it
was made with; on a mismatch the error names the field that differs.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from safetensors.torch import load, save_file
from torch import Tensor

from probes.artifact.contents import Contents, read_contents
from probes.artifact.identity import Adapter, ModelIdentity, adapter_hash, text_hash
from probes.artifact.manifest import SCHEMA_VERSION, Kind, Manifest

__all__ = ["Adapter", "Kind", "Manifest", "ModelIdentity", "adapter_hash", "text_hash"]

_MANIFEST, _WEIGHTS = "manifest.json", "weights.safetensors"
_MAX_MESSAGE = 500
"""Characters of an error, which may repeat a value of the manifest."""
FILES = (_MANIFEST, _WEIGHTS)
"""Names of the files of an artifact."""
_MAX_BYTES = {_MANIFEST: 1 << 26, _WEIGHTS: 1 << 30}


class ArtifactError(ValueError):
    """An artifact cannot be read; one sentence that names the file and the field or tensor."""

    def __init__(self, message: str, manifest: Manifest | None = None) -> None:
        super().__init__(message)
        self.manifest = manifest
        """Of the artifact, if that could be read."""


class Artifact(BaseModel):
    """A manifest and its tensors."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    id: str
    """`<model>/<name>`, as used by clients."""
    manifest: Manifest
    tensors: Mapping[str, Tensor]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an artifact.

        Raises:
            ArtifactError: The folder is incomplete, malformed or of another schema version, or a
                tensor cannot be used.
        """
        files = (partial(_read, folder / name) for name in FILES)
        return cls._of(artifact_id(folder), *files)

    @classmethod
    def parse(cls, name: str, manifest: bytes, weights: bytes) -> Self:
        """Read an artifact from the contents of its two files.

        Raises:
            ArtifactError: As `load`.
        """
        return cls._of(name, lambda: manifest, lambda: weights)

    @classmethod
    def _of(cls, name: str, description: Callable[[], bytes], weights: Callable[[], bytes]) -> Self:
        manifest = None
        try:
            manifest = _parse_manifest(description())
            tensors = _parse_tensors(weights(), manifest.tensors_hash)
            artifact = cls(id=name, manifest=manifest, tensors=tensors)
            artifact.contents()
        except ValueError as error:
            message = without_controls(f"{name}: {error}")
            raise ArtifactError(message[:_MAX_MESSAGE], manifest) from error
        return artifact

    def contents(self) -> Contents:
        """The object that the tensors describe.

        Raises:
            ValueError: The tensors do not fit the manifest; names the file and the tensor.
        """
        try:
            return read_contents(self.manifest, self.tensors)
        except ValueError as error:
            raise ValueError(f"{_WEIGHTS}: {error}") from error

    def save(self, root: Path) -> Path:
        """Write the artifact below `root` atomically.

        Returns:
            Its folder.
        """
        target = root / self.id
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
        try:
            weights, description = staging / _WEIGHTS, staging / _MANIFEST
            save_file({key: value.contiguous() for key, value in self.tensors.items()}, weights)
            found = hashlib.sha256(weights.read_bytes()).hexdigest()
            manifest = self.manifest.model_copy(update={"tensors_hash": found})
            description.write_text(manifest.model_dump_json(indent=2) + "\n")
            # safetensors writes mode 0600, but another user may run the server.
            shutil.copymode(description, weights)
            os.chmod(staging, 0o755)
            _replace(target, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return target


def _replace(target: Path, staging: Path) -> None:
    """Replace `target` by `staging`; restore the old folder on failure."""
    if not target.exists():
        staging.rename(target)
        return
    previous = target.with_name(f".previous-{target.name}")
    shutil.rmtree(previous, ignore_errors=True)  # left behind by an interrupted save
    target.rename(previous)
    try:
        staging.rename(target)
    except BaseException:
        previous.rename(target)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def artifact_id(folder: Path) -> str:
    """Id of the artifact in a folder; a question mark for each character that does not print."""
    return without_controls(f"{folder.parent.name}/{folder.name}")


def without_controls(text: str) -> str:
    """A text from a foreign artifact; a question mark for each character that does not print."""
    name = text.encode(errors="replace").decode()
    return "".join(one if one.isprintable() else "?" for one in name)


def find_artifacts(roots: Iterable[Path]) -> dict[str, Path]:
    """Artifact folders by id; earlier roots take precedence."""
    found: dict[str, Path] = {}
    for root in roots:
        for manifest in sorted(root.glob("*/[!.]*/manifest.json")):
            folder = manifest.parent
            found.setdefault(artifact_id(folder), folder)
    return found


def package_versions(*names: str) -> dict[str, str]:
    """Versions of the installed packages among `names`."""
    versions = {"torch": str(torch.__version__)}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _read(file: Path) -> bytes:
    """Read one of the two files; a copy, since a mapped file that shrinks would end the process.

    What was opened is what is checked, so a file that is replaced meanwhile cannot block or grow.
    """
    limit = _MAX_BYTES[file.name]
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{file.name} is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as handle:
                content = handle.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise ValueError(f"{file.name} is missing") from error
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise ValueError(f"{file.name} is larger than {limit} bytes")
    return content


def _parse_manifest(content: bytes) -> Manifest:
    try:
        fields = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"{_MANIFEST}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{_MANIFEST}: not an object")
    version = fields.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ValueError(
            f"{_MANIFEST}: schema_version is {version!r:.40}, this release reads {SCHEMA_VERSION}: "
            "train it again"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        finding = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, finding["loc"]))
        reason = finding["msg"].removeprefix("Value error, ")
        raise ValueError(": ".join(filter(None, (_MANIFEST, field[:200], reason)))) from error


def _parse_tensors(content: bytes, expected: str | None) -> dict[str, Tensor]:
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(f"{_WEIGHTS}: tensors_hash of the manifest differs: the file is damaged")
    try:
        return load(content)
    except Exception as error:  # a damaged file makes safetensors and torch raise many types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{_WEIGHTS}: not safetensors: {reason}") from error
