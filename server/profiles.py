"""Profiles: named controls from TOML that can be reloaded at runtime."""

import logging
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from probes.laws import EdtLaw, EntropyTargetLaw, HapoLaw, TemperatureLaw
from server.errors import describe
from server.wire.request import Control, PhaseLaws

logger = logging.getLogger("vllm.entrostat")

NAME = re.compile(r"[!-?A-~]+( +[!-?A-~]+)*")
"""Valid in a header and as the suffix of a model name."""


class ProfileError(ValueError):
    """A profile file is invalid; the message gives the location and the reason."""


def parse_profiles(text: str, source: str) -> dict[str, Control]:
    """Read profiles from TOML.

    Raises:
        ProfileError: The file is invalid; names the file, the profile and the field.
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
        if not NAME.fullmatch(name):
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


_MEASURED = "measured with Qwen2.5-Coder-0.5B-Instruct"


def warning(control: Control) -> str | None:
    """Say what a profile's temperature laws were measured to harm; None if nothing was."""
    laws = control.temperature
    by_phase = (laws.thinking, laws.answer) if isinstance(laws, PhaseLaws) else (laws,)
    return next(filter(None, map(_warning, by_phase)), None)


def _warning(law: TemperatureLaw | None) -> str | None:
    match law:
        case EntropyTargetLaw(side="both" | "floor"):
            return (
                "heats certain tokens and so breaks chains of reasoning: at target 1.0, 7 % of the "
                f"step-by-step answers were right, 57 % at a fixed 0.7; {_MEASURED}"
            )
        case EdtLaw():
            return (
                "spends heat where errors are: on a quiz 2.5 points fewer of its answers are right "
                f"than at the same temperatures in random order; {_MEASURED}"
            )
        case HapoLaw(tau=tau) if tau >= 0.3:
            return f"heats uncertain tokens and lost 2 points on word problems; {_MEASURED}"
    return None


class Profiles(Mapping[str, Control]):
    """The built-in profiles, overridden by those of a file and by uploaded ones."""

    def __init__(
        self,
        path: Path | None = None,
        uploaded: Callable[[], Mapping[str, Control]] | None = None,
    ) -> None:
        """Load profiles.

        Args:
            path: TOML file.
            uploaded: Gives the profiles that override both, as they are now.

        Raises:
            ProfileError: The file is missing or invalid.
        """
        self._path, self._uploaded = path, uploaded
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
        """Reload the file; if it is invalid, log the error and keep the current profiles."""
        try:
            self._profiles = self._read()
        except ProfileError as error:
            logger.error("entrostat: profiles not reloaded: %s", error)
        else:
            logger.info("entrostat: profiles reloaded: %s", ", ".join(self._profiles))

    def _all(self) -> Mapping[str, Control]:
        uploaded = None if self._uploaded is None else self._uploaded()
        return {**self._profiles, **uploaded} if uploaded else self._profiles

    def __getitem__(self, name: str) -> Control:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
