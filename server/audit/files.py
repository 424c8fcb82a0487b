"""The file of the decision log: private, one for each API server, checked at the start."""

import os
from io import SEEK_END
from pathlib import Path


def private(path: str, flags: int) -> int:
    """Open a file that only its owner can read, if it is new."""
    return os.open(path, flags, 0o600)


def is_torn(path: Path) -> bool:
    """Whether the last line has no end."""
    with path.open("rb") as written:
        if written.seek(0, SEEK_END) == 0:
            return False
        written.seek(-1, SEEK_END)
        return written.read() != b"\n"


def refuse_unwritable(path: Path) -> None:
    """Check that a decision log can be written.

    Raises:
        OSError: It cannot; the message says why.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
    if not path.parent.is_dir():
        raise OSError(f"{path.parent}: no such folder")
    trial = path.with_name(f".{path.name}.trial")
    try:
        trial.write_bytes(bytes(1 << 16))  # the folder must take rotated files, the disk lines
        with open(path, "ab", opener=private):
            pass
    finally:
        trial.unlink(missing_ok=True)


def file_of_server(path: Path, rank: int, servers: int) -> Path:
    """The file of one API server: with several, its number stands before the suffix."""
    return path if servers == 1 else path.with_name(f"{path.stem}.{rank}{path.suffix}")
