"""Samples answers and their per-token traces from a pool of running servers."""

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self, cast

import openai
from openai.types.chat import ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.connection import Message
from clients.entropy import EntropyReport, controls, report
from probes.selective.scores import SCORE_NAMES
from training.common.errors import TrainingError

MAX_PAUSE = 30.0
"""Seconds; the longest wait between two attempts."""


class Sampling(NamedTuple):
    """Sampling parameters of answers."""

    temperature: float | None = 1.0
    """None leaves it to the server."""
    max_tokens: int = 256
    control: Mapping[str, object] = {}
    """Keys of the request's `entropy`, besides the trace."""
    further: Mapping[str, object] = {}
    """Other keys of the request, such as `min_p`."""
    logprobs: bool = False
    """Whether to ask for the log-probability of every token, as stock vLLM reports it."""


class SampleRequest(NamedTuple):
    """One answer to be drawn."""

    number: int
    messages: list[dict[str, str]]
    seed: int
    sampling: Sampling | None = None
    """None selects the pool's."""


def _is_absent(value: object) -> bool:
    return value is None


class RolloutRecord(BaseModel):
    """One answer and what was measured at each of its tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    number: int
    messages: list[dict[str, str]]
    seed: int
    text: str
    finish_reason: str
    entropies: list[float | None]
    """Nats, at temperature 1; None where it was not a number."""
    temperatures: list[float | None]
    logprobs: list[float] | None = Field(None, exclude_if=_is_absent)
    """Of the tokens, as stock vLLM reports them; None unless they were asked for."""
    pieces: list[str] | None = Field(None, exclude_if=_is_absent)
    """Text of every token; None unless log-probabilities were asked for."""
    varentropies: list[float | None] | None = Field(None, exclude_if=_is_absent)
    """Nats^2, at temperature 1; None unless log-probabilities were asked for."""
    top_logprobs: list[list[float]] | None = Field(None, exclude_if=_is_absent)
    """Those of the most probable tokens at every place, the sampled one among them; None unless the
    request had `top_logprobs`."""
    scores: dict[str, float | None] | None = Field(None, exclude_if=_is_absent)
    """Scores of the answer by name; None unless the request had the control `confidence`."""
    difficulty: str | None = Field(None, exclude_if=_is_absent)
    """The class that the server's probe chose; None unless it was asked."""
    prepass: bool = Field(False, exclude_if=lambda value: not value)
    """Whether a pre-pass of one generated token came before the answer."""

    @property
    def finite_entropies(self) -> list[float]:
        """The entropies that are numbers."""
        return [entropy for entropy in self.entropies if entropy is not None]


class ServedModel(NamedTuple):
    """The model and version that a server reports."""

    model: str
    root: str
    """Folder or hub id that the model was loaded from, as the server sees it."""
    vllm: str


class RetryableError(Exception):
    """The request may succeed on another attempt or another server."""


def request_seed(seed: int, number: int) -> int:
    """Seed of request `number`; hashed, so that jobs with adjacent seeds share no random stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4]) >> 1


class ServerPool:
    """Servers of one model, used in turn; an async context manager."""

    def __init__(
        self,
        urls: Sequence[str],
        sampling: Sampling,
        *,
        concurrency: int = 16,
        attempts: int = 6,
        pause: float = 1.0,
        timeout: float = 600.0,
    ) -> None:
        """Create the clients; does not connect yet.

        Args:
            urls: Addresses of servers, with or without `/v1`.
            sampling: How answers are drawn.
            concurrency: Requests under way at once, over all servers together.
            attempts: Tries per request before the run fails; each goes to the next server.
            pause: Seconds before the second try; doubles from try to try.
            timeout: Seconds an answer may take.
        """
        key = os.environ.get("OPENAI_API_KEY") or "none"  # vLLM needs none by default
        bases = [f"{url.rstrip('/').removesuffix('/v1')}/v1" for url in urls]
        self._clients = [
            openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0, timeout=timeout)
            for base in bases
        ]
        self._turns = itertools.count()
        self._model = ""
        self._sampling = sampling
        self._concurrency = concurrency
        self._attempts = attempts
        self._pause = pause

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()

    async def connect(self) -> ServedModel:
        """Check which model every server serves and whether it measures entropy.

        Raises:
            TrainingError: One does not answer, is not an Entrostat server or serves something else.
        """
        answers = [await _describe(client) for client in self._clients]
        for client, served in zip(self._clients, answers, strict=True):
            if served != answers[0]:
                raise TrainingError(
                    f"the servers differ: {self._clients[0].base_url} has {answers[0]}, "
                    f"{client.base_url} has {served}"
                )
        self._model = answers[0].model
        greeting = SampleRequest(0, [{"role": "user", "content": "Hello"}], 0)
        for client in self._clients:
            try:
                await self._request(client, greeting, Sampling(self._sampling.temperature, 1))
            except RetryableError as error:
                raise TrainingError(str(error)) from error
        return answers[0]

    async def read(self, path: str) -> Any:
        """Response of the first server to a GET of a route such as `/entropy/profiles`.

        Raises:
            TrainingError: It does not answer.
        """
        client = self._clients[0]
        try:
            return await client.get(path, cast_to=object)
        except openai.APIError as error:
            raise TrainingError(str(_sampling_error(error, client))) from error

    async def run(self, asks: Iterable[SampleRequest]) -> AsyncGenerator[RolloutRecord, None]:
        """Draw answers, in the order in which they finish.

        Args:
            asks: Drawn from lazily: the next one when a place is free, so that a generator can
                look at what has arrived and stop.

        Raises:
            TrainingError: A request failed for good. What had finished by then is yielded first.
        """
        source, under_way = iter(asks), set[asyncio.Task[RolloutRecord]]()
        try:
            while True:
                free = self._concurrency - len(under_way)
                started = [self.sample(ask) for ask in itertools.islice(source, free)]
                under_way |= {asyncio.create_task(rollout) for rollout in started}
                if not under_way:
                    return
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: task.exception() is not None):
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def sample(self, ask: SampleRequest) -> RolloutRecord:
        """Draw one answer.

        Raises:
            TrainingError: The request is refused, or every attempt failed.
        """
        turn = next(self._turns)
        for attempt in itertools.count(1):
            # Counted per request, so that retries of other requests do not shift the rotation.
            client = self._clients[(turn + attempt - 1) % len(self._clients)]
            try:
                return await self._request(client, ask, ask.sampling or self._sampling)
            except RetryableError as error:
                if attempt == self._attempts:
                    raise TrainingError(f"{error} ({attempt} attempts)") from error
                await asyncio.sleep(min(self._pause * 2 ** (attempt - 1), MAX_PAUSE))
        raise AssertionError("unreachable")

    async def _request(
        self, client: openai.AsyncOpenAI, ask: SampleRequest, sampling: Sampling
    ) -> RolloutRecord:
        temperature = sampling.temperature
        extra = controls(trace="tokens")
        extra["entropy"] = {**cast(dict[str, object], extra["entropy"]), **sampling.control}
        try:
            answer = await client.chat.completions.create(
                model=self._model,
                messages=cast(list[Message], ask.messages),
                temperature=openai.omit if temperature is None else temperature,
                max_completion_tokens=sampling.max_tokens,
                seed=ask.seed,
                logprobs=sampling.logprobs or openai.omit,
                extra_body={**extra, **sampling.further},
            )
        except openai.APIError as error:
            raise _sampling_error(error, client) from error
        return _record(ask, answer.choices[0], str(client.base_url))


def _record(ask: SampleRequest, choice: Choice, server: str) -> RolloutRecord:
    """The answer and its measurements.

    Raises:
        TrainingError: The server measures nothing.
        RetryableError: The measurements are incomplete.
    """
    measured = report(choice)
    if measured is None:
        raise TrainingError(
            f"{server} sends no `entropy` with its answers: it is not an Entrostat "
            "server, start one with `entrostat serve`"
        )
    tokens, decision = measured.tokens or (), measured.difficulty
    logprobs = None if choice.logprobs is None else choice.logprobs.content
    rollout = RolloutRecord(
        number=ask.number,
        messages=ask.messages,
        seed=ask.seed,
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        entropies=[token.entropy for token in tokens],
        temperatures=[token.temperature for token in tokens],
        logprobs=None if logprobs is None else [token.logprob for token in logprobs],
        pieces=None if logprobs is None else [token.token for token in logprobs],
        varentropies=None if logprobs is None else [token.varentropy for token in tokens],
        top_logprobs=_alternatives(logprobs or []),
        scores=_scores(measured),
        difficulty=None if decision is None else decision.label,
        prepass=decision is not None and decision.prepass_tokens is not None,
    )
    # A missing entropy of a token comes from the model; other missing data are a failure.
    if measured.fallback not in (None, "no_entropy") or not rollout.finite_entropies:
        reason = measured.fallback or "no token was measured"
        raise RetryableError(f"{server} sent an incomplete trace: {reason}")
    return rollout


def _alternatives(logprobs: Sequence[ChatCompletionTokenLogprob]) -> list[list[float]] | None:
    found = [[round(one.logprob, 5) for one in token.top_logprobs] for token in logprobs]
    return found if any(found) else None


def _scores(measured: EntropyReport) -> dict[str, float | None] | None:
    if measured.confidence is None:
        return None
    found = {**dict(measured), **dict(measured.confidence)}
    return {name: found[name] for name in SCORE_NAMES}


class _Card(BaseModel):
    id: str
    root: str | None = None


class _Models(BaseModel):
    data: list[_Card]


class _Version(BaseModel):
    version: str


async def _describe(client: openai.AsyncOpenAI) -> ServedModel:
    try:
        models = await client.get("/models", cast_to=object)
        version = await client.get(str(client.base_url.join("../version")), cast_to=object)
        card = _Models.model_validate(models).data[0]
        return ServedModel(card.id, card.root or "", _Version.model_validate(version).version)
    except (ValidationError, IndexError, openai.NotFoundError) as error:
        raise TrainingError(
            f"{client.base_url} is not a vLLM server: start one with `entrostat serve`"
        ) from error
    except openai.APIConnectionError as error:
        raise TrainingError(
            f"no server answers at {client.base_url}: start one with `entrostat serve`, "
            "or leave out --server"
        ) from error
    except openai.APIError as error:
        raise TrainingError(str(_sampling_error(error, client))) from error


def _sampling_error(error: openai.APIError, client: openai.AsyncOpenAI) -> Exception:
    """Convert an error of the SDK."""
    if isinstance(error, openai.APIConnectionError):
        return RetryableError(f"{client.base_url} does not answer")
    if not isinstance(error, openai.APIStatusError):
        return TrainingError(f"{client.base_url} broke off: {error.message}")
    message = error.body.get("message") if isinstance(error.body, dict) else None
    text = " ".join(str(message or error.message).split())
    sentence = f"{client.base_url} answers {error.status_code}: {text}"
    may_pass = error.status_code == 429 or error.status_code >= 500
    return RetryableError(sentence) if may_pass else TrainingError(sentence)
