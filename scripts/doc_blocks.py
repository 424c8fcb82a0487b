"""The blocks of the documentation that run, and what comments above them say about it.

A block of shell commands or of `python` runs as printed in a fresh shell, in a folder of its own
per page. A comment on the line above the fence changes that:

- `<!-- run: server -->`: the block starts a server; wait until it is ready and leave it running.
- `<!-- run: with FLAGS -->`: add FLAGS to our commands, a size that is quick.
- `<!-- run: skip, REASON -->`: do not run it.

The output of a block is a `text` or `json` block directly below it; in a `console` block, the lines
that do not begin with `$`. `scripts.doc_outputs` compares it with what the block prints, unless a
comment on the line above its fence says otherwise:

- `<!-- output: numbers, REASON -->`: numbers and hashes may differ, nothing else.
- `<!-- output: skip, REASON -->`: do not compare it.

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
_OUTPUT_RULE = r"(?:<!-- output: (?P<{}>.*?) -->\n)?"
_FENCE = re.compile(
    rf"^(?:<!-- run: (?P<rule>.*?) -->\n)?{_OUTPUT_RULE.format('session_rule')}"
    r"```(?P<language>sh|bash|console|python)\n(?P<text>.*?)^```$"
    rf"(?:\n+{_OUTPUT_RULE.format('output_rule')}```(?P<kind>text|json)\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n)", re.MULTILINE)
_FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Output(NamedTuple):
    """What a page shows as the output of a block."""

    text: str
    rule: str = ""
    """What the comment says, empty without one."""
    is_json: bool = False


class Block(NamedTuple):
    """A fenced block that runs."""

    page: Path
    line: int
    text: str
    """What a reader types: of a `console` block the lines that begin with `$`."""
    rule: str
    """What the comment says, empty without one."""
    is_python: bool = False
    output: Output | None = None

    @property
    def place(self) -> str:
        """`PAGE:LINE`, as editors take it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def script(self) -> str:
        """The block for a shell."""
        return f"python - <<'PYTHON'\n{self.text}PYTHON\n" if self.is_python else self.text

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without comments, variables and pipes."""
        if self.is_python:
            return
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
    """The blocks of a page that run, in order."""
    source = page.read_text()
    return [
        Block(
            page,
            source.count("\n", 0, found.start()) + 1,
            _typed(found["text"]) if found["language"] == "console" else found["text"],
            found["rule"] or "",
            found["language"] == "python",
            _output(found),
        )
        for found in _FENCE.finditer(source)
    ]


def _output(found: re.Match[str]) -> Output | None:
    if found["output"]:
        return Output(found["output"], found["output_rule"] or "", found["kind"] == "json")
    shown = _printed(found["text"]) if found["language"] == "console" else ""
    return Output(shown, found["session_rule"] or "") if shown else None


def files(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    return dict(_FILE.findall(page.read_text()))


def _typed(session: str) -> str:
    return "".join(_COMMAND.findall(session))


def _printed(session: str) -> str:
    return _COMMAND.sub("", session)


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
