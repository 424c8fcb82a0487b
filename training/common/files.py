"""Files: one reader for everything a user gives, one atomic writer for everything we keep."""

import json
import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from training.common.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark, with universal newlines.

    Raises:
        TrainingError: The file cannot be read or is not UTF-8; names the file and the reason.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    if content.startswith(_UTF16):
        raise TrainingError(f"{path}: is UTF-16 text: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        TrainingError: The file cannot be read or is not TOML; names the file and the line.
    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path}: not TOML: {error}") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a JSONL file; see `parse_json_lines`.

    Raises:
        TrainingError: The file cannot be read, or a line is not a JSON object; names the line.
    """
    return parse_json_lines(read_text(path), str(path))


def parse_json_lines(text: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parse JSONL, one object per line; blank lines are skipped.

    Args:
        text: Contents of the file.
        name: What messages call it.

    Yields:
        The place of each object, such as `mine.jsonl: line 3`, and the object.

    Raises:
        TrainingError: A line is not a JSON object; names the line.
    """
    # Not splitlines(): JSON strings may contain U+2028 and similar, which do not end a line here.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{name}: line {number}"
            yield place, _json_object(line, place)


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise TrainingError(f"{place}: not JSON: {reason}") from error
    if not isinstance(record, dict):
        raise TrainingError(f"{place}: not a JSON object")
    return record


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all; a crash never leaves half a file under its name.

    Yields:
        A temporary path in the same folder, which replaces `path` when the block succeeds and is
        deleted when it raises.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as staging:
        staging.write_text(text, "utf-8")


def read_record(path: Path, kind: type[T]) -> T:
    """Read a JSON file of a run folder.

    Args:
        path: Of the file.
        kind: A pydantic model or a named tuple.

    Raises:
        TrainingError: The file is damaged; names the field and says how to continue.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))[:200]
        where = f" at `{field}`" if field else ""
        raise TrainingError(
            f"{path}: is damaged{where}: delete it or start with --fresh"
        ) from error


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file of a run folder.

    Raises:
        TrainingError: The file is damaged; says how to continue.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path}: is damaged: delete it or start with --fresh") from error


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write a safetensors file atomically."""
    from safetensors.torch import save_file

    with atomic_write(path) as staging:
        save_file({key: value.contiguous() for key, value in tensors.items()}, staging)
