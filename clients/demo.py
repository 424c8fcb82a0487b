"""`python -m clients.demo`: serve the default model, stream two prompts, print both reports."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from clients.chat import Conversation
from clients.connection import ClientError, Request, connect, first_model
from clients.entropy import controls
from clients.local_server import LocalServerError, local_server
from clients.render import printable, write_legend

READY_TIMEOUT = 480.0
"""Seconds; the first start converts the model."""
_PROMPTS = (
    ("", "Why is the sky blue? Answer in two sentences."),
    ("@adaptive", "Write the first two sentences of a story about a lighthouse."),
)
_NEXT = """
Next steps:
  entrostat serve          the same server on port 8000; any `vllm serve` flag works
  entrostat chat           chat with it, tokens colored by entropy; --target 1.0 caps the entropy
  docs/how-to/clients.md   the OpenAI SDK, curl, Node, LangChain and llm as clients"""


def main() -> int:
    """Run the demo.

    Returns:
        Exit code: 0 if both answers have a report and no control was skipped.
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
        ClientError: An answer or its report is missing, or a control was skipped.
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
            report = Conversation(request, console, temperatures=bool(profile)).send(prompt)
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
        ClientError: The server did not start or was not ready in time; ends with the log's tail.
    """
    with tempfile.NamedTemporaryFile(prefix="entrostat-demo-", suffix=".log") as log:
        try:
            file = Path(log.name)
            with local_server(command, file, console, ready_timeout=ready_timeout) as url:
                yield url
        except LocalServerError as error:
            raise ClientError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
