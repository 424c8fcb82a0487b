"""Shared by the terminal programs: a client, a reusable request, errors in one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

DEFAULT_URL = "http://127.0.0.1:8000/v1"
Message = ChatCompletionMessageParam


class ClientError(RuntimeError):
    """An error for the user: one sentence with the cause and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """All parameters of a request except its messages."""

    client: openai.OpenAI
    model: str
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    extra_body: dict[str, object] = field(default_factory=dict)

    def send(self, messages: list[Message]) -> openai.Stream[ChatCompletionChunk]:
        """Send the messages and return the answer as a stream."""
        return self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            stream=True,
            temperature=openai.omit if self.temperature is None else self.temperature,
            max_completion_tokens=openai.omit if self.max_tokens is None else self.max_tokens,
            seed=openai.omit if self.seed is None else self.seed,
            extra_body=self.extra_body,
        )


def connect(url: str) -> openai.OpenAI:
    """A client for the server at `url`; sends no request."""
    key = os.environ.get("OPENAI_API_KEY") or "none"  # vLLM needs a key only with --api-key
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def first_model(client: openai.OpenAI) -> str:
    """Name of the first model that the server lists.

    Raises:
        ClientError: The server does not answer, refuses, or lists no model.
    """
    with explained(client):
        for card in client.models.list():
            return card.id
    raise ClientError(f"the server at {client.base_url} lists no model: name one with --model")


@contextmanager
def explained(client: openai.OpenAI) -> Iterator[None]:
    """Turn the SDK's errors into `ClientError`."""
    try:
        yield
    except openai.APITimeoutError as error:
        raise ClientError(f"the server at {client.base_url} did not answer in time") from error
    except openai.APIConnectionError as error:
        raise ClientError(
            f"no server answers at {client.base_url}: "
            "start one with `entrostat serve` or name another with --url"
        ) from error
    except openai.APIStatusError as error:
        message = error.body.get("message") if isinstance(error.body, dict) else None
        reason = " ".join(str(message or error.message).split())
        raise ClientError(f"the server answers {error.status_code}: {reason}") from error
    except openai.APIError as error:
        raise ClientError(f"the server broke off: {error.message}") from error
