"""A game of questions for programs: a callable answers, the server asks.

session = InquirySession(client, "smollm2-135m/animals", answer=input)
print(session.run().label)
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import openai

from clients.connection import ClientError, Message, explained, first_model
from clients.entropy import InquiryStatus, controls, inquiry, report


class SessionTurn(NamedTuple):
    """What the server said."""

    text: str
    report: InquiryStatus


class InquirySession:
    """One game. The messages are its state: a session can go on from another one's."""

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
        """Prepare a game; nothing is sent yet.

        Args:
            client: Of the server.
            task: Id of the artifact, `MODEL/TASK`.
            answer: Takes a question and returns the reply, in any words.
            model: The first one served if None.
            confidence_level: Of the prediction sets; the server's default if None.
            max_turns: Most questions; the server's default if None.
            queries: "open" lets the model propose the questions.
            messages: A game to go on with, the user's turn last.
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
        """Play; each turn comes before its question is answered, the final answer last.

        Raises:
            ClientError: The server does not answer, refuses, or plays no games.
        """
        while True:
            turn = self._next()
            self.messages.append({"role": "assistant", "content": turn.text})
            yield turn
            if turn.report.action != "ask":
                return
            self.messages.append({"role": "user", "content": self._answer(turn.text)})

    def run(self) -> InquiryStatus:
        """Play to the end; returns the last report, whose `label` is the final answer."""
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
    """Id of the calibration of a task, by its id or by the name of the task alone.

    Raises:
        ClientError: The server has none, or does not say.
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
