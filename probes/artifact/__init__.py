"""Artifacts: what training writes and serving reads, as a folder of data and no code.

`<model>/<name>/manifest.json` describes the artifact and identifies its model;
`<model>/<name>/weights.safetensors` holds the tensors. An artifact is valid only for the model it
was made with; on a mismatch the error names the field that differs.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from probes.decisions.calibration import DecisionSpec
from probes.difficulty.strategies import ProbeSpec
from probes.inquiry.artifact import InquirySpec
from probes.steering import SteeringSpec

SCHEMA_VERSION = 1
Kind = Literal[
    "entropy-statistics",
    "difficulty-probe",
    "steering-vector",
    "inquiry-calibration",
    "decision-calibration",
]

_CONFIG_FIELDS = (
    "architectures",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "hidden_act",
    "tie_word_embeddings",
)
"""Fields that define the architecture and do not depend on the library that wrote config.json."""


class ArtifactError(ValueError):
    """An artifact cannot be read, or does not belong to the served model."""


class ModelIdentity(BaseModel):
    """Fingerprints of a checkpoint folder; None where the folder has no such file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    config_hash: str | None
    weights_hash: str | None
    tokenizer_hash: str | None
    chat_template_hash: str | None

    @classmethod
    def from_checkpoint(cls, checkpoint: Path) -> Self:
        """Fingerprint a checkpoint folder; reads only samples of the weights."""
        return cls(
            config_hash=_config_hash(checkpoint / "config.json"),
            weights_hash=_weights_hash(checkpoint),
            tokenizer_hash=_file_hash(checkpoint / "tokenizer.json"),
            chat_template_hash=_template_hash(checkpoint),
        )


class Manifest(BaseModel):
    """Kind, origin and model of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: Kind
    schema_version: int = SCHEMA_VERSION
    model: str
    """Name of the model it was made with; informative only."""
    identity: ModelIdentity
    """Fingerprints of that model, which are compared with the served one."""
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
    metrics: dict[str, float | int] = Field(default_factory=dict)
    """Measurements of the job."""

    def mismatch(self, served: ModelIdentity) -> str | None:
        """Name the first field in which the served model differs, or None if it fits.

        A fingerprint that either side lacks is not compared.
        """
        for field in ModelIdentity.model_fields:
            mine, theirs = getattr(self.identity, field), getattr(served, field)
            if mine is not None and theirs is not None and mine != theirs:
                return field
        return None


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
            ArtifactError: The folder is incomplete, malformed or of another schema version.
        """
        name = f"{folder.parent.name}/{folder.name}"
        try:
            manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
            tensors = load_file(folder / "weights.safetensors")
        except FileNotFoundError as error:
            file = Path(error.filename or "weights.safetensors").name  # safetensors gives no name
            raise ArtifactError(f"{name}: {file} is missing") from error
        except ValidationError as error:
            where = error.errors()[0]
            field = ".".join(map(str, where["loc"]))
            raise ArtifactError(f"{name}: manifest.json: {field}: {where['msg']}") from error
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{name}: weights.safetensors: {error}") from error
        if manifest.schema_version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{name}: schema version {manifest.schema_version}, this release reads "
                f"{SCHEMA_VERSION}: train it again"
            )
        return cls(id=name, manifest=manifest, tensors=tensors)

    def save(self, root: Path) -> Path:
        """Write the artifact below `root` atomically.

        Returns:
            Its folder.
        """
        target = root / self.id
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
        try:
            text = self.manifest.model_dump_json(indent=2)
            (staging / "manifest.json").write_text(text + "\n")
            save_file(
                {key: value.contiguous() for key, value in self.tensors.items()},
                staging / "weights.safetensors",
            )
            # safetensors writes mode 0600, but another user may run the server.
            shutil.copymode(staging / "manifest.json", staging / "weights.safetensors")
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


def scan(roots: Iterable[Path]) -> dict[str, Path]:
    """Artifact folders by id; earlier roots take precedence."""
    found: dict[str, Path] = {}
    for root in roots:
        for manifest in sorted(root.glob("*/[!.]*/manifest.json")):
            folder = manifest.parent
            found.setdefault(f"{folder.parent.name}/{folder.name}", folder)
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


def text_hash(text: str) -> str:
    """The sha256 of a text, such as a chat template."""
    return hashlib.sha256(text.encode()).hexdigest()


def _config_hash(path: Path) -> str | None:
    if not path.is_file():
        return None
    config = json.loads(path.read_text())
    chosen = {field: config.get(field) for field in _CONFIG_FIELDS}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _template_hash(checkpoint: Path) -> str | None:
    """Hash the template's file or, before transformers 4.52, its entry in tokenizer_config.json."""
    file, config = checkpoint / "chat_template.jinja", checkpoint / "tokenizer_config.json"
    if file.is_file() or not config.is_file():
        return _file_hash(file)
    template = json.loads(config.read_text()).get("chat_template")
    return text_hash(template) if isinstance(template, str) else None


def _weights_hash(checkpoint: Path) -> str | None:
    """Hash name, size and 32 evenly spread blocks of every weight file.

    Finetuning moves every block a little, so a sample tells a tuned model from its base without
    reading gigabytes at start-up.
    """
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as handle:
            for block in range(32):
                handle.seek(size * block // 32)
                digest.update(handle.read(4096))
    return digest.hexdigest()
