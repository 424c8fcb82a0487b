"""Changes of an operator, shared by the API servers of a deployment in one file.

An API server reads the file again when it was replaced, which a look at its inode tells. The file
belongs to the deployment: after a restart, nothing is changed.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field

from probes.strict import StrictModel
from server.profiles import NAME
from server.wire.request import Control

SWITCHES = tuple(name for name in Control.model_fields if name not in ("profile", "trace"))
"""Controls that can be switched off."""
MAX_PROFILES = 100
"""Profiles that can be uploaded."""
MAX_ARTIFACTS = 100
"""Artifacts that can be uploaded."""


class Overrides(StrictModel):
    """The changes that are in force."""

    profiles: dict[str, Control] = Field(default_factory=dict)
    """Uploaded profiles, which replace those of the same name."""
    artifacts: dict[str, str] = Field(default_factory=dict)
    """Fingerprints of uploaded artifacts, by id."""
    off: tuple[str, ...] = ()
    """Controls that are switched off."""

    def with_profile(self, name: str, control: Control) -> "Overrides":
        """Add or replace a profile.

        Raises:
            ValueError: The name cannot name a profile, or there are too many.
        """
        if not NAME.fullmatch(name) or len(name) > 100:
            raise ValueError(
                f"`{name[:100]}` cannot name a profile: write up to 100 visible ASCII characters "
                "but `@`, with blanks between them at most"
            )
        if name not in self.profiles and len(self.profiles) >= MAX_PROFILES:
            raise ValueError(f"at most {MAX_PROFILES} profiles can be uploaded: remove one")
        return self.model_copy(update={"profiles": {**self.profiles, name: control}})

    def without_profile(self, name: str) -> "Overrides":
        """Remove an uploaded profile.

        Raises:
            KeyError: There is none with this name.
        """
        rest = dict(self.profiles)
        del rest[name]
        return self.model_copy(update={"profiles": rest})

    def with_artifact(self, name: str, fingerprint: str) -> "Overrides":
        """Add an artifact.

        Raises:
            ValueError: There is another one of this name, or there are too many.
        """
        if self.artifacts.get(name, fingerprint) != fingerprint:
            raise ValueError(f"`{name}` was uploaded with other contents: remove it first")
        if name not in self.artifacts and len(self.artifacts) >= MAX_ARTIFACTS:
            raise ValueError(f"at most {MAX_ARTIFACTS} artifacts can be uploaded: remove one")
        return self.model_copy(update={"artifacts": {**self.artifacts, name: fingerprint}})

    def without_artifact(self, name: str) -> "Overrides":
        """Remove an uploaded artifact.

        Raises:
            KeyError: There is none with this name.
        """
        rest = dict(self.artifacts)
        del rest[name]
        return self.model_copy(update={"artifacts": rest})

    def switched(self, control: str, *, on: bool) -> "Overrides":
        """Switch a control on or off."""
        off = {*self.off} - {control} if on else {*self.off, control}
        return self.model_copy(update={"off": tuple(sorted(off))})


NOTHING = Overrides()


class OverrideFile:
    """The file of a deployment."""

    def __init__(self, folder: Path | None) -> None:
        """Name the file; it is created by the first change.

        Args:
            folder: Folder that all API servers of the deployment share; None for one of its own.
        """
        self._own = TemporaryDirectory(prefix="entrostat-") if folder is None else None
        self._path = (folder or Path(self._own.name if self._own else "")) / "admin.json"
        self._seen: tuple[int, int] | None = None
        self._current = NOTHING

    @property
    def folder(self) -> Path:
        """Folder of the file, which all API servers and workers of the deployment share."""
        return self._path.parent

    def current(self) -> Overrides:
        """The changes in force; reads the file only if it was replaced."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return self._current
        if (seen := (found.st_ino, found.st_mtime_ns)) != self._seen:
            self._current = Overrides.model_validate_json(self._path.read_bytes())
            self._seen = seen
        return self._current

    def change(self, edit: Callable[[Overrides], Overrides]) -> Overrides:
        """Apply a change, one at a time over all API servers.

        Args:
            edit: Makes the new overrides of the current ones.

        Raises:
            OSError: The file cannot be written.
        """
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            new = edit(self.current())
            part = self._path.with_suffix(".part")
            part.write_text(new.model_dump_json(exclude_unset=True))
            os.replace(part, self._path)
        return self.current()

    def close(self) -> None:
        """Delete the folder, if it is this server's own."""
        if self._own is not None:
            self._own.cleanup()
