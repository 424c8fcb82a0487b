"""Inquiries for programs: the server asks questions, a callable answers them.

session = InquirySession(client, "smollm2-135m/animals", answer=input)
print(session.run().label)
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import openai

from clients.connection import ClientError, Message, explained, first_model
from clients.entropy import InquiryStatus, controls, inquiry, report


class SessionTurn(NamedTuple):
    """One message of the server and its report."""

    text: str
    report: InquiryStatus


class InquirySession:
    """One inquiry. Its state is `messages`: a session can continue from those of another."""

    def __init__(
        self,
        client: openai.OpenAI,
        task: str,
        answer: Callable[[str], str],
        *,
        model: str | None = None,
        confidence_level: float | None = None,
        max_turns: int | None = None,
        queries: Literal["closed", "open"] | None = None,
        messages: list[Message] | None = None,
    ) -> None:
        """Prepare an inquiry; sends no request.

        Args:
            client: Connected to the server.
            task: Id of the artifact, `MODEL/TASK`.
            answer: Takes a question and returns the reply, in free text.
            model: Name of the model; None selects the first one served.
            confidence_level: Of the prediction sets; None selects the server's default.
            max_turns: Largest number of questions; None selects the server's default.
            queries: "open" lets the model propose the questions.
            messages: Messages of an inquiry to continue; the last one is the user's.
        """
        self._client = client
        self._answer = answer
        self._model = model
        self._body = controls(
            inquiry=inquiry(
                task, confidence_level=confidence_level, max_turns=max_turns, queries=queries
            )
        )
        self.messages: list[Message] = list(messages or [{"role": "user", "content": "Go ahead."}])

    def __iter__(self) -> Iterator[SessionTurn]:
        """Yield each turn before its question is answered; the last one is the final answer.

        Raises:
            ClientError: The server does not answer, refuses, or does not run inquiries.
        """
        while True:
            turn = self._next()
            self.messages.append({"role": "assistant", "content": turn.text})
            yield turn
            if turn.report.action != "ask":
                return
            self.messages.append({"role": "user", "content": self._answer(turn.text)})

    def run(self) -> InquiryStatus:
        """Run to the end and return the last report; its `label` is the final answer."""
        *_, last = self
        return last.report

    def _next(self) -> SessionTurn:
        self._model = self._model or first_model(self._client)
        with explained(self._client):
            answer = self._client.chat.completions.create(
                model=self._model, messages=self.messages, extra_body=self._body
            )
        choice = answer.choices[0]
        found = report(choice)
        if found is None or found.inquiry is None:
            raise ClientError(
                f"the server at {self._client.base_url} plays no games: it sent no report of an "
                "inquiry; start one with `entrostat serve`"
            )
        return SessionTurn(choice.message.content or "", found.inquiry)


def find_task(client: openai.OpenAI, name: str) -> str:
    """Id of a task's calibration, found by its id or by the task's name alone.

    Raises:
        ClientError: The server has no such task, does not answer, or refuses.
    """
    if "/" in name:
        return name
    with explained(client):
        listed = client.get("/entropy/artifacts", cast_to=_Artifacts)
    usable = [card.id for card in listed.data if card.kind == "inquiry-calibration" and card.usable]
    for one in usable:
        if one.rpartition("/")[2] == name:
            return one
    raise ClientError(
        f"the server at {client.base_url} has no task `{name}` for its model; "
        + (f"it has {', '.join(usable)}" if usable else "make one with `train-probe inquiry`")
    )


class _Card(openai.BaseModel):
    id: str
    kind: str
    usable: bool


class _Artifacts(openai.BaseModel):
    data: list[_Card]
