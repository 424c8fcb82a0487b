"""Security checks of our code and of the locked versions: `python -m scripts.audit`.

Runs bandit over the product code and compares its findings with `scripts/audit.toml`, then
pip-audit over both locks. pip-audit asks PyPI for known vulnerabilities. A package that PyPI has no
answer about counts as a problem, because nothing is known about it.
"""

import importlib.util
import json
import re
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
_LOCAL_VERSION = re.compile(r"^([\w.-]+==[^\s+]+)\+\w+", re.MULTILINE)


def main() -> int:
    """Print what is wrong; exit code 1 if something is."""
    accepted = tomllib.loads(_ROOT.joinpath("scripts/audit.toml").read_text())["accepted"]
    unexplained = compare(findings(), accepted)
    print(*unexplained, f"bandit: {len(unexplained)} unexplained", sep="\n", flush=True)
    if importlib.util.find_spec("pip_audit") is None:
        print("pip-audit: not installed, the locks were not audited (`make audit` installs it)")
        return 1
    vulnerable = [problem for lock in _LOCKS for problem in vulnerabilities(_audit(lock), lock)]
    print(*vulnerable, f"pip-audit: {len(vulnerable)} problems", sep="\n")
    return 1 if unexplained or vulnerable else 0


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


def vulnerabilities(report: dict[str, Any], lock: str) -> list[str]:
    """Known vulnerabilities in pip-audit's report of a lock, and the packages without an answer."""
    packages = report["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    problems = [f"{lock}: no answer about {len(unknown)}: {', '.join(unknown)}"] if unknown else []
    for package in packages:
        for found in package.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "no version"
            which = f"{package['name']} {package['version']}"
            problems.append(f"{lock}: {which} has {found['id']}, fixed in {fixed}")
    return problems


def _audit(lock: str) -> dict[str, Any]:
    """The report of pip-audit on a lock. PyPI does not know local versions such as `2.13.0+cpu`."""
    with tempfile.TemporaryDirectory() as folder:
        public, report = Path(folder, "public.lock"), Path(folder, "report.json")
        public.write_text(_LOCAL_VERSION.sub(r"\1", _ROOT.joinpath(lock).read_text()))
        command = ["-m", "pip_audit", "--disable-pip", "--require-hashes"]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(report)]
        command += ["--requirement", str(public)]
        subprocess.run([sys.executable, *command], cwd=_ROOT, check=False)
        found: dict[str, Any] = json.loads(report.read_text())
        return found


if __name__ == "__main__":
    sys.exit(main())
