"""`python -m clients.demo`: serve the default model, stream two prompts, show what was measured."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console
from rich.markup import escape

from clients.chat import Conversation
from clients.connection import ClientError, Request, connect, first_model
from clients.entropy import controls
from clients.render import printable, write_legend

READY_TIMEOUT = 480.0
"""Seconds; the first start converts the model."""
STOP_TIMEOUT = 20.0
_PROMPTS = (
    ("", "Why is the sky blue? Answer in two sentences."),
    ("@adaptive", "Write the first two sentences of a story about a lighthouse."),
)
_NEXT = """
To go on:
  entrostat serve          the same server on port 8000; any `vllm serve` flag works
  entrostat chat           a conversation with it in colours; --target 1.0 holds the entropy
  docs/how-to/clients.md   the OpenAI SDK, curl, Node, LangChain and llm as clients"""


def main() -> int:
    """Run the demo.

    Returns:
        Exit code: 0 if both answers came with a report and nothing fell back.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped too
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    console = Console(highlight=False)
    command = Path(sys.executable).with_name("entrostat")
    try:
        with serving([str(command), "serve"], console) as url:
            converse(url, console)
    except ClientError as error:
        console.print(printable(f"demo: {error}"), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(_NEXT, markup=False, soft_wrap=True)
    return 0


def converse(url: str, console: Console) -> None:
    """Stream both prompts.

    Raises:
        ClientError: An answer or its report is missing, or a control was given up.
    """
    with connect(f"{url}/v1") as client:
        name = first_model(client)
        write_legend(console)
        for profile, prompt in _PROMPTS:
            console.print(f"\n[bold]{escape(printable(name))}{profile}[/] {prompt}", soft_wrap=True)
            request = Request(
                client=client,
                model=name + profile,
                temperature=0.7,
                max_tokens=64,
                extra_body=controls(trace="tokens"),
            )
            report = Conversation(request, console, temperatures=bool(profile)).say(prompt)
            if report is None:
                raise ClientError("the answer came without an entropy report")
            if report.fallback is not None:
                raise ClientError(f"the answer was decoded without its control: {report.fallback}")


@contextmanager
def serving(
    command: Sequence[str], console: Console, *, ready_timeout: float = READY_TIMEOUT
) -> Iterator[str]:
    """Run a server on a free port of this machine while the block runs; yields its address.

    Raises:
        ClientError: It could not be started or was not ready in time; ends with the log's tail.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.NamedTemporaryFile(prefix="entrostat-demo-", suffix=".log") as log:
        try:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the server
            )
        except OSError as error:
            raise ClientError(f"cannot start {command[0]}: {error.strerror}") from error
        try:
            _wait_until_ready(process, url, console, Path(log.name), ready_timeout)
            yield url
        finally:
            _stop(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes], url: str, console: Console, log: Path, timeout: float
) -> None:
    begin = time.monotonic()
    message = "starting the server; the first start takes a minute or two"
    if not console.is_terminal:
        console.print(message)
    with console.status(message) as status:
        while (elapsed := time.monotonic() - begin) < timeout:
            if process.poll() is not None:
                raise ClientError(
                    f"the server ended with exit code {process.returncode}{_tail(log)}"
                )
            if _is_ready(url):
                return
            status.update(f"{message} ({elapsed:.0f} s)")
            time.sleep(0.5)
    raise ClientError(f"the server was not ready after {timeout:.0f} s{_tail(log)}")


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):  # not listening yet, or not ready yet
        return False


def _tail(log: Path, num_lines: int = 20) -> str:
    lines = log.read_text(errors="replace").splitlines()[-num_lines:]
    return "; last log lines:\n" + "\n".join(lines) if lines else " (log is empty)"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and everything it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with suppress(ProcessLookupError):  # nobody left in the group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
