"""The pages of all jobs: tables, figures, and where a result comes from."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from probes.artifact import Manifest
from training.common.files import atomic_write, write_text
from training.common.machine import describe_machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_POINTS = 10
"""A page shows no statistic from fewer points."""


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(header)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def provenance(manifest: Manifest, command: str) -> str:
    """When, how, where and with which packages an artifact was made."""
    versions = ", ".join(f"{name} {number}" for name, number in sorted(manifest.versions.items()))
    return (
        f"Made on {manifest.created:%Y-%m-%d} by `{command}` on {describe_machine()}, "
        f"with\n{versions}."
    )


def write_page(folder: Path, name: str, text: str, figure: "Figure | None" = None) -> Path:
    """Write `NAME.md`, and `NAME.png` if there is a figure; returns the page."""
    if figure is not None:
        with atomic_write(folder / f"{name}.png") as staging:
            figure.savefig(staging, dpi=110, format="png")
    page = folder / f"{name}.md"
    write_text(page, text)
    return page
