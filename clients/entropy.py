"""Controls in, report out: what a server adds to the OpenAI SDK, with types.

    answer = client.chat.completions.create(
        model="smollm2-135m", messages=messages, extra_body=controls(entropy_target(1.2))
    )
    print(report(answer.choices[0]).entropy_mean)

Ranges and contradictions are the server's to check: it answers 400 and names the field, so that an
old client can speak to a newer server.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice

from clients.reports import (
    AnsweredQuestion,
    AppliedStrategy,
    DifficultyDecision,
    EntropyReport,
    InquiryStatus,
    Steering,
    Token,
    report,
)

__all__ = [
    "AnsweredQuestion",
    "AppliedStrategy",
    "DifficultyDecision",
    "EntropyReport",
    "EntropyStream",
    "InquiryStatus",
    "Law",
    "Piece",
    "Steering",
    "Token",
    "Trace",
    "controls",
    "difficulty",
    "dynatemp",
    "edt",
    "entropy_target",
    "fixed",
    "hapo",
    "inquiry",
    "law",
    "report",
    "steer",
]

Trace = Literal["none", "summary", "tokens"]
Law = dict[str, str | float]
"""A temperature law as the wire has it; made by the functions below."""


def law(type: str, **parameters: float | str) -> Law:
    """Any law by its name on the wire; the functions below are shorthands for those of today."""
    return {"type": type, **parameters}


def fixed(temperature: float) -> Law:
    """One temperature for every token, measured all the same."""
    return {"type": "fixed", "temperature": temperature}


def hapo(
    tau: float = 0.05,
    *,
    statistics: str | None = None,
    compat: Literal["published"] | None = None,
) -> Law:
    """Heat uncertain tokens and cool certain ones, by at most the share `tau`.

    Args:
        tau: Largest relative change of the request's temperature.
        statistics: Id of the artifact that says how uncertain this model usually is.
        compat: "published" repeats the paper's code, which heats certain tokens as well.

    Source: HAPO (arXiv 2509.16591).
    """
    law: Law = {"type": "hapo", "tau": tau}
    if statistics is not None:
        law["statistics"] = statistics
    if compat is not None:
        law["compat"] = compat
    return law


def edt(theta: float = 0.5, base: float = 0.8) -> Law:
    """T = T0 base^(theta / H): the surer the model, the colder.

    Source: EDT (arXiv 2403.14541).
    """
    return {"type": "edt", "theta": theta, "base": base}


def dynatemp(range: float = 0.5, exponent: float = 1.0) -> Law:
    """T between T0 - range and T0 + range by the entropy as a share of ln(vocabulary).

    Source: llama.cpp, `--dynatemp-range`.
    """
    return {"type": "dynatemp", "range": range, "exponent": exponent}


def entropy_target(
    nats: float,
    *,
    side: Literal["ceiling", "floor", "both"] = "ceiling",
    temperature_min: float = 0.1,
    temperature_max: float = 2.0,
) -> Law:
    """Keep the entropy of every token's distribution at most, at least or exactly at a target.

    Args:
        nats: The target.
        side: "ceiling" only cools, "floor" only heats the request's own temperature; "both" does
            both.
        temperature_min: No token is cooled below this temperature.
        temperature_max: No token is heated above this temperature.
    """
    return {
        "type": "entropy_target",
        "entropy_target": nats,
        "temperature_min": temperature_min,
        "temperature_max": temperature_max,
        "side": side,
    }


def difficulty(
    probe: str | None = None,
    *,
    shadow: bool = False,
    effort: bool = False,
    strategies: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, object]:
    """Answer by how hard the question is: text, temperature and budget follow from its class.

    Args:
        probe: Id of the artifact that reads it; None takes the model's own.
        shadow: Decide and report, change nothing.
        effort: Let the request's `reasoning_effort` pick the class: low easy, high hard.
        strategies: By `easy`, `normal` and `hard`, each with `temperature`, `budget` and `prompt`;
            None takes those stored with the probe.

    Source: DiffAdapt (arXiv 2510.19669).
    """
    asked: dict[str, object] = {"mode": "shadow" if shadow else "act", "effort": effort}
    if strategies is not None:
        asked["strategies"] = {name: dict(one) for name, one in strategies.items()}
    return asked if probe is None else {"probe": probe, **asked}


def steer(
    vector: str,
    strength: float | None = None,
    *,
    relative: float | None = None,
    clamp: tuple[float, float] | None = None,
    layers: Iterable[int] | None = None,
    whole_prompt: bool = False,
) -> dict[str, object]:
    """Add a steering vector to the model's residual stream while the answer is decoded.

    Args:
        vector: Id of its artifact.
        strength: How many times the vector; exactly one of this and the next two.
        relative: The same in multiples of the stream's mean norm.
        clamp: Hold the stream's component along the vector inside this band instead.
        layers: Only these of its layers.
        whole_prompt: Steer the prompt too, not only from its last token on.

    Source: EAST (arXiv 2406.00244).
    """
    asked = {
        "vector": vector,
        "strength": strength,
        "strength_relative": relative,
        "clamp": clamp,
        "layers": None if layers is None else list(layers),
        "positions": "all" if whole_prompt else None,
    }
    return {key: value for key, value in asked.items() if value is not None}


def inquiry(
    task: str,
    *,
    confidence_level: float | None = None,
    max_turns: int | None = None,
    policy: Literal["set_size", "entropy"] | None = None,
    predictor: Literal["table", "likelihood", "direct"] | None = None,
    queries: Literal["closed", "open"] | None = None,
    max_candidates: int | None = None,
    tolerance: float | None = None,
) -> dict[str, object]:
    """Ask the question that shrinks the set of answers, turn by turn.

    Args:
        task: Id of the `inquiry-calibration` artifact.
        confidence_level: How often the prediction set shall hold the true label.
        max_turns: Most questions.
        policy: "set_size" is C-IP, the server's default; "entropy" plain information pursuit.
        predictor: Where label probabilities come from; None takes the artifact's better one.
        queries: "open" lets the model propose the questions; the server's default is the task's.
        max_candidates: Largest number of questions that "direct" looks ahead at.
        tolerance: Share by which expected sets may differ and still tie; of "set_size".

    Source: C-IP (arXiv 2507.03279).
    """
    asked = {
        "confidence_level": confidence_level,
        "max_turns": max_turns,
        "policy": policy,
        "predictor": predictor,
        "queries": queries,
        "max_candidates": max_candidates,
        "tolerance": tolerance,
    }
    return {"task": task} | {key: value for key, value in asked.items() if value is not None}


def controls(
    temperature: Law | None = None,
    *,
    difficulty: dict[str, object] | None = None,
    steering: Iterable[dict[str, object]] | None = None,
    inquiry: dict[str, object] | None = None,
    profile: str | None = None,
    trace: Trace | None = None,
) -> dict[str, object]:
    """Build `extra_body` for `chat.completions.create` and `completions.create`.

    Args:
        temperature: A law; None leaves it to the profile, or to the request's own temperature.
        difficulty: What `difficulty` made; None leaves it to the profile.
        steering: What `steer` made, one or several; None leaves it to the profile.
        inquiry: What `inquiry` made; None answers instead of asking.
        profile: Name of controls kept by the server; what is given beside it overrides its own.
        trace: "tokens" returns every token's entropy and temperature, "summary" (the server's
            default) their statistics, "none" nothing.
    """
    asked = {
        "profile": profile,
        "temperature": temperature,
        "difficulty": difficulty,
        "steering": None if steering is None else list(steering),
        "inquiry": inquiry,
        "trace": trace,
    }
    return {"entropy": {key: value for key, value in asked.items() if value is not None}}


class Piece(NamedTuple):
    """One chunk's share of one choice."""

    text: str
    tokens: tuple[Token, ...]
    """Tokens the text was made from; a chunk may hold several, or text without tokens."""
    choice: int
    """Index of the choice, for n > 1."""


class EntropyStream:
    """The pieces of a streamed answer and, once they are read, its report.

        answer = EntropyStream(client.chat.completions.create(..., stream=True))
        for piece in answer:
            print(piece.text, piece.tokens)
        print(answer.report())

    Takes a stream of the async client as well: `async for piece in answer`.
    """

    def __init__(
        self,
        chunks: Iterable[ChatCompletionChunk | Completion]
        | AsyncIterable[ChatCompletionChunk | Completion] = (),
    ) -> None:
        self._chunks = chunks
        self._texts: dict[int, str] = {}
        self._tokens: dict[int, tuple[Token, ...]] = {}
        self._summaries: dict[int, EntropyReport] = {}

    def __iter__(self) -> Iterator[Piece]:
        if not isinstance(self._chunks, Iterable):
            raise TypeError("this stream comes from an async client: use `async for`")
        for chunk in self._chunks:
            yield from self.feed(chunk)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        if not isinstance(self._chunks, AsyncIterable):
            raise TypeError("this stream comes from a sync client: use `for`")
        async for chunk in self._chunks:
            for piece in self.feed(chunk):
                yield piece

    def feed(self, chunk: ChatCompletionChunk | Completion) -> list[Piece]:
        """Take in one chunk by hand and return its pieces, one per choice that says something."""
        pieces = []
        for choice in chunk.choices:
            index, text = choice.index, _text(choice)
            tokens = self._read((choice.model_extra or {}).get("entropy"), index)
            if text or tokens:
                self._texts[index] = self.text(index) + text
                pieces.append(Piece(text, tokens, index))
        return pieces

    def _read(self, raw: dict[str, Any] | None, index: int) -> tuple[Token, ...]:
        """Keep what a chunk says about choice `index` and return the chunk's own tokens."""
        if raw is None:
            return ()
        part = EntropyReport.model_validate(raw)
        # Chunks on the way carry tokens and nothing else; the last one carries everything else.
        if part.tokens is None or part.num_tokens:
            self._summaries[index] = part
        if part.tokens is not None:
            self._tokens[index] = self._tokens.get(index, ()) + part.tokens
        return part.tokens or ()

    def text(self, index: int = 0) -> str:
        """Everything choice `index` has said so far."""
        return self._texts.get(index, "")

    def report(self, index: int = 0) -> EntropyReport | None:
        """The report of choice `index`, its tokens included; None before the stream has ended."""
        summary, tokens = self._summaries.get(index), self._tokens.get(index)
        if summary is None or tokens is None:
            return summary
        return summary.model_copy(update={"tokens": tokens})


def _text(choice: Choice | CompletionChoice) -> str:
    said = choice.text if isinstance(choice, CompletionChoice) else choice.delta.content
    return said or ""
