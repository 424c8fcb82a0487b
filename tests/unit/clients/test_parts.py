from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.chat_completion import Choice

from clients.parts import part_figures, tokens_of

PIECES = ["So", " 12", " +", " 7", " =", " 1", "9", "."]
ENTROPIES = [1.0, 0.5, 0.25, 0.5, 0.1, 2.0, 4.0, 0.0]


def measured(entropy: float | None) -> dict[str, float | None]:
    """A token whose varentropy is ten times its entropy."""
    varentropy = None if entropy is None else 10 * entropy
    return {"entropy": entropy, "temperature": 1.0, "varentropy": varentropy}


def choice(pieces: list[str], entropies: list[float | None], **changes: Any) -> Choice:
    rows: list[dict[str, Any]] = [
        {"token": piece, "logprob": -(n + 1.0), "bytes": None, "top_logprobs": []}
        for n, piece in enumerate(pieces)
    ]
    content = "".join(pieces)
    return Choice.model_validate(
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": content},
            "logprobs": {"content": rows, "refusal": None},
            "entropy": {"tokens": list(map(measured, entropies))},
            **changes,
        }
    )


def test_the_figures_are_those_of_the_tokens_of_the_part() -> None:
    one = choice(PIECES, list(ENTROPIES))
    text = one.message.content or ""
    start = text.index("19")
    found = part_figures(one, start, start + 2)
    assert found == (3.0, 30.0, -6.5, -13.0, 2)


def test_thinking_before_the_answer_and_the_token_that_ends_it_are_no_part_of_it() -> None:
    pieces = ["12", "</think>", "\n", "12", "<end>"]
    assert tokens_of(pieces, "12", 0, 2) == slice(3, 4)


@given(st.lists(st.text("ab1 ", min_size=1, max_size=4), min_size=1, max_size=12), st.data())
def test_the_tokens_cover_the_part_and_no_token_more(pieces: list[str], data: Any) -> None:
    text = "".join(pieces)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    part = tokens_of(pieces, text, start, end)
    assert part is not None
    before = len("".join(pieces[: part.start]))
    after = len("".join(pieces[: part.stop]))
    assert before <= start < before + len(pieces[part.start])
    assert after - len(pieces[part.stop - 1]) < end <= after


@pytest.mark.parametrize(
    ("changes", "span"),
    [
        ({"logprobs": None}, (0, 2)),
        ({"entropy": {"tokens": None}}, (0, 2)),
        ({"message": {"role": "assistant", "content": "something else"}}, (0, 2)),
        ({}, (2, 2)),
        ({}, (0, 99)),
    ],
)
def test_without_logprobs_trace_or_such_a_part_there_are_no_figures(
    changes: dict[str, Any], span: tuple[int, int]
) -> None:
    assert part_figures(choice(PIECES, list(ENTROPIES), **changes), *span) is None


def test_a_token_without_an_entropy_is_left_out_of_its_mean_only() -> None:
    found = part_figures(choice(["1", "2"], [None, 3.0]), 0, 2)
    assert found == (3.0, 30.0, -1.5, -3.0, 2)


def test_a_server_that_reports_no_varentropy_leaves_it_out_alone() -> None:
    older = {"tokens": [{"entropy": 2.0, "temperature": 1.0}] * 2}
    assert part_figures(choice(["1", "2"], [], entropy=older), 0, 2) == (2.0, None, -1.5, -3.0, 2)
