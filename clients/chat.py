"""`entrostat chat`: a conversation in the terminal, every token coloured by its entropy."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, NoReturn

import openai
import typer
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from rich.console import Console

from clients.entropy import EntropyStream, controls, entropy_target
from clients.render import write_answer, write_legend, write_report

DEFAULT_URL = "http://127.0.0.1:8000/v1"

Ask = Callable[[list[ChatCompletionMessageParam]], openai.Stream[ChatCompletionChunk]]
"""Sends the messages so far and returns the answer to the last of them as a stream."""


class Trouble(RuntimeError):
    """What went wrong and what to do about it, in one sentence for the user."""


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="Answer this and leave. Without it: a conversation.")
    ] = None,
    url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="Base URL of the server, with its /v1.")
    ] = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Default: the first one served.")] = None,
    profile: Annotated[str | None, typer.Option(help="Controls by name, e.g. adaptive.")] = None,
    target: Annotated[
        float | None, typer.Option(help="Hold the entropy of every token at so many nats.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of the request.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperatures: Annotated[
        bool, typer.Option("--temperatures", help="Show each token's temperature behind it.")
    ] = False,
) -> None:
    """Talk to a server and see how sure the model was of every token."""
    law = None if target is None else entropy_target(target)
    out = Console(highlight=False)
    try:
        with connect(url) as client:
            name = model or first_model(client)

            def ask(
                messages: list[ChatCompletionMessageParam],
            ) -> openai.Stream[ChatCompletionChunk]:
                return client.chat.completions.create(
                    model=name,
                    messages=messages,
                    stream=True,
                    temperature=openai.omit if temperature is None else temperature,
                    max_completion_tokens=openai.omit if max_tokens is None else max_tokens,
                    extra_body=controls(law, profile=profile, trace="tokens"),
                )

            conversation = Conversation(ask, out, system=system, temperatures=temperatures)
            if prompt is not None:
                conversation.say(prompt)
            else:
                conversation.introduce(f"{name} at {url}")
                conversation.run()
    except Trouble as trouble:
        _fail(trouble)


@contextmanager
def connect(url: str) -> Iterator[openai.OpenAI]:
    """A client of the server at `url`; closed at the end.

    Raises:
        Trouble: The first model cannot be asked for, see `first_model`.
    """
    key = os.environ.get("OPENAI_API_KEY", "none")  # vLLM wants none unless told so
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client, explained(url):
        yield client


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn the SDK's errors into `Trouble`."""
    try:
        yield
    except openai.APITimeoutError as error:
        raise Trouble(f"the server at {url} did not answer in time") from error
    except openai.APIConnectionError as error:
        raise Trouble(
            f"no server answers at {url}: start one with `entrostat serve` or name one with --url"
        ) from error
    except openai.APIStatusError as error:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        reason = " ".join(str(said or error.message).split())
        raise Trouble(f"the server at {url} answers {error.status_code}: {reason}") from error
    except openai.APIError as error:
        raise Trouble(f"the server at {url} broke off: {error.message}") from error


def first_model(client: openai.OpenAI) -> str:
    """Name of the first model the server lists."""
    for card in client.models.list():
        return card.id
    raise Trouble(f"the server at {client.base_url} lists no model: name one with --model")


class Conversation:
    """What was said so far, and where it is shown."""

    def __init__(
        self, ask: Ask, out: Console, *, system: str | None = None, temperatures: bool = False
    ) -> None:
        self._ask = ask
        self._out = out
        # Of a piped answer only the answer goes to standard output.
        self._notes = out if out.is_terminal else Console(highlight=False, stderr=True)
        self._temperatures = temperatures
        self._opening: list[ChatCompletionMessageParam] = (
            [] if system is None else [{"role": "system", "content": system}]
        )
        self.messages = list(self._opening)

    def say(self, prompt: str) -> None:
        """Ask, show the answer and its report, and remember both sides; Ctrl-C ends the answer."""
        asked: ChatCompletionMessageParam = {"role": "user", "content": prompt}
        with self._ask([*self.messages, asked]) as stream:
            answer = EntropyStream(stream)
            try:
                write_answer(self._out, answer, temperatures=self._temperatures)
                write_report(self._notes, answer.report())
            except KeyboardInterrupt:
                self._notes.print("stopped", style="dim")
        self.messages += [asked, {"role": "assistant", "content": answer.text()}]

    def introduce(self, title: str) -> None:
        """Say who is talking and how to stop."""
        self._notes.print(f"{title}; /reset forgets, /quit leaves, Ctrl-C stops an answer")
        write_legend(self._notes)

    def run(self) -> None:
        """Answer line after line of standard input until it ends."""
        typing = sys.stdin.isatty()
        if typing:
            with suppress(ImportError):
                import readline  # noqa: F401  # line editing and history
        while (line := _read_line("> " if typing else "")) not in (None, "/quit"):
            if line == "/reset":
                self.messages = list(self._opening)
            elif line:
                self._answer(line, go_on=typing)

    def _answer(self, line: str, *, go_on: bool) -> None:
        """One turn; a refused one is not the end for somebody who can type another."""
        try:
            with explained("the other end"):
                self.say(line)
        except Trouble as trouble:
            if not go_on:
                raise
            self._notes.print(str(trouble), style="red", markup=False)


def _read_line(mark: str) -> str | None:
    """A line without its blanks; empty after Ctrl-C, None at the end of input."""
    try:
        return input(mark).strip()
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        return None


def _fail(trouble: Trouble) -> NoReturn:
    print(f"entrostat chat: {trouble}", file=sys.stderr)
    raise SystemExit(2)
