"""`entrostat ask`: play an inquiry in the terminal and show the prediction set of each turn."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from clients.connection import DEFAULT_URL, ClientError, connect
from clients.entropy import InquiryStatus
from clients.inquiry import InquirySession, find_task
from clients.render import printable

_SHOWN = 12
"""Most labels of a prediction set that are printed."""
_GROWS = {
    "table": "(more than before: this answer does not agree with earlier ones)",
    "likelihood": "(more than before: each number of answers has its own calibrated threshold, and "
    "an answer can make the model less certain)",
}
"""Why a prediction set may grow, by predictor."""


def ask(
    task: Annotated[str, typer.Argument(help="Task name, such as animals, or artifact id.")],
    url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="Base URL of the server, with its /v1.")
    ] = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Default: the first model served.")] = None,
    level: Annotated[
        float | None, typer.Option(help="Confidence level of the prediction set, such as 0.9.")
    ] = None,
    turns: Annotated[int | None, typer.Option(help="Maximum number of questions.")] = None,
    open_questions: Annotated[
        bool, typer.Option("--open", help="Let the model propose the questions.")
    ] = False,
) -> None:
    """Play a question game: think of something, answer questions, see what it may still be.

    Answer in your own words; a reply that means neither yes nor no counts as "I don't know". One
    line is one answer, also from a pipe. Ctrl-C or the end of the input quits.
    """
    out = Console(highlight=False)
    try:
        with connect(url) as client:
            session = InquirySession(
                client,
                find_task(client, task),
                _reply,
                model=model,
                confidence_level=level,
                max_turns=turns,
                queries="open" if open_questions else None,
            )
            before: InquiryStatus | None = None
            for turn in session:
                _show(out, turn.report, before)
                out.print(escape(printable(turn.text)), style="bold")
                before = turn.report
    except ClientError as error:
        print(f"entrostat ask: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, EOFError):
        out.print("stopped", style="dim")
        raise SystemExit(130) from None


def _reply(question: str) -> str:
    line = input("> " if sys.stdin.isatty() else "")
    if not sys.stdin.isatty():
        print(f"> {line}")  # a pipe does not echo
    return line


def _show(out: Console, report: InquiryStatus, before: InquiryStatus | None) -> None:
    """Print how the last reply was interpreted and which labels are left."""
    if before is None:
        _introduce(out, report)
    if report.heard:
        out.print(f"understood: {_escape(report.heard[-1].answer)}", style="dim")
    labels = report.prediction_set
    more = "" if len(labels) <= _SHOWN else f" and {len(labels) - _SHOWN} more"
    sure = "" if report.confidence_level is None else f", right {report.confidence_level:.0%}"
    note = "" if report.calibrated else "; not calibrated for such a game"
    named = _escape(", ".join(labels[:_SHOWN]))
    out.print(f"{len(labels)} left{sure} of the time{note}: {named}{more}", style="cyan")
    if before is not None and len(labels) > len(before.prediction_set):
        out.print(_GROWS.get(report.predictor or "", _GROWS["likelihood"]), style="dim")


def _introduce(out: Console, report: InquiryStatus) -> None:
    if report.introduction:
        out.print(_escape(report.introduction))
    if report.probabilities:
        out.print(f"It may be: {_escape(', '.join(sorted(report.probabilities)))}")


def _escape(text: str) -> str:
    """A text from the server with markup escaped and control characters removed."""
    return escape(printable(text))
