"""Checks that refuse a well-formed control which contradicts the request or cannot act on it.

The models of `server.wire.request` reject values out of range. `server.artifacts` rejects missing
and incompatible artifacts.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from probes.difficulty.strategies import Difficulty
from probes.laws import FixedLaw, ShuffledLaw, TemperatureLaw
from probes.truncations import Mirostat, Truncation
from server.errors import BadControl
from server.planning.thinking import ThinkingMarks
from server.wire.request import Control, PhaseLaws, Steer, Trace

if TYPE_CHECKING:  # imports torch
    from probes.artifact.identity import Adapter

EFFORTS = {
    "none": Difficulty.EASY,
    "minimal": Difficulty.EASY,
    "low": Difficulty.EASY,
    "medium": Difficulty.NORMAL,
    "high": Difficulty.HARD,
    "xhigh": Difficulty.HARD,
    "max": Difficulty.HARD,
}
"""Maps each value of `reasoning_effort` in the OpenAI SDK to a class."""


class RequestParams(NamedTuple):
    """The request parameters outside `entropy` that controls depend on."""

    temperature: float | None = None
    """None if the request sets no temperature."""
    reasoning_effort: str | None = None
    answers_one_chat: bool = True
    """Whether the request is a single conversation."""
    supports_inquiry: bool = True
    """Whether the route supports inquiries."""
    has_choices: bool = True
    """Whether the response has `choices`."""
    has_tools: bool = False
    max_tokens: int | None = None
    """None if the request sets no limit."""
    max_model_len: int = 0
    """Tokens of the longest sequence; 0 if it is not known."""
    max_samples: int = 32
    """Answers that a request may sample."""
    streams: bool = False
    last_message: Mapping[str, Any] | None = None
    """Last message of that conversation."""
    adapter: "Adapter | None" = None
    """The LoRA adapter named as the model."""
    num_choices: int = 1
    beam_search: bool = False
    background: bool = False
    truncating: tuple[str, ...] = ()
    """Which of `top_k`, `top_p` and `min_p` the request sets."""
    speculative: bool = False
    """Whether the server verifies draft tokens."""
    thinking: ThinkingMarks | None = None
    """Of the served model; None if they are not known."""
    is_baseline: bool = False
    """Whether the difficulty of the question changes nothing: what it saves is measured."""
    unsupported_by_inquiry: tuple[str, ...] = ()
    """Fields set in the request that an inquiry does not support."""


def refuse_temperature(
    temperature: TemperatureLaw | PhaseLaws | None, params: RequestParams
) -> None:
    """Refuse a fixed temperature that differs from the request's. Greedy requests stay greedy.

    Raises:
        BadControl: Names `temperature`.
    """
    own, laws = params.temperature, [temperature]
    if isinstance(temperature, PhaseLaws):
        laws = [temperature.thinking, temperature.answer]
    fixed = [law.temperature for law in laws if isinstance(law, FixedLaw)]
    # A law of the other phase may use the request's temperature as T0.
    if len(fixed) == len(laws) and own not in (None, 0, *fixed):
        raise BadControl(
            f"`temperature` ({own}) contradicts the fixed temperature of `entropy` "
            f"({', '.join(str(one) for one in dict.fromkeys(fixed))}): leave one out",
            "temperature",
        )


def refuse_phases(laws: PhaseLaws, params: RequestParams) -> None:
    """Refuse laws by phase where the phases are not known, and two histograms at once.

    Raises:
        BadControl: Names `entropy.temperature`.
    """
    param, differ = "entropy.temperature", laws.thinking != laws.answer
    if differ and params.thinking is None:
        raise BadControl(
            f"`{param}`: the tokens that start and end this model's thinking are not known: start "
            "the server with the model's --reasoning-parser, or give one law",
            param,
        )
    if differ and isinstance(laws.thinking, ShuffledLaw) and isinstance(laws.answer, ShuffledLaw):
        raise BadControl(f"`{param}`: only one phase can have the law `shuffled`", param)


def refuse_truncation(truncation: Truncation | None, params: RequestParams) -> None:
    """Refuse mirostat where its limit would not follow the tokens that are sampled.

    Raises:
        BadControl: Names `entropy.truncation`, or the request's own truncation.
    """
    if not isinstance(truncation, Mirostat):
        return
    if params.speculative:
        param = "entropy.truncation"
        message = (
            f"`{param}`: mirostat moves its limit after every token, so it does not work with "
            "speculative decoding: choose top_n_sigma or p_less"
        )
        raise BadControl(message, param)
    for field in params.truncating:
        raise BadControl(f"`{field}`: mirostat replaces it: leave one of them out", field)


def refuse_missing_question(params: RequestParams) -> None:
    """Refuse a difficulty control if the request has no question for the probe to read.

    Raises:
        BadControl: Names `entropy.difficulty`.
    """
    reason = missing_question(params)
    if not params.answers_one_chat:
        reason = (
            "the difficulty of a question is read in /v1/chat/completions and /v1/messages only"
        )
    if reason is not None:
        raise BadControl(f"`entropy.difficulty`: {reason}", "entropy.difficulty")


def missing_question(params: RequestParams) -> str | None:
    """Why the conversation does not end with a question of the user; None if it does."""
    last = params.last_message or {}
    if last.get("role") != "user":
        return "the last message must be the user's: it is the question"
    if not _has_text(last.get("content")):
        return "the last message has no text: there is no question"
    return None


def _has_text(content: object) -> bool:
    if isinstance(content, Sequence) and not isinstance(content, str):
        return any(isinstance(part, Mapping) and part.get("text") for part in content)
    return bool(content)


def effort_class(params: RequestParams) -> Difficulty | None:
    """The class that `reasoning_effort` selects; None if it is not set.

    Raises:
        BadControl: Names `reasoning_effort`.
    """
    effort = params.reasoning_effort
    if effort is not None and effort not in EFFORTS:
        known = ", ".join(EFFORTS)
        raise BadControl(
            f"`reasoning_effort`: unknown value `{effort}`; known: {known}", "reasoning_effort"
        )
    return None if effort is None else EFFORTS[effort]


def refuse_inquiry_with_sampling(control: Control) -> None:
    """Refuse an inquiry together with sampling controls.

    Raises:
        BadControl: Names the other control.
    """
    for field in ("temperature", "truncation", "difficulty"):
        if control.inquiry is not None and getattr(control, field) is not None:
            raise BadControl(
                f"`entropy.{field}` contradicts `entropy.inquiry`, whose questions are chosen and "
                "not sampled: leave one out",
                f"entropy.{field}",
            )


def refuse_unsupported_inquiry(params: RequestParams) -> None:
    """Refuse an inquiry that the route or another field rules out.

    Raises:
        BadControl: Names the field.
    """
    if not params.supports_inquiry:
        message = "`entropy.inquiry`: inquiries are answered in /v1/chat/completions only"
        raise BadControl(message, "entropy.inquiry")
    if params.num_choices > 1:
        raise BadControl("`n`: an inquiry asks one question", "n")
    for field in params.unsupported_by_inquiry:
        raise BadControl(f"`{field}` contradicts `entropy.inquiry`: leave one out", field)


def refuse_mixed_positions(vectors: Sequence[Steer]) -> None:
    """Refuse vectors that steer different positions.

    Raises:
        BadControl: Names `entropy.steering.positions`.
    """
    if len({one.positions for one in vectors}) > 1:
        param = "entropy.steering.positions"
        raise BadControl(f"`{param}`: the vectors of a request have the same positions", param)


def refuse_two_clamps(layers: Sequence[int]) -> None:
    """Refuse to clamp one layer along two vectors.

    Args:
        layers: Every clamped layer of every vector.

    Raises:
        BadControl: Names `entropy.steering`.
    """
    if len(layers) != len(set(layers)):
        param = "entropy.steering"
        raise BadControl(f"`{param}`: a layer can be clamped along one vector only", param)


def refuse_beam_search(params: RequestParams) -> None:
    """Refuse controls on a beam search, which does not sample.

    Raises:
        BadControl: Names `use_beam_search`.
    """
    if params.beam_search:
        message = "`use_beam_search` does not sample: leave out `entropy`"
        raise BadControl(message, "use_beam_search")


def refuse_background_report(trace: Trace, params: RequestParams) -> None:
    """Refuse a report on a background response, which is returned before generation.

    Raises:
        BadControl: Names `background`.
    """
    if params.background and trace != "none":
        raise BadControl(
            "`background` answers before there is anything to report: leave it out, or set "
            '`entropy.trace` to "none"',
            "background",
        )
