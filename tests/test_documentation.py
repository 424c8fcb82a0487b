"""Commands in README, CONTRIBUTING and docs are what the programs take, and the quick ones run."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

from scripts.doc_blocks import ACTIVATE, OURS, ROOT, Block, blocks, files, pages
from scripts.docs import command_groups

BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = [
    pytest.param(block, words, id=f"{block.place}-{number}")
    for block in BLOCKS
    for number, words in enumerate(block.commands())
]
OTHER_PROGRAMS = {
    *(
        "source",
        "cd",
        "git",
        "pip",
        "npm",
        "node",
        "llm",
        "curl",
        "tail",
        "printf",
        "kill",
        "docker",
        "vllm",
        "sudo",
        "sh",
        "prometheus",
    ),
    *("accelerate", "ps", "grep", "python", "pytest", "pre-commit", "make"),
}
RULES = re.compile(r"(server|with --.+|skip, .{15,}|)")
OUTPUT_RULES = re.compile(r"((numbers|skip), .{5,}|)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_activates_the_environment_before_its_first_command_of_ours(page: Path) -> None:
    for block in blocks(page):
        for words in block.commands():
            if " ".join(words) == ACTIVATE:
                return
            assert words[0] not in OURS, f"{block.place}: {ACTIVATE} is missing above"


@pytest.mark.parametrize(
    "term", ["artifact", "calibration", "fallback", "law", "pivot", "report", "T0", "usable"]
)
def test_words_of_reports_and_tables_are_in_the_glossary(term: str) -> None:
    text = (ROOT / "docs/glossary.md").read_text()
    assert f"**{term}**" in text or f"`{term}` (" in text


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_that_does_not_run_as_printed_says_why(block: Block) -> None:
    assert RULES.fullmatch(block.rule), f"{block.place}: {block.rule}"


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.output], ids=lambda block: block.place
)
def test_an_output_that_is_not_compared_says_why(block: Block) -> None:
    assert block.output is not None
    assert OUTPUT_RULES.fullmatch(block.output.rule), f"{block.place}: {block.output.rule}"
    never = block.rule == "server" or block.rule.startswith("skip, ")
    assert not never or block.output.rule.startswith("skip, "), f"{block.place}: not compared"


@pytest.mark.parametrize(("block", "words"), COMMANDS)
def test_every_command_is_one_that_its_program_takes(block: Block, words: list[str]) -> None:
    program = Path(words[0]).name
    if program in OURS:
        check_ours(program, words[1:], block)
    elif program.endswith(".sh"):
        assert (ROOT / words[0]).is_file(), block.place
    else:
        assert program in OTHER_PROGRAMS, f"{block.place}: {program}"
        check_other(program, words[1:], block)


def check_ours(program: str, words: list[str], block: Block) -> None:
    command = command_groups()[program]
    words = [word for word in words if word not in ("2>&1",) and not word.startswith(">")]
    if hasattr(command, "commands"):
        if words[0].startswith("-"):
            return
        command, words = command.commands[words[0]], words[1:]
    own, _, for_server = "\0".join(words).partition("\0--\0")
    context = typer.Context(command, ignore_unknown_options=command.name == "serve")
    try:
        _, rest, _ = command.make_parser(context).parse_args(own.split("\0"))
    except Exception as error:
        raise AssertionError(f"{block.place}: {error}") from error
    if command.name == "serve" or for_server:
        check_serve(for_server.split("\0") if for_server else list(rest), block)


def check_serve(words: list[str], block: Block) -> None:
    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    _, unknown = parser.parse_known_args(["serve", *filter(None, words)])
    assert unknown == [], block.place


def check_other(program: str, words: list[str], block: Block) -> None:
    if program == "python" and words[:1] == ["-m"]:
        assert importlib.util.find_spec(words[1]) is not None, block.place
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets), block.place
    if program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"\.\[(.+?)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), block.place


PYTHON = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in pages()
    for number, text in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.filterwarnings("ignore:TRL currently supports vLLM versions:UserWarning")
@pytest.mark.parametrize("text", PYTHON)
def test_python_blocks_import_names_that_exist(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "my_module":
            module = importlib.import_module(node.module)
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert missing == [], node.module


def quick(words: list[str]) -> bool:
    return words[0] in OURS and words[-1] in ("--help", "--dry-run", "--list-objectives")


@pytest.mark.parametrize(
    ("block", "words"),
    [one for one in COMMANDS if quick(one.values[1])],  # type: ignore[arg-type]
)
def test_quick_commands_run_as_printed(block: Block, words: list[str], tmp_path: Path) -> None:
    for name, text in files(block.page).items():
        (tmp_path / name).write_text(text)
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run(
        [program, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout}{done.stderr}"
