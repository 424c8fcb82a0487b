"""Run every shell block of README, CONTRIBUTING and docs: `python -m scripts.run_docs [PAGE]...`.

Each page gets a folder with links to the checkout and the files that the page shows, and each block
a fresh `bash` in it; `scripts.doc_blocks` has the rules. Prints a line per block; the exit code is
1 if one fails. A page with a server takes one to two minutes.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from scripts.doc_blocks import ACTIVATE, OURS, ROOT, Block, blocks, files, pages

_LINKED = (
    *(".venv", "server", "probes", "training", "clients", "benchmarks", "artifacts", "tests"),
    *("scripts", "requirements", "docs", "deploy", "pyproject.toml", "README.md", "Makefile"),
)
_BLOCK_LIMIT, _START_LIMIT = 900, 600
"""Seconds that a block, and that the start of a server, may take."""
_READY = "http://127.0.0.1:8000/ready"


def main() -> int:
    """Run the pages and say which block failed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.run_docs", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="pages; all without one")
    chosen = [page.resolve() for page in parser.parse_args().pages] or pages()
    failed = sum(_run_page(page) for page in chosen if blocks(page))
    print(f"{failed} blocks failed")
    return 1 if failed else 0


def _run_page(page: Path) -> int:
    """How many blocks of a page failed."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="entrostat-docs-") as folder, _Server() as server:
        for name in _LINKED:
            if (ROOT / name).exists():
                Path(folder, name).symlink_to(ROOT / name)
        for name, text in files(page).items():
            Path(folder, name).write_text(text)
        for block in blocks(page):
            begin = time.monotonic()
            problem = _run_block(block, Path(folder), server)
            failed += problem is not None
            seconds = f"{time.monotonic() - begin:.0f} s"
            print(block.place, problem or f"ok ({seconds}) {block.rule}", flush=True)
    return failed


def _run_block(block: Block, folder: Path, server: "_Server") -> str | None:
    """None if the block succeeded or is skipped, else what went wrong."""
    if block.rule.startswith("skip, "):
        return None
    script = _with_flags(block)
    if block.rule == "server":
        return server.start(script, folder)
    shell = _shell(script, folder)
    try:
        out, _ = shell.communicate(timeout=_BLOCK_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        return f"took more than {_BLOCK_LIMIT} s"
    return None if shell.returncode == 0 else f"exit code {shell.returncode}\n{out[-2000:]}"


def _with_flags(block: Block) -> str:
    kind, _, flags = block.rule.partition(" ")
    if kind != "with":
        return block.text
    lines = block.text.replace("\\\n", " ").splitlines()
    ours = [line.split()[0] in OURS if line.split() else False for line in lines]
    added = [
        f"{line.partition(' #')[0]} {flags}" if mine else line
        for line, mine in zip(lines, ours, strict=True)
    ]
    return "\n".join(added)


def _shell(script: str, folder: Path) -> "subprocess.Popen[str]":
    lines = f"set -eu\n{ACTIVATE}\n{script}"
    return subprocess.Popen(
        ["bash", "-c", lines],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


class _Server:
    """The server that a page started last."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "_Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, script: str, folder: Path) -> str | None:
        """Replace the server; None once it is ready, else what went wrong."""
        self.stop()
        self._process = _shell(f"{script} >server.txt 2>&1", folder)
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline and self._process.poll() is None:
            if _is_ready():
                return None
            time.sleep(1)
        return f"the server did not become ready\n{(folder / 'server.txt').read_text()[-2000:]}"

    def stop(self) -> None:
        """End the server and whatever it started."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(_READY, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


if __name__ == "__main__":
    sys.exit(main())
