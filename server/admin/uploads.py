"""Artifacts that the operator uploads: offered once every worker holds the same contents.

An API server writes the two files into a folder that is named after their fingerprint, has all
workers load it, compares what they hold with its own, and only then enters the artifact into the
file of overrides. Every API server loads what is new there before it plans its next request.
"""

import asyncio
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from probes.artifact import FILES, Artifact, ArtifactError
from server.admin.overrides import OverrideFile, Overrides
from server.artifacts import Artifacts
from server.examined import ExaminedArtifact, UsableArtifact, differs
from server.worker.message import WorkerArtifact

MAX_BYTES = 16 << 20
"""Size of the body of an uploaded artifact."""
MAX_MANIFEST_BYTES = 4 << 20
"""Size of its manifest."""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

CallWorkers = Callable[[str], Awaitable[list[WorkerArtifact | None]]]
"""Makes every worker load the artifact in a folder."""


class UnusableUpload(ValueError):
    """An uploaded artifact cannot be used; one sentence."""


class Uploads:
    """The uploaded artifacts of one API server."""

    def __init__(self, overrides: OverrideFile, artifacts: Artifacts, workers: CallWorkers) -> None:
        """Start with none.

        Args:
            overrides: Changes of the operator.
            artifacts: Of this API server; uploaded ones are added.
            workers: Loads an artifact in all workers.
        """
        self._overrides, self._artifacts, self._workers = overrides, artifacts, workers
        self._synced: dict[str, str] = {}
        self._lock = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """Ids of the uploaded artifacts."""
        return sorted(self._synced)

    async def sync(self) -> None:
        """Offer what any API server has entered, and no longer what was removed."""
        if self._overrides.current().artifacts == self._synced:
            return
        async with self._lock:
            wanted = self._overrides.current().artifacts
            for name in self._synced.keys() - wanted.keys():
                self._artifacts.withdraw(name)
            for name, fingerprint in wanted.items():
                if self._synced.get(name) != fingerprint:
                    load = partial(_load, self._folder(name, fingerprint), fingerprint)
                    found = await asyncio.to_thread(self._artifacts.examine, load)
                    self._artifacts.offer(name, found)
            self._synced = dict(wanted)
            self._artifacts.count_states()

    async def add(self, name: str, body: bytes) -> str:
        """Offer an artifact.

        Args:
            name: Its id.
            body: A tar of its two files.

        Returns:
            Its fingerprint.

        Raises:
            UnusableUpload: It, or a worker, cannot use it.
            OSError: It cannot be stored.
        """
        await self.sync()
        _check_name(name)
        if any(card.id == name for card in self._artifacts.cards) and name not in self._synced:
            raise UnusableUpload(f"`{name}` is in a folder of the server: replace it there")
        files = await asyncio.to_thread(read_tar, body)
        found = await asyncio.to_thread(
            self._artifacts.examine, partial(Artifact.parse, name, *files)
        )
        usable, fingerprint = _usable(found)
        folder = self._folder(name, fingerprint)
        await asyncio.to_thread(_store, folder, files)
        if (mine := usable.for_workers()) is not None:
            await self._agree(mine, folder)

        def enter(old: Overrides) -> Overrides:
            new = old.with_artifact(name, fingerprint)
            _store(folder, files)  # again: it may have been removed meanwhile
            return new

        await asyncio.to_thread(self._overrides.change, enter)
        await self.sync()
        return fingerprint

    async def _agree(self, mine: WorkerArtifact, folder: Path) -> None:
        """Load an artifact in all workers.

        Raises:
            UnusableUpload: One of them has not the same contents.
        """
        answers = [one for one in await self._workers(str(folder)) if one is not None]
        reasons = [differs(mine, one) for one in answers]
        for reason in [one for one in reasons if one] or ([] if answers else ["no worker has it"]):
            raise UnusableUpload(f"a worker cannot use it: {reason}")

    async def remove(self, name: str) -> None:
        """Offer an artifact no longer; requests in flight end with it.

        Raises:
            KeyError: It was not uploaded.
        """

        def leave(old: Overrides) -> Overrides:
            new = old.without_artifact(name)
            shutil.rmtree(self._folder(name, old.artifacts[name]), ignore_errors=True)
            return new

        await asyncio.to_thread(self._overrides.change, leave)
        await self.sync()

    def _folder(self, name: str, fingerprint: str) -> Path:
        return self._overrides.folder / "artifacts" / fingerprint / name


def read_tar(body: bytes) -> tuple[bytes, bytes]:
    """Manifest and weights from a tar; nothing is written.

    Raises:
        UnusableUpload: It is no tar of exactly these files.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name not in FILES or name in found:
                    raise UnusableUpload(f"the tar has `{name[:100]}`; it needs {_files()}, once")
                file = archive.extractfile(member) if member.isreg() else None
                # A sparse file of a few bytes can be as long as it says.
                if file is None or member.issparse() or member.size > len(body):
                    raise UnusableUpload(f"`{name}` of the tar is not a plain file")
                found[name] = file.read()
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        if isinstance(error, UnusableUpload):
            raise
        raise UnusableUpload(f"the body is not a tar of {_files()}: {error}"[:300]) from error
    if set(found) != set(FILES):
        raise UnusableUpload(f"the body is not a tar of {_files()}")
    manifest, weights = (found[name] for name in FILES)
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise UnusableUpload(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    return manifest, weights


def _files() -> str:
    return " and ".join(f"`{name}`" for name in FILES)


def _check_name(name: str) -> None:
    parts = name.split("/")
    if len(parts) != 2 or not all(map(_PART.fullmatch, parts)):
        raise UnusableUpload(
            f"`{name[:200]}` cannot name an artifact: write MODEL/NAME, each up to 100 letters, "
            "digits, `.`, `_` and `-`, beginning with a letter or a digit"
        )


def _usable(found: ExaminedArtifact) -> tuple[UsableArtifact, str]:
    """A usable artifact with a fingerprint.

    Raises:
        UnusableUpload: It is not.
    """
    if found.usable is None or found.manifest is None:
        raise UnusableUpload(found.reason or "it cannot be used")
    if found.manifest.fingerprint is None:
        raise UnusableUpload("manifest.json: tensors_hash is missing: train it again")
    return found.usable, found.manifest.fingerprint


def _store(folder: Path, files: tuple[bytes, bytes]) -> None:
    """Write an artifact at once, or not at all; its folder is named after its contents."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder.parent))
    try:
        for name, content in zip(FILES, files, strict=True):
            (staging / name).write_bytes(content)
        os.chmod(staging, 0o755)
        staging.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another API server was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _load(folder: Path, fingerprint: str) -> Artifact:
    artifact = Artifact.load(folder)
    if artifact.manifest.fingerprint != fingerprint:
        raise ArtifactError("its files changed since it was uploaded", artifact.manifest)
    return artifact
