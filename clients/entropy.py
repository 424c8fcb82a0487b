"""Typed helpers for the OpenAI SDK: build the controls of a request, read the report.

    answer = client.chat.completions.create(
        model="smollm2-135m", messages=messages, extra_body=controls(entropy_target(1.2))
    )
    print(report(answer.choices[0]).entropy_mean)

The server validates ranges and contradictions: it answers 400 and names the field. An old client
therefore works with a newer server.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice

from clients.laws import (
    Law,
    PhaseLaws,
    by_phase,
    dynatemp,
    edt,
    entropy_target,
    fixed,
    hapo,
    law,
    shuffled,
)
from clients.reports import (
    AbstentionVerdict,
    AnsweredQuestion,
    AppliedStrategy,
    Confidence,
    DifficultyDecision,
    EntropyReport,
    InquiryStatus,
    Measurements,
    SemanticEntropy,
    Steering,
    Token,
    Vote,
    report,
)
from clients.selective import (
    SelectiveAnswer,
    abstain,
    ask_or_decline,
    confidence,
    semantic,
    vote,
)
from clients.truncations import Truncation, mirostat, p_less, top_n_sigma

__all__ = [
    "AbstentionVerdict",
    "AnsweredQuestion",
    "AppliedStrategy",
    "Confidence",
    "DifficultyDecision",
    "EntropyReport",
    "EntropyStream",
    "InquiryStatus",
    "Law",
    "Measurements",
    "PhaseLaws",
    "Piece",
    "SelectiveAnswer",
    "SemanticEntropy",
    "Steering",
    "Token",
    "Trace",
    "Truncation",
    "Vote",
    "abstain",
    "ask_or_decline",
    "by_phase",
    "confidence",
    "controls",
    "difficulty",
    "dynatemp",
    "edt",
    "entropy_target",
    "fixed",
    "hapo",
    "inquiry",
    "law",
    "mirostat",
    "p_less",
    "report",
    "semantic",
    "shuffled",
    "steer",
    "top_n_sigma",
    "vote",
]

Trace = Literal["none", "summary", "tokens"]


def difficulty(
    probe: str | None = None,
    *,
    shadow: bool = False,
    effort: bool = False,
    strategies: Mapping[str, Mapping[str, object]] | None = None,
    labels: Literal["worth", "diffadapt"] | None = None,
    price: float | None = None,
) -> dict[str, object]:
    """Let the question's difficulty select added text, temperature and budget (arXiv 2510.19669).

    Args:
        probe: Id of a `difficulty-probe` artifact; None selects the model's own.
        shadow: Decide and report, but do not change the request.
        effort: Take the strategy from the request's `reasoning_effort`: low is easy, high is hard.
        strategies: Under `easy`, `normal` and `hard`, each with `temperature`, `budget` and
            `prompt`; None selects those stored with the probe.
        labels: Choose by `worth` (the default where the probe can) or by class, `diffadapt`.
        price: With `worth`: accuracy that a normal answer's worth of tokens may cost.
    """
    own = None if strategies is None else {name: dict(one) for name, one in strategies.items()}
    given = {"probe": probe, "labels": labels, "price": price, "strategies": own}
    chosen = {key: value for key, value in given.items() if value is not None}
    return {"mode": "shadow" if shadow else "act", "effort": effort, **chosen}


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
        strength: Multiple of the vector to add. Give exactly one of `strength`, `relative` and
            `clamp`.
        relative: Strength as a multiple of the residual stream's mean norm.
        clamp: Lower and upper limit for the stream's component along the vector.
        layers: Subset of the vector's layers; None selects all.
        whole_prompt: Steer every prompt token, not only from the last one on.

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
    """Run an inquiry: in each turn, ask the question that shrinks the prediction set most.

    Args:
        task: Id of the `inquiry-calibration` artifact.
        confidence_level: Wanted coverage of the prediction set, such as 0.9.
        max_turns: Largest number of questions.
        policy: "set_size" is C-IP, the server's default; "entropy" is plain information pursuit.
        predictor: Source of the label probabilities; None selects the artifact's better one.
        queries: "open" lets the model propose questions; the default uses the task's questions.
        max_candidates: Largest number of questions that "direct" evaluates per turn.
        tolerance: For "set_size": relative difference up to which expected sizes count as equal.

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
    temperature: Law | PhaseLaws | None = None,
    *,
    truncation: Truncation | None = None,
    difficulty: dict[str, object] | None = None,
    steering: Iterable[dict[str, object]] | None = None,
    inquiry: dict[str, object] | None = None,
    confidence: dict[str, object] | None = None,
    abstain: dict[str, object] | None = None,
    vote: dict[str, object] | None = None,
    semantic: dict[str, object] | None = None,
    profile: str | None = None,
    trace: Trace | None = None,
) -> dict[str, object]:
    """Build `extra_body` for `chat.completions.create` and `completions.create`.

    Args:
        temperature: A law, or the result of `by_phase`; None keeps the profile's law, or the
            request's own temperature.
        truncation: Result of `top_n_sigma`, `p_less` or `mirostat`; None keeps the profile's.
        difficulty: Result of `difficulty`; None keeps the profile's.
        steering: Results of `steer`; None keeps the profile's.
        inquiry: Result of `inquiry`; None requests a normal answer.
        confidence: Result of `confidence`; None keeps the profile's.
        abstain: Result of `abstain`; None keeps the profile's.
        vote: Result of `vote`; None keeps the profile's.
        semantic: Result of `semantic`; None keeps the profile's.
        profile: Name of a profile on the server; the other arguments override its fields.
        trace: "tokens" reports every token's entropy and temperature, "summary" (the server's
            default) their statistics, "none" nothing.
    """
    asked = {
        "profile": profile,
        "temperature": temperature,
        "truncation": truncation,
        "difficulty": difficulty,
        "steering": None if steering is None else list(steering),
        "inquiry": inquiry,
        "confidence": confidence,
        "abstain": abstain,
        "vote": vote,
        "semantic": semantic,
        "trace": trace,
    }
    return {"entropy": {key: value for key, value in asked.items() if value is not None}}


class Piece(NamedTuple):
    """The part of one streamed chunk that belongs to one choice."""

    text: str
    tokens: tuple[Token, ...]
    """Tokens reported with this chunk; may be several, or none."""
    choice: int
    """Index of the choice, for n > 1."""


class EntropyStream:
    """Iterates over the pieces of a streamed answer; `report()` returns its report at the end.

        answer = EntropyStream(client.chat.completions.create(..., stream=True))
        for piece in answer:
            print(piece.text, piece.tokens)
        print(answer.report())

    Streams of the async client work as well: `async for piece in answer`.
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
        """Process one chunk and return its pieces, one for each choice with text or tokens."""
        pieces = []
        for choice in chunk.choices:
            index, text = choice.index, _text(choice)
            tokens = self._read((choice.model_extra or {}).get("entropy"), index)
            if text or tokens:
                self._texts[index] = self.text(index) + text
                pieces.append(Piece(text, tokens, index))
        return pieces

    def _read(self, raw: dict[str, Any] | None, index: int) -> tuple[Token, ...]:
        """Store a chunk's report of choice `index` and return the tokens in this chunk."""
        if raw is None:
            return ()
        part = EntropyReport.model_validate(raw)
        # Only the last chunk of a choice carries the summary; earlier ones carry tokens alone.
        if part.tokens is None or part.num_tokens:
            self._summaries[index] = part
        if part.tokens is not None:
            self._tokens[index] = self._tokens.get(index, ()) + part.tokens
        return part.tokens or ()

    def text(self, index: int = 0) -> str:
        """The text of choice `index` received so far."""
        return self._texts.get(index, "")

    def report(self, index: int = 0) -> EntropyReport | None:
        """The report of choice `index`, its tokens included; None before the stream has ended."""
        summary, tokens = self._summaries.get(index), self._tokens.get(index)
        if summary is None or tokens is None:
            return summary
        return summary.model_copy(update={"tokens": tokens})


def _text(choice: Choice | CompletionChoice) -> str:
    text = choice.text if isinstance(choice, CompletionChoice) else choice.delta.content
    return text or ""
