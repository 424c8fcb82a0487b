"""pyproject.toml, the locks and the changelog agree."""

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from setuptools import find_namespace_packages

from scripts.audit import compare, vulnerabilities
from scripts.lock import blocks

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("audit", "browser", "build", "cpu", "gpu")
FIND = {
    key: PROJECT["tool"]["setuptools"]["packages"]["find"][key] for key in ("include", "exclude")
}
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def lock(name: str) -> dict[str, str]:
    """Requirement with hashes of every package of a lock, by canonical name."""
    found = blocks((ROOT / f"requirements/{name}.lock").read_text())
    return {canonicalize_name(package): block for package, block in found.items()}


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_version_has_hashes(name: str) -> None:
    text = (ROOT / f"requirements/{name}.lock").read_text()
    found = lock(name)
    assert sum("==" in line for line in text.splitlines()) == len(found)
    assert [package for package, block in found.items() if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize(("name", "without"), [("cpu", {"gpu"}), ("gpu", {"cpu", "dev", "docs"})])
def test_the_locks_hold_a_version_that_each_dependency_allows(name: str, without: set[str]) -> None:
    wanted = [*PROJECT["project"]["dependencies"]]
    wanted += [one for extra, some in EXTRAS.items() if extra not in without for one in some]
    found = lock(name)
    for requirement in map(Requirement, wanted):
        if requirement.name == "entrostat":
            continue
        version = found[canonicalize_name(requirement.name)].split()[0].partition("==")[2]
        assert requirement.specifier.contains(version), str(requirement)


def test_every_locked_version_supports_the_first_release_of_the_oldest_python() -> None:
    """Debian 12 has Python 3.11.2, where a package that asks for 3.11.5 cannot be installed."""
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    refusing = [
        name
        for name in lock("cpu")
        if oldest not in SpecifierSet(str(metadata(name).json.get("requires_python", "")))
    ]
    assert refusing == []


def test_every_folder_with_code_or_data_is_packaged() -> None:
    found = set(find_namespace_packages(str(ROOT), **FIND))
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("server", "probes", "training", "clients", "artifacts")
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".toml", ".json", ".jsonl") and "__pycache__" not in path.parts
    }
    assert folders - found == set()
    assert not [name for name in found if name.startswith(("tests", "benchmarks", "scripts"))]


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PROJECT["project"]["version"] in headings


def test_a_finding_without_explanation_and_a_stale_explanation_are_problems() -> None:
    accepted = [
        {"check": "B1", "files": ["a.py", "gone.py"]},
        {"check": "B2", "files": ["*"]},
    ]
    found = {("B1", "a.py"), ("B1", "new.py"), ("B2", "any.py")}
    assert compare(found, accepted) == [
        "new.py: B1 is not explained",
        "gone.py: B1 no longer occurs",
    ]


def test_a_package_that_was_not_audited_is_a_problem_like_a_vulnerable_one() -> None:
    flaw = {"id": "PYSEC-1", "fix_versions": ["2.1"]}
    report = {
        "dependencies": [
            {"name": "good", "version": "1.0", "vulns": []},
            {"name": "bad", "version": "2.0", "vulns": [flaw]},
            {"name": "private", "skip_reason": "not found on PyPI"},
        ]
    }
    assert vulnerabilities(report, "cpu.lock") == [
        "cpu.lock: no answer about 1: private",
        "cpu.lock: bad 2.0 has PYSEC-1, fixed in 2.1",
    ]
