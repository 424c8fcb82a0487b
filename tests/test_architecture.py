"""Who may import whom, and where vLLM's internals may be touched."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"server", "probes", "training", "clients"}
ALLOWED = {
    "server": {"server", "probes"},
    "training": {"training", "probes", "clients"},
    "probes": {"probes"},
    "clients": {"clients"},
}


def imports(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module


@pytest.mark.parametrize("folder", sorted(OURS))
def test_folders_import_only_what_the_arrows_allow(folder: str) -> None:
    found = {(path.name, name) for path, name in imports(folder) if name.split(".")[0] in OURS}
    assert {(p, n) for p, n in found if n.split(".")[0] not in ALLOWED[folder]} == set()
    assert found


@pytest.mark.parametrize("folder", ["probes", "training", "clients"])
def test_only_the_server_knows_vllm(folder: str) -> None:
    assert not [(path, name) for path, name in imports(folder) if name.split(".")[0] == "vllm"]


def test_worker_internals_are_touched_in_the_engine_folder_alone() -> None:
    internals = ("vllm.v1.worker", "vllm.v1.sample", "vllm.distributed")
    for path, name in imports("server"):
        if name.startswith(internals):
            assert path.parent.name == "engine", f"{path} imports {name}"


def test_nothing_that_loads_can_run_code() -> None:
    for folder in sorted(OURS):
        for path, name in imports(folder):
            assert name.split(".")[0] not in {"pickle", "joblib", "cloudpickle", "dill"}, path


def test_no_file_of_the_package_is_too_long_to_read() -> None:
    for folder in sorted(OURS):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_generated_pages_are_fresh() -> None:
    command = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
