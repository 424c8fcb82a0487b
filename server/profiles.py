"""Profiles: named controls from TOML, reloaded without a restart."""

import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from server.errors import describe
from server.wire.request import Control

logger = logging.getLogger("vllm.entrostat")

_NAME = re.compile(r"[!-?A-~]+( +[!-?A-~]+)*")
"""What a header can carry and a model's name can end with."""


class ProfileError(ValueError):
    """A profile file cannot be used; the message says where and why."""


def parse_profiles(text: str, source: str) -> dict[str, Control]:
    """Read profiles from TOML.

    Raises:
        ProfileError: Naming the file, the profile and the field.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{source}: not TOML: {error}") from error
    profiles: dict[str, Control] = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ProfileError(
                f"{source}: `{name}` is not a profile: write `[{name}]` and its keys"
            )
        if not _NAME.fullmatch(name):
            raise ProfileError(
                f"{source}: `{name}` cannot name a profile, which a header carries: write visible "
                "ASCII characters but `@`, with blanks between them at most"
            )
        if "profile" in table:
            raise ProfileError(f"{source}: `{name}.profile`: a profile cannot start from another")
        try:
            profiles[name] = Control.model_validate(table)
        except ValidationError as error:
            raise ProfileError(f"{source}: {describe(error, name)}") from error
    return profiles


class Profiles(Mapping[str, Control]):
    """The shipped profiles and, over them, the ones of a file."""

    def __init__(self, path: Path | None = None) -> None:
        """Load profiles.

        Raises:
            ProfileError: The file is missing or bad.
        """
        self._path = path
        self._profiles = self._read()

    def _read(self) -> dict[str, Control]:
        shipped = files("server").joinpath("profiles.toml").read_text()
        profiles = parse_profiles(shipped, "shipped profiles")
        if self._path is not None:
            try:
                profiles |= parse_profiles(self._path.read_text(), self._path.name)
            except (OSError, UnicodeDecodeError) as error:
                raise ProfileError(f"{self._path}: cannot be read: {error}") from error
        return profiles

    def reload(self) -> None:
        """Read the file again; a bad one leaves everything as it was and says why in the log."""
        try:
            self._profiles = self._read()
        except ProfileError as error:
            logger.error("entrostat: profiles kept as they were: %s", error)
        else:
            logger.info("entrostat: profiles reloaded: %s", ", ".join(self._profiles))

    def __getitem__(self, name: str) -> Control:
        return self._profiles[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._profiles)

    def __len__(self) -> int:
        return len(self._profiles)
