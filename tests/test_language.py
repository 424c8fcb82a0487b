"""Code, messages and pages use plain engineering English in American spelling."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENDINGS = (
    ".py",
    ".md",
    ".toml",
    ".sh",
    ".yaml",
    ".yml",
    ".jsx",
    ".js",
    ".html",
    ".css",
    "Makefile",
)
NOT_OURS = (
    "benchmarks/results/",  # what earlier runs printed
    "server/playground/",  # built from playground/src
    "training/datasets/tickets.py",  # texts of customers; the calibrations are bound to them
)
HISTORY = ("CHANGELOG.md", "tests/test_language.py")

BRITISH = (
    r"[Aa]nalys(e|ed|ing)\b|\b[Aa]rtefact|[Bb]ehaviour|[Cc]entre(d|s)?\b|[Cc]olour|[Ff]avour|[Gg]rey\b"
    r"|[Hh]onour|[Ll]abell|[Ll]earnt\b|\b[Ll]icence|[Nn]eighbour|[Nn]ormalis|[Oo]ptimis(e|a|i)"
    r"|\b[Ss]pelt\b|\b[Ss]ummaris|\b[Tt]okenis|[Uu]tilis|\b[Ii]nitialis|\b[Ss]erialis|\b[Tt]owards\b"
)
PRIVATE = (
    r"user can mend|\b[Mm]end(ed|s)?\b|at the door of|goes when it ends|'s word, once|stays lost"
    r"|\b[Ss]eat(ed|s)?\b|\bsits\b|wiped whole|last words|said nothing|[Aa]sk nothing|Start empty"
    r"|Part from the other|goes on where|turned round|[Ww]ho may be|\bjudged\b|\b(is|are) told\b"
)
ALLOWED = {
    ("optimiser", "training/policy/config.py"),  # the old name, refused with the new one
    ("optimiser", "tests/unit/training/policy/test_config.py"),
    ("normalised", "probes/difficulty/strategies.py"),  # artifacts of 0.1.0
    ("normalised", "tests/unit/probes/difficulty/test_probe.py"),
    ("normalised", "docs/adr/0012-layout.md"),
}
NAMES = frozenset(
    [
        "Said",
        "Wanted",
        "Heard",
        "Waiting",
        "Trouble",
        "_Passing",
        "Worth",
        "Rival",
        "Speech",
        "Need",
        "Tokens",
        "Alone",
        "Outlook",
        "lead",
        "speak",
        "said",
        "settle",
        "right_answer",
        "begin",
        "told",
        "mute",
        "scan",
        "tighten",
    ]
)
"""Former names of classes and functions; the glossary or the library has the present ones."""


def pages() -> list[str]:
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    return [
        name
        for name in listed
        if name.endswith(ENDINGS) and name not in HISTORY and not name.startswith(NOT_OURS)
    ]


@pytest.mark.parametrize("pattern", [BRITISH, PRIVATE], ids=["spelling", "wording"])
def test_no_page_has_a_word_that_the_style_excludes(pattern: str) -> None:
    found = [
        f"{name}:{number}: {word.group()}"
        for name in pages()
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        for word in re.finditer(pattern, line)
        if (re.sub(r"\W.*", "", line[word.start() :]), name) not in ALLOWED
    ]
    assert found == []


def test_no_class_or_function_has_a_former_name() -> None:
    found = [
        f"{name}:{node.lineno}: {node.name}"
        for name in pages()
        if name.endswith(".py")
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name in NAMES
    ]
    assert found == []
