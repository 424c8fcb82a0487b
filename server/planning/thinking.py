"""The tokens that separate a served model's thinking from its answer."""

from collections.abc import Iterator
from typing import Any, NamedTuple

_PARSERS = frozenset(
    (
        *("", "cohere_command3", "cohere_command4", "deepseek_r1", "deepseek_v3", "ernie45"),
        *("glm45", "glm47", "holo2", "kimi_k2", "ling3", "mimo", "minicpmv", "minimax_m2"),
        *("minimax_m3", "mistral", "nemotron_v3", "olmo3", "qwen3", "seed_oss", "step3", "step3p5"),
    )
)
"""Parsers of vLLM whose two strings mark thinking and nothing else; those of others also mark the
channels or the ends of other messages. The empty name is `--reasoning-config` with own strings."""


class ThinkingMarks(NamedTuple):
    """The tokens that separate a model's thinking from its answer."""

    start: int
    """Starts the thinking."""
    end: int
    """Ends it."""
    turn_ends: frozenset[int] = frozenset()
    """End a message: what a prompt quotes before the last of them starts no thinking."""


def find_thinking_marks(vllm_config: Any) -> ThinkingMarks | None:
    """The marks that vLLM derived from `--reasoning-parser` or `--reasoning-config`.

    Returns:
        None without either flag, for a parser that is not known to mark thinking alone, and if a
        mark is more than one token.
    """
    found = vllm_config.reasoning_config
    if found is None or not found.enabled or found.reasoning_parser not in _PARSERS:
        return None
    start, end = found.reasoning_start_token_ids, found.natural_reasoning_end_token_ids
    if len(start) != 1 or len(end) != 1 or start == end:
        return None
    return ThinkingMarks(start[0], end[0], frozenset(_ends(vllm_config.model_config)))


def _ends(model_config: Any) -> Iterator[int]:
    """Tokens that end a message of the model."""
    generation: dict[str, Any] = model_config.try_get_generation_config()
    own = getattr(model_config.hf_text_config, "eos_token_id", None)
    for ids in (own, generation.get("eos_token_id")):
        yield from ids if isinstance(ids, list) else () if ids is None else (ids,)
