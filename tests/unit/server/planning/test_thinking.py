"""Which models have known phases."""

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.config.reasoning import ReasoningConfig
from vllm.reasoning import ReasoningParserManager

from server.planning.thinking import ThinkingMarks, find_thinking_marks


def found(
    parser: str = "qwen3", start: Any = (8,), end: Any = (9,), *, eos: Any = 3, own: Any = None
) -> ThinkingMarks | None:
    config = ReasoningConfig(reasoning_parser=parser)
    if start is not None:
        config._reasoning_start_token_ids = list(start)
        config._reasoning_end_token_ids = [4, 5, *end]  # with a phrase before it
        config._natural_reasoning_end_token_ids = list(end)
        config._enabled = True
    generation = {} if own is None else {"eos_token_id": own}
    model = SimpleNamespace(
        hf_text_config=SimpleNamespace(eos_token_id=eos),
        try_get_generation_config=lambda: generation,
    )
    return find_thinking_marks(SimpleNamespace(reasoning_config=config, model_config=model))


def test_the_marks_are_those_of_vllm_and_messages_end_with_any_end_token() -> None:
    assert found() == ThinkingMarks(8, 9, frozenset((3,)))
    assert found(eos=None, own=[6, 7]) == ThinkingMarks(8, 9, frozenset((6, 7)))
    assert found(eos=[3, 4], own=5) == ThinkingMarks(8, 9, frozenset((3, 4, 5)))
    assert found("") == ThinkingMarks(8, 9, frozenset((3,)))


@pytest.mark.parametrize(
    "options",
    [
        {"start": None},  # no parser, or one without strings
        {"parser": "gemma4"},  # its start is the tag of any channel
        {"parser": "nosuch"},
        {"start": (8, 10)},
        {"end": (9, 10)},
        {"end": (8,)},
    ],
)
def test_marks_that_are_not_certain_are_none(options: dict[str, Any]) -> None:
    assert found(**options) is None


def test_a_server_without_a_reasoning_config_has_no_marks() -> None:
    assert find_thinking_marks(SimpleNamespace(reasoning_config=None)) is None


def test_every_parser_that_is_trusted_exists() -> None:
    from server.planning.thinking import _PARSERS

    assert _PARSERS - {""} <= set(ReasoningParserManager.list_registered())
