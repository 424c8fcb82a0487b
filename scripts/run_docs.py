"""Run the blocks of README, CONTRIBUTING and docs: `python -m scripts.run_docs [PAGE]...`.

Each page gets a folder with links to the checkout and the files that the page shows, and each block
a fresh `bash` in it; `scripts.doc_blocks` has the rules. A block fails if a command in it does, if
a server answers with an error, or if the page shows another output. Prints a line per block; the
exit code is 1 if one fails, 2 if port 8000 is in use. A page with a server takes a minute or two.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from scripts.doc_blocks import ACTIVATE, OURS, ROOT, Block, blocks, files, pages
from scripts.doc_outputs import difference

_LINKED = (
    *(".venv", "server", "probes", "training", "clients", "benchmarks", "tests"),
    *("scripts", "requirements", "docs", "deploy", "pyproject.toml", "README.md", "Makefile"),
)
_BLOCK_LIMIT, _START_LIMIT, _STOP_LIMIT = 900, 600, 60
"""Seconds that a block, and that start and stop of a server, may take."""
PORT = 8000
"""Where the servers of the pages listen."""
_READY = f"http://127.0.0.1:{PORT}/ready"
_PRELUDE = f"""set -euo pipefail
{ACTIVATE}
curl() {{ command curl --fail-with-body --no-progress-meter "$@"; }}
"""
"""The meter of curl would be in the output: a terminal does not show it there."""
_STREAMED_ERROR = re.compile(r'^(data: )?\{"error":', re.MULTILINE)
"""An error of a stream, whose status is 200."""


def main() -> int:
    """Run the pages and say which block failed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.run_docs", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="pages; all without one")
    chosen = [page.resolve() for page in parser.parse_args().pages] or pages()
    if _port_is_busy():
        print(f"Port {PORT} is in use: stop the server there, the pages start their own.")
        return 2
    failed = sum(run_page(page) for page in chosen if blocks(page))
    print(f"{failed} blocks failed")
    return 1 if failed else 0


def run_page(page: Path) -> int:
    """Run the blocks of a page, print a line for each; return how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="entrostat-docs-") as folder, PageServer() as server:
        for name in _LINKED:
            if (ROOT / name).exists():
                Path(folder, name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "artifacts", Path(folder, "artifacts"))  # commands write to it
        for name, text in files(page).items():
            Path(folder, name).write_text(text)
        for block in blocks(page):
            begin = time.monotonic()
            problem = run_block(block, Path(folder), server)
            failed += problem is not None
            seconds = f"{time.monotonic() - begin:.0f} s"
            print(block.place, problem or f"ok ({seconds}) {_remark(block)}", flush=True)
    return failed


def _remark(block: Block) -> str:
    if block.output is None or block.rule.startswith("skip, "):
        return block.rule
    return f"{block.rule} [output: {block.output.rule or 'compared'}]".strip()


def run_block(block: Block, folder: Path, server: "PageServer") -> str | None:
    """Run a block; return None if it succeeded or is skipped, else what went wrong."""
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
    if shell.returncode != 0 or _STREAMED_ERROR.search(out):
        return f"exit code {shell.returncode}\n{out[-2000:]}"
    return difference(block.output, out) if block.output else None


def _with_flags(block: Block) -> str:
    kind, _, flags = block.rule.partition(" ")
    if kind != "with":
        return block.script
    lines = block.text.replace("\\\n", " ").splitlines()
    ours = [line.split()[0] in OURS if line.split() else False for line in lines]
    added = [
        f"{line.partition(' #')[0]} {flags}" if mine else line
        for line, mine in zip(lines, ours, strict=True)
    ]
    return "\n".join(added)


def _shell(script: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["bash", "-c", _PRELUDE + script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


class PageServer:
    """The server that a page started last; stopped at the end of the `with` block."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "PageServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, script: str, folder: Path) -> str | None:
        """Replace the server; None once it is ready, else what went wrong."""
        self.stop()
        if _port_is_busy():
            return f"port {PORT} is in use"
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
        group, deadline = self._process.pid, time.monotonic() + _STOP_LIMIT
        signaled = _signal(group, signal.SIGTERM)
        self._process.wait()  # the shell; the server in its group takes longer
        while signaled and time.monotonic() < deadline and _signal(group, 0):
            time.sleep(0.2)
        _signal(group, signal.SIGKILL)
        self._process = None


def _signal(group: int, number: int) -> bool:
    """Whether a process of the group was there to get it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _port_is_busy() -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", PORT)) == 0


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(_READY, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


if __name__ == "__main__":
    sys.exit(main())
