"""The shell blocks of the documentation, and what a comment above a block says about running it.

A block runs as printed in a fresh shell, in a folder of its own per page. A comment on the line
above the fence changes that:

- `<!-- run: server -->`: the block starts a server; wait until it is ready and leave it running.
- `<!-- run: with FLAGS -->`: add FLAGS to our commands, a size that is quick.
- `<!-- run: skip, REASON -->`: do not run it.

`<!-- file: NAME -->` above a block of another language names a file that the page shows and its
commands use.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OURS = ("entrostat", "train-probe", "train-steering", "train-policy")
ACTIVATE = "source .venv/bin/activate"
_FENCE = re.compile(
    r"^(?:<!-- run: (?P<rule>.*?) -->\n)?```(?P<language>sh|bash|console)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced shell block."""

    page: Path
    line: int
    text: str
    """What a reader types: of a `console` block the lines that begin with `$`."""
    rule: str
    """What the comment says, empty without one."""

    @property
    def place(self) -> str:
        """`PAGE:LINE`, as editors take it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without comments, variables and pipes."""
        joined = self.text.replace("\\\n", " ")
        for line in _complete_lines(joined):
            for part in re.split(r"\s(?:\||&&)\s", line) if "'" not in line else [line]:
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                    words = words[1:]
                if words:
                    yield words


def pages() -> list[Path]:
    """Every page with commands for readers."""
    docs = [path for path in (ROOT / "docs").rglob("*.md") if path.name != "cli.md"]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(docs)]


def blocks(page: Path) -> list[Block]:
    """The shell blocks of a page, in order."""
    source = page.read_text()
    return [
        Block(
            page,
            source.count("\n", 0, found.start()) + 1,
            _typed(found["text"]) if found["language"] == "console" else found["text"],
            found["rule"] or "",
        )
        for found in _FENCE.finditer(source)
    ]


def files(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    return dict(_FILE.findall(page.read_text()))


def _typed(session: str) -> str:
    return "".join(f"{line[2:]}\n" for line in session.splitlines() if line.startswith("$ "))


def _complete_lines(text: str) -> Iterator[str]:
    """Lines, joined while a quote is open."""
    pending = ""
    for line in text.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        if pending.count("'") % 2 == 0:
            yield pending
            pending = ""
    if pending:
        yield pending
