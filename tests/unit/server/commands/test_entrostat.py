"""`entrostat` with only the base install."""

import subprocess
import sys

import pytest

BASE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fastapi", "numpy", "torch", "transformers", "vllm", "zmq"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from server.commands.entrostat import main

sys.argv[0] = "entrostat"
main()
"""


def entrostat(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BASE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_lists_available_and_unavailable_commands() -> None:
    done = entrostat("--help")
    assert done.returncode == 0, done.stderr
    assert "chat" in done.stdout
    assert "serve needs fastapi: install the extra cpu or gpu." in done.stdout


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "--help"], ["serve", "--help=all"]])
def test_a_command_that_needs_an_extra_fails_with_one_sentence(arguments: list[str]) -> None:
    done = entrostat(*arguments)
    assert done.returncode == 2
    assert done.stderr == "entrostat serve: needs fastapi: install the extra `cpu` or `gpu`\n"


def test_the_client_works_without_extras() -> None:
    done = entrostat("chat", "--help")
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout
