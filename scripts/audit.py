"""Security checks of our code and of the locked versions: `python -m scripts.audit`.

Runs bandit over the product code and compares its findings with `scripts/audit.toml`, then
pip-audit over both locks. pip-audit asks PyPI for known vulnerabilities and is skipped with a
message where it is not installed (`pip install pip-audit`).
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = ("server", "probes", "training", "clients", "benchmarks", "scripts")
_LOCKS = ("requirements/cpu.lock", "requirements/gpu.lock")


def main() -> int:
    """Print what is wrong; exit code 1 if something is."""
    accepted = tomllib.loads(_ROOT.joinpath("scripts/audit.toml").read_text())["accepted"]
    problems = compare(findings(), accepted)
    for problem in problems:
        print(problem)
    print(f"bandit: {len(problems)} unexplained")
    return 1 if problems or not _audit_locks() else 0


def findings() -> set[tuple[str, str]]:
    """What bandit finds: pairs of check and file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["-m", "bandit", "--quiet", "--recursive", *_FOLDERS]
        command += ["--format", "json", "--output", str(report), "--exit-zero"]
        subprocess.run([sys.executable, *command], cwd=_ROOT, check=True)
        results = json.loads(report.read_text())["results"]
    return {(found["test_id"], found["filename"].removeprefix("./")) for found in results}


def compare(found: set[tuple[str, str]], accepted: Sequence[dict[str, Any]]) -> list[str]:
    """Findings without an explanation, and explanations without a finding."""
    anywhere = {entry["check"] for entry in accepted if entry["files"] == ["*"]}
    listed = {
        (entry["check"], file)
        for entry in accepted
        if entry["check"] not in anywhere
        for file in entry["files"]
    }
    found = {pair for pair in found if pair[0] not in anywhere}
    new = [f"{file}: {check} is not explained" for check, file in sorted(found - listed)]
    old = [f"{file}: {check} no longer occurs" for check, file in sorted(listed - found)]
    return new + old


def _audit_locks() -> bool:
    if importlib.util.find_spec("pip_audit") is None:
        print("pip-audit: not installed, skipped (pip install pip-audit)")
        return True
    flags = ["--no-deps", "--disable-pip", "--require-hashes"]
    codes = [
        subprocess.run(
            [sys.executable, "-m", "pip_audit", *flags, "--requirement", lock],
            cwd=_ROOT,
            check=False,
        ).returncode
        for lock in _LOCKS
    ]
    return not any(codes)


if __name__ == "__main__":
    sys.exit(main())
