"""Run our unit tests against the newest release of a package: `python -m scripts.canary vllm|trl`.

The newest wheel is downloaded without its dependencies, its Python files are put first on
PYTHONPATH, and the tests that use the package run. The compiled parts of vLLM's wheel need CUDA and
are left out, so this finds what moved or changed its signature, not what a kernel computes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_TESTS = {
    "vllm": ("tests/unit/server", "tests/unit/probes"),
    "trl": ("tests/unit/training/policy", "tests/unit/training/objectives"),
}
_NEEDS = {"vllm": ("orjson",), "trl": ()}
"""Packages that a newer release imports and the lock does not have."""


def main() -> int:
    """Download, unpack and test.

    Returns:
        Exit code of pytest.
    """
    parser = argparse.ArgumentParser(prog="python -m scripts.canary", description=__doc__)
    parser.add_argument("package", choices=sorted(_TESTS))
    parser.add_argument("--version", help="this release instead of the newest")
    parser.add_argument("--wheel", type=Path, help="this wheel instead of a download")
    parser.add_argument("tests", nargs="*", help="these tests instead of all that use the package")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(prefix="entrostat-canary-") as folder:
        wheel = options.wheel or _download(options.package, options.version, Path(folder))
        print(f"testing with {wheel.name}", flush=True)
        _unpack(wheel, Path(folder, "site"))
        for name in _NEEDS[options.package]:
            _pip("install", "--target", str(Path(folder, "site")), name)
        return _pytest(Path(folder, "site"), options.tests or _TESTS[options.package])


def _download(package: str, version: str | None, folder: Path) -> Path:
    wanted = f"{package}=={version}" if version else package
    _pip("download", "--only-binary", ":all:", "--dest", str(folder), wanted)
    (wheel,) = folder.glob(f"{package}-*.whl")
    return wheel


def _unpack(wheel: Path, site: Path) -> None:
    """Everything but compiled code."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith((".so", ".cubin"))]
        archive.extractall(site, names)


def _pip(command: str, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments]
    subprocess.run(pip, check=True)


def _pytest(site: Path, tests: tuple[str, ...] | list[str]) -> int:
    path = os.pathsep.join([str(site), str(_ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not engine and not gpu", *tests]
    # Warnings of a release that the lock does not pin are not our failures.
    command += ["-W", "default", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command += ["-p", "scripts.canary_ops"]
    # vLLM reads from the wheel's version whether it is a CPU build, and this wheel is for CUDA.
    environment = os.environ | {"PYTHONPATH": path, "VLLM_TARGET_DEVICE": "cpu"}
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
