"""Artifacts as the operator uploads them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from probes.artifact import FILES


def tar(entries: Iterable[tuple[str, bytes]], mode: Literal["w", "w:gz"] = "w") -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed(folder: Path) -> bytes:
    """A tar of the files of an artifact."""
    return tar((name, (folder / name).read_bytes()) for name in FILES)
