"""`python -m clients.demo`: serve the default model and show what the entropy is good for.

One prompt with one seed, without and under a profile, and the flag on a handful of questions.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clients.chat import Conversation
from clients.connection import ClientError, Message, Request, connect, explained, first_model
from clients.entropy import EntropyReport, EntropyStream, controls
from clients.local_server import LocalServerError, local_server
from clients.render import color, printable, write_legend

READY_TIMEOUT = 480.0
"""Seconds; the first start converts the model."""
PROMPT = "Write two sentences about a lighthouse in a storm."
PROFILE = "steady"
TEMPERATURE = 0.7
SEED = 1
QUESTIONS = (
    ("What is the capital of France?", "Paris"),
    ("What is the chemical symbol of gold?", "Au"),
    ("Who wrote the play Hamlet?", "Shakespeare"),
    ("What is 7 + 5?", "12"),
    ("What is the capital of Mongolia?", "Ulaanbaatar"),
    ("In which year did the Titanic sink?", "1912"),
    ("What is 17 * 23?", "391"),
    ("Who painted The Night Watch?", "Rembrandt"),
)
"""Questions for the flag, and a word that every right answer has."""
_NEXT = """
Next steps:
  entrostat serve           the same server on port 8000; any `vllm serve` flag works
  entrostat chat            chat with it, tokens colored by entropy
  entrostat evaluate quiz   measure which controls help on a model and a task
  docs/how-to/trust.md      how well the entropy tells wrong answers from right ones
  docs/how-to/clients.md    the OpenAI SDK, curl, Node, LangChain and llm as clients"""


def main() -> int:
    """Run the demo.

    Returns:
        Exit code: 0 if all answers have a report and no control was skipped.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped too
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    console = Console(highlight=False)
    command = Path(sys.executable).with_name("entrostat")
    try:
        with serving([str(command), "serve"], console) as url:
            show(url, console)
    except ClientError as error:
        console.print(printable(f"demo: {error}"), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(_NEXT, markup=False, soft_wrap=True)
    return 0


def show(url: str, console: Console) -> None:
    """Stream one prompt without and with a profile, then flag the answers to some questions.

    Raises:
        ClientError: An answer or its report is missing, or a control was skipped.
    """
    with connect(f"{url}/v1") as client:
        request = Request(
            client=client,
            model=first_model(client),
            temperature=TEMPERATURE,
            max_tokens=64,
            seed=SEED,
            extra_body=controls(trace="tokens"),
        )
        compare(request, console)
        flag(replace(request, temperature=0.0, max_tokens=24), console)


def compare(request: Request, console: Console) -> None:
    """The same prompt and seed, without a control and under a profile.

    Raises:
        ClientError: As for `show`.
    """
    console.print(f"\n[bold]One prompt, one seed, temperature {TEMPERATURE:g}:[/] {PROMPT}")
    write_legend(console)
    for profile in ("", f"@{PROFILE}"):
        model = request.model + profile
        console.print(f"\n[bold]{escape(printable(model))}[/]")
        report = Conversation(replace(request, model=model), console).send(PROMPT)
        _check(report)


def flag(request: Request, console: Console) -> None:
    """Answer questions and list them by `entropy_mean`, the surest first.

    Raises:
        ClientError: As for `show`.
    """
    console.print("\n[bold]Which answers to trust?[/] The surest first, by `entropy_mean`:")
    rows = []
    for question, word in QUESTIONS:
        with explained(request.client), request.send([_user(question)]) as stream:
            answer = EntropyStream(stream)
            text = "".join(piece.text for piece in answer)
        rows.append((_check(answer.report()).entropy_mean or 0.0, question, text, word))
    table = Table(box=None, pad_edge=False)
    for column in ("nats", "question", "answer", ""):
        table.add_column(column)
    for entropy, question, text, word in sorted(rows):
        is_right = word.lower() in text.lower()
        mark = Text("right", "green") if is_right else Text("wrong", "red")
        line = " ".join(printable(text).split())
        table.add_row(Text(f"{entropy:.2f}", color(entropy)), question, Text(line[:60]), mark)
    console.print(table)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _check(report: EntropyReport | None) -> EntropyReport:
    if report is None:
        raise ClientError("the answer came without an entropy report")
    if report.fallback is not None:
        raise ClientError(f"the answer was decoded without its control: {report.fallback}")
    return report


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
