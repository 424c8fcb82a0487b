"""`entrostat chat`: a conversation in the terminal, every token colored by its entropy."""

import sys
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from clients.connection import (
    DEFAULT_URL,
    ClientError,
    Message,
    Request,
    connect,
    explained,
    first_model,
)
from clients.entropy import EntropyReport, EntropyStream, controls, entropy_target
from clients.render import printable, write_answer, write_legend, write_report


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(help="Send one prompt and exit. Without it, start a conversation."),
    ] = None,
    url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="Base URL of the server, with its /v1.")
    ] = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Default: the first model served.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile of the server, such as adaptive.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Entropy ceiling for every token, in nats.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of the request.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum tokens of an answer.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperatures: Annotated[
        bool, typer.Option("--temperatures", help="Show each token's temperature after it.")
    ] = False,
) -> None:
    """Chat with a server and see the entropy of every token."""
    law = None if target is None else entropy_target(target)
    try:
        with connect(url) as client:
            request = Request(
                client=client,
                model=model or first_model(client),
                temperature=temperature,
                max_tokens=max_tokens,
                extra_body=controls(law, profile=profile, trace="tokens"),
            )
            out = Console(highlight=False)
            conversation = Conversation(request, out, system=system, temperatures=temperatures)
            if prompt is not None:
                conversation.send(prompt)
            else:
                conversation.run()
    except ClientError as error:
        print(f"entrostat chat: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None


class Conversation:
    """The messages of a conversation and the consoles it is printed to."""

    def __init__(
        self,
        request: Request,
        out: Console,
        *,
        system: str | None = None,
        temperatures: bool = False,
    ) -> None:
        self._request = request
        self._out = out
        # In a pipe, only the answers go to standard output.
        self._notes = out if out.is_terminal else Console(highlight=False, stderr=True)
        self._temperatures = temperatures
        self._opening: list[Message] = (
            [] if system is None else [{"role": "system", "content": system}]
        )
        self.messages = list(self._opening)

    def send(self, prompt: str) -> EntropyReport | None:
        """Send a prompt, print the answer and its report, and keep both messages.

        Ctrl-C stops the answer.

        Returns:
            The report; None if the answer was stopped or the server sent none.

        Raises:
            ClientError: The answer is missing or incomplete; `messages` is unchanged.
        """
        asked: Message = {"role": "user", "content": prompt}
        answer = EntropyStream()
        try:
            with (
                explained(self._request.client),
                self._request.send([*self.messages, asked]) as stream,
            ):
                answer = EntropyStream(stream)
                write_answer(self._out, answer, temperatures=self._temperatures)
            write_report(self._notes, answer.report())
        except KeyboardInterrupt:
            self._notes.print("stopped", style="dim")
        self.messages += [asked, {"role": "assistant", "content": answer.text()}]
        return answer.report()

    def run(self) -> None:
        """Send each line of standard input until it ends."""
        typing = sys.stdin.isatty()
        if typing:
            self._introduce()
        while (line := _read_line("> " if typing else "")) not in (None, "/quit"):
            if line == "/reset":
                self.messages = list(self._opening)
            elif line:
                self._answer(line, go_on=typing)

    def _introduce(self) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401  # gives input() line editing and history
        where = f"{self._request.model} at {self._request.client.base_url}"
        self._notes.print(
            f"{printable(where)}; /reset forgets, /quit leaves, Ctrl-C stops an answer"
        )
        write_legend(self._notes)

    def _answer(self, line: str, *, go_on: bool) -> None:
        """Run one turn; in an interactive session, a refused request does not end the chat."""
        try:
            self.send(line)
        except ClientError as error:
            if not go_on:
                raise
            self._notes.print(printable(str(error)), style="red", markup=False)


def _read_line(mark: str) -> str | None:
    """A line without surrounding spaces; empty after Ctrl-C, None at the end of input."""
    try:
        return input(mark).strip()
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        return None
