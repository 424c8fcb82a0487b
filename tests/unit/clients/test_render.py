import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from clients.entropy import EntropyReport, EntropyStream, Token
from clients.render import (
    FULL_SCALE,
    color,
    color_by_entropy,
    is_colored,
    write_answer,
    write_legend,
    write_report,
)
from tests.unit.clients.fake import HELLO, chunk, tokens
from tests.unit.clients.test_entropy import parsed

REPORT = EntropyReport(
    law="hapo",
    entropy_mean=1.25,
    entropy_max=2.0,
    num_tokens=3,
    num_clamped=7,
    fallback="no_entropy",
)


def console(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        highlight=False,
        width=120,
        _environ={},
    )


def written(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def rgb(entropy: float) -> tuple[int, int, int]:
    code = color(entropy).removeprefix("#")
    red, green, blue = bytes.fromhex(code)
    return red, green, blue


@given(st.floats(0, 20), st.floats(0, 20))
def test_more_entropy_is_never_colder(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert rgb(low)[0] <= rgb(high)[0]
    assert rgb(low)[2] >= rgb(high)[2]


@given(st.floats(0, FULL_SCALE - 0.1))
def test_a_tenth_of_a_nat_shows(entropy: float) -> None:
    assert color(entropy) != color(entropy + 0.1)


def test_the_scale_ends_where_the_legend_says() -> None:
    assert color(FULL_SCALE) == color(FULL_SCALE * 2) != color(FULL_SCALE * 0.9)


def test_a_chunk_of_several_tokens_shows_their_mean() -> None:
    both = color_by_entropy("ab", [Token(entropy=1.0), Token(entropy=3.0), Token(entropy=None)])
    assert [span.style for span in both.spans] == [color(2.0)]


def test_no_entropy_no_color() -> None:
    assert not color_by_entropy("a", []).spans
    assert not color_by_entropy("a", [Token()]).spans


def test_the_temperature_stands_behind_its_token() -> None:
    token = Token(entropy=1.0, temperature=0.97)
    assert color_by_entropy("word", [token], temperatures=True).plain == "word₀.₉₇"
    assert color_by_entropy("word", [token]).plain == "word"


def test_an_answer_cannot_steer_the_terminal() -> None:
    assert color_by_entropy("a\x1b[2J\x07\x9bb\n\tc", []).plain == "a[2Jb\n\tc"


def test_a_plain_console_gets_the_text_and_nothing_else() -> None:
    out = console(terminal=False)
    write_legend(out)
    write_answer(out, EntropyStream([parsed(event) for event in HELLO]), temperatures=True)
    assert written(out) == "Hello\n"


def test_a_terminal_gets_every_chunk_in_its_color() -> None:
    out = console(terminal=True)
    write_answer(out, EntropyStream([parsed(event) for event in HELLO]))
    for text, entropy in (("Hel", 0.5), ("lo", 1.625)):
        red, green, blue = rgb(entropy)
        assert f"\x1b[38;2;{red};{green};{blue}m{text}\x1b[0m" in written(out)


def test_tokens_without_text_color_the_text_they_become() -> None:
    out = console(terminal=True)
    events = [chunk("", tokens(4.0)), chunk("🙂", tokens(0.0))]
    write_answer(out, EntropyStream([parsed(event) for event in events]))
    red, green, blue = rgb(2.0)
    assert f"{red};{green};{blue}m🙂" in written(out)


def test_no_color_wins_over_the_terminal() -> None:
    out = Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        _environ={"NO_COLOR": "1"},
    )
    assert not is_colored(out)
    write_answer(out, EntropyStream([parsed(event) for event in HELLO]))
    write_report(out, REPORT)
    assert "\x1b" not in written(out)
    write_answer(out, EntropyStream([parsed(chunk("a\x1b]0;pwned\x07b", tokens(1.0)))]))
    assert written(out).endswith("a]0;pwnedb\n")


def test_a_file_gets_every_byte() -> None:
    out = console(terminal=False)
    write_answer(out, EntropyStream([parsed(chunk("a\x1b[1mb", tokens(1.0)))]))
    assert written(out) == "a\x1b[1mb\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_table_and_line_say_the_same(terminal: bool) -> None:
    out = console(terminal=terminal)
    write_report(out, REPORT)
    for expected in ("mean 1.25, max 2.00 nats", "7 clamped", "hapo", "no_entropy", "profile"):
        assert expected in written(out)
    assert written(out).count("\n") == (8 if terminal else 1)


def test_names_from_the_server_are_not_markup() -> None:
    out = console(terminal=True)
    write_report(out, EntropyReport(profile="[red]x", fallback="[/]"))
    assert "[red]x" in written(out)
