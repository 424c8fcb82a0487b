import subprocess
import sys

import pytest

PROGRAM = """
import sys
from training.cli.{module} import {function}
try:
    {function}({words})
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "openai", "matplotlib", "numpy", "vllm", "gguf"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("module", "function", "words"),
    [
        ("probe", "train_probe", ["--help"]),
        ("probe", "train_probe", ["temperature", "--help"]),
        ("steering", "train_steering", ["--help"]),
        ("steering", "train_steering", ["east", "--help"]),
        ("steering", "train_steering", ["import", "--help"]),
    ],
)
def test_help_imports_nothing_heavy(module: str, function: str, words: list[str]) -> None:
    script = PROGRAM.format(module=module, function=function, words=words)
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert {"probe": "temperature", "steering": "vector"}[module] in shown.stdout
